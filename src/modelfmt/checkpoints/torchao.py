"""torchao's tensors in safetensors: MODULE._weight_qdata and its kin, what they are as JSON in the files' metadata.

Int8Tensor: qdata I8 [out, in], scale [out, 1] or [1, 1]. IntxUnpackedToInt8Tensor: codes of fewer bits in I8, scale and
zero_point [out, groups]. Int4Tensor: qdata [out, in / 2], low nibble first, signed; scale and zero_point [groups, out],
and the zero point is added: weight = code * scale + zero_point. Float8Tensor: qdata F8, a scale for the tensor, the row
or a block. Source: torchao 0.18 prototype/safetensors, quantization/quantize_/workflows; mslk's pack_int4 and
int4_row_quantize_zp. Not here: the tilings of kernels, MX and NVFP4 tensors, pickled subclasses of older versions.
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, floats, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Param, Reshape
from modelfmt.storage import strict_json

__all__ = ["read"]

_INTEGERS = {"Int8Tensor", "IntxUnpackedToInt8Tensor"}
_KINDS = (*sorted(_INTEGERS), "Int4Tensor", "Float8Tensor")


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each one. Raises UnsupportedError, CorruptFile."""
    found = parts.metadata.get("tensor_names")
    names = strict_json.parse(found.encode(), path=parts.path) if isinstance(found, str) else None
    if not isinstance(names, list):
        raise parts.refused("tensor_names", "no metadata of torchao in the files", "safetensors that torchao flattened")
    for name in names:
        text = parts.metadata.get(name) if isinstance(name, str) else None
        row = strict_json.parse(text.encode(), path=parts.path) if isinstance(text, str) else None
        if not isinstance(row, dict):
            raise parts.refused("tensor_names", name, "names that the metadata describes")
        if row.get("_type") != "Tensor":
            _tensor(parts, name, row)


def _tensor(parts: Parts, name: str, row: dict[str, Any]) -> None:
    module, _, own = name.rpartition(".")
    kind, data = row.get("_type"), row.get("_data")
    block = data.get("block_size") if isinstance(data, dict) else None
    if kind not in _KINDS:
        raise parts.refused(name, kind, ", ".join(_KINDS))
    if not isinstance(block, list) or not all(isinstance(n, int) and n > 0 for n in block):
        raise parts.refused(name, block, "the size of a block")
    prefix = f"_{own}_"
    if parts.get(module, f"{prefix}act_pre_scale") is not None:
        raise parts.refused(name, "a scale for the activations before", "none")
    make = _four if kind == "Int4Tensor" else _float if kind == "Float8Tensor" else _integers
    expr = make(parts, module, prefix, block)
    suffixes = ("qdata", "scale", "zero_point", "act_quant_scale", "act_quant_zero_point")
    parts.put(name, expr, *(f"{module}.{prefix}{suffix}" for suffix in suffixes))


def _param(
    parts: Parts, place: str, expr: Expression, shape: tuple[int, ...], block: list[int], **more: Any
) -> tuple[Param, int]:
    """The numbers of blocks [rows, columns] of a matrix, and the columns that share one."""
    n_rows, n_cols = shape
    high, wide = (min(size, n) for size, n in zip(block, shape, strict=True))
    grid = (-(-n_rows // high), -(-n_cols // wide))
    if prod(expr.shape) != prod(grid):
        parts.shape(place, expr, grid)
    rows = 0 if grid[0] == 1 and n_rows > 1 else high
    param = Param(Reshape(expr, grid), rows=rows, group=0 if grid[1] == 1 else wide, **more)
    return param, gcd(wide, n_cols)


def _matrix(parts: Parts, place: str, expr: Expression, block: list[int]) -> None:
    if len(expr.shape) != 2 or len(block) != 2:
        raise parts.refused(place, (list(expr.shape), block), "a matrix")


def _integers(parts: Parts, module: str, prefix: str, block: list[int]) -> Coded:
    place = f"{module}.{prefix}qdata"
    weight = parts.need(module, f"{prefix}qdata", "I8")
    _matrix(parts, place, weight, block)
    shape = weight.shape
    scale, group = _param(parts, f"{module}.{prefix}scale", parts.need(module, f"{prefix}scale", *FLOATS), shape, block)
    stored, zero = parts.get(module, f"{prefix}zero_point", "I8", "I32", *FLOATS), 128.0
    found: float | Param = zero
    if stored is not None:
        found, _ = _param(parts, f"{module}.{prefix}zero_point", stored, shape, block, plus=zero)
    label = f"torchao int8, group {group}"
    return Coded(weight, Packing(8, flip=128), shape, "U8", group, (scale,), found, label=label)


def _four(parts: Parts, module: str, prefix: str, block: list[int]) -> Coded:
    place = f"{module}.{prefix}qdata"
    weight = parts.need(module, f"{prefix}qdata", "U8", "I8")
    _matrix(parts, place, weight, block)
    n_rows, n_bytes = weight.shape
    n_cols, group = 2 * n_bytes, min(block[1], 2 * n_bytes)
    if block[0] != 1 or n_cols % group:
        raise parts.refused(place, block, f"groups of a row of {n_cols}")
    both = [parts.need(module, f"{prefix}{name}", *FLOATS) for name in ("scale", "zero_point")]
    for name, expr in zip(("scale", "zero_point"), both, strict=True):
        parts.shape(f"{module}.{prefix}{name}", expr, (n_cols // group, n_rows))
    scale, offset = (Param(expr, turned=True, group=group) for expr in both)
    codes = viewed(weight, "U8", weight.shape, parts, place)
    label, shape = f"torchao int4, group {group}", (n_rows, n_cols)
    return Coded(codes, Packing(4, flip=8), shape, "U4", group, (scale,), 8.0, offset, label=label)


def _float(parts: Parts, module: str, prefix: str, block: list[int]) -> Coded:
    weight = parts.need(module, f"{prefix}qdata", "F8_E4M3", "F8_E5M2")
    _matrix(parts, f"{module}.{prefix}qdata", weight, block)
    scale = parts.need(module, f"{prefix}scale", *FLOATS)
    param, group = _param(parts, f"{module}.{prefix}scale", scale, weight.shape, block)
    return floats(parts, module, f"{prefix}qdata", weight, (param,), group, "torchao FP8")
