"""Trinity (Arcee's AFMoE): gated attention, norms before and behind, experts chosen by a sigmoid behind dense layers.

Layers with a sliding window have rope, the others do not. Checked against transformers 5.24
models/afmoe/{configuration,modeling}_afmoe.py and llama.cpp src/models/afmoe.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows
from modelfmt.archs.experts import dense_rows, router, score_bias, shared_rows
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["AFMOE"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

AFMOE = DECODER.derive(
    gguf="afmoe",
    hf=("AfmoeForCausalLM",),
    model_type=("afmoe",),
    rope=Rope("neox", kinds=("default", "linear", "yarn")),
    window=Window(period=4, size=1024, required=True),
    params=(
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("n_dense", "num_dense_layers", "leading_dense_block_count", default=1, low=0),
        Param("n_expert", "num_experts", "expert_count", default=64, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=6, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1408),
        Param("n_shared", "num_shared_experts", "expert_shared_count", default=2, low=0),
        Param("routed_scale", "route_scale", "expert_weights_scale", "FLOAT32", default=1.0),
        Param("normalised", "route_norm", "expert_weights_norm", "BOOL", default=True, allowed=(True,)),
        Param("gating", "score_func", "expert_gating_func", codes=(("sigmoid", 2),), default=2),
        Param("period", "global_attn_every_n_layers", default=4),
        Param("scaled", "mup_enabled", type="BOOL", default=False, implied=(("", "1"),)),
    ),
    rows=(
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        Row(_ATTENTION + "gate_proj.weight", _BLOCK + "attn_gate.weight", ("n_head*head_size", "n_embd")),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(_LAYER + "pre_mlp_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_LAYER + "post_mlp_layernorm.weight", _BLOCK + "post_ffw_norm.weight", ("n_embd",)),
        *dense_rows(_DENSE),
        router("mlp.router.gate.weight", when=_ROUTED),
        score_bias("mlp.expert_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", f"{_ROUTED} and n_shared"),
    ),
    refuses=(
        Refuses("not scaled", "llama.cpp's afmoe graph scales the embedding by the root of its width"),
        Refuses("period != 4", "llama.cpp's afmoe graph does without rope in each fourth layer, and in no other"),
    ),
    graph={"norm_place": "pre+post", "mlp": "moe", "qk_norm": "head", "no_rope": "full", "gate": "attention"},
)
