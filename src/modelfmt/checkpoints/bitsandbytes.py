"""bitsandbytes: tables of 16 values over blocks of the flattened tensor, or 8-bit integers with a scale for each row.

4 bits: weight U8 [n / 2, 1], the first of two elements in the high nibble, weight.absmax F32 (or U8, nested:
nested_quant_map[code] * nested_absmax[block / 256] + nested_offset), weight.quant_map F32 [16] and JSON in
weight.quant_state.bitsandbytes__nf4 or __fp4. 8 bits: weight I8 [out, in], SCB F32 [out]: weight = code * SCB / 127.
Source: bitsandbytes 0.50.2 functional.py (QuantState), nn/modules.py. Not here: other tables than nf4 and fp4.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from math import gcd, prod
from typing import Any

from modelfmt.checkpoints.coded import Parts, viewed
from modelfmt.checkpoints.written import Form, Written, numbers
from modelfmt.errors import UnsupportedError
from modelfmt.ir.grid import TABLES, Packing
from modelfmt.ir.ops import (
    Coded,
    Constant,
    Expression,
    Nearest,
    Nested,
    NestedCodes,
    Packed,
    Param,
    Reader,
    Reshape,
    geometry,
)
from modelfmt.quant.transcode import Policy, single, verdict
from modelfmt.storage import strict_json

__all__ = ["FORMS", "configuration", "read", "write"]

FORMS = {
    "nf4": Form("nf4", "NF4", 64, "F32", flat=True, fixed=True),
    "nf4-nested": Form("nf4-nested", "NF4", 64, "F32", flat=True, fixed=True),
    "int8": Form("int8-rows", "U8", 0, "F32"),
}
"""Type -> how weights that are not quantized become one; the first where none is named."""

_STATE = "weight.quant_state.bitsandbytes__"
_KINDS = {"nf4": "NF4", "fp4": "FP4"}
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_NESTED = 256
_BY_127 = Param(Constant(struct.pack("<f", 127.0), (1, 1), "F32"), rows=0, divide=True)
"""Stored scales of 8 bits are the largest magnitudes, for codes of 127."""


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
    if tuple(found.tolist()) != tuple(single(value) for value in TABLES[table]):
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
    params = (Param(Reshape(scale, (n_rows, 1))), _BY_127)
    return Coded(weight, Packing(8, flip=128), weight.shape, "U8", n_cols, params, 128.0, label="bitsandbytes int8")


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:  # noqa: ARG001  as every scheme's
    """What lies in this scheme already, and what was quantized for it; None of anything else."""
    if isinstance(expr, Nearest) and expr.how == "int8-rows":
        return _written_eight(Packed(expr, Packing(8, flip=128), "I8"), numbers(expr, "scale", "F32", expr.size))
    if isinstance(expr, Coded) and expr.scales[1:] == (_BY_127,) and not expr.whole:
        return _written_eight(expr.codes, expr.scales[0].input)
    if isinstance(expr, Nearest) and expr.table == "NF4":
        return _quantized(expr, reader)
    if not isinstance(expr, Coded) or expr.packing != Packing(4, order="high") or expr.offset is not None:
        return None
    kind = next((kind for kind, table in _KINDS.items() if table == expr.table), None)
    if kind is None or len(expr.scales) != 1 or not expr.scales[0].flat or expr.whole:
        return None
    (scale,) = expr.scales
    n = prod(expr.shape)
    state = {"blocksize": scale.group, "dtype": "float32", "shape": expr.shape}
    if isinstance(scale.input, Nested):
        return _written(kind, Reshape(expr.codes, (n // 2, 1)), state, _nest(scale.input))
    return _written(kind, Reshape(expr.codes, (n // 2, 1)), state, {"weight.absmax": scale.input})


def _written_eight(codes: Expression, scale: Expression) -> Written:
    parts = {
        "weight": codes,
        "SCB": Reshape(scale, (codes.shape[0],)),
        "weight_format": Constant(b"\0", (), "U8"),  # rows
    }
    return Written(parts, verdict(0.0), {"kind": "int8", "nested": False, "dtype": ""}, 8.0)


def _quantized(expr: Nearest, reader: Reader) -> Written:
    shape = expr.input.input.shape if isinstance(expr.input, Reshape) else expr.input.shape
    n_blocks = expr.shape[0]
    scales = numbers(expr, "scale", "F32", expr.size)
    dtype = {"F16": "float16", "BF16": "bfloat16"}.get(expr.input.stored.name, "float32")
    state = {"blocksize": expr.size, "dtype": dtype, "shape": shape}
    codes = Reshape(Packed(expr, Packing(4, order="high"), "U8"), (n_blocks * expr.size // 2, 1))
    if expr.how != "nf4-nested":
        return _written("nf4", codes, state, {"weight.absmax": Reshape(scales, (n_blocks,))})
    offset = _mean(scales, reader)
    made = NestedCodes(scales, dynamic_map(), _NESTED, offset)
    largest = NestedCodes(scales, dynamic_map(), _NESTED, offset, largest=True)
    nested = {
        "weight.absmax": Reshape(made, (n_blocks,)),
        "weight.nested_absmax": Reshape(largest, (largest.shape[0],)),
        "weight.nested_quant_map": _floats(dynamic_map()),
        "state": {"nested_blocksize": _NESTED, "nested_dtype": "float32", "nested_offset": offset},
    }
    return _written("nf4", codes, state, nested)


def _nest(found: Nested) -> dict[str, Any]:
    """The parts of scales that are codes themselves."""
    return {
        "weight.absmax": Reshape(found.input, (prod(found.input.shape),)),
        "weight.nested_absmax": found.scales,
        "weight.nested_quant_map": _floats(found.table),
        "state": {"nested_blocksize": found.block, "nested_dtype": "float32", "nested_offset": found.offset},
    }


def _written(kind: str, codes: Expression, state: Mapping[str, Any], scales: Mapping[str, Any]) -> Written:
    """Parts in the form of QuantState.as_dict(packed=True)."""
    nested = scales.get("state", {})
    text = json.dumps({"quant_type": kind, **state, **nested}).encode()
    parts: dict[str, Expression] = {
        "weight": codes,
        **{name: expr for name, expr in scales.items() if name != "state"},
        "weight.quant_map": _floats(TABLES[_KINDS[kind]]),
        _STATE + kind: Constant(text, (len(text),), "U8"),
    }
    block = state["blocksize"]
    settings = {"kind": kind, "nested": bool(nested), "dtype": state["dtype"]}
    return Written(parts, verdict(0.0), settings, 4 + (8 if nested else 32) / block)


def _mean(scales: Expression, reader: Reader) -> float:
    """The mean of all scales, rounded to float32: it stands in the header, so that they are looked at beforehand."""
    import numpy as np

    n, total = geometry(scales.shape, scales.stored)[0], 0.0
    for start in range(0, n, 1 << 16):
        total += float(reader.values(scales, start, min(start + (1 << 16), n)).sum(dtype=np.float64))
    return single(total / n)


@cache
def dynamic_map() -> tuple[float, ...]:
    """The 256 numbers of bitsandbytes' create_dynamic_map(signed=True), to the last bit."""
    import numpy as np

    found = [0.0, 1.0]
    for i in range(7):
        n, least = (1 << i) + 1, np.float32(0.1)
        step, k = np.float64((np.float32(1) - least) / np.float32(n - 1)), np.arange(n)
        # torch.linspace: from both ends to the middle, with one rounding for product and sum
        bounds = np.where(k < n // 2, np.float64(least) + step * k, 1.0 - step * (n - 1 - k)).astype(np.float32)
        means = (bounds[:-1] + bounds[1:]) / np.float32(2) * np.float32(10.0 ** (i - 6))
        found += [*map(float, means), *map(float, -means)]
    return tuple(sorted(found))


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json, as transformers' BitsAndBytesConfig writes it. Raises UnsupportedError (mixed-bits)
    where some matrices have 4 bits and some 8."""
    kinds = {row["kind"] for row in modules.values()}
    eight = "int8" in kinds
    if eight and len(kinds) > 1:
        raise UnsupportedError("all matrices have 4 bits, or all have 8", code="mixed-bits", found=sorted(kinds))
    own = {
        "quant_method": "bitsandbytes",
        "_load_in_4bit": not eight,
        "_load_in_8bit": eight,
        "load_in_4bit": not eight,
        "load_in_8bit": eight,
        "bnb_4bit_quant_type": "fp4" if "fp4" in kinds and "nf4" not in kinds else "nf4",
        "bnb_4bit_use_double_quant": any(row["nested"] for row in modules.values()),
        "bnb_4bit_compute_dtype": Counter(row["dtype"] for row in modules.values()).most_common(1)[0][0] or "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": [name for name in others if not name.endswith("embed_tokens")],
        "llm_int8_threshold": 6.0,
    }
    return {"quantization_config": own}


def _floats(values: Sequence[float]) -> Constant:
    return Constant(struct.pack(f"<{len(values)}f", *values), (len(values),), "F32")
