"""Command R, Aya (Cohere 1) and Command R7B (Cohere 2): one layer norm for attention and MLP beside each other.

Checked against transformers 5.23 models/{cohere,cohere2}/{configuration,modeling}_*.py and llama.cpp
src/models/{command-r,cohere2}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row, Window

__all__ = ["COHERE", "COHERE2"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
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
    refuses=(
        Refuses("not tied", "llama.cpp's graph of this architecture has no output matrix besides the embedding"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's graph has heads of n_embd / n_head values only"),
    ),
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
        Refuses("n_layer < 64 and qk_norm", _QK_NORM),
        Refuses("63 < n_layer and not qk_norm", _QK_NORM),
    ),
    graph={"qk_norm": "head"},
)

COHERE2 = _PARALLEL.derive(
    gguf="cohere2",
    hf=("Cohere2ForCausalLM",),
    model_type=("cohere2",),
    rope=Rope("norm", kinds=("default",), dimension=True),
    window=Window(period=4, size=4096, required=True),
    params=(
        Param("n_ctx", "max_position_embeddings", "context_length", default=8192),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("sliding_window", "sliding_window", default=4096, nullable=True),
    ),
    refuses=(Refuses("not sliding_window", "llama.cpp's cohere2 graph always has a sliding window"),),
    graph={"no_rope": "full"},
)
