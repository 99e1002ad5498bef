"""MiMo V2 Flash: sliding-window layers with sinks and key-value heads of their own, values smaller than keys, experts
chosen by a sigmoid in the layers that are not dense.

Checked against transformers 5.24 models/mimo_v2_flash/{configuration,modeling}_mimo_v2_flash.py and llama.cpp
src/models/mimo2.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows, sliding_layers, targets
from modelfmt.archs.experts import dense_rows, router, score_bias
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["MIMO2"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_DENSE, _ROUTED = "not sparse", "sparse"

MIMO2 = DECODER.derive(
    gguf="mimo2",
    hf=("MiMoV2FlashForCausalLM",),
    model_type=("mimo_v2_flash",),
    rope=Rope(
        "neox",
        theta=5e6,
        kinds=("default", "linear", "yarn"),
        local_theta=10000.0,
        partial=0.334,
        dimension=True,
    ),
    without=("n_head_kv", *targets("attn_q", "attn_k", "attn_v", "attn_output")),
    params=(
        Param(
            "rms_eps",
            ("rms_norm_eps", "layernorm_epsilon"),
            "attention.layer_norm_rms_epsilon",
            "FLOAT32",
            default=1e-5,
        ),
        Param("head_size", "head_dim", "attention.key_length", default=192),
        Param("value_size", "v_head_dim", "attention.value_length", default=128),
        Param("value_scale", "attention_value_scale", "attention.value_scale", "FLOAT32", default=0.707, nullable=True),
        # the hub's configuration counts the tokens before the one that looks
        Param("before", "sliding_window_size", default=None),
        Param(
            "window",
            "sliding_window",
            "attention.sliding_window",
            cases=(("before", "before + 1"),),
            default=129,
        ),
        Param("hybrid", "hybrid_layer_pattern", low=0, high=1, per_layer=True, default=None),
        Param("patterned", "hybrid_layer_pattern", counted=True, default=0, implied=(("", "0"),)),
        sliding_layers(
            ("patterned and hybrid", "1"),
            ("patterned", "0"),
            ("not layer", "0"),
            ("layer % 6 == 5", "0"),
            ("", "1"),
        ),
        Param("full", (), each=(("slides", "0"), ("", "1"))),
        Param("kv_full", "num_key_value_heads", default=4, implied=(("", "at(n_head_kv, full)"),)),
        Param("kv_sliding", "swa_num_key_value_heads", derive="2*kv_full", implied=(("", "at(n_head_kv, slides)"),)),
        Param(
            "n_head_kv",
            (),
            "attention.head_count_kv",
            per_layer=True,
            each=(("slides", "kv_sliding"), ("", "kv_full")),
        ),
        Param("frequency", "moe_layer_freq", low=0, high=1, per_layer=True, default=None),
        Param("frequent", "moe_layer_freq", counted=True, default=0, implied=(("", "0"),)),
        Param(
            "sparse",
            "mlp_layer_types",
            codes=(("sparse", 1), ("dense", 0)),
            per_layer=True,
            each=(("frequent and frequency", "1"), ("frequent", "0"), ("not layer", "0"), ("", "1")),
            tensors="blk.{i}.ffn_gate_inp.weight",
        ),
        Param("n_expert", "n_routed_experts", "expert_count", default=256, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=2048),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.0, omit=1.0),
        Param("normalised", "norm_topk_prob", type="BOOL", default=True, allowed=(True,)),
        Param("n_group", "n_group", default=1, allowed=(1,)),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", ("n_head*head_size", "n_embd")),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", ("n_head_kv*head_size", "n_embd")),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", ("n_head_kv*value_size", "n_embd")),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*value_size")),
        Row(
            (_ATTENTION + "attention_sink_bias", _ATTENTION + "sinks"),
            _BLOCK + "attn_sinks.weight",
            ("n_head",),
            when="slides",
        ),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
    ),
    ignores=(
        Ignore("model.mtp.*", "the layers that predict further tokens take no part in llama.cpp's graph", loss=True),
    ),
    refuses=(
        Refuses("attention_bias", "llama.cpp's mimo2 graph has no biases"),
        Refuses("tied", "llama.cpp's mimo2 graph wants an output matrix besides the embedding"),
    ),
    graph={"mlp": "moe", "attention": "sinks"},
)
