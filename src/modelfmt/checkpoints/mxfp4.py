"""MXFP4 as gpt-oss is released: experts as blocks of 32 four-bit floats under a power of two.

NAME_blocks U8 [.., out, in / 32, 16], low nibble first, NAME_scales U8 [.., out, in / 32]: 2^(byte - 127). The dense
tensor of that name is [.., in, out]: here, too, as the transposition of the codes, which architectures that transpose
it undo. Source: OCP Microscaling Formats 1.0; transformers 5.24 integrations/mxfp4.py.
"""

from __future__ import annotations

from modelfmt.checkpoints.coded import Parts, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Dequantize, Param, Transpose

__all__ = ["read"]

_BLOCK = 32


def read(parts: Parts) -> None:
    """Puts one tensor in the place of blocks and scales. Raises UnsupportedError, CorruptFile."""
    for name in [name for name in parts.tensors if name.endswith("_blocks")]:
        module = name.removesuffix("_blocks")
        blocks = parts.tensors[name]
        scales = parts.tensors.get(f"{module}_scales")
        if scales is None or blocks.stored.name != "U8" or scales.stored.name not in ("U8", "F8_E8M0"):
            raise parts.refused(name, blocks.stored.name, "U8, with scales beside it")
        *outer, n_blocks, n_bytes = blocks.shape
        parts.shape(name, blocks, (*outer, n_blocks, _BLOCK // 2))
        parts.shape(f"{module}_scales", scales, (*outer, n_blocks))
        codes = viewed(blocks, "U8", (*outer, n_blocks * n_bytes), parts, name)
        scale = Param(viewed(scales, "F8_E8M0", (*outer, n_blocks), parts, f"{module}_scales"), group=_BLOCK)
        shape = (*outer, n_blocks * _BLOCK)
        expr = Coded(codes, Packing(4), shape, "E2M1", _BLOCK, (scale,), label="MXFP4")
        parts.put(module, Transpose(Dequantize(expr)), name, f"{module}_scales")
