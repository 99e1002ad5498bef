"""The operations that rows of a table name: small data, each with its exact inverse, turned into tensor expressions.

`forward` goes from Hugging Face to GGUF, `backward` the other way, `before` says what shape a source has where the
result has `shape`. On a bias (one axis) an operation does what belongs to the rows of its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from modelfmt.archs.terms import Scope, evaluate
from modelfmt.ir.ops import (
    AddConstant,
    Concat,
    Constant,
    Expression,
    Pad,
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
    "Heads",
    "Padded",
    "Part",
    "Permute",
    "Shape",
    "Spec",
    "Squeezed",
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
    """Part `index` of a fused source along an axis. The rows of a source have all of its parts.

    of: how many equal parts, or the sizes of the parts, terms. every: they alternate (of two: the even, the odd ones).
    """

    index: int
    of: int | tuple[str, ...]
    axis: int
    every: bool = False


@dataclass(frozen=True, slots=True)
class Heads:
    """The first axis cut into `count` (a term) heads of equal size: two axes."""

    count: str


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows of zeros appended: from `rows` to `to`, both terms. They are cut off on the way back."""

    rows: str
    to: str


@dataclass(frozen=True, slots=True)
class Squeezed:
    """The first axis, of one entry, left out."""


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


Spec = Permute | Add | Transposed | Stacked | Part | Heads | Padded | Squeezed | Ungrouped | Behind


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
            whole = shape[axis] * of if isinstance(of, int) else sum(evaluate(size, scope or {}, layer) for size in of)
            return (*shape[:axis], whole, *shape[axis + 1 :])
        case Heads():
            return (shape[0] * shape[1], *shape[2:])
        case Padded(rows=rows):
            return (evaluate(rows, scope or {}, layer), *shape[1:])
        case Squeezed():
            return (1, *shape)
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
        case Part():
            return _part(spec, expr, scope, layer)
        case Heads(count=count):
            n_heads = evaluate(count, scope, layer)
            return Reshape(expr, (n_heads, expr.shape[0] // n_heads, *expr.shape[1:]))
        case Padded(to=to):
            return Pad(expr, evaluate(to, scope, layer))
        case Squeezed():
            return Reshape(expr, expr.shape[1:])
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
            return (Transpose(expr) if len(expr.shape) > 1 else expr,)
        case Stacked():
            return tuple(_entry(expr, index) for index in range(expr.shape[0]))
        case Part():
            return (expr,)
        case Heads():
            return (Reshape(expr, (expr.shape[0] * expr.shape[1], *expr.shape[2:])),)
        case Padded(rows=rows):
            return (Slice(expr, 0, 0, evaluate(rows, scope, layer)),)
        case Squeezed():
            return (Reshape(expr, (1, *expr.shape)),)
        case Ungrouped():
            return (_ungrouped(expr, *_groups(spec, scope, layer), inverse=True),)
        case Behind(skip=skip):
            n_rows = evaluate(skip, scope, layer)
            zeros = Constant(bytes(n_rows * row_bytes(expr)), (n_rows, *expr.shape[1:]), expr.stored.name)
            return (Concat((zeros, expr)),)


def joined(parts: tuple[Expression, ...], axis: int, *, every: bool = False) -> Expression:
    """Tensors put together along an axis: the inverse of all parts of a fused source. every: two that alternate."""
    if axis > 0 and axis == len(parts[0].shape) - 1:
        whole = joined(tuple(_column(part) for part in parts), axis, every=every)
        return Reshape(whole, whole.shape[:-1])
    if every:
        whole = joined(parts, axis)
        matrix = Reshape(whole, (prod(whole.shape[: axis + 1]), prod(whole.shape[axis + 1 :])))
        return Reshape(RopePermute(matrix, prod(whole.shape[:axis])), whole.shape)
    if axis == 0:
        return Concat(parts)
    rows = (tuple(_entry(part, index) for part in parts) for index in range(parts[0].shape[0]))
    return Stack(tuple(joined(row, axis - 1) for row in rows))


def _part(spec: Part, expr: Expression, scope: Scope, layer: int) -> Expression:
    if spec.axis == len(expr.shape) - 1:
        part = _part(spec, _column(expr), scope, layer)
        return Reshape(part, part.shape[:-1])
    size = expr.shape[spec.axis]
    if not isinstance(spec.of, int):
        start = sum(evaluate(term, scope, layer) for term in spec.of[: spec.index])
        return Slice(expr, spec.axis, start, start + evaluate(spec.of[spec.index], scope, layer))
    if spec.every:
        return Slice(expr, spec.axis, spec.index, size, spec.of)
    return Slice(expr, spec.axis, spec.index * (size // spec.of), (spec.index + 1) * (size // spec.of))


def _column(expr: Expression) -> Expression:
    """The values of each row under one another."""
    return Reshape(expr, (*expr.shape, 1))


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
