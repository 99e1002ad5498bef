"""Applies a table to a GGUF file: the tensors of the checkpoint that it came from, by the inverse operations.

The first layout and spelling of each row is written, unless the names of the original are known: then its own. Metadata
is used for shapes and operations only; `configuration` makes config.json of it, and of the constants (rope factors).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from struct import pack
from typing import Any

import msgspec

from modelfmt.archs import hparams, nextn, rope
from modelfmt.archs.slots import Slot, spellings, unmatched, wrong_shape
from modelfmt.archs.specs import Fused, Grouped, Part, Shape, Spec, backward, number_of, reassembled
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import Scope, evaluate, holds
from modelfmt.archs.values import bad_value, flat, integer
from modelfmt.ir.ops import Constant, Expression

__all__ = ["Unbound", "UnboundTensor", "to_huggingface"]

_CONSTANTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_SIZES = {
    "vocab_size": "token_embd.weight",
    "n_token_types": "token_types.weight",
    "n_gate": "blk.0.attn_gate.weight",
    "n_ngrams": "per_layer_token_embd.weight",
}


class UnboundTensor(msgspec.Struct, frozen=True):
    """One tensor of the checkpoint: its name, how it is made, of which GGUF tensors."""

    name: str
    expr: Expression
    source_names: tuple[str, ...]


class Unbound(msgspec.Struct, frozen=True):
    """A GGUF file as a checkpoint: tensors in the order of the file; constants, which config.json says in words."""

    architecture: Architecture
    tensors: list[UnboundTensor]
    constants: dict[str, Expression]
    hparams: dict[str, Any]


def to_huggingface(
    arch: Architecture,
    *,
    tensors: Mapping[str, Expression],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    names: Collection[str] = (),
) -> Unbound:
    """The tensors of a checkpoint from those of a GGUF file. Quantized rows stay as they are where rows only move.

    Those that are metadata in the file follow the others. tensors: GGUF name -> expression. metadata: the keys of the
    file. config, names: the original's configuration and the names of its tensors, where they are known. Raises
    UnsupportedError (unmatched-tensors), CorruptFile (metadata-missing, config-value, tensor-shape).
    """
    arch, narrow = _scope(arch, tensors, metadata, config)
    scope = nextn.widened(arch, narrow)
    made: dict[str, UnboundTensor] = {}
    fused: dict[str, list[_Piece]] = {}
    used: set[str] = set()
    missing: list[tuple[str, Shape]] = []
    twins: list[tuple[str, str]] = []
    for slots in nextn.slots(arch, scope):
        slot, wanted = _chosen(arch, slots, scope, names)
        if slot.target not in tensors:
            if slot.row.tied_to and names:
                twin = _spelled(arch, slot.name(slot.row.tied_to), names)
                twins += [(name, twin) for name in wanted if name in names and twin]
            elif slot.required and not slot.row.tied_to and not slot.row.unused:
                missing.append((slot.target, slot.shape(scope)))
            continue
        used.add(slot.target)
        if slot.row.unused:
            continue
        piece = _Piece(slot, wanted, _checked(slot, tensors[slot.target], scope))
        if piece.part is None:
            made |= {tensor.name: tensor for tensor in _restored([piece], scope)}
        else:
            fused.setdefault(wanted[0], []).append(piece)
    filled = [row.target.replace("{i}", str(layer)) for row in arch.filled for layer in range(narrow["n_layer"])]
    left = [(name, tensors[name].shape) for name in tensors if name not in used and name not in (*_CONSTANTS, *filled)]
    if left or missing:
        raise unmatched(left, missing)
    for pieces in fused.values():
        ordered = sorted(pieces, key=lambda piece: number_of(piece.part) if piece.part else 0)
        made |= {tensor.name: tensor for tensor in _restored(ordered, scope)}
    made |= {name: UnboundTensor(name, made[twin].expr, made[twin].source_names) for name, twin in twins}
    made |= {tensor.name: tensor for tensor in _scalars(arch, scope, metadata, names)}
    made |= {tensor.name: tensor for tensor in _lists(arch, scope, metadata, names)}
    place = {name: index for index, name in enumerate(tensors)}
    found = sorted(
        made.values(), key=lambda tensor: min((place[name] for name in tensor.source_names), default=len(place))
    )
    constants = {name: tensors[name] for name in (*_CONSTANTS, *filled) if name in tensors}
    return Unbound(arch, found, constants, narrow)


def _scalars(
    arch: Architecture, scope: Scope, metadata: Mapping[str, Any], names: Collection[str]
) -> Iterator[UnboundTensor]:
    """The tensors of one value that lists in the metadata hold."""
    for scalar in arch.scalars:
        values = metadata.get(scalar.key)
        if values is None or isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
            raise bad_value(scalar.key, values, "a list of numbers", path="metadata")
        values, n_layer = list(values), scope["n_layer"]
        if len(values) != n_layer or any(isinstance(entry, bool) or not isinstance(entry, float) for entry in values):
            raise bad_value(scalar.key, len(values), f"{n_layer} numbers, one for each layer", path="metadata")
        for layer, number in enumerate(values):
            name = scalar.source.replace("{i}", str(layer))
            spelled = _spelled(arch, name, names) if names else name
            if spelled is not None:
                yield UnboundTensor(spelled, Constant(pack("<f", number), scalar.shape, "F32"), ())


def _lists(
    arch: Architecture, scope: Scope, metadata: Mapping[str, Any], names: Collection[str]
) -> Iterator[UnboundTensor]:
    """The tensors of whole numbers that lists in the metadata hold."""
    for row in arch.lists:
        (size,) = shape = row.shape(scope)
        values, limit = metadata.get(row.key), evaluate(row.below, scope) if row.below else 2**63
        if values is None or isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
            raise bad_value(row.key, values, "a list of whole numbers", path="metadata")
        if len(values := list(values)) != size:
            raise bad_value(row.key, len(values), f"{size} numbers", path="metadata")
        numbers = [integer(entry, row.key, row.low, limit - 1, path="metadata") for entry in values]
        name = _spelled(arch, row.named(scope), names) if names else row.named(scope)
        if name is not None:
            yield UnboundTensor(name, Constant(pack(f"<{size}q", *numbers), shape, "I64"), ())


def _scope(
    arch: Architecture,
    tensors: Mapping[str, Expression],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None,
) -> tuple[Architecture, dict[str, Any]]:
    """The table of the file, and its params."""
    metadata, n_nextn = nextn.of_file(arch, metadata)
    if config is None:
        sizes = {name: tensors[source].shape[0] for name, source in _SIZES.items() if source in tensors}
        told = {param.name: _there(param.tensor, tensors) for param in arch.params if param.tensor}
        told |= {row.first: _foremost(row.key, metadata) for row in arch.lists if row.first}
        scope = hparams.restore(arch, metadata, sizes | told, tensors)
    else:
        scope = {"n_expert": 0} | hparams.read(arch, config := flat(config))
        for condition, other in arch.variants:
            if any(holds(condition, scope, layer) for layer in range(scope["n_layer"])):
                return _scope(other, tensors, metadata, config)
        if arch.rope is not None:
            scope |= rope.encode(arch.rope, config, scope).hparams
        if arch.dense:
            scope |= {"dense": metadata.get(f"{arch.gguf}.dense_2_feat_out", 0)}
    scope["tied"] = "output.weight" not in tensors
    if nextn.COUNT in scope:
        scope[nextn.COUNT] = n_nextn
    return arch, scope


def _chosen(arch: Architecture, slots: list[Slot], scope: Scope, names: Collection[str]) -> tuple[Slot, list[str]]:
    """The layout of a tensor, and what its sources are called: as in the original where it is known."""
    for slot in slots if names else ():
        for template in slot.row.sources:
            found = [_spelled(arch, name, names) for name in slot.names(template, scope)]
            there = [name for name in found if name is not None]
            if there and len(there) == len(found):
                return slot, there
    return slots[0], slots[0].names(slots[0].row.sources[0], scope)


def _spelled(arch: Architecture, name: str, names: Collection[str]) -> str | None:
    return next((found for found, _ in spellings(arch, name) if found in names), None)


def _foremost(key: str, metadata: Mapping[str, Any]) -> int:
    values = metadata.get(key)
    return integer(values[0] if isinstance(values, Sequence) and values else values, key, path="metadata")


def _there(name: str, tensors: Mapping[str, Expression]) -> int:
    """Whether a tensor is there; in how many layers, if its name has a layer."""
    if "{i}" not in name:
        return name in tensors
    start, end = name.split("{i}")
    return sum(found.startswith(start) and found.endswith(end) for found in tensors)


class _Piece(msgspec.Struct, frozen=True):
    """A tensor of the file: the whole of its sources, or a part of a fused one. names: of the sources."""

    slot: Slot
    names: list[str]
    expr: Expression

    @property
    def part(self) -> Fused | None:
        return next((spec for spec in self.slot.ops if isinstance(spec, Part | Grouped)), None)


def _checked(slot: Slot, expr: Expression, scope: Scope) -> Expression:
    if expr.shape != slot.shape(scope):
        raise wrong_shape(slot.target, expr.shape, slot.shape(scope))
    return expr


def _restored(pieces: list[_Piece], scope: Scope) -> list[UnboundTensor]:
    """The tensors of the checkpoint that all pieces of one source give: their operations undone, up to where they were
    one."""
    slot, part = pieces[0].slot, pieces[0].part
    if part is None:
        before, whole = slot.ops, pieces[0].expr
    else:
        before = slot.ops[: slot.ops.index(part)]
        behind = [_undone(piece, piece.slot.ops[len(before) + 1 :], scope) for piece in pieces]
        numbered = {
            number_of(piece.part): (piece.part, expr)
            for piece, expr in zip(pieces, behind, strict=True)
            if piece.part is not None
        }
        whole = reassembled(numbered, scope, slot.layer)
    parts: tuple[Expression, ...] = (whole,)
    for spec in reversed(before):
        parts = backward(spec, parts[0], scope, slot.layer)
    sources = tuple(piece.slot.target for piece in pieces)
    return [UnboundTensor(name, expr, sources) for name, expr in zip(pieces[0].names, parts, strict=True)]


def _undone(piece: _Piece, specs: tuple[Spec, ...], scope: Scope) -> Expression:
    expr = piece.expr
    for spec in reversed(specs):
        (expr,) = backward(spec, expr, scope, piece.slot.layer)
    return expr
