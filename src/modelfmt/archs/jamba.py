"""Jamba: Mamba mixers with norms inside, attention without positions in each eighth layer, experts in each second.

A layer is a Mamba mixer where the file gives it no key-value heads. Checked against transformers 5.24
models/jamba/{configuration,modeling}_jamba.py and llama.cpp src/models/{jamba,mamba-base}.cpp, conversion/jamba.py
(November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows
from modelfmt.archs.mamba import mamba_rows
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["JAMBA"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _FEED, _MAMBA = _LAYER + "self_attn.", _LAYER + "feed_forward.", _LAYER + "mamba."
_ATTENDS, _RECURRENT = "n_head_kv", "not n_head_kv"
_Q, _KV = ("n_head*head_size", "n_embd"), ("n_head_kv*head_size", "n_embd")


JAMBA = DECODER.derive(
    gguf="jamba",
    hf=("JambaForCausalLM",),
    model_type=("jamba",),
    rope=None,
    without=("n_head_kv",),
    params=(
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("kv_heads", "num_key_value_heads", default=8, derive="n_head", implied=(("", "largest(n_head_kv)"),)),
        Param("attention_period", "attn_layer_period", default=8, implied=(("", "step(n_head_kv)"),)),
        Param("attention_offset", "attn_layer_offset", default=4, low=0, implied=(("", "first(n_head_kv)"),)),
        Param(
            "n_head_kv",
            (),
            "attention.head_count_kv",
            low=0,
            per_layer=True,
            each=(("layer % attention_period == attention_offset", "kv_heads"), ("", "0")),
        ),
        Param("n_expert", ("num_experts", "num_local_experts"), "expert_count", default=16, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=2, high=1024),
        Param("expert_period", "expert_layer_period", default=2, implied=(("", "step(sparse)"),)),
        Param("expert_offset", "expert_layer_offset", default=1, low=0, implied=(("", "first(sparse)"),)),
        Param(
            "sparse",
            (),
            each=(("1 < n_expert and layer % expert_period == expert_offset", "1"), ("", "0")),
            tensors="blk.{i}.ffn_gate_inp.weight",
        ),
        Param("kernel", "mamba_d_conv", "ssm.conv_kernel", default=4),
        Param("state_size", "mamba_d_state", "ssm.state_size", default=16),
        Param("expand", "mamba_expand", default=2, implied=(("", "n_inner//n_embd"),)),
        Param("n_inner", (), "ssm.inner_size", derive="expand*n_embd"),
        Param("rank_sixteenths", (), derive="n_embd + 15"),
        Param("dt_rank", "mamba_dt_rank", "ssm.time_step_rank", derive="rank_sixteenths//16"),
        Param("conv_bias", "mamba_conv_bias", type="BOOL", default=True),
        Param("mamba_bias", "mamba_proj_bias", type="BOOL", default=False),
    ),
    rows=(
        Row("model.final_layernorm.weight", "output_norm.weight", ("n_embd",)),
        Row(_LAYER + "pre_ff_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", _Q, when=_ATTENDS),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", _KV, when=_ATTENDS),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", _KV, when=_ATTENDS),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", _Q[::-1], when=_ATTENDS),
        *mamba_rows(_MAMBA, _RECURRENT),
        Row(_MAMBA + "dt_layernorm.weight", _BLOCK + "ssm_dt_norm.weight", ("dt_rank",), when=_RECURRENT),
        Row(_MAMBA + "b_layernorm.weight", _BLOCK + "ssm_b_norm.weight", ("state_size",), when=_RECURRENT),
        Row(_MAMBA + "c_layernorm.weight", _BLOCK + "ssm_c_norm.weight", ("state_size",), when=_RECURRENT),
        Row(_FEED + "gate_proj.weight", _BLOCK + "ffn_gate.weight", ("n_ff", "n_embd"), when="not sparse"),
        Row(_FEED + "up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd"), when="not sparse"),
        Row(_FEED + "down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), when="not sparse"),
        Row(
            _FEED + "router.weight",
            _BLOCK + "ffn_gate_inp.weight",
            ("n_expert", "n_embd"),
            when="sparse",
            keep="F32",
        ),
        *expert_rows("feed_forward.experts", PROJECTIONS, "n_ff", "sparse", together="feed_forward.experts"),
    ),
    refuses=(
        Refuses("not conv_bias", "llama.cpp's graph needs the bias of the convolution"),
        Refuses("mamba_bias", "llama.cpp's graph has no biases in state-space layers but that of the convolution"),
        Refuses("n_inner != 2*n_embd", "llama.cpp's graph widens by two"),
    ),
    graph={"block": "mamba", "mlp": "moe", "positions": "none"},
)
