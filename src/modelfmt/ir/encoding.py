"""How the elements of a tensor are stored: dense types and quantized blocks, one row each.

An encoding lays `block_elements` neighbouring elements of the last axis into `block_bytes` bytes; a dense type is a
block of one element. What a block means is said by `element` (what a code is) and `levels` (the scales and offsets
around it, inner first): value = product(scales) * (code - zero) + sum(offsets). Sources: safetensors 0.8 dtype table;
ggml-common.h block structs; docs/encodings.md. This file holds no arithmetic: kernels are in csrc/.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from modelfmt.errors import ShapeError, UsageError
from modelfmt.ir import grid

__all__ = ["ENCODINGS", "Element", "Encoding", "Level", "encoding"]


class Element(msgspec.Struct, frozen=True):
    """One code. kind int: `bits`, `signed`; float: exponent and mantissa bits; table: indices into a named table of
    values."""

    kind: Literal["int", "float", "bool", "complex", "table", "lattice"]
    bits: int
    signed: bool = False
    exponent: int = 0
    mantissa: int = 0
    zero: int = 0
    table: str = ""


class Level(msgspec.Struct, frozen=True):
    """A factor or an offset shared by `block` neighbouring elements, itself stored as `dtype`."""

    role: Literal["scale", "offset"]
    block: int
    dtype: str


class Encoding(msgspec.Struct, frozen=True):
    """A way of storing elements. numpy: the NumPy or ml_dtypes type name of a dense encoding that has one."""

    name: str
    block_elements: int
    block_bytes: int
    element: Element
    levels: tuple[Level, ...] = ()
    numpy: str = ""

    @property
    def dense(self) -> bool:
        """True where each element stands for itself, without scales."""
        return not self.levels

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element, scales included."""
        return self.block_bytes * 8 / self.block_elements

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of one row of n_cols elements. Raises ShapeError where n_cols is no multiple of the block.

        >>> encoding("Q4_K").row_bytes(512)
        288
        """
        blocks, rest = divmod(n_cols, self.block_elements)
        if rest:
            raise ShapeError(
                f"a row does not divide into blocks of {self.name}",
                code="row-not-blocks",
                found=n_cols,
                allowed=f"a multiple of {self.block_elements}",
            )
        return blocks * self.block_bytes


def _float(
    name: str, bits: int, exponent: int, mantissa: int, numpy: str = "", block: tuple[int, int] | None = None
) -> Encoding:
    elements, size = block or (1, bits // 8)
    return Encoding(name, elements, size, Element("float", bits, True, exponent, mantissa), numpy=numpy)


def _int(name: str, bits: int, signed: bool, numpy: str) -> Encoding:
    return Encoding(name, 1, bits // 8, Element("int", bits, signed), numpy=numpy)


def _packed(name: str, bits: int, signed: bool) -> Encoding:
    """Integers below a byte, the first element in the lowest bits, as ONNX has them."""
    return Encoding(name, 8 // bits, 1, Element("int", bits, signed))


def _blocks(name: str, elements: int, size: int, element: Element, *levels: tuple[str, int, str]) -> Encoding:
    return Encoding(name, elements, size, element, tuple(Level(role, block, dtype) for role, block, dtype in levels))  # type: ignore[arg-type]


def _code(bits: int, zero: int = 0) -> Element:
    return Element("int", bits, zero=zero)


def _lattice(bits: int, table: str) -> Element:
    return Element("lattice", bits, table=table)


_E2M1 = Element("float", 4, True, 2, 1)

_ROWS = (
    _float("F64", 64, 11, 52, "float64"),
    _float("F32", 32, 8, 23, "float32"),
    _float("F16", 16, 5, 10, "float16"),
    _float("BF16", 16, 8, 7, "bfloat16"),
    _float("F8_E4M3", 8, 4, 3, "float8_e4m3fn"),
    _float("F8_E5M2", 8, 5, 2, "float8_e5m2"),
    _float("F8_E4M3FNUZ", 8, 4, 3, "float8_e4m3fnuz"),
    _float("F8_E5M2FNUZ", 8, 5, 2, "float8_e5m2fnuz"),
    _float("F8_E8M0", 8, 8, 0, "float8_e8m0fnu"),
    _float("F6_E2M3", 6, 2, 3, block=(4, 3)),
    _float("F6_E3M2", 6, 3, 2, block=(4, 3)),
    _float("F4", 4, 2, 1, block=(2, 1)),
    _int("I64", 64, True, "int64"),
    _int("I32", 32, True, "int32"),
    _int("I16", 16, True, "int16"),
    _int("I8", 8, True, "int8"),
    _int("U64", 64, False, "uint64"),
    _int("U32", 32, False, "uint32"),
    _int("U16", 16, False, "uint16"),
    _int("U8", 8, False, "uint8"),
    _packed("I4", 4, True),
    _packed("U4", 4, False),
    _packed("I2", 2, True),
    _packed("U2", 2, False),
    Encoding("BOOL", 1, 1, Element("bool", 8), numpy="bool"),
    Encoding("C32", 1, 4, Element("complex", 32, True)),
    Encoding("C64", 1, 8, Element("complex", 64, True), numpy="complex64"),
    Encoding("C128", 1, 16, Element("complex", 128, True), numpy="complex128"),
    _blocks("Q4_0", 32, 18, _code(4, 8), ("scale", 32, "F16")),
    _blocks("Q4_1", 32, 20, _code(4), ("scale", 32, "F16"), ("offset", 32, "F16")),
    _blocks("Q5_0", 32, 22, _code(5, 16), ("scale", 32, "F16")),
    _blocks("Q5_1", 32, 24, _code(5), ("scale", 32, "F16"), ("offset", 32, "F16")),
    _blocks("Q8_0", 32, 34, Element("int", 8, True), ("scale", 32, "F16")),
    _blocks("Q8_1", 32, 36, Element("int", 8, True), ("scale", 32, "F16")),
    _blocks(
        "Q2_K",
        256,
        84,
        _code(2),
        ("scale", 16, "U4"),
        ("scale", 256, "F16"),
        ("offset", 16, "U4"),
        ("offset", 256, "F16"),
    ),
    _blocks("Q3_K", 256, 110, _code(3, 4), ("scale", 16, "I6"), ("scale", 256, "F16")),
    _blocks(
        "Q4_K",
        256,
        144,
        _code(4),
        ("scale", 32, "U6"),
        ("scale", 256, "F16"),
        ("offset", 32, "U6"),
        ("offset", 256, "F16"),
    ),
    _blocks(
        "Q5_K",
        256,
        176,
        _code(5),
        ("scale", 32, "U6"),
        ("scale", 256, "F16"),
        ("offset", 32, "U6"),
        ("offset", 256, "F16"),
    ),
    _blocks("Q6_K", 256, 210, _code(6, 32), ("scale", 16, "I8"), ("scale", 256, "F16")),
    _blocks("Q8_K", 256, 292, Element("int", 8, True), ("scale", 256, "F32")),
    _blocks("IQ2_XXS", 256, 66, _lattice(2, "iq2xxs"), ("scale", 32, "U4"), ("scale", 256, "F16")),
    _blocks("IQ2_XS", 256, 74, _lattice(2, "iq2xs"), ("scale", 16, "U4"), ("scale", 256, "F16")),
    _blocks("IQ2_S", 256, 82, _lattice(2, "iq2s"), ("scale", 16, "U4"), ("scale", 256, "F16")),
    _blocks("IQ3_XXS", 256, 98, _lattice(3, "iq3xxs"), ("scale", 32, "U4"), ("scale", 256, "F16")),
    _blocks("IQ3_S", 256, 110, _lattice(3, "iq3s"), ("scale", 32, "U4"), ("scale", 256, "F16")),
    _blocks("IQ1_S", 256, 50, _lattice(1, "iq1s"), ("scale", 32, "U3"), ("scale", 256, "F16"), ("offset", 32, "U1")),
    _blocks("IQ1_M", 256, 56, _lattice(1, "iq1s"), ("scale", 16, "U3"), ("scale", 256, "F16"), ("offset", 8, "U1")),
    _blocks("IQ4_NL", 32, 18, Element("table", 4, table="iq4nl"), ("scale", 32, "F16")),
    _blocks("IQ4_XS", 256, 136, Element("table", 4, table="iq4nl"), ("scale", 32, "I6"), ("scale", 256, "F16")),
    _blocks("TQ1_0", 256, 54, _code(2, 1), ("scale", 256, "F16")),
    _blocks("TQ2_0", 256, 66, _code(2, 1), ("scale", 256, "F16")),
    _blocks("MXFP4", 32, 17, _E2M1, ("scale", 32, "F8_E8M0")),
    _blocks("NVFP4", 64, 36, _E2M1, ("scale", 16, "UE4M3")),
    _blocks("Q1_0", 128, 18, Element("table", 1, table="sign"), ("scale", 128, "F16")),
    _blocks("Q2_0", 64, 18, _code(2, 1), ("scale", 64, "F16")),
)


class _Encodings(dict[str, Encoding]):
    """The rows above, and grids, which are made from their names."""

    def __missing__(self, name: str) -> Encoding:
        if not name.startswith("GRID:"):
            raise KeyError(name)
        return _of_grid(name)


@cache
def _of_grid(name: str) -> Encoding:
    found = grid.parse(name)
    code = _code(grid.INTEGERS[found.table]) if found.integer else Element("table", 8, table=found.table)
    levels = (Level("scale", found.group, "F64"), Level("offset", found.group, "F64"))
    return Encoding(name, found.n_cols, found.row_bytes, code, levels)


ENCODINGS: dict[str, Encoding] = _Encodings({row.name: row for row in _ROWS})
"""Every encoding by its name: the safetensors name of a dense type, the GGUF name of a block type. Grids
(modelfmt.ir.grid) are found by their names, and not listed."""


def encoding(name: str) -> Encoding:
    """The encoding called `name`. Raises UsageError with the nearest names where there is none.

    >>> encoding("BF16").block_bytes
    2
    """
    upper = str(name).upper()
    found = ENCODINGS.get(upper)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(upper, ENCODINGS, n=3)
        raise UsageError("no such tensor type", code="unknown-type", found=name, allowed=", ".join(near or ENCODINGS))
    return found
