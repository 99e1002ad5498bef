"""GLM 4 (0414): norms before and behind attention and MLP, gate and up fused on both sides, partial rope; GLM 4.5 to
4.7 and Solar Open: experts with DeepSeek 3's router behind dense layers. The GLM of 2024 has no norms behind. The
language models of GLM 4.1V to 4.6V and GLM OCR turn by several positions.

Checked against transformers 5.24 models/{glm,glm4,glm4_moe,glm4v,glm4v_moe,glm_ocr,solar_open}/*.py and llama.cpp
src/models/{chatglm,glm4,glm4-moe}.cpp, conversion/glm.py (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import (
    ATTENTION_BIAS,
    DECODER,
    HEAD_SIZE_WRITTEN,
    PROJECTIONS,
    expert_rows,
    kv_heads,
    targets,
)
from modelfmt.archs.experts import MTP, dense_rows, n_nextn, nextn, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.specs import Permute
from modelfmt.archs.table import Param, Rope, Row

__all__ = ["GLM", "GLM4", "GLM4V", "GLM4V_MOE", "GLM4_MOE", "GLM_OCR", "SOLAR_OPEN"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

GLM4 = DECODER.derive(
    gguf="glm4",
    hf=("Glm4ForCausalLM",),
    model_type=("glm4",),
    rope=Rope("norm", partial=0.5, dimension=True),
    without=targets("ffn_gate"),
    params=(
        kv_heads(2),
        replace(ATTENTION_BIAS, default=True),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1.5625e-7),
    ),
    rows=(
        Row(_LAYER + "self_attn.q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_LAYER + "post_self_attn_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(_LAYER + "post_mlp_layernorm.weight", _BLOCK + "post_ffw_norm.weight", ("n_embd",)),
        Row(_LAYER + "mlp.gate_up_proj.weight", _BLOCK + "ffn_up.weight", ("2*n_ff", "n_embd")),
    ),
    graph={"norm_place": "pre+post", "fused": ("gate_up",)},
)

_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"
_ATTENTION = _LAYER + "self_attn."

GLM4_MOE = DECODER.derive(
    gguf="glm4moe",
    hf=("Glm4MoeForCausalLM",),
    model_type=("glm4_moe",),
    rope=Rope("neox", kinds=("default", "linear", "yarn"), partial=0.5, dimension=True),
    without=targets("ffn_norm"),
    params=(
        kv_heads(8),
        *HEAD_SIZE_WRITTEN,
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("n_dense", "first_k_dense_replace", "leading_dense_block_count", default=1, low=0),
        Param("n_expert", "n_routed_experts", "expert_count", default=128, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1408),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1),
        Param("qk_norm", "use_qk_norm", type="BOOL", default=False, tensor="blk.0.attn_q_norm.weight"),
        ATTENTION_BIAS,
        n_nextn(1),
        *sigmoid_router(n_group=1, n_group_used=1, scale=1.0, normalised=True),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",), when="qk_norm"),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",), when="qk_norm"),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", _ROUTED),
    ),
    ignores=(MTP,),
    nextn=nextn("shared_head.norm"),
    graph={"mlp": "moe"},
)

SOLAR_OPEN = GLM4_MOE.derive(
    hf=("SolarOpenForCausalLM",),
    model_type=("solar_open",),
    rope=Rope("neox", kinds=("default", "linear", "yarn"), partial=1.0, dimension=True),
    params=(
        Param("n_ff", "intermediate_size", "feed_forward_length", default=None),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("n_dense", (), "leading_dense_block_count", default=0, low=0),
        n_nextn(),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1280),
    ),
)

GLM = GLM4.derive(
    gguf="chatglm",
    hf=("GlmForCausalLM",),
    model_type=("glm",),
    without=targets("post_attention_norm", "post_ffw_norm"),
    graph={"norm_place": "pre"},
)

_SEEN = Rope(
    "neox", kinds=("default",), partial=0.5, dimension=True, sections=(8, 12, 12, 0), aliases={"mrope": "default"}
)
_QUERIES, _KEYS = Permute("n_head", "n_rot", halves=True), Permute("n_head_kv", "n_rot", halves=True)

GLM4V = GLM4.derive(
    hf=(),
    model_type=(),
    writes=("Glm4ForCausalLM", "glm4"),
    rope=_SEEN,
    params=(
        Param("head_size", "head_dim", "attention.key_length", derive="n_embd/n_head"),
        Param("n_rot", (), "rope.dimension_count", default=None),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (_QUERIES,), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (_KEYS,), "maybe"),
    ),
)
"""Sections make llama.cpp's graph turn halves, where the checkpoint has pairs."""

GLM_OCR = GLM4V.derive(params=(kv_heads(8),), ignores=(MTP,))

GLM4V_MOE = GLM4_MOE.derive(
    hf=(),
    model_type=(),
    rope=_SEEN,
    params=(ATTENTION_BIAS,),
)
