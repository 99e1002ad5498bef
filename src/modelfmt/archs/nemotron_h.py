"""Nemotron-H (dense) and Nemotron 3 (experts): each layer is a Mamba 2 mixer, attention, or a feed-forward network.

The file tells a layer by its numbers of key-value heads and of feed-forward values. The graph turns no positions, and
yet the rows of heads are in pairs, as llama.cpp's converter leaves them. Checked against transformers 5.24
models/nemotron_h/{configuration,modeling}_nemotron_h.py and llama.cpp src/models/nemotron-h.cpp, conversion/nemotron.py
(November 2026).
"""

from __future__ import annotations

from modelfmt.archs.mamba import mamba2_rows, mamba2_sizes
from modelfmt.archs.specs import Permute, Stacked
from modelfmt.archs.table import Architecture, Ignore, Param, Refuses, Row

__all__ = ["NEMOTRON_H", "NEMOTRON_H_MOE"]

_BLOCK, _LAYER = "blk.{i}.", "backbone.layers.{i}."
_MIXER = _LAYER + "mixer."
_KINDS = (
    *(("linear_attention", 0), ("mamba", 0), ("M", 0)),
    *(("full_attention", 1), ("attention", 1), ("*", 1)),
    *(("moe", 2), ("E", 2)),
    *(("mlp", 3), ("-", 3)),
)
_ATTENDS, _FEEDS, _RECURRENT = "n_head_kv", "n_ff", "not n_head_kv and not n_ff"
_Q, _KV = ("n_head*head_size", "n_embd"), ("n_head_kv*head_size", "n_embd")
_PATTERNS = ("layers_block_type", "layer_types", "hybrid_override_pattern")
_EPSILONS = ("layer_norm_epsilon", "rms_norm_eps", "norm_eps")
_DENSE = (
    Row(_MIXER + "up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd"), (), "maybe", _FEEDS),
    Row(_MIXER + "down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), (), "maybe", _FEEDS),
)


def _experts(name: str, shape: tuple[str, ...]) -> tuple[Row, ...]:
    """The matrices of all experts: one tensor each, or all in one."""
    target = f"{_BLOCK}ffn_{name}_exps.weight"
    single = Row(f"{_MIXER}experts.{{e}}.{name}_proj.weight", target, shape, (Stacked("n_expert"),), when=_FEEDS)
    return (single, Row(f"{_MIXER}experts.{name}_proj", target, shape, when=_FEEDS))


def _kind(feeds: int) -> Param:
    """What each layer is. feeds: the code of those that a file says to have a feed-forward width."""
    implied = (("n_head_kv", "1"), ("n_ff", str(feeds)), ("", "0"))
    return Param("kind", _PATTERNS, codes=_KINDS, per_layer=True, implied=implied)


_BODY = Architecture(
    gguf="nemotron_h",
    hf=("NemotronHForCausalLM",),
    model_type=("nemotron_h",),
    params=(
        Param("n_layer", ("num_hidden_layers", *_PATTERNS), "block_count", high=1024, counted=True),
        Param("n_ctx", "max_position_embeddings", "context_length", default=4096),
        Param("n_embd", "hidden_size", "embedding_length", default=4096),
        Param("n_head", "num_attention_heads", "attention.head_count", default=32),
        Param("kv_heads", "num_key_value_heads", default=8, derive="n_head", implied=(("", "largest(n_head_kv)"),)),
        Param("head_size", ("head_dim", "attention_head_dim"), "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        _kind(feeds=3),
        Param(
            "n_head_kv",
            (),
            "attention.head_count_kv",
            low=0,
            per_layer=True,
            each=(("kind == 1", "kv_heads"), ("", "0")),
        ),
        Param("norm_eps", _EPSILONS, "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),  # llama.cpp reads this
        Param("rms_eps", _EPSILONS, "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size", default=131072),
        Param("kernel", ("conv_kernel", "mamba_d_conv"), "ssm.conv_kernel", default=4),
        Param("state_size", "ssm_state_size", "ssm.state_size", default=128),
        Param("n_group", ("n_groups", "mamba_n_groups"), "ssm.group_count", default=8),
        Param("n_mamba_head", "mamba_num_heads", "ssm.time_step_rank", default=128),
        Param("mamba_head_size", "mamba_head_dim", default=64, implied=(("", "n_inner//n_mamba_head"),)),
        Param("n_inner", (), "ssm.inner_size", derive="n_mamba_head*mamba_head_size"),
        *mamba2_sizes(),
        Param(
            "ff_size", "intermediate_size", default=21504, implied=(("largest(n_ff)", "largest(n_ff)"), ("", "21504"))
        ),
        Param(
            "n_ff",
            (),
            "feed_forward_length",
            low=0,
            per_layer=True,
            each=(("kind == 3", "ff_size"), ("", "0")),
        ),
        Param("tied", "tie_word_embeddings", type="BOOL", default=False),
        Param("conv_bias", ("use_conv_bias", "mamba_conv_bias"), type="BOOL", default=True),
        Param("mamba_bias", "mamba_proj_bias", type="BOOL", default=False),
        Param("activation", "mlp_hidden_act", type="STRING", default="relu2", allowed=("relu2",)),
        Param("mamba_activation", "mamba_hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("window", "sliding_window", default=None),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row("backbone.embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("backbone.norm_f.weight", "output_norm.weight", ("n_embd",)),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="backbone.embeddings.weight"),
        Row(_LAYER + "norm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        *mamba2_rows(_MIXER, _RECURRENT),
        Row(_MIXER + "q_proj.weight", _BLOCK + "attn_q.weight", _Q, (Permute("n_head"),), "maybe", _ATTENDS),
        Row(_MIXER + "k_proj.weight", _BLOCK + "attn_k.weight", _KV, (Permute("n_head_kv"),), "maybe", _ATTENDS),
        Row(_MIXER + "v_proj.weight", _BLOCK + "attn_v.weight", _KV, (), "maybe", _ATTENDS),
        Row(_MIXER + "o_proj.weight", _BLOCK + "attn_output.weight", _Q[::-1], (), "maybe", _ATTENDS),
    ),
    ignores=(Ignore("mtp.*", "the layers that predict further tokens are not in this file", loss=True),),
    refuses=(
        Refuses("not conv_bias", "llama.cpp's graph needs the bias of the convolution"),
        Refuses("mamba_bias", "llama.cpp's graph has no biases in state-space layers but that of the convolution"),
        Refuses("window", "llama.cpp's nemotron_h graph has no sliding windows"),
    ),
    prefixes=(("backbone.", "model."), ("backbone.", "")),
    graph={
        "block": "mamba2",
        "norm": "rms",
        "norm_place": "pre",
        "activation": "relu_squared",
        "mlp": "plain",
        "residual": "serial",
        "positions": "none",
    },
)

NEMOTRON_H_MOE = _BODY.derive(
    gguf="nemotron_h_moe",
    without=("n_ff",),
    params=(
        _kind(feeds=2),
        Param("n_expert", ("n_routed_experts", "num_local_experts"), "expert_count", default=8, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=2, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=7688),
        Param(
            "n_ff_shared",
            "moe_shared_expert_intermediate_size",
            "expert_shared_feed_forward_length",
            default=7688,
        ),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1),
        Param("normalised", "norm_topk_prob", "expert_weights_norm", "BOOL", default=True),
        Param("expert_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.0),
        Param("n_expert_group", "n_group", "expert_group_count", default=1),
        Param("latent", "moe_latent_size", "moe_latent_size", default=None),
        Param("n_expert_in", (), cases=(("latent", "latent"), ("", "n_embd"))),
        Param(
            "n_ff",
            (),
            "feed_forward_length",
            low=0,
            per_layer=True,
            each=(("kind == 2", "n_ff_expert"), ("", "0")),
        ),
    ),
    rows=(
        Row(_MIXER + "gate.weight", _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), when=_FEEDS, keep="F32"),
        Row(_MIXER + "gate.e_score_correction_bias", _BLOCK + "exp_probs_b.bias", ("n_expert",), when=_FEEDS),
        *_experts("up", ("n_expert", "n_ff_expert", "n_expert_in")),
        *_experts("down", ("n_expert", "n_expert_in", "n_ff_expert")),
        Row(
            _MIXER + "shared_experts.up_proj.weight",
            _BLOCK + "ffn_up_shexp.weight",
            ("n_ff_shared", "n_embd"),
            when=_FEEDS,
        ),
        Row(
            _MIXER + "shared_experts.down_proj.weight",
            _BLOCK + "ffn_down_shexp.weight",
            ("n_embd", "n_ff_shared"),
            when=_FEEDS,
        ),
        Row(
            _MIXER + "fc1_latent_proj.weight",
            _BLOCK + "ffn_latent_down.weight",
            ("latent", "n_embd"),
            when=f"latent and {_FEEDS}",
        ),
        Row(
            _MIXER + "fc2_latent_proj.weight",
            _BLOCK + "ffn_latent_up.weight",
            ("n_embd", "latent"),
            when=f"latent and {_FEEDS}",
        ),
    ),
    refuses=(
        Refuses(
            "kind == 3", "in a model with experts, llama.cpp takes it that of the feed-forward layers all are experts"
        ),
        Refuses("n_expert_group != 1", "llama.cpp's nemotron_h_moe graph does not choose among groups of experts"),
    ),
    graph={"mlp": "moe+shared", "router": "sigmoid"},
)

NEMOTRON_H = _BODY.derive(
    rows=_DENSE,
    variants=(("kind == 2", NEMOTRON_H_MOE),),
)
