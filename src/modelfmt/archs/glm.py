"""GLM 4 (0414, dense): norms before and behind attention and MLP, gate and up fused on both sides, partial rope.

Checked against transformers 5.23 models/glm4/{configuration,modeling}_glm4.py and llama.cpp src/models/glm4.cpp
(October 2026).
"""

from __future__ import annotations

from dataclasses import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, kv_heads, targets
from modelfmt.archs.table import Param, Rope, Row

__all__ = ["GLM4"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

GLM4 = DECODER.derive(
    gguf="glm4",
    hf=("Glm4ForCausalLM",),
    model_type=("glm4",),
    rope=Rope("norm", partial=0.5, dimension=True),
    without=targets("ffn_gate"),
    params=(
        kv_heads(2),
        replace(ATTENTION_BIAS, default=True),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1.5625e-7),
    ),
    rows=(
        Row(_LAYER + "self_attn.q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_LAYER + "post_self_attn_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(_LAYER + "post_mlp_layernorm.weight", _BLOCK + "post_ffw_norm.weight", ("n_embd",)),
        Row(_LAYER + "mlp.gate_up_proj.weight", _BLOCK + "ffn_up.weight", ("2*n_ff", "n_embd")),
    ),
    graph={"norm_place": "pre+post", "fused": ("gate_up",)},
)
