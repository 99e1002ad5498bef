"""How streams are cut into jobs: how many rows, and what a job of them holds."""

from __future__ import annotations

from math import lcm, prod
from typing import TypeGuard

from modelfmt import grids
from modelfmt.ir import grid
from modelfmt.ir.computed import FACTOR_ELEMENTS
from modelfmt.ir.ops import (
    AddLowRank,
    Coded,
    Encoded,
    Expression,
    Nearest,
    Numbers,
    Packed,
    Regrid,
    RopePermute,
    geometry,
    nodes,
    read_bytes,
    row_bytes,
)

__all__ = ["ELEMENTS", "held", "rows"]

ELEMENTS = 1 << 20
"""Elements of one job, about: float32 rows of 4 MiB, of which each thread holds a few at a time."""

ALONG, ACROSS = (1, 4), (8, 16)
"""So many times more where rows lie as in their file, and where they are columns there, since what is read of each of
its lines should be long: for values, and for codes that move, of which many are few bytes."""

IN_SLABS = 64
"""The same for codes that change between rows and columns and are read, or written, a slab at a time: only the packed
codes of one side are held."""

WHOLE = 256
"""Columns of a grid that make whole words of codes of any width."""

_GROUP_BYTES = 32
"""Of the numbers of a group while its codes move: as stored, as float32, as float64."""


def rows(expr: Expression, moved: Expression | None, elements: int, *, measured: bool) -> int:
    """Rows of a job. moved: what is written, where codes move as they are. measured: their values are looked at."""
    unit, n_cols = _unit(expr), geometry(expr.shape, expr.stored)[1]
    n_rows = max(1, elements * _times(expr, moved, measured=measured) // max(_wide(expr, n_cols), 1))
    return max(unit, n_rows // unit * unit)


def held(expr: Expression, moved: Expression | None, n_rows: int, written: int) -> int:
    """Bytes that a job of n_rows rows holds at once. written: bytes of a row as it is written."""
    n_cols = geometry(expr.shape, expr.stored)[1]
    if moved is not None and (slabs := grids.slab_bytes(moved, n_rows)) is not None:
        n_groups = n_rows * n_cols // grid.parse(expr.stored.name).group
        return read_bytes(expr, n_rows) + n_groups * _GROUP_BYTES + slabs
    if (coded := _into_columns(expr)) is not None:
        return n_rows * written + 2 * max(grids.SLAB, grids.SLAB_ROWS * row_bytes(coded.codes))
    own = n_rows * (2 * row_bytes(expr) + _made_of(expr) + written) + 4 * n_cols * min(n_rows, 16)
    return own + _merged_bytes(expr, n_rows, n_cols)


def _times(expr: Expression, moved: Expression | None, *, measured: bool) -> int:
    """So many times the usual elements."""
    if isinstance(expr, Numbers):
        return 1
    parts = nodes(expr)
    crossed = any(isinstance(node, Coded) and node.packing.crosses for node in parts)
    if _into_columns(expr) is not None or (crossed and moved is not None and grids.slab_bytes(moved, 1) is not None):
        return IN_SLABS
    moves = any(isinstance(node, Coded | Regrid) for node in parts) and not measured
    across = crossed != (isinstance(expr, Packed) and expr.packing.crosses)
    return (ACROSS if across else ALONG)[moves and not any(isinstance(node, Encoded) for node in parts)]


def _into_columns(expr: Expression) -> Coded | None:
    """The rows of codes that go straight into words that lie across (see grids.parts), where an expression is that."""
    if not (isinstance(expr, Packed) and expr.packing.crosses and 32 % expr.packing.bits == 0):
        return None
    rows = expr.input
    return rows if isinstance(rows, Coded) and rows.packing.lay == "rows" and rows.index is None else None


def _through_a_grid(expr: Expression) -> TypeGuard[Packed]:
    """Whether words that lie across are made of all rows of a window of a grid, and of what is moved into it."""
    if not isinstance(expr, Packed) or not expr.packing.crosses or isinstance(expr.input, Nearest):
        return False
    return bool(32 % expr.packing.bits) or not grids.direct(expr.input)


def _wide(expr: Expression, n_cols: int) -> int:
    """Elements that have to be there at once for a row of an expression."""
    if isinstance(expr, Packed):
        return n_cols * 8 * expr.stored.block_bytes // expr.packing.bits
    return max(n_cols, prod(expr.input.shape[-1:])) if _of_rows(expr) else n_cols


def _made_of(expr: Expression) -> int:
    """Bytes of the rows of grids, blocks and values that a row of what is made from them needs at once."""
    if _through_a_grid(expr):
        n_lines, n_rows = (geometry(part.shape, part.stored)[0] for part in (expr, expr.input))
        return 2 * n_rows * row_bytes(expr.input) // max(n_lines, 1)
    if not _of_rows(expr):
        return 24 * expr.shape[-1] if isinstance(expr, Numbers) else 0  # planes
    parts = [row_bytes(node) + (4 * node.shape[-1] if isinstance(node, Encoded) else 0) for node in nodes(expr.input)]
    return sum(parts)


def _of_rows(expr: Expression) -> TypeGuard[Packed | Numbers]:
    """Whether rows of an expression are made of as many rows of a grid."""
    return (isinstance(expr, Packed) and expr.packing.lay == "rows") or (
        isinstance(expr, Numbers) and not expr.turned and expr.along != "rows"
    )


def _merged_bytes(expr: Expression, n_rows: int, n_cols: int) -> int:
    """What an adapter adds: the sum in float32, and as much of its factors as is held at once."""
    while not isinstance(expr, AddLowRank):
        if not expr.inputs:
            return 0
        expr = expr.inputs[0]
    factors = min(expr.b.shape[-1] * (n_cols + n_rows), 2 * FACTOR_ELEMENTS)
    return 4 * (n_rows * n_cols + factors)


def _unit(expr: Expression) -> int:
    """Rows that are best made together: those of one head, where a permutation mixes them, of one word, or of whole
    groups and blocks."""
    if isinstance(expr, RopePermute):
        return expr.head_rows
    if isinstance(expr, Coded):
        return 8 if expr.packing.lay == "columns" else 1
    if isinstance(expr, Nearest):
        return expr.rows
    if isinstance(expr, Packed) and expr.packing.crosses:
        group = grid.parse(expr.input.stored.name).group
        columns = lcm(group, WHOLE) if group < WHOLE else WHOLE
        return columns * expr.packing.bits // 32 if expr.packing.lay == "words" else columns
    return max((_unit(part) for part in expr.inputs[:1]), default=1)
