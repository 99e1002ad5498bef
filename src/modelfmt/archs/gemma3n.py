"""Gemma 3n (the text model, also inside the multimodal checkpoints): four streams (AltUp), LAuReL, embeddings in each
layer, sparse first layers.

Checked against transformers 5.24 models/gemma3n/{configuration,modeling}_gemma3n.py and llama.cpp
src/models/gemma3n.cpp (October 2026), whose graph has many sizes of its own. It loads keys and values also in layers
that share those of earlier ones; checkpoints of transformers 5 leave them out, and rows of the queries fill in.
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, sliding_layers
from modelfmt.archs.gemma import GEMMA2
from modelfmt.archs.gemma4 import LAYERED, UNBIASED_NORMS
from modelfmt.archs.specs import Padded, Part, Stacked
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["GEMMA3N"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION, _ALTUP, _LAUREL = _LAYER + "self_attn.", _LAYER + "altup.", _LAYER + "laurel."
_KV = "n_head_kv*head_size"
_FILLER = (Part(0, of=(_KV, "n_head*head_size - n_head_kv*head_size"), axis=0),)
_OTHERS = "n_altup - 1"
_SQUARES = (_OTHERS, "n_embd", "n_embd")


def _keys(name: str, *shape: str) -> tuple[Row, ...]:
    """Keys or values: those of a layer's own, and, in layers that do not use them, those that are there, or fillers."""
    target = f"{_BLOCK}attn_{name}.weight"
    own = f"{_ATTENTION}{name}_proj.weight" if len(shape) > 1 else f"{_ATTENTION}{name}.weight"
    filler = f"{_ATTENTION}q_proj.weight" if len(shape) > 1 else f"{_ATTENTION}q_norm.weight"
    ops = _FILLER if len(shape) > 1 else ()
    return (
        Row(own, target, shape, when="has_kv"),
        Row(own, target, shape, when="not has_kv", unused=True),
        Row(filler, target, shape, ops, when="not has_kv", unused=True),
    )


GEMMA3N = DECODER.derive(
    gguf="gemma3n",
    hf=("Gemma3nForCausalLM",),
    model_type=("gemma3n_text",),
    rope=Rope("neox", theta=1e6, local_theta=10000.0, kinds=("default", "linear")),
    params=(
        Param("n_layer", "num_hidden_layers", "block_count", default=35, high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length", default=32768),
        Param("n_embd", "hidden_size", "embedding_length", default=2048),
        Param("n_ff", "intermediate_size", "feed_forward_length", default=16384, uniform=True),
        Param("n_head", "num_attention_heads", "attention.head_count", default=8),
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", default=2),
        Param("head_size", "head_dim", "attention.key_length", default=256),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("vocab_size", "vocab_size", default=262400),
        Param("vocab_pl", "vocab_size_per_layer_input", default=262144, implied=(("", "vocab_size"),)),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param(
            "activation",
            "hidden_activation",
            type="STRING",
            default="gelu_pytorch_tanh",
            allowed=("gelu_pytorch_tanh",),
        ),
        Param(
            "output_cap", "final_logit_softcapping", "final_logit_softcapping", "FLOAT32", default=30.0, allowed=(30.0,)
        ),
        Param("sliding_window", "sliding_window", "attention.sliding_window", default=512),
        sliding_layers(("layer % 5 != 4", "1"), ("", "0")),
        Param("n_shared", "num_kv_shared_layers", "attention.shared_kv_layers", default=15, low=0),
        Param("has_kv", (), each=(("layer < n_layer - n_shared", "1"), ("", "0"))),
        Param("n_altup", "altup_num_inputs", "altup.num_inputs", default=4, allowed=(4,)),
        Param("active", "altup_active_idx", "altup.active_idx", default=0, low=0, allowed=(0,)),
        Param("n_pl", "hidden_size_per_layer_input", "embedding_length_per_layer_input", default=256, allowed=(256,)),
        Param("laurel_rank", "laurel_rank", default=64, allowed=(64,)),
        Param("n_sparse", "activation_sparsity_pattern", default=10, low=0, leading=(0.95, 0.0), allowed=(10,)),
    ),
    rows=(
        *UNBIASED_NORMS,
        *_keys("k", _KV, "n_embd"),
        *_keys("v", _KV, "n_embd"),
        Row(_ATTENTION + "q_norm.weight", _BLOCK + "attn_q_norm.weight", ("head_size",)),
        *_keys("k_norm", "head_size"),
        Row(
            "model.embed_tokens_per_layer.weight",
            "per_layer_token_embd.weight",
            ("vocab_size", "n_layer*n_pl"),
            (Padded("vocab_pl", "vocab_size"),),
        ),
        *LAYERED,
        Row("model.altup_projections.{e}.weight", "altup_proj.weight", _SQUARES, (Stacked(_OTHERS),)),
        Row("model.altup_unembed_projections.{e}.weight", "altup_unembd_proj.weight", _SQUARES, (Stacked(_OTHERS),)),
        Row(_ALTUP + "correct_output_scale", _BLOCK + "altup_correct_scale.weight", ("n_embd",)),
        Row(
            _ALTUP + "correction_coefs.weight", _BLOCK + "altup_correct_coef.weight", ("n_altup", "n_altup"), keep="F32"
        ),
        Row(
            _ALTUP + "prediction_coefs.weight",
            _BLOCK + "altup_predict_coef.weight",
            ("n_altup*n_altup", "n_altup"),
            keep="F32",
        ),
        Row(_ALTUP + "modality_router.weight", _BLOCK + "altup_router.weight", ("n_altup", "n_embd")),
        Row(_ALTUP + "router_norm.weight", _BLOCK + "altup_router_norm.weight", ("n_embd",)),
        Row(_LAUREL + "linear_left.weight", _BLOCK + "laurel_l.weight", ("laurel_rank", "n_embd")),
        Row(_LAUREL + "linear_right.weight", _BLOCK + "laurel_r.weight", ("n_embd", "laurel_rank")),
        Row(_LAUREL + "post_laurel_norm.weight", _BLOCK + "laurel_post_norm.weight", ("n_embd",)),
    ),
    refuses=(
        Refuses("n_layer - n_shared != 20", "llama.cpp's gemma3n graph has keys and values in 20 layers"),
        Refuses("layer == 19 and slides", "llama.cpp's gemma3n graph shares the keys and values of layers 18 and 19"),
        Refuses(
            "layer == 18 and not slides", "llama.cpp's gemma3n graph shares the keys and values of layers 18 and 19"
        ),
    ),
    graph={**GEMMA2.graph, "norm_offset": 0.0, "embedding_scale": "sqrt(n_embd)", "qk_norm": "head", "altup": 4},
)
