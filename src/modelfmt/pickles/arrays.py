"""NumPy arrays, dtypes and scalars as they stand in pickles, joblib's included.

Source: NumPy's multiarray/methods.c (array_reduce, array_setstate), descriptor.c (arraydescr_reduce,
arraydescr_setstate), numeric.py (_frombuffer, for protocol 5); joblib/numpy_pickle.py. What is found is a place, an
element type, a shape and an order; `array` makes an expression of it where the type has an encoding.
"""

from __future__ import annotations

from typing import Any

import msgspec

from modelfmt.arrays.dtypes import CLASSES, Dtype, Element, Field, Struct, field_bytes, named
from modelfmt.arrays.values import check_shape, dense
from modelfmt.errors import CorruptFile
from modelfmt.ir.ops import Expression
from modelfmt.pickles.tree import content, integers, pairs, text
from modelfmt.pickles.values import Blob, Call, Global
from modelfmt.storage.region import Region

__all__ = ["ARRAY_CALLS", "ARRAY_NAMES", "JOBLIB_WRAPPERS", "SCALARS", "Located", "array", "dtype", "located"]

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_PACKAGES = ("joblib", "sklearn.externals.joblib")
JOBLIB_WRAPPERS = frozenset(f"{package}.numpy_pickle.NumpyArrayWrapper" for package in _PACKAGES)
"""Objects behind which joblib puts the bytes of an array."""
ARRAY_CALLS = frozenset(_RECONSTRUCT + _FROM_BUFFER) | JOBLIB_WRAPPERS
"""The functions that make an array."""
SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
"""The functions that make a number of a NumPy type."""

ARRAY_NAMES = ARRAY_CALLS | SCALARS | frozenset(CLASSES) | {"numpy.dtype", "numpy.ndarray"}
"""Every name that has a meaning here."""
_MAX_NESTED = 8


class Located(msgspec.Struct, frozen=True):
    """An array. data: where its elements lie, exactly as many bytes as shape and type ask for; for objects, the list of
    them, or the value that another pickle has in their place."""

    element: Element
    shape: tuple[int, ...]
    fortran: bool
    data: Any


def dtype(value: Any, depth: int = 0) -> Element | None:
    """The element type that a `numpy.dtype(..)` call describes; None for what is none."""
    if not isinstance(value, Call) or value.name != "numpy.dtype" or not isinstance(value.args, tuple):
        return None
    kind = value.args[0] if value.args else None
    if isinstance(kind, Global):
        return Dtype(CLASSES[str(kind)]) if str(kind) in CLASSES else None
    state = value.states[-1] if value.states and isinstance(value.states[-1], tuple) else ()
    order = (text(state[1]) or "") if len(state) > 1 else ""
    if len(state) > 5 and isinstance(state[3], tuple):
        return _structure(state[3], state[4], state[5], depth)
    if len(state) > 2 and isinstance(state[2], tuple):
        return None  # an array as a type: only fields have it
    return named(text(kind) or "", order)


def _structure(names: tuple[Any, ...], fields: Any, size: Any, depth: int) -> Element | None:
    """A structure's state: names in order, {name: (dtype, offset[, title])}, bytes."""
    found = pairs(fields)
    if found is None or depth > _MAX_NESTED or type(size) is not int or not 0 < size < 1 << 20 or len(names) > 1024:
        return None
    rows = {text(key): row for key, row in zip(found[::2], found[1::2], strict=True)}
    made = []
    for name in map(text, names):
        row = rows.get(name)
        if name is None or not isinstance(row, tuple) or len(row) < 2 or type(row[1]) is not int:
            return None
        element: Element | None = dtype(row[0], depth + 1)
        shape: tuple[int, ...] = ()
        if isinstance(row[0], Call) and element is None and row[0].states:
            element, shape = _inner_array(row[0].states[-1], depth + 1)
        length = field_bytes(element, shape)
        if element is None or length is None or not 0 <= row[1] <= size - length:
            return None
        made.append(Field(name, row[1], element, shape))
    return Struct(tuple(made), size)


def _inner_array(state: Any, depth: int) -> tuple[Element | None, tuple[int, ...]]:
    """Element and shape of a field that is an array: state[2] of its dtype."""
    inner = state[2] if isinstance(state, tuple) and len(state) > 2 else None
    if not isinstance(inner, tuple) or len(inner) != 2:
        return None, ()
    shape = (inner[1],) if type(inner[1]) is int else integers(inner[1])
    return (dtype(inner[0], depth), shape) if shape is not None else (None, ())


def located(call: Call, region: Region) -> Located | None:
    """The array that a call of ARRAY_CALLS makes; None where it is not described as NumPy and joblib do.

    region: what the pickle was read from. Raises CorruptFile where shape and data do not fit.
    """
    row = _described(call)
    if row is None:
        return None
    data, kind, shape, fortran = row
    element = dtype(kind)
    if element is None:
        return None
    place = f"byte {call.offset}"
    sizes: Any = integers(shape) if shape is not None else None
    if element.size is None:
        return Located(element, check_shape(sizes, None, region, place), fortran, data)
    bytes_at = content(data, region)
    if bytes_at is None:
        return None
    return Located(element, check_shape(sizes, element.size, bytes_at, place), fortran, bytes_at)


def _described(call: Call) -> tuple[Any, Any, Any, bool] | None:
    """Data, dtype, shape, and whether the order is Fortran's."""
    if call.name in _FROM_BUFFER:
        if not isinstance(call.args, tuple) or len(call.args) != 4:
            return None
        data, kind, shape, order = call.args
        return data, kind, shape, order == "F"
    if call.name in JOBLIB_WRAPPERS:
        found = pairs(call.states[0]) if len(call.states) == 2 else None
        if found is None:
            return None
        state = {text(key): value for key, value in zip(found[::2], found[1::2], strict=True)}
        return call.states[1], state.get("dtype"), state.get("shape"), state.get("order") == "F"
    if call.states and isinstance(call.states[-1], tuple) and len(call.states[-1]) == 5:
        _, shape, kind, fortran, data = call.states[-1]
        return data, kind, shape, fortran is True
    return None


def array(call: Call, region: Region) -> Expression | None:
    """The array that a call of ARRAY_CALLS makes, as an expression; None where its elements have no encoding.

    Raises CorruptFile where shape and data do not fit.
    """
    found = located(call, region)
    if found is None or not isinstance(found.element, Dtype):
        return None
    return dense(found.data, found.element, found.shape, fortran=found.fortran)


def raw(value: Any, region: Region, size: int) -> bytes:
    """The bytes of one element. Raises CorruptFile where there are more or less."""
    place = value.region if isinstance(value, Blob) else content(value, region)
    if place is None or place.size != size:
        raise CorruptFile(
            "a number of another size than its type says",
            code="scalar-size",
            path=region.path,
            found=None if place is None else f"{place.size} bytes",
            allowed=f"{size} bytes",
        )
    return place.read(0, size)
