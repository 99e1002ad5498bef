"""From a checkpoint to a runnable program: weights by role, the structural graph, its lowering."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs import decoder, encoder, genai, microsoft, openvino, pictures, seq2seq, standard
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


class Made(msgspec.Struct):
    """Programs by the stems of their files, what is to be said of them, and what lies beside them."""

    programs: dict[str, Program]
    notes: list[Note | Loss] = msgspec.field(default_factory=list)
    files: dict[str, bytes] = msgspec.field(default_factory=dict)

    @property
    def program(self) -> Program:
        """The only one. Raises UnsupportedError where there are several."""
        if len(self.programs) > 1:
            raise UnsupportedError(
                "this model is more than one graph", code="several-graphs", found=", ".join(self.programs)
            )
        return next(iter(self.programs.values()))


_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def _check_used(weights: Weights, graphs: Collection[Graph]) -> None:
    """Raise where a weight has no part in the graphs: then they are not those of this model."""
    tensors = {tensor for graph in graphs for tensor in graph.tensors}
    used = {name for tensor in tensors for name in (tensor, tensor.removesuffix("_codes"))}
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
    """The programs of a checkpoint. form: how their weights and activations are to be, and of which operators.

    Raises UnsupportedError (an architecture without a graph, tensors that are not its own), CorruptFile.
    """
    weights = bound(architecture=architecture, config=config, tensors=tensors, assets=assets)
    graphs = structural(weights, form, architecture or "", assets)
    made = Made({}, [*weights.losses, *weights.notes])
    for stem, graph in graphs.items():
        made.programs[stem], said = _LOWER.get(form.profile, standard.lower)(graph, form)
        made.notes += [Note(weights.arch.gguf or weights.kind, text) for text in said]
    if form.profile == GENAI:
        made.files, more = genai.beside(made.program.graph, weights, assets)
        made.notes += more
    return made


def structural(weights: Weights, form: Form, name: str, assets: Mapping[str, bytes]) -> dict[str, Graph]:
    """The graphs before they are lowered, by the stems of their files. name: the class of the checkpoint, which says
    what comes out. Raises UnsupportedError."""
    pooled, _ = encoder.read_pooling(assets)
    graphs = _graphs(weights, form, name, pooled)
    _check_used(weights, graphs.values())
    return graphs


def _graphs(weights: Weights, form: Form, name: str, pooled: encoder.Pooling | None) -> dict[str, Graph]:
    if weights.kind in seq2seq.SUPPORTED:
        return seq2seq.build(weights, form)
    if weights.kind in pictures.SUPPORTED:
        return {"model": pictures.build(weights, form)}
    if weights.kind in encoder.SUPPORTED:
        return {"model": encoder.build(weights, form, pooled)}
    headless = name.endswith("Model") and not name.endswith("HeadModel")
    states = pooled is not None or headless or weights.arch.graph.get("block") == "encoder"
    return {"model": decoder.build(weights, form, states=states, pooled=pooled)}
