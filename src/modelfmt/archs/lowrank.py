"""The operations of a table on what a LoRA adapter adds to a tensor: a pair of factors instead of their product.

A tensor W of a checkpoint becomes L(W) in a GGUF file. Every operation that is linear has its like on W's change,
b @ a: what moves, cuts or scales rows does so with b, what exchanges axes exchanges the factors. So an adapter of the
checkpoint becomes one of the file without a product being made. Operations that are not linear refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from modelfmt.archs import hparams, rope, unbind
from modelfmt.archs.slots import Slot, slots_of, spellings
from modelfmt.archs.specs import (
    Add,
    NegExp,
    Part,
    Reshaped,
    Shape,
    Spec,
    Stacked,
    Tiled,
    Transposed,
    forward,
)
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import Scope, holds
from modelfmt.archs.values import flat
from modelfmt.errors import UnsupportedError
from modelfmt.ir.ops import (
    AddLowRank,
    Concat,
    Constant,
    Dequantize,
    Expression,
    Reshape,
    Scale,
    Slice,
    Stack,
    Transpose,
)

__all__ = ["Changes", "Pair", "Table", "Vector", "of_config", "of_gguf"]

DORA_LIMIT = 1 << 26
"""Elements of a tensor whose columns can be given lengths: all of it is computed for each of its tiles."""


class Pair(msgspec.Struct, frozen=True):
    """scale * (b @ a), to be added to a tensor [*outer, rows, columns].

    b: [*outer, rows, rank]. a: [*outer, rank, columns], or [rank, columns] for all of outer. magnitude: [rows], or
    where by_columns [columns]: the lengths that these are given afterwards (DoRA).
    """

    a: Expression
    b: Expression
    scale: float
    magnitude: Expression | None = None
    by_columns: bool = False

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.b.shape[-1]

    @property
    def shape(self) -> Shape:
        """The shape of the tensor that it is added to."""
        return (*self.b.shape[:-1], self.a.shape[-1])

    @property
    def transposed(self) -> Pair:
        """The same for the tensor with its last two axes exchanged."""
        a = self.a
        for size in reversed(self.b.shape[:-2][: len(self.b.shape) - len(a.shape)]):
            a = Stack((a,) * size)
        return replace(self, a=Transpose(self.b), b=Transpose(a), by_columns=not self.by_columns)

    def added(self, weight: Expression) -> Expression:
        """The tensor with the pair added, float32. Raises UnsupportedError (lora-dora-size)."""
        if self.magnitude is None:
            return AddLowRank(weight, self.a, self.b, self.scale)
        if not self.by_columns:
            n_rows = self.magnitude.shape[0]
            return AddLowRank(weight, self.a, self.b, self.scale, Reshape(self.magnitude, (n_rows, 1)))
        if self.shape[-1] * self.shape[-2] > DORA_LIMIT:
            raise UnsupportedError(
                "a DoRA adapter on a matrix whose columns have lengths, and which is too large for that",
                code="lora-dora-size",
                found=list(self.shape),
                allowed=f"at most {DORA_LIMIT} values",
            )
        dense = weight if weight.stored.dense else Dequantize(weight)
        return Transpose(self.transposed.added(Transpose(dense)))


class Vector(msgspec.Struct, frozen=True):
    """scale * values, to be added to a tensor of one axis (a bias)."""

    values: Expression
    scale: float

    def added(self, bias: Expression) -> Expression:
        """The bias with the vector added, float32."""
        one = Constant(b"\0\0\x80\x3f", (1, 1), "F32")
        return AddLowRank(bias, Reshape(self.values, (1, bias.shape[0])), one, self.scale)


class Changes(msgspec.Struct):
    """What an adapter does to tensors, by their names. replaced: in the place of the whole tensor. rows: in the place
    of the rows with these numbers, ascending."""

    pairs: dict[str, Pair] = msgspec.field(default_factory=dict)
    vectors: dict[str, Vector] = msgspec.field(default_factory=dict)
    replaced: dict[str, Expression] = msgspec.field(default_factory=dict)
    rows: dict[str, tuple[tuple[int, ...], Expression]] = msgspec.field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Every tensor that is changed."""
        return {*self.pairs, *self.vectors, *self.replaced, *self.rows}


class Table:
    """An architecture's table for one model: what its checkpoint's tensors are called, and what becomes of changes.

    shapes: every tensor that a checkpoint may have, in every layout, by the first spelling of its name.
    """

    def __init__(self, arch: Architecture, scope: Scope) -> None:
        self.arch = arch
        self.scope = scope
        self.shapes: dict[str, Shape] = {}
        self._slots: dict[str, list[Slot]] = {}
        for slots in slots_of(arch.rows, scope):
            for slot in slots:
                self._enter(slot)

    def _enter(self, slot: Slot) -> None:
        for template in slot.row.sources:
            for name, shape in zip(slot.names(template, self.scope), slot.source_shapes(self.scope), strict=True):
                self.shapes.setdefault(name, shape)
                self._slots.setdefault(name, []).append(slot)

    def spelled(self, name: str) -> str | None:
        """The first spelling of a checkpoint's name, None where the table has no such tensor."""
        if name in self.shapes:
            return name
        for ours, other in self.arch.prefixes:
            if name.startswith(other) and ours + name.removeprefix(other) in self.shapes:
                return ours + name.removeprefix(other)
        for ours, other in self.arch.suffixes:
            if name.endswith(other) and name.removesuffix(other) + ours in self.shapes:
                return name.removesuffix(other) + ours
        return None

    def alternatives(self, name: str) -> list[str]:
        """What else a checkpoint may call this tensor."""
        found = [other for other, _ in spellings(self.arch, name)]
        for slot in self._slots.get(name, ()):
            if len(slot.row.sources) > 1 and "{e}" not in slot.row.sources[0]:
                for template in slot.row.sources:
                    found += [other for other, _ in spellings(self.arch, slot.name(template))]
        return found

    def transposed(self, name: str) -> bool:
        """Whether the checkpoint stores this matrix as [in, out]."""
        return any(isinstance(spec, Transposed) for slot in self._slots.get(name, ()) for spec in slot.ops)

    def ties(self) -> dict[str, str]:
        """Tensors that may be left out of a checkpoint, since they are another one -> that one."""
        rows = [row for row in self.arch.rows if row.tied_to and "{i}" not in row.target]
        return {source: row.tied_to for row in rows for source in row.sources}

    @property
    def targets(self) -> set[str]:
        """Every tensor of the GGUF file."""
        return {slot.target for slots in self._slots.values() for slot in slots}

    def to_gguf(self, changes: Changes) -> Changes:
        """Changes by the names of the GGUF file. Raises UnsupportedError (lora-layout, lora-operation)."""
        found = Changes()
        waiting: dict[str, tuple[Slot, list[str]]] = {}
        order = {name: index for index, name in enumerate(self.shapes)}
        for name in sorted(changes.names, key=order.__getitem__):
            for slot in self._slots[name]:
                template = next(one for one in slot.row.sources if name in slot.names(one, self.scope))
                waiting.setdefault(slot.target, (slot, slot.names(template, self.scope)))
        for target, (slot, names) in waiting.items():
            if any(name in changes.pairs for name in names):
                found.pairs[target] = self._pair(slot, [changes.pairs.get(name) for name in names])
            if names[0] in changes.vectors:
                vector = changes.vectors[names[0]]
                found.vectors[target] = replace(vector, values=self._whole(slot, (vector.values,)))
            if any(name in changes.replaced for name in names):
                if not all(name in changes.replaced for name in names):
                    raise _layout(target, "some parts of the tensor are replaced, others are not")
                found.replaced[target] = self._whole(slot, tuple(changes.replaced[name] for name in names))
            if names[0] in changes.rows:
                if slot.ops:
                    raise _layout(target, "single rows are replaced in a tensor that is made anew")
                found.rows[target] = changes.rows[names[0]]
        return found

    def split(self, changes: Changes, there: Callable[[str], str | None]) -> dict[str, Pair]:
        """The pairs of experts that are all in one tensor, for a checkpoint that has each by itself.

        there: the name under which a checkpoint has a tensor, None where it lacks it. Raises UnsupportedError
        (lora-layout) where the checkpoint's layout is another.
        """
        found: dict[str, Pair] = {}
        for target, pair in self.to_gguf(changes).pairs.items():
            names = self._apart(target, there)
            for index, name in enumerate(names):
                a = pair.a if len(pair.a.shape) < len(pair.b.shape) else _entry(pair.a, index)
                found[name] = replace(pair, a=a, b=_entry(pair.b, index))
        return found

    def _apart(self, target: str, there: Callable[[str], str | None]) -> list[str]:
        slots = {id(slot): slot for held in self._slots.values() for slot in held if slot.target == target}
        for slot in slots.values():
            if slot.ops == slot.row.ops[:1] and isinstance(slot.ops[0], Stacked):
                names = [there(name) for name in slot.names(slot.row.sources[0], self.scope)]
                if all(names):
                    return [name for name in names if name]
        raise _layout(target, "the checkpoint has this tensor in another layout than the model that was trained")

    def _pair(self, slot: Slot, pairs: list[Pair | None]) -> Pair:
        specs = slot.ops
        if specs and isinstance(specs[0], Stacked):
            pair, specs = _stacked(pairs, slot.target), specs[1:]
        else:
            pair = next(one for one in pairs if one is not None)
        for spec in specs:
            pair = _applied(spec, pair, self.scope, slot)
        return pair

    def _whole(self, slot: Slot, parts: tuple[Expression, ...]) -> Expression:
        for spec in slot.ops:
            parts = (forward(spec, parts, self.scope, slot.layer),)
        return parts[0]


def of_config(arch: Architecture, config: Mapping[str, Any]) -> Table:
    """The table of a checkpoint, from its configuration."""
    config = flat(config)
    scope = {"n_expert": 0} | hparams.read(arch, config)
    for condition, other in arch.variants:
        if any(holds(condition, scope, layer) for layer in range(scope["n_layer"])):
            return of_config(other, config)
    if arch.rope is not None:
        scope |= rope.encode(arch.rope, config, scope).hparams
    return Table(arch, scope)


def of_gguf(arch: Architecture, tensors: Mapping[str, Expression], metadata: Mapping[str, Any]) -> Table:
    """The table of a GGUF file, from its metadata."""
    return Table(*unbind._scope(arch, tensors, metadata, None))


def _applied(spec: Spec, pair: Pair, scope: Scope, slot: Slot) -> Pair:
    """An operation done to what is added."""
    layer, axes = slot.layer, len(pair.b.shape)
    match spec:
        case Add():
            return pair
        case Transposed():
            return pair.transposed
        case Tiled(axis=1):
            return replace(pair, a=forward(spec, (pair.a,), scope, layer))
        case Reshaped(source=("1", *rest), result=result) if tuple(rest) == result:
            a = Reshape(pair.a, pair.a.shape[1:]) if len(pair.a.shape) == axes else pair.a
            return replace(pair, a=a, b=Reshape(pair.b, pair.b.shape[1:]))
        case NegExp() | Reshaped():
            raise _operation(slot, spec)
        case Part(axis=axis) if axis == axes - 1 or (axes > 2 and len(pair.a.shape) == axes and axis < axes - 2):
            raise _operation(slot, spec)
        case _:
            pass
    if pair.magnitude is not None and (pair.by_columns or axes > 2):
        raise _operation(slot, spec)
    magnitude = None if pair.magnitude is None else forward(spec, (pair.magnitude,), scope, layer)
    return replace(pair, b=forward(spec, (pair.b,), scope, layer), magnitude=magnitude)


def _stacked(pairs: list[Pair | None], target: str) -> Pair:
    """The pairs of experts as one; an expert without a pair gets zeros, ranks are filled up with zeros."""
    there = [pair for pair in pairs if pair is not None]
    first, rank = there[0], max(pair.rank for pair in there)
    if any(pair.magnitude is not None for pair in there):
        raise _layout(target, "DoRA on experts")
    rows, columns = first.shape
    a: list[Expression] = []
    b: list[Expression] = []
    for pair in pairs:
        if pair is None:
            a.append(_zeros(rank, columns))
            b.append(_zeros(rows, rank))
            continue
        wide = pair.b if pair.rank == rank else Transpose(_tall(Transpose(pair.b), rank))
        a.append(_tall(pair.a, rank))
        b.append(wide if pair.scale == first.scale else Scale(wide, pair.scale / first.scale))
    return replace(first, a=Stack(_alike(a)), b=Stack(_alike(b)))


def _zeros(n_rows: int, n_columns: int) -> Constant:
    return Constant(bytes(4 * n_rows * n_columns), (n_rows, n_columns), "F32")


def _tall(a: Expression, rank: int) -> Expression:
    """A first factor with rows of zeros up to a rank."""
    missing = rank - a.shape[0]
    if not missing:
        return a
    return Concat((a if a.stored.name == "F32" else Dequantize(a), _zeros(missing, a.shape[1])))


def _alike(parts: list[Expression]) -> tuple[Expression, ...]:
    if len({part.stored.name for part in parts}) == 1:
        return tuple(parts)
    return tuple(part if part.stored.name == "F32" else Dequantize(part) for part in parts)


def _entry(expr: Expression, index: int) -> Expression:
    return Reshape(Slice(expr, 0, index, index + 1), expr.shape[1:])


def _layout(target: str, detail: str) -> UnsupportedError:
    return UnsupportedError(
        "the adapter cannot be brought to this model", code="lora-layout", place=target, found=detail
    )


def _operation(slot: Slot, spec: Spec) -> UnsupportedError:
    return UnsupportedError(
        "an adapter on a tensor that is made in a way that is not linear in rows",
        code="lora-operation",
        place=slot.target,
        found=type(spec).__name__,
        hint="merge the adapter into the checkpoint first",
    )
