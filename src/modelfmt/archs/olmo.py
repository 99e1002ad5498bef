"""OLMo 2 and 3: norms behind attention and MLP, and over all heads of queries and keys; both are `olmo2` in GGUF.

Checked against transformers 5.23 models/{olmo2,olmo3}/{configuration,modeling}_*.py and llama.cpp src/models/olmo2.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["OLMO2", "OLMO3"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."

OLMO2 = DECODER.derive(
    gguf="olmo2",
    hf=("Olmo2ForCausalLM",),
    model_type=("olmo2",),
    without=(_BLOCK + "attn_norm.weight", _BLOCK + "ffn_norm.weight"),
    params=(Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),),
    rows=(
        Row(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", ("n_head*head_size",)),
        Row(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", ("n_head_kv*head_size",)),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(_LAYER + "post_feedforward_layernorm.weight", _BLOCK + "post_ffw_norm.weight", ("n_embd",)),
    ),
    refuses=(
        Refuses("n_head*head_size != n_embd", "llama.cpp's olmo2 graph has heads of n_embd / n_head values only"),
        Refuses("tied", "llama.cpp's olmo2 graph wants an output matrix besides the embedding"),
    ),
    graph={"norm_place": "post", "qk_norm": "all"},
)

OLMO3 = OLMO2.derive(
    hf=("Olmo3ForCausalLM",),
    model_type=("olmo3",),
    rope=Rope("neox", theta=500000.0, local_theta="same"),
    window=Window(period=4, size=4096),
    refuses=(Refuses("rope_theta != rope_theta_local", "llama.cpp's olmo2 graph has one rope_theta for all layers"),),
)
