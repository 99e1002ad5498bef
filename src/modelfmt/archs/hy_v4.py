"""Hunyuan 4: DeepSeek 3.2's attention and experts with sinks, a gate, and several streams of the residual that each
layer mixes (hyper-connections).

Rope turns pairs, as the released checkpoints, llama.cpp and vLLM have it; transformers 5.24 turns halves, which is
another model. Norms of the latent vectors have an epsilon of 1e-6 whatever config.json says; llama.cpp's have that of
the others. Checked against transformers 5.24 models/hy_v4/{configuration,modeling}_hy_v4.py and llama.cpp
src/models/hy-v4.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import PROJECTIONS, expert_rows, targets
from modelfmt.archs.dsa import DEEPSEEK32, indexer_params, indexer_types
from modelfmt.archs.experts import leading_dense, sigmoid_router
from modelfmt.archs.table import Ignore, Param, Refuses, Row

__all__ = ["HY4"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_GATES = targets("ffn_gate", "ffn_gate_shexp")


def _mixer(names: tuple[str, ...], target: str, sizes: tuple[str, str, str]) -> tuple[Row, ...]:
    """What mixes the streams at one place. names: of its tensors before fn, base and scale: on the hub, as transformers
    saves them, as it has them. sizes: the rows of the matrix, the number of biases and of scales."""
    shapes = ((sizes[0], "n_hc*n_embd"), sizes[1:2], sizes[2:])
    return tuple(
        Row(tuple(name + kind for name in names), f"{target}_{kind}.weight", shape, keep="F32")
        for kind, shape in zip(("fn", "base", "scale"), shapes, strict=True)
    )


def _mixer_of(module: str, saved: str, target: str) -> tuple[Row, ...]:
    names = (f"{saved}.hc_pre.hc_", f"hc_pre.{saved}.hc_", f"{module}.")
    return _mixer(tuple(_LAYER + name for name in names), _BLOCK + target, ("2*n_hc", "2*n_hc", "2"))


HY4 = DEEPSEEK32.derive(
    gguf="hy_v4",
    hf=("HYV4ForCausalLM",),
    model_type=("hy_v4",),
    nextn=None,  # its layers that predict further tokens are a named loss
    without=("n_nextn",),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("nope", "qk_nope_head_dim", default=192, implied=(("", "key_mla - n_rot"),)),
        Param("value_size", "v_head_dim", "attention.value_length_mla", default=256),
        leading_dense(1),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=768),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.827, normalised=True),
        Param("interleaved", (), default=True),
        *indexer_params(16, 2048),
        indexer_types(("not layer", "1"), ("layer % 4 == 1", "1"), ("", "0")),
        Param("swiglu_limit", "swiglu_limit", type="FLOAT32", default=10.0, implied=(("", "largest(clamp)"),)),
        Param("clamp", (), "swiglu_clamp_exp", "FLOAT32", each=(("", "swiglu_limit"),), per_layer=True),
        Param("n_hc", "hc_mult", "hyper_connection.count", default=4, high=64),
        Param("hc_eps", "hc_eps", "hyper_connection.epsilon", "FLOAT32", default=1e-6),
        Param("hc_magnitude", "hc_magnitude", "hyper_connection.magnitude", "FLOAT32", default=2.0),
    ),
    rows=(
        Row((_ATTENTION + "learnable_sink_param", _ATTENTION + "sinks"), _BLOCK + "attn_sinks.weight", ("n_head",)),
        Row(
            (_ATTENTION + "linear_gate.weight", _ATTENTION + "gate_proj.weight"),
            _BLOCK + "attn_gate.weight",
            ("n_head*value_size", "n_embd"),
        ),
        *(
            replace(row, source=(*row.sources, row.sources[0].replace("gate_proj", "linear_gate")))  # so it is saved
            for row in DEEPSEEK32.rows
            if row.target in _GATES
        ),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when="n_dense < layer + 1")[::-1],
        *_mixer_of("attn_hc", "hc_attn_layer", "hc_attn"),
        *_mixer_of("ffn_hc", "hc_mlp_layer", "hc_ffn"),
        *_mixer(
            ("model.hc_head.hc_head_", "model.hc_pre.hc_head.hc_head_", "model.hc_head.hc_"),
            "output_hc",
            ("n_hc", "n_hc", "1"),
        ),
    ),
    ignores=(
        Ignore("*mtp_layers.*", "the layers that predict further tokens take no part in llama.cpp's graph", loss=True),
    ),
    refuses=(
        Refuses("tied", "llama.cpp's hy_v4 graph wants an output matrix besides the embedding"),
        Refuses("not layer and not full", "the first layer has no other whose indexer it could share"),
        Refuses("index_size < head_size + 1", "llama.cpp's hy_v4 graph turns a part of each of the indexer's heads"),
    ),
    graph={"attention": "mla indexed gated", "sinks": True},
    unadapted=(*DEEPSEEK32.unadapted, "attn_gate.weight"),
)
