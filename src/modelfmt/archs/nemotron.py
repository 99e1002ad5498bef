"""Nemotron and Minitron (dense): layer norms stored minus one, partial rope, a plain MLP with relu squared.

Checked against transformers 5.23 models/nemotron/{configuration,modeling}_nemotron.py and llama.cpp
src/models/nemotron.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, HEAD_SIZE_WRITTEN, MLP_BIAS, biased
from modelfmt.archs.specs import Add
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["NEMOTRON"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_PLUS_ONE = (Add(1.0),)


def _linear(source: str, target: str, *shape: str) -> Row:
    return Row(f"{_LAYER}{source}.weight", f"{_BLOCK}{target}.weight", shape, (), "maybe")


NEMOTRON = DECODER.derive(
    gguf="nemotron",
    hf=("NemotronForCausalLM",),
    model_type=("nemotron",),
    rope=Rope("neox", kinds=("default", "linear"), partial=0.5, dimension=True),
    without=("rms_eps", _BLOCK + "ffn_gate.weight"),
    params=(
        *HEAD_SIZE_WRITTEN,
        ATTENTION_BIAS,
        MLP_BIAS,
        Param("norm_eps", ("norm_eps", "layer_norm_eps"), "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("rope_scaling", (), "rope.scaling.type", "STRING", default="none"),
        Param("activation", "hidden_act", type="STRING", default="relu2", allowed=("relu2",)),
    ),
    rows=(
        biased("model.norm", "output_norm", "n_embd", ops=_PLUS_ONE),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd", ops=_PLUS_ONE),
        biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd", ops=_PLUS_ONE),
        _linear("self_attn.q_proj", "attn_q", "n_head*head_size", "n_embd"),
        _linear("self_attn.k_proj", "attn_k", "n_head_kv*head_size", "n_embd"),
        _linear("self_attn.v_proj", "attn_v", "n_head_kv*head_size", "n_embd"),
        _linear("self_attn.o_proj", "attn_output", "n_embd", "n_head*head_size"),
        _linear("mlp.up_proj", "ffn_up", "n_ff", "n_embd"),
        _linear("mlp.down_proj", "ffn_down", "n_embd", "n_ff"),
    ),
    refuses=(
        Refuses("n_head*head_size != n_embd", "llama.cpp's nemotron graph has heads of n_embd / n_head values only"),
        Refuses("tied", "llama.cpp's nemotron graph wants an output matrix besides the embedding"),
    ),
    graph={"norm": "layer", "norm_offset": 1.0, "activation": "relu2", "mlp": "plain"},
)
