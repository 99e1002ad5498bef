"""Falcon 1 and 2 (7B, 40B, 180B, 11B): attention and MLP beside each other, one or two layer norms before them.

Checked against transformers 5.23 models/falcon/{configuration,modeling}_falcon.py and llama.cpp src/models/falcon.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, biased, targets
from modelfmt.archs.specs import Ungrouped
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["FALCON"]

_LAYER, _BLOCK = "transformer.h.{i}.", "blk.{i}."

FALCON = DECODER.derive(
    gguf="falcon",
    hf=("FalconForCausalLM", "RWForCausalLM", "FalconModel"),
    model_type=("falcon",),
    rope=Rope("neox", implied=10000.0),
    without=("rms_eps", "n_head_kv", *targets("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_norm")),
    params=(
        Param("n_ctx", "max_position_embeddings", "context_length", default=2048),
        Param("n_embd", ("hidden_size", "n_embed"), "embedding_length"),
        Param("n_ff", "ffn_hidden_size", "feed_forward_length", derive="4*n_embd"),
        Param("n_head", ("num_attention_heads", "n_head"), "attention.head_count"),
        Param(
            "grouped",
            "new_decoder_architecture",
            type="BOOL",
            default=False,
            tensor="blk.0.attn_norm_2.weight",
            implied=(("grouped", "1"), ("n_head_kv != 1 and n_head_kv != n_head", "1"), ("", "0")),
        ),
        Param("multi_query", "multi_query", type="BOOL", default=True, implied=(("n_head_kv == 1", "1"), ("", "0"))),
        Param(
            "n_head_kv",
            ("num_kv_heads", "n_head_kv"),
            "attention.head_count_kv",
            derive="n_head",
            cases=(("not grouped and multi_query", "1"), ("not grouped", "n_head")),
        ),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param(
            "n_norm",
            "num_ln_in_parallel_attn",
            default=2,
            implied=(("two_norms", "2"), ("grouped", "1"), ("", "2")),
        ),
        Param("two_norms", (), type="BOOL", default=False, tensor="blk.0.attn_norm_2.weight"),
        Param("layout", (), "tensor_data_layout", "STRING", default="jploski"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("parallel", "parallel_attn", type="BOOL", default=True),
        Param("alibi", "alibi", type="BOOL", default=False),
        Param("bias", "bias", type="BOOL", default=False),
        Param("activation", "activation", type="STRING", default="gelu", allowed=("gelu",)),
    ),
    rows=(
        Row("transformer.word_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        biased("transformer.ln_f", "output_norm", "n_embd"),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="transformer.word_embeddings.weight"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd", when="not grouped"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd", when="grouped and n_norm == 1"),
        biased(_LAYER + "ln_mlp", _BLOCK + "attn_norm", "n_embd", when="grouped and n_norm == 2"),
        biased(_LAYER + "ln_attn", _BLOCK + "attn_norm_2", "n_embd", when="grouped and n_norm == 2"),
        Row(
            _LAYER + "self_attention.query_key_value.weight",
            _BLOCK + "attn_qkv.weight",
            ("n_embd + 2*n_head_kv*head_size", "n_embd"),
            (Ungrouped("n_head_kv", "n_head/n_head_kv"),),
        ),
        Row(_LAYER + "self_attention.dense.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd")),
        Row(_LAYER + "mlp.dense_h_to_4h.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "mlp.dense_4h_to_h.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff")),
    ),
    refuses=(
        Refuses("alibi", "llama.cpp's falcon graph has rotary positions"),
        Refuses("bias", "llama.cpp's falcon graph has no biases in its projections"),
        Refuses("not grouped and not parallel", "llama.cpp's falcon graph has attention and MLP beside each other"),
    ),
    prefixes=(("transformer.", ""),),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain", "residual": "parallel", "fused": ("qkv",)},
)
