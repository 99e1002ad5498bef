"""Tensor expressions: a leaf in a file, a constant, or one of a closed set of operations over them.

Expressions are data: they serialise with a plan and hold no file handle. Every tensor is seen as rows (the last axis)
of encoded bytes. An operation says its shape and encoding, and makes any range of its rows from rows of its inputs, so
that a tensor never has to be in memory. Operations that only move whole rows keep the encoding: quantized codes pass
untouched. A `Reader` (modelfmt.tiles) supplies the bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from modelfmt.ir import coded, computed, moves, op, to_grid
from modelfmt.ir.coded import (
    Blocks,
    Coded,
    Fields,
    Nested,
    Numbers,
    Packed,
    Param,
    Regrid,
    Uniform,
    Widened,
)
from modelfmt.ir.computed import (
    AddConstant,
    AddLowRank,
    Affine,
    Cast,
    Dequantize,
    Encoded,
    Finite,
    Integers,
    NegativeExp,
    NegativeLog,
    Scale,
)
from modelfmt.ir.moves import (
    Concat,
    FlipBits,
    GroupOrder,
    Pad,
    Reinterpret,
    Reshape,
    RopePermute,
    Slice,
    Stack,
    Strided,
    Swap,
    Tiled,
    Transpose,
)
from modelfmt.ir.op import Constant, Leaf, Reader, geometry, row_bytes
from modelfmt.ir.to_grid import Nearest, NestedCodes, nearest

__all__ = [
    "GRIDDED",
    "ROUNDED",
    "AddConstant",
    "AddLowRank",
    "Affine",
    "Blocks",
    "Cast",
    "Coded",
    "Concat",
    "Constant",
    "Dequantize",
    "Encoded",
    "Expression",
    "Fields",
    "Finite",
    "FlipBits",
    "GroupOrder",
    "Integers",
    "Leaf",
    "Nearest",
    "NegativeExp",
    "NegativeLog",
    "Nested",
    "NestedCodes",
    "Numbers",
    "Packed",
    "Pad",
    "Param",
    "Reader",
    "Regrid",
    "Reinterpret",
    "Reshape",
    "RopePermute",
    "Scale",
    "Slice",
    "Stack",
    "Strided",
    "Swap",
    "Tiled",
    "Transpose",
    "Uniform",
    "Widened",
    "geometry",
    "nearest",
    "nodes",
    "read_bytes",
    "row_bytes",
    "source_label",
    "stored_bytes",
    "with_inputs",
]

Expression = (
    Leaf
    | Constant
    | Reshape
    | RopePermute
    | Stack
    | Concat
    | Slice
    | Swap
    | Transpose
    | AddConstant
    | Scale
    | NegativeExp
    | NegativeLog
    | Dequantize
    | Cast
    | Encoded
    | Finite
    | Integers
    | AddLowRank
    | Pad
    | GroupOrder
    | Strided
    | Tiled
    | FlipBits
    | Affine
    | Coded
    | Regrid
    | Nearest
    | Uniform
    | NestedCodes
    | Packed
    | Numbers
    | Nested
    | Blocks
    | Fields
    | Widened
    | Reinterpret
)

for _module in (op, moves, computed, coded, to_grid):
    vars(_module)["Expression"] = Expression  # msgspec resolves the annotations of fields where their class stands

GRIDDED = (Coded, Regrid, Nearest, Uniform, Packed, Numbers, Blocks)
"""Operations that kernels do: the reader makes their rows itself (modelfmt.grids)."""

ROUNDED = (AddConstant, Scale, NegativeExp, NegativeLog)
"""Operations after whose inverse the last bits of a value may be others."""


def with_inputs(expr: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """The same operation over other inputs: `change` of each. Sources of grids and leaves stay as they are."""
    if isinstance(expr, Stack | Concat | Tiled):
        return msgspec.structs.replace(expr, parts=tuple(map(change, expr.parts)))
    if isinstance(expr, Leaf | Constant | Coded | Regrid | Nearest | Blocks):
        return expr
    return msgspec.structs.replace(expr, input=change(expr.input))


def nodes(expr: Expression) -> list[Expression]:
    """An expression and all that it is made from."""
    return [expr, *(node for part in expr.inputs for node in nodes(part))]


def source_label(expr: Expression) -> str:
    """What a tensor is made from, for people: the scheme of a quantized checkpoint, else the encoding."""
    return next((node.label for node in nodes(expr) if isinstance(node, Coded)), "") or expr.stored.name


def stored_bytes(expr: Expression) -> int:
    """Bytes in files that an expression is made from; of a grid's records without its codes."""
    if isinstance(expr, Leaf | Constant):
        return geometry(expr.shape, expr.stored)[0] * row_bytes(expr)
    inputs = expr.inputs[1:] if isinstance(expr, Coded) and expr.records else expr.inputs
    return sum(stored_bytes(part) for part in inputs)


def read_bytes(expr: Expression, n_rows: int) -> int:
    """Bytes that n_rows rows of an expression take from files, about."""
    if not any(isinstance(node, GRIDDED) for node in nodes(expr)):
        return n_rows * row_bytes(expr)
    return stored_bytes(expr) * n_rows // max(geometry(expr.shape, expr.stored)[0], 1)
