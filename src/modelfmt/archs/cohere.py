"""Command R, Aya (Cohere 1) and Command R7B (Cohere 2): one layer norm for attention and MLP beside each other.
Command A+ has experts behind dense layers.

Checked against transformers 5.24 models/{cohere,cohere2,cohere2_moe}/{configuration,modeling}_*.py and llama.cpp
src/models/{command-r,cohere2,cohere2moe}.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows
from modelfmt.archs.experts import dense_rows, leading_dense, router, shared_rows
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row, Window

__all__ = ["COHERE", "COHERE2", "COHERE2_MOE"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_HEADS = Refuses("n_head*head_size != n_embd", "llama.cpp's graph has heads of n_embd / n_head values only")
_QK_NORM = "llama.cpp's command-r graph has norms of queries and keys from 64 layers on, and not below"

_PARALLEL = DECODER.derive(
    without=("rms_eps", "output.weight", _BLOCK + "ffn_norm.weight"),
    params=(
        Param("n_ctx", ("model_max_length", "max_position_embeddings"), "context_length", default=8192),
        Param("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("logit_scale", "logit_scale", "logit_scale", "FLOAT32", default=0.0625),
        Param("rope_scaling", (), "rope.scaling.type", "STRING", default="none"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    ),
    ignores=(Ignore("*lm_head.weight", "the output of this architecture is its embedding", when="tied"),),
    refuses=(Refuses("not tied", "llama.cpp's graph of this architecture has no output matrix besides the embedding"),),
    graph={"norm": "layer", "residual": "parallel"},
)

COHERE = _PARALLEL.derive(
    gguf="command-r",
    hf=("CohereForCausalLM",),
    model_type=("cohere",),
    rope=Rope("norm", theta=500000.0, kinds=("default",)),
    params=(Param("qk_norm", "use_qk_norm", type="BOOL", default=False, tensor="blk.0.attn_q_norm.weight"),),
    rows=(
        Row(
            _LAYER + "self_attn.q_norm.weight",
            _BLOCK + "attn_q_norm.weight",
            ("n_head", "head_size"),
            when="qk_norm",
            keep="F32",
        ),
        Row(
            _LAYER + "self_attn.k_norm.weight",
            _BLOCK + "attn_k_norm.weight",
            ("n_head_kv", "head_size"),
            when="qk_norm",
            keep="F32",
        ),
    ),
    refuses=(
        _HEADS,
        Refuses("n_layer < 64 and qk_norm", _QK_NORM),
        Refuses("63 < n_layer and not qk_norm", _QK_NORM),
    ),
    graph={"qk_norm": "head"},
)

_SLIDING = _PARALLEL.derive(
    rope=Rope("norm", kinds=("default",), dimension=True),
    window=Window(period=4, size=4096, required=True),
    params=(
        Param("n_ctx", "max_position_embeddings", "context_length", default=8192),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("sliding_window", "sliding_window", default=4096, nullable=True),
    ),
    refuses=(Refuses("not sliding_window", "llama.cpp's cohere2 graphs always have a sliding window"),),
    graph={"no_rope": "full"},
)

COHERE2 = _SLIDING.derive(gguf="cohere2", hf=("Cohere2ForCausalLM",), model_type=("cohere2",), refuses=(_HEADS,))

_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

COHERE2_MOE = _SLIDING.derive(
    gguf="cohere2moe",
    hf=("Cohere2MoeForCausalLM",),
    model_type=("cohere2_moe",),
    window=Window(period=4, size=4096, required=True, stated=True),
    without=("n_ff",),
    params=(
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=None),
        Param("n_ff_expert", "intermediate_size", "expert_feed_forward_length"),
        Param("n_ff", "prefix_dense_intermediate_size", "feed_forward_length", derive="n_ff_expert"),
        replace(leading_dense(0), config=("mlp_layer_types", "first_k_dense_replace")),
        Param("dense_pattern", "prefix_dense_sliding_window_pattern", default=1),
        Param("n_expert", "num_experts", "expert_count", default=8, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=2, high=1024),
        Param("n_shared", "num_shared_experts", "expert_shared_count", default=0, low=0, omit=0),
        Param("halved", "shared_expert_combination_strategy", codes=(("average", 1), ("sum", 0)), default=1, low=0),
        Param("gating", "expert_selection_fn", "expert_gating_func", codes=(("softmax", 1), ("sigmoid", 2)), default=1),
        Param(
            "normalised", "norm_topk_prob", "expert_weights_norm", "BOOL", cases=(("gating == 1", "1"),), default=True
        ),
    ),
    rows=(
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", f"{_ROUTED} and n_shared"),
    ),
    refuses=(
        Refuses("n_shared and not halved", "llama.cpp's cohere2moe graph halves what shared and routed experts give"),
        Refuses("n_dense and dense_pattern != 1", "llama.cpp's cohere2moe graph turns in all dense layers"),
    ),
    graph={"mlp": "moe"},
)
