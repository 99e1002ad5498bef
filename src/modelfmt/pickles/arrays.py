"""NumPy arrays and dtypes as they stand in pickles.

Source: NumPy's multiarray/methods.c (array_reduce, array_setstate), descriptor.c (arraydescr_reduce), numeric.py
(_frombuffer, for protocol 5). Arrays of objects, structures, text and dates have no encoding and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from modelfmt.errors import CorruptFile
from modelfmt.ir.ops import Expression, Leaf, Strided
from modelfmt.pickles.tree import content, integers, text
from modelfmt.pickles.values import Call, Global
from modelfmt.storage.region import Region

__all__ = ["ARRAY_CALLS", "ARRAY_NAMES", "Dtype", "array", "dtype"]

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
ARRAY_CALLS = frozenset(_RECONSTRUCT + _FROM_BUFFER)
"""The functions that make an array."""
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

# fmt: off
_ENCODINGS = {
    "b1": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64",
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}
_CLASSES = {
    "ml_dtypes.bfloat16": "BF16", "ml_dtypes.float8_e4m3fn": "F8_E4M3", "ml_dtypes.float8_e5m2": "F8_E5M2",
    "ml_dtypes.float8_e4m3fnuz": "F8_E4M3FNUZ", "ml_dtypes.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "ml_dtypes.float8_e8m0fnu": "F8_E8M0",
}
# fmt: on

ARRAY_NAMES = ARRAY_CALLS | frozenset(_SCALAR) | frozenset(_CLASSES) | {"numpy.dtype", "numpy.ndarray"}
"""Every name that has a meaning here."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type: its encoding, and whether it is big-endian."""

    encoding: str
    big: bool = False


def dtype(value: Any) -> Dtype | None:
    """The element type that a `numpy.dtype(..)` call describes; None for types without an encoding."""
    if not isinstance(value, Call) or value.name != "numpy.dtype" or not isinstance(value.args, tuple):
        return None
    kind = value.args[0] if value.args else None
    order = "<"
    for state in value.states[-1:]:
        if isinstance(state, tuple) and len(state) > 1:
            order = text(state[1]) or "<"
    if isinstance(kind, Global):
        return Dtype(_CLASSES[str(kind)]) if str(kind) in _CLASSES else None
    name = text(kind) or ""
    if name[:1] in "<>|=":
        order, name = name[:1] or order, name[1:]
    return Dtype(_ENCODINGS[name], order == ">") if name in _ENCODINGS else None


def array(call: Call, region: Region) -> Expression | None:
    """The array that a call of ARRAY_CALLS makes; None where its elements have no encoding.

    region: what the pickle was read from. Raises CorruptFile where shape and data do not fit.
    """
    if call.name in _FROM_BUFFER and isinstance(call.args, tuple) and len(call.args) == 4:
        data, kind, shape, order = call.args
        fortran = order == "F"
    elif call.states and isinstance(call.states[-1], tuple) and len(call.states[-1]) == 5:
        _, shape, kind, fortran, data = call.states[-1]
    else:
        return None
    element, sizes, place = dtype(kind), integers(shape), content(data, region)
    if element is None or place is None:
        return None
    if sizes is None or min(sizes, default=0) < 0:
        raise _misfit("an array without a proper shape", "array-shape", call, region, shape)
    leaf = Leaf(place.path, place.start, sizes, element.encoding, element.big)
    if prod(sizes) * leaf.stored.block_bytes != place.size:
        raise _misfit("an array's data does not fit its shape", "array-size", call, region, f"{place.size} bytes")
    if fortran is not True or sum(n > 1 for n in sizes) < 2:
        return leaf
    strides = tuple(prod(sizes[:axis]) for axis in range(len(sizes)))
    return Strided(Leaf(leaf.file, leaf.offset, (prod(sizes), 1), leaf.encoding, leaf.big), 0, sizes, strides)


def _misfit(message: str, code: str, call: Call, region: Region, found: object) -> CorruptFile:
    return CorruptFile(message, code=code, path=region.path, place=f"byte {call.offset}", found=found)
