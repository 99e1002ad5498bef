"""GPT-2: learned positions, layer norms with biases, matrices stored as [in, out].

Checked against transformers 5.23 models/gpt2/{configuration,modeling}_gpt2.py and llama.cpp src/models/gpt2.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import BUFFERS
from modelfmt.archs.specs import Transposed
from modelfmt.archs.table import Architecture, Param, Refuses, Row

__all__ = ["GPT2"]

_LAYER, _BLOCK = "transformer.h.{i}.", "blk.{i}."
_T = (Transposed(),)

GPT2 = Architecture(
    gguf="gpt2",
    hf=("GPT2LMHeadModel", "GPT2Model"),
    model_type=("gpt2",),
    params=(
        Param("n_layer", ("n_layer", "num_hidden_layers"), "block_count", high=1024),
        Param("n_ctx", ("n_positions", "max_position_embeddings", "n_ctx"), "context_length"),
        Param("n_embd", ("n_embd", "hidden_size"), "embedding_length"),
        Param("n_ff", "n_inner", "feed_forward_length", derive="4*n_embd"),
        Param("n_head", ("n_head", "num_attention_heads"), "attention.head_count"),
        Param("n_head_kv", (), derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param(
            "activation",
            "activation_function",
            type="STRING",
            default="gelu_new",
            allowed=("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast"),
        ),
        Param("scaled", "scale_attn_weights", type="BOOL", default=True),
        Param("scaled_by_layer", "scale_attn_by_inverse_layer_idx", type="BOOL", default=False),
        Param("crossed", "add_cross_attention", type="BOOL", default=False),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row("transformer.wte.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("transformer.wpe.weight", "position_embd.weight", ("n_ctx", "n_embd"), keep="F32"),
        Row("transformer.ln_f.weight", "output_norm.weight", ("n_embd",), (), "required"),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="transformer.wte.weight"),
        Row(_LAYER + "ln_1.weight", _BLOCK + "attn_norm.weight", ("n_embd",), (), "required"),
        Row(_LAYER + "attn.c_attn.weight", _BLOCK + "attn_qkv.weight", ("3*n_embd", "n_embd"), _T, "required"),
        Row(_LAYER + "attn.c_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd"), _T, "required"),
        Row(_LAYER + "ln_2.weight", _BLOCK + "ffn_norm.weight", ("n_embd",), (), "required"),
        Row(_LAYER + "mlp.c_fc.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd"), _T, "required"),
        Row(_LAYER + "mlp.c_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), _T, "required"),
    ),
    ignores=BUFFERS,
    refuses=(
        Refuses("not scaled", "llama.cpp's gpt2 graph scales the scores of attention"),
        Refuses("scaled_by_layer", "llama.cpp's gpt2 graph scales every layer alike"),
        Refuses("crossed", "llama.cpp's gpt2 graph has no cross attention"),
    ),
    prefixes=(("transformer.", ""),),
    graph={
        "block": "decoder",
        "norm": "layer",
        "norm_place": "pre",
        "activation": "gelu_tanh",
        "mlp": "plain",
        "residual": "serial",
        "positions": "learned",
    },
)
