"""Applies a table to a checkpoint: which tensor of the file is made of what, and what its metadata says.

Fails closed: a source tensor that no row and no ignore pattern speaks for, a required row without a source and a shape
that the configuration does not imply are errors. No array is built, and nothing is read but the single values that the
file has among its metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite, prod
from typing import Any

import msgspec

from modelfmt.archs import hparams, nextn, pooling, rope
from modelfmt.archs.slots import Slot, spellings, unmatched, wrong_shape
from modelfmt.archs.specs import Shape, forward
from modelfmt.archs.table import Architecture, Listed, Scalar
from modelfmt.archs.terms import evaluate, holds
from modelfmt.archs.values import flat
from modelfmt.errors import CorruptFile
from modelfmt.ir.ops import Constant, Expression
from modelfmt.report import Loss, Note

__all__ = ["Bound", "BoundTensor", "to_gguf"]

_BEYOND = 8  # layers behind those of the model, which predict further tokens


class BoundTensor(msgspec.Struct, frozen=True):
    """One tensor of the file: GGUF name, how it is made, of which source tensors. keep: the encoding it must have."""

    name: str
    expr: Expression
    source_names: tuple[str, ...]
    keep: str | None


class Bound(msgspec.Struct):
    """A checkpoint as its file will have it.

    tensors: constants first, then in the order of their sources. metadata: (key, GGUF type, value), the keys of the
    architecture only. notes: what was left out (Note) or lost (Loss). hparams: the params of the table by name; `tied`
    says whether the output is the embedding.
    """

    architecture: Architecture
    tensors: list[BoundTensor] = msgspec.field(default_factory=list)
    metadata: list[tuple[str, str, Any]] = msgspec.field(default_factory=list)
    notes: list[Note | Loss] = msgspec.field(default_factory=list)
    hparams: dict[str, Any] = msgspec.field(default_factory=dict)


def to_gguf(
    arch: Architecture,
    *,
    tensors: Mapping[str, Expression],
    config: Mapping[str, Any],
    assets: Mapping[str, bytes],
    value: Callable[[Expression], Sequence[float]] | None = None,
    computed: Collection[str] = (),
) -> Bound:
    """The tensors and the architecture's metadata of the GGUF file of a Hugging Face checkpoint.

    tensors: source name -> expression. config: config.json. assets: small files by relative name, for the pooling.
    value: reads a small tensor, whole numbers as such; without it the metadata that such tensors become is left out.
    computed: conditions under which llama.cpp's graph would be wrong, and the one that is made of this is not. Raises
    UnsupportedError (unmatched-tensors, config-unsupported), CorruptFile (config-missing, config-value, tensor-shape).
    """
    config = config if arch.towers else flat(config)
    scope = {"n_expert": 0} | hparams.read(arch, config)
    for condition, other in arch.variants:
        if any(holds(condition, scope, layer) for layer in range(scope["n_layer"])):
            return to_gguf(other, tensors=tensors, config=config, assets=assets, value=value, computed=computed)
    if nextn.COUNT in scope:
        scope = nextn.widened(arch, scope | {nextn.COUNT: nextn.count(arch, scope["n_layer"], tensors)})
    bound = Bound(arch, hparams=scope)
    pooled = pooling.encode(assets, dense=scope["n_embd"] if arch.dense else None) if arch.pooled else pooling.Pooled()
    scope |= {"dense": pooled.dense} if arch.dense else {}
    bound.notes += pooled.losses
    keys = hparams.metadata(arch, scope)
    if scope.get(nextn.COUNT):
        keys["block_count"] = ("UINT32", scope["n_layer"] + scope[nextn.COUNT])
    if arch.window is not None:
        keys |= hparams.window(arch.window, config, scope["n_layer"])
    if arch.rope is not None:
        turned = rope.encode(arch.rope, config, scope)
        keys |= turned.metadata
        scope |= turned.hparams
        bound.notes += turned.losses
        bound.tensors = [BoundTensor(name, expr, (), "F32") for name, expr in turned.tensors.items()]
    keys |= pooled.metadata(scope.get("n_embd", 0))
    hparams.refuse(arch, scope, computed)
    bound.notes += [Loss(rule.kind, rule.subject, rule.detail) for rule in arch.loses if holds(rule.when, scope)]
    bound.metadata = [(f"{arch.gguf}.{key}", *typed) for key, typed in keys.items()]
    scalars, lists = _Binder(bound, tensors).bind()
    bound.tensors[:0] = [BoundTensor(name, expr, (), "F32") for name, expr in _filled(arch, scope)]
    if value is not None:
        bound.metadata += [(key, "ARRAY:FLOAT32", _read(key, parts, value)) for key, parts in scalars.items()]
        bound.metadata += [(row.key, f"ARRAY:{row.type}", _whole(row, value(expr), scope)) for row, expr in lists]
    return bound


def _filled(arch: Architecture, scope: Mapping[str, Any]) -> Iterator[tuple[str, Constant]]:
    """The tensors of one value that no tensor of the checkpoint is behind, made when all other sizes are right."""
    for row in arch.filled:
        for layer in range(scope["n_layer"]):
            size, value = evaluate(row.size, scope, layer), scope[row.param] if row.param else 1.0
            yield row.target.replace("{i}", str(layer)), Constant(struct.pack("<f", value) * size, (size,), "F32")


def _whole(row: Listed, numbers: Sequence[float], scope: Mapping[str, Any]) -> list[int]:
    """The numbers of a list, checked."""
    limit = evaluate(row.below, scope) if row.below else 2**63
    for at, number in enumerate(numbers):
        if not isinstance(number, int) or not row.low <= number < limit:
            raise CorruptFile(
                "a value that is no whole number, or out of range",
                code="tensor-value",
                place=f"{row.key}[{at}]",
                found=number,
                allowed=f"{row.low}..{limit - 1}",
            )
    return [int(number) for number in numbers]


def _read(key: str, parts: list[Expression | float], value: Callable[[Expression], Sequence[float]]) -> list[float]:
    found = [part if isinstance(part, float) else float(value(part)[0]) for part in parts]
    for layer, number in enumerate(found):
        if not isfinite(number):
            raise CorruptFile(
                "a value that is no number",
                code="tensor-value",
                place=f"{key}[{layer}]",
                found=number,
                allowed="finite",
            )
    return found


class _Binder:
    """Walks the rows of a table over a checkpoint."""

    def __init__(self, bound: Bound, tensors: Mapping[str, Expression]) -> None:
        self.bound = bound
        self.arch = bound.architecture
        self.scope = bound.hparams
        self.tensors = tensors
        self.used: set[str] = set()
        self.missing: list[tuple[str, Shape]] = []
        self.bare = False  # saved without its head: names lack the prefix of the body

    def bind(self) -> tuple[dict[str, list[Expression | float]], list[tuple[Listed, Expression]]]:
        """Fills in the tensors. Returns what becomes metadata: key -> a tensor, or its value, for each layer; and the
        lists with their tensors."""
        made: list[BoundTensor] = []
        for slots in nextn.slots(self.arch, self.scope):
            tensor = self._first(slots)
            if tensor is not None:
                made.append(tensor)
        scalars = {scalar.key: self._layers(scalar) for scalar in self.arch.scalars}
        lists = [(row, expr) for row in self.arch.lists for expr in self._list(row)]
        self._finish()
        place = {name: index for index, name in enumerate(self.tensors)}
        made.sort(key=lambda tensor: min(place[name] for name in tensor.source_names))
        self.bound.tensors += made
        self.scope["tied"] = all(tensor.name != "output.weight" for tensor in made)
        return scalars, lists

    def _list(self, row: Listed) -> Iterator[Expression]:
        wanted, shape = row.named(self.scope), row.shape(self.scope)
        name = self._spelled(wanted)
        if name is None:
            self.missing.append((wanted, shape))
            return
        self.used.add(name)
        if self.tensors[name].shape != shape:
            raise wrong_shape(name, self.tensors[name].shape, shape)
        yield self.tensors[name]

    def _layers(self, scalar: Scalar) -> list[Expression | float]:
        found: list[Expression | float] = []
        for layer in range(self.scope["n_layer"]):
            wanted = scalar.source.replace("{i}", str(layer))
            name = self._spelled(wanted)
            if name is None and scalar.default is None:
                self.missing.append((wanted, scalar.shape))
            elif name is None:
                found.append(scalar.default or 0.0)
            else:
                self.used.add(name)
                if self.tensors[name].shape not in ((), (1,)):
                    raise wrong_shape(name, self.tensors[name].shape, scalar.shape)
                found.append(self.tensors[name])
        return found

    def _first(self, slots: list[Slot]) -> BoundTensor | None:
        """The tensor from the first of several layouts that is there."""
        for slot in slots:
            for template in slot.row.sources:
                wanted = slot.names(template, self.scope)
                if len(wanted) > len(self.tensors):
                    continue
                found = [self._spelled(name) for name in wanted]
                names = tuple(name for name in found if name is not None)
                if len(names) == len(found):
                    return self._made(slot, names)
                if names:
                    self._incomplete(slot, template, names)
                    return None
        slot = slots[0]
        if slot.required and not (slot.row.tied_to and (self.scope["tied"] or self.bare)):
            name = slot.name(slot.row.sources[0], "*")
            self.missing.append((name, slot.source_shapes(self.scope)[0]))
        return None

    def _incomplete(self, slot: Slot, template: str, names: tuple[str, ...]) -> None:
        """Some experts are there: those that are not are missing."""
        self.used.update(names)
        wanted = zip(slot.names(template, self.scope), slot.source_shapes(self.scope), strict=True)
        self.missing += [(name, shape) for name, shape in wanted if self._spelled(name) is None]

    def _spelled(self, name: str) -> str | None:
        """The name under which the checkpoint has the tensor, if it has it."""
        for found, bare in spellings(self.arch, name):
            if found in self.tensors:
                self.bare = self.bare or bare
                return found
        return None

    def _made(self, slot: Slot, names: tuple[str, ...]) -> BoundTensor | None:
        self.used.update(names)
        if slot.row.tied_to and self._copies(slot, names[0]):
            return None
        for name, shape in zip(names, slot.source_shapes(self.scope), strict=True):
            if self.tensors[name].shape != shape:
                raise wrong_shape(name, self.tensors[name].shape, shape)
        expr = self._expression(slot, tuple(self.tensors[name] for name in names))
        keep = "F32" if len(expr.shape) <= 1 else slot.row.keep
        return BoundTensor(slot.target, expr, names, keep)

    def _copies(self, slot: Slot, name: str) -> bool:
        """Whether a tensor is the very bytes of the one that it may be tied to, and so is left out."""
        twin = self._spelled(slot.name(slot.row.tied_to))
        if twin is not None and self.tensors[twin] == self.tensors[name]:
            self.bound.notes.append(Note(name, f"the same bytes as {twin}, written once"))
            return True
        if self.scope["tied"]:
            detail = f"config.json ties it to {slot.row.tied_to}, but it is there of its own: kept"
            self.bound.notes.append(Note(name, detail))
        return False

    def _expression(self, slot: Slot, parts: tuple[Expression, ...]) -> Expression:
        for spec in slot.ops:
            parts = (forward(spec, parts, self.scope, slot.layer),)
        return parts[0]

    def _finish(self) -> None:
        """Name every tensor that no row used; raise where one of them, or a missing one, is not accounted for."""
        left = [name for name in self.tensors if name not in self.used]
        for rule in self.arch.ignores:
            beyond = range(self.scope["n_layer"], self.scope["n_layer"] + _BEYOND)
            patterns = {rule.pattern.replace("{n_layer}", str(layer)) for layer in beyond}
            names = [name for name in left if any(fnmatchcase(name, pattern) for pattern in patterns)]
            if names and holds(rule.when, self.scope):
                left = [name for name in left if name not in set(names)]
                self._leave_out(names, rule.reason, loss=rule.loss)
        if left or self.missing:
            raise unmatched([(name, self.tensors[name].shape) for name in left], self.missing)

    def _leave_out(self, names: list[str], reason: str, *, loss: bool) -> None:
        if loss:
            count = sum(prod(self.tensors[name].shape) for name in names)
            self.bound.notes += [
                Loss("dropped", name, f"{reason} ({count:,} values in {len(names)})") for name in names
            ]
        else:
            self.bound.notes += [Note(name, f"left out: {reason}") for name in names]
