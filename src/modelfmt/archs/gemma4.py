"""Gemma 4 (the text model, also inside the multimodal checkpoints): heads of two sizes, embeddings in each layer.

Layers with a sliding window have smaller heads than the others; the last layers may attend to keys and values of
earlier ones; some sizes have experts beside the MLP. The unified models have neither these nor embeddings in each
layer. Norms are stored as they are. Checked against transformers 5.24
models/{gemma4,gemma4_unified}/{configuration,modeling}_*.py and llama.cpp src/models/gemma4.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, sliding_layers
from modelfmt.archs.gemma import GEMMA2
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["EXPERTS", "GEMMA4", "GEMMA4_UNIFIED", "LAYERED", "UNBIASED_NORMS"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_KV = "n_head_kv*head"
_SHARES = (
    "llama.cpp's graph shares the keys and values of the last two layers that have some: a full one behind another"
)
UNBIASED_NORMS = tuple(Row(row.source, row.target, row.shape) for row in GEMMA2.rows if row.ops)
LAYERED = (
    Row(
        "model.per_layer_model_projection.weight",
        "per_layer_model_proj.weight",
        ("n_layer*n_pl", "n_embd"),
        when="n_pl",
    ),
    Row("model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", ("n_pl",), when="n_pl"),
    Row(_LAYER + "per_layer_input_gate.weight", _BLOCK + "inp_gate.weight", ("n_pl", "n_embd"), when="n_pl"),
    Row(_LAYER + "per_layer_projection.weight", _BLOCK + "proj.weight", ("n_embd", "n_pl"), when="n_pl"),
    Row(_LAYER + "post_per_layer_input_norm.weight", _BLOCK + "post_norm.weight", ("n_embd",), when="n_pl"),
)
EXPERTS = (
    Row(_LAYER + "router.proj.weight", _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), when="moe", keep="F32"),
    Row(_LAYER + "router.scale", _BLOCK + "ffn_gate_inp.scale", ("n_embd",), when="moe"),
    Row(_LAYER + "router.per_expert_scale", _BLOCK + "ffn_down_exps.scale", ("n_expert",), when="moe"),
    Row(
        _LAYER + "experts.gate_up_proj",
        _BLOCK + "ffn_gate_up_exps.weight",
        ("n_expert", "2*n_ff_expert", "n_embd"),
        when="moe",
    ),
    Row(
        _LAYER + "experts.down_proj", _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff_expert"), when="moe"
    ),
    Row(_LAYER + "pre_feedforward_layernorm_2.weight", _BLOCK + "pre_ffw_norm_2.weight", ("n_embd",), when="moe"),
    Row(_LAYER + "post_feedforward_layernorm_1.weight", _BLOCK + "post_ffw_norm_1.weight", ("n_embd",), when="moe"),
    Row(_LAYER + "post_feedforward_layernorm_2.weight", _BLOCK + "post_ffw_norm_2.weight", ("n_embd",), when="moe"),
)

GEMMA4 = DECODER.derive(
    gguf="gemma4",
    hf=("Gemma4ForCausalLM",),
    model_type=("gemma4_text",),
    rope=Rope(
        "neox",
        theta=1e6,
        local_theta=10000.0,
        kinds=("proportional",),
        dimension=True,
        settings={"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25}},
    ),
    without=("n_ff", "n_head_kv", "head_size"),  # behind the params that say what they are in each layer
    params=(
        Param("n_layer", "num_hidden_layers", "block_count", default=30, high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length", default=131072),
        Param("n_embd", "hidden_size", "embedding_length", default=2304),
        Param("n_head", "num_attention_heads", "attention.head_count", default=8),
        Param("vocab_size", "vocab_size", default=262144),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param(
            "activation",
            "hidden_activation",
            type="STRING",
            default="gelu_pytorch_tanh",
            allowed=("gelu_pytorch_tanh",),
        ),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
        Param("bidirectional", "use_bidirectional_attention", codes=(("vision", 0), ("all", 1)), default=0, low=0),
        Param("output_cap", "final_logit_softcapping", "final_logit_softcapping", "FLOAT32", default=None),
        Param("sliding_window", "sliding_window", "attention.sliding_window", default=512),
        sliding_layers(("layer % 6 != 5 and layer != n_layer - 1", "1"), ("", "0")),
        Param("full", (), each=(("slides", "0"), ("", "1"))),
        Param("n_shared", "num_kv_shared_layers", "attention.shared_kv_layers", default=0, low=0),
        Param("n_values", (), tensor="blk.{i}.attn_v.weight", default=0),
        Param(
            "k_eq_v",
            "attention_k_eq_v",
            type="BOOL",
            default=False,
            implied=(("n_values < n_layer - n_shared", "1"), ("", "0")),
        ),
        Param("has_kv", (), each=(("layer < n_layer - n_shared", "1"), ("", "0"))),
        Param("has_v", (), each=(("k_eq_v and not slides", "0"), ("", "has_kv"))),
        Param("head_size", ("global_head_dim", "per_layer_config.*.head_dim"), "attention.key_length", default=512),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("head_sliding", "head_dim", "attention.key_length_swa", default=256),
        Param("value_sliding", (), "attention.value_length_swa", derive="head_sliding"),
        Param("n_rot_sliding", (), "rope.dimension_count_swa", derive="head_sliding"),
        Param("head", (), each=(("slides", "head_sliding"), ("", "head_size"))),
        Param("kv_sliding", "num_key_value_heads", default=4, implied=(("", "at(n_head_kv, slides)"),)),
        Param(
            "kv_full",
            ("num_global_key_value_heads", "per_layer_config.*.num_key_value_heads"),
            default=None,
            implied=(("k_eq_v", "at(n_head_kv, full)"),),
        ),
        Param(
            "n_head_kv",
            (),
            "attention.head_count_kv",
            each=(("not slides and k_eq_v and kv_full", "kv_full"), ("", "kv_sliding")),
            per_layer=True,
        ),
        Param("ff", "intermediate_size", default=9216, implied=(("", "at(n_ff, has_kv)"),)),
        Param(
            "double",
            "use_double_wide_mlp",
            type="BOOL",
            default=False,
            implied=(("ff < largest(n_ff)", "1"), ("", "0")),
        ),
        Param("n_ff", (), "feed_forward_length", each=(("double and not has_kv", "2*ff"), ("", "ff")), per_layer=True),
        Param("n_pl", "hidden_size_per_layer_input", "embedding_length_per_layer_input", default=256, low=0),
        Param("vocab_pl", "vocab_size_per_layer_input", default=262144, implied=(("", "vocab_size"),)),
        Param("moe", "enable_moe_block", type="BOOL", default=False, tensor="blk.0.ffn_gate_inp.weight"),
        Param("n_expert", "num_experts", "expert_count", default=None, high=1024),
        Param("n_expert_used", "top_k_experts", "expert_used_count", default=None, high=1024),
        Param(
            "n_ff_expert",
            ("moe_intermediate_size", "expert_intermediate_size"),
            "expert_feed_forward_length",
            default=None,
        ),
    ),
    rows=(
        *UNBIASED_NORMS,
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", ("n_head*head", "n_embd")),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), when="has_kv"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), when="has_v"),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*head")),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head",)),
        Row(_ATTENTION + "k_norm.weight", _BLOCK + "attn_k_norm.weight", ("head",), when="has_kv"),
        Row(_LAYER + "layer_scalar", _BLOCK + "layer_output_scale.weight", ("1",)),
        Row(
            "model.embed_tokens_per_layer.weight",
            "per_layer_token_embd.weight",
            ("vocab_pl", "n_layer*n_pl"),
            when="n_pl",
        ),
        *LAYERED,
        *EXPERTS,
    ),
    ignores=(
        Ignore("*.self_attn.k_proj.weight", "layers that share keys and values do not use it", when="n_shared"),
        Ignore("*.self_attn.v_proj.weight", "layers that share keys and values do not use it", when="n_shared"),
        Ignore("*.self_attn.k_norm.weight", "layers that share keys and values do not use it", when="n_shared"),
    ),
    refuses=(
        Refuses("moe and not n_expert", "enable_moe_block goes with num_experts"),
        Refuses("moe and not n_expert_used", "enable_moe_block goes with top_k_experts"),
        Refuses("moe and not n_ff_expert", "enable_moe_block goes with moe_intermediate_size"),
        Refuses("bidirectional", "llama.cpp's gemma graphs look backwards only"),
        Refuses("attention_bias", "llama.cpp's gemma4 graph has no biases"),
        Refuses("n_pl and vocab_pl != vocab_size", "llama.cpp's graph has embeddings of all tokens in each layer"),
        Refuses("layer == n_layer - 1 and slides", "transformers makes the last layer of Gemma 4 a full one"),
        Refuses("n_shared and layer == n_layer - n_shared - 1 and slides", _SHARES),
        Refuses("n_shared and layer == n_layer - n_shared - 2 and not slides", _SHARES),
    ),
    graph={**GEMMA2.graph, "norm_offset": 0.0, "embedding_scale": "sqrt(n_embd)", "qk_norm": "head", "layered": True},
)

GEMMA4_UNIFIED = GEMMA4.derive(
    hf=("Gemma4UnifiedForCausalLM",),
    model_type=("gemma4_unified_text",),
    params=(
        Param("n_ctx", "max_position_embeddings", "context_length", default=262144),
        Param("sliding_window", "sliding_window", "attention.sliding_window", default=1024),
        Param("n_pl", (), "embedding_length_per_layer_input", default=0, low=0),
        Param("moe", (), default=0),
    ),
)
