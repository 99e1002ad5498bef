"""Granite 4 (Mamba 2 layers and attention, experts beside a shared MLP, or the MLP alone) and Bamba.

A layer is a state-space layer where the file gives it no key-value heads. What has attention alone is a `granite` or
`granitemoe` file: llama.cpp cannot run a hybrid without state-space layers. Checked against transformers 5.24
models/{granitemoehybrid,bamba}/{configuration,modeling}_*.py and llama.cpp src/models/{granite-hybrid,mamba-base}.cpp,
conversion/granite.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import targets
from modelfmt.archs.granite import GRANITE
from modelfmt.archs.mamba import mamba2_rows, mamba2_sizes
from modelfmt.archs.specs import Part, Permute
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["BAMBA", "GRANITE_4", "GRANITE_4_MOE", "GRANITE_HYBRID"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _SHARED, _MOE = _LAYER + "self_attn.", _LAYER + "shared_mlp.", _LAYER + "block_sparse_moe."
_ATTENDS, _RECURRENT = "n_head_kv", "not n_head_kv"
_Q, _KV = ("n_head*head_size", "n_embd"), ("n_head_kv*head_size", "n_embd")
_KINDS = (("linear_attention", 0), ("mamba", 0), ("full_attention", 1), ("attention", 1))


def _attention(rotated: str = "") -> tuple[Row, ...]:
    """Queries to the way out, with the biases that they may have. rotated: how much of each head turns, if not all."""
    return (
        Row(
            _ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", _Q, (Permute("n_head", rotated),), "maybe", _ATTENDS
        ),
        Row(
            _ATTENTION + "k_proj.weight",
            _BLOCK + "attn_k.weight",
            _KV,
            (Permute("n_head_kv", rotated),),
            "maybe",
            _ATTENDS,
        ),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", _KV, (), "maybe", _ATTENDS),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", _Q[::-1], (), "maybe", _ATTENDS),
    )


def _halves(source: str | tuple[str, ...], suffix: str, shape: tuple[str, ...], when: str) -> tuple[Row, ...]:
    """Gate and up out of one tensor. suffix: of their names in the file."""
    axis = len(shape) - 2
    return (
        Row(source, f"{_BLOCK}ffn_gate{suffix}.weight", shape, (Part(0, of=2, axis=axis),), when=when),
        Row(source, f"{_BLOCK}ffn_up{suffix}.weight", shape, (Part(1, of=2, axis=axis),), when=when),
    )


_MAMBA = (
    Param("kernel", "mamba_d_conv", "ssm.conv_kernel", default=4),
    Param("state_size", "mamba_d_state", "ssm.state_size", default=256),
    Param("n_group", "mamba_n_groups", "ssm.group_count", default=1),
    Param("expand", "mamba_expand", default=2, implied=(("", "n_inner//n_embd"),)),
    Param("n_inner", (), "ssm.inner_size", derive="expand*n_embd"),
    Param("n_mamba_head", "mamba_n_heads", "ssm.time_step_rank", default=128),
    *mamba2_sizes(),
    Param("conv_bias", "mamba_conv_bias", type="BOOL", default=True),
    Param("mamba_bias", "mamba_proj_bias", type="BOOL", default=False),
    Param("n_head_kv", (), "attention.head_count_kv", low=0, per_layer=True, each=(("", "attends*kv_heads"),)),
)
_REFUSES = (
    Refuses("not conv_bias", "llama.cpp's graph needs the bias of the convolution"),
    Refuses("mamba_bias", "llama.cpp's graph has no biases in state-space layers but that of the convolution"),
    Refuses("n_inner % n_mamba_head", "state-space heads must divide the inner width"),
)

_DENSE_ROWS = (
    *_halves(_SHARED + "input_linear.weight", "", ("n_ff", "n_embd"), "not n_expert"),
    Row(_SHARED + "output_linear.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), when="not n_expert"),
)
_EXPERT_ROWS = (
    *_halves(_SHARED + "input_linear.weight", "_shexp", ("n_ff_shared", "n_embd"), "n_expert"),
    Row(_SHARED + "output_linear.weight", _BLOCK + "ffn_down_shexp.weight", ("n_embd", "n_ff_shared"), when="n_expert"),
    Row(
        (_MOE + "router.layer.weight", _MOE + "router.weight"),
        _BLOCK + "ffn_gate_inp.weight",
        ("n_expert", "n_embd"),
        when="n_expert",
        keep="F32",
    ),
    *_halves(
        (_MOE + "input_linear.weight", _MOE + "experts.gate_up_proj"),
        "_exps",
        ("n_expert", "n_ff", "n_embd"),
        "n_expert",
    ),
    Row(
        (_MOE + "output_linear.weight", _MOE + "experts.down_proj"),
        _BLOCK + "ffn_down_exps.weight",
        ("n_expert", "n_embd", "n_ff"),
        when="n_expert",
    ),
)

_GRANITE_4 = GRANITE.derive(
    hf=("GraniteMoeHybridForCausalLM",),
    model_type=("granitemoehybrid",),
    without=("n_ctx", "n_ff", *targets("ffn_gate", "ffn_up", "ffn_down")),
    params=(
        Param("n_expert", "num_local_experts", "expert_count", default=8, low=0, high=1024, omit=0),
        Param(
            "n_expert_used",
            "num_experts_per_tok",
            "expert_used_count",
            default=2,
            cases=(("not n_expert", "0"),),
            low=0,
            omit=0,
        ),
        Param("n_ff_expert", "intermediate_size", default=11008, implied=(("", "n_ff"),)),
        Param(
            "n_ff_shared",
            "shared_intermediate_size",
            "expert_shared_feed_forward_length",
            default=1024,
            implied=(("", "n_ff"),),
        ),
        Param("n_ff", (), "feed_forward_length", cases=(("n_expert", "n_ff_expert"), ("", "n_ff_shared"))),
        Param(
            "roped",
            "position_embedding_type",
            "rope.scaling.finetuned",
            "BOOL",
            default=False,
            codes=(("rope", 1), ("nope", 0)),
        ),
        Param(
            "n_ctx",
            "max_position_embeddings",
            "context_length",
            cases=(("not roped", "1048576"),),  # without positions there is no limit
            default=2048,
        ),
        Param(
            "attends",
            "layer_types",
            codes=_KINDS,
            per_layer=True,
            each=(("", "0"),),
            implied=(("n_head_kv", "1"), ("", "0")),
        ),
    ),
    graph={"mlp": "moe+shared"},
)

GRANITE_HYBRID = _GRANITE_4.derive(
    gguf="granitehybrid",
    without=("n_head_kv",),
    params=(Param("kv_heads", "num_key_value_heads", derive="n_head", implied=(("", "largest(n_head_kv)"),)), *_MAMBA),
    rows=(*_attention(), *mamba2_rows(_LAYER + "mamba.", _RECURRENT), *_DENSE_ROWS, *_EXPERT_ROWS),
    refuses=_REFUSES,
    graph={"block": "mamba2"},
)

GRANITE_4_MOE = _GRANITE_4.derive(gguf="granitemoe", rows=_EXPERT_ROWS)

GRANITE_4 = _GRANITE_4.derive(
    rows=_DENSE_ROWS,
    variants=(("not attends", GRANITE_HYBRID), ("n_expert", GRANITE_4_MOE)),
    graph={"mlp": "gated"},
)

_FEED = _LAYER + "feed_forward."

BAMBA = GRANITE.derive(
    gguf="granitehybrid",
    hf=("BambaForCausalLM",),
    model_type=("bamba",),
    rope=Rope("norm", dimension=True, partial=0.5),
    without=(
        "n_head_kv",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
    ),
    params=(
        Param("kv_heads", "num_key_value_heads", default=8, derive="n_head", implied=(("", "largest(n_head_kv)"),)),
        Param(
            "attends",
            "attn_layer_indices",
            codes=_KINDS,
            per_layer=True,
            each=(("", "0"),),
            numbers=True,
            implied=(("n_head_kv", "1"), ("", "0")),
        ),
        *_MAMBA,
        Param("roped", (), "rope.scaling.finetuned", "BOOL", default=True),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
    ),
    rows=(
        *_attention("head_size/2"),
        *mamba2_rows(_LAYER + "mamba.", _RECURRENT),
        Row(_LAYER + "pre_ff_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row("model.final_layernorm.weight", "output_norm.weight", ("n_embd",)),
        Row(_FEED + "gate_proj.weight", _BLOCK + "ffn_gate.weight", ("n_ff", "n_embd"), (), "maybe"),
        Row(_FEED + "up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd"), (), "maybe"),
        Row(_FEED + "down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), (), "maybe"),
    ),
    refuses=_REFUSES,
    graph={"block": "mamba2", "scales": ()},
)
