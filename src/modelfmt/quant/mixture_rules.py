"""The mixture rules of llama.cpp as data: what a tensor is for, what is never quantized, which type it gets.

Source: llama.cpp of October 2026: src/llama-quant.cpp (tensor_get_category, tensor_allows_quantization,
llama_tensor_get_type_impl), conversion/base.py (what the converter keeps in F32), src/models/*.cpp (LLM_TYPE_70B). The
engine that reads these tables is modelfmt.quant.mixture; what is odd about them is listed in docs/recipes.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = [
    "BASE",
    "CONVERTER_F32",
    "KEPT",
    "LARGE_MODELS",
    "LAYERS",
    "ROLES",
    "RULES",
    "V_LIKE",
    "Keep",
    "Position",
    "Rule",
]

BASE = "base"
"""As a rule's type: the file type's own tensor type."""


class Position(msgspec.Struct, frozen=True):
    """Where a tensor stands among those of its role.

    count: how many of its role came before. index: the same, or its layer's number in models with experts. total: how
    many there are (attention) or the number of layers (feed-forward).
    """

    count: int
    index: int
    total: int


class Rule(msgspec.Struct, frozen=True):
    """One row: the type of a tensor that meets every condition that is set. The first row that matches decides.

    layers: a key of LAYERS. min_gqa: query heads per key-value head, at least. experts: exactly this many; min_experts:
    at least. large: a model of LARGE_MODELS. importance: with (True) or without (False) an importance matrix.
    architectures: general.architecture is one of these. stacked: a three-dimensional tensor, one matrix per expert.
    misfit: the row does not divide into blocks of the base type. contains: the name contains one of these.
    """

    type: str
    roles: frozenset[str] = frozenset()
    file_types: frozenset[str] = frozenset()
    layers: str = ""
    min_gqa: int = 0
    experts: int | None = None
    min_experts: int = 0
    large: bool = False
    importance: bool | None = None
    architectures: frozenset[str] = frozenset()
    stacked: bool = False
    misfit: bool = False
    contains: tuple[str, ...] = ()


class Keep(msgspec.Struct, frozen=True):
    """Tensors that are never quantized, by a part of the name or the whole name; `reason` says what they are."""

    reason: str
    contains: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    architectures: frozenset[str] = frozenset()


def _more(at: Position) -> bool:
    n, i = at.total, at.index
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


LAYERS: dict[str, Callable[[Position], bool]] = {
    "first 2": lambda at: at.index < 2,
    "first 4": lambda at: at.index < 4,
    "first 16th": lambda at: at.index < at.total // 16,
    "first 8th": lambda at: at.index < at.total // 8,
    "first 8th by count": lambda at: at.count < at.total // 8,
    "middle": lambda at: at.total // 8 <= at.index < 7 * at.total // 8,
    "more": _more,
}
"""`more`: the first and the last eighth, and every third layer between. Divisions are of integers."""

# The first row whose text is in the name decides; the first three want the whole name.
ROLES: tuple[tuple[str, str, bool], ...] = (
    ("output", "output.weight", True),
    ("token_embd", "token_embd.weight", True),
    ("token_embd", "per_layer_token_embd.weight", True),
    ("attn_qkv", "attn_qkv.weight", False),
    ("attn_kv_b", "attn_kv_b.weight", False),
    ("attn_v", "attn_v.weight", False),
    ("attn_k", "attn_k.weight", False),
    ("attn_q", "attn_q.weight", False),
    ("attn_output", "attn_output.weight", False),
    ("ffn_up", "ffn_up", False),
    ("ffn_gate", "ffn_gate", False),
    ("ffn_down", "ffn_down", False),
)
V_LIKE = frozenset({"attn_v", "attn_qkv", "attn_kv_b"})
"""Roles that the rules for attn_v hold for, counted together."""

_RWKV = "first w0 w1 w2 v0 v1 v2 a0 a1 a2 g1 g2 decay_w1 decay_w2 lerp_fused"
_GLM5_NEXT = (
    "hc_ indexer.attn_q_b indexer.attn_k indexer.proj indexer_compressor_gate indexer_compressor_ape ssm_f_a.weight "
    "ssm_f_b.weight ssm_g_a.weight ssm_g_b.weight ssm_beta.weight attn_kv_a_mqa.weight attn_k_b.weight attn_v_b.weight"
)
KEPT: tuple[Keep, ...] = (
    Keep("norm", ("_norm.weight",)),
    Keep("router", ("ffn_gate_inp.weight", "ffn_gate_tid2eid.weight")),
    Keep("small", ("altup", "laurel", "per_layer_model_proj")),
    Keep("positions or token types", names=("position_embd.weight", "token_types.weight")),
    Keep("convolution", ("ssm_conv1d", "shortconv.conv.weight")),
    Keep("indexer", ("indexer.k_proj.weight", "indexer.q_proj.weight")),
    Keep("small in glm5-next", tuple(_GLM5_NEXT.split()), architectures=frozenset({"glm5-next"})),
    Keep("small in RWKV", tuple(f"time_mix_{part}.weight" for part in _RWKV.split())),
    Keep("relative positions", ("attn_rel_b.weight",)),
    Keep(
        "vision",
        (".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger"),
    ),
    Keep("audio codebook", ("a.rvq.codebook", "mm.a.code_embd")),
)
"""Besides these: tensors of one dimension, and those whose name does not end in `weight`."""

CONVERTER_F32 = (
    r"blk\.\d+\.(ffn_gate_inp|ffn_gate_inp_shexp|ssm_conv1d|ssm_conv1d_[qkv]|shortconv\.conv|indexer\.proj"
    r"|altup_correct_coef|altup_predict_coef|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused))\.weight"
    r"|posnet\.\d+\.norm[12]\.weight|([va]\.)?position_embd\.weight|token_types\.weight"
)
"""Whole names of the matrices that the converter stores as F32, whatever type the rest gets."""

LARGE_MODELS: dict[str, tuple[int, bool]] = {
    "llama": (80, True),
    "llama-embed": (80, True),
    "qwen2": (80, False),
    "deci": (80, False),
    "olmo": (80, False),
    "jais2": (68, False),
}
"""What llama.cpp takes for a 70B model: architecture -> (layers, only with fewer key-value heads than query heads)."""


def _rule(type: str, roles: str = "", file_types: str = "", architectures: str = "", **conditions: Any) -> Rule:
    """A row from words: "v" stands for the roles of V_LIKE."""
    named = frozenset(roles.split())
    if "v" in named:
        named = named - {"v"} | V_LIKE
    return Rule(
        type, named, frozenset(file_types.split()), architectures=frozenset(architectures.split()), **conditions
    )


_LOW = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_FALCON = "falcon"
_FFN = "ffn_up ffn_gate ffn_down"
_EIGHT = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"

RULES: tuple[Rule, ...] = (
    _rule("Q8_0", architectures="glm5-next", contains=("attn_q_a", "attn_q_b", "nextn.eh_proj")),
    # the output matrix, or the token embedding where it serves as both
    _rule("Q8_0", "output", "MXFP4_MOE"),
    _rule("Q8_0", "output", architectures=_FALCON),
    _rule("Q8_0", "output", misfit=True),
    _rule("Q5_K", "output", f"{_LOW} IQ3_XXS"),
    _rule(BASE, "output", "Q8_0"),
    _rule("Q6_K", "output"),
    # matrices of experts in MXFP4, the rest in Q8_0
    _rule("MXFP4", _FFN, "MXFP4_MOE", architectures="bailingmoe3", stacked=True),
    _rule("Q8_0", "", "MXFP4_MOE", architectures="bailingmoe3"),
    _rule("MXFP4", "", "MXFP4_MOE", stacked=True),
    _rule("Q8_0", "", "MXFP4_MOE"),
    _rule("Q2_K", "token_embd", "IQ2_XXS IQ2_XS IQ1_S IQ1_M"),
    _rule("IQ3_S", "token_embd", "IQ2_S IQ2_M IQ3_XXS"),
    _rule("Q4_K", "token_embd", "TQ1_0 TQ2_0 Q2_0"),
    # below three bits
    _rule("Q4_K", "v", _LOW, min_gqa=4),
    _rule("Q4_K", "v", _LOW, min_experts=4),
    _rule("IQ3_S", "v", "IQ2_S IQ2_M"),
    _rule("Q2_K", "v", _LOW),
    _rule("Q4_K", "attn_k", _LOW, experts=8),
    _rule("IQ3_S", "ffn_down", "IQ2_S IQ2_M", layers="first 8th by count"),
    _rule("Q2_K", "ffn_down", _LOW, layers="first 8th by count"),
    _rule("Q5_K", "attn_output", _LOW, experts=8),
    _rule("IQ2_XXS", "attn_output", "IQ1_S IQ1_M"),
    _rule("IQ3_S", "attn_output", "IQ2_S IQ2_M"),
    _rule(BASE, "", _LOW),
    # attention
    _rule("Q8_0", "v", experts=8),
    _rule("Q5_K", "v", "Q2_K Q3_K_S Q3_K_M IQ3_M Q4_K_S", large=True),
    _rule("Q5_K", "v", "Q2_K_S IQ3_XXS IQ3_XS IQ3_S", large=True, min_gqa=4),
    _rule("Q4_K", "v", "Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", min_gqa=4),
    _rule("Q3_K", "v", "Q2_K"),
    _rule("IQ3_S", "v", "IQ3_XXS", importance=False),
    _rule("Q4_K", "v", "IQ3_M"),
    _rule("Q5_K", "v", "Q3_K_M", layers="first 2"),
    _rule("Q4_K", "v", "Q3_K_M"),
    _rule("Q5_K", "v", "Q3_K_L"),
    _rule("Q5_K", "v", "IQ4_NL IQ4_XS", min_gqa=4),
    _rule("Q6_K", "v", "Q4_K_M Q5_K_M", layers="more"),
    _rule("Q5_K", "v", "Q4_K_M", large=True),
    _rule("Q5_K", "v", "Q4_K_S", layers="first 4"),
    _rule("Q8_0", "attn_k", experts=8),
    _rule("IQ3_XXS", "attn_k attn_q", "IQ3_XS"),
    _rule("IQ2_S", "attn_k attn_q", "IQ3_XXS"),
    _rule("Q4_K", "attn_output", "Q3_K_L", architectures=_FALCON),
    _rule(BASE, "attn_output", architectures=_FALCON),
    _rule("Q5_K", "attn_output", _EIGHT, experts=8),
    _rule(BASE, "attn_output", experts=8),
    _rule("Q3_K", "attn_output", "Q2_K"),
    _rule("IQ3_S", "attn_output", "IQ3_XXS"),
    _rule("Q4_K", "attn_output", "Q3_K_M IQ3_M"),
    _rule("Q5_K", "attn_output", "Q3_K_L"),
    # feed-forward
    _rule("Q3_K", "ffn_down", "Q2_K"),
    _rule("Q4_K", "ffn_down", "Q2_K_S", layers="first 8th"),
    _rule("Q4_K", "ffn_down", "IQ3_XXS", layers="first 8th", importance=False),
    _rule("Q3_K", "ffn_down", "IQ3_XXS", importance=False),
    _rule("Q5_K", "ffn_down", "Q3_K_M", layers="first 16th"),
    _rule("Q4_K", "ffn_down", "Q3_K_M", layers="more"),
    _rule("Q3_K", "ffn_down", "Q3_K_M", architectures=_FALCON),
    _rule("Q4_K", "ffn_down", "Q3_K_M"),
    _rule("Q4_K", "ffn_down", "IQ3_M", layers="first 8th"),
    _rule("Q4_K", "ffn_down", "IQ3_M", layers="more", experts=8),
    _rule("Q4_K", "ffn_down", "Q3_K_L", architectures=_FALCON),
    _rule("Q5_K", "ffn_down", "Q3_K_L"),
    _rule("Q6_K", "ffn_down", "Q4_K_M", layers="first 16th"),
    _rule("Q5_K", "ffn_down", "Q4_K_M", layers="more", architectures=_FALCON),
    _rule("Q6_K", "ffn_down", "Q4_K_M Q5_K_M", layers="more"),
    _rule("Q5_K", "ffn_down", "IQ4_NL IQ4_XS", layers="first 8th", importance=False),
    _rule(BASE, "ffn_down", "Q4_K_S", architectures=_FALCON),
    _rule("Q5_K", "ffn_down", "Q4_K_S", layers="first 8th"),
    _rule("Q4_1", "ffn_down", "Q4_0", layers="first 8th", importance=True),
    _rule("Q5_1", "ffn_down", "Q5_0", layers="first 8th", importance=True),
    _rule("IQ3_XXS", "ffn_gate ffn_up", "IQ3_XS", layers="middle"),
)
"""The first matching row decides; where none does, the file type's own type."""
