"""Applies a table to a GGUF file: the tensors of the checkpoint that it came from, by the inverse operations.

The first layout and spelling of each row is written. Metadata is used for shapes and operations only; config.json, and
what the constants of the file (rope factors) mean for it, is not made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelfmt.archs import hparams
from modelfmt.archs.slots import Slot, slots_of, unmatched, wrong_shape
from modelfmt.archs.specs import Fused, Grouped, Part, Shape, backward, number_of, reassembled
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import Scope
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


def to_huggingface(arch: Architecture, *, tensors: Mapping[str, Expression], metadata: Mapping[str, Any]) -> Unbound:
    """The tensors of a checkpoint from those of a GGUF file. Quantized rows stay as they are where rows only move.

    tensors: GGUF name -> expression. metadata: the keys of the file. Raises UnsupportedError (unmatched-tensors),
    CorruptFile (metadata-missing, config-value, tensor-shape).
    """
    sizes = {name: tensors[source].shape[0] for name, source in _SIZES.items() if source in tensors}
    scope = hparams.restore(arch, metadata, sizes, tensors)
    scope["tied"] = "output.weight" not in tensors
    made: dict[str, UnboundTensor] = {}
    fused: dict[str, tuple[int, dict[int, tuple[Fused, UnboundTensor]]]] = {}
    used: set[str] = set()
    missing: list[tuple[str, Shape]] = []
    for slots in slots_of(arch.rows, scope):
        slot = slots[0]
        if slot.target not in tensors:
            if slot.required and not slot.row.tied_to:
                missing.append((slot.target, slot.shape(scope)))
            continue
        used.add(slot.target)
        for tensor in _restored(slot, tensors[slot.target], scope):
            part = next((spec for spec in slot.row.ops if isinstance(spec, Part | Grouped)), None)
            if part is None:
                made[tensor.name] = tensor
            else:
                fused.setdefault(tensor.name, (slot.layer, {}))[1][number_of(part)] = (part, tensor)
    left = [(name, tensors[name].shape) for name in tensors if name not in used and name not in _CONSTANTS]
    if left or missing:
        raise unmatched(left, missing)
    made |= {name: _whole(name, parts, scope, layer) for name, (layer, parts) in fused.items()}
    place = {name: index for index, name in enumerate(tensors)}
    ordered = sorted(made.values(), key=lambda tensor: min(place[name] for name in tensor.source_names))
    return Unbound(arch, ordered, {name: tensors[name] for name in _CONSTANTS if name in tensors}, scope)


def _restored(slot: Slot, expr: Expression, scope: Scope) -> list[UnboundTensor]:
    if expr.shape != slot.shape(scope):
        raise wrong_shape(slot.target, expr.shape, slot.shape(scope))
    parts: tuple[Expression, ...] = (expr,)
    for spec in reversed(slot.ops):
        parts = backward(spec, parts[0], scope, slot.layer)
    names = slot.names(slot.row.sources[0], scope)
    return [UnboundTensor(name, part, (slot.target,)) for name, part in zip(names, parts, strict=True)]


def _whole(name: str, parts: dict[int, tuple[Fused, UnboundTensor]], scope: Scope, layer: int) -> UnboundTensor:
    expr = reassembled({index: (spec, tensor.expr) for index, (spec, tensor) in parts.items()}, scope, layer)
    return UnboundTensor(name, expr, tuple(source for _, tensor in parts.values() for source in tensor.source_names))
