"""Step 3.5 and the language part of Step 3.7: sliding-window layers with heads of their own, half of each head turns in
the others; a gate for each head; experts chosen by a sigmoid, whose activations may be clamped.

Norms are stored minus one. Checked against transformers 5.24 models/step3p7/{configuration,modeling}_step3p7.py and
llama.cpp src/models/step35.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows, sliding_layers
from modelfmt.archs.experts import MTP, dense_rows, router, score_bias, shared_rows
from modelfmt.archs.multimodal import beside
from modelfmt.archs.specs import Add
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["STEP3_7"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_UP = ("n_expert", "n_ff_expert", "n_embd")
_PLUS_ONE = (Add(1.0),)


def _clamp(name: str, key: str) -> Param:
    return Param(name, name, key, "FLOAT32", low=0, per_layer=True, default=None, cut=True)


STEP3_7 = DECODER.derive(
    gguf="step35",
    hf=("Step3p7ForConditionalGeneration", "Step3p5ForCausalLM"),
    model_type=("step3p7", "step3p5"),
    inside="step3p5",
    rope=Rope("neox", kinds=("default", "llama3"), partial=1.0, turns=0.5, local_theta="same", local_partial=1.0),
    without=("n_head", "n_head_kv", "head_size"),  # behind the params that say what they are in each layer
    params=(
        sliding_layers(("", "0"), cut=True),
        Param("full", (), each=(("slides", "0"), ("", "1"))),
        Param("window", "sliding_window", "attention.sliding_window", default=None),
        Param("heads", "num_attention_heads", default=64, implied=(("", "at(n_head, full)"),)),
        Param(
            "heads_sliding",
            ("num_sliding_attention_heads", "attention_other_setting.num_attention_heads"),
            derive="heads",
            implied=(("", "at(n_head, slides)"),),
        ),
        Param("n_head", (), "attention.head_count", per_layer=True, each=(("slides", "heads_sliding"), ("", "heads"))),
        Param("n_head_kv", ("num_key_value_heads", "num_attention_groups"), "attention.head_count_kv", default=8),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("query_scale", "query_pre_attn_scalar", type="FLOAT32", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param(
            "sparse",
            ("mlp_layer_types", "moe_layers_enum"),
            codes=(("sparse", 1), ("dense", 0)),
            per_layer=True,
            each=(("layer < 3", "0"), ("", "1")),
            cut=True,
            tensors="blk.{i}.ffn_gate_inp.weight",
        ),
        Param("n_expert", ("n_routed_experts", "moe_num_experts"), "expert_count", default=288, high=1024),
        Param("n_expert_used", ("num_experts_per_tok", "moe_top_k"), "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1280),
        Param("n_ff_shared", "share_expert_dim", "expert_shared_feed_forward_length", default=1280),
        Param("routed_scale", "moe_router_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.0),
        Param("normalised", (), "expert_weights_norm", "BOOL", default=True),
        Param("gating", (), "expert_gating_func", default=2),
        _clamp("swiglu_limits", "swiglu_clamp_exp"),
        _clamp("swiglu_limits_shared", "swiglu_clamp_shexp"),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=(
        Row("model.norm.weight", "output_norm.weight", ("n_embd",), _PLUS_ONE),
        Row(_LAYER + "input_layernorm.weight", _BLOCK + "attn_norm.weight", ("n_embd",), _PLUS_ONE),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",), _PLUS_ONE),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",), _PLUS_ONE),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",), _PLUS_ONE),
        Row(_ATTENTION + "g_proj.weight", _BLOCK + "attn_gate.weight", ("n_head", "n_embd")),
        *dense_rows("not sparse"),
        router("moe.gate.weight", "mlp.gate.weight", when="sparse"),
        score_bias("moe.router_bias", "mlp.gate.e_score_correction_bias", when="sparse"),
        Row(_LAYER + "moe.gate_proj.weight", _BLOCK + "ffn_gate_exps.weight", _UP, when="sparse"),
        Row(_LAYER + "moe.up_proj.weight", _BLOCK + "ffn_up_exps.weight", _UP, when="sparse"),
        Row(
            _LAYER + "moe.down_proj.weight",
            _BLOCK + "ffn_down_exps.weight",
            ("n_expert", "n_embd", "n_ff_expert"),
            when="sparse",
        ),
        *(
            row
            for row in expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when="sparse")
            if not row.ops or not str(row.source).endswith("weight")
        ),
        *shared_rows("share_expert", "n_ff_shared", "sparse", alias="mlp.shared_experts"),
    ),
    ignores=(*beside("vision_model", "vit_large_projector", "multi_modal_projector"), MTP),
    refuses=(
        Refuses("tied", "llama.cpp's step35 graph wants an output matrix besides the embedding"),
        Refuses("not window", "llama.cpp's step35 graph always has a sliding window"),
        Refuses("query_scale != head_size", "llama.cpp's step35 graph divides the scores by the root of the head size"),
        Refuses("2*n_rot != head_size", "llama.cpp's step35 graph turns half of each head in full layers"),
        Refuses("n_rot_local != head_size", "llama.cpp's step35 graph turns whole heads in sliding layers"),
        Refuses("attention_bias", "llama.cpp's step35 graph has no biases"),
        Refuses("mlp_bias", "llama.cpp's step35 graph has no biases"),
    ),
    graph={"mlp": "moe", "qk_norm": "head", "norm_offset": 1.0, "gate": "head"},
)
