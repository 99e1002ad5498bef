"""The language parts of Qwen 2 VL, 2.5 VL and 3 VL (dense, MoE): Qwen 2 and 3 that turn by several positions.

In a text all of these positions are the same; of the released sections of 3 VL llama.cpp does not turn two of the
slowest frequencies (61 and 62 of 64: no section has them). Checked against transformers 5.24
models/{qwen2_vl,qwen2_5_vl,qwen3_vl,qwen3_vl_moe}/{configuration,modeling}_*.py and llama.cpp
src/models/{qwen2vl,qwen3vl,qwen3vlmoe}.cpp, conversion/qwenvl.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import kv_heads
from modelfmt.archs.qwen import QWEN2, QWEN3, QWEN3_MOE
from modelfmt.archs.table import Param, Rope

__all__ = ["QWEN2_VL", "QWEN3_VL", "QWEN3_VL_MOE"]

_KINDS, _ALIASES = ("default", "yarn"), {"mrope": "default"}
_DEEPSTACK = Param(
    "n_deepstack",
    "vision_config.deepstack_visual_indexes",
    "n_deepstack_layers",
    default=3,
    low=0,
    counted=True,
)

QWEN2_VL = QWEN2.derive(
    gguf="qwen2vl",
    hf=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    model_type=("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
    writes=("Qwen2ForCausalLM", "qwen2"),
    pooled=False,
    rope=Rope("neox", theta=1e6, kinds=_KINDS, sections=(16, 24, 24, 0), aliases=_ALIASES),
    params=(
        kv_heads(8),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32"),  # the defaults of both differ
        Param("max_window_layers", "max_window_layers", default=80, low=0),
    ),
)

QWEN3_VL = QWEN3.derive(
    gguf="qwen3vl",
    hf=("Qwen3VLForConditionalGeneration",),
    model_type=("qwen3_vl", "qwen3_vl_text"),
    writes=("Qwen3ForCausalLM", "qwen3"),
    pooled=False,
    rope=Rope("neox", theta=500000.0, kinds=_KINDS, sections=(24, 20, 20, 0), aliases=_ALIASES),
    params=(_DEEPSTACK,),
)

QWEN3_VL_MOE = QWEN3_MOE.derive(
    gguf="qwen3vlmoe",
    hf=("Qwen3VLMoeForConditionalGeneration",),
    model_type=("qwen3_vl_moe", "qwen3_vl_moe_text"),
    writes=("Qwen3MoeForCausalLM", "qwen3_moe"),
    rope=QWEN3_VL.rope,
    params=(
        _DEEPSTACK,
        kv_heads(16),
        Param("normalised", "norm_topk_prob", type="BOOL", default=False, cases=(("", "1"),), implied=(("", "1"),)),
    ),
)
