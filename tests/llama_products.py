"""The matrix products that llama.cpp computes, seen through llama_context_params.cb_eval.

Which products count, and how experts are told apart, is as in tools/imatrix/imatrix.cpp of llama.cpp (collect_imatrix).
The layout of `struct ggml_tensor` is that of ggml.h; its size and its place for the name are checked against ggml's own
functions, so that another layout fails loudly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import llama_vocab

_F32, _I32 = 0, 26  # enum ggml_type
_OBJECT_BYTES = 32  # struct ggml_object, which ggml_tensor_overhead counts too
_FEWEST_ROWS = 16  # llama-imatrix: products of shorter batches are left out


class _Tensor(ctypes.Structure):
    """struct ggml_tensor."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
)
_Pointer = ctypes.POINTER(_Tensor)


class Product(NamedTuple):
    """One product.

    weight: its tensor. n_matrices: of the weight (experts). rows: float32 [n, columns], the activations. matrix: int64
    [n], the matrix that each row met.
    """

    weight: str
    n_matrices: int
    rows: NDArray[np.float32]
    matrix: NDArray[np.int64]


class Observer:
    """Calls seen(product) for every product of a layer's weight with 16 rows or more.

    callback: for cb_eval. error: what seen raised; llama_decode has stopped then.
    """

    def __init__(self, seen: Callable[[Product], None]) -> None:
        self.error: Exception | None = None
        self._seen = seen
        self.callback = ctypes.CFUNCTYPE(ctypes.c_bool, _Pointer, ctypes.c_bool, ctypes.c_void_p)(self._call)

    def _call(self, pointer: Any, ask: bool, _data: Any) -> bool:
        """ask: whether the values are wanted; else they are there, and False stops the computation."""
        try:
            operation = _library().ggml_op_desc(pointer)
            if ask:
                return operation in _PRODUCTS and _wanted(pointer.contents, operation)
            self._seen(_PRODUCTS[operation](pointer.contents))
            return True
        except Exception as error:  # ctypes would print it and go on
            self.error = error
            return False


def _wanted(product: Any, operation: bytes) -> bool:
    weight, rows = product.src[0], product.src[1].contents
    assert _library().ggml_get_name(weight) == weight.contents.name, "ggml_tensor has another layout in this wheel"
    named = _name(weight.contents).startswith("blk.")
    return named and rows.type == _F32 and (operation == b"MUL_MAT_ID" or rows.ne[1] >= _FEWEST_ROWS)


def _dense(product: Any) -> Product:
    """Weights [i3, i2] meet activations [i3, i2], repeated where the weights are fewer."""
    weight, rows = product.src[0].contents, _values(product.src[1], np.float32)
    n3, n2 = weight.ne[3], weight.ne[2]
    i3, i2, _ = np.indices(rows.shape[:3])
    matrix = (i3 % n3) * n2 + i2 % n2
    return Product(_name(weight), n3 * n2, rows.reshape(-1, rows.shape[-1]), matrix.reshape(-1))


def _experts(product: Any) -> Product:
    """ids [token, use] -> matrix; the activations of a token are one row, or one for each use."""
    weight, rows, ids = product.src[0].contents, product.src[1], product.src[2]
    x = _values(rows, np.float32)[0]
    matrix = _values(ids, np.int32)[0, 0].astype(np.int64)
    x = np.broadcast_to(x, (x.shape[0], matrix.shape[1], x.shape[2])) if x.shape[1] == 1 else x
    assert x.shape[:2] == matrix.shape and matrix.min() >= 0 and matrix.max() < weight.ne[2]
    return Product(_name(weight), weight.ne[2], x.reshape(-1, x.shape[-1]), matrix.reshape(-1))


_PRODUCTS: dict[bytes, Callable[[Any], Product]] = {b"MUL_MAT": _dense, b"MUL_MAT_ID": _experts}


def _values(pointer: Any, dtype: Any) -> NDArray[Any]:
    """The elements of a tensor in host memory, as a view, axes row-major."""
    tensor = pointer.contents
    assert tensor.type == {np.float32: _F32, np.int32: _I32}[dtype]
    assert _library().ggml_backend_buffer_is_host(tensor.buffer)
    memory = (ctypes.c_char * _library().ggml_nbytes(pointer)).from_address(tensor.data)
    return np.ndarray(tuple(tensor.ne)[::-1], dtype, memory, strides=tuple(tensor.nb)[::-1])


def _name(tensor: Any) -> str:
    """Without the device and the copy that the scheduler adds: CPU#blk.0.attn_k.weight#0."""
    parts = tensor.name.decode().split("#")
    return str(parts[1] if len(parts) > 1 else parts[0])


@cache
def _library() -> Any:
    library = llama_vocab._library()
    for name, result, argument in (
        ("ggml_op_desc", ctypes.c_char_p, _Pointer),
        ("ggml_get_name", ctypes.c_char_p, _Pointer),
        ("ggml_nbytes", ctypes.c_size_t, _Pointer),
        ("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, [argument]
    library.ggml_tensor_overhead.restype = ctypes.c_size_t
    library.ggml_tensor_overhead.argtypes = []
    size = library.ggml_tensor_overhead() - _OBJECT_BYTES
    assert size == ctypes.sizeof(_Tensor), "ggml_tensor has another layout in this wheel"
    return library
