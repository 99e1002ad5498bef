"""BLOOM: layer norms with biases, one more on the embedding, alibi instead of positions.

Checked against transformers 5.23 models/bloom/{configuration,modeling}_bloom.py and llama.cpp src/models/bloom.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, biased, targets
from modelfmt.archs.specs import Ungrouped
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["BLOOM"]

_LAYER, _BLOCK = "transformer.h.{i}.", "blk.{i}."

BLOOM = DECODER.derive(
    gguf="bloom",
    hf=("BloomForCausalLM", "BloomModel"),
    model_type=("bloom",),
    rope=None,
    without=("rms_eps", "activation", "n_ctx", *targets("attn_q", "attn_k", "attn_v", "ffn_gate")),
    params=(
        Param("n_layer", ("n_layer", "num_hidden_layers"), "block_count", high=1024),
        Param("n_embd", ("hidden_size", "n_embed"), "embedding_length"),
        Param("n_ctx", "seq_length", "context_length", derive="n_embd"),
        Param("n_ff", (), "feed_forward_length", derive="4*n_embd"),
        Param("n_head", ("n_head", "num_attention_heads"), "attention.head_count"),
        Param("n_head_kv", (), "attention.head_count_kv", derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("after_norm", "apply_residual_connection_post_layernorm", type="BOOL", default=False),
    ),
    rows=(
        Row("transformer.word_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        biased("transformer.word_embeddings_layernorm", "token_embd_norm", "n_embd"),
        biased("transformer.ln_f", "output_norm", "n_embd"),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="transformer.word_embeddings.weight"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        biased(
            _LAYER + "self_attention.query_key_value",
            _BLOCK + "attn_qkv",
            "3*n_embd",
            "n_embd",
            ops=(Ungrouped("n_head"),),
        ),
        biased(_LAYER + "self_attention.dense", _BLOCK + "attn_output", "n_embd", "n_embd"),
        biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd"),
        biased(_LAYER + "mlp.dense_h_to_4h", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "mlp.dense_4h_to_h", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    refuses=(Refuses("after_norm", "llama.cpp's bloom graph adds what was there before the norms"),),
    prefixes=(("transformer.", ""),),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain", "positions": "alibi", "fused": ("qkv",)},
)
