"""DeepSeek 4: one key-value head for all queries, over a window and over compressed tokens behind it; four residual
streams that are mixed by matrices made doubly stochastic; the experts of the first layers are looked up by token.

Names are those that transformers saves, and those of DeepSeek's own checkpoints. Queries, keys and what attention gives
turn back and forth in pairs in the last part of each head, as in the checkpoint. Checked against transformers 5.24
models/deepseek_v4/{configuration,modeling}_deepseek_v4.py, conversion_mapping.py and llama.cpp
src/models/deepseek4.cpp, conversion/deepseek.py (October 2026): what is F32 in the released files stays so.
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, NUMBERED, expert_rows, targets
from modelfmt.archs.dsa import TURNED_BY_64, indexer_params
from modelfmt.archs.experts import router, score_bias
from modelfmt.archs.specs import Indices
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["DEEPSEEK4", "STREAMS", "mixer"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _INDEXER = _LAYER + "attn.", _LAYER + "attn.indexer."
_WIDTH, _STREAMS, _MIXES = "n_head*head_size", "n_streams*n_embd", "2*n_streams + n_streams*n_streams"
_INDEX_QUERIES = ("n_index*index_size", "q_lora")
_KV_NORM = (_ATTENTION + "norm.weight", _ATTENTION + "kv_norm.weight")
_SPARSE, _HASHED, _ROUTED = "ratio == 4", "layer < n_hashed", "n_hashed < layer + 1"
_FIXED = "llama.cpp's deepseek4 graph compresses 4 and 128 tokens into one"


def _compressor(module: str, target: str, size: str, when: str) -> tuple[Row, ...]:
    """What makes one of several tokens: two series where they overlap."""
    return tuple(
        Row(f"{module}compressor.{source}", f"{_BLOCK}{target}_{name}.weight", shape, when=when, keep=keep)
        for source, name, shape, keep in (
            ("wkv.weight", "kv", (f"series*{size}", "n_embd"), None),
            ("wgate.weight", "gate", (f"series*{size}", "n_embd"), None),
            ("ape", "ape", ("ratio", f"series*{size}"), "F32"),
            ("norm.weight", "norm", (size,), None),
        )
    )


def mixer(name: str) -> tuple[Row, ...]:
    """What mixes the residual streams into the input of a module (attn, ffn), and them with its output."""
    return (
        Row(f"{_LAYER}hc_{name}_fn", f"{_BLOCK}hc_{name}_fn.weight", (_MIXES, _STREAMS), keep="F32"),
        Row(f"{_LAYER}hc_{name}_base", f"{_BLOCK}hc_{name}_base.weight", (_MIXES,)),
        Row(f"{_LAYER}hc_{name}_scale", f"{_BLOCK}hc_{name}_scale.weight", ("3",)),
    )


STREAMS = (
    Param("n_streams", "hc_mult", "hyper_connection.count", default=4, allowed=(4,)),
    Param("n_sinkhorn", "hc_sinkhorn_iters", "hyper_connection.sinkhorn_iterations", default=20),
    Param("hc_eps", "hc_eps", "hyper_connection.epsilon", "FLOAT32", default=1e-6),
)

DEEPSEEK4 = DECODER.derive(
    gguf="deepseek4",
    hf=("DeepseekV4ForCausalLM",),
    model_type=("deepseek_v4",),
    rope=Rope(
        "norm",
        theta=160000.0,
        local_theta=10000.0,
        kinds=("default", "linear", "yarn"),
        partial=0.125,
        dimension=True,
        labels=("compress", "main"),
        keys=("attention.compress_rope_freq_base", "rope.freq_base"),
        thetas=("compress_rope_theta", "rope_theta"),
        unscaled=True,
    ),
    without=("n_ff", *targets("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
    params=(
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", default=1, allowed=(1,)),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("head_size", "head_dim", "attention.key_length", default=512),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1024),
        Param("window", "sliding_window", "attention.sliding_window", default=128),
        Param("o_groups", "o_groups", "attention.output_group_count", default=8),
        Param("o_lora", "o_lora_rank", "attention.output_lora_rank", default=1024),
        *indexer_params(64, 512),
        Param("rate_sparse", ("compress_rates.compressed_sparse_attention", "compress_rate_csa"), default=4),
        Param("rate_heavy", ("compress_rates.heavily_compressed_attention", "compress_rate_hca"), default=128),
        Param("ratios", "compress_ratios", low=0, per_layer=True, cut=True, default=None),
        Param(
            "ratio",
            "layer_types",
            "attention.compress_ratios",
            codes=(
                ("sliding_attention", 0),
                ("compressed_sparse_attention", 4),
                ("heavily_compressed_attention", 128),
            ),
            each=(("ratios == 0", "0"), ("ratios", "ratios"), ("layer < 2", "128"), ("layer % 2", "4"), ("", "128")),
            low=0,
            per_layer=True,
            cut=True,
        ),
        Param("series", (), each=((_SPARSE, "2"), ("", "1"))),
        Param(
            "n_hashed",
            ("mlp_layer_types", "num_hash_layers"),
            "hash_layer_count",
            default=3,
            low=0,
            leading=("hash_moe", "moe"),
        ),
        Param("n_expert", ("n_routed_experts", "num_local_experts"), "expert_count", default=256, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=6, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=2048),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1, allowed=(1,)),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.5),
        Param("normalised", "norm_topk_prob", "expert_weights_norm", "BOOL", default=True, allowed=(True,)),
        Param("gating", "scoring_func", "expert_gating_func", codes=(("sqrtsoftplus", 4),), default=4),
        Param("limit", "swiglu_limit", "swiglu_clamp_exp", "FLOAT32", default=10.0),
        *STREAMS,
        Param("attention_bias", "attention_bias", type="BOOL", default=False, allowed=(False,)),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False, allowed=(False,)),
    ),
    rows=(
        Row(("head.weight", "lm_head.weight"), "output.weight", ("vocab_size", "n_embd")),
        Row(("model.embed_tokens.weight", "model.embed.weight"), "token_embd.weight", ("vocab_size", "n_embd")),
        *(
            Row((f"model.hc_head.hc_{name}", f"model.hc_head_{name}"), f"output_hc_{name}.weight", shape, keep="F32")
            for name, shape in (("fn", ("n_streams", _STREAMS)), ("base", ("n_streams",)), ("scale", ("1",)))
        ),
        Row(_LAYER + "attn_norm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_LAYER + "ffn_norm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_ATTENTION + "attn_sink", _BLOCK + "attn_sinks.weight", ("n_head",)),
        Row(_ATTENTION + "wq_a.weight", _BLOCK + "attn_q_a.weight", ("q_lora", "n_embd")),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_a_norm.weight", ("q_lora",)),
        Row(_ATTENTION + "wq_b.weight", _BLOCK + "attn_q_b.weight", (_WIDTH, "q_lora")),
        Row(_ATTENTION + "wkv.weight", _BLOCK + "attn_kv.weight", ("head_size", "n_embd")),
        Row(_KV_NORM, _BLOCK + "attn_kv_a_norm.weight", ("head_size",)),
        Row(_ATTENTION + "wo_a.weight", _BLOCK + "attn_output_a.weight", ("o_groups*o_lora", f"{_WIDTH}/o_groups")),
        Row(_ATTENTION + "wo_b.weight", _BLOCK + "attn_output_b.weight", ("n_embd", "o_groups*o_lora")),
        *_compressor(_ATTENTION, "attn_compressor", "head_size", "ratio"),
        *_compressor(_INDEXER, "indexer_compressor", "index_size", _SPARSE),
        Row(_INDEXER + "wq_b.weight", _BLOCK + "indexer.attn_q_b.weight", _INDEX_QUERIES, when=_SPARSE),
        Row(
            _INDEXER + "weights_proj.weight",
            _BLOCK + "indexer.proj.weight",
            ("n_index", "n_embd"),
            when=_SPARSE,
            keep="F32",
        ),
        *mixer("attn"),
        *mixer("ffn"),
        router("ffn.gate.weight"),
        score_bias("ffn.gate.bias", when=_ROUTED),
        Row(
            _LAYER + "ffn.gate.tid2eid",
            _BLOCK + "ffn_gate_tid2eid.weight",
            ("vocab_size", "n_expert_used"),
            (Indices("n_expert"),),
            when=_HASHED,
            keep="I32",
        ),
        *expert_rows("ffn.experts", NUMBERED, "n_ff_expert"),
        *(
            Row(f"{_LAYER}ffn.shared_experts.{source}.weight", f"{_BLOCK}ffn_{name}_shexp.weight", shape)
            for source, name, shape in (
                ("w1", "gate", ("n_ff_expert", "n_embd")),
                ("w3", "up", ("n_ff_expert", "n_embd")),
                ("w2", "down", ("n_embd", "n_ff_expert")),
            )
        ),
    ),
    ignores=(Ignore("*mtp.*", "the layer that predicts a further token is not in this file", loss=True),),
    refuses=(
        Refuses("rate_sparse != 4", _FIXED),
        Refuses("rate_heavy != 128", _FIXED),
        Refuses("ratio and ratio != 4 and ratio != 128", _FIXED),
        TURNED_BY_64,
        Refuses("head_size == index_size", "llama.cpp divides by zero where heads are as wide as its indexer's"),
        Refuses("n_head % o_groups", "heads must divide among the groups of the output"),
        Refuses("tied", "llama.cpp's deepseek4 graph wants an output matrix besides the embedding"),
    ),
    graph={"attention": "compressed", "mlp": "moe"},
)
