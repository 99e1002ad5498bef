"""Arcee (AFM): Llama with a plain MLP whose activation is relu squared.

Checked against transformers 5.23 models/arcee/{configuration,modeling}_arcee.py and llama.cpp src/models/arcee.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import kv_heads, unbiased
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.table import Param, Rope, Row

__all__ = ["ARCEE", "COSMOS3_EDGE"]

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

_MLP = "model.layers.{i}.mlp."

COSMOS3_EDGE = ARCEE.derive(
    hf=(),
    model_type=(),
    writes=("ArceeForCausalLM", "arcee"),
    pooled=False,
    rope=Rope("norm", theta=1e8, kinds=("default",), dimension=True, alike=True, aliases={"mrope": "default"}),
    params=(kv_heads(8), Param("head_size", "head_dim", "attention.key_length", default=128)),
    rows=(
        Row((_MLP + "fc1.weight", _MLP + "up_proj.weight"), "blk.{i}.ffn_up.weight", ("n_ff", "n_embd")),
        Row((_MLP + "fc2.weight", _MLP + "down_proj.weight"), "blk.{i}.ffn_down.weight", ("n_embd", "n_ff")),
    ),
)
