"""Granite 3 (dense): Llama with four scales of its own.

Checked against transformers 5.23 models/granite/{configuration,modeling}_granite.py and llama.cpp
src/models/granite.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.llama import LLAMA
from modelfmt.archs.table import Param, Refuses

__all__ = ["GRANITE"]


def _scale(config: str, key: str) -> Param:
    return Param(config, config, key, "FLOAT32", default=1.0)


GRANITE = LLAMA.derive(
    gguf="granite",
    hf=("GraniteForCausalLM",),
    model_type=("granite",),
    without=("value_size",),
    params=(
        Param("head_size", "head_dim", derive="n_embd/n_head"),
        _scale("attention_multiplier", "attention.scale"),
        _scale("embedding_multiplier", "embedding_scale"),
        _scale("residual_multiplier", "residual_scale"),
        _scale("logits_scaling", "logit_scale"),
    ),
    refuses=(Refuses("n_head*head_size != n_embd", "granite files have heads of n_embd / n_head values only"),),
    graph={"scales": ("attention", "embedding", "residual", "logits")},
)
