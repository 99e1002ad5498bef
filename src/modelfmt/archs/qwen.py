"""Qwen 2 (and 2.5), Qwen 3, and their mixtures of experts (Qwen 1.5 MoE is of the second).

Checked against transformers 5.24 models/{qwen2,qwen2_moe,qwen3,qwen3_moe}/{configuration,modeling}_*.py and llama.cpp
src/models/{qwen2,qwen2moe,qwen3,qwen3moe}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import (
    ATTENTION_BIAS,
    DECODER,
    HEAD_SIZE_GIVEN,
    HEAD_SIZE_WRITTEN,
    PROJECTIONS,
    expert_params,
    expert_rows,
    kv_heads,
    targets,
)
from modelfmt.archs.experts import NOT_NORMALISED, router, shared_rows
from modelfmt.archs.table import Loses, Param, Refuses, Row

__all__ = ["QWEN2", "QWEN2_MOE", "QWEN3", "QWEN3_MOE"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

QWEN2 = DECODER.derive(
    gguf="qwen2",
    hf=("Qwen2ForCausalLM", "Qwen2Model"),
    model_type=("qwen2",),
    pooled=True,
    params=(
        *HEAD_SIZE_GIVEN,
        kv_heads(32),
        Param("slides", "use_sliding_window", type="BOOL", default=False),
        Param("max_window_layers", "max_window_layers", default=28, low=0),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "required"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "required"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "required"),
    ),
    refuses=(
        Refuses("n_head*head_size != n_embd", "llama.cpp's qwen2 graph has heads of n_embd / n_head values only"),
    ),
    loses=(
        Loses(
            "slides and max_window_layers < n_layer",
            "dropped",
            "use_sliding_window",
            "llama.cpp's qwen graphs attend to the whole context: texts longer than the window come out differently",
        ),
    ),
)

QWEN3 = DECODER.derive(
    gguf="qwen3",
    hf=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type=("qwen3",),
    pooled=True,
    params=(
        kv_heads(32),
        ATTENTION_BIAS,
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("slides", "use_sliding_window", type="BOOL", default=False),
        Param("max_window_layers", "max_window_layers", default=28, low=0),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
    ),
    loses=QWEN2.loses,
    graph={"qk_norm": "head"},
)

QWEN3_MOE = QWEN3.derive(
    gguf="qwen3moe",
    hf=("Qwen3MoeForCausalLM",),
    model_type=("qwen3_moe",),
    pooled=False,
    without=(_BLOCK + "ffn_gate.weight", _BLOCK + "ffn_up.weight", _BLOCK + "ffn_down.weight"),
    params=(
        *HEAD_SIZE_WRITTEN,
        kv_heads(4),
        *expert_params(Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length")),
        Param("sparse_step", "decoder_sparse_step", default=1),
        Param("normalised", "norm_topk_prob", type="BOOL", default=False, implied=(("", "1"),)),
        Param("max_window_layers", (), default=0),
    ),
    rows=(
        router("mlp.gate.weight"),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert"),
    ),
    refuses=(Refuses("sparse_step != 1", "llama.cpp's qwen3moe graph has experts in every layer"),),
    loses=(
        Loses(
            "not normalised",
            "approximated",
            "norm_topk_prob",
            "llama.cpp's qwen3moe graph always normalises the weights of the chosen experts",
        ),
    ),
    graph={"mlp": "moe"},
)

QWEN2_MOE = QWEN2.derive(
    gguf="qwen2moe",
    hf=("Qwen2MoeForCausalLM",),
    model_type=("qwen2_moe",),
    pooled=False,
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        kv_heads(16),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1408),
        Param("n_expert", "num_experts", "expert_count", default=60, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=4, high=1024),
        Param("n_ff_shared", "shared_expert_intermediate_size", "expert_shared_feed_forward_length", default=5632),
        Param("sparse_step", "decoder_sparse_step", default=1),
        Param("normalised", "norm_topk_prob", type="BOOL", default=False),
    ),
    rows=(
        router("mlp.gate.weight"),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert"),
        *shared_rows("mlp.shared_expert", "n_ff_shared"),
        Row(
            "model.layers.{i}.mlp.shared_expert_gate.weight",
            _BLOCK + "ffn_gate_inp_shexp.weight",
            ("1", "n_embd"),
            keep="F32",
        ),
    ),
    refuses=(
        Refuses("sparse_step != 1", "llama.cpp's qwen2moe graph has experts in every layer"),
        Refuses("tied", "llama.cpp's qwen2moe graph wants an output matrix besides the embedding"),
    ),
    loses=(NOT_NORMALISED,),
    graph={"mlp": "moe"},
)
