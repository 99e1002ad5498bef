"""Falcon-H1: a Mamba 2 mixer and attention beside each other in every layer, with multipliers in the weights.

The graph has none of the multipliers: they are part of the weights, and written as keys of our own for the way back (a
file without them is the same model with all of them 1). Checked against transformers 5.24
models/falcon_h1/{configuration,modeling}_falcon_h1.py and llama.cpp src/models/falcon-h1.cpp, conversion/falcon_h1.py
(November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, kv_heads, targets
from modelfmt.archs.mamba import mamba2_rows, mamba2_sizes
from modelfmt.archs.specs import Scaled, Spec
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["FALCON_H1"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _FEED = _LAYER + "self_attn.", _LAYER + "feed_forward."
_Q, _KV = ("n_head*head_size", "n_embd"), ("n_head_kv*head_size", "n_embd")


def _multiplier(name: str, config: str = "") -> Param:
    return Param(name, config or name, name, "FLOAT32", default=1.0, omit=1.0)


def _scaled(source: str, target: str, shape: tuple[str, ...], factor: str) -> Row:
    return Row(f"{source}.weight", f"{target}.weight", shape, (Scaled(factor),))


_SECTIONS = (
    ("n_inner", "ssm_z_multiplier"),
    ("n_inner", "ssm_x_multiplier"),
    ("n_group*state_size", "ssm_b_multiplier"),
    ("n_group*state_size", "ssm_c_multiplier"),
    ("n_mamba_head", "ssm_dt_multiplier"),
)
_MIXER_OPS: dict[str, tuple[Spec, ...]] = {
    "ssm_in": (Scaled("ssm_in_multiplier", sections=_SECTIONS),),
    "ssm_out": (Scaled("ssm_out_multiplier"),),
}

FALCON_H1 = DECODER.derive(
    gguf="falcon-h1",
    hf=("FalconH1ForCausalLM",),
    model_type=("falcon_h1",),
    rope=Rope("neox"),
    without=targets("ffn_norm"),
    params=(
        kv_heads(8),
        *HEAD_SIZE_WRITTEN,
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("kernel", "mamba_d_conv", "ssm.conv_kernel", default=4),
        Param("state_size", "mamba_d_state", "ssm.state_size", default=256),
        Param("n_group", "mamba_n_groups", "ssm.group_count", default=1),
        Param("expand", "mamba_expand", default=2),
        Param("n_inner", "mamba_d_ssm", "ssm.inner_size", default=1024, derive="expand*n_embd"),
        Param("n_mamba_head", "mamba_n_heads", "ssm.time_step_rank", default=128),
        *mamba2_sizes(),
        Param("normed", "mamba_rms_norm", type="BOOL", default=False, tensor="blk.0.ssm_norm.weight"),
        Param("norm_first", "mamba_norm_before_gate", type="BOOL", default=True, implied=(("normed", "0"), ("", "1"))),
        Param("conv_bias", "mamba_conv_bias", type="BOOL", default=True),
        Param("mamba_bias", ("mamba_proj_bias", "projectors_bias"), type="BOOL", default=False),
        *(
            _multiplier(name)
            for name in (
                "embedding_multiplier",
                "lm_head_multiplier",
                "attention_in_multiplier",
                "attention_out_multiplier",
                "key_multiplier",
                "ssm_in_multiplier",
                "ssm_out_multiplier",
            )
        ),
        _multiplier("gate_multiplier", "mlp_multipliers.0"),
        _multiplier("down_multiplier", "mlp_multipliers.1"),
        *(
            _multiplier(f"ssm_{part}_multiplier", f"ssm_multipliers.{i}")
            for i, part in enumerate(("z", "x", "b", "c", "dt"))
        ),
    ),
    rows=(
        _scaled("model.embed_tokens", "token_embd", ("vocab_size", "n_embd"), "embedding_multiplier"),
        replace(
            _scaled("lm_head", "output", ("vocab_size", "n_embd"), "lm_head_multiplier"),
            tied_to="model.embed_tokens.weight",
        ),
        Row("model.final_layernorm.weight", "output_norm.weight", ("n_embd",)),
        Row(_LAYER + "pre_ff_layernorm.weight", _BLOCK + "ffn_norm", ("n_embd",)),  # without .weight
        _scaled(_ATTENTION + "q_proj", _BLOCK + "attn_q", _Q, "attention_in_multiplier"),
        _scaled(_ATTENTION + "k_proj", _BLOCK + "attn_k", _KV, "attention_in_multiplier*key_multiplier"),
        _scaled(_ATTENTION + "v_proj", _BLOCK + "attn_v", _KV, "attention_in_multiplier"),
        _scaled(_ATTENTION + "o_proj", _BLOCK + "attn_output", _Q[::-1], "attention_out_multiplier"),
        _scaled(_FEED + "gate_proj", _BLOCK + "ffn_gate", ("n_ff", "n_embd"), "gate_multiplier"),
        Row(_FEED + "up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd")),
        _scaled(_FEED + "down_proj", _BLOCK + "ffn_down", ("n_embd", "n_ff"), "down_multiplier"),
        *(
            replace(row, ops=row.ops + _MIXER_OPS.get(row.target.removeprefix(_BLOCK).removesuffix(".weight"), ()))
            for row in mamba2_rows(_LAYER + "mamba.", norm="normed")
        ),
    ),
    refuses=(
        Refuses("not conv_bias", "llama.cpp's graph needs the bias of the convolution"),
        Refuses("mamba_bias", "llama.cpp's graph has no biases in state-space layers but that of the convolution"),
        Refuses("n_inner % n_mamba_head", "state-space heads must divide the inner width"),
        Refuses("normed and norm_first", "llama.cpp's graph has the norm of state-space layers behind the gate"),
        Refuses(
            "tied and lm_head_multiplier != embedding_multiplier",
            "one matrix cannot have both multipliers: llama.cpp's graph has none",
        ),
    ),
    graph={"block": "mamba2+attention"},
)
