"""DBRX: layer norms without biases, clipped fused queries, keys and values, the experts of a layer under one another.

Checked against transformers 5.24 models/dbrx/{configuration,modeling}_dbrx.py and llama.cpp src/models/dbrx.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import BUFFERS
from modelfmt.archs.specs import Heads, Transposed
from modelfmt.archs.table import Architecture, Param, Refuses, Rope, Row

__all__ = ["DBRX"]

_LAYER, _BLOCK = "transformer.blocks.{i}.", "blk.{i}."
_EXPERTS, _NORMS = _LAYER + "ffn.experts.mlp.", _LAYER + "norm_attn_norm."
_SPLIT = Heads("n_expert")
_UP = ("n_expert", "n_ff", "n_embd")

DBRX = Architecture(
    gguf="dbrx",
    hf=("DbrxForCausalLM",),
    model_type=("dbrx",),
    rope=Rope("neox", kinds=("default", "linear", "yarn")),
    params=(
        Param("n_layer", ("n_layers", "num_hidden_layers"), "block_count", default=24, high=1024),
        Param("n_ctx", ("max_seq_len", "max_position_embeddings"), "context_length", default=2048),
        Param("n_embd", ("d_model", "hidden_size"), "embedding_length", default=2048),
        Param("n_ff", "ffn_config.ffn_hidden_size", "feed_forward_length", default=3584),
        Param("n_head", ("n_heads", "num_attention_heads"), "attention.head_count", default=16),
        Param("n_head_kv", "attn_config.kv_n_heads", "attention.head_count_kv", default=1),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("theta", "attn_config.rope_theta", "rope.freq_base", "FLOAT32", default=10000.0),
        Param("clip", "attn_config.clip_qkv", "attention.clamp_kqv", "FLOAT32", default=None),
        Param("norm_eps", (), "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("n_expert", "ffn_config.moe_num_experts", "expert_count", default=4, high=1024),
        Param("n_expert_used", "ffn_config.moe_top_k", "expert_used_count", default=1, high=1024),
        Param(
            "normalised",
            "ffn_config.moe_normalize_expert_weights",
            type="FLOAT32",
            default=1.0,
            nullable=True,
            allowed=(1.0,),
        ),
        Param("activation", "ffn_config.ffn_act_fn.name", type="STRING", default="silu", allowed=("silu", "swish")),
        Param("vocab_size", "vocab_size", default=32000),
        Param("tied", "tie_word_embeddings", type="BOOL", default=False),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row("transformer.wte.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("transformer.norm_f.weight", "output_norm.weight", ("n_embd",)),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd")),
        Row(_NORMS + "norm_1.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_NORMS + "attn.Wqkv.weight", _BLOCK + "attn_qkv.weight", ("n_embd + 2*n_head_kv*head_size", "n_embd")),
        Row(_NORMS + "attn.out_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd")),
        Row(_NORMS + "norm_2.weight", _BLOCK + "attn_output_norm.weight", ("n_embd",)),
        Row(_LAYER + "ffn.router.layer.weight", _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), keep="F32"),
        Row(_EXPERTS + "w1", _BLOCK + "ffn_gate_exps.weight", _UP, (_SPLIT,)),
        Row(_EXPERTS + "v1", _BLOCK + "ffn_up_exps.weight", _UP, (_SPLIT,)),
        Row(_EXPERTS + "w2", _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff"), (_SPLIT, Transposed())),
    ),
    ignores=BUFFERS,
    refuses=(
        Refuses("not clip", "llama.cpp's dbrx graph always clips queries, keys and values"),
        Refuses("not normalised", "llama.cpp's dbrx graph always normalises the weights of the chosen experts"),
        Refuses("tied", "llama.cpp's dbrx graph wants an output matrix besides the embedding"),
        Refuses("n_head % n_head_kv", "query heads must divide among the key-value heads"),
    ),
    prefixes=(("transformer.", ""),),
    graph={"block": "decoder", "norm": "layer", "norm_place": "pre", "mlp": "moe", "residual": "serial"},
)
