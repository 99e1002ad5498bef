"""torchao's tensors in safetensors: MODULE._weight_qdata and its kin, what they are as JSON in the files' metadata.

Int8Tensor: qdata I8 [out, in], scale [out, 1] or [1, 1]. IntxUnpackedToInt8Tensor: codes of fewer bits in I8, scale and
zero_point [out, groups]. Int4Tensor: qdata [out, in / 2], low nibble first, signed; scale and zero_point [groups, out],
and the zero point is added: weight = code * scale + zero_point. Float8Tensor: qdata F8, a scale for the tensor, the row
or a block. MXTensor: qdata F8 or two four-bit floats in a byte, low first, powers of two for 32 columns. NVFP4Tensor:
the same bytes, F8_E4M3 for 16 columns times per_tensor_scale. Scales of both may be swizzled: tiles of 128 x 4, as
cuBLAS wants them. Source: torchao 0.18 prototype/safetensors, prototype/mx_formats, quantization/quantize_/workflows;
mslk's pack_int4 and int4_row_quantize_zp. Not here: the tilings of kernels, six-bit floats, pickled subclasses of older
versions.
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, floats, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Param, Reshape, Slice, Strided
from modelfmt.storage import strict_json

__all__ = ["read"]

_INTEGERS = {"Int8Tensor", "IntxUnpackedToInt8Tensor"}
_SMALL = {"MXTensor": ("F8_E8M0", "U8"), "NVFP4Tensor": ("F8_E4M3",)}
"""Kinds with one number as the size of their blocks -> types of their scales."""

_KINDS = (*sorted(_INTEGERS), "Int4Tensor", "Float8Tensor", *_SMALL)
_TILE = (128, 4)


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
    prefix = f"_{own}_"
    suffixes = ("qdata", "scale", "zero_point", "per_tensor_scale")
    of_activations = ("act_quant_scale", "act_quant_zero_point", "act_per_tensor_scale")
    taken = [f"{module}.{prefix}{suffix}" for suffix in (*suffixes, *of_activations)]
    if parts.get(module, f"{prefix}act_pre_scale") is not None:
        raise parts.refused(name, "a scale for the activations before", "none")
    if kind in _SMALL:
        parts.put(name, _small(parts, module, prefix, data if isinstance(data, dict) else {}, kind), *taken)
        return
    if not isinstance(block, list) or not all(isinstance(n, int) and n > 0 for n in block):
        raise parts.refused(name, block, "the size of a block")
    make = _four if kind == "Int4Tensor" else _float if kind == "Float8Tensor" else _integers
    expr = make(parts, module, prefix, block)
    parts.put(name, expr, *taken)


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


def _small(parts: Parts, module: str, prefix: str, data: dict[str, Any], kind: str) -> Coded:
    """MX and NVFP4: small floats, a scale for each few columns."""
    place, group = f"{module}.{prefix}qdata", data.get("block_size")
    weight = parts.need(module, f"{prefix}qdata", "U8", "F8_E4M3", "F8_E5M2", "F4_E2M1")
    if not isinstance(group, int) or group not in (16, 32) or len(weight.shape) != 2 or 0 in weight.shape:
        raise parts.refused(place, (list(weight.shape), group), "a matrix, blocks of 16 or 32 columns")
    element = data.get("elem_dtype")
    four = kind == "NVFP4Tensor" or (isinstance(element, dict) and "float4" in str(element.get("_data")))
    if four and weight.stored.name == "F4_E2M1":
        weight = viewed(weight, "U8", (weight.shape[0], weight.shape[1] // 2), parts, place)
    if four != (weight.stored.name == "U8"):
        raise parts.refused(place, (weight.stored.name, element), "floats of four or eight bits")
    n_rows, n_cols = weight.shape[0], weight.shape[1] * (2 if four else 1)
    if n_cols % group:
        raise parts.refused(place, [n_rows, n_cols], f"columns by {group}")
    own = Param(_scales(parts, module, prefix, (n_rows, n_cols // group), data, kind), group=group)
    scales: tuple[Param, ...] = (own,)
    whole = parts.get(module, f"{prefix}per_tensor_scale", *FLOATS)
    if whole is not None:
        parts.shape(f"{module}.{prefix}per_tensor_scale", whole, (), (1,))
        scales += (Param(Reshape(whole, (1, 1)), rows=0),)
    label = f"torchao {kind.removesuffix('Tensor')}, group {group}"
    if four:
        return Coded(weight, Packing(4), (n_rows, n_cols), "E2M1", group, scales, label=label)
    return floats(parts, module, f"{prefix}qdata", weight, scales, group, label)


def _scales(
    parts: Parts, module: str, prefix: str, shape: tuple[int, int], data: dict[str, Any], kind: str
) -> Expression:
    """Scales [rows, groups], in order."""
    place, (n_rows, n_groups) = f"{module}.{prefix}scale", shape
    scale = parts.need(module, f"{prefix}scale", *_SMALL[kind])
    if scale.stored.name == "U8":
        scale = viewed(scale, "F8_E8M0", scale.shape, parts, place)
    if not data.get("is_swizzled_scales"):
        if prod(scale.shape) != n_rows * n_groups:
            parts.shape(place, scale, shape)
        return Reshape(scale, shape)
    down, across = (-(-size // tile) for size, tile in zip(shape, _TILE, strict=True))
    if prod(scale.shape) != down * across * prod(_TILE):
        parts.shape(place, scale, (32 * down, 16 * across))
    flat = Reshape(scale, (prod(scale.shape), 1))
    lines = Strided(flat, 0, (down, 4, 32, across, 4), (across * 512, 4, 16, 512, 1))
    whole = Slice(Reshape(lines, (down * 128, across * 4, 1)), 0, 0, n_rows)
    return Reshape(Slice(whole, 1, 0, n_groups), shape)
