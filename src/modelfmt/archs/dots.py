"""dots.llm1: a Qwen 3 like decoder with DeepSeek 3's experts behind dense layers.

Checked against transformers 5.24 models/dots1/{configuration,modeling}_dots1.py and llama.cpp src/models/dots1.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, PROJECTIONS, expert_rows, kv_heads
from modelfmt.archs.experts import dense_rows, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.table import Loses, Param, Refuses, Row

__all__ = ["DOTS1"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

DOTS1 = DECODER.derive(
    gguf="dots1",
    hf=("Dots1ForCausalLM",),
    model_type=("dots1",),
    params=(
        kv_heads(32),
        *HEAD_SIZE_WRITTEN,
        Param("n_dense", "first_k_dense_replace", "leading_dense_block_count", default=0, low=0),
        Param("n_expert", "n_routed_experts", "expert_count", high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1408),
        Param("n_shared", "n_shared_experts", "expert_shared_count"),
        *sigmoid_router(n_group=1, n_group_used=1, scale=1.0, normalised=False),
        Param("sliding_window", "sliding_window", default=4096, nullable=True),
        Param("max_window_layers", "max_window_layers", default=62, low=0),
    ),
    rows=(
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", _ROUTED),
    ),
    refuses=(
        Refuses("tied", "llama.cpp's dots1 graph wants an output matrix besides the embedding"),
        Refuses("n_head_kv != n_head", "llama.cpp's dots1 graph has a key-value head for each query head"),
    ),
    loses=(
        Loses(
            "sliding_window and sliding_window < n_ctx and max_window_layers < n_layer",
            "dropped",
            "sliding_window",
            "llama.cpp's dots1 graph attends to the whole context: texts longer than the window come out differently",
        ),
    ),
    graph={"mlp": "moe", "qk_norm": "head"},
)
