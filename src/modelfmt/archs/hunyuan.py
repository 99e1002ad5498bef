"""Hunyuan 1: a Llama-like decoder with norms of queries and keys behind the rope; with experts beside a shared MLP.

Checked against transformers 5.24 models/{hunyuan_v1_dense,hunyuan_v1_moe}/{configuration,modeling}_*.py and llama.cpp
src/models/{hunyuan-dense,hunyuan-vl,hunyuan-moe}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, PROJECTIONS, expert_rows, targets
from modelfmt.archs.experts import router, shared_rows
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["HUNYUAN_DENSE", "HUNYUAN_MOE"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

HUNYUAN_DENSE = DECODER.derive(
    gguf="hunyuan-dense",
    hf=("HunYuanDenseV1ForCausalLM",),
    model_type=("hunyuan_v1_dense",),
    rope=Rope("neox", alpha=True),
    params=(
        *HEAD_SIZE_WRITTEN,
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

HUNYUAN_MOE = HUNYUAN_DENSE.derive(
    gguf="hunyuan-moe",
    hf=("HunYuanMoEV1ForCausalLM",),
    model_type=("hunyuan_v1_moe",),
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        Param("n_expert", "num_experts", "expert_count", default=1, high=1024, uniform=True),
        Param("n_expert_used", "moe_topk", "expert_used_count", default=1, high=1024, uniform=True),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", derive="n_ff", uniform=True),
        Param("n_ff_shared", (), "expert_shared_feed_forward_length", derive="n_ff"),
        Param("n_shared", "num_shared_expert", "expert_shared_count", default=1, uniform=True, allowed=(1,)),
    ),
    rows=(
        router("mlp.gate.wg.weight"),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff"),
        *shared_rows("mlp.shared_mlp", "n_ff_shared"),
    ),
    refuses=(Refuses("n_ff_expert != n_ff", "llama.cpp's hunyuan-moe graph has experts as wide as the shared MLP"),),
    graph={"mlp": "moe"},
)
