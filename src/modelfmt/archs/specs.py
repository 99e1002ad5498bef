"""The operations that rows of a table name: small data, each with its exact inverse, turned into tensor expressions.

`forward` goes from Hugging Face to GGUF, `backward` the other way, `before` says what shape a source has where the
result has `shape`. On a bias (one axis) an operation does what belongs to the rows of its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfmt.archs.terms import Scope, evaluate
from modelfmt.ir.ops import (
    AddConstant,
    Concat,
    Constant,
    Dequantize,
    Expression,
    Reshape,
    RopePermute,
    Slice,
    Stack,
    Transpose,
    row_bytes,
)

__all__ = [
    "Add",
    "Behind",
    "Part",
    "Permute",
    "Shape",
    "Spec",
    "Stacked",
    "Transposed",
    "Ungrouped",
    "backward",
    "before",
    "forward",
    "joined",
]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Permute:
    """Rows of each head from halves to pairs, for graphs with interleaved rope. heads: a term."""

    heads: str


@dataclass(frozen=True, slots=True)
class Add:
    """A number added to each value, in float32."""

    value: float


@dataclass(frozen=True, slots=True)
class Transposed:
    """The last two axes exchanged (weights stored as [in, out]); its own inverse."""


@dataclass(frozen=True, slots=True)
class Stacked:
    """One tensor per `{e}` of the source template, under a new first axis of `count`; a row's first operation."""

    count: str


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` of `of` equal parts along an axis of a fused source. The rows of a source have all of its parts."""

    index: int
    of: int
    axis: int


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """Rows of a fused qkv from groups (the queries of a group, its key, its value) to all queries, all keys, all
    values.

    groups: how many, a term; queries: heads of queries in each, a term.
    """

    groups: str
    queries: str = "1"


@dataclass(frozen=True, slots=True)
class Behind:
    """Rows from `skip` (a term) on. Those before, which no position uses, are zeros on the way back."""

    skip: str


Spec = Permute | Add | Transposed | Stacked | Part | Ungrouped | Behind


def before(spec: Spec, shape: Shape, scope: Scope | None = None, layer: int = 0) -> Shape:
    """The shape of each source of an operation whose result has `shape`.

    >>> before(Part(0, of=2, axis=1), (8, 32, 64))
    (8, 64, 64)
    """
    match spec:
        case Transposed():
            return (*shape[:-2], *reversed(shape[-2:]))
        case Stacked():
            return shape[1:]
        case Part(of=of, axis=axis):
            return (*shape[:axis], shape[axis] * of, *shape[axis + 1 :])
        case Behind(skip=skip):
            return (shape[0] + evaluate(skip, scope or {}, layer), *shape[1:])
        case _:
            return shape


def forward(spec: Spec, parts: tuple[Expression, ...], scope: Scope, layer: int) -> Expression:
    """An operation over its source: one expression, for `Stacked` one for each expert."""
    expr = parts[0]
    match spec:
        case Permute(heads=heads):
            return _permuted(expr, evaluate(heads, scope, layer), inverse=False)
        case Add(value=value):
            return AddConstant(expr, value)
        case Transposed():
            return Transpose(expr) if len(expr.shape) > 1 else expr
        case Stacked():
            return Stack(parts)
        case Part(index=index, of=of, axis=axis):
            size = expr.shape[axis] // of
            return Slice(expr, axis, index * size, (index + 1) * size)
        case Ungrouped():
            return _ungrouped(expr, *_groups(spec, scope, layer), inverse=False)
        case Behind(skip=skip):
            return Slice(expr, 0, evaluate(skip, scope, layer), expr.shape[0])


def backward(spec: Spec, expr: Expression, scope: Scope, layer: int) -> tuple[Expression, ...]:
    """The sources of an operation from its result. What `Part` cut is put together by `joined`, here it stays."""
    match spec:
        case Permute(heads=heads):
            return (_permuted(expr, evaluate(heads, scope, layer), inverse=True),)
        case Add(value=value):
            return (AddConstant(expr, -value),)
        case Transposed():
            return (Transpose(_dense(expr)) if len(expr.shape) > 1 else expr,)
        case Stacked():
            return tuple(_entry(expr, index) for index in range(expr.shape[0]))
        case Part():
            return (expr,)
        case Ungrouped():
            return (_ungrouped(expr, *_groups(spec, scope, layer), inverse=True),)
        case Behind(skip=skip):
            n_rows = evaluate(skip, scope, layer)
            zeros = Constant(bytes(n_rows * row_bytes(expr)), (n_rows, *expr.shape[1:]), expr.stored.name)
            return (Concat((zeros, expr)),)


def joined(parts: tuple[Expression, ...], axis: int) -> Expression:
    """Tensors put together along an axis: the inverse of all parts of a fused source. Parts of several types become
    float32."""
    if len({part.stored.name for part in parts}) > 1:
        parts = tuple(part if part.stored.name == "F32" else Dequantize(part) for part in parts)
    if axis == 0:
        return Concat(parts)
    rows = (tuple(_entry(part, index) for part in parts) for index in range(parts[0].shape[0]))
    return Stack(tuple(joined(row, axis - 1) for row in rows))


def _dense(expr: Expression) -> Expression:
    return expr if expr.stored.dense else Dequantize(expr)


def _entry(expr: Expression, index: int) -> Expression:
    return Reshape(Slice(expr, 0, index, index + 1), expr.shape[1:])


def _rows(expr: Expression) -> Expression:
    """An expression whose first axis can be moved about: a bias as a column."""
    return expr if len(expr.shape) > 1 else Reshape(expr, (expr.shape[0], 1))


def _permuted(expr: Expression, heads: int, *, inverse: bool) -> Expression:
    permuted = RopePermute(_rows(expr), heads, inverse)
    return permuted if permuted.shape == expr.shape else Reshape(permuted, expr.shape)


def _groups(spec: Ungrouped, scope: Scope, layer: int) -> tuple[int, int]:
    return evaluate(spec.groups, scope, layer), evaluate(spec.queries, scope, layer)


def _ungrouped(expr: Expression, groups: int, queries: int, *, inverse: bool) -> Expression:
    matrix = _rows(expr)
    n_rows, n_columns = matrix.shape
    head = n_rows // (groups * (queries + 2))
    bounds = ((0, queries), (queries, queries + 1), (queries + 1, queries + 2))
    if inverse:
        unit = groups * head
        parts = [Reshape(Slice(matrix, 0, a * unit, b * unit), (groups, b - a, head, n_columns)) for a, b in bounds]
        return Reshape(joined(tuple(parts), 1), expr.shape)
    grouped = Reshape(matrix, (groups, queries + 2, head, n_columns))
    heads = [Reshape(Slice(grouped, 1, a, b), (groups * (b - a) * head, n_columns)) for a, b in bounds]
    return Reshape(Concat(tuple(heads)), expr.shape)
