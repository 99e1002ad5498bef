"""Laguna: attention with a gate (softplus, one for each head or for each value), heads that differ between layers,
experts chosen by a sigmoid behind dense layers, sliding windows whose layers turn another part of a head.

Checked against transformers 5.24 models/laguna/{configuration,modeling}_laguna.py and llama.cpp src/models/laguna.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows, kv_heads
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["LAGUNA"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"
_GATE = _BLOCK + "attn_gate.weight"

LAGUNA = DECODER.derive(
    gguf="laguna",
    hf=("LagunaForCausalLM",),
    model_type=("laguna",),
    rope=Rope(
        "neox",
        kinds=("default", "linear", "yarn"),
        dimension=True,
        partial=1.0,
        local_theta=10000.0,
        local_partial=1.0,
        settings={"full_attention": {"rope_theta": 500000.0, "partial_rotary_factor": 0.5}},
    ),
    window=Window(period=1, size=512, stated=True),
    without=("n_head", "n_head_kv", "head_size"),  # behind the param that says what they are in each layer
    params=(
        Param("heads", "num_attention_heads", default=48, implied=(("", "largest(n_head)"),)),
        Param("n_head", "num_attention_heads_per_layer", "attention.head_count", derive="heads", per_layer=True),
        kv_heads(8),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("vocab_size", "vocab_size", "vocab_size"),
        leading_dense(1),
        Param("n_expert", "num_experts", "expert_count", default=256, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=512),
        Param("n_ff_shared", "shared_expert_intermediate_size", "expert_shared_feed_forward_length", default=512),
        Param("routed_scale", "moe_routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.0),
        Param("normalised", (), "expert_weights_norm", "BOOL", default=True),
        Param("gating", (), "expert_gating_func", default=2),
        Param("n_gate", (), default=0),
        Param(
            "by_value",
            "gating",
            codes=((True, 0), ("per-head", 0), ("per-element", 1)),
            default=0,
            low=0,
            implied=(("n_gate == n_head", "0"), ("", "1")),
        ),
        Param("router_cap", "moe_router_logit_softcapping", type="FLOAT32", default=0.0, low=0),
        Param("weighs_input", "moe_apply_router_weight_on_input", type="BOOL", default=False),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
    ),
    rows=(
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        Row(_ATTENTION + "g_proj.weight", _GATE, ("n_head", "n_embd"), when="not by_value"),
        Row(_ATTENTION + "g_proj.weight", _GATE, ("n_head*head_size", "n_embd"), when="by_value"),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.experts.e_score_correction_bias", "mlp.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_expert", "n_ff_shared", _ROUTED, alias="mlp.shared_experts"),
    ),
    refuses=(
        Refuses("router_cap", "llama.cpp's laguna graph does not cap the router's logits"),
        Refuses("weighs_input", "llama.cpp's laguna graph weighs what the experts give"),
        Refuses("attention_bias", "llama.cpp's laguna graph has no biases"),
    ),
    graph={"mlp": "moe", "qk_norm": "head", "gate": "softplus"},
)
