"""Whisper: an encoder of sounds and a decoder of text. For graphs alone: no GGUF architecture has these weights.

The names of roles are those of T5's table, so that one builder makes both. `scale_embedding` has no effect in
transformers, and none here. Checked against transformers 5.24
models/whisper/{configuration,modeling}_whisper.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.table import Architecture, Param, Row

__all__ = ["WHISPER"]

_SQUARE = ("n_embd", "n_embd")


def _attention(source: str, target: str, layers: str) -> tuple[Row, ...]:
    """Keys have no bias."""
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    return tuple(
        Row(
            f"{source}.{name}.weight",
            f"{target}_{part}.weight",
            _SQUARE,
            bias="none" if part == "k" else "required",
            layers=layers,
        )
        for part, name in parts.items()
    )


def _norm(source: str, target: str, layers: str = "n_layer") -> Row:
    return Row(f"{source}.weight", f"{target}.weight", ("n_embd",), bias="required", layers=layers)


def _stack(stack: str, target: str) -> tuple[Row, ...]:
    """The layers of the encoder or the decoder."""
    decodes = stack == "decoder"
    layers, n_ff = ("n_decoder_layer", "n_decoder_ff") if decodes else ("n_layer", "n_ff")
    source, to = f"model.{stack}.layers.{{i}}.", f"{target}.blk.{{i}}."
    crossed = (
        _norm(source + "encoder_attn_layer_norm", to + "cross_attn_norm", layers),
        *_attention(source + "encoder_attn", to + "cross_attn", layers),
    )
    return (
        _norm(source + "self_attn_layer_norm", to + "attn_norm", layers),
        *_attention(source + "self_attn", to + "attn", layers),
        *(crossed if decodes else ()),
        _norm(source + "final_layer_norm", to + "ffn_norm", layers),
        Row(source + "fc1.weight", to + "ffn_up.weight", (n_ff, "n_embd"), bias="required", layers=layers),
        Row(source + "fc2.weight", to + "ffn_down.weight", ("n_embd", n_ff), bias="required", layers=layers),
        _norm(f"model.{stack}.layer_norm", f"{target}.output_norm"),
    )


WHISPER = Architecture(
    gguf="",
    hf=("WhisperForConditionalGeneration",),
    model_type=("whisper",),
    params=(
        Param("n_layer", "encoder_layers", default=4, high=1024),
        Param("n_decoder_layer", "decoder_layers", default=4, high=1024),
        Param("n_embd", "d_model", default=384),
        Param("n_ff", "encoder_ffn_dim", default=1536),
        Param("n_decoder_ff", "decoder_ffn_dim", default=1536),
        Param("n_head", "encoder_attention_heads", default=6),
        Param("n_decoder_head", "decoder_attention_heads", default=6),
        Param("n_mel", "num_mel_bins", default=80),
        Param("n_ctx", "max_source_positions", default=1500),
        Param("n_decoder_ctx", "max_target_positions", default=448),
        Param("norm_eps", "layer_norm_eps", type="FLOAT32", default=1e-5),
        Param("activation", "activation_function", type="STRING", default="gelu"),
        Param("vocab_size", "vocab_size", default=51865),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    ),
    rows=(
        Row("model.encoder.conv1.weight", "enc.conv1.weight", ("n_embd", "n_mel", "3"), bias="required"),
        Row("model.encoder.conv2.weight", "enc.conv2.weight", ("n_embd", "n_embd", "3"), bias="required"),
        Row("model.encoder.embed_positions.weight", "enc.position_embd.weight", ("n_ctx", "n_embd")),
        *_stack("encoder", "enc"),
        Row("model.decoder.embed_tokens.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("model.decoder.embed_positions.weight", "dec.position_embd.weight", ("n_decoder_ctx", "n_embd")),
        *_stack("decoder", "dec"),
        Row(
            "proj_out.weight",
            "output.weight",
            ("vocab_size", "n_embd"),
            tied_to="model.decoder.embed_tokens.weight",
        ),
    ),
    graph={"block": "encoder-decoder", "input": "audio", "norm": "layer", "activation": "gelu"},
)
