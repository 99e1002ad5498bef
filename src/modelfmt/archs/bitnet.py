"""BitNet b1.58: a Llama whose attention and MLP have a norm before their last matrix, with relu squared.

The values of its matrices are -1, 0 and 1 times a scale of each matrix; that is for the scheme of the checkpoint to
say, the table is that of the values. Checked against transformers 5.24 models/bitnet/{configuration,modeling}_bitnet.py
and llama.cpp src/models/bitnet.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, kv_heads
from modelfmt.archs.table import Ignore, Loses, Param, Refuses, Rope, Row

__all__ = ["BITNET"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."

BITNET = DECODER.derive(
    gguf="bitnet",
    hf=("BitNetForCausalLM", "BitnetForCausalLM"),
    model_type=("bitnet",),
    rope=Rope("neox", theta=500000.0, kinds=("default", "linear", "yarn"), dimension=True),
    without=("output.weight",),
    params=(
        kv_heads(5),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("activation", "hidden_act", "hidden_activation", "STRING", default="relu2", allowed=("relu2", "silu")),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
    ),
    rows=(
        Row(_LAYER + "self_attn.attn_sub_norm.weight", _BLOCK + "attn_sub_norm.weight", ("n_embd",)),
        Row(_LAYER + "mlp.ffn_sub_norm.weight", _BLOCK + "ffn_sub_norm.weight", ("n_ff",)),
    ),
    ignores=(Ignore("*lm_head.weight", "the output of this architecture is its embedding", when="tied"),),
    refuses=(
        Refuses("not tied", "llama.cpp's bitnet graph has no output matrix besides the embedding"),
        Refuses("attention_bias", "llama.cpp's bitnet graph has no biases"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's bitnet graph has heads of n_embd / n_head values only"),
    ),
    loses=(
        Loses(
            "activation == 'relu2'",
            "approximated",
            "hidden_act",
            "llama.cpp reads the activation of bitnet files since November 2026; before, it computes silu",
        ),
    ),
    graph={"activation": "relu2"},
)
