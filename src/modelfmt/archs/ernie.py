"""ERNIE 4.5: a Llama-like decoder whose rope turns pairs in the checkpoint already; with experts behind dense layers.
The language model of PaddleOCR VL turns halves, by several positions; that of ERNIE 4.5 VL has experts for pictures,
which no token of a text reaches.

Checked against transformers 5.24 models/{ernie4_5,ernie4_5_moe,ernie4_5_vl_moe,paddleocr_vl}/*.py and llama.cpp
src/models/{ernie4-5,ernie4-5-moe,paddleocr}.cpp (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, HEAD_SIZE_GIVEN, PROJECTIONS, expert_rows, kv_heads
from modelfmt.archs.experts import dense_rows, leading_dense, router, shared_rows
from modelfmt.archs.specs import Part, Reshaped, Stacked, Transposed
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["ERNIE4_5", "ERNIE4_5_MOE", "ERNIE4_5_VL_MOE", "PADDLE_OCR"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"

ERNIE4_5 = DECODER.derive(
    gguf="ernie4_5",
    hf=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    model_type=("ernie4_5",),
    rope=Rope("norm", theta=500000.0),
    params=(
        kv_heads(2),
        replace(ATTENTION_BIAS, config="use_bias"),
        Param("head_size", "head_dim", "attention.key_length", default=128, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    ),
    rows=(
        Row(_ATTENTION + "q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", _Q), (), "maybe"),
    ),
    prefixes=(("model.", "ernie."), *DECODER.prefixes),
)

PADDLE_OCR = ERNIE4_5.derive(
    gguf="paddleocr",
    hf=("PaddleOCRVLForConditionalGeneration",),
    model_type=("paddleocr_vl_text",),
    writes=("LlamaForCausalLM", "llama"),
    rope=Rope("neox", theta=500000.0, kinds=("default",), sections=(16, 24, 24, 0), aliases={"mrope": "default"}),
    params=(replace(ATTENTION_BIAS, config=("attention_bias", "use_bias")),),
)

_DENSE, _ROUTED = "layer < n_dense", "n_dense < layer + 1"

ERNIE4_5_MOE = ERNIE4_5.derive(
    gguf="ernie4_5-moe",
    hf=("Ernie4_5_MoeForCausalLM",),
    model_type=("ernie4_5_moe",),
    without=("value_size",),
    params=(
        *HEAD_SIZE_GIVEN,
        kv_heads(4),
        Param("n_expert", ("moe_num_experts", "num_experts"), "expert_count", default=64, high=1024),
        Param("n_expert_used", ("moe_k", "num_experts_per_tok"), "expert_used_count", default=6, high=1024),
        Param("moe_step", "moe_layer_interval", "interleave_moe_layer_step", default=1),
        Param("n_dense", "moe_layer_start_index", "leading_dense_block_count", default=1, low=0),
        Param("last", "moe_layer_end_index", derive="n_layer - 1", low=-1),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1536),
        Param("n_shared", "moe_num_shared_experts", "expert_shared_count", default=2, low=0),
        Param("n_ff_shared", (), "expert_shared_feed_forward_length", derive="n_shared*n_ff_expert", low=0, omit=0),
    ),
    rows=(
        *dense_rows(_DENSE),
        router("mlp.gate.weight", when=_ROUTED),
        Row(
            "model.layers.{i}.mlp.moe_statics.e_score_correction_bias",
            _BLOCK + "exp_probs_b.bias",
            ("n_expert",),
            (Reshaped(("1", "n_expert"), ("n_expert",)),),
            when=_ROUTED,
        ),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_ff_shared", f"{_ROUTED} and n_shared"),
    ),
    ignores=(Ignore("*.mtp_*", "the layers that predict further tokens take no part in llama.cpp's graph", loss=True),),
    refuses=(
        Refuses("moe_step != 1", "llama.cpp's ernie4_5-moe graph has experts in every layer behind the dense ones"),
        Refuses("last + 1 and last != n_layer - 1", "llama.cpp's ernie4_5-moe graph has experts up to the last layer"),
    ),
    graph={"mlp": "moe"},
)

_PICTURES = "experts for pictures, which no token of a text reaches"
_VL = "model.layers.{i}.mlp."


def _text_experts(kind: str, *shape: str) -> Row:
    source, target = f"{_VL}experts.{{e}}.{kind}_proj.weight", f"{_BLOCK}ffn_{kind}_exps.weight"
    return Row(source, target, ("n_expert", *shape), (Stacked("n_expert"),), when=_ROUTED)


ERNIE4_5_VL_MOE = ERNIE4_5_MOE.derive(
    hf=(),
    model_type=(),
    writes=("Ernie4_5_MoeForCausalLM", "ernie4_5_moe"),
    rope=Rope("norm", theta=500000.0, kinds=("default",), alike=True, aliases={"mrope": "default"}),
    params=(
        Param("n_expert", ("moe_num_experts", "num_experts"), "expert_count", default=64, high=1024, uniform=True),
        Param("last", (), derive="n_layer - 1"),
        leading_dense(1),
        Param("n_ff_expert", "moe_intermediate_size.0", "expert_feed_forward_length", default=1536),
    ),
    rows=(
        Row(
            _VL + "gate.weight",
            _BLOCK + "ffn_gate_inp.weight",
            ("n_expert", "n_embd"),
            (Transposed(),),
            when=_ROUTED,
            keep="F32",
        ),
        Row(
            _VL + "moe_statics.e_score_correction_bias",
            _BLOCK + "exp_probs_b.bias",
            ("n_expert",),
            (Part(0, of=2, axis=0), Reshaped(("1", "n_expert"), ("n_expert",))),
            when=_ROUTED,
        ),
        _text_experts("gate", "n_ff_expert", "n_embd"),
        _text_experts("up", "n_ff_expert", "n_embd"),
        _text_experts("down", "n_embd", "n_ff_expert"),
    ),
    ignores=(
        Ignore("*.mlp.experts.*", _PICTURES, loss=True),
        Ignore("*.mlp.gate.weight_1", _PICTURES, loss=True),
    ),
)
