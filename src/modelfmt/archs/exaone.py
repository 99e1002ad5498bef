"""EXAONE 3 and 3.5: Llama with names of its own. EXAONE 4: norms behind attention and MLP; the 32B model has sliding
windows, and rope in those layers only. K-EXAONE: norms before them, and DeepSeek 3's experts behind dense layers.

Checked against transformers 5.24 models/{exaone,exaone4,exaone_moe}/*.py and llama.cpp
src/models/{exaone,exaone4,exaone-moe}.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import (
    DECODER,
    HEAD_SIZE_GIVEN,
    HEAD_SIZE_WRITTEN,
    PROJECTIONS,
    expert_rows,
    kv_heads,
    targets,
)
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row, Window

__all__ = ["EXAONE", "EXAONE4", "EXAONE_MOE"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_NAMES = {
    "model.embed_tokens.": "transformer.wte.",
    "model.norm.": "transformer.ln_f.",
    "model.layers.": "transformer.h.",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn.": "attn.attention.",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "gate_proj": "c_fc_0",
    "up_proj": "c_fc_1",
    "down_proj": "c_proj",
}
_SLIDES = "llama.cpp's exaone4 graph has sliding windows in models of 64 layers, and in no other"


def _named(name: str) -> str:
    """What EXAONE 3 calls a tensor of Llama."""
    for usual, own in _NAMES.items():
        name = name.replace(usual, own)
    return name


EXAONE = DECODER.derive(
    gguf="exaone",
    hf=("ExaoneForCausalLM",),
    model_type=("exaone",),
    rope=Rope("neox", theta=500000.0, kinds=("default", "linear", "dynamic", "yarn", "llama3"), dimension=True),
    params=(
        kv_heads(8),
        Param("n_layer", ("num_layers", "num_hidden_layers"), "block_count", high=1024),
        Param(
            "rms_eps",
            ("layer_norm_epsilon", "rms_norm_eps"),
            "attention.layer_norm_rms_epsilon",
            "FLOAT32",
            default=1e-5,
        ),
        Param("activation", ("activation_function", "hidden_act"), type="STRING", default="silu", allowed=("silu",)),
    ),
    rows=tuple(
        replace(row, source=(_named(row.sources[0]), *row.sources), tied_to=_named(row.tied_to)) for row in DECODER.rows
    ),
    refuses=(
        Refuses("n_head*head_size != n_embd", "llama.cpp's exaone graph has heads of n_embd / n_head values only"),
    ),
)

EXAONE4 = DECODER.derive(
    gguf="exaone4",
    hf=("Exaone4ForCausalLM",),
    model_type=("exaone4",),
    rope=Rope("neox", kinds=("default", "linear", "dynamic", "yarn", "llama3")),
    window=Window(period=4, size=4096),
    without=targets("attn_norm", "ffn_norm"),
    params=(
        *HEAD_SIZE_GIVEN,
        kv_heads(32),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("sliding_window", "sliding_window", default=4096, nullable=True),
    ),
    rows=(
        Row(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(_LAYER + "post_feedforward_layernorm.weight", _BLOCK + "post_ffw_norm.weight", ("n_embd",)),
    ),
    refuses=(
        Refuses("n_head*head_size != n_embd", "llama.cpp's exaone4 graph has heads of n_embd / n_head values only"),
        Refuses("sliding_window and n_layer != 64", _SLIDES),
        Refuses("not sliding_window and n_layer == 64", _SLIDES),
    ),
    graph={"norm_place": "post", "qk_norm": "head", "no_rope": "full"},
)

_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

EXAONE_MOE = DECODER.derive(
    gguf="exaone-moe",
    hf=("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    model_type=("exaone_moe",),
    rope=Rope("neox", kinds=("default", "linear", "yarn", "llama3")),
    window=Window(period=4, size=4096, required=True),
    params=(
        kv_heads(32),
        *HEAD_SIZE_WRITTEN,
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size"),
        leading_dense(1),
        Param("n_expert", "num_experts", "expert_count", default=64, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1024),
        Param("n_shared", "num_shared_experts", "expert_shared_count", default=1),
        Param("n_ff_shared", (), "expert_shared_feed_forward_length", derive="n_shared*n_ff_expert"),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.5, normalised=True),
        Param("sliding_window", "sliding_window", default=4096, nullable=True),
    ),
    rows=(
        Row(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_ff_shared", _ROUTED),
    ),
    ignores=(Ignore("mtp.*", "the layers that predict further tokens take no part in llama.cpp's graph", loss=True),),
    refuses=(Refuses("not sliding_window", "llama.cpp's exaone-moe graph always has a sliding window"),),
    graph={"mlp": "moe", "qk_norm": "head", "no_rope": "full"},
)
