"""StarCoder 2: a Llama-like decoder with layer norms, biases everywhere and a plain MLP. StarCoder: GPT-2 with one
key-value head, and matrices stored as [out, in].

Checked against transformers 5.24 models/{gpt_bigcode,starcoder2}/{configuration,modeling}_*.py and llama.cpp
src/models/{starcoder,starcoder2}.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, biased, kv_heads
from modelfmt.archs.gpt2 import GPT2
from modelfmt.archs.table import Loses, Param, Refuses, Row

__all__ = ["STARCODER", "STARCODER2"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"


def _biased(source: str, target: str, *shape: str) -> Row:
    return Row(source + ".weight", target + ".weight", shape, (), "required")


STARCODER2 = DECODER.derive(
    gguf="starcoder2",
    hf=("Starcoder2ForCausalLM",),
    model_type=("starcoder2",),
    without=("rms_eps", _BLOCK + "ffn_gate.weight"),
    params=(
        kv_heads(2),
        Param("norm_eps", "norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("biased", "use_bias", type="BOOL", default=True),
        Param("sliding_window", "sliding_window", default=None),
        Param(
            "activation",
            "hidden_act",
            type="STRING",
            default="gelu_pytorch_tanh",
            allowed=("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast"),
        ),
    ),
    rows=(
        _biased("model.norm", "output_norm", "n_embd"),
        _biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        _biased(_LAYER + "self_attn.q_proj", _BLOCK + "attn_q", _Q, "n_embd"),
        _biased(_LAYER + "self_attn.k_proj", _BLOCK + "attn_k", _KV, "n_embd"),
        _biased(_LAYER + "self_attn.v_proj", _BLOCK + "attn_v", _KV, "n_embd"),
        _biased(_LAYER + "self_attn.o_proj", _BLOCK + "attn_output", "n_embd", _Q),
        _biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd"),
        _biased(_LAYER + "mlp.c_fc", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        _biased(_LAYER + "mlp.c_proj", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    refuses=(
        Refuses("not biased", "llama.cpp's starcoder2 graph wants a bias in every projection"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's starcoder2 graph has heads of n_embd / n_head values only"),
    ),
    loses=(
        Loses(
            "sliding_window and sliding_window < n_ctx",
            "dropped",
            "sliding_window",
            "llama.cpp's starcoder2 graph attends to the whole context: longer texts come out differently",
        ),
    ),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain"},
)

STARCODER = GPT2.derive(
    gguf="starcoder",
    hf=("GPTBigCodeForCausalLM",),
    model_type=("gpt_bigcode",),
    params=(
        Param("n_layer", ("n_layer", "num_hidden_layers"), "block_count", default=12, high=1024),
        Param("n_ctx", ("n_positions", "max_position_embeddings"), "context_length", default=1024),
        Param("n_embd", ("n_embd", "hidden_size"), "embedding_length", default=768),
        Param("n_head", ("n_head", "num_attention_heads"), "attention.head_count", default=12),
        Param("n_head_kv", (), "attention.head_count_kv", default=1),
        Param(
            "activation",
            "activation_function",
            type="STRING",
            default="gelu_pytorch_tanh",
            allowed=("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast"),
        ),
        Param("multi_query", "multi_query", type="BOOL", default=True),
    ),
    rows=(
        *(replace(row, ops=()) for row in GPT2.rows if row.ops and "c_attn" not in row.source),
        biased("transformer.h.{i}.attn.c_attn", "blk.{i}.attn_qkv", "n_embd + 2*head_size", "n_embd"),
    ),
    refuses=(Refuses("not multi_query", "llama.cpp's starcoder graph has one key-value head"),),
)
