"""Hunyuan 1: a Llama-like decoder with norms of queries and keys behind the rope; with experts beside a shared MLP.
Inside Hunyuan VL it turns by several positions. Hy 3 has those norms before the rope, and experts chosen by a sigmoid
behind dense layers.

Checked against transformers 5.24 models/{hunyuan_v1_dense,hunyuan_v1_moe,hunyuan_vl,hy_v3}/*.py and
llama.cpp src/models/{hunyuan-dense,hunyuan-vl,hunyuan-moe,hy-v3}.cpp (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import (
    ATTENTION_BIAS,
    DECODER,
    HEAD_SIZE_WRITTEN,
    PROJECTIONS,
    expert_rows,
    kv_heads,
    targets,
)
from modelfmt.archs.experts import MTP, dense_rows, leading_dense, n_nextn, nextn, router, shared_rows
from modelfmt.archs.table import Loses, Param, Refuses, Rope, Row

__all__ = ["HUNYUAN_DENSE", "HUNYUAN_MOE", "HUNYUAN_VL", "HY3"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

_LEGACY = ("rope_scaling.mrope_section", "rope_parameters.xdrope_section", "rope_scaling.xdrope_section")

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

HUNYUAN_VL = HUNYUAN_DENSE.derive(
    gguf="hunyuan_vl",
    hf=("HunYuanVLForConditionalGeneration",),
    model_type=("hunyuan_vl_text",),
    writes=("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
    rope=Rope(
        "neox",
        kinds=("default", "dynamic"),
        alpha=True,
        sections=(16, 16, 16, 16),
        aliases={"xdrope": "dynamic", "mrope": "default"},
    ),
    params=(
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("axes", ("rope_parameters.mrope_section", *_LEGACY), counted=True, default=4),
    ),
    loses=(
        Loses(
            "axes == 4",
            "approximated",
            "rope_parameters.mrope_section",
            "the fourth position of a text's token is 0 in llama.cpp: the slowest frequencies do not turn",
        ),
    ),
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

_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

HY3 = DECODER.derive(
    gguf="hy_v3",
    hf=("HYV3ForCausalLM",),
    model_type=("hy_v3",),
    rope=Rope("neox", theta=11158840.0, kinds=("default", "linear", "yarn")),
    params=(
        kv_heads(8),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        leading_dense(1),
        Param("n_expert", "num_experts", "expert_count", default=192, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param(
            "n_ff_expert", ("moe_intermediate_size", "expert_hidden_dim"), "expert_feed_forward_length", default=1536
        ),
        Param("n_shared", "num_shared_experts", "expert_shared_count", default=1),
        Param("n_ff_shared", (), "expert_shared_feed_forward_length", derive="n_shared*n_ff_expert"),
        Param("routed_scale", "router_scaling_factor", "expert_weights_scale", "FLOAT32", default=2.826),
        Param("normalised", "route_norm", "expert_weights_norm", "BOOL", default=True, allowed=(True,)),
        Param("gating", (), "expert_gating_func", default=2),
        n_nextn(),
    ),
    nextn=nextn("final_layernorm"),
    rows=(
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        *dense_rows(_DENSE),
        router("mlp.router.gate.weight", "mlp.gate.weight", when=_ROUTED),
        Row("model.layers.{i}.mlp.expert_bias", _BLOCK + "exp_probs_b", ("n_expert",), when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_mlp", "n_ff_shared", _ROUTED, alias="mlp.shared_experts"),
    ),
    ignores=(MTP,),
    graph={"mlp": "moe", "qk_norm": "head"},
)
