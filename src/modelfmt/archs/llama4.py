"""Llama 4 (text): experts in each or each second layer, chunked attention with rope but in each fourth layer.

Gate and up are one tensor, stored as [in, out]; rope turns pairs in the checkpoint already; queries and keys have norms
without weights. Checked against transformers 5.24 models/llama4/{configuration,modeling}_llama4.py and llama.cpp
src/models/llama4.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, kv_heads
from modelfmt.archs.experts import router, shared_rows
from modelfmt.archs.specs import Part, Transposed
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["LLAMA4"]

_EXPERTS, _BLOCK = "model.layers.{i}.feed_forward.experts.", "blk.{i}."
_ROUTED, _DENSE = "layer % moe_step == moe_step - 1", "layer % moe_step != moe_step - 1"
_UP, _DOWN = ("n_expert", "n_ff_expert", "n_embd"), ("n_expert", "n_embd", "n_ff_expert")
_NO_ROPE = "llama.cpp's llama4 graph does without rope in each fourth layer, and in no other"
_NORMS = "llama.cpp's llama4 graph has norms of queries and keys, but not with 128 experts"


def _dense(kind: str, *shape: str) -> Row:
    source = f"model.layers.{{i}}.feed_forward.{kind}_proj.weight"
    return Row(source, f"{_BLOCK}ffn_{kind}.weight", shape, when=_DENSE)


LLAMA4 = DECODER.derive(
    gguf="llama4",
    hf=("Llama4ForCausalLM",),
    model_type=("llama4_text",),
    rope=Rope("norm", theta=500000.0, kinds=("default", "linear", "yarn", "llama3"), dimension=True),
    params=(
        Param("n_ff", "intermediate_size_mlp", "feed_forward_length", default=16384),
        Param("n_ff_expert", "intermediate_size", "expert_feed_forward_length", default=8192),
        kv_heads(8),
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("n_expert", "num_local_experts", "expert_count", default=16, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=1, high=1024),
        Param("moe_step", "interleave_moe_layer_step", "interleave_moe_layer_step", default=1),
        Param("qk_norm", "use_qk_norm", type="BOOL", default=True, implied=(("n_expert == 128", "0"), ("", "1"))),
        Param("turns", "no_rope_layers", default=2, low=0, high=1, per_layer=True),  # 2: not said
        Param("no_rope_step", "no_rope_layer_interval", default=4),
        Param("chunk", "attention_chunk_size", default=8192, allowed=(8192,)),
        Param("floor_scale", "floor_scale", default=8192, allowed=(8192,)),
        Param("attention_scale", "attn_scale", type="FLOAT32", default=0.1, allowed=(0.1,)),
    ),
    rows=(
        _dense("gate", "n_ff", "n_embd"),
        _dense("up", "n_ff", "n_embd"),
        _dense("down", "n_embd", "n_ff"),
        router("feed_forward.router.weight", when=_ROUTED),
        Row(
            _EXPERTS + "gate_up_proj",
            _BLOCK + "ffn_gate_exps.weight",
            _UP,
            (Transposed(), Part(0, of=2, axis=1)),
            when=_ROUTED,
        ),
        Row(
            _EXPERTS + "gate_up_proj",
            _BLOCK + "ffn_up_exps.weight",
            _UP,
            (Transposed(), Part(1, of=2, axis=1)),
            when=_ROUTED,
        ),
        Row(_EXPERTS + "down_proj", _BLOCK + "ffn_down_exps.weight", _DOWN, (Transposed(),), when=_ROUTED),
        *shared_rows("feed_forward.shared_expert", "n_ff_expert", _ROUTED),
    ),
    refuses=(
        Refuses("layer % 4 == 3 and turns == 1", _NO_ROPE),
        Refuses("layer % 4 != 3 and turns == 0", _NO_ROPE),
        Refuses("turns == 2 and no_rope_step != 4", _NO_ROPE),
        Refuses("qk_norm and n_expert == 128", _NORMS),
        Refuses("not qk_norm and n_expert != 128", _NORMS),
    ),
    graph={"mlp": "moe", "no_rope_step": 4, "qk_norm": "plain"},
)
