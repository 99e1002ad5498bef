"""LFM2 (dense, MoE): short gated convolutions in most layers, attention in the others.

A layer is a convolution where the file gives it no key-value heads. Checked against transformers 5.24
models/{lfm2,lfm2_moe}/{configuration,modeling}_*.py and llama.cpp src/models/lfm2.cpp, conversion/lfm2.py (November
2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, NUMBERED, expert_rows
from modelfmt.archs.specs import Reshaped
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["LFM2", "LFM2_MOE"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _CONV, _FEED = _LAYER + "self_attn.", _LAYER + "conv.", _LAYER + "feed_forward."
_ATTENDS, _CONVOLVES = "n_head_kv", "not n_head_kv"
_Q, _KV = ("n_head*head_size", "n_embd"), ("n_head_kv*head_size", "n_embd")
_KERNEL = Reshaped(("n_embd", "1", "kernel"), ("n_embd", "kernel"))


def _feed_forward(when: str = "") -> tuple[Row, ...]:
    up, down = ("n_ff", "n_embd"), ("n_embd", "n_ff")
    shapes = {"w1": ("ffn_gate", up), "w3": ("ffn_up", up), "w2": ("ffn_down", down)}
    return tuple(
        Row(f"{_FEED}{name}.weight", f"{_BLOCK}{target}.weight", shape, when=when)
        for name, (target, shape) in shapes.items()
    )


LFM2 = DECODER.derive(
    gguf="lfm2",
    hf=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    model_type=("lfm2",),
    rope=Rope("neox", theta=1e6),
    without=("n_head_kv", "activation", "n_ff", "output_norm.weight", "rms_eps"),
    params=(
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("tied", ("tie_embedding", "tie_word_embeddings"), type="BOOL", default=True),
        Param("rms_eps", ("norm_eps", "block_norm_eps"), "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("kernel", "conv_L_cache", "shortconv.l_cache", default=3),
        Param("conv_bias", "conv_bias", type="BOOL", default=False),
        Param("kv_heads", "num_key_value_heads", default=8, implied=(("", "largest(n_head_kv)"),)),
        Param(
            "attends",
            ("layer_types", "full_attn_idxs"),
            codes=(("conv", 0), ("full_attention", 1)),
            per_layer=True,
            each=(("", "1"),),
            implied=(("n_head_kv", "1"), ("", "0")),
        ),
        Param("n_head_kv", (), "attention.head_count_kv", low=0, per_layer=True, each=(("", "attends*kv_heads"),)),
        Param("ff_size", ("block_ff_dim", "intermediate_size"), default=12288, implied=(("", "n_ff"),)),
        Param("ff_adjusted", "block_auto_adjust_ff_dim", type="BOOL", default=True, implied=(("", "0"),)),
        Param("ff_multiple", "block_multiple_of", default=256),
        Param("ff_multiplier", "block_ffn_dim_multiplier", type="FLOAT32", default=1.0, allowed=(1.0,)),
        Param("ff_rounded", (), derive="2*ff_size//3 + ff_multiple - 1"),
        Param(
            "n_ff",
            (),
            "feed_forward_length",
            cases=(("ff_adjusted", "ff_rounded//ff_multiple*ff_multiple"), ("", "ff_size")),
        ),
    ),
    rows=(
        Row("model.embedding_norm.weight", "token_embd_norm.weight", ("n_embd",)),
        Row(_LAYER + "operator_norm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_LAYER + "ffn_norm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", _Q, when=_ATTENDS),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", _KV, when=_ATTENDS),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", _KV, when=_ATTENDS),
        Row(_ATTENTION + "out_proj.weight", _BLOCK + "attn_output.weight", _Q[::-1], when=_ATTENDS),
        Row(_ATTENTION + "q_layernorm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",), when=_ATTENDS),
        Row(_ATTENTION + "k_layernorm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",), when=_ATTENDS),
        Row(_CONV + "in_proj.weight", _BLOCK + "shortconv.in_proj.weight", ("3*n_embd", "n_embd"), when=_CONVOLVES),
        Row(_CONV + "out_proj.weight", _BLOCK + "shortconv.out_proj.weight", ("n_embd", "n_embd"), when=_CONVOLVES),
        Row(
            _CONV + "conv.weight",
            _BLOCK + "shortconv.conv.weight",
            ("n_embd", "kernel"),
            (_KERNEL,),
            when=_CONVOLVES,
            keep="F32",
        ),
        *_feed_forward(),
    ),
    refuses=(Refuses("conv_bias", "llama.cpp's lfm2 graph has no biases"),),
    graph={"block": "shortconv", "qk_norm": "head"},
)

_DENSE, _EXPERTS = "layer < n_dense", "n_dense < layer + 1"

LFM2_MOE = LFM2.derive(
    gguf="lfm2moe",
    hf=("Lfm2MoeForCausalLM",),
    model_type=("lfm2_moe",),
    without=("ff_size", "ff_adjusted", "ff_multiple", "ff_multiplier", "ff_rounded"),
    params=(
        Param("n_ff", "intermediate_size", "feed_forward_length", default=7168),
        Param("n_expert", "num_experts", "expert_count", default=32, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=4, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1792),
        Param("n_dense", "num_dense_layers", "leading_dense_block_count", default=2, low=0),
        Param("gating", (), "expert_gating_func", default=2),  # sigmoid
        Param("expert_bias", "use_expert_bias", type="BOOL", default=True),
        Param("normalised", "norm_topk_prob", type="BOOL", default=True),
        Param("expert_scale", "routed_scaling_factor", type="FLOAT32", default=1.0),
    ),
    rows=(
        *_feed_forward(_DENSE),
        Row(_FEED + "gate.weight", _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), when=_EXPERTS, keep="F32"),
        Row(_FEED + "expert_bias", _BLOCK + "exp_probs_b.bias", ("n_expert",), when=_EXPERTS),
        *expert_rows(
            "feed_forward.experts",
            NUMBERED,
            "n_ff_expert",
            _EXPERTS,
            together="feed_forward.experts",
        ),
    ),
    refuses=(
        Refuses("not expert_bias", "llama.cpp's lfm2moe graph needs a bias of the router"),
        Refuses("not normalised", "llama.cpp's lfm2moe graph always normalises the weights of the chosen experts"),
        Refuses("expert_scale != 1", "llama.cpp's lfm2moe graph does not scale what the experts put out"),
    ),
    graph={"mlp": "moe", "router": "sigmoid"},
)
