"""Mellum 2: Qwen 3's experts in every layer, with sliding windows whose layers turn without scaling.

Checked against transformers 5.24 models/mellum/{configuration,modeling}_mellum.py and llama.cpp src/models/mellum.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.qwen import QWEN3_MOE
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Window

__all__ = ["MELLUM"]

MELLUM = QWEN3_MOE.derive(
    gguf="mellum",
    hf=("MellumForCausalLM",),
    model_type=("mellum",),
    rope=Rope("neox", theta=500000.0, kinds=("default", "linear", "yarn"), local_theta="same"),
    window=Window(period=4, size=1024, stated=True),
    params=(
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("slides", (), default=0),
        Param("sparse_step", (), default=1),
        Param(
            "n_dense",
            "mlp_layer_types",
            codes=(("sparse", 0), ("dense", 1)),
            default=0,
            per_layer=True,
            implied=(("", "0"),),
        ),
        Param("normalised", "norm_topk_prob", type="BOOL", default=True, implied=(("", "1"),)),
    ),
    ignores=(Ignore("mtp.*", "the layer that predicts a further token takes no part in llama.cpp's graph", loss=True),),
    refuses=(
        Refuses("n_dense", "llama.cpp's mellum graph has experts in every layer"),
        Refuses("tied", "llama.cpp's mellum graph wants an output matrix besides the embedding"),
        Refuses("rope_theta != rope_theta_local", "llama.cpp's mellum graph has one rope_theta for all layers"),
    ),
)
