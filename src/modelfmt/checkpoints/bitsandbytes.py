"""bitsandbytes: tables of 16 values over blocks of the flattened tensor, or 8-bit integers with a scale for each row.

4 bits: weight U8 [n / 2, 1], the first of two elements in the high nibble, weight.absmax F32 (or U8, nested:
nested_quant_map[code] * nested_absmax[block / 256] + nested_offset), weight.quant_map F32 [16] and JSON in
weight.quant_state.bitsandbytes__nf4 or __fp4. 8 bits: weight I8 [out, in], SCB F32 [out]: weight = code * SCB / 127.
Source: bitsandbytes 0.50.2 functional.py (QuantState), nn/modules.py. Not here: other tables than nf4 and fp4.
"""

from __future__ import annotations

import struct
from math import gcd, prod
from typing import Any

from modelfmt.checkpoints.coded import Parts, viewed
from modelfmt.ir.grid import TABLES, Packing
from modelfmt.ir.ops import Coded, Constant, Expression, Nested, Param, Reshape
from modelfmt.storage import strict_json

__all__ = ["read"]

_STATE = "weight.quant_state.bitsandbytes__"
_KINDS = {"nf4": "NF4", "fp4": "FP4"}
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_NESTED = 256


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for kind, table in _KINDS.items():
        for module in parts.modules(_STATE + kind):
            expr = _four(parts, module, kind, table)
            names = ("weight", _STATE + kind, *(f"weight.{part}" for part in _PARTS))
            parts.put(f"{module}.weight", expr, *(f"{module}.{name}" for name in names))
    for module in parts.modules("SCB"):
        expr = _eight(parts, module)
        parts.put(f"{module}.weight", expr, *(f"{module}.{name}" for name in ("weight", "SCB", "weight_format")))


def _four(parts: Parts, module: str, kind: str, table: str) -> Coded:
    place = f"{module}.{_STATE}{kind}"
    state = strict_json.parse(parts.array(parts.need(module, _STATE + kind, "U8"), place).tobytes(), path=place)
    shape, block = _shape(parts, place, state)
    weight = viewed(parts.need(module, "weight"), "U8", (*shape[:-1], shape[-1] // 2), parts, f"{module}.weight")
    found = parts.array(parts.need(module, "weight.quant_map", "F32"), f"{module}.weight.quant_map")
    if tuple(found.tolist()) != tuple(_single(value) for value in TABLES[table]):
        raise parts.refused(f"{module}.weight.quant_map", "another table", kind)
    n_blocks = -(-prod(shape) // block)
    scale: Expression = parts.need(module, "weight.absmax", "F32", "U8")
    parts.shape(f"{module}.weight.absmax", scale, (n_blocks,))
    nested = scale.stored.name == "U8"
    if nested:
        scale = _nested(parts, module, scale, state, n_blocks)
    label = f"bitsandbytes {kind}, blocks of {block}" + (", nested scales" if nested else "")
    param = Param(scale, group=block, flat=True)
    group = gcd(block, shape[-1])
    return Coded(weight, Packing(4, order="high"), shape, table, group, (param,), label=label)


def _shape(parts: Parts, place: str, state: Any) -> tuple[tuple[int, ...], int]:
    shape = state.get("shape") if isinstance(state, dict) else None
    block = state.get("blocksize") if isinstance(state, dict) else None
    if not isinstance(shape, list) or len(shape) < 2 or not all(isinstance(n, int) and 0 < n < 1 << 31 for n in shape):
        raise parts.refused(place, shape, "the shape of a matrix")
    if not isinstance(block, int) or not 0 < block < 1 << 20 or shape[-1] % 2:
        raise parts.refused(place, (block, shape), "a block size, and an even number of columns")
    return tuple(shape), block


def _nested(parts: Parts, module: str, codes: Expression, state: dict[str, Any], n_blocks: int) -> Expression:
    scales = parts.need(module, "weight.nested_absmax", "F32")
    table = parts.need(module, "weight.nested_quant_map", "F32")
    size, offset = state.get("nested_blocksize", _NESTED), state.get("nested_offset", 0.0)
    parts.shape(f"{module}.weight.nested_quant_map", table, (256,))
    if not isinstance(size, int) or size <= 0 or not isinstance(offset, int | float):
        raise parts.refused(f"{module}.{_STATE}", (size, offset), "a nested block size and offset")
    parts.shape(f"{module}.weight.nested_absmax", scales, (-(-n_blocks // size),))
    entries = tuple(float(value) for value in parts.array(table, f"{module}.weight.nested_quant_map"))
    return Nested(Reshape(codes, (n_blocks, 1)), scales, entries, size, float(offset))


def _eight(parts: Parts, module: str) -> Coded:
    weight, scale = parts.need(module, "weight", "I8"), parts.need(module, "SCB", "F32")
    if len(weight.shape) != 2:
        raise parts.refused(f"{module}.weight", list(weight.shape), "a matrix")
    n_rows, n_cols = weight.shape
    parts.shape(f"{module}.SCB", scale, (n_rows,))
    layout = parts.get(module, "weight_format", "U8")
    if layout is not None and parts.array(layout, f"{module}.weight_format").any():
        raise parts.refused(f"{module}.weight_format", "a tiled layout", "rows")
    whole = Param(Constant(struct.pack("<f", 127.0), (1, 1), "F32"), rows=0, divide=True)
    params = (Param(Reshape(scale, (n_rows, 1))), whole)
    return Coded(weight, Packing(8, flip=128), weight.shape, "U8", n_cols, params, 128.0, label="bitsandbytes int8")


def _single(value: float) -> float:
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found
