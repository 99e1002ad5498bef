"""Llama, Mistral and Mixtral: all three are `llama` in GGUF.

Checked against transformers 5.23 models/{llama,mistral,mixtral}/{configuration,modeling}_*.py and llama.cpp
src/models/llama.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import (
    ATTENTION_BIAS,
    DECODER,
    HEAD_SIZE_GIVEN,
    HEAD_SIZE_WRITTEN,
    MLP_BIAS,
    expert_params,
    expert_rows,
    kv_heads,
)
from modelfmt.archs.specs import Permute
from modelfmt.archs.table import Loses, Param, Rope, Row

__all__ = ["LLAMA", "MISTRAL", "MIXTRAL"]

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

MIXTRAL = MISTRAL.derive(
    hf=("MixtralForCausalLM",),
    model_type=("mixtral",),
    rope=Rope("norm", theta=1e6, kinds=_KINDS, dimension=True),
    without=(
        "value_size",
        _BLOCK + "ffn_gate.weight",
        _BLOCK + "ffn_up.weight",
        _BLOCK + "ffn_down.weight",
    ),
    params=(
        *expert_params(),
        *HEAD_SIZE_GIVEN,
        Param("sliding_window", "sliding_window", default=None),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
    ),
    rows=(
        Row(
            ("model.layers.{i}.block_sparse_moe.gate.weight", "model.layers.{i}.mlp.gate.weight"),
            _BLOCK + "ffn_gate_inp.weight",
            ("n_expert", "n_embd"),
            keep="F32",
        ),
        *expert_rows("block_sparse_moe.experts", {"gate": "w1", "up": "w3", "down": "w2"}, "n_ff"),
    ),
    graph={"mlp": "moe"},
)
