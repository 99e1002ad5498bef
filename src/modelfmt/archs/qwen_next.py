"""Qwen 3 Next, Qwen 3.5 and 3.6 (dense, MoE): gated delta nets in most layers, gated attention in each fourth.

llama.cpp's graphs of 3.5 repeat key heads in tiles over the value heads, where transformers repeats each one in place:
value heads are stored in another order. That of 3 Next repeats in place, and has its fused projection taken apart.
Checked against transformers 5.24 models/{qwen3_next,qwen3_5,qwen3_5_moe}/{configuration,modeling}_*.py and llama.cpp
src/models/{qwen3next,qwen35,qwen35moe,delta-net-base}.cpp and conversion/qwen.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_params, expert_rows, kv_heads, targets
from modelfmt.archs.specs import Add, Grouped, NegExp, Reshaped, Tiled
from modelfmt.archs.table import Ignore, Nextn, Param, Refuses, Rope, Row

__all__ = ["QWEN3_5", "QWEN3_5_MOE", "QWEN3_NEXT"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_LINEAR, _ATTENTION = _LAYER + "linear_attn.", _LAYER + "self_attn."
_RECURRENT, _ATTENDS = "recurrent", "not recurrent"
_CONV = Reshaped(("n_conv", "1", "kernel"), ("n_conv", "kernel"))
_PLUS_ONE = (Add(1.0),)


def _value_heads(axis: int = 0, before: str = "0") -> Tiled:
    return Tiled("n_key_heads", "n_value_heads/n_key_heads", axis, before)


def _attention(name: str, n_rows: str) -> Row:
    return Row(
        f"{_ATTENTION}{name}_proj.weight", f"{_BLOCK}attn_{name}.weight", (n_rows, "n_embd"), (), "maybe", _ATTENDS
    )


_NEXTN = Nextn(
    prefix="mtp.layers.{k}.",
    rows=(
        Row("mtp.fc.weight", _BLOCK + "nextn.eh_proj.weight", ("n_embd", "2*n_embd")),
        Row("mtp.pre_fc_norm_embedding.weight", _BLOCK + "nextn.enorm.weight", ("n_embd",), _PLUS_ONE),
        Row("mtp.pre_fc_norm_hidden.weight", _BLOCK + "nextn.hnorm.weight", ("n_embd",), _PLUS_ONE),
        Row("mtp.norm.weight", _BLOCK + "nextn.shared_head_norm.weight", ("n_embd",), _PLUS_ONE),
    ),
    entries={"recurrent": 0, "periodic": 0},
)

_HYBRID = DECODER.derive(
    rope=Rope("neox", kinds=("default",), dimension=True, partial=0.25),
    without=("activation", *targets("ffn_norm")),
    params=(
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("head_size", "head_dim", "attention.key_length", default=256),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("kernel", "linear_conv_kernel_dim", "ssm.conv_kernel", default=4),
        Param("state_size", "linear_key_head_dim", "ssm.state_size", default=128),
        Param("n_key_heads", "linear_num_key_heads", "ssm.group_count", default=16),
        Param("n_value_heads", "linear_num_value_heads", "ssm.time_step_rank", default=32),
        Param("value_head_size", "linear_value_head_dim", default=128, implied=(("", "n_inner//n_value_heads"),)),
        Param("n_inner", (), "ssm.inner_size", derive="n_value_heads*value_head_size"),
        Param("n_keys", (), derive="n_key_heads*state_size"),
        Param("n_conv", (), derive="2*n_keys + n_inner"),
        Param("interval", "full_attention_interval", "full_attention_interval", default=4),
        Param("periodic", (), each=(("layer % interval == interval - 1", "0"), ("", "1"))),
        Param(
            "recurrent",
            "layer_types",
            "attention.recurrent_layers",
            "BOOL",
            codes=(("linear_attention", 1), ("full_attention", 0)),
            per_layer=True,
            omit="periodic",
        ),
        Param(
            "n_nextn",
            ("mtp_num_hidden_layers", "num_nextn_predict_layers"),
            "nextn_predict_layers",
            default=0,
            low=0,
            high=64,
            omit=0,
        ),
    ),
    nextn=_NEXTN,
    rows=(
        Row("model.norm.weight", "output_norm.weight", ("n_embd",), _PLUS_ONE),
        Row(_LAYER + "input_layernorm.weight", _BLOCK + "attn_norm.weight", ("n_embd",), _PLUS_ONE),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",), _PLUS_ONE),
        _attention("q", "2*n_head*head_size"),
        _attention("k", "n_head_kv*head_size"),
        _attention("v", "n_head_kv*head_size"),
        Row(
            _ATTENTION + "o_proj.weight",
            _BLOCK + "attn_output.weight",
            ("n_embd", "n_head*head_size"),
            when=_ATTENDS,
        ),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",), _PLUS_ONE, when=_ATTENDS),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",), _PLUS_ONE, when=_ATTENDS),
        Row(_LINEAR + "norm.weight", _BLOCK + "ssm_norm.weight", ("state_size",), when=_RECURRENT),
    ),
    ignores=(Ignore("mtp.*", "the layers that predict further tokens are not in this file", loss=True),),
    refuses=(Refuses("value_head_size != state_size", "llama.cpp's delta net has keys and values of one size"),),
    graph={"block": "gated_delta_net", "norm_offset": 1.0, "qk_norm": "head", "attention_gate": True},
)

_MOE_PARAMS = (
    *expert_params(
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=512),
        ("num_experts", "num_local_experts"),
    ),
    Param("n_ff_shared", "shared_expert_intermediate_size", "expert_shared_feed_forward_length", default=512),
)
_SHARED = _LAYER + "mlp.shared_expert"
_MOE_ROWS = (
    Row(_LAYER + "mlp.gate.weight", _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), keep="F32"),
    *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert"),
    Row(_SHARED + "_gate.weight", _BLOCK + "ffn_gate_inp_shexp.weight", ("1", "n_embd"), keep="F32"),
    Row(_SHARED + ".gate_proj.weight", _BLOCK + "ffn_gate_shexp.weight", ("n_ff_shared", "n_embd")),
    Row(_SHARED + ".up_proj.weight", _BLOCK + "ffn_up_shexp.weight", ("n_ff_shared", "n_embd")),
    Row(_SHARED + ".down_proj.weight", _BLOCK + "ffn_down_shexp.weight", ("n_embd", "n_ff_shared")),
)
_DENSE = targets("ffn_gate", "ffn_up", "ffn_down")
_QKVZ = ("state_size", "state_size", "n_inner/n_key_heads", "n_inner/n_key_heads")

QWEN3_NEXT = _HYBRID.derive(
    gguf="qwen3next",
    hf=("Qwen3NextForCausalLM",),
    model_type=("qwen3_next",),
    without=_DENSE,
    params=(
        Param("n_ff", "intermediate_size", "feed_forward_length", default=5632),
        kv_heads(2),
        *_MOE_PARAMS,
        Param("sparse_step", "decoder_sparse_step", default=1),
        Param("normalised", "norm_topk_prob", type="BOOL", default=True),
        Param("dense", "mlp_only_layers", codes=(("dense", 1),), per_layer=True, each=(("", "0"),), numbers=True),
    ),
    rows=(
        Row(
            _LINEAR + "in_proj_qkvz.weight",
            _BLOCK + "attn_qkv.weight",
            ("n_conv", "n_embd"),
            (Grouped("n_key_heads", _QKVZ, 0, 3),),
            when=_RECURRENT,
        ),
        Row(
            _LINEAR + "in_proj_qkvz.weight",
            _BLOCK + "attn_gate.weight",
            ("n_inner", "n_embd"),
            (Grouped("n_key_heads", _QKVZ, 3, 4),),
            when=_RECURRENT,
        ),
        Row(_LINEAR + "in_proj_ba.weight", _BLOCK + "ssm_ba.weight", ("2*n_value_heads", "n_embd"), when=_RECURRENT),
        Row(_LINEAR + "conv1d.weight", _BLOCK + "ssm_conv1d.weight", ("n_conv", "kernel"), (_CONV,), when=_RECURRENT),
        Row(_LINEAR + "A_log", _BLOCK + "ssm_a", ("n_value_heads",), (NegExp(),), when=_RECURRENT),
        Row(_LINEAR + "dt_bias", _BLOCK + "ssm_dt.bias", ("n_value_heads",), when=_RECURRENT),
        Row(_LINEAR + "out_proj.weight", _BLOCK + "ssm_out.weight", ("n_embd", "n_inner"), when=_RECURRENT),
        *_MOE_ROWS,
    ),
    refuses=(
        Refuses("sparse_step != 1", "llama.cpp's qwen3next graph has experts in every layer"),
        Refuses("dense", "llama.cpp's qwen3next graph has experts in every layer"),
        Refuses("not normalised", "llama.cpp's qwen3next graph always normalises the weights of the chosen experts"),
    ),
    graph={"mlp": "moe+shared"},
)

_KEYS_BEFORE = _value_heads(before="2*n_keys")

QWEN3_5 = _HYBRID.derive(
    gguf="qwen35",
    hf=("Qwen3_5ForCausalLM",),
    model_type=("qwen3_5_text",),
    rope=Rope("neox", kinds=("default",), dimension=True, partial=0.25, sections=(11, 11, 10, 0)),
    params=(kv_heads(4),),
    rows=(
        Row(
            _LINEAR + "in_proj_qkv.weight",
            _BLOCK + "attn_qkv.weight",
            ("n_conv", "n_embd"),
            (_KEYS_BEFORE,),
            when=_RECURRENT,
        ),
        Row(
            _LINEAR + "in_proj_z.weight",
            _BLOCK + "attn_gate.weight",
            ("n_inner", "n_embd"),
            (_value_heads(),),
            when=_RECURRENT,
        ),
        Row(
            _LINEAR + "in_proj_b.weight",
            _BLOCK + "ssm_beta.weight",
            ("n_value_heads", "n_embd"),
            (_value_heads(),),
            when=_RECURRENT,
        ),
        Row(
            _LINEAR + "in_proj_a.weight",
            _BLOCK + "ssm_alpha.weight",
            ("n_value_heads", "n_embd"),
            (_value_heads(),),
            when=_RECURRENT,
        ),
        Row(
            _LINEAR + "conv1d.weight",
            _BLOCK + "ssm_conv1d.weight",
            ("n_conv", "kernel"),
            (_CONV, _KEYS_BEFORE),
            when=_RECURRENT,
        ),
        Row(_LINEAR + "A_log", _BLOCK + "ssm_a", ("n_value_heads",), (_value_heads(), NegExp()), when=_RECURRENT),
        Row(_LINEAR + "dt_bias", _BLOCK + "ssm_dt.bias", ("n_value_heads",), (_value_heads(),), when=_RECURRENT),
        Row(
            _LINEAR + "out_proj.weight",
            _BLOCK + "ssm_out.weight",
            ("n_embd", "n_inner"),
            (_value_heads(axis=1),),
            when=_RECURRENT,
        ),
    ),
)

QWEN3_5_MOE = QWEN3_5.derive(
    gguf="qwen35moe",
    hf=("Qwen3_5MoeForCausalLM",),
    model_type=("qwen3_5_moe_text",),
    without=("n_ff", *_DENSE),
    params=(kv_heads(2), *_MOE_PARAMS),
    rows=_MOE_ROWS,
    graph={"mlp": "moe+shared"},
)
