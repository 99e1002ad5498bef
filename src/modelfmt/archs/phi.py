"""Phi 3, 3.5 and 4 (dense): fused qkv and gate-up projections, on both sides; longrope.

Checked against transformers 5.23 models/phi3/{configuration,modeling}_phi3.py and llama.cpp src/models/phi3.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["PHI3"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."

PHI3 = DECODER.derive(
    gguf="phi3",
    hf=("Phi3ForCausalLM",),
    model_type=("phi3",),
    # su and yarn: what the first releases of Phi 3 called longrope
    rope=Rope(
        "neox",
        kinds=("default", "longrope"),
        dimension=True,
        partial=True,
        aliases={"su": "longrope", "yarn": "longrope"},
        names_longrope=False,
    ),
    without=tuple(_BLOCK + name + ".weight" for name in ("attn_q", "attn_k", "attn_v", "ffn_gate")),
    params=(
        Param(
            "n_ctx_original", "original_max_position_embeddings", "rope.scaling.original_context_length", default=4096
        ),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("sliding_window", "sliding_window", "attention.sliding_window", default=0, low=0),
    ),
    rows=(
        Row(
            _LAYER + "self_attn.qkv_proj.weight",
            _BLOCK + "attn_qkv.weight",
            ("n_head*head_size + 2*n_head_kv*head_size", "n_embd"),
        ),
        Row(_LAYER + "mlp.gate_up_proj.weight", _BLOCK + "ffn_up.weight", ("2*n_ff", "n_embd")),
    ),
    refuses=(Refuses("n_head*head_size != n_embd", "llama.cpp's phi3 graph has heads of n_embd / n_head values only"),),
    graph={"fused": ("qkv", "gate_up")},
)
