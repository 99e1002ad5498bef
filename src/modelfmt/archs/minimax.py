"""MiniMax M2 (M2.1, M2.5): experts chosen by a sigmoid in every layer, norms over all heads, partial rope. MiniMax 01
and M1: lightning attention, which decays by head, in most layers.

Checked against transformers 5.24 models/{minimax,minimax_m2}/{configuration,modeling}_*.py and llama.cpp
src/models/{minimax-01,minimax-m2}.cpp (October 2026).
"""

from __future__ import annotations

from typing import Any

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, expert_params, expert_rows, kv_heads, targets
from modelfmt.archs.experts import router, score_bias
from modelfmt.archs.table import Ignore, Loses, Param, Refuses, Rope, Row

__all__ = ["MINIMAX_01", "MINIMAX_M2"]

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

_FULL, _LINEAR = "not recurrent", "recurrent"
_SCALES = "llama.cpp's minimax-01 graph has one scale for all residuals, and none for what is added to them"


def _factor(name: str, config: str, **more: Any) -> Param:
    return Param(name, config, type="FLOAT32", default=1, **more)


MINIMAX_01 = DECODER.derive(
    gguf="minimax-01",
    hf=("MiniMaxForCausalLM",),
    model_type=("minimax",),
    rope=Rope("neox", theta=1e6, kinds=("default", "linear", "yarn"), partial=1.0, dimension=True),
    without=targets("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    params=(
        kv_heads(8),
        *HEAD_SIZE_WRITTEN,
        *expert_params(),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("lightning_eps", (), type="FLOAT32", default=1e-6),
        Param("alternating", (), each=(("layer % 2 == 1", "1"), ("", "0"))),
        Param(
            "recurrent",
            "layer_types",
            "attention.recurrent_layers",
            "BOOL",
            codes=(("linear_attention", 1), ("full_attention", 0)),
            per_layer=True,
            each=(("alternating", "1"), ("", "0")),
        ),
        Param("alpha", "full_attn_alpha_factor", "residual_scale", "FLOAT32", default=1),
        _factor("alpha_linear", "linear_attn_alpha_factor", implied=(("", "alpha"),)),
        _factor("alpha_mlp", "mlp_alpha_factor", implied=(("", "alpha"),)),
        _factor("beta", "full_attn_beta_factor", allowed=(1,)),
        _factor("beta_linear", "linear_attn_beta_factor", allowed=(1,)),
        _factor("beta_mlp", "mlp_beta_factor", allowed=(1,)),
        Param("sliding_window", "sliding_window", default=None),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", ("n_head*head_size", "n_embd"), when=_FULL),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", ("n_head_kv*head_size", "n_embd"), when=_FULL),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", ("n_head_kv*head_size", "n_embd"), when=_FULL),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*head_size"), when=_FULL),
        Row(
            _ATTENTION + "out_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*head_size"), when=_LINEAR
        ),
        Row(_ATTENTION + "qkv_proj.weight", _BLOCK + "attn_qkv.weight", ("3*n_head*head_size", "n_embd"), when=_LINEAR),
        Row(
            _ATTENTION + "output_gate.weight", _BLOCK + "attn_gate.weight", ("n_head*head_size", "n_embd"), when=_LINEAR
        ),
        Row(_ATTENTION + "norm.weight", _BLOCK + "attn_norm_2.weight", ("n_head*head_size",), when=_LINEAR),
        router("block_sparse_moe.gate.weight", "mlp.gate.weight"),
        *expert_rows("block_sparse_moe.experts", {"gate": "w1", "up": "w3", "down": "w2"}, "n_ff"),
    ),
    ignores=tuple(
        Ignore(f"*.self_attn.{name}", "a buffer, computed from the number of heads and the layer")
        for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
    ),
    refuses=(
        Refuses("alpha != alpha_linear", _SCALES),
        Refuses("alpha != alpha_mlp", _SCALES),
        Refuses("sliding_window", "llama.cpp's minimax-01 graph attends to the whole context"),
    ),
    loses=(
        Loses(
            "rms_eps != lightning_eps",
            "approximated",
            "rms_norm_eps",
            "llama.cpp's minimax-01 graph has one epsilon, the norm of lightning attention has 1e-6",
        ),
    ),
    graph={"mlp": "moe"},
)
