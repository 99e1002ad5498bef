"""What callers hand in as arrays, as NumPy arrays over the same memory: NumPy, ml_dtypes, buffers, lists, and whatever
has DLPack (torch, JAX, MLX), none of which is imported.

NumPy's own `from_dlpack` knows no bfloat16 and no 8-bit floats. Those are relabelled in the capsule as unsigned
integers of the same width, and viewed as what they were. Source: dlpack.h 1.1, DLDataTypeCode.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from modelfmt.errors import ArrayError, ShapeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["as_bytes", "as_floats", "as_numbers", "as_target"]

_KERNEL_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_DLPACK_UINT = 1
_DLPACK_FLOATS = {
    4: "bfloat16",
    7: "float8_e3m4",
    8: "float8_e4m3",
    9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn",
    11: "float8_e4m3fnuz",
    12: "float8_e5m2",
    13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
}
_TO_PLAIN = (
    "detach",
    "resolve_neg",
)  # torch: a tensor that records gradients, or is to be negated, exports none or wrong


class _DLTensor(ctypes.Structure):
    """The head of struct DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Relabelled:
    """One capsule, exported with its elements as unsigned integers where `name` says what they are."""

    def __init__(self, x: Any) -> None:
        self.device = x.__dlpack_device__()
        self.capsule = x.__dlpack__()
        tensor = _DLTensor.from_address(_pointer_of(self.capsule, b"dltensor"))
        self.name = _DLPACK_FLOATS.get(tensor.code)
        if self.name:
            tensor.code = _DLPACK_UINT

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> Any:
        return self.device


def _array(x: Any) -> NDArray[Any]:
    """x as a NumPy array, without a copy where there is a way. Raises ArrayError."""
    import numpy as np

    if isinstance(x, np.ndarray):
        return x
    try:
        for name in _TO_PLAIN:
            x = getattr(x, name, lambda x=x: x)()
        if hasattr(x, "__dlpack__"):
            try:
                exported = _Relabelled(x)
                array = np.from_dlpack(exported)
            except (BufferError, RuntimeError, TypeError, ValueError):
                return np.asarray(x)  # on another device or of another kind: it may still convert itself
            if exported.name is None:
                return array
            import ml_dtypes

            return array.view(getattr(ml_dtypes, exported.name))
        return np.asarray(x)
    except Exception as error:  # whatever the array's own library raises
        raise ArrayError("this object cannot be seen as an array", code="array-kind", found=str(error)) from None


def as_numbers(x: Any) -> tuple[NDArray[Any], str]:
    """x as a contiguous array that the kernels read, and its type's name: F64, F32, F16 and BF16 as they are, other
    numbers as F32. Raises ArrayError."""
    import numpy as np

    array = _array(x)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    name = array.dtype.name
    if name not in _KERNEL_TYPES:
        if array.dtype.kind not in "fiu" and not name.startswith(("float", "int", "uint")):  # ml_dtypes has kind V
            raise ArrayError(
                "these elements are no numbers",
                code="array-dtype",
                found=name,
                allowed="float32, float16, bfloat16 or what converts to float32",
            )
        array, name = array.astype(np.float32), "float32"
    return np.ascontiguousarray(array), _KERNEL_TYPES[name]


def as_floats(x: Any) -> NDArray[np.float32]:
    """x as contiguous float32; what is beyond becomes infinite. Raises ArrayError."""
    import numpy as np

    with np.errstate(over="ignore"):
        return as_numbers(x)[0].astype(np.float32, copy=False)


def as_bytes(x: Any) -> NDArray[np.uint8]:
    """An array, or any buffer, as its bytes: uint8, the last axis widened. Raises ArrayError."""
    import numpy as np

    if hasattr(x, "dtype"):
        array = np.ascontiguousarray(_array(x))
        return array.view(np.uint8) if array.ndim else array.reshape(1).view(np.uint8)
    try:
        return np.frombuffer(x, np.uint8)
    except (BufferError, TypeError, ValueError) as error:
        raise ArrayError("this object is no buffer", code="array-kind", found=str(error)) from None


def as_target(out: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The array that a result of this shape goes into: out itself, the memory of what has DLPack, a buffer of as many
    bytes, or a new one where out is None. Raises ShapeError."""
    import numpy as np

    if out is None:
        return np.empty(shape, dtype)
    array = out if isinstance(out, np.ndarray) else _memory_of(out, shape, dtype)
    if array is None or array.shape != shape or array.dtype != dtype or not _is_plain(array):
        raise ShapeError(
            "out does not fit the result",
            code="out",
            found=type(out).__name__ if array is None else _described(array),
            allowed=(shape, np.dtype(dtype).name, "contiguous", "writeable"),
        )
    return array


def _is_plain(array: NDArray[Any]) -> bool:
    return array.flags.c_contiguous and array.flags.writeable


def _described(array: NDArray[Any]) -> tuple[object, ...]:
    layout = "contiguous" if array.flags.c_contiguous else "strided"
    return array.shape, str(array.dtype), layout, "writeable" if array.flags.writeable else "read-only"


def _memory_of(out: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any] | None:
    import numpy as np

    try:
        if hasattr(out, "__dlpack__"):
            return np.from_dlpack(out)  # never a copy
        return np.frombuffer(out, dtype).reshape(shape)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None
