"""Kimi Linear: delta attention with a decay for each channel in most layers, DeepSeek's latent attention without
positions in the others, and DeepSeek 3's experts behind dense layers.

Checked against transformers 5.24 models/kimi_linear/{configuration,modeling}_kimi_linear.py and llama.cpp
src/models/kimi-linear.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import NUMBERED, expert_rows, targets
from modelfmt.archs.deepseek import SIGMOID
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows
from modelfmt.archs.specs import NegExp, Reshaped
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["KIMI_LINEAR"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_LATENT, _DELTA, _ROUTED = "not delta", "delta", "n_dense < layer + 1"
_WIDTH = "n_head*delta_size"
_MOE = "block_sparse_moe"


def _delta(source: str, target: str, *shape: str) -> Row:
    return Row(f"{_ATTENTION}{source}.weight", f"{_BLOCK}{target}.weight", shape, when=_DELTA)


KIMI_LINEAR = SIGMOID.derive(
    gguf="kimi-linear",
    hf=("KimiLinearForCausalLM",),
    model_type=("kimi_linear",),
    rope=None,
    without=("n_head_kv", *targets("attn_output")),
    params=(
        Param("n_ctx", ("max_position_embeddings", "model_max_length"), "context_length", default=1048576),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("n_rot", (), "rope.dimension_count", derive="head_size"),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=None),
        Param("interleaved", (), default=1),
        leading_dense(1),
        Param("n_expert", ("num_local_experts", "num_experts"), "expert_count", default=256, high=1024),
        Param(
            "n_expert_used", ("num_experts_per_tok", "num_experts_per_token"), "expert_used_count", default=8, high=1024
        ),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1024),
        Param("n_shared", ("n_shared_experts", "num_shared_experts"), "expert_shared_count", default=1),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=2.446),
        Param("normalised", ("norm_topk_prob", "moe_renormalize"), type="BOOL", default=True, allowed=(True,)),
        Param("gating", "moe_router_activation_func", "expert_gating_func", codes=(("sigmoid", 2),), default=2),
        Param("n_group", ("n_group", "num_expert_group"), default=1, allowed=(1,)),
        Param("n_group_used", "topk_group", default=1),
        Param("kernel", ("linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"), "ssm.conv_kernel"),
        Param("delta_size", ("linear_head_dim", "linear_attn_config.head_dim"), "kda.head_dim"),
        Param("delta_heads", ("linear_num_heads", "linear_attn_config.num_heads"), derive="n_head"),
        Param(
            "delta",
            ("layer_types", "linear_attn_config.kda_layers"),
            codes=(("linear_attention", 1), ("full_attention", 0)),
            each=(("not layer", "1"), ("layer % 4 == 0", "0"), ("", "1")),
            per_layer=True,
            first=1,
            implied=(("n_head_kv", "0"), ("", "1")),
        ),
        Param("n_head_kv", (), "attention.head_count_kv", low=0, per_layer=True, each=(("delta", "0"), ("", "1"))),
    ),
    rows=(
        *(
            replace(row, when=f"{row.when} and {_LATENT}" if row.when else _LATENT)
            for row in SIGMOID.rows
            if row.target in targets("attn_q_a", "attn_q_a_norm", "attn_q_b", "attn_kv_a_mqa", "attn_kv_a_norm")
            or row.target in targets("attn_k_b", "attn_v_b")
        ),
        Row(
            _ATTENTION + "q_proj.weight",
            _BLOCK + "attn_q.weight",
            ("n_head*key_mla", "n_embd"),
            when=f"{_LATENT} and not q_lora",
        ),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*value_size"), when=_LATENT),
        _delta("q_proj", "attn_q", _WIDTH, "n_embd"),
        _delta("k_proj", "attn_k", _WIDTH, "n_embd"),
        _delta("v_proj", "attn_v", _WIDTH, "n_embd"),
        *(
            replace(_delta(f"{kind}_conv1d", f"ssm_conv1d_{kind}", _WIDTH, "1", "kernel"), keep="F32")
            for kind in ("q", "k", "v")
        ),
        _delta("f_a_proj", "ssm_f_a", "delta_size", "n_embd"),
        _delta("f_b_proj", "ssm_f_b", _WIDTH, "delta_size"),
        _delta("b_proj", "ssm_beta", "n_head", "n_embd"),
        Row(
            _ATTENTION + "A_log",
            _BLOCK + "ssm_a",
            ("n_head", "1"),
            (Reshaped(("1", "1", "n_head", "1"), ("n_head", "1")), NegExp()),
            when=_DELTA,
            keep="F32",
        ),
        Row(_ATTENTION + "dt_bias", _BLOCK + "ssm_dt.bias", (_WIDTH,), when=_DELTA),
        _delta("g_a_proj", "ssm_g_a", "delta_size", "n_embd"),
        _delta("g_b_proj", "ssm_g_b", _WIDTH, "delta_size"),
        _delta("o_norm", "ssm_norm", "delta_size"),
        _delta("o_proj", "attn_output", "n_embd", _WIDTH),
        *dense_rows("layer < n_dense", alias=_MOE),  # as transformers saves them
        router(f"{_MOE}.gate.weight", when=_ROUTED),
        score_bias(f"{_MOE}.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows(f"{_MOE}.experts", NUMBERED, "n_ff_expert", when=_ROUTED),
        *shared_rows(f"{_MOE}.shared_experts", "n_shared*n_ff_expert", _ROUTED),
    ),
    refuses=(
        Refuses("delta_heads != n_head", "llama.cpp's kimi-linear graph has as many heads in all layers"),
        Refuses("tied", "llama.cpp's kimi-linear graph wants an output matrix besides the embedding"),
    ),
    graph={"attention": "mla", "linear": "kda"},
)
