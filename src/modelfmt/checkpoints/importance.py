"""Opens an importance matrix, in llama.cpp's GGUF form or its legacy .dat form."""

from __future__ import annotations

from modelfmt.errors import UnsupportedError
from modelfmt.formats import gguf, imatrix_dat
from modelfmt.quant.imatrix import Importance, from_dat, from_gguf
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

__all__ = ["read"]


def read(path: str, files: Files) -> Importance:
    """The importance matrix in a file. Raises SourceMissing, CorruptFile, UnsupportedError."""
    head = files.read(path, 0, min(files.size(path), 64))
    if gguf.sniff(head):
        model = gguf.read(path, files, Evaluator(files))
        if model.metadata.get("general.type") != "imatrix":
            raise UnsupportedError(
                "this GGUF is no importance matrix",
                code="not-imatrix",
                path=path,
                found=model.metadata.get("general.type"),
                allowed="imatrix",
            )
        return from_gguf(model.metadata, {name: tensor.numpy() for name, tensor in model.tensors.items()}, path)
    dat = imatrix_dat.read_dat(files.read(path, 0, files.size(path)), path)
    return from_dat(dat.entries, dat.chunk_count, dat.dataset, path)
