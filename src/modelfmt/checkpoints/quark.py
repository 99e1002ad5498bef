"""Quark (AMD): integers and small floats under scales, exported with its own names.

int4, uint4 by groups: weight I32 [in, out / 8] in AWQ's order of nibbles (pack_method reorder) or low first, in two's
complement for int4; weight_scale [groups, out], weight_zero_point I32 [groups, out / 8]. uint2: weight U8 [in,
out / 4], the first code highest, zeros the same or floats. int3: weight U8 [out, in * 3 / 8], a stream of bits, signed.
int8, int2: weight I8, by groups [in, out]. fp8_e4m3: weight F8_E4M3, a scale for the tensor or each row. fp4: weight U8
[out, in / 2], low nibble first, weight_scale U8 [out, in / 32], powers of two. Source: amd-quark 0.13 torch/utils/
pack.py, torch/export. Not here: floats of six bits, int4 by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, floats, matching, scale_of, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Fields, Param, Transpose

__all__ = ["read"]

_METHODS = {"reorder": "awq", "order": "low"}
_KINDS = {
    "I32": ("int4", "uint4"),
    "U8": ("fp4", "uint2", "int3"),
    "I8": ("int8", "int2"),
    "F8_E4M3": ("fp8_e4m3",),
    "F8_E5M2": ("fp8_e5m2",),
}
_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point", "k_scale", "v_scale")
_PER_WORD = 8
_HIGH_FIRST = (6, 4, 2, 0)


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for module in parts.modules("weight_scale"):
        weight = parts.need(module, "weight", *_KINDS)
        settings = _settings(parts, module)
        kind = str(settings.get("dtype")).lower()
        if kind not in _KINDS[weight.stored.name]:
            raise parts.refused(f"{module}.dtype", kind, ", ".join(_KINDS[weight.stored.name]))
        if kind in ("int4", "uint4"):
            expr = _fours(parts, module, weight, settings, kind)
        elif kind in ("uint2", "int2", "int3") or (kind == "int8" and settings.get("qscheme") == "per_group"):
            expr = _groups(parts, module, weight, settings, kind)
        else:
            expr = _bytes(parts, module, weight, kind)
        parts.put(f"{module}.weight", expr, *(f"{module}.{p}" for p in ("weight", "weight_scale", "weight_zero_point")))
    for part in _ACTIVATIONS:
        for module in parts.modules(part):
            parts.drop(module, part)


def _settings(parts: Parts, module: str) -> Mapping[str, Any]:
    """What the configuration says of a module's weight: of the layers that it names, else of all."""
    layers = parts.settings.get("layer_quant_config")
    layers = layers if isinstance(layers, dict) else {}
    named = [row for pattern, row in layers.items() if _means(str(pattern), module)]
    for found in (*named, parts.settings.get("global_quant_config")):
        weight = found.get("weight") if isinstance(found, dict) else None
        if isinstance(weight, list):  # several levels of scales
            raise parts.refused(f"{module}.weight", "several levels of scales", "one")
        if isinstance(weight, dict):
            return weight
    raise parts.refused("global_quant_config", None, f"a scheme for the weight of {module}")


def _means(pattern: str, module: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(module, pattern) or matching(pattern, module)


def _fours(parts: Parts, module: str, weight: Expression, settings: Mapping[str, Any], kind: str) -> Coded:
    export = parts.settings.get("export")
    method = str((export.get("pack_method") if isinstance(export, dict) else None) or "reorder")
    if method not in _METHODS or settings.get("qscheme") != "per_group" or len(weight.shape) != 2:
        raise parts.refused(
            f"{module}.weight", (method, settings.get("qscheme")), "a matrix, per_group, reorder or order"
        )
    n_cols, n_rows = weight.shape[0], weight.shape[1] * _PER_WORD
    scales = parts.need(module, "weight_scale", *FLOATS)
    n_groups = scales.shape[0] if scales.shape else 0
    if n_groups == 0 or n_cols % n_groups:
        raise parts.refused(f"{module}.weight_scale", list(scales.shape), f"groups of {n_cols} columns")
    group, place = n_cols // n_groups, f"{module}.weight_zero_point"
    parts.shape(f"{module}.weight_scale", scales, (n_groups, n_rows))
    order: Any = _METHODS[method]
    zeros, signed = parts.get(module, "weight_zero_point", "I32"), kind == "int4"
    zero: float | Param = 8.0
    if zeros is not None and not (signed and settings.get("symmetric")):
        if signed:
            raise parts.refused(place, "zeros of signed integers", "symmetric int4, or uint4")
        parts.shape(place, zeros, (n_groups, n_rows // _PER_WORD))
        zero = Param(zeros, turned=True, group=group, bits=4, along="rows", order=order)
    packing = Packing(4, "columns", order, flip=8 if signed else 0)
    scale = Param(scales, turned=True, group=group)
    return Coded(weight, packing, (n_rows, n_cols), "U4", group, (scale,), zero, label=f"Quark {kind}, group {group}")


def _groups(parts: Parts, module: str, weight: Expression, settings: Mapping[str, Any], kind: str) -> Coded:
    """Integers by groups of columns in bytes, whole or packed: but for int3, [in, out]."""
    place = f"{module}.weight"
    if settings.get("qscheme") != "per_group" or len(weight.shape) != 2 or 0 in weight.shape:
        raise parts.refused(place, (list(weight.shape), settings.get("qscheme")), "a matrix, per_group")
    table, zero, packing, codes = "U8", 128.0, Packing(8, flip=128), weight
    if kind == "int3":
        n_rows, n_cols = weight.shape[0], weight.shape[1] * 8 // 3
        if weight.shape[1] % 3:
            raise parts.refused(place, list(weight.shape), "bytes by 3")
        table, zero, packing = "U3", 4.0, Packing(3, flip=4)
    else:
        if kind == "uint2":
            table, zero, packing, codes = "U2", 2.0, Packing(8), Fields(weight, 2, _HIGH_FIRST)
        n_cols, n_rows = codes.shape
        codes = Transpose(codes)
    scales = parts.need(module, "weight_scale", *FLOATS)
    n_groups = scales.shape[0] if scales.shape else 0
    if n_groups == 0 or n_cols % n_groups:
        raise parts.refused(f"{module}.weight_scale", list(scales.shape), f"groups of {n_cols} columns")
    parts.shape(f"{module}.weight_scale", scales, (n_groups, n_rows))
    group, stored = n_cols // n_groups, parts.get(module, "weight_zero_point", "U8", *FLOATS)
    found: float | Param = zero
    if stored is not None and not settings.get("symmetric"):
        if kind != "uint2":
            raise parts.refused(f"{module}.weight_zero_point", kind, "uint2, or symmetric integers")
        own = Fields(stored, 2, _HIGH_FIRST) if stored.stored.name == "U8" else stored
        parts.shape(f"{module}.weight_zero_point", own, (n_groups, n_rows))
        found = Param(own, turned=True, group=group)
    scale, label = Param(scales, turned=True, group=group), f"Quark {kind}, group {group}"
    return Coded(codes, packing, (n_rows, n_cols), table, group, (scale,), found, label=label)


def _bytes(parts: Parts, module: str, weight: Expression, kind: str) -> Coded:
    place = f"{module}.weight_scale"
    scale = parts.need(module, "weight_scale", *FLOATS, "U8", "F8_E8M0")
    if scale.stored.name == "U8":
        scale = viewed(scale, "F8_E8M0", scale.shape, parts, place)
    if not weight.shape:
        raise parts.refused(f"{module}.weight", [], "a matrix")
    shape = (*weight.shape[:-1], 2 * weight.shape[-1]) if kind == "fp4" else weight.shape
    param, group = scale_of(parts, place, scale, shape, None)
    if kind == "fp4":
        return Coded(weight, Packing(4), shape, "E2M1", group, (param,), label=f"Quark fp4, group {group}")
    if kind != "int8":
        return floats(parts, module, "weight", weight, (param,), group, "Quark FP8")
    stored, zero = parts.get(module, "weight_zero_point", "I8", "I32"), 128.0
    found: float | Param = zero
    if stored is not None:
        found, _ = scale_of(parts, f"{module}.weight_zero_point", stored, shape, None)
        found = Param(found.input, rows=found.rows, group=found.group, plus=zero)
    return Coded(weight, Packing(8, flip=128), shape, "U8", group, (param,), found, label="Quark int8")
