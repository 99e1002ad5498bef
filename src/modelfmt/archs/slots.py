"""The places that a table opens in one model: each row in each layer, as weight and as bias; and what can be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from modelfmt.archs.specs import Add, Reshaped, Shape, Sharded, Spec, Stacked, before, sources_of
from modelfmt.archs.table import Architecture, Row
from modelfmt.archs.terms import Scope, evaluate, holds
from modelfmt.errors import CorruptFile, UnsupportedError

__all__ = ["Slot", "slots_of", "spellings", "unmatched", "wrong_shape"]

_NAMED = 100  # tensors that an error names; all are in its context


class Slot(msgspec.Struct, frozen=True):
    """A row in one layer, its weight or its bias. start: the layer at which those of the checkpoint begin."""

    row: Row
    layer: int
    bias: bool
    start: int = 0

    def name(self, template: str, expert: object = "") -> str:
        """A tensor of the checkpoint."""
        return self._in_layer(template, self.layer - self.start).replace("{e}", str(expert))

    def _in_layer(self, template: str, layer: int) -> str:
        name = template.replace("{i}", str(layer))
        return name.removesuffix(".weight") + ".bias" if self.bias else name

    def names(self, template: str, scope: Scope) -> list[str]:
        """The source tensors of a template: one, or one for each expert or shard."""
        if "{e}" not in template:
            return [self.name(template)]
        return [self.name(template, number) for number in range(len(self.source_shapes(scope)))]

    @property
    def target(self) -> str:
        return self._in_layer(self.row.target, self.layer)

    @property
    def ops(self) -> tuple[Spec, ...]:
        """The operations: numbers are added to weights only, and biases have no axes to lose."""
        return tuple(spec for spec in self.row.ops if not (self.bias and isinstance(spec, Add | Reshaped)))

    @property
    def required(self) -> bool:
        return self.row.bias == "required" if self.bias else not self.row.optional

    def shape(self, scope: Scope) -> Shape:
        shape = tuple(evaluate(term, scope, self.layer) for term in self.row.shape)
        return shape[:1] if self.bias else shape

    def source_shapes(self, scope: Scope) -> list[Shape]:
        """The shape that each source tensor must have."""
        shape = self.shape(scope)
        for spec in () if self.bias else reversed(self.row.ops):
            if isinstance(spec, Stacked | Sharded):
                return sources_of(spec, shape, scope, self.layer)
            shape = before(spec, shape, scope, self.layer)
        return [shape]


def slots_of(rows: tuple[Row, ...], scope: Scope, layers: Sequence[int] | None = None) -> Iterator[list[Slot]]:
    """The slots of each tensor that the rows may make: one for each layout of it, in the order of the rows. layers: the
    numbers of the layers, where they are not those that the rows say."""
    targets: dict[str, list[Row]] = {}
    for row in rows:
        targets.setdefault(row.target, []).append(row)
    for target, layouts in targets.items():
        every = range(scope[layouts[0].layers]) if layers is None else layers
        for layer in every if "{i}" in target else (0,):
            there = [row for row in layouts if holds(row.when, scope, layer)]
            if there:
                yield [_slot(row, layer, scope, bias=False) for row in there]
            biased = [row for row in there if row.bias != "none"]
            if biased:
                yield [_slot(row, layer, scope, bias=True) for row in biased]


def _slot(row: Row, layer: int, scope: Scope, *, bias: bool) -> Slot:
    return Slot(row, layer, bias, evaluate(row.start, scope, layer) if row.start else 0)


def spellings(arch: Architecture, name: str) -> Iterator[tuple[str, bool]]:
    """The names that a checkpoint may have for a tensor of the rows, ours first; True where the body's prefix lacks."""
    ends = [name] + [name.removesuffix(ours) + other for ours, other in arch.suffixes if name.endswith(ours)]
    for end in ends:
        yield end, False
        for ours, other in arch.prefixes:
            if end.startswith(ours):
                yield other + end.removeprefix(ours), not other


def wrong_shape(name: str, found: Sequence[int], allowed: Sequence[int]) -> CorruptFile:
    """The error for a tensor that is not as large as the hyper-parameters say."""
    return CorruptFile(
        "a tensor has another shape than the configuration implies",
        code="tensor-shape",
        place=name,
        found=list(found),
        allowed=list(allowed),
        hint="the configuration and the weights may belong to different models",
    )


def unmatched(left: list[tuple[str, Shape]], missing: list[tuple[str, Shape]]) -> UnsupportedError:
    """The error that lists tensors without a row, and rows without a tensor."""
    parts = [
        f"{word}: {_listed(entries)}" for word, entries in (("not known", left), ("not there", missing)) if entries
    ]
    return UnsupportedError(
        "the tensors of this checkpoint are not those of its architecture",
        code="unmatched-tensors",
        found="; ".join(parts),
        hint="the checkpoint may be incomplete, an adapter, or of a changed architecture",
        missing=missing,
        unmatched=left,
    )


def _listed(entries: list[tuple[str, Shape]]) -> str:
    """The first of them, and how many more there are: a model of experts may lack tens of thousands."""
    words = [f"{name} {list(shape)}" for name, shape in entries[:_NAMED]]
    return ", ".join(words + [f"and {len(entries) - _NAMED:,} more"] * (len(entries) > _NAMED))
