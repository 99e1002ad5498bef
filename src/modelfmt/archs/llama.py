"""Llama (also inside Emu 3), CWM, InternLM 3, IQuest Coder, Mistral, Ministral and Mixtral: all are `llama` in GGUF.
Mistral Small 3 with its vision part is `mistral3`, and so is Ministral 3, whose queries grow with the position.

Checked against transformers 5.24
models/{llama,cwm,emu3,internlm3,iquestcoder,ministral,mistral,mixtral,mistral3,ministral3}/*.py and llama.cpp
src/models/{llama,mistral3}.cpp (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import (
    ATTENTION_BIAS,
    DECODER,
    HEAD_SIZE_GIVEN,
    HEAD_SIZE_WRITTEN,
    MLP_BIAS,
    NUMBERED,
    expert_params,
    expert_rows,
    kv_heads,
    targets,
)
from modelfmt.archs.experts import router
from modelfmt.archs.specs import Permute
from modelfmt.archs.table import Loses, Param, Refuses, Rope, Row

__all__ = [
    "CWM",
    "EMU3",
    "INTERNLM3",
    "IQUEST_CODER",
    "LLAMA",
    "MINISTRAL",
    "MINISTRAL3",
    "MISTRAL",
    "MISTRAL3",
    "MIXTRAL",
]

_KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

LLAMA = DECODER.derive(
    gguf="llama",
    hf=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    model_type=("llama",),
    rope=Rope("norm", kinds=_KINDS, dimension=True),
    params=(*HEAD_SIZE_WRITTEN, Param("vocab_size", "vocab_size", "vocab_size"), ATTENTION_BIAS, MLP_BIAS),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (Permute("n_head"),), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (Permute("n_head_kv"),), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", _Q), (), "maybe"),
        Row("model.layers.{i}.mlp.gate_proj.weight", _BLOCK + "ffn_gate.weight", ("n_ff", "n_embd"), (), "maybe"),
        Row("model.layers.{i}.mlp.up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd"), (), "maybe"),
        Row("model.layers.{i}.mlp.down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff"), (), "maybe"),
    ),
)

_RMS = Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5)
_HEADS_OF_128 = Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head")

INTERNLM3 = LLAMA.derive(
    hf=("InternLM3ForCausalLM",),
    model_type=("internlm3",),
    params=(
        kv_heads(2),
        _RMS,
        _HEADS_OF_128,
        replace(ATTENTION_BIAS, config=("attention_bias", "qkv_bias")),
        replace(MLP_BIAS, config=("mlp_bias", "bias")),
    ),
)

IQUEST_CODER = LLAMA.derive(
    hf=("IQuestCoderForCausalLM",),
    model_type=("iquestcoder",),
    params=(
        kv_heads(8),
        _RMS,
        _HEADS_OF_128,
        Param("clip", "clip_qkv", type="FLOAT32", default=None),
        Param("slides", "use_sliding_window", type="BOOL", default=False),
    ),
    refuses=(
        Refuses("clip", "llama.cpp's llama graph does not clip queries, keys and values"),
        Refuses("slides", "llama.cpp's llama graph attends to the whole context"),
    ),
)

MISTRAL = LLAMA.derive(
    hf=("MistralForCausalLM", "MistralModel"),
    model_type=("mistral",),
    without=("attention_bias", "mlp_bias"),
    params=(kv_heads(8), Param("sliding_window", "sliding_window", default=4096, nullable=True)),
    loses=(
        Loses(
            "sliding_window and sliding_window < n_ctx",
            "dropped",
            "sliding_window",
            "llama.cpp's llama graph attends to the whole context: texts longer than the window come out differently",
        ),
    ),
)

_SLIDES = (("sliding_attention", 1), ("full_attention", 0))

MINISTRAL = MISTRAL.derive(
    hf=("MinistralForCausalLM",),
    model_type=("ministral",),
    without=("sliding_window",),
    params=(
        Param("slides", "layer_types", codes=_SLIDES, default=1, per_layer=True),
        Param("windows", (), derive="largest(slides)"),
        Param("sliding_window", "sliding_window", cases=(("not windows", "0"),), default=4096, nullable=True),
    ),
)

EMU3 = LLAMA.derive(
    hf=(),
    model_type=(),
    rope=Rope("norm", theta=1e6, kinds=_KINDS, dimension=True),
    params=(kv_heads(8), _RMS),
)

_CWM = {
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

CWM = MINISTRAL.derive(
    hf=("CwmForCausalLM",),
    model_type=("cwm",),
    rope=Rope("norm", theta=1e6, kinds=_KINDS, dimension=True, settings=_CWM),
    params=(
        _RMS,
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("slides", "layer_types", codes=_SLIDES, per_layer=True, each=(("layer % 4", "1"), ("", "0"))),
        Param("sliding_window", "sliding_window", cases=(("not windows", "0"),), default=8192, nullable=True),
    ),
)

MIXTRAL = MISTRAL.derive(
    hf=("MixtralForCausalLM",),
    model_type=("mixtral",),
    rope=Rope("norm", theta=1e6, kinds=_KINDS, dimension=True),
    without=("value_size", *targets("ffn_gate", "ffn_up", "ffn_down")),
    params=(
        *expert_params(),
        *HEAD_SIZE_GIVEN,
        Param("sliding_window", "sliding_window", default=None),
        _RMS,
    ),
    rows=(
        router("block_sparse_moe.gate.weight", "mlp.gate.weight"),
        *expert_rows("block_sparse_moe.experts", NUMBERED, "n_ff"),
    ),
    graph={"mlp": "moe"},
)

MISTRAL3 = MISTRAL.derive(
    gguf="mistral3",
    hf=("Mistral3ForConditionalGeneration",),
    model_type=("mistral3",),
    writes=("MistralForCausalLM", "mistral"),
    rope=Rope("norm", kinds=("default", "linear", "yarn"), dimension=True, log_multiplier=1.0, betas=True),
    params=(
        Param("head_size", "head_dim", "attention.key_length", derive="n_embd/n_head"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32"),  # the defaults of both differ
        Param("sliding_window", "sliding_window", default=None),
        Param(
            "grows",
            "model_type",
            codes=(("ministral3", 1), ("mistral", 0), ("mistral3", 0)),
            low=0,
            implied=(("growth", "1"), ("", "0")),
        ),
        Param("growth", "rope_parameters.llama_4_scaling_beta", "attention.temperature_scale", "FLOAT32", default=None),
    ),
    refuses=(Refuses("grows and not growth", "Ministral 3 needs its rope_parameters, with llama_4_scaling_beta"),),
)

MINISTRAL3 = MISTRAL3.derive(hf=("Ministral3ForCausalLM",), model_type=("ministral3",), writes=None)
