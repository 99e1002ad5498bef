"""ERNIE 4.5 (dense): a Llama-like decoder whose rope turns pairs in the checkpoint already.

Checked against transformers 5.23 models/ernie4_5/{configuration,modeling}_ernie4_5.py and llama.cpp
src/models/ernie4-5.cpp (October 2026).
"""

from __future__ import annotations

from dataclasses import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, kv_heads
from modelfmt.archs.table import Param, Rope, Row

__all__ = ["ERNIE4_5"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

ERNIE4_5 = DECODER.derive(
    gguf="ernie4_5",
    hf=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    model_type=("ernie4_5",),
    rope=Rope("norm", theta=500000.0),
    params=(
        kv_heads(2),
        replace(ATTENTION_BIAS, config="use_bias"),
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", _Q), (), "maybe"),
    ),
    prefixes=(("model.", "ernie."), *DECODER.prefixes),
)
