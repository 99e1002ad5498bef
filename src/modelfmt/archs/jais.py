"""Jais 2: layer norms, biases everywhere, and a plain MLP whose activation is relu squared.

Checked against transformers 5.24 models/jais2/{configuration,modeling}_jais2.py and llama.cpp src/models/jais2.cpp
(October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, HEAD_SIZE_WRITTEN, MLP_BIAS, biased, kv_heads, targets
from modelfmt.archs.table import Param, Refuses, Rope

__all__ = ["JAIS2"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"
_BIASES = "llama.cpp's jais2 graph needs all biases"

JAIS2 = DECODER.derive(
    gguf="jais2",
    hf=("Jais2ForCausalLM",),
    model_type=("jais2",),
    rope=Rope("neox", dimension=True),
    without=("rms_eps", *targets("ffn_gate")),
    params=(
        *HEAD_SIZE_WRITTEN,
        kv_heads(26),
        Param("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("activation", "hidden_act", type="STRING", default="relu2", allowed=("relu2",)),
        replace(ATTENTION_BIAS, default=True),
        replace(MLP_BIAS, default=True),
    ),
    rows=(
        biased("model.norm", "output_norm", "n_embd"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        biased(_LAYER + "self_attn.q_proj", _BLOCK + "attn_q", _Q, "n_embd"),
        biased(_LAYER + "self_attn.k_proj", _BLOCK + "attn_k", _KV, "n_embd"),
        biased(_LAYER + "self_attn.v_proj", _BLOCK + "attn_v", _KV, "n_embd"),
        biased(_LAYER + "self_attn.o_proj", _BLOCK + "attn_output", "n_embd", _Q),
        biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd"),
        biased(_LAYER + "mlp.up_proj", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "mlp.down_proj", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    refuses=(Refuses("not attention_bias", _BIASES), Refuses("not mlp_bias", _BIASES)),
    graph={"norm": "layer", "mlp": "plain", "activation": "relu2"},
)
