"""Applies a table to a GGUF file: the tensors of the checkpoint that it came from, by the inverse operations.

The first layout and spelling of each row is written, unless the names of the original are known: then its own. Metadata
is used for shapes and operations only; `configuration` makes config.json of it, and of the constants (rope factors).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from modelfmt.archs import hparams
from modelfmt.archs.slots import Slot, slots_of, spellings, unmatched, wrong_shape
from modelfmt.archs.specs import Part, Shape, backward, joined
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import Scope
from modelfmt.archs.values import flat
from modelfmt.ir.ops import Expression

__all__ = ["Unbound", "UnboundTensor", "to_huggingface"]

_CONSTANTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_SIZES = {"vocab_size": "token_embd.weight", "n_token_types": "token_types.weight"}


@dataclass(frozen=True, slots=True)
class UnboundTensor:
    """One tensor of the checkpoint: its name, how it is made, of which GGUF tensors."""

    name: str
    expr: Expression
    source_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unbound:
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

    tensors: GGUF name -> expression. metadata: the keys of the file. config, names: the original's configuration and
    the names of its tensors, where they are known. Raises UnsupportedError (unmatched-tensors), CorruptFile
    (metadata-missing, config-value, tensor-shape).
    """
    scope = _scope(arch, tensors, metadata, config)
    made: dict[str, UnboundTensor] = {}
    fused: dict[str, dict[int, tuple[Part, UnboundTensor]]] = {}
    used: set[str] = set()
    missing: list[tuple[str, Shape]] = []
    twins: list[tuple[str, str]] = []
    for slots in slots_of(arch.rows, scope):
        slot, wanted = _chosen(arch, slots, scope, names)
        if slot.target not in tensors:
            if slot.row.tied_to and names:
                twin = _spelled(arch, slot.name(slot.row.tied_to), names)
                twins += [(name, twin) for name in wanted if name in names and twin]
            elif slot.required and not slot.row.tied_to:
                missing.append((slot.target, slot.shape(scope)))
            continue
        used.add(slot.target)
        for tensor in _restored(slot, wanted, tensors[slot.target], scope):
            part = next((spec for spec in slot.row.ops if isinstance(spec, Part)), None)
            if part is None:
                made[tensor.name] = tensor
            else:
                fused.setdefault(tensor.name, {})[part.index] = (part, tensor)
    left = [(name, tensors[name].shape) for name in tensors if name not in used and name not in _CONSTANTS]
    if left or missing:
        raise unmatched(left, missing)
    made |= {name: _joined(name, parts) for name, parts in fused.items()}
    made |= {name: UnboundTensor(name, made[twin].expr, made[twin].source_names) for name, twin in twins}
    place = {name: index for index, name in enumerate(tensors)}
    ordered = sorted(made.values(), key=lambda tensor: min(place[name] for name in tensor.source_names))
    return Unbound(arch, ordered, {name: tensors[name] for name in _CONSTANTS if name in tensors}, scope)


def _scope(
    arch: Architecture,
    tensors: Mapping[str, Expression],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if config is None:
        sizes = {name: tensors[source].shape[0] for name, source in _SIZES.items() if source in tensors}
        told = {param.name: param.tensor in tensors for param in arch.params if param.tensor}
        scope = hparams.restore(arch, metadata, sizes | told)
    else:
        scope = {"n_expert": 0} | hparams.read(arch, flat(config))
    scope["tied"] = "output.weight" not in tensors
    return scope


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


def _restored(slot: Slot, names: list[str], expr: Expression, scope: Scope) -> list[UnboundTensor]:
    if expr.shape != slot.shape(scope):
        raise wrong_shape(slot.target, expr.shape, slot.shape(scope))
    parts: tuple[Expression, ...] = (expr,)
    for spec in reversed(slot.ops):
        parts = backward(spec, parts[0], scope, slot.layer)
    return [UnboundTensor(name, part, (slot.target,)) for name, part in zip(names, parts, strict=True)]


def _joined(name: str, parts: dict[int, tuple[Part, UnboundTensor]]) -> UnboundTensor:
    ordered = [parts[index] for index in sorted(parts)]
    expr = joined(tuple(tensor.expr for _, tensor in ordered), ordered[0][0].axis)
    return UnboundTensor(name, expr, tuple(source for _, tensor in ordered for source in tensor.source_names))
