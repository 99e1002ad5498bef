"""Vision transformers (ViT): patches of a picture, layers, and labels or states. For graphs alone: no GGUF architecture
has these weights.

Checked against transformers 5.24 models/vit/{configuration,modeling}_vit.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.specs import Reshaped
from modelfmt.archs.table import Architecture, Param, Row

__all__ = ["VIT"]

_LAYER, _BLOCK = "encoder.layer.{i}.", "blk.{i}."


def _linear(source: str, target: str, shape: tuple[str, str]) -> Row:
    """A matrix with its bias, in a layer."""
    return Row(f"{_LAYER}{source}.weight", f"{_BLOCK}{target}.weight", shape, bias="required")


def _norm(source: str, target: str) -> Row:
    return Row(f"{source}.weight", f"{target}.weight", ("n_embd",), bias="required")


def _projection(name: str, part: str) -> Row:
    return Row(
        f"{_LAYER}attention.attention.{name}.weight",
        f"{_BLOCK}attn_{part}.weight",
        ("n_embd", "n_embd"),
        bias="maybe",
    )


VIT = Architecture(
    gguf="",
    hf=("ViTForImageClassification", "ViTModel"),
    model_type=("vit",),
    params=(
        Param("n_layer", "num_hidden_layers", default=12, high=1024),
        Param("n_embd", "hidden_size", default=768),
        Param("n_ff", "intermediate_size", default=3072),
        Param("n_head", "num_attention_heads", default=12),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("image_size", "image_size", default=224),
        Param("patch_size", "patch_size", default=16),
        Param("n_channels", "num_channels", default=3),
        Param("n_side", (), derive="image_size//patch_size"),
        Param("n_positions", (), derive="n_side*n_side + 1"),
        Param("norm_eps", "layer_norm_eps", type="FLOAT32", default=1e-12),
        Param("activation", "hidden_act", type="STRING", default="gelu"),
        Param("pooler_activation", "pooler_act", type="STRING", default="tanh"),
        Param("n_pooled", "pooler_output_size", derive="n_embd"),
        Param("n_labels", ("num_labels", "id2label"), default=2, counted=True),
        Param("tied", (), type="BOOL", default=False),
    ),
    rows=(
        Row("embeddings.cls_token", "cls_token", ("n_embd",), (Reshaped(("1", "1", "n_embd"), ("n_embd",)),)),
        Row(
            "embeddings.position_embeddings",
            "position_embd",
            ("n_positions", "n_embd"),
            (Reshaped(("1", "n_positions", "n_embd"), ("n_positions", "n_embd")),),
        ),
        Row(
            "embeddings.patch_embeddings.projection.weight",
            "patch_embd.weight",
            ("n_embd", "n_channels", "patch_size", "patch_size"),
            bias="required",
        ),
        _norm(f"{_LAYER}layernorm_before", f"{_BLOCK}attn_norm"),
        _projection("query", "q"),
        _projection("key", "k"),
        _projection("value", "v"),
        _linear("attention.output.dense", "attn_o", ("n_embd", "n_embd")),
        _norm(f"{_LAYER}layernorm_after", f"{_BLOCK}ffn_norm"),
        _linear("intermediate.dense", "ffn_up", ("n_ff", "n_embd")),
        _linear("output.dense", "ffn_down", ("n_embd", "n_ff")),
        _norm("layernorm", "output_norm"),
        Row("pooler.dense.weight", "pooler.weight", ("n_pooled", "n_embd"), bias="maybe", optional=True),
        Row("classifier.weight", "classifier.weight", ("n_labels", "n_embd"), bias="maybe", optional=True),
    ),
    prefixes=(("", "vit."),),
    graph={"block": "encoder", "input": "picture", "norm": "layer", "activation": "gelu"},
)
