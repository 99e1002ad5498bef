"""MiniMax M2 (M2.1, M2.5): experts chosen by a sigmoid in every layer, norms over all heads, partial rope. M3: norms of
each head, dense layers before those with experts, whose indexer picks the blocks of keys that a group of heads attends
to (in llama.cpp with flash attention; without, to all). MiniMax 01 and M1: lightning attention, which decays by head,
in most layers.

Checked against transformers 5.24 models/{minimax,minimax_m2,minimax_m3_vl}/{configuration,modeling}_*.py,
conversion_mapping.py and llama.cpp src/models/{minimax-01,minimax-m2,minimax-m3}.cpp (October 2026).
"""

from __future__ import annotations

from typing import Any

from modelfmt.archs.decoder import DECODER, HEAD_SIZE_WRITTEN, NUMBERED, expert_params, expert_rows, kv_heads, targets
from modelfmt.archs.experts import router, score_bias
from modelfmt.archs.specs import Add, Part
from modelfmt.archs.table import Ignore, Loses, Param, Refuses, Rope, Row

__all__ = ["MINIMAX_01", "MINIMAX_M2", "MINIMAX_M3"]

_LAYER, _ATTENTION, _BLOCK = "model.layers.{i}.", "model.layers.{i}.self_attn.", "blk.{i}."
_INDEX = "attention.indexer."

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
        *expert_rows("block_sparse_moe.experts", NUMBERED, "n_ff"),
    ),
    refuses=(Refuses("tied", "llama.cpp's minimax-m2 graph wants an output matrix besides the embedding"),),
    graph={"mlp": "moe", "qk_norm": "all"},
)

_PLUS_ONE = (Add(1.0),)
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"
_SHARED, _INDEXER = _LAYER + "mlp.shared_experts.", _ATTENTION + "indexer."
_SPARSE = "sparse_attention_config."
_TURNING = "transformers turns whole heads without a partial_rotary_factor, MiniMax rotary_dim values: give the factor"


def _norm(source: str, target: str, size: str = "n_embd", when: str = "") -> Row:
    return Row(f"{source}.weight", f"{target}.weight", (size,), _PLUS_ONE, when=when)


def _gated(modules: tuple[str, ...], target: str, n_ff: str, when: str) -> tuple[Row, ...]:
    """A gated MLP as transformers has it in memory, gate with up, or apart. modules: its names."""
    apart = tuple(module + "{kind}_proj.weight" for module in modules)
    fused, up = modules[0] + "gate_up_proj.weight", (n_ff, "n_embd")
    return (
        *(
            Row(fused, f"{_BLOCK}{target.format(kind)}.weight", up, (Part(index, of=2, axis=0),), when=when)
            for index, kind in enumerate(("gate", "up"))
        ),
        *(
            Row(
                tuple(name.replace("{kind}", kind) for name in apart),
                f"{_BLOCK}{target.format(kind)}.weight",
                shape,
                when=when,
            )
            for kind, shape in (("gate", up), ("up", up), ("down", ("n_embd", n_ff)))
        ),
    )


def _index(source: str, name: str, size: str, *more: str) -> Row:
    """A matrix or norm of the indexer, by the names of transformers and of MiniMax."""
    names = (f"{_INDEXER}{source}.weight", f"{_ATTENTION}index_{source}.weight")
    ops = () if more else _PLUS_ONE
    return Row(names, f"{_BLOCK}indexer.{name}.weight", (size, *more), ops, when=_ROUTED, keep="F32")


MINIMAX_M3 = MINIMAX_M2.derive(
    gguf="minimax-m3",
    hf=("MiniMaxM3VLForCausalLM", "MiniMaxM3SparseForCausalLM", "MiniMaxM3ForCausalLM"),
    model_type=("minimax_m3_vl_text",),
    params=(
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu", "swigluoai")),
        Param("n_ff", "dense_intermediate_size", "feed_forward_length", default=12288),
        kv_heads(4),
        Param("n_expert", ("num_local_experts", "num_experts"), "expert_count", default=128, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=4, high=1024),
        Param("n_ff_expert", "intermediate_size", "expert_feed_forward_length", default=3072),
        Param("n_ff_shared", "shared_intermediate_size", default=3072, implied=(("", "n_shared*n_ff_expert"),)),
        Param("n_shared", (), "expert_shared_count", derive="n_ff_shared//n_ff_expert", low=0),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=2.0),
        Param("normalised", (), "expert_weights_norm", "BOOL", default=True),
        Param("n_listed", "moe_layer_freq", default=0, low=0, leading=(0, 1)),
        Param(
            "n_dense",
            "mlp_layer_types",
            "leading_dense_block_count",
            derive="n_listed",
            low=0,
            leading=("dense", "sparse"),
        ),
        Param("n_full_listed", _SPARSE + "sparse_attention_freq", default=0, low=0, leading=(0, 1)),
        Param(
            "n_full",
            "layer_types",
            derive="n_full_listed",
            low=0,
            leading=("full_attention", "minimax_m3_sparse"),
            implied=(("", "n_dense"),),
        ),
        Param("n_index", ("index_n_heads", _SPARSE + "sparse_num_index_heads"), _INDEX + "head_count", default=4),
        Param("index_size", ("index_head_dim", _SPARSE + "sparse_index_dim"), _INDEX + "key_length", default=128),
        Param("index_block", ("index_block_size", _SPARSE + "sparse_block_size"), _INDEX + "block_size", default=128),
        Param("n_blocks", ("index_topk_blocks", _SPARSE + "sparse_topk_blocks"), _INDEX + "top_k", default=16),
        Param("n_local", ("index_local_blocks", _SPARSE + "sparse_local_block"), _INDEX + "local_blocks", default=1),
        Param("alpha", "swiglu_alpha", type="FLOAT32", default=1.702, allowed=(1.702,)),
        Param("limit", "swiglu_limit", type="FLOAT32", default=7.0, allowed=(7.0,)),
        Param("rotary_dim", "rotary_dim", default=64),
        Param("part", ("rope_parameters.partial_rotary_factor", "partial_rotary_factor"), type="FLOAT32", default=None),
    ),
    rows=(
        _norm("model.norm", "output_norm"),
        _norm(_LAYER + "input_layernorm", _BLOCK + "attn_norm"),
        _norm(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm"),
        _norm(_ATTENTION + "q_norm", _BLOCK + "attn_q_norm", "head_size"),
        _norm(_ATTENTION + "k_norm", _BLOCK + "attn_k_norm", "head_size"),
        _index("q_proj", "q_proj", "n_index*index_size", "n_embd"),
        _index("k_proj", "k_proj", "index_size", "n_embd"),
        _index("q_norm", "q_norm", "index_size"),
        _index("k_norm", "k_norm", "index_size"),
        *_gated((_LAYER + "mlp.",), "ffn_{}", "n_ff", _DENSE),
        router("mlp.gate.weight", "block_sparse_moe.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.e_score_correction_bias", "block_sparse_moe.e_score_correction_bias", when=_ROUTED),
        *expert_rows("block_sparse_moe.experts", NUMBERED, "n_ff_expert", when=_ROUTED)[::-1],  # saved as one tensor
        *_gated((_SHARED, _LAYER + "block_sparse_moe.shared_experts."), "ffn_{}_shexp", "n_ff_shared", _ROUTED),
    ),
    ignores=(Ignore("*mtp.*", "the layers that predict further tokens are not in this file", loss=True),),
    refuses=(
        Refuses("n_full != n_dense", "llama.cpp's minimax-m3 graph has an indexer in the layers with experts only"),
        Refuses("n_index != n_head_kv", "llama.cpp's minimax-m3 graph has an indexer's head for each key-value head"),
        Refuses("256 % index_block", "llama.cpp keeps keys by 256: blocks of them must divide that"),
        Refuses("n_ff_shared % n_ff_expert", "llama.cpp's minimax-m3 graph has a shared expert as wide as whole ones"),
        Refuses("not part and rotary_dim != head_size", _TURNING),
    ),
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
        *expert_rows("block_sparse_moe.experts", NUMBERED, "n_ff"),
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
