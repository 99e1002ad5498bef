"""MiniMax M2 (M2.1, M2.5): experts chosen by a sigmoid in every layer, norms over all heads, partial rope.

Checked against transformers 5.24 models/minimax_m2/{configuration,modeling}_minimax_m2.py and llama.cpp
src/models/minimax-m2.cpp (October 2026). MiniMax 01 (`minimax`) is not this architecture.
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, expert_rows, kv_heads, targets
from modelfmt.archs.experts import router, score_bias
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["MINIMAX_M2"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."

MINIMAX_M2 = DECODER.derive(
    gguf="minimax-m2",
    hf=("MiniMaxM2ForCausalLM",),
    model_type=("minimax_m2",),
    rope=Rope("neox", theta=5e6, kinds=("default", "linear", "yarn"), partial=1.0, dimension=True),
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        kv_heads(8),
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("n_expert", ("num_local_experts", "num_experts"), "expert_count", default=256, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", (), "expert_feed_forward_length", derive="n_ff"),
        Param("gating", "scoring_func", "expert_gating_func", codes=(("sigmoid", 2),), default=2),
    ),
    rows=(
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("n_head*head_size",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("n_head_kv*head_size",)),
        router("block_sparse_moe.gate.weight"),
        score_bias("block_sparse_moe.e_score_correction_bias"),
        *expert_rows("block_sparse_moe.experts", {"gate": "w1", "up": "w3", "down": "w2"}, "n_ff"),
    ),
    refuses=(Refuses("tied", "llama.cpp's minimax-m2 graph wants an output matrix besides the embedding"),),
    graph={"mlp": "moe", "qk_norm": "all"},
)
