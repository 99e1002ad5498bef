"""Arcee (AFM): Llama with a plain MLP whose activation is relu squared.

Checked against transformers 5.23 models/arcee/{configuration,modeling}_arcee.py and llama.cpp src/models/arcee.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import unbiased
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.table import Param, Rope

__all__ = ["ARCEE"]

ARCEE = LLAMA.derive(
    gguf="arcee",
    hf=("ArceeForCausalLM",),
    model_type=("arcee",),
    pooled=True,
    rope=Rope("norm", kinds=("default", "linear", "dynamic", "yarn", "llama3"), dimension=True),
    without=("blk.{i}.ffn_gate.weight",),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("activation", "hidden_act", type="STRING", default="relu2", allowed=("relu2",)),
    ),
    rows=unbiased(LLAMA.rows, "attn_output", "ffn_up", "ffn_down"),
    graph={"mlp": "plain", "activation": "relu2"},
)
