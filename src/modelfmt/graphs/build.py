"""From a checkpoint to a runnable program: weights by role, the structural graph, its lowering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt.graphs import decoder, encoder, standard
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
    float_type: str = "FLOAT",
    as_stored: bool = False,
) -> Made:
    """The program of a checkpoint. float_type: FLOAT or FLOAT16, of weights, activations and the cache.
    as_stored: weights keep the type of float that they have in their file, and are cast in the graph.

    Raises UnsupportedError (an architecture without a graph, tensors that are not its own), CorruptFile.
    """
    weights = bound(architecture=architecture, config=config, tensors=tensors, assets=assets)
    notes: list[Note | Loss] = [*weights.losses, *weights.notes]
    if weights.arch.model_type[0] in encoder.SUPPORTED:
        pooled, _ = encoder.read_pooling(assets)
        graph = encoder.build(weights, float_type, pooled, as_stored=as_stored)
    else:
        graph = decoder.build(weights, float_type, as_stored=as_stored)
    return Made(standard.lower(graph, float_type), notes)
