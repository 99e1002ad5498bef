"""SmolLM 3: Llama, but each fourth layer does without rope.

Checked against transformers 5.23 models/smollm3/{configuration,modeling}_smollm3.py and llama.cpp
src/models/smollm3.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import kv_heads, unbiased
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.table import Loses, Param, Refuses, Rope

__all__ = ["SMOLLM3"]

_NO_ROPE = "llama.cpp's smollm3 graph does without rope in each fourth layer, and in no other"

SMOLLM3 = LLAMA.derive(
    gguf="smollm3",
    hf=("SmolLM3ForCausalLM",),
    model_type=("smollm3",),
    rope=Rope("norm", theta=2e6, dimension=True),
    params=(
        kv_heads(4),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("turns", "no_rope_layers", default=2, low=0, high=1, per_layer=True),  # 2: not said
        Param("no_rope_step", "no_rope_layer_interval", default=4),
        Param("slides", "use_sliding_window", type="BOOL", default=False),
        Param("sliding_window", "sliding_window", default=None),
    ),
    rows=unbiased(LLAMA.rows, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    refuses=(
        Refuses("layer % 4 == 3 and turns == 1", _NO_ROPE),
        Refuses("layer % 4 != 3 and turns == 0", _NO_ROPE),
        Refuses("turns == 2 and no_rope_step != 4", _NO_ROPE),
    ),
    loses=(
        Loses(
            "slides and sliding_window and sliding_window < n_ctx",
            "dropped",
            "sliding_window",
            "llama.cpp's smollm3 graph attends to the whole context: longer texts come out differently",
        ),
    ),
    graph={"no_rope_step": 4},
)
