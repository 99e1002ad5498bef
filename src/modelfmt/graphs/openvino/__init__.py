"""Structural nodes to the operators of OpenVINO, in the patterns that its plugins make one kernel of.

A decoder's cache is its state: ReadValue and Assign, named as optimum-intel names them, and an input `beam_idx` that
says which text of the batch before each one goes on from. Hidden states are [batch, sequence, width] throughout;
activations are float32 (a plugin chooses its own precision), weights what the checkpoint has, cast where they are used.
Source: common/transformations and intel_cpu/transformations of OpenVINO 2026.4; the tests look at the compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.builder import STRUCTURAL, Form
from modelfmt.graphs.openvino import attention, choices, experts, layers, pictures, rotary, tokens, weights
from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Graph, Node, Program

__all__ = ["LOWERINGS", "PROFILE", "lower"]

PROFILE = "openvino"


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "Activation": layers.activation,
    "Add": layers.elementwise("Add"),
    "AddRows": pictures.add_rows,
    "Attention": attention.attention,
    "AttentionBias": attention.attention_bias,
    "BlockEmbedding": weights.block_embedding,
    "BlockLinear": weights.block_linear,
    "BlockMoE": experts.experts,
    "CastWeight": weights.cast_weight,
    "ChannelsLast": pictures.channels_last,
    "Convolution": pictures.convolution,
    "CrossAttention": attention.cross_attention,
    "Embedding": weights.embedding,
    "EndToken": pictures.end_token,
    "FirstToken": pictures.first_token,
    "Identity": layers.identity,
    "LayerNorm": layers.layer_norm,
    "Linear": weights.linear,
    "MaskPositions": tokens.mask_positions,
    "MoE": experts.experts,
    "Mul": layers.elementwise("Multiply"),
    "Pool": tokens.pool,
    "Positions": tokens.positions,
    "PrependToken": pictures.prepend_token,
    "RMSNorm": layers.rms_norm,
    "RelativeBias": attention.relative_bias,
    "RoPE": rotary.rope,
    "RopeTable": rotary.rope_table,
    "Scale": layers.scale,
    "Similarity": pictures.similarity,
    "Softcap": layers.softcap,
    "SplitColumns": layers.split,
    "SplitHeads": attention.split_heads,
    "Unit": pictures.unit,
    "ZeroIds": tokens.zero_ids,
}
"""Structural operation -> what lowers it."""


def lower(graph: Graph, form: Form) -> tuple[Program, list[str]]:
    """A program of OpenVINO's operators that computes what a structural graph says, and what is to be said of it.
    Raises UnsupportedError."""
    lowering = Lowering(graph, form)
    for node in graph.nodes:
        _lower_node(lowering, node)
    lowering.drop_unused()
    lowering.graph.values = list(lowering.values.values())
    return Program(lowering.graph), []


def _lower_node(lowering: Lowering, node: Node) -> None:
    if node.op == "If":
        choices.choice(lowering, node, _lower_node)
    elif node.op in LOWERINGS and node.domain in (STRUCTURAL, ""):
        LOWERINGS[node.op](lowering, node)
    else:
        raise UnsupportedError("no such operation is lowered", code="lowering", found=f"{node.domain}.{node.op}")
