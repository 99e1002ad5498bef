"""Mamba, Falcon Mamba and Mamba 2; the rows of a Mamba 2 layer, for the hybrids that have some.

Checked against transformers 5.24 models/{mamba,falcon_mamba,mamba2}/{configuration,modeling}_*.py and llama.cpp
src/models/{mamba,mamba2,mamba-base}.cpp, conversion/mamba.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.specs import NegExp, Reshaped
from modelfmt.archs.table import Architecture, Loses, Param, Refuses, Row

__all__ = ["FALCON_MAMBA", "MAMBA", "MAMBA2", "mamba2_rows", "mamba2_sizes", "mamba_rows"]

_LAYER, _BLOCK = "backbone.layers.{i}.", "blk.{i}."
_MIXER = _LAYER + "mixer."


def mamba_rows(module: str, when: str = "") -> tuple[Row, ...]:
    """The tensors of a Mamba mixer, by its name in the checkpoint; n_inner, state_size, dt_rank, kernel are params."""
    kernel, states = ("n_inner", "kernel"), ("n_inner", "state_size")
    squeezed = Reshaped(("n_inner", "1", "kernel"), kernel)
    return (
        Row(f"{module}A_log", f"{_BLOCK}ssm_a", states, (NegExp(),), when=when, keep="F32"),
        Row(f"{module}D", f"{_BLOCK}ssm_d", ("n_inner",), when=when),
        Row(f"{module}conv1d.weight", f"{_BLOCK}ssm_conv1d.weight", kernel, (squeezed,), "required", when, keep="F32"),
        Row(f"{module}dt_proj.weight", f"{_BLOCK}ssm_dt.weight", ("n_inner", "dt_rank"), (), "required", when),
        Row(f"{module}in_proj.weight", f"{_BLOCK}ssm_in.weight", ("2*n_inner", "n_embd"), when=when),
        Row(f"{module}out_proj.weight", f"{_BLOCK}ssm_out.weight", ("n_embd", "n_inner"), when=when),
        Row(f"{module}x_proj.weight", f"{_BLOCK}ssm_x.weight", ("dt_rank + 2*state_size", "n_inner"), when=when),
    )


def mamba2_sizes() -> tuple[Param, ...]:
    """What the rows of a Mamba 2 layer are made of; n_inner, n_mamba_head, n_group and state_size come before."""
    return (
        Param("n_conv", (), derive="n_inner + 2*n_group*state_size"),
        Param("n_in", (), derive="n_inner + n_conv + n_mamba_head"),
    )


def mamba2_rows(module: str, when: str = "", *, norm: str = "") -> tuple[Row, ...]:
    """The tensors of a Mamba 2 mixer, by its name in the checkpoint. when: in which layers; norm: when it has one."""
    heads, kernel = Reshaped(("n_mamba_head",), ("n_mamba_head", "1")), ("n_conv", "kernel")
    squeezed, grouped = Reshaped(("n_conv", "1", "kernel"), kernel), ("n_group", "n_inner/n_group")
    normed = " and ".join(part for part in (when, norm) if part)
    column = ("n_mamba_head", "1")
    return (
        Row(f"{module}in_proj.weight", f"{_BLOCK}ssm_in.weight", ("n_in", "n_embd"), when=when),
        Row(f"{module}conv1d.weight", f"{_BLOCK}ssm_conv1d.weight", kernel, (squeezed,), "required", when, keep="F32"),
        Row(f"{module}dt_bias", f"{_BLOCK}ssm_dt.bias", ("n_mamba_head",), when=when),
        Row(f"{module}A_log", f"{_BLOCK}ssm_a", column, (NegExp(), heads), when=when, keep="F32"),
        Row(f"{module}D", f"{_BLOCK}ssm_d", column, (heads,), when=when, keep="F32"),
        Row(
            f"{module}norm.weight",
            f"{_BLOCK}ssm_norm.weight",
            grouped,
            (Reshaped(("n_inner",), grouped),),
            when=normed,
            keep="F32",
        ),
        Row(f"{module}out_proj.weight", f"{_BLOCK}ssm_out.weight", ("n_embd", "n_inner"), when=when),
    )


_BODY = Architecture(
    gguf="",
    hf=(),
    model_type=(),
    params=(
        Param("n_layer", ("num_hidden_layers", "n_layer"), "block_count", default=32, high=1024),
        Param("n_ctx", (), "context_length", default=2**20),  # a model without positions has no limit
        Param("n_embd", ("hidden_size", "d_model"), "embedding_length", default=768),
        Param("n_ff", (), "feed_forward_length", default=0, low=0),
        Param("n_head", (), "attention.head_count", default=0, low=0),
        Param("kernel", ("conv_kernel", "d_conv"), "ssm.conv_kernel", default=4),
        Param("expand", "expand", default=2, implied=(("", "n_inner//n_embd"),)),
        Param("n_inner", ("intermediate_size", "d_inner"), "ssm.inner_size", derive="expand*n_embd"),
        Param("state_size", ("state_size", "d_state"), "ssm.state_size", default=16),
        Param("rms_eps", "layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", default=50280),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("bias", "use_bias", type="BOOL", default=False),
        Param("conv_bias", "use_conv_bias", type="BOOL", default=True),
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row(("backbone.embeddings.weight", "backbone.embedding.weight"), "token_embd.weight", ("vocab_size", "n_embd")),
        Row("backbone.norm_f.weight", "output_norm.weight", ("n_embd",)),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="backbone.embeddings.weight"),
        Row(_LAYER + "norm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
    ),
    refuses=(
        Refuses("bias", "llama.cpp's graph has no biases but that of the convolution"),
        Refuses("not conv_bias", "llama.cpp's graph needs the bias of the convolution"),
        Refuses("n_inner != 2*n_embd", "llama.cpp's graph widens by two"),
    ),
    prefixes=(("backbone.", "model.backbone."), ("lm_head.", "model.lm_head."), ("backbone.", "")),
    graph={"block": "mamba", "norm": "rms", "norm_place": "pre", "residual": "serial", "positions": "none"},
)

MAMBA = _BODY.derive(
    gguf="mamba",
    hf=("MambaForCausalLM", "MambaLMHeadModel"),
    model_type=("mamba",),
    params=(
        Param("rank_sixteenths", (), derive="n_embd + 15"),
        Param("dt_rank", ("time_step_rank", "dt_rank"), "ssm.time_step_rank", derive="rank_sixteenths//16"),
        Param("normed", (), "ssm.dt_b_c_rms", "BOOL", default=False),
    ),
    rows=mamba_rows(_MIXER),
)

FALCON_MAMBA = MAMBA.derive(
    hf=("FalconMambaForCausalLM",),
    model_type=("falcon_mamba",),
    params=(
        Param("normed", (), "ssm.dt_b_c_rms", "BOOL", default=True),
        Param("mixer_eps", "mixer_rms_eps", type="FLOAT32", default=1e-6, implied=(("", "rms_eps"),)),
    ),
    loses=(
        Loses(
            "mixer_eps != rms_eps",
            "approximated",
            "mixer_rms_eps",
            "llama.cpp's graph has one epsilon for all norms, that of the layers",
        ),
    ),
)

MAMBA2 = _BODY.derive(
    gguf="mamba2",
    hf=("Mamba2ForCausalLM",),
    model_type=("mamba2",),
    params=(
        Param("n_layer", ("num_hidden_layers", "n_layer"), "block_count", default=64, high=1024),
        Param("n_embd", ("hidden_size", "d_model", "dim"), "embedding_length", default=4096),
        Param("n_inner", (), "ssm.inner_size", derive="expand*n_embd"),
        Param("state_size", ("state_size", "d_state"), "ssm.state_size", default=128),
        Param("head_size", "head_dim", default=64, implied=(("", "n_inner//n_mamba_head"),)),
        Param("n_mamba_head", "num_heads", "ssm.time_step_rank", derive="n_inner/head_size"),
        Param("n_group", "n_groups", "ssm.group_count", default=8),
        *mamba2_sizes(),
        Param("vocab_size", "vocab_size", default=32768),
        Param("tied", "tie_word_embeddings", type="BOOL", default=False),
    ),
    rows=mamba2_rows(_MIXER),
    refuses=(Refuses("n_inner != n_mamba_head*head_size", "state-space heads must make up the inner width"),),
    graph={"block": "mamba2"},
)
