"""Grids: the form between one quantized layout and another, as encodings with parameters in their names.

A row of a grid is a record of three float64 (scale, offset, zero) for each group of columns, then one byte for each
code: value = scale * (code - zero) + offset, or with table[code] in place of the code. csrc/grid.h is the same in C. A
grid is called GRID:TABLE:GROUP:COLUMNS; one of records alone GRID:-:GROUP:COLUMNS.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import msgspec

from modelfmt.errors import UsageError

__all__ = ["INTEGERS", "RECORD", "TABLES", "Grid", "Packing", "Whole", "grid_name", "parse", "values", "whole"]

RECORD = 24
"""Bytes of a record."""

INTEGERS = {f"U{bits}": bits for bits in range(1, 9)}

_THIRDS = (0.3333333432674408, 0.5, 0.1666666716337204, 0.25)

TABLES: dict[str, tuple[float, ...]] = {
    "E2M1": tuple(sign * size for sign in (1.0, -1.0) for size in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)),
    "NF4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "FP4": tuple(
        sign * size
        for sign in (1.0, -1.0)
        for size in (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, *_THIRDS)
    ),
    "IQ4": tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))),
}  # fmt: skip
"""What codes stand for where they are no integers: four-bit floats, bitsandbytes' two tables, ggml's non-linear one.
E4M3 and E5M2, of 256 entries, are the floats of these names."""

FLOATS = {"E4M3": (4, 3), "E5M2": (5, 2)}

_STEPS = {"IQ4": 1, "E2M1": 2}
"""Tables of whole numbers, and of halves."""

_NAME = re.compile(r"GRID:(-|[A-Z][A-Z0-9]{1,3}):([1-9][0-9]{0,9}):([1-9][0-9]{0,9})")


class Packing(msgspec.Struct, frozen=True):
    """How codes lie in a tensor of words.

    lay: rows, along the row; padded, as many as are whole in each word; words, 32-bit words of a row one below the
    other (GPTQ); columns, codes of neighbouring rows in one word (AWQ). order of nibbles: low first, high first, or
    AWQ's. flip: bits exchanged in each code, the sign bit for two's complement.
    """

    bits: int
    lay: Literal["rows", "padded", "words", "columns"] = "rows"
    order: Literal["low", "high", "awq"] = "low"
    flip: int = 0

    @property
    def crosses(self) -> bool:
        """Whether the codes of a row lie in different lines."""
        return self.lay in ("words", "columns")


class Grid(msgspec.Struct, frozen=True):
    """A grid's table ("U4", "E2M1", "-" ..), group and columns."""

    table: str
    group: int
    n_cols: int

    @property
    def limit(self) -> int:
        """The largest code."""
        return (1 << INTEGERS[self.table]) - 1 if self.table in INTEGERS else len(values(self.table) or ()) - 1

    @property
    def integer(self) -> bool:
        return self.table in INTEGERS

    @property
    def head_bytes(self) -> int:
        """Bytes of the records of a row, with which it begins."""
        return self.n_cols // self.group * RECORD

    @property
    def row_bytes(self) -> int:
        return self.head_bytes + (0 if self.table == "-" else self.n_cols)


def grid_name(table: str, group: int, n_cols: int) -> str:
    """The name of a grid.

    >>> grid_name("U4", 32, 64)
    'GRID:U4:32:64'
    """
    return f"GRID:{table}:{group}:{n_cols}"


@cache
def parse(name: str) -> Grid:
    """The grid of a name. Raises UsageError where it is none.

    >>> parse("GRID:U4:32:64").row_bytes
    112
    """
    found = _NAME.fullmatch(name)
    table, group, n_cols = (found[1], int(found[2]), int(found[3])) if found else ("", 1, 1)
    if n_cols % group or not (table == "-" or table in INTEGERS or table in TABLES or table in FLOATS):
        raise UsageError("no such grid", code="unknown-type", found=name, allowed="GRID:TABLE:GROUP:COLUMNS")
    return Grid(table, group, n_cols)


class Whole(msgspec.Struct, frozen=True):
    """A table as integers: each entry is (codes[entry] - zero) / steps. table: what the codes lie on."""

    codes: tuple[int, ...]
    zero: int
    steps: int
    table: str


@cache
def whole(table: str) -> Whole | None:
    """A table whose entries are multiples of one number; None of others, and of integers.

    >>> whole("E2M1").codes
    (12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)
    """
    if table not in _STEPS:
        return None
    entries = [int(entry * _STEPS[table]) for entry in TABLES[table]]
    zero = -min(entries)
    bits = (max(entries) + zero).bit_length()
    return Whole(tuple(entry + zero for entry in entries), zero, _STEPS[table], f"U{bits}")


@cache
def values(table: str) -> tuple[float, ...] | None:
    """What each code of a table stands for; None for integers.

    >>> values("E4M3")[0x7e]
    448.0
    """
    if table in FLOATS:
        return tuple(_small_float(code, *FLOATS[table]) for code in range(256))
    return TABLES.get(table)


def _small_float(code: int, exponent_bits: int, mantissa_bits: int) -> float:
    """An 8-bit float. E4M3 has no infinity, and NaN at the end alone; E5M2 is as IEEE 754 has it."""
    bias, mantissa = (1 << (exponent_bits - 1)) - 1, code & ((1 << mantissa_bits) - 1)
    exponent, sign = code >> mantissa_bits & ((1 << exponent_bits) - 1), -1.0 if code & 128 else 1.0
    if exponent_bits == 4 and code & 127 == 127:
        return float("nan")
    if exponent_bits == 5 and exponent == 31:
        return float("nan") if mantissa else sign * float("inf")
    if exponent == 0:
        return sign * float(mantissa) * 2.0 ** (1 - bias - mantissa_bits)
    return sign * float(mantissa + (1 << mantissa_bits)) * 2.0 ** (exponent - bias - mantissa_bits)
