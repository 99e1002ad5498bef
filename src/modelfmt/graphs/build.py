"""From a checkpoint to a runnable program: weights by role, the structural graph, its lowering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt.graphs import decoder, encoder, standard
from modelfmt.graphs.builder import Form
from modelfmt.graphs.weights import bound
from modelfmt.ir.graph import Program
from modelfmt.ir.ops import Expression
from modelfmt.report import Loss, Note

__all__ = ["Made", "from_checkpoint"]


@dataclass
class Made:
    """A program, and what is to be said of it."""

    program: Program
    notes: list[Note | Loss] = field(default_factory=list)


def from_checkpoint(
    *,
    architecture: str | None,
    config: Mapping[str, Any],
    tensors: Mapping[str, Expression],
    assets: Mapping[str, bytes],
    form: Form,
) -> Made:
    """The program of a checkpoint. form: how its weights and activations are to be.

    Raises UnsupportedError (an architecture without a graph, tensors that are not its own), CorruptFile.
    """
    weights = bound(architecture=architecture, config=config, tensors=tensors, assets=assets)
    notes: list[Note | Loss] = [*weights.losses, *weights.notes]
    if weights.arch.model_type[0] in encoder.SUPPORTED:
        pooled, _ = encoder.read_pooling(assets)
        graph = encoder.build(weights, form, pooled)
    else:
        graph = decoder.build(weights, form)
    return Made(standard.lower(graph, form), notes)
