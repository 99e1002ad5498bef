"""Phi 1 and 2: attention and MLP beside each other. Phi 3, 3.5 and 4 (dense): fused projections, longrope.

Checked against transformers 5.23 models/{phi,phi3}/{configuration,modeling}_*.py and llama.cpp
src/models/{phi2,phi3}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, biased
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["PHI2", "PHI3"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_NORM_EPS = "attention.layer_norm_epsilon"

PHI2 = DECODER.derive(
    gguf="phi2",
    hf=("PhiForCausalLM",),
    model_type=("phi",),
    rope=Rope("neox", implied=10000.0, partial=0.5, dimension=True),
    without=("rms_eps", _BLOCK + "ffn_gate.weight", _BLOCK + "ffn_norm.weight"),
    params=(
        Param("norm_eps", ("layer_norm_eps", "layer_norm_epsilon"), _NORM_EPS, "FLOAT32", default=1e-5),
        Param("qk_norm", "qk_layernorm", type="BOOL", default=False),
        Param(
            "activation",
            "hidden_act",
            type="STRING",
            default="gelu_new",
            allowed=("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh"),
        ),
    ),
    rows=(
        biased("model.final_layernorm", "output_norm", "n_embd"),
        biased("lm_head", "output", "vocab_size", "n_embd"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        biased(_LAYER + "self_attn.q_proj", _BLOCK + "attn_q", "n_head*head_size", "n_embd"),
        biased(_LAYER + "self_attn.k_proj", _BLOCK + "attn_k", "n_head_kv*head_size", "n_embd"),
        biased(_LAYER + "self_attn.v_proj", _BLOCK + "attn_v", "n_head_kv*head_size", "n_embd"),
        biased(_LAYER + "self_attn.dense", _BLOCK + "attn_output", "n_embd", "n_head*head_size"),
        biased(_LAYER + "mlp.fc1", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "mlp.fc2", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    refuses=(
        Refuses("qk_norm", "llama.cpp's phi2 graph has no norms of queries and keys"),
        Refuses("tied", "llama.cpp's phi2 graph wants an output matrix besides the embedding"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's phi2 graph has heads of n_embd / n_head values only"),
    ),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain", "residual": "parallel"},
)

PHI3 = DECODER.derive(
    gguf="phi3",
    hf=("Phi3ForCausalLM",),
    model_type=("phi3",),
    # su and yarn: what the first releases of Phi 3 called longrope
    rope=Rope(
        "neox",
        kinds=("default", "longrope"),
        dimension=True,
        partial=1.0,
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
