"""Sarvam MoE, which is Ling 2 (`bailingmoe2`) in GGUF: queries, keys and values in one matrix on both sides, norms of
queries and keys, DeepSeek 3's experts behind dense layers.

transformers computes it with GLM 4.5's class. Checked against transformers 5.24 models/sarvam_moe/*.py,
conversion_mapping.py and llama.cpp src/models/bailingmoe2.cpp (October 2026). Ling 2 itself has no class in
transformers.
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, PROJECTIONS, expert_rows, kv_heads, targets
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["SARVAM_MOE"]

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
