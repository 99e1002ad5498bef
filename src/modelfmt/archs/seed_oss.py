"""Seed-OSS: a Llama-like decoder with biases for queries, keys and values.

Checked against transformers 5.23 models/seed_oss/{configuration,modeling}_seed_oss.py and llama.cpp
src/models/seed-oss.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, kv_heads
from modelfmt.archs.table import Param, Row

__all__ = ["SEED_OSS"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

SEED_OSS = DECODER.derive(
    gguf="seed_oss",
    hf=("SeedOssForCausalLM",),
    model_type=("seed_oss",),
    without=(_BLOCK + "ffn_norm.weight",),
    params=(
        kv_heads(8),
        replace(ATTENTION_BIAS, default=True),
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row("model.layers.{i}.post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
    ),
)
