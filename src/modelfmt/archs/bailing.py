"""Sarvam MoE, which is Ling 2 (`bailingmoe2`) in GGUF: queries, keys and values in one matrix on both sides, norms of
queries and keys, DeepSeek 3's experts behind dense layers. Ling 3: Kimi's delta attention with a bounded decay in most
layers, in the others DeepSeek's latent attention with a gate for each head.

transformers computes Sarvam MoE with GLM 4.5's class. Checked against transformers 5.24 models/{sarvam_moe,
bailing_hybrid}/*.py, conversion_mapping.py and llama.cpp src/models/{bailingmoe2,bailingmoe3}.cpp (October 2026). Ling
2 itself has no class in transformers.
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, PROJECTIONS, expert_rows, kv_heads, targets
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.kimi_linear import KIMI_LINEAR
from modelfmt.archs.specs import NegExp, Reshaped, Scaled
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["LING3", "SARVAM_MOE"]

_ATTENTION, _BLOCK = "model.layers.{i}.attention.", "blk.{i}."
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

SARVAM_MOE = DECODER.derive(
    gguf="bailingmoe2",
    hf=("SarvamMoEForCausalLM",),
    model_type=("sarvam_moe",),
    rope=Rope("neox", theta=8e6, kinds=("default", "linear", "yarn"), partial=1.0, dimension=True),
    without=targets("attn_q", "attn_k", "attn_v"),
    params=(
        kv_heads(4),
        *HEAD_SIZE_WRITTEN,
        leading_dense(1),
        Param("n_expert", ("n_routed_experts", "num_experts"), "expert_count", default=128, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=6, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1024),
        Param("n_shared", ("n_shared_experts", "num_shared_experts"), "expert_shared_count", default=1),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.5, normalised=True),
        Param("qk_norm", "use_qk_norm", type="BOOL", default=True, allowed=(True,)),
        Param("attention_bias", ("attention_bias", "use_qkv_bias"), type="BOOL", default=False),
    ),
    rows=(
        Row("model.word_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="model.word_embeddings.weight"),
        Row(
            _ATTENTION + "query_key_value.weight",
            _BLOCK + "attn_qkv.weight",
            ("n_embd + 2*n_head_kv*head_size", "n_embd"),
        ),
        Row(_ATTENTION + "dense.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*head_size")),
        Row(_ATTENTION + "query_layernorm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "key_layernorm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.expert_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", _ROUTED),
    ),
    refuses=(
        Refuses("attention_bias", "llama.cpp's bailingmoe2 graph has no biases"),
        Refuses("tied", "llama.cpp's bailingmoe2 graph wants an output matrix besides the embedding"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's bailingmoe2 graph has heads of n_embd / n_head values only"),
    ),
    graph={"mlp": "moe", "qk_norm": "head", "fused": ("qkv",)},
)

_LATENT, _DELTA, _WIDTH = "not delta", "delta", "n_head*delta_size"
_ALL_DIM = ("rope_parameters.mscale_all_dim", "rope_scaling.mscale_all_dim")
_USED, _NORMALISED = ("num_experts_per_token", "num_experts_per_tok"), ("moe_renormalize", "norm_topk_prob")
_OTHER = (*targets("ssm_f_a", "ssm_f_b", "ssm_g_a", "ssm_g_b"), "blk.{i}.ssm_a")
_KIMI = tuple(
    replace(row, source=row.sources[0].replace("self_attn.o_proj", "attention.dense").replace("self_attn", "attention"))
    for row in KIMI_LINEAR.rows
    if ".self_attn." in row.sources[0] and row.target not in _OTHER
)

LING3 = KIMI_LINEAR.derive(
    gguf="bailingmoe3",
    hf=("BailingHybridForCausalLM", "BailingMoeV3ForCausalLM"),
    model_type=("bailing_hybrid",),
    rope=Rope("norm", theta=6e6, kinds=("default", "linear", "yarn"), dimension=True),
    without=("delta", "n_head_kv", *_OTHER),
    params=(
        Param("n_ctx", ("model_max_length", "max_position_embeddings"), "context_length", default=262144),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-6),
        Param("n_rot", (), "rope.dimension_count", default=None),
        Param("all_dim", _ALL_DIM, type="FLOAT32", default=None),
        leading_dense(2),
        Param("n_expert", ("num_experts", "num_local_experts"), "expert_count", default=512, high=1024),
        Param("n_expert_used", _USED, "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=768),
        Param("n_shared", ("num_shared_experts", "n_shared_experts"), "expert_shared_count", default=1),
        Param("n_ff_shared", (), "expert_shared_feed_forward_length", derive="n_shared*n_ff_expert"),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=2.5),
        Param("normalised", _NORMALISED, "expert_weights_norm", "BOOL", default=True, omit=False),
        Param("gating", (), "expert_gating_func", default=2),
        Param("n_group", ("num_expert_group", "n_group"), "expert_group_count", default=8),
        Param("n_group_used", "topk_group", "expert_group_used_count", default=4),
        Param("kernel", ("linear_conv_kernel_dim", "short_conv_kernel_size"), "ssm.conv_kernel", default=4),
        Param("delta_size", ("linear_head_dim", "head_dim"), "kda.head_dim", default=128),
        Param("delta_heads", "linear_num_heads", derive="n_head"),
        Param("bounded", "kda_safe_gate", "kda.safe_gate", "BOOL", default=True, allowed=(True,)),
        Param("bound", "kda_lower_bound", "kda.gate_lower_bound", "FLOAT32", default=-5.0, negative=True),
        Param("period", "layer_group_size", default=6),
        Param(
            "delta",
            "layer_types",
            codes=(("linear_attention", 1), ("full_attention", 0)),
            each=(("layer % period == period - 1", "0"), ("", "1")),
            per_layer=True,
            implied=(("n_head_kv", "0"), ("", "1")),
        ),
        Param("n_head_kv", (), "attention.head_count_kv", low=0, per_layer=True, each=(("delta", "0"), ("", "1"))),
    ),
    rows=(
        *_KIMI,
        Row("model.word_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="model.word_embeddings.weight"),
        Row(_ATTENTION + "f_proj.weight", _BLOCK + "ssm_f_a.weight", (_WIDTH, "n_embd"), when=_DELTA),
        Row(_ATTENTION + "g_proj.weight", _BLOCK + "ssm_g_a.weight", (_WIDTH, "n_embd"), when=_DELTA),
        Row(_ATTENTION + "g_proj.weight", _BLOCK + "attn_gate.weight", ("n_head", "n_embd"), when=_LATENT),
        Row(
            _ATTENTION + "A_log",
            _BLOCK + "ssm_a",
            ("n_head", "1"),
            (Reshaped(("n_head",), ("n_head", "1")), NegExp(), Scaled("0 - 1")),
            when=_DELTA,
            keep="F32",
        ),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.expert_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_ff_shared", _ROUTED),
    ),
    refuses=(Refuses("all_dim", "llama.cpp's bailingmoe3 graph has no mscale_all_dim"),),
)
