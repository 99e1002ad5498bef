"""MXFP4 as gpt-oss is released: experts as blocks of 32 four-bit floats under a power of two.

NAME_blocks U8 [.., out, in / 32, 16], low nibble first, NAME_scales U8 [.., out, in / 32]: 2^(byte - 127). The dense
tensor of that name is [.., in, out]: here, too, as the transposition of the codes, which architectures that transpose
it undo. Source: OCP Microscaling Formats 1.0; transformers 5.24 integrations/mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.checkpoints.coded import Parts, viewed
from modelfmt.checkpoints.written import Form, Written, numbers
from modelfmt.ir import grid
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Dequantize, Expression, Packed, Param, Reader, Reshape, Transpose
from modelfmt.quant.transcode import Policy, powers, verdict

__all__ = ["EXPERTS", "FORMS", "MODEL_TYPES", "TAKES", "configuration", "read", "write"]

FORMS = {"mxfp4": Form("MXFP4", "E2M1", 32, turned=True, fixed=True)}
"""Type -> how weights that are not quantized become one."""

MODEL_TYPES = ("gpt_oss",)
"""Models whose experts runtimes take in this form: transformers runs it for no other."""

EXPERTS = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
"""Ends of the names that the scheme is for."""

TAKES = f"experts of gpt_oss, stacked: names that end in {' or '.join(EXPERTS)}"
"""The same in words."""

_BLOCK = 32


def read(parts: Parts) -> None:
    """Puts one tensor in the place of blocks and scales. Raises UnsupportedError, CorruptFile."""
    for name in [name for name in parts.tensors if name.endswith("_blocks")]:
        module = name.removesuffix("_blocks")
        blocks = parts.tensors[name]
        scales = parts.tensors.get(f"{module}_scales")
        if scales is None or blocks.stored.name != "U8" or scales.stored.name not in ("U8", "F8_E8M0"):
            raise parts.refused(name, blocks.stored.name, "U8, with scales beside it")
        if len(blocks.shape) < 2:
            raise parts.refused(name, list(blocks.shape), "blocks of 16 bytes")
        *outer, n_blocks, n_bytes = blocks.shape
        parts.shape(name, blocks, (*outer, n_blocks, _BLOCK // 2))
        parts.shape(f"{module}_scales", scales, (*outer, n_blocks))
        codes = viewed(blocks, "U8", (*outer, n_blocks * n_bytes), parts, name)
        scale = Param(viewed(scales, "F8_E8M0", (*outer, n_blocks), parts, f"{module}_scales"), group=_BLOCK)
        shape = (*outer, n_blocks * _BLOCK)
        expr = Coded(codes, Packing(4), shape, "E2M1", _BLOCK, (scale,), label="MXFP4")
        parts.put(module, Transpose(Dequantize(expr)), name, f"{module}_scales")


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:  # noqa: ARG001  as every scheme's
    """Stacked experts [experts, out, in] of four-bit floats under powers of two; None of anything else."""
    own = grid.parse(expr.stored.name)
    if len(expr.shape) != 3 or own.table != "E2M1" or own.group % _BLOCK or not powers(expr, reader):
        return None
    *outer, n_cols = expr.shape
    parts: dict[str, Expression] = {
        "_blocks": Reshape(Packed(expr, Packing(4), "U8"), (*outer, n_cols // _BLOCK, _BLOCK // 2)),
        "_scales": numbers(expr, "exponent", "U8", _BLOCK),
    }
    return Written(parts, verdict(0.0), {}, 4.25)


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:  # noqa: ARG001
    """The section of config.json, as the released models have it."""
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": kept}}
