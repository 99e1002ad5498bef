"""OLMo 2 and 3: norms behind attention and MLP, and over all heads of queries and keys; both are `olmo2` in GGUF.
OLMo 1 has norms without weights, OLMoE experts in every layer.

Checked against transformers 5.24 models/{olmo,olmo2,olmo3,olmoe}/{configuration,modeling}_*.py and llama.cpp
src/models/{olmo,olmo2,olmoe}.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows, targets
from modelfmt.archs.experts import NOT_NORMALISED, router
from modelfmt.archs.specs import Permute
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["OLMO", "OLMO2", "OLMO3", "OLMOE"]

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

OLMOE = DECODER.derive(
    gguf="olmoe",
    hf=("OlmoeForCausalLM",),
    model_type=("olmoe",),
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("n_expert", "num_experts", "expert_count", default=64, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("normalised", "norm_topk_prob", type="BOOL", default=False),
        Param("clip", "clip_qkv", type="FLOAT32", default=None),
    ),
    rows=(
        Row(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", ("n_head*head_size",)),
        Row(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", ("n_head_kv*head_size",)),
        router("mlp.gate.weight"),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff"),
    ),
    refuses=(
        Refuses("n_head_kv != n_head", "llama.cpp's olmoe graph has a key-value head for each query head"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's olmoe graph has heads of n_embd / n_head values only"),
        Refuses("clip", "llama.cpp's olmoe graph does not clip queries, keys and values"),
        Refuses("tied", "llama.cpp's olmoe graph wants an output matrix besides the embedding"),
    ),
    loses=(NOT_NORMALISED,),
    graph={"mlp": "moe", "qk_norm": "all"},
)

OLMO = DECODER.derive(
    gguf="olmo",
    hf=("OlmoForCausalLM",),
    model_type=("olmo",),
    rope=Rope("norm"),
    without=("rms_eps", "output_norm.weight", *targets("attn_norm", "ffn_norm")),
    params=(
        Param("norm_eps", (), "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("clip", "clip_qkv", "attention.clamp_kqv", "FLOAT32", default=None),
    ),
    rows=(
        Row(
            _LAYER + "self_attn.q_proj.weight",
            _BLOCK + "attn_q.weight",
            ("n_head*head_size", "n_embd"),
            (Permute("n_head"),),
        ),
        Row(
            _LAYER + "self_attn.k_proj.weight",
            _BLOCK + "attn_k.weight",
            ("n_head_kv*head_size", "n_embd"),
            (Permute("n_head_kv"),),
        ),
    ),
    refuses=(Refuses("n_head*head_size != n_embd", "llama.cpp's olmo graph has heads of n_embd / n_head values only"),),
    graph={"norm": "layer without weights"},
)
