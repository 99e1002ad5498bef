"""Containers: one file each, bytes <-> Model. The table says what exists; modules are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import msgspec

__all__ = ["FORMATS", "FormatInfo", "module"]


class FormatInfo(msgspec.Struct, frozen=True):
    """A container. suffixes: file names it is known by. magic: the first bytes, where it has any. writes: it can be a
    destination. home: the module, where it is not called like the format. reads: it can be a source."""

    name: str
    suffixes: tuple[str, ...]
    magic: bytes
    writes: bool
    summary: str
    home: str = ""
    reads: bool = True


FORMATS = {
    row.name: row
    for row in (
        FormatInfo("gguf", (".gguf",), b"GGUF", True, "llama.cpp's container, versions 1 to 3, splits"),
        FormatInfo("safetensors", (".safetensors",), b"", True, "Hugging Face's container, single or sharded"),
        FormatInfo(
            "pytorch", (".pt", ".pth", ".bin", ".ckpt", ".th", ".pkl"), b"", True, "PyTorch's pickles, of every form"
        ),
        FormatInfo("onnx", (".onnx",), b"", True, "ONNX, constants inside or beside it"),
        FormatInfo(
            "openvino", (".xml",), b"", True, "OpenVINO's graphs: layers in XML, constants beside it", reads=False
        ),
        FormatInfo(
            "pickle",
            (".joblib", ".pickle", ".sav"),
            b"",
            False,
            "joblib's and other pickles, compressed or not",
            "pytorch",
        ),
        FormatInfo("skops", (".skops",), b"", False, "skops' archive of scikit-learn's objects"),
        FormatInfo("npz", (".npz",), b"", True, "NumPy's archive of arrays, stored or deflated"),
        FormatInfo("npy", (".npy",), b"\x93NUMPY", True, "NumPy's array"),
        FormatInfo("imatrix_dat", (".dat", ".imatrix"), b"", False, "llama.cpp's legacy importance matrix"),
    )
}


def module(name: str) -> ModuleType:
    """The module that reads and writes the format called `name` (a key of FORMATS)."""
    return import_module(f"modelfmt.formats.{FORMATS[name].home or name}")
