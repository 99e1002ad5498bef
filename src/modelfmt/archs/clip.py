"""CLIP: a text and a picture as vectors of one space, together or each alone. For graphs alone: no GGUF architecture
has these weights.

Parameters of the picture's tower begin with `v_`. Checked against transformers 5.24
models/clip/{configuration,modeling}_clip.py (November 2026).
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from modelfmt.archs.table import Architecture, Ignore, Param, Row

__all__ = ["CLIP", "CLIP_TEXT", "CLIP_VISION"]


def _param(name: str, key: str, default: Any, own: str, **more: Any) -> Param:
    """A hyper-parameter of one tower: in its own section of config.json, or at the top of its own model's."""
    return Param(name, (f"{own}_config.{key}", key), default=default, **more)


def _tower(own: str, first: str, *, layers: int, embd: int, ff: int, heads: int) -> tuple[Param, ...]:
    return (
        _param(f"{first}n_layer", "num_hidden_layers", layers, own, high=1024),
        _param(f"{first}n_embd", "hidden_size", embd, own),
        _param(f"{first}n_ff", "intermediate_size", ff, own),
        _param(f"{first}n_head", "num_attention_heads", heads, own),
        Param(f"{first}head_size", (), derive=f"{first}n_embd/{first}n_head"),
        _param(f"{first}norm_eps", "layer_norm_eps", 1e-5, own, type="FLOAT32"),
        _param(f"{first}activation", "hidden_act", "quick_gelu", own, type="STRING"),
    )


_TEXT_PARAMS = (
    *_tower("text", "", layers=12, embd=512, ff=2048, heads=8),
    _param("n_ctx", "max_position_embeddings", 77, "text"),
    _param("vocab_size", "vocab_size", 49408, "text"),
    _param("end", "eos_token_id", 49407, "text", low=0),
)
_VISION_PARAMS = (
    *_tower("vision", "v_", layers=12, embd=768, ff=3072, heads=12),
    _param("v_image_size", "image_size", 224, "vision"),
    _param("v_patch_size", "patch_size", 32, "vision"),
    _param("v_n_channels", "num_channels", 3, "vision"),
    Param("v_n_side", (), derive="v_image_size//v_patch_size"),
    Param("v_n_positions", (), derive="v_n_side*v_n_side + 1"),
)
_PROJECTION = (Param("n_projected", "projection_dim", default=512), Param("tied", (), type="BOOL", default=False))


def _norm(source: str, target: str, width: str, layers: str) -> Row:
    return Row(f"{source}.weight", f"{target}.weight", (width,), bias="required", layers=layers)


def _layers(stack: str, target: str, first: str) -> tuple[Row, ...]:
    """The layers of one tower."""
    layers, width, n_ff = f"{first}n_layer", f"{first}n_embd", f"{first}n_ff"
    source, to = f"{stack}.encoder.layers.{{i}}.", f"{target}.blk.{{i}}."
    matrices = {
        "self_attn.q_proj": ("attn_q", (width, width)),
        "self_attn.k_proj": ("attn_k", (width, width)),
        "self_attn.v_proj": ("attn_v", (width, width)),
        "self_attn.out_proj": ("attn_o", (width, width)),
        "mlp.fc1": ("ffn_up", (n_ff, width)),
        "mlp.fc2": ("ffn_down", (width, n_ff)),
    }
    return (
        _norm(source + "layer_norm1", to + "attn_norm", width, layers),
        _norm(source + "layer_norm2", to + "ffn_norm", width, layers),
        *(
            Row(f"{source}{name}.weight", f"{to}{role}.weight", shape, bias="required", layers=layers)
            for name, (role, shape) in matrices.items()
        ),
    )


_TEXT_ROWS = (
    Row("text_model.embeddings.token_embedding.weight", "text.token_embd.weight", ("vocab_size", "n_embd")),
    Row("text_model.embeddings.position_embedding.weight", "text.position_embd.weight", ("n_ctx", "n_embd")),
    *_layers("text_model", "text", ""),
    _norm("text_model.final_layer_norm", "text.output_norm", "n_embd", "n_layer"),
)
_VISION_ROWS = (
    Row("vision_model.embeddings.class_embedding", "vision.cls_token", ("v_n_embd",)),
    Row(
        "vision_model.embeddings.patch_embedding.weight",
        "vision.patch_embd.weight",
        ("v_n_embd", "v_n_channels", "v_patch_size", "v_patch_size"),
    ),
    Row("vision_model.embeddings.position_embedding.weight", "vision.position_embd", ("v_n_positions", "v_n_embd")),
    _norm("vision_model.pre_layrnorm", "vision.embd_norm", "v_n_embd", "n_layer"),
    *_layers("vision_model", "vision", "v_"),
    _norm("vision_model.post_layernorm", "vision.output_norm", "v_n_embd", "n_layer"),
)
_TO_TEXT = Row("text_projection.weight", "text.projection.weight", ("n_projected", "n_embd"))
_TO_PICTURE = Row("visual_projection.weight", "vision.projection.weight", ("n_projected", "v_n_embd"))

CLIP = Architecture(
    gguf="",
    hf=("CLIPModel",),
    model_type=("clip",),
    towers=True,
    params=(*_TEXT_PARAMS, *_VISION_PARAMS, *_PROJECTION),
    rows=(*_TEXT_ROWS, *_VISION_ROWS, _TO_TEXT, _TO_PICTURE, Row("logit_scale", "logit_scale", ())),
    ignores=(Ignore("*.position_ids", "0, 1, 2 and so on"),),
    graph={"block": "encoder", "input": "text and picture", "norm": "layer", "activation": "quick_gelu"},
)

CLIP_TEXT = replace(
    CLIP,
    hf=("CLIPTextModelWithProjection", "CLIPTextModel"),
    model_type=("clip_text_model",),
    params=(*_TEXT_PARAMS, *_PROJECTION),
    rows=(*_TEXT_ROWS, replace(_TO_TEXT, optional=True)),
    prefixes=(("text_model.", ""),),
    graph={**CLIP.graph, "input": "text"},
)

CLIP_VISION = replace(
    CLIP,
    hf=("CLIPVisionModelWithProjection", "CLIPVisionModel"),
    model_type=("clip_vision_model",),
    params=(*_VISION_PARAMS, Param("n_layer", (), derive="v_n_layer"), *_PROJECTION),
    rows=(*_VISION_ROWS, replace(_TO_PICTURE, optional=True)),
    prefixes=(("vision_model.", ""),),
    graph={**CLIP.graph, "input": "picture"},
)
