"""Gemma 1, 2 and 3 (the text model, also inside the multimodal checkpoints of Gemma 3), EmbeddingGemma.

Norms are stored minus one. Checked against transformers 5.23 models/{gemma,gemma2,gemma3}/{configuration,modeling}_*.py
and llama.cpp src/models/{gemma,gemma2,gemma3,gemma-embedding}.cpp (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, kv_heads
from modelfmt.archs.specs import Add
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row, Window

__all__ = ["GEMMA", "GEMMA2", "GEMMA3", "GEMMA_EMBEDDING"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_PLUS_ONE = (Add(1.0),)
_BIDIRECTIONAL = Refuses("bidirectional", "llama.cpp's gemma graphs look backwards only")


def _cap(name: str, key: str, default: float) -> Param:
    return Param(name, key, key, "FLOAT32", default=default, nullable=True)


def _norm(source: str, target: str, size: str = "n_embd") -> Row:
    return Row(source, target, (size,), _PLUS_ONE)


GEMMA = DECODER.derive(
    gguf="gemma",
    hf=("GemmaForCausalLM",),
    model_type=("gemma",),
    rope=Rope("neox", implied=10000.0),
    without=("output.weight",),
    params=(
        kv_heads(16),
        Param("head_size", "head_dim", "attention.key_length", default=256),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param(
            "activation",
            ("hidden_activation", "hidden_act"),
            type="STRING",
            default="gelu_pytorch_tanh",
            allowed=("gelu_pytorch_tanh", "gelu"),  # transformers reads the gelu of old checkpoints as the tanh form
        ),
        Param("bidirectional", "use_bidirectional_attention", type="BOOL", default=False),
    ),
    rows=(
        _norm("model.norm.weight", "output_norm.weight"),
        _norm(_LAYER + "input_layernorm.weight", _BLOCK + "attn_norm.weight"),
        _norm(_LAYER + "post_attention_layernorm.weight", _BLOCK + "ffn_norm.weight"),
    ),
    ignores=(Ignore("*lm_head.weight", "the output of this architecture is its embedding", when="tied"),),
    refuses=(
        _BIDIRECTIONAL,
        Refuses("not tied", "llama.cpp's graph of this architecture has no output matrix besides the embedding"),
    ),
    graph={"activation": "gelu_tanh", "norm_offset": 1.0, "embedding_scale": "sqrt(n_embd)"},
)

_QUERY_SCALE = "llama.cpp's graph scales queries by the head size, in the 27B model by n_embd / n_head"


def _query_scale(n_layer: int) -> tuple[tuple[str, str], ...]:
    """What the graph scales queries by; the largest model is known by its number of layers."""
    return (f"n_layer == {n_layer}", "n_embd/n_head"), ("", "head_size")


GEMMA2 = GEMMA.derive(
    gguf="gemma2",
    hf=("Gemma2ForCausalLM",),
    model_type=("gemma2",),
    window=Window(period=2, size=4096),
    params=(
        kv_heads(4),
        Param("query_scale", "query_pre_attn_scalar", default=256, implied=_query_scale(46)),
        _cap("attention_cap", "attn_logit_softcapping", default=50.0),
        _cap("output_cap", "final_logit_softcapping", default=30.0),
    ),
    rows=(
        _norm(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight"),
        _norm(_LAYER + "pre_feedforward_layernorm.weight", _BLOCK + "ffn_norm.weight"),
        _norm(_LAYER + "post_feedforward_layernorm.weight", _BLOCK + "post_ffw_norm.weight"),
    ),
    refuses=(
        Refuses("not attention_cap", "llama.cpp's gemma2 graph always caps the scores of attention"),
        Refuses("not output_cap", "llama.cpp's gemma2 graph always caps the logits"),
        Refuses("n_layer != 46 and query_scale != head_size", _QUERY_SCALE),
        Refuses("n_layer == 46 and query_scale != n_embd/n_head", _QUERY_SCALE),
    ),
    graph={"norm_place": "pre+post"},
)

_OWN = ("head_size", "value_size", "tied", "activation", "bidirectional")

GEMMA3 = DECODER.derive(
    gguf="gemma3",
    hf=("Gemma3ForCausalLM",),
    model_type=("gemma3_text",),
    rope=Rope("neox", theta=1e6, local_theta=10000.0, kinds=("default", "linear", "yarn")),
    window=Window(period=6, size=4096),
    params=(
        Param("n_layer", "num_hidden_layers", "block_count", default=26, high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length", default=131072),
        Param("n_embd", "hidden_size", "embedding_length", default=2304),
        Param("n_ff", "intermediate_size", "feed_forward_length", default=9216),
        Param("n_head", "num_attention_heads", "attention.head_count", default=8),
        kv_heads(4),
        Param("vocab_size", "vocab_size", default=262208),
        *(param for param in GEMMA.params if param.name in _OWN),
        Param("query_scale", "query_pre_attn_scalar", default=256, implied=_query_scale(62)),
        Param("attention_cap", "attn_logit_softcapping", type="FLOAT32", default=None),
        Param("output_cap", "final_logit_softcapping", "final_logit_softcapping", "FLOAT32", default=None),
    ),
    rows=(
        *(row for row in GEMMA2.rows if row.ops),
        _norm(_LAYER + "self_attn.q_norm.weight", _BLOCK + "attn_q_norm.weight", "head_size"),
        _norm(_LAYER + "self_attn.k_norm.weight", _BLOCK + "attn_k_norm.weight", "head_size"),
    ),
    refuses=(
        _BIDIRECTIONAL,
        Refuses("attention_cap", "llama.cpp's gemma3 graph does not cap the scores of attention"),
        Refuses("n_layer != 62 and query_scale != head_size", _QUERY_SCALE),
        Refuses("n_layer == 62 and query_scale != n_embd/n_head", _QUERY_SCALE),
    ),
    graph={**GEMMA2.graph, "qk_norm": "head"},
)

_EMBEDDING = GEMMA3.derive(
    gguf="gemma-embedding",
    hf=("Gemma3TextModel",),
    model_type=(),
    writes=("Gemma3TextModel", "gemma3_text"),
    window=Window(period=6, size=4096, required=True),
    pooled=True,
    dense=True,
    params=(
        Param("dense", (), "dense_2_feat_out", default=0, low=0, omit=0),
        Param("bidirectional", "use_bidirectional_attention", type="BOOL", default=False, implied=(("", "1"),)),
        Param("window", "sliding_window", default=4096),
    ),
    graph={"block": "encoder"},
)

GEMMA_EMBEDDING = replace(
    _EMBEDDING,
    rows=(
        *(
            replace(row, source=row.sources[0].removeprefix("model."))
            for row in GEMMA3.rows
            if row.target != "output.weight"
        ),
        Row("2_Dense/linear.weight", "dense_2.weight", ("dense", "n_embd"), when="dense"),
        Row("3_Dense/linear.weight", "dense_3.weight", ("n_embd", "dense"), when="dense"),
    ),
    ignores=(*GEMMA3.ignores, Ignore("*_Dense/*", "a Dense module that has no place in this file", when="not dense")),
    prefixes=(("", "model."),),
    refuses=(
        *(rule for rule in _EMBEDDING.refuses if rule != _BIDIRECTIONAL),
        Refuses("not bidirectional", "llama.cpp's gemma-embedding graph looks both ways"),
        Refuses("window % 2", "half of the window lies on each side"),
    ),
)
