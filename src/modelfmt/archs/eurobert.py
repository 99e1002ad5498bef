"""EuroBERT: a Llama that looks both ways.

Checked against transformers 5.24 models/eurobert/{configuration,modeling}_eurobert.py and llama.cpp
src/models/eurobert.cpp, conversion/bert.py (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import DECODER
from modelfmt.archs.table import Ignore, Param, Refuses, Rope

__all__ = ["EUROBERT"]

EUROBERT = DECODER.derive(
    gguf="eurobert",
    hf=("EuroBertModel", "EuroBertForMaskedLM"),
    model_type=("eurobert",),
    pooled=True,
    rope=Rope("neox", kinds=("default",)),
    without=("output.weight", "causal", "tied"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu",)),
        Param("causal", (), "attention.causal", "BOOL", default=False),
        Param("rope_scaling", (), "rope.scaling.type", "STRING", default="none"),
        Param("tied", (), type="BOOL", default=True),
    ),
    rows=tuple(
        replace(row, source=source.removeprefix("model."))
        for row in DECODER.rows
        for source in row.sources
        if not row.tied_to
    ),
    prefixes=tuple((name, f"model.{name}") for name in ("embed_tokens.", "layers.", "norm.")),
    ignores=(Ignore("lm_head.*", "the head for masked words is not used for embeddings", loss=True),),
    refuses=(Refuses("n_head*head_size != n_embd", "llama.cpp's eurobert graph has heads of n_embd / n_head values"),),
    graph={"block": "encoder"},
)
