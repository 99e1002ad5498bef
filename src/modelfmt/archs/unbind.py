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
from modelfmt.archs.specs import Fused, Grouped, Part, Shape, Spec, backward, number_of, reassembled
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
    told = {param.name: _there(param.tensor, tensors) for param in arch.params if param.tensor}
    scope = hparams.restore(arch, metadata, sizes | told, tensors)
    scope["tied"] = "output.weight" not in tensors
    made: list[UnboundTensor] = []
    fused: dict[str, list[_Piece]] = {}
    used: set[str] = set()
    missing: list[tuple[str, Shape]] = []
    for slots in slots_of(arch.rows, scope):
        slot = slots[0]
        if slot.target not in tensors:
            if slot.required and not slot.row.tied_to and not slot.row.unused:
                missing.append((slot.target, slot.shape(scope)))
            continue
        used.add(slot.target)
        if slot.row.unused:
            continue
        piece = _Piece(slot, _checked(slot, tensors[slot.target], scope))
        if piece.part is None:
            made += _restored([piece], scope)
        else:
            fused.setdefault(slot.name(slot.row.sources[0]), []).append(piece)
    left = [(name, tensors[name].shape) for name in tensors if name not in used and name not in _CONSTANTS]
    if left or missing:
        raise unmatched(left, missing)
    for pieces in fused.values():
        made += _restored(sorted(pieces, key=lambda piece: number_of(piece.part) if piece.part else 0), scope)
    place = {name: index for index, name in enumerate(tensors)}
    ordered = sorted(made, key=lambda tensor: min(place[name] for name in tensor.source_names))
    return Unbound(arch, ordered, {name: tensors[name] for name in _CONSTANTS if name in tensors}, scope)


def _there(name: str, tensors: Mapping[str, Expression]) -> int:
    """Whether a tensor is there; in how many layers, if its name has a layer."""
    if "{i}" not in name:
        return name in tensors
    start, end = name.split("{i}")
    return sum(found.startswith(start) and found.endswith(end) for found in tensors)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of the file: the whole of a source, or a part of a fused one."""

    slot: Slot
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
    names = slot.names(slot.row.sources[0], scope)
    return [UnboundTensor(name, expr, sources) for name, expr in zip(names, parts, strict=True)]


def _undone(piece: _Piece, specs: tuple[Spec, ...], scope: Scope) -> Expression:
    expr = piece.expr
    for spec in reversed(specs):
        (expr,) = backward(spec, expr, scope, piece.slot.layer)
    return expr
