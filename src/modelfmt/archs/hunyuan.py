"""Hunyuan 1 (dense): a Llama-like decoder with norms of queries and keys behind the rope.

Checked against transformers 5.23 models/hunyuan_v1_dense/{configuration,modeling}_hunyuan_v1_dense.py and llama.cpp
src/models/{hunyuan-dense,hunyuan-vl}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, HEAD_SIZE_WRITTEN
from modelfmt.archs.table import Param, Rope, Row

__all__ = ["HUNYUAN_DENSE"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

HUNYUAN_DENSE = DECODER.derive(
    gguf="hunyuan-dense",
    hf=("HunYuanDenseV1ForCausalLM",),
    model_type=("hunyuan_v1_dense",),
    rope=Rope("neox", alpha=True),
    params=(
        *HEAD_SIZE_WRITTEN,
        ATTENTION_BIAS,
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "query_layernorm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "key_layernorm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
    ),
    graph={"qk_norm": "head behind rope"},
)
