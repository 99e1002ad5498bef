"""The real llama.cpp, as an oracle: the ggml functions that the xllamacpp package exports, through ctypes."""

from __future__ import annotations

import ctypes
import faulthandler
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


@cache
def library() -> ctypes.CDLL:
    """The shared library; its symbols are ggml's C functions."""
    spec = find_spec("xllamacpp")  # not imported: only the file is wanted
    assert spec is not None and spec.origin is not None, "xllamacpp is not installed"
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    lib = ctypes.CDLL(str(path))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return lib


def traits(type_id: int) -> Any:
    """struct ggml_type_traits of a type: type_name, blck_size, type_size, to_float."""
    return library().ggml_get_type_traits(type_id).contents


def quantize(type_id: int, x: Floats, weights: Floats | None = None) -> bytes:
    """Blocks of the rows of x [rows, cols], as ggml_quantize_chunk writes them. weights: float32 [cols]."""
    x = np.ascontiguousarray(np.atleast_2d(x), dtype=np.float32)
    rows, cols = x.shape
    row = traits(type_id)
    assert cols % row.blck_size == 0
    out = np.zeros(rows * (cols // row.blck_size) * row.type_size, dtype=np.uint8)
    importance = None
    if weights is not None:
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        assert weights.shape == (cols,)
        importance = weights.ctypes.data
    written = library().ggml_quantize_chunk(type_id, x.ctypes.data, out.ctypes.data, 0, rows, cols, importance)
    assert written == out.nbytes
    return out.tobytes()


def quantize_or_abort(type_id: int, x: Floats, weights: Floats | None = None) -> bytes | None:
    """As quantize, in a child process: None where ggml ends the process, as on sums that overflow in a lattice type."""
    library().ggml_quantize_init(type_id)  # here, not in every child: the lattice types make large tables
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        faulthandler.disable()  # pytest's would print a stack
        os.environ["GGML_NO_BACKTRACE"] = "1"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        blocks = quantize(type_id, x, weights)
        while blocks:
            blocks = blocks[os.write(write, blocks) :]
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        blocks = pipe.read()
    _, status = os.waitpid(child, 0)
    return blocks if status == 0 else None


def quantize_internal(type_id: int, x: Floats) -> bytes:
    """Q8_1 or Q8_K blocks, which ggml multiplies with and ggml_quantize_chunk does not make. What it leaves as it was,
    the sums of an empty Q8_K block, is zero."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    row = traits(type_id)
    out = np.zeros(x.size // row.blck_size * row.type_size, np.uint8)
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    address = row.from_float_ref
    function = signature(address) if address else signature(("quantize_row_q8_K_ref", library()))
    function(x.ctypes.data, out.ctypes.data, x.size)
    return out.tobytes()


def dequantize(type_id: int, blocks: bytes) -> Floats:
    """The values of whole blocks, as ggml's own to_float reads them: float32 [n]."""
    row = traits(type_id)
    n, rest = divmod(len(blocks), row.type_size)
    assert rest == 0
    out = np.empty(n * row.blck_size, dtype=np.float32)
    row.to_float(ctypes.cast(ctypes.c_char_p(blocks), ctypes.c_void_p), out.ctypes.data, out.size)
    return out


def cast_row(function: str, x: npt.NDArray[Any], dtype: type) -> npt.NDArray[Any]:
    """x through one of ggml_{fp32_to_fp16,fp16_to_fp32,fp32_to_bf16,bf16_to_fp32}_row."""
    x = np.ascontiguousarray(x)
    out: npt.NDArray[Any] = np.empty(x.size, dtype=dtype)
    call = getattr(library(), function)
    call.restype = None
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    call(x.ctypes.data, out.ctypes.data, x.size)
    return out
