"""StarCoder 2: a Llama-like decoder with layer norms, biases everywhere and a plain MLP.

Checked against transformers 5.23 models/starcoder2/{configuration,modeling}_starcoder2.py and llama.cpp
src/models/starcoder2.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, kv_heads
from modelfmt.archs.table import Loses, Param, Refuses, Row

__all__ = ["STARCODER2"]

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
