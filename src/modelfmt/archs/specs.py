"""The operations that rows of a table name: small data, each with its exact inverse, turned into tensor expressions.

`forward` goes from Hugging Face to GGUF, `backward` the other way, `before` says what shape a source has where the
result has `shape`. On a bias (one axis) an operation does what belongs to the rows of its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import prod

import msgspec

from modelfmt.archs.terms import Scope, evaluate
from modelfmt.ir.ops import (
    AddConstant,
    Concat,
    Constant,
    Dequantize,
    Expression,
    Integers,
    NegativeExp,
    NegativeLog,
    Pad,
    Reshape,
    RopePermute,
    Scale,
    Slice,
    Stack,
    Swap,
    Transpose,
    row_bytes,
)

__all__ = [
    "Add",
    "Behind",
    "Fused",
    "Grouped",
    "Heads",
    "Indices",
    "NegExp",
    "Padded",
    "Part",
    "Permute",
    "Reshaped",
    "Scaled",
    "Shape",
    "Sharded",
    "Spec",
    "Stacked",
    "Tiled",
    "Transposed",
    "Ungrouped",
    "backward",
    "before",
    "forward",
    "joined",
    "number_of",
    "reassembled",
    "sources_of",
]

Shape = tuple[int, ...]


class Permute(msgspec.Struct, frozen=True):
    """Rows of each head from halves to pairs, for graphs with interleaved rope. heads: a term; rotated: how many rows
    of each head turn, a term, the others stay behind them; all of them where there is none. halves: from pairs to
    halves instead."""

    heads: str
    rotated: str = ""
    halves: bool = False


class Add(msgspec.Struct, frozen=True):
    """A number added to each value, in float32."""

    value: float


class Transposed(msgspec.Struct, frozen=True):
    """The last two axes exchanged (weights stored as [in, out]); its own inverse."""


class Stacked(msgspec.Struct, frozen=True):
    """One tensor per `{e}` of the source template, under a new first axis of `count`; a row's first operation."""

    count: str


class Sharded(msgspec.Struct, frozen=True):
    """One tensor per `{e}` of the source template, one behind the other along the first axis: as torch.chunk makes
    them, all of the same number of rows but for the last, which may have fewer. A row's first operation.

    rows: of all of them, a term; parts: how many there are at most, a term (fewer where they come out without a rest).
    """

    rows: str
    parts: str


class Part(msgspec.Struct, frozen=True):
    """Part `index` of a fused source along an axis. The rows of a source have all of its parts.

    of: how many equal parts, or the sizes of the parts, terms. every: they alternate (of two: the even, the odd ones).
    """

    index: int
    of: int | tuple[str, ...]
    axis: int
    every: bool = False


class Heads(msgspec.Struct, frozen=True):
    """The first axis cut into `count` (a term) heads of equal size: two axes."""

    count: str


class Padded(msgspec.Struct, frozen=True):
    """Rows of zeros appended: from `rows` to `to`, both terms. They are cut off on the way back."""

    rows: str
    to: str


class Ungrouped(msgspec.Struct, frozen=True):
    """Rows of a fused qkv from groups (the queries of a group, its key, its value) to all queries, all keys, all
    values.

    groups: how many, a term; queries: heads of queries in each, a term.
    """

    groups: str
    queries: str = "1"


class Behind(msgspec.Struct, frozen=True):
    """Rows from `skip` (a term) on. Those before, which no position uses, are zeros on the way back."""

    skip: str


class Indices(msgspec.Struct, frozen=True):
    """Whole numbers from 0 up, of 64 bits in the checkpoint (or 32) and 32 in the file. below: a term, which none
    reaches."""

    below: str


class NegExp(msgspec.Struct, frozen=True):
    """-exp of each value, in float32: the decay of a state-space layer from its logarithm."""


class Scaled(msgspec.Struct, frozen=True):
    """Each value times the value of a term, to a power, in float32: a multiplier that the graph does not have.

    sections: the rows that each of several factors is for, instead of one factor for all.
    """

    factor: str
    power: float = 1.0
    sections: tuple[tuple[str, str], ...] = ()


class Reshaped(msgspec.Struct, frozen=True):
    """The same values from the shape `source` in the shape `result` (terms): axes of one, norms of groups. Not done to
    biases."""

    source: tuple[str, ...]
    result: tuple[str, ...]


class Tiled(msgspec.Struct, frozen=True):
    """Heads along an axis from `groups` of `each` to `each` of `groups`: (0 0 1 1) to (0 1 0 1). before: how many
    entries of the axis come before the heads and stay."""

    groups: str
    each: str
    axis: int = 0
    before: str = "0"


class Grouped(msgspec.Struct, frozen=True):
    """Parts start..stop of a fused source whose rows are `groups` groups, each with parts of the given `sizes`: all
    groups of the one part, then all of the next. The rows of a source have all of its parts."""

    groups: str
    sizes: tuple[str, ...]
    start: int
    stop: int


Spec = (
    Permute
    | Add
    | Transposed
    | Stacked
    | Sharded
    | Part
    | Heads
    | Padded
    | Ungrouped
    | Behind
    | NegExp
    | Scaled
    | Reshaped
    | Tiled
    | Grouped
    | Indices
)
Fused = Part | Grouped
"""What takes a part of a source: the rows with the other parts make it whole again (`reassembled`)."""


def before(spec: Spec, shape: Shape, scope: Scope | None = None, layer: int = 0) -> Shape:
    """The shape of each source of an operation whose result has `shape`.

    >>> before(Part(0, of=2, axis=1), (8, 32, 64))
    (8, 64, 64)
    """
    match spec:
        case Transposed():
            return (*shape[:-2], *reversed(shape[-2:]))
        case Stacked() | Sharded():
            return sources_of(spec, shape, scope or {}, layer)[0]
        case Part(of=of, axis=axis):
            whole = shape[axis] * of if isinstance(of, int) else sum(evaluate(size, scope or {}, layer) for size in of)
            return (*shape[:axis], whole, *shape[axis + 1 :])
        case Heads():
            return (shape[0] * shape[1], *shape[2:])
        case Padded(rows=rows):
            return (evaluate(rows, scope or {}, layer), *shape[1:])
        case Behind(skip=skip):
            return (shape[0] + evaluate(skip, scope or {}, layer), *shape[1:])
        case Reshaped(source=source):
            return tuple(evaluate(term, scope or {}, layer) for term in source)
        case Grouped():
            groups, sizes = _sizes(spec, scope or {}, layer)
            return (groups * sum(sizes), *shape[1:])
        case _:
            return shape


def sources_of(spec: Stacked | Sharded, shape: Shape, scope: Scope, layer: int = 0) -> list[Shape]:
    """The shape of each of the sources of an operation over several, whose result has `shape`.

    >>> sources_of(Sharded("n", "4"), (9, 2), {"n": 9})
    [(3, 2), (3, 2), (3, 2)]
    """
    if isinstance(spec, Stacked):
        return [shape[1:]] * evaluate(spec.count, scope, layer)
    n_rows = evaluate(spec.rows, scope, layer)
    size = -(-n_rows // evaluate(spec.parts, scope, layer))
    return [(min(size, n_rows - start), *shape[1:]) for start in range(0, n_rows, size)]


def forward(spec: Spec, parts: tuple[Expression, ...], scope: Scope, layer: int) -> Expression:
    """An operation over its source: one expression, for `Stacked` and `Sharded` several."""
    expr = parts[0]
    match spec:
        case Permute():
            return _permuted(expr, spec, scope, layer, inverse=spec.halves)
        case Add(value=value):
            return AddConstant(expr, value)
        case Transposed():
            return _turned(expr)
        case Stacked():
            return Stack(parts)
        case Sharded():
            return Concat(parts) if len(parts) > 1 else expr
        case Part():
            return _part(spec, expr, scope, layer)
        case Heads(count=count):
            n_heads = evaluate(count, scope, layer)
            return Reshape(expr, (n_heads, expr.shape[0] // n_heads, *expr.shape[1:]))
        case Padded(to=to):
            return Pad(expr, evaluate(to, scope, layer))
        case Ungrouped():
            return _ungrouped(expr, *_groups(spec, scope, layer), inverse=False)
        case Behind(skip=skip):
            return Slice(expr, 0, evaluate(skip, scope, layer), expr.shape[0])
        case NegExp():
            return NegativeExp(expr)
        case Indices(below=below):
            return Integers(expr, "I32", evaluate(below, scope, layer))
        case Scaled():
            return _scaled(expr, spec, scope, layer, inverse=False)
        case Reshaped(result=result):
            return Reshape(expr, tuple(evaluate(term, scope, layer) for term in result))
        case Tiled():
            return _tiled(expr, spec, scope, layer, inverse=False)
        case Grouped(start=start, stop=stop):
            return _grouped(expr, *_sizes(spec, scope, layer), start, stop)


def _turned(expr: Expression) -> Expression:
    """A matrix with its axes exchanged. Twice is not at all: codes that were read as the transposition of values come
    out untouched. Codes that have to turn become values."""
    if len(expr.shape) < 2:
        return expr
    if isinstance(expr, Transpose):
        return expr.input.input if isinstance(expr.input, Dequantize) else expr.input
    return Transpose(expr if expr.stored.dense else Dequantize(expr))


def backward(spec: Spec, expr: Expression, scope: Scope, layer: int) -> tuple[Expression, ...]:
    """The sources of an operation from its result. A part of a fused source stays: `reassembled` has them all."""
    match spec:
        case Permute():
            return (_permuted(expr, spec, scope, layer, inverse=not spec.halves),)
        case Add(value=value):
            return (AddConstant(expr, -value),)
        case Transposed():
            return (Transpose(_dense(expr)) if len(expr.shape) > 1 else expr,)
        case Stacked():
            return tuple(_entry(expr, index) for index in range(expr.shape[0]))
        case Sharded():
            ends = accumulate(rows for rows, *_ in sources_of(spec, expr.shape, scope, layer))
            return tuple(Slice(expr, 0, start, end) for start, end in pairwise((0, *ends)))
        case Part() | Grouped():
            return (expr,)
        case NegExp():
            return (NegativeLog(expr),)
        case Indices(below=below):
            return (Integers(expr, "I64", evaluate(below, scope, layer)),)
        case Scaled():
            return (_scaled(expr, spec, scope, layer, inverse=True),)
        case Reshaped(source=source):
            return (Reshape(expr, tuple(evaluate(term, scope, layer) for term in source)),)
        case Tiled():
            return (_tiled(expr, spec, scope, layer, inverse=True),)
        case Heads():
            return (Reshape(expr, (expr.shape[0] * expr.shape[1], *expr.shape[2:])),)
        case Padded(rows=rows):
            return (Slice(expr, 0, 0, evaluate(rows, scope, layer)),)
        case Ungrouped():
            return (_ungrouped(expr, *_groups(spec, scope, layer), inverse=True),)
        case Behind(skip=skip):
            n_rows = evaluate(skip, scope, layer)
            zeros = Constant(bytes(n_rows * row_bytes(expr)), (n_rows, *expr.shape[1:]), expr.stored.name)
            return (Concat((zeros, expr)),)


def reassembled(parts: Mapping[int, tuple[Fused, Expression]], scope: Scope, layer: int) -> Expression:
    """A fused source from its parts, by the number of each."""
    ordered = [parts[index] for index in sorted(parts)]
    exprs = tuple(expr for _, expr in ordered)
    match ordered[0][0]:
        case Part(axis=axis, every=every):
            return joined(exprs, axis, every=every)
        case Grouped() as spec:
            groups, sizes = _sizes(spec, scope, layer)
            rest = exprs[0].shape[1:]
            whole, at = Concat(_alike(exprs)), 0
            pieces = []
            for size in sizes:
                part = Slice(whole, 0, at, at + groups * size)
                pieces.append(Reshape(part, (groups, size, *rest)))
                at += groups * size
            return Reshape(joined(tuple(pieces), 1), (groups * sum(sizes), *rest))


def number_of(spec: Fused) -> int:
    """Where a part comes among those of its source."""
    return spec.index if isinstance(spec, Part) else spec.start


def joined(parts: tuple[Expression, ...], axis: int, *, every: bool = False) -> Expression:
    """Tensors put together along an axis: the inverse of all parts of a fused source. every: two that alternate.

    Parts of several types become float32.
    """
    parts = _alike(parts)
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
    return Reshape(_dense(expr), (*expr.shape, 1))


def _alike(parts: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """Parts of one type, float32 if they are of several."""
    if len({part.stored.name for part in parts}) == 1:
        return parts
    return tuple(part if part.stored.name == "F32" else Dequantize(part) for part in parts)


def _dense(expr: Expression) -> Expression:
    return expr if expr.stored.dense else Dequantize(expr)


def _entry(expr: Expression, index: int) -> Expression:
    """One of the first axis; of a stack, what was stacked."""
    if isinstance(expr, Stack):
        return expr.parts[index]
    return Reshape(Slice(expr, 0, index, index + 1), expr.shape[1:])


def _rows(expr: Expression) -> Expression:
    """An expression whose first axis can be moved about: a bias as a column."""
    return expr if len(expr.shape) > 1 else Reshape(expr, (expr.shape[0], 1))


def _permuted(expr: Expression, spec: Permute, scope: Scope, layer: int, *, inverse: bool) -> Expression:
    matrix, heads = _rows(expr), evaluate(spec.heads, scope, layer)
    if not spec.rotated:
        return Reshape(RopePermute(matrix, heads, inverse), expr.shape)
    n_columns, n_turned = matrix.shape[1], evaluate(spec.rotated, scope, layer)
    cut = Reshape(matrix, (heads, matrix.shape[0] // heads, n_columns))
    turned = Reshape(Slice(cut, 1, 0, n_turned), (heads * n_turned, n_columns))
    turned = Reshape(RopePermute(turned, heads, inverse), (heads, n_turned, n_columns))
    return Reshape(joined((turned, Slice(cut, 1, n_turned, cut.shape[1])), 1), expr.shape)


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


def _tiled(expr: Expression, spec: Tiled, scope: Scope, layer: int, *, inverse: bool) -> Expression:
    groups, each = evaluate(spec.groups, scope, layer), evaluate(spec.each, scope, layer)
    if inverse:
        groups, each = each, groups
    matrix, skip = _rows(expr), evaluate(spec.before, scope, layer)
    n_rows, n_columns = matrix.shape
    if spec.axis == 1:
        size = n_columns // (groups * each)
        whole = matrix if size % matrix.stored.block_elements == 0 else _dense(matrix)
        heads = Reshape(whole, (n_rows, groups, each, size))
        return Reshape(Swap(heads, 1), expr.shape)
    tail = Slice(matrix, 0, skip, n_rows)
    heads = Reshape(tail, (groups, each, (n_rows - skip) // (groups * each), n_columns))
    tiles = Reshape(Swap(heads, 0), (n_rows - skip, n_columns))
    return Reshape(Concat((Slice(matrix, 0, 0, skip), tiles)) if skip else tiles, expr.shape)


def _sizes(spec: Grouped, scope: Scope, layer: int) -> tuple[int, tuple[int, ...]]:
    return evaluate(spec.groups, scope, layer), tuple(evaluate(term, scope, layer) for term in spec.sizes)


def _grouped(expr: Expression, groups: int, sizes: tuple[int, ...], start: int, stop: int) -> Expression:
    grouped = Reshape(expr, (groups, sum(sizes), *expr.shape[1:]))
    parts = []
    for index in range(start, stop):
        at = sum(sizes[:index])
        part = Slice(grouped, 1, at, at + sizes[index])
        parts.append(Reshape(part, (groups * sizes[index], *expr.shape[1:])))
    return Concat(tuple(parts)) if len(parts) > 1 else parts[0]


def _scaled(expr: Expression, spec: Scaled, scope: Scope, layer: int, *, inverse: bool) -> Expression:
    power = -spec.power if inverse else spec.power
    common = float(evaluate(spec.factor, scope, layer)) ** power
    factors = [common * float(evaluate(factor, scope, layer)) ** power for _, factor in spec.sections] or [common]
    if all(factor == 1 for factor in factors):
        return expr
    if not spec.sections:
        return Scale(expr, common)
    parts, at = [], 0
    for (rows, _), factor in zip(spec.sections, factors, strict=True):
        n_rows = evaluate(rows, scope, layer)
        parts.append(Scale(Slice(expr, 0, at, at + n_rows), factor))
        at += n_rows
    return Concat(tuple(parts))
