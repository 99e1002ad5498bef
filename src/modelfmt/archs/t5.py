"""T5, mT5 and UMT5: encoder-decoders with relative positions, and their encoders alone.

The graph does not scale what the decoder puts out, as the first T5 does (`scale_decoder_outputs`): the scale is part of
the last norm here, which llama.cpp's own converter forgets. Checked against transformers 5.24
models/{t5,mt5,umt5}/{configuration,modeling}_*.py and llama.cpp src/models/{t5,t5encoder}.cpp, conversion/t5.py
(November 2026).
"""

from __future__ import annotations

from modelfmt.archs.specs import Scaled
from modelfmt.archs.table import Architecture, Ignore, Param, Row

__all__ = ["MT5", "MT5_ENCODER", "T5", "T5_ENCODER", "UMT5", "UMT5_ENCODER"]

_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEADS, _FEED = "n_head*head_size", ("n_ff", "n_embd")
_DECODER_NORM = ("decoder.final_layer_norm.weight", "dec.output_norm.weight", ("n_embd",))


def _attention(source: str, target: str, layers: str) -> tuple[Row, ...]:
    """Queries, keys, values and the way out of one attention, by the two names of its module."""
    rows = (
        Row(f"{source}.{name}.weight", f"{target}_{name}.weight", (_HEADS, "n_embd"), layers=layers) for name in "qkv"
    )
    return (*rows, Row(f"{source}.o.weight", f"{target}_o.weight", ("n_embd", _HEADS), layers=layers))


def _positions(stack: str, target: str, layers: str, *, own: bool) -> tuple[Row, ...]:
    """The bias by distance: of the first layer for all, or of each layer."""
    source, shape = f"{stack}.block.{{i}}.layer.0.SelfAttention.relative_attention_bias.weight", ("n_buckets", "n_head")
    name = f"{target}.blk.{{i}}.attn_rel_b.weight"
    first = Row(source, name, shape, when="" if own else "layer == 0", layers=layers)
    return (first,) if own else (first, Row(source, name, shape, when="0 < layer", optional=True, layers=layers))


def _stack(stack: str, target: str, *, own: bool) -> tuple[Row, ...]:
    """The layers of the encoder or the decoder. own: a bias by distance in each."""
    decodes = stack == "decoder"
    layers = "n_decoder_layer" if decodes else "n_layer"
    block, to = f"{stack}.block.{{i}}.layer.", f"{target}.blk.{{i}}."
    last = 2 if decodes else 1
    norms = {"attn_norm": 0, "ffn_norm": last} | ({"cross_attn_norm": 1} if decodes else {})
    feed = f"{block}{last}.DenseReluDense."
    return (
        *(
            Row(f"{block}{at}.layer_norm.weight", f"{to}{name}.weight", ("n_embd",), layers=layers)
            for name, at in norms.items()
        ),
        *_attention(f"{block}0.SelfAttention", f"{to}attn", layers),
        *_positions(stack, target, layers, own=own),
        *(_attention(f"{block}1.EncDecAttention", f"{to}cross_attn", layers) if decodes else ()),
        Row(feed + "wi_0.weight", to + "ffn_gate.weight", _FEED, when="gated", layers=layers),
        Row(feed + "wi_1.weight", to + "ffn_up.weight", _FEED, when="gated", layers=layers),
        Row(feed + "wi.weight", to + "ffn_up.weight", _FEED, when="not gated", layers=layers),
        Row(feed + "wo.weight", to + "ffn_down.weight", ("n_embd", "n_ff"), layers=layers),
    )


def _gated(default: int) -> Param:
    return Param(
        "gated",
        "feed_forward_proj",
        default=default,
        codes=(("relu", 0), ("gated-gelu", 1)),
        tensor="enc.blk.0.ffn_gate.weight",
    )


_ENCODER_PARAMS = (
    Param("n_layer", ("num_layers", "num_hidden_layers"), "block_count", default=6, high=1024),
    Param("n_ctx", "n_positions", "context_length", default=512),
    Param("n_embd", "d_model", "embedding_length", default=512),
    Param("n_ff", "d_ff", "feed_forward_length", default=2048),
    Param("n_head", "num_heads", "attention.head_count", default=8),
    Param("head_size", "d_kv", "attention.key_length", default=64),
    Param("value_size", (), "attention.value_length", derive="head_size"),
    Param("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "FLOAT32", default=1e-6),
    Param("rms_eps", "layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-6),
    Param("n_buckets", "relative_attention_num_buckets", "attention.relative_buckets_count", default=32),
    Param("furthest", "relative_attention_max_distance", default=128, allowed=(128,)),
    Param("vocab_size", "vocab_size", default=32128),
    Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    _gated(0),
)
_DECODER_PARAMS = (
    Param("n_decoder_layer", "num_decoder_layers", "decoder_block_count", derive="n_layer", high=1024),
    Param("decoder_start", ("decoder_start_token_id", "pad_token_id"), "decoder_start_token_id", default=0, low=0),
    Param(
        "scaled",
        ("scale_decoder_outputs", "tie_word_embeddings"),
        "decoder_outputs_scaled",
        "BOOL",
        default=True,
        omit=False,
    ),
)
_ENCODER_ROWS = (
    Row(_EMBEDDINGS, "token_embd.weight", ("vocab_size", "n_embd")),
    Row("encoder.final_layer_norm.weight", "enc.output_norm.weight", ("n_embd",)),
)
_DECODER_ROWS = (
    Row(*_DECODER_NORM, when="not scaled"),
    Row(*_DECODER_NORM, (Scaled("n_embd", -0.5),), when="scaled"),
    Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="shared.weight"),
)

T5_ENCODER = Architecture(
    gguf="t5encoder",
    hf=("T5EncoderModel",),
    model_type=(),
    writes=("T5EncoderModel", "t5"),
    params=_ENCODER_PARAMS,
    rows=(*_ENCODER_ROWS, *_stack("encoder", "enc", own=False)),
    ignores=(
        Ignore("*coder.embed_tokens.weight", "a copy of shared.weight"),
        Ignore("*.EncDecAttention.relative_attention_bias.weight", "not used: only texts attend to themselves by it"),
    ),
    graph={
        "block": "encoder",
        "norm": "rms",
        "norm_place": "pre",
        "activation": "gelu_tanh",
        "mlp": "gated",
        "residual": "serial",
        "positions": "relative",
        "attention_scale": 1.0,
    },
)

T5 = T5_ENCODER.derive(
    gguf="t5",
    hf=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    writes=None,
    model_type=("t5",),
    params=_DECODER_PARAMS,
    rows=(*_DECODER_ROWS, *_stack("decoder", "dec", own=False)),
    graph={"block": "encoder-decoder"},
)

_LATER = (
    Param("n_layer", ("num_layers", "num_hidden_layers"), "block_count", default=8, high=1024),
    Param("n_ff", "d_ff", "feed_forward_length", default=1024),
    Param("n_head", "num_heads", "attention.head_count", default=6),
    Param("vocab_size", "vocab_size", default=250112),
    _gated(1),
)
"""What the configurations of mT5 and UMT5 say otherwise where a key is absent."""

MT5_ENCODER = T5_ENCODER.derive(hf=("MT5EncoderModel",), writes=("MT5EncoderModel", "mt5"), params=_LATER)
MT5 = T5.derive(
    hf=("MT5ForConditionalGeneration",),
    model_type=("mt5",),
    params=(*_LATER, Param("scaled", (), "decoder_outputs_scaled", "BOOL", default=False, omit=False)),
)

_OWN = _positions("encoder", "enc", "n_layer", own=True)

UMT5_ENCODER = MT5_ENCODER.derive(hf=("UMT5EncoderModel",), writes=("UMT5EncoderModel", "umt5"), rows=_OWN)
UMT5 = T5.derive(
    hf=("UMT5ForConditionalGeneration",),
    model_type=("umt5",),
    params=_LATER,
    rows=(*_OWN, *_positions("decoder", "dec", "n_decoder_layer", own=True)),
)
