"""DeepSeek 2 and 3 (R1, Kimi K2, GLM 4.7 Flash, Sarvam MLA), Mistral 4: attention over a latent vector, shared and
routed experts; Youtu has no experts.

Queries and keys come from low-rank matrices. The file has the key and value halves of `kv_b_proj` apart, the key half
transposed in each head, so that llama.cpp attends in the latent space with one key-value head. Rope turns pairs in the
checkpoint already. transformers computes Sarvam MLA with DeepSeek 3's class. Checked against transformers 5.24
models/{deepseek_v2,deepseek_v3,glm4_moe_lite,mistral4,youtu}/{configuration,modeling}_*.py,
models/sarvam_mla/configuration_sarvam_mla.py and llama.cpp src/models/deepseek2.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, PROJECTIONS, expert_rows, targets
from modelfmt.archs.experts import (
    MTP,
    dense_rows,
    leading_dense,
    n_nextn,
    nextn,
    router,
    score_bias,
    shared_rows,
    sigmoid_router,
)
from modelfmt.archs.specs import Heads, Part, Transposed
from modelfmt.archs.table import Loses, Param, Refuses, Rope, Row

__all__ = ["DEEPSEEK2", "DEEPSEEK3", "DEEPSEEK_OCR", "GLM4_MOE_LITE", "MISTRAL4", "SARVAM_MLA", "SIGMOID", "YOUTU"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"
_QUERIES = "n_head*nope + n_head*head_size"
_KV_B = ("nope", "value_size")
_TEXT = "llama.cpp's deepseek2 graph has queries without a low rank in models of 26 and 27 layers, and in no other"
_LITE = (
    Refuses("q_lora and n_layer == 26", _TEXT),
    Refuses("q_lora and n_layer == 27", _TEXT),
    Refuses("not q_lora and n_layer != 26 and n_layer != 27", _TEXT),
)

_EXPERTS = (
    *dense_rows(_DENSE),
    router("mlp.gate.weight", when=_ROUTED),
    *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
    *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", f"{_ROUTED} and n_shared"),
)
_INTERLEAVED = Param("interleaved", "rope_interleave", type="BOOL", default=True)
_NOT_INTERLEAVED = Refuses("not interleaved", "llama.cpp's deepseek2 graph turns pairs, as DeepSeek has them")

_LATENT = DECODER.derive(
    gguf="deepseek2",
    rope=Rope("norm", kinds=("default", "linear", "yarn"), dimension=True, log_multiplier=0.1),
    without=targets("attn_k", "attn_v"),
    params=(
        Param("n_head_kv", (), "attention.head_count_kv", default=1),
        Param("n_expanded", "num_key_value_heads", derive="n_head"),  # of no effect, but transformers repeats by it
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("head_size", "qk_rope_head_dim", default=64, implied=(("", "n_rot"),)),
        Param("n_rot", (), "rope.dimension_count", default=None),
        Param("nope", "qk_nope_head_dim", default=128, implied=(("", "key_mla - n_rot"),)),
        Param("value_size", "v_head_dim", "attention.value_length_mla", default=128),
        Param("key_mla", (), "attention.key_length_mla", derive="nope + head_size"),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1536, nullable=True),
        Param("kv_lora", "kv_lora_rank", "attention.kv_lora_rank", default=512),
        Param("key_length", (), "attention.key_length", derive="kv_lora + head_size"),
        Param("value_length", (), "attention.value_length", derive="kv_lora"),
        Param("n_dense", "first_k_dense_replace", "leading_dense_block_count", default=0, low=0),
        Param("n_expert", "n_routed_experts", "expert_count", default=64, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1407),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=2, low=0),
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=1.0),
        Param("normalised", "norm_topk_prob", type="BOOL", default=False, allowed=(False,)),
        Param("gating", "scoring_func", "expert_gating_func", codes=(("softmax", 1),), default=1),
        Param(
            "limited",
            "topk_method",
            codes=(("greedy", 0), ("group_limited_greedy", 1)),
            default=0,
            low=0,
            implied=(("n_group != 1", "1"), ("", "0")),
        ),
        Param("n_group", "n_group", "expert_group_count", cases=(("not limited", "1"),), default=1),
        Param("n_group_used", "topk_group", "expert_group_used_count", cases=(("not limited", "1"),), default=1),
        Param("moe_step", "moe_layer_freq", default=1),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_QUERIES, "n_embd"), when="not q_lora"),
        Row(_ATTENTION + "q_a_proj.weight", _BLOCK + "attn_q_a.weight", ("q_lora", "n_embd"), when="q_lora"),
        Row(_ATTENTION + "q_a_layernorm.weight", _BLOCK + "attn_q_a_norm.weight", ("q_lora",), when="q_lora"),
        Row(_ATTENTION + "q_b_proj.weight", _BLOCK + "attn_q_b.weight", (_QUERIES, "q_lora"), when="q_lora"),
        Row(
            _ATTENTION + "kv_a_proj_with_mqa.weight", _BLOCK + "attn_kv_a_mqa.weight", ("kv_lora + head_size", "n_embd")
        ),
        Row(_ATTENTION + "kv_a_layernorm.weight", _BLOCK + "attn_kv_a_norm.weight", ("kv_lora",)),
        Row(
            _ATTENTION + "kv_b_proj.weight",
            _BLOCK + "attn_k_b.weight",
            ("n_head", "kv_lora", "nope"),
            (Heads("n_head"), Part(0, of=_KV_B, axis=1), Transposed()),
        ),
        Row(
            _ATTENTION + "kv_b_proj.weight",
            _BLOCK + "attn_v_b.weight",
            ("n_head", "value_size", "kv_lora"),
            (Heads("n_head"), Part(1, of=_KV_B, axis=1)),
        ),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*value_size")),
        *_EXPERTS,
    ),
    ignores=(MTP,),
    refuses=(
        Refuses("moe_step != 1", "llama.cpp's deepseek2 graph has experts in every layer behind the dense ones"),
        Refuses("attention_bias", "llama.cpp's deepseek2 graph has no biases"),
        Refuses("mlp_bias", "llama.cpp's deepseek2 graph has no biases"),
    ),
    loses=(
        Loses(
            "limited",
            "approximated",
            "topk_method",
            "llama.cpp's deepseek2 graph ranks a group of experts by its two best, DeepSeek 2 does by the best one",
        ),
    ),
    graph={"attention": "mla", "mlp": "moe"},
    unadapted=("attn_q.weight", "attn_q_a.weight", "attn_q_b.weight", "attn_kv_a_mqa.weight", "output.weight"),
)

DEEPSEEK2 = _LATENT.derive(hf=("DeepseekV2ForCausalLM",), model_type=("deepseek_v2",), refuses=_LITE)

SIGMOID = _LATENT.derive(
    params=(
        Param("n_dense", "first_k_dense_replace", "leading_dense_block_count", default=3, low=0),
        Param("n_expert", "n_routed_experts", "expert_count", default=256, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=2048),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1, low=0),
        *sigmoid_router(n_group=8, n_group_used=4, scale=2.5, normalised=True),
        Param("limited", (), default=0),
        _INTERLEAVED,
    ),
    rows=(score_bias("mlp.gate.e_score_correction_bias", when=_ROUTED),),
    refuses=(_NOT_INTERLEAVED,),
)

DEEPSEEK3 = SIGMOID.derive(
    hf=("DeepseekV3ForCausalLM",),
    model_type=("deepseek_v3",),
    params=(n_nextn(1),),
    nextn=nextn("shared_head.norm"),
    refuses=_LITE,
)

SARVAM_MLA = DEEPSEEK3.derive(
    hf=("SarvamMLAForCausalLM",),
    model_type=("sarvam_mla",),
    nextn=None,
    without=("n_nextn",),
    rope=Rope(
        "norm",
        kinds=("default", "linear", "yarn"),
        dimension=True,
        log_multiplier=0.1,
        aliases={"deepseek_yarn": "yarn"},
    ),
    params=(
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=None),
        leading_dense(1),
        Param("n_expert", ("n_routed_experts", "num_experts"), "expert_count", default=128, high=1024),
        Param("n_shared", ("n_shared_experts", "num_shared_experts"), "expert_shared_count", default=1, low=0),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.5, normalised=True),
    ),
)

GLM4_MOE_LITE = DEEPSEEK3.derive(
    hf=("Glm4MoeLiteForCausalLM",),
    model_type=("glm4_moe_lite",),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("nope", "qk_nope_head_dim", default=192, implied=(("", "key_mla - n_rot"),)),
        Param("value_size", "v_head_dim", "attention.value_length_mla", default=256),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=768, nullable=True),
        leading_dense(1),
        Param("n_expert", "n_routed_experts", "expert_count", default=64, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=4, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1536),
        *sigmoid_router(n_group=1, n_group_used=1, scale=1.8, normalised=True),
        n_nextn(),
    ),
)

YOUTU = _LATENT.derive(
    hf=("YoutuForCausalLM",),
    model_type=("youtu",),
    without=(
        *("n_expert_used", "routed_scale", "normalised", "gating", "n_group", "n_group_used"),
        *targets("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        *targets("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
    ),
    params=(
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("n_dense", (), "leading_dense_block_count", derive="n_layer"),
        Param("n_expert", (), default=0),
        Param("moe_step", (), default=1),
        Param("limited", (), default=0),
        Param("n_ff_expert", (), "expert_feed_forward_length", derive="n_ff"),
        Param("n_shared", (), "expert_shared_count", default=0, low=0),
        _INTERLEAVED,
    ),
    refuses=(_NOT_INTERLEAVED, *_LITE),
)

MISTRAL4 = _LATENT.derive(
    gguf="mistral4",
    hf=("Mistral4ForCausalLM",),
    model_type=("mistral4",),
    rope=Rope(
        "norm", kinds=("default", "linear", "yarn"), dimension=True, log_multiplier=0.1, whole="nope + head_size"
    ),
    params=(
        Param("nope", "qk_nope_head_dim", default=64, implied=(("", "key_mla - n_rot"),)),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1024, nullable=True),
        Param("kv_lora", "kv_lora_rank", "attention.kv_lora_rank", default=256),
        Param("n_expert", "n_routed_experts", "expert_count", default=128, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=4, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=2048),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1, low=0),
        Param("normalised", "norm_topk_prob", "expert_weights_norm", "BOOL", default=True, omit=False),
        Param("gating", (), "expert_gating_func", default=1),
        Param("limited", (), default=0),
        Param("n_group", "n_group", "expert_group_count", default=1),
        Param("n_group_used", "topk_group", "expert_group_used_count", default=1),
        _INTERLEAVED,
        Param("growth", "rope_parameters.llama_4_scaling_beta", "attention.temperature_scale", "FLOAT32", default=None),
        Param(
            "growth_length",
            "rope_parameters.original_max_position_embeddings",
            "attention.temperature_length",
            default=None,
        ),
    ),
    rows=expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED)[::-1],  # saved as one tensor
    refuses=(
        Refuses("not interleaved", "llama.cpp's deepseek2 graph turns pairs, as Mistral 4 has them"),
        Refuses("not growth", "Mistral 4 needs its rope_parameters, with llama_4_scaling_beta"),
        *_LITE,
    ),
)

_OWN = ("n_expert", "n_expert_used", "n_ff_expert", "n_shared", "routed_scale", "normalised", "gating")

DEEPSEEK_OCR = DECODER.derive(
    gguf="deepseek2-ocr",
    rope=Rope("neox", kinds=("default",)),
    params=(
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", derive="n_head"),
        Param("vocab_size", "vocab_size", "vocab_size"),
        leading_dense(1),
        *(param for param in _LATENT.params if param.name in _OWN),
        Param("limited", "topk_method", codes=(("greedy", 0), ("group_limited_greedy", 1)), default=0, low=0),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=_EXPERTS,
    refuses=(
        Refuses("limited", "llama.cpp's deepseek2-ocr graph does not choose among groups of experts"),
        Refuses("attention_bias", "llama.cpp's deepseek2-ocr graph has no biases"),
        Refuses("mlp_bias", "llama.cpp's deepseek2-ocr graph has no biases"),
        Refuses("n_head*head_size != n_embd", "llama.cpp's deepseek2-ocr graph has heads of n_embd / n_head values"),
        Refuses("n_head_kv != n_head", "llama.cpp's deepseek2-ocr graph has a key-value head for each query head"),
    ),
    graph={"mlp": "moe"},
)
