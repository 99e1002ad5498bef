"""EmbeddingGemma 2 (the text model, also inside the multimodal checkpoints): Gemma 4 that looks both ways, whose values
for each layer come from the embedding alone, and a matrix behind the last norm.

The window is a radius in the checkpoint, both sides of it in the file. Checked against transformers 5.24
models/embedding_gemma2/{configuration,modeling}_embedding_gemma2.py and llama.cpp src/models/gemma-embedding2.cpp
(October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.gemma4 import EXPERTS, GEMMA4, LAYERED
from modelfmt.archs.multimodal import beside
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["EMBEDDING_GEMMA2"]

_OUTPUTS = ("output.weight", "per_layer_token_embd.weight")


def _named(row: Row) -> Row:
    """A row of Gemma 4, by the name that the encoder has for its tensor."""
    source = row.sources[0].removeprefix("model.")
    if row in LAYERED:
        source = source.replace("layers.{i}.", "layers.{i}.ple_block.") if "{i}" in source else f"ple.{source}"
    return replace(row, source=source)


EMBEDDING_GEMMA2 = replace(
    GEMMA4.derive(
        gguf="gemma-embedding2",
        hf=("EmbeddingGemma2TextModel", "EmbeddingGemma2Model"),
        model_type=("embedding_gemma2_text", "embedding_gemma2"),
        pooled=True,
        rope=Rope("neox", theta=1e6, local_theta=10000.0, kinds=("default",), dimension=True),
        without=(
            *("bidirectional", "output_cap", "n_shared", "n_values", "k_eq_v", "ff", "double", "vocab_pl", "moe"),
            *("n_expert", "n_expert_used", "n_ff_expert"),
        ),
        params=(
            Param("n_layer", "num_hidden_layers", "block_count", default=24, high=1024),
            Param("n_ctx", "max_position_embeddings", "context_length", default=262144),
            Param("n_embd", "hidden_size", "embedding_length", default=512),
            Param("n_ff", "intermediate_size", "feed_forward_length", default=2048),
            Param("n_head", "num_attention_heads", "attention.head_count", default=4),
            Param("tied", (), default=False),
            Param("sliding_window", "sliding_window", default=512, implied=(("", "span//2"),)),
            Param("span", (), "attention.sliding_window", derive="2*sliding_window"),
            Param("has_kv", (), default=1),
            Param("has_v", (), default=1),
            Param("kv_sliding", "num_key_value_heads", default=2, implied=(("", "at(n_head_kv, slides)"),)),
            Param(
                "kv_full",
                ("num_global_key_value_heads", "per_layer_config.*.num_key_value_heads"),
                default=1,
                implied=(("", "at(n_head_kv, full)"),),
            ),
            Param(
                "n_head_kv",
                (),
                "attention.head_count_kv",
                each=(("slides", "kv_sliding"), ("", "kv_full")),
                per_layer=True,
            ),
            Param("n_pl", "hidden_size_per_layer_input", "embedding_length_per_layer_input", default=512),
            Param("n_out", "embedding_dim", "embedding_length_out", default=768),
        ),
        graph={"block": "encoder"},
    ),
    rows=(
        *(_named(row) for row in GEMMA4.rows if row not in EXPERTS and row.target not in _OUTPUTS),
        Row("embedding_projection.weight", "output.weight", ("n_out", "n_embd")),
    ),
    ignores=beside("vision_tower", "embed_vision", "audio_tower", "embed_audio"),
    prefixes=(("", "language_model."), ("", "model.language_model."), ("", "model.")),
    refuses=(
        Refuses("attention_bias", "llama.cpp's gemma-embedding2 graph has no biases"),
        Refuses("layer == n_layer - 1 and slides", "transformers makes the last layer of EmbeddingGemma 2 a full one"),
    ),
)
