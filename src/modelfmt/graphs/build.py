"""From a checkpoint to a runnable program: weights by role, the structural graph, its lowering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt.errors import UnsupportedError
from modelfmt.graphs import decoder, encoder, genai, microsoft, openvino, standard
from modelfmt.graphs.builder import Form
from modelfmt.graphs.weights import Weights, bound
from modelfmt.ir.graph import Graph, Program
from modelfmt.ir.ops import Expression
from modelfmt.report import Loss, Note

__all__ = ["GENAI", "PROFILES", "Made", "from_checkpoint", "structural"]

GENAI = microsoft.GENAI
_LOWER = {openvino.PROFILE: openvino.lower} | dict.fromkeys(microsoft.PROFILES, microsoft.lower)
PROFILES = ("auto", "onnx-standard", *microsoft.PROFILES)
"""Which operators: standard ones and MatMulNBits; standard ones only; com.microsoft's, for any padding; com.microsoft's
as onnxruntime-genai runs them."""


@dataclass
class Made:
    """A program, what is to be said of it, and what lies beside it."""

    program: Program
    notes: list[Note | Loss] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def _check_used(weights: Weights, graph: Graph) -> None:
    """Raise where a weight has no part in the graph: then it is not the graph of this model."""
    used = {name for tensor in graph.tensors for name in (tensor, tensor.removesuffix("_codes"))}
    left = [role for role, weight in weights.tensors.items() if weight.name not in used and role not in _ROPE]
    if left or weights.params.get("clip"):
        raise UnsupportedError(
            "no graph is built for this variant of the architecture",
            code="no-graph",
            found=f"weights without a part in it: {', '.join(left[:8])}"
            if left
            else "queries, keys and values clipped",
            missing=left,
        )


def from_checkpoint(
    *,
    architecture: str | None,
    config: Mapping[str, Any],
    tensors: Mapping[str, Expression],
    assets: Mapping[str, bytes],
    form: Form,
) -> Made:
    """The program of a checkpoint. form: how its weights and activations are to be, and of which operators.

    Raises UnsupportedError (an architecture without a graph, tensors that are not its own), CorruptFile.
    """
    weights = bound(architecture=architecture, config=config, tensors=tensors, assets=assets)
    graph = structural(weights, form, architecture or "", assets)
    program, said = _LOWER.get(form.profile, standard.lower)(graph, form)
    made = Made(program, [*weights.losses, *weights.notes, *(Note(weights.arch.gguf, text) for text in said)])
    if form.profile == GENAI:
        made.files, more = genai.beside(program.graph, weights, assets)
        made.notes += more
    return made


def structural(weights: Weights, form: Form, architecture: str, assets: Mapping[str, bytes]) -> Graph:
    """The graph before it is lowered. architecture: the class, which says what comes out. Raises UnsupportedError."""
    pooled, _ = encoder.read_pooling(assets)
    if weights.arch.model_type[0] in encoder.SUPPORTED:
        graph = encoder.build(weights, form, pooled)
    else:
        bare = architecture.endswith("Model") and not architecture.endswith("HeadModel")
        states = pooled is not None or bare
        graph = decoder.build(weights, form, states=states, pooled=pooled)
    _check_used(weights, graph)
    return graph
