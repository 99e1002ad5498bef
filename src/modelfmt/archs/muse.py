"""The language part of Muse Glimmer: norms before and behind, a gate on attention, rope in the sliding-window layers
only, queries scaled behind a norm without weights (the file has the scale as the weights of that norm).

Norms of layers are stored minus one. Checked against transformers 5.24
models/muse_glimmer/{configuration,modeling}_muse_glimmer.py and llama.cpp src/models/muse-glimmer.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER, kv_heads, layer_thetas, sliding_layers
from modelfmt.archs.multimodal import beside
from modelfmt.archs.specs import Add, Permute
from modelfmt.archs.table import Filled, Param, Refuses, Rope, Row

__all__ = ["MUSE_GLIMMER"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_ATTENTION = _LAYER + "self_attn."
_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_FOURTH = "layer % 4 == last % 4"

_TEXT = DECODER.derive(
    gguf="muse-glimmer",
    hf=("MuseGlimmerForConditionalGeneration",),
    model_type=("muse_glimmer", "muse_glimmer_text"),
    inside="muse_glimmer_text",
    rope=Rope("norm", kinds=("default",)),
    params=(
        Param("last", (), derive="n_layer - 1"),
        kv_heads(2),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("post_eps", "post_norm_eps", type="FLOAT32", default=1e-8, allowed=(1e-8,)),
        Param("activation", "hidden_activation", type="STRING", default="silu", allowed=("silu",)),
        Param("window", "sliding_window", "attention.sliding_window", default=2048),
        sliding_layers((_FOURTH, "0"), ("", "1")),
        *layer_thetas("slides"),
        Param("turns", (), each=(("told and thetas", "1"), ("told", "0"), (_FOURTH, "0"), ("", "1"))),
        Param("query_scale", "qk_scale_factor", type="FLOAT32", default=3.87),
        Param("logit_scale", "output_multiplier", "logit_scale", "FLOAT32", default=0.19611613513818404),
        Param("output_cap", "final_logit_softcapping", "final_logit_softcapping", "FLOAT32", default=20.0),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
    ),
    rows=(
        *(
            Row(f"{_LAYER}{source}.weight", f"{_BLOCK}{target}.weight", ("n_embd",), (Add(1.0),))
            for source, target in _NORMS.items()
        ),
        *(
            Row(
                f"{_ATTENTION}{letter}_proj.weight",
                f"{_BLOCK}attn_{letter}.weight",
                (f"{heads}*head_size", "n_embd"),
                (Permute(heads),),
            )
            for letter, heads in (("q", "n_head"), ("k", "n_head_kv"))
        ),
        Row(_ATTENTION + "gate_proj.weight", _BLOCK + "attn_gate.weight", ("n_head*head_size", "n_embd")),
    ),
    filled=(
        Filled(_BLOCK + "attn_q_norm.weight", "head_size", "query_scale"),
        Filled(_BLOCK + "attn_k_norm.weight", "head_size"),
    ),
    ignores=beside("vision_tower", "vision_adapter", "vision_projection"),
    refuses=(
        Refuses("tied", "llama.cpp's muse-glimmer graph wants an output matrix besides the embedding"),
        Refuses("attention_bias", "llama.cpp's muse-glimmer graph has no biases"),
        Refuses("turns != slides", "llama.cpp's muse-glimmer graph has rope in sliding-window layers, and in no other"),
    ),
    graph={"norm_place": "pre+post", "norm_offset": 1.0, "qk_norm": "head", "no_rope": "full", "gate": "attention"},
)

MUSE_GLIMMER = replace(
    _TEXT,
    rows=tuple(
        replace(
            row,
            source=tuple(source.replace("model.", "model.language_model.", 1) for source in row.sources),
            tied_to=row.tied_to.replace("model.", "model.language_model.", 1),
        )
        for row in _TEXT.rows
    ),
    prefixes=tuple(("model.language_model.", prefix) for prefix in ("model.", "language_model.model.")),
)
