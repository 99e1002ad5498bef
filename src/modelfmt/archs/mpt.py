"""MPT: layer norms without biases, alibi, fused queries, keys and values.

Checked against transformers 5.23 models/mpt/{configuration,modeling}_mpt.py and llama.cpp src/models/mpt.cpp (October
2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, targets
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["MPT"]

_LAYER, _BLOCK = "transformer.blocks.{i}.", "blk.{i}."

MPT = DECODER.derive(
    gguf="mpt",
    hf=("MptForCausalLM", "MPTForCausalLM", "MptModel"),
    model_type=("mpt",),
    rope=None,
    without=("rms_eps", "activation", *targets("attn_q", "attn_k", "attn_v", "ffn_gate")),
    params=(
        Param("n_layer", "n_layers", "block_count", high=1024),
        Param("n_ctx", "max_seq_len", "context_length", default=2048),
        Param("n_embd", "d_model", "embedding_length"),
        Param("n_ff", (), "feed_forward_length", derive="4*n_embd"),
        Param("n_head", "n_heads", "attention.head_count"),
        Param("n_head_kv", (), derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("clip", "attn_config.clip_qkv", "attention.clamp_kqv", "FLOAT32", default=None),
        Param("alibi_max", "attn_config.alibi_bias_max", "attention.max_alibi_bias", "FLOAT32", default=8),
        Param("alibi", "attn_config.alibi", type="BOOL", default=True),
        Param("softmax_scale", "attn_config.softmax_scale", type="FLOAT32", default=None),
        Param("qk_norm", "attn_config.qk_ln", type="BOOL", default=False),
        Param("logit_scale", "logit_scale", type="FLOAT32", default=None),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    ),
    rows=(
        Row("transformer.wte.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("transformer.norm_f.weight", "output_norm.weight", ("n_embd",)),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="transformer.wte.weight"),
        Row(_LAYER + "norm_1.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_LAYER + "attn.Wqkv.weight", _BLOCK + "attn_qkv.weight", ("3*n_embd", "n_embd")),
        Row(_LAYER + "attn.out_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd")),
        Row(_LAYER + "norm_2.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_LAYER + "ffn.up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "ffn.down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff")),
    ),
    refuses=(
        Refuses("not alibi", "transformers' MPT always has alibi"),
        Refuses("softmax_scale", "llama.cpp's mpt graph scales by the head size"),
        Refuses("qk_norm", "transformers' MPT has no norms of queries and keys"),
        Refuses("logit_scale", "llama.cpp's mpt graph does not scale the logits"),
    ),
    prefixes=(("transformer.", ""),),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain", "positions": "alibi", "fused": ("qkv",)},
)
