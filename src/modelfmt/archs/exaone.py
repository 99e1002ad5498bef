"""EXAONE 4: norms behind attention and MLP; the 32B model has sliding windows, and rope in those layers only.

Checked against transformers 5.23 models/exaone4/{configuration,modeling}_exaone4.py and llama.cpp
src/models/exaone4.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_GIVEN, kv_heads, targets
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["EXAONE4"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_SLIDES = "llama.cpp's exaone4 graph has sliding windows in models of 64 layers, and in no other"

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
