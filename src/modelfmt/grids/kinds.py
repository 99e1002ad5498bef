"""Which types are grids, and grids as expressions: what stays of one without its codes, or in some of its columns."""

from __future__ import annotations

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import (
    Blocks,
    Coded,
    Concat,
    Expression,
    Nearest,
    Regrid,
    Reshape,
    RopePermute,
    Slice,
    Stack,
    Swap,
    Widened,
    with_inputs,
)

__all__ = [
    "BLOCKS",
    "GROUPS",
    "TABLES",
    "blocks_of",
    "direct",
    "implied_zero",
    "records_of",
    "regridded",
    "restricted",
    "source",
    "sources",
    "widened",
]


GROUPS = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"), 32),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q6_K", "NVFP4"), 16),
    "TQ2_0": 256,
    "Q1_0": 128,
    "Q2_0": 64,
}
"""GGUF type -> the columns that share a record in its grid."""

TABLES = {
    "Q4_0": "U4",
    "Q4_1": "U4",
    "Q5_0": "U5",
    "Q5_1": "U5",
    "Q8_0": "U8",
    "Q2_K": "U2",
    "Q3_K": "U3",
    "Q4_K": "U4",
    "Q5_K": "U5",
    "Q6_K": "U6",
    "IQ4_NL": "IQ4",
    "IQ4_XS": "IQ4",
    "TQ2_0": "U2",
    "MXFP4": "E2M1",
    "NVFP4": "E2M1",
    "Q1_0": "U1",
    "Q2_0": "U2",
}

BLOCKS = ("TQ2_0", "Q2_0", "MXFP4", "Q4_0", "NVFP4", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types whose blocks are made from grids, smallest first."""


_WIDER = {"E2M1": ("U5", "U8"), "IQ4": ("U8",)}
"""Table of whole multiples -> integers that hold it around the middle of their range."""


def source(name: str) -> bool:
    """True where blocks of a type can be seen as a grid."""
    return name in GROUPS


def regridded(expr: Expression) -> Expression:
    """An expression of blocks as one of a grid. Raises UnsupportedError (no-grid)."""
    name = expr.stored.name
    if name.startswith("GRID:"):
        return expr
    if name not in GROUPS:
        raise UnsupportedError(
            "the values of this type lie on no grid", code="no-grid", found=name, allowed=", ".join(GROUPS)
        )
    return Regrid(expr, TABLES[name], GROUPS[name])


def widened(expr: Expression) -> list[Expression]:
    """A grid of a table whose values are whole multiples of one number, as grids of integers, the smallest first."""
    own = grid.parse(expr.stored.name)
    whole = grid.whole(own.table)
    if whole is None:
        return []
    found: list[Expression] = []
    for table in _WIDER.get(own.table, ()):
        zero = 1 << grid.INTEGERS[table] - 1
        codes = tuple(code - whole.zero + zero for code in whole.codes)
        found.append(Widened(expr, table, codes, float(zero), 1.0 / whole.steps))
    return found


def blocks_of(expr: Expression, target: str) -> Expression | None:
    """The same rows, made into blocks of a type where they are read, before operations move them: those move blocks as
    well. None where codes are not read from tensors of their own."""
    if isinstance(expr, Coded | Regrid):
        return Blocks(expr, target) if direct(expr) else None
    if isinstance(expr, Reshape | RopePermute | Stack | Concat | Slice | Swap):  # whole rows, and nothing else
        parts = [blocks_of(part, target) for part in expr.inputs]
        return None if None in parts else with_inputs(expr, lambda part: blocks_of(part, target) or part)
    return None


def implied_zero(name: str) -> float | None:
    """The zero that all groups of a type have; None where they have offsets: also Q1_0, whose signs lie half a step
    beside its codes."""
    row, table = ENCODINGS[name], TABLES[name]
    if any(level.role == "offset" for level in row.levels) or (row.element.kind == "table" and table in grid.INTEGERS):
        return None
    element = row.element
    return float(1 << (element.bits - 1)) if element.signed and element.kind == "int" else float(element.zero)


def sources(expr: Expression) -> list[Expression]:
    """The grids whose rows, all of them and nothing else, an expression moves; itself where it is more than a move."""
    whole = isinstance(expr, Reshape | RopePermute | Stack | Concat | Swap)
    return [source for part in expr.inputs for source in sources(part)] if whole else [expr]


def direct(expr: Expression) -> bool:
    """True for codes in tensors of their own, in the order of their groups, and for blocks: what moves in one step."""
    if isinstance(expr, Coded):
        return expr.index is None and not expr.records and expr.packing.lay != "padded"
    if not isinstance(expr, Regrid) or expr.records or expr.whole is not None:
        return False
    elements = expr.input.stored.block_elements
    return not (expr.first % elements or expr.width % elements)


def records_of(expr: Expression) -> Expression:
    """The same rows of a grid without their codes: what scales and zeros there are, for a fraction of the bytes."""
    if isinstance(expr, Coded | Regrid | Nearest):
        return msgspec.structs.replace(expr, records=True)
    return with_inputs(expr, records_of)


def restricted(expr: Expression, first: int, last: int, group: int) -> Expression:
    """Columns first..last of a grid, in groups of `group`, which divides the grid's and both numbers."""
    if isinstance(expr, Coded):
        shape = (*expr.shape[:-1], last - first)
        return msgspec.structs.replace(expr, shape=shape, group=group, first=expr.first + first, whole=expr.n_cols)
    if isinstance(expr, Regrid | Nearest):
        return msgspec.structs.replace(expr, first=expr.first + first, width=last - first, group=group)
    if isinstance(expr, Reshape):
        inner = restricted(expr.input, first, last, group)
        return msgspec.structs.replace(expr, input=inner, shape=(*expr.shape[:-1], last - first))
    return with_inputs(expr, lambda part: restricted(part, first, last, group))
