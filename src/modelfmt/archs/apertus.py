"""Apertus: norms of queries and keys, and a plain MLP whose activation, xIELU, has parameters of its own in each layer.

They are tensors of one value in the checkpoint and lists of numbers in the file. Checked against transformers 5.24
models/apertus/{configuration,modeling}_apertus.py, activations.py (XIELUActivation) and llama.cpp
src/models/apertus.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, targets
from modelfmt.archs.table import Param, Refuses, Rope, Row, Scalar

__all__ = ["APERTUS", "APERTUS_1_5"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_XIELU = _LAYER + "mlp.act_fn."
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

APERTUS = DECODER.derive(
    gguf="apertus",
    hf=("ApertusForCausalLM",),
    model_type=("apertus",),
    rope=Rope("neox", kinds=("default", "linear", "yarn", "llama3"), dimension=True, settings=_LLAMA3),
    without=targets("ffn_gate"),
    params=(
        *HEAD_SIZE_WRITTEN,
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("activation", "hidden_act", type="STRING", default="xielu", allowed=("xielu",)),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
    ),
    rows=(
        Row(_LAYER + "attention_layernorm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        Row(_LAYER + "feedforward_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
    ),
    scalars=(
        Scalar(_XIELU + "alpha_n", "xielu.alpha_n"),
        Scalar(_XIELU + "alpha_p", "xielu.alpha_p"),
        Scalar(_XIELU + "beta", "xielu.beta", shape=(), default=0.5),
        Scalar(_XIELU + "eps", "xielu.eps", shape=(), default=-1e-6),
    ),
    refuses=(Refuses("attention_bias", "llama.cpp's apertus graph has no biases"),),
    graph={"qk_norm": "head", "mlp": "plain", "activation": "xielu"},
)

APERTUS_1_5 = APERTUS.derive(
    hf=("Apertus1p5TextForCausalLM",),
    model_type=("apertus1p5_text",),
    params=(Param("n_out", "output_vocab_size", default=None),),
    refuses=(
        Refuses("n_out and n_out != vocab_size", "the output has fewer tokens than the input: a file has one size"),
    ),
)
