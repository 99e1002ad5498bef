"""Granite 3: Llama with four scales of its own; with experts, and an MLP shared by all tokens beside them.

Checked against transformers 5.24 models/{granite,granitemoe,granitemoeshared}/{configuration,modeling}_*.py and
llama.cpp src/models/granite.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import targets
from modelfmt.archs.experts import router
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.specs import Part
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["GRANITE", "GRANITE_MOE", "GRANITE_MOE_SHARED"]

_MOE, _SHARED, _BLOCK = "model.layers.{i}.block_sparse_moe.", "model.layers.{i}.shared_mlp.", "blk.{i}."
_FUSED = (_MOE + "input_linear.weight", _MOE + "experts.gate_up_proj")
_DOWN = (_MOE + "output_linear.weight", _MOE + "experts.down_proj")


def _scale(config: str, key: str) -> Param:
    return Param(config, config, key, "FLOAT32", default=1.0)


GRANITE = LLAMA.derive(
    gguf="granite",
    hf=("GraniteForCausalLM",),
    model_type=("granite",),
    without=("value_size",),
    params=(
        Param("head_size", "head_dim", derive="n_embd/n_head"),
        _scale("attention_multiplier", "attention.scale"),
        _scale("embedding_multiplier", "embedding_scale"),
        _scale("residual_multiplier", "residual_scale"),
        _scale("logits_scaling", "logit_scale"),
    ),
    refuses=(Refuses("n_head*head_size != n_embd", "granite files have heads of n_embd / n_head values only"),),
    graph={"scales": ("attention", "embedding", "residual", "logits")},
)

GRANITE_MOE = GRANITE.derive(
    gguf="granitemoe",
    hf=("GraniteMoeForCausalLM",),
    model_type=("granitemoe",),
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        Param("n_expert", "num_local_experts", "expert_count", default=8, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=2, high=1024),
        Param("n_shared", "shared_intermediate_size", "expert_shared_feed_forward_length", default=0, low=0, omit=0),
    ),
    rows=(
        router("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
        Row(_FUSED, _BLOCK + "ffn_gate_exps.weight", ("n_expert", "n_ff", "n_embd"), (Part(0, of=2, axis=1),)),
        Row(_FUSED, _BLOCK + "ffn_up_exps.weight", ("n_expert", "n_ff", "n_embd"), (Part(1, of=2, axis=1),)),
        Row(_DOWN, _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff")),
        Row(
            _SHARED + "input_linear.weight",
            _BLOCK + "ffn_gate_shexp.weight",
            ("n_shared", "n_embd"),
            (Part(0, of=2, axis=0),),
            when="n_shared",
        ),
        Row(
            _SHARED + "input_linear.weight",
            _BLOCK + "ffn_up_shexp.weight",
            ("n_shared", "n_embd"),
            (Part(1, of=2, axis=0),),
            when="n_shared",
        ),
        Row(
            _SHARED + "output_linear.weight", _BLOCK + "ffn_down_shexp.weight", ("n_embd", "n_shared"), when="n_shared"
        ),
    ),
    graph={"mlp": "moe"},
)

GRANITE_MOE_SHARED = GRANITE_MOE.derive(hf=("GraniteMoeSharedForCausalLM",), model_type=("granitemoeshared",))
