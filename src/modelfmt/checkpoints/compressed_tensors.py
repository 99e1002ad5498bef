"""compressed-tensors: groups of modules, each with a scheme, in the formats that llm-compressor writes.

pack-quantized: weight_packed I32 [out, words], codes of 1 to 8 bits with half of the range added, weight_scale [out,
groups], weight_zero_point I32 packed along the outputs. Widths that are no power of two lie dense (0.20), or as many as
fit to a word (0.9 and before): the number of words tells. int-quantized, float-quantized, naive-quantized: weight I8 or
F8_E4M3 and weight_scale. nvfp4-pack-quantized: weight_packed U8, weight_scale F8_E4M3, weight_global_scale, by which is
divided. mxfp4-pack-quantized: weight_packed U8, weight_scale U8 (a power of two). mxfp8-quantized: the same with
F8_E4M3. Source: compressed-tensors 0.20.0 compressors/, quantization/; 0.9.4 pack_quantized.py. Not here: the sparse
formats, marlin-24, transforms.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

from modelfmt.checkpoints.act_order import in_storage_order
from modelfmt.checkpoints.coded import FLOATS, Parts, block_of, floats, group_index, matching, scale_of, viewed
from modelfmt.checkpoints.fp8 import blocks
from modelfmt.checkpoints.written import LEAST, Form, Written, numbers
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Expression, Nearest, Packed, Param, Reader, Reshape
from modelfmt.quant.transcode import Policy, e4m3_scales, powers, rounding, single, verdict, without_tensor_scale, zeros

__all__ = ["FORMS", "configuration", "read", "whole_for", "write"]

FORMS = {
    "int4": Form("symmetric", "U4", 128, ""),
    "int4-asymmetric": Form("asymmetric", "U4", 128, ""),
    "int8": Form("symmetric", "U8", 128, ""),
    "fp8": Form("e4m3", "E4M3", 0, ""),
    "fp8-block": Form("e4m3", "E4M3", 128, "F32", rows=128),
    "mxfp4": Form("MXFP4", "E2M1", 32, fixed=True),
    "mxfp8": Form("mxfp8", "E4M3", 32, "F32", fixed=True),
    "nvfp4": Form("nvfp4", "E2M1", 16, "F32", fixed=True),
}
"""Type -> how weights that are not quantized become one; the first where none is named."""

_FORMATS = (
    *("dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision"),
)
_ACT_ORDER = "act-order (weight_g_idx) is read by compressed-tensors up to 0.20.0: GPTQ is the scheme that keeps it"
_PARTS = ("weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_global_scale")
_ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
_CACHE = ("k_scale", "v_scale", "k_zero_point", "v_zero_point")


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    _check(parts)
    for module in parts.modules("weight_scale"):
        scheme = _scheme(parts, module)
        beside = parts.get(module, "weight_packed") is not None  # then a weight is another one: `whole` refuses two
        names = [part for part in (*_PARTS, "weight_g_idx") if not (beside and part == "weight")]
        expr = _module(parts, module, scheme)
        parts.put(f"{module}.weight", expr, *(f"{module}.{part}" for part in names))
    for part in (*_ACTIVATIONS, *_CACHE):
        for module in parts.modules(part):
            parts.drop(module, part)


def _check(parts: Parts) -> None:
    if parts.settings.get("transform_config"):
        raise parts.refused("transform_config", "transforms of weights", "none")
    sparsity = parts.settings.get("sparsity_config")
    sparse = sparsity.get("format") if isinstance(sparsity, dict) else sparsity
    if sparse not in (None, "dense"):
        raise parts.refused("sparsity_config", sparse, "dense")
    groups = parts.settings.get("config_groups")
    groups = groups if isinstance(groups, dict) else {}
    named = [parts.settings.get("format"), *(g.get("format") for g in groups.values() if isinstance(g, dict))]
    for found in named:
        if found is not None and found not in _FORMATS:
            raise parts.refused("format", found, ", ".join(_FORMATS))


def _scheme(parts: Parts, module: str) -> Mapping[str, Any]:
    """The weights' arguments of the group that a module belongs to: one that names it, else one of a class."""
    groups = parts.settings.get("config_groups")
    rows = [row for row in groups.values() if isinstance(row, dict)] if isinstance(groups, dict) else []
    named = [row for row in rows if any(matching(target, module) for target in _texts(row.get("targets")))]
    found = next(iter(named or rows), {})
    weights = found.get("weights")
    if not isinstance(weights, dict):
        raise parts.refused("config_groups", found.get("weights"), f"a scheme for the weights of {module}")
    return {**weights, "format": found.get("format") or parts.settings.get("format")}


def _texts(found: object) -> list[str]:
    return [str(one) for one in found] if isinstance(found, list) else []


def _module(parts: Parts, module: str, scheme: Mapping[str, Any]) -> Coded:
    packed = parts.get(module, "weight_packed")
    bits = scheme.get("num_bits")
    if packed is None:
        weight = parts.need(module, "weight", "I8", "F8_E4M3", "F8_E5M2")
        return _bytes(parts, module, weight, scheme)
    if scheme.get("type") == "float":
        if bits != 4:
            raise parts.refused("num_bits", bits, "4, for packed floats")
        return _fours(parts, module, packed)
    if not isinstance(bits, int) or not 1 <= bits <= 8:
        raise parts.refused("num_bits", bits, "1 to 8")
    return _packed(parts, module, packed, bits)


def _packed(parts: Parts, module: str, packed: Expression, bits: int) -> Coded:
    packed = parts.need(module, "weight_packed", "I32")
    shape = tuple(
        int(n) for n in parts.array(parts.need(module, "weight_shape", "I64", "I32"), f"{module}.weight_shape")
    )
    if len(shape) < 2 or min(shape) <= 0 or max(shape) >= 1 << 31:
        raise parts.refused(f"{module}.weight_shape", list(shape), "a matrix")
    *outer, n_cols = shape
    dense, padded = -(-n_cols * bits // 32), -(-n_cols // (32 // bits))
    parts.shape(f"{module}.weight_packed", packed, (*outer, dense), (*outer, padded))
    is_padded = packed.shape[-1] != dense
    scale, group = scale_of(parts, f"{module}.weight_scale", parts.need(module, "weight_scale", *FLOATS), shape, None)
    half = 1 << (bits - 1)
    zero: float | Param = float(half)
    zeros = parts.get(module, "weight_zero_point")
    if zeros is not None:
        zero = _zero(parts, module, zeros, shape, group, bits, padded=is_padded)
    index = parts.get(module, "weight_g_idx", "I32")
    if index is not None:
        parts.shape(f"{module}.weight_g_idx", index, (n_cols,))
        index = group_index(parts, f"{module}.weight_g_idx", index, n_cols // group, group)
    label = f"compressed-tensors int{bits}, group {group}" + (", act-order" if index is not None else "")
    own = group if index is None else 1
    packing = Packing(bits, "padded" if is_padded else "rows")
    if index is not None and is_padded:
        raise parts.refused(f"{module}.weight_packed", "padded words with weight_g_idx", "dense words")
    return Coded(packed, packing, shape, f"U{bits}", own, (scale,), zero, index=index, label=label)


def _zero(
    parts: Parts, module: str, zeros: Expression, shape: tuple[int, ...], group: int, bits: int, padded: bool = False
) -> Param:
    """Zeros as packed as the codes, along the rows, or plain bytes."""
    n_rows, n_cols = shape[-2:]
    place, n_groups = f"{module}.weight_zero_point", n_cols // group
    own = 0 if n_groups == 1 else group
    if zeros.stored.name == "I8":
        parts.shape(place, zeros, (n_rows, n_groups), (1,), ())
        half = float(1 << (bits - 1))
        if zeros.shape in ((1,), ()):
            return Param(Reshape(zeros, (1, 1)), rows=0, plus=half)
        return Param(zeros, group=own, plus=half)
    zeros = parts.need(module, "weight_zero_point", "I32")
    n_words = -(-n_rows // (32 // bits)) if padded else -(-n_rows * bits // 32)
    parts.shape(place, zeros, (n_words, n_groups))
    if len(shape) != 2:
        raise parts.refused(place, list(shape), "a matrix")
    return Param(zeros, group=own, bits=bits, along="rows", padded=padded)


def _bytes(parts: Parts, module: str, weight: Expression, scheme: Mapping[str, Any]) -> Coded:
    """A weight of whole bytes: integers or floats."""
    scale = parts.need(module, "weight_scale", *FLOATS, "U8", "F8_E8M0")
    place = f"{module}.weight_scale"
    block = scheme.get("block_structure")
    pair = block_of(block)
    if scale.stored.name == "U8":
        scale = viewed(scale, "F8_E8M0", scale.shape, parts, place)
    param, group = scale_of(parts, place, scale, weight.shape, pair)
    if weight.stored.name != "I8":
        return floats(parts, module, "weight", weight, (param,), group, f"compressed-tensors FP8{_of(group, weight)}")
    zeros, zero = parts.get(module, "weight_zero_point", "I8"), 128.0
    label = f"compressed-tensors int8{_of(group, weight)}"
    packing = Packing(8, flip=128)
    if zeros is None:
        return Coded(weight, packing, weight.shape, "U8", group, (param,), zero, label=label)
    shifted = _zero(parts, module, zeros, weight.shape, group, 8)
    return Coded(weight, packing, weight.shape, "U8", group, (param,), shifted, label=label)


def _of(group: int, weight: Expression) -> str:
    return "" if group == weight.shape[-1] else f", group {group}"


def _fours(parts: Parts, module: str, packed: Expression) -> Coded:
    packed = parts.need(module, "weight_packed", "U8")
    if not packed.shape:
        raise parts.refused(f"{module}.weight_packed", [], "a matrix")
    *outer, n_bytes = packed.shape
    shape, place = (*outer, 2 * n_bytes), f"{module}.weight_scale"
    scale = parts.need(module, "weight_scale", "U8", "F8_E8M0", "F8_E4M3")
    outermost = parts.get(module, "weight_global_scale", "F32")
    is_mx = outermost is None and scale.stored.name != "F8_E4M3"
    if is_mx:
        scale = viewed(scale, "F8_E8M0", scale.shape, parts, place)
    param, group = scale_of(parts, place, scale, shape, None)
    params: tuple[Param, ...] = (param,)
    if outermost is not None:
        parts.shape(f"{module}.weight_global_scale", outermost, (1,), ())
        params = (param, Param(Reshape(outermost, (1, 1)), rows=0, divide=True))
    label = f"compressed-tensors {'MXFP4' if is_mx else 'NVFP4'}, group {group}"
    return Coded(packed, Packing(4), shape, "E2M1", gcd(group, shape[-1]), params, label=label)


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:
    """The smallest form that a policy allows of a grid, [out, in]; None where there is none.

    Integers with whole zeros, packed; 8-bit floats; four-bit floats under powers of two or E4M3 numbers. Other scales
    take the first of float16, bfloat16 and float32 that holds them as exactly as asked.
    """
    expr, order = in_storage_order(expr)
    own = grid.parse(expr.stored.name)
    if len(expr.shape) != 2 or own.group < LEAST:
        return None
    if own.table == "E2M1":
        return _written_mxfp4(expr, own, reader) or _written_nvfp4(expr, reader, wanted)
    if (in_blocks := blocks(expr)) is not None:
        return _written_blocks(*in_blocks)
    if own.table == "E4M3" and own.group != expr.shape[1] and own.group % 32 == 0 and powers(expr, reader):
        return _written_mxfp8(expr)
    if not own.integer and own.table != "E4M3":
        return None
    found = [_form(expr, own, reader, encoding, order) for encoding in ("F16", "BF16", "F32")]
    usable = [row for row in found if row is not None]
    exact = (row for row in usable if row.verdict.kind == "exact")
    near = (row for row in usable if wanted.takes(row.verdict))
    return next(exact, None) or next(near, None) if wanted.name == "auto" else next(near, None)


def _form(expr: Expression, own: grid.Grid, reader: Reader, encoding: str, order: Expression | None) -> Written | None:
    n_rows, n_cols = expr.shape
    group = own.group
    settings: dict[str, Any] = {"group_size": None, "strategy": "channel", "symmetric": True}
    if group != n_cols:
        settings |= {"group_size": group, "strategy": "group"}
    error = rounding(expr, reader, scale=encoding)
    scale = numbers(expr, "scale", encoding, group)
    if own.table == "E4M3":
        settings |= {"num_bits": 8, "type": "float", "format": "float-quantized"}
        parts: dict[str, Expression] = {"weight": Packed(expr, Packing(8), "F8_E4M3"), "weight_scale": scale}
        return Written(parts, verdict(error), settings, 8.0) if group == n_cols else None
    bits, (low, high) = grid.INTEGERS[own.table], zeros(expr, reader)
    if n_cols * bits % 32 or not 0 <= low <= high <= own.limit:
        return None
    half = 1 << (bits - 1)
    shape = _integers((n_rows, n_cols))
    parts = {"weight_packed": Packed(expr, Packing(bits), "I32"), "weight_scale": scale, "weight_shape": shape}
    settings |= {"num_bits": bits, "type": "int", "format": "pack-quantized", "symmetric": low == high == half}
    if not settings["symmetric"]:
        words = (-(-n_rows * bits // 32), n_cols // group)
        parts["weight_zero_point"] = numbers(expr, "zero", "I32", group, bits=bits, along="rows", shape=words)
    if order is not None:
        settings["actorder"] = "group"
        parts["weight_g_idx"] = Reshape(order, (n_cols,))
    size = bits + 8 * ENCODINGS[encoding].block_bytes / group
    return Written(parts, verdict(error), settings, size, "" if order is None else _ACT_ORDER)


def _written_mxfp4(expr: Expression, own: grid.Grid, reader: Reader) -> Written | None:
    if own.group % 32 or not powers(expr, reader):
        return None
    scale = numbers(expr, "exponent", "U8", 32)
    parts: dict[str, Expression] = {"weight_packed": Packed(expr, Packing(4), "U8"), "weight_scale": scale}
    settings = {"num_bits": 4, "type": "float", "group_size": 32, "strategy": "group", "symmetric": True}
    return Written(parts, verdict(0.0), {**settings, "format": "mxfp4-pack-quantized"}, 4.25)


def _written_mxfp8(expr: Expression) -> Written:
    parts: dict[str, Expression] = {
        "weight": Packed(expr, Packing(8), "F8_E4M3"),
        "weight_scale": numbers(expr, "exponent", "U8", 32),
    }
    settings = {"num_bits": 8, "type": "float", "group_size": 32, "strategy": "group", "symmetric": True}
    settings |= {"scale_dtype": "torch.uint8", "format": "mxfp8-quantized"}
    return Written(parts, verdict(0.0), settings, 8.25)


def _written_nvfp4(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:
    """Codes and scales as they are; the scale of the whole as its reciprocal, where it is not one already."""
    if isinstance(expr, Nearest):
        return _nvfp4(Packed(expr, Packing(4), "U8"), numbers(expr, "scale", "F8_E4M3", 16), expr.whole, 0.0)
    scale_of_all: Expression | None
    divides, cost = False, 0.0
    if isinstance(expr, Coded) and len(expr.scales) == 2 and expr.scales[0].input.stored.name == "F8_E4M3":
        whole = expr.scales[1]
        if whole.rows or whole.group:
            return None
        codes, scale, scale_of_all, divides = expr.codes, expr.scales[0].input, whole.input, whole.divide
    else:
        inner, scale_of_all, cost = without_tensor_scale(expr, reader)
        if grid.parse(expr.stored.name).group % 16 or not e4m3_scales(inner, reader):
            return None
        codes, scale = Packed(inner, Packing(4), "U8"), numbers(inner, "scale", "F8_E4M3", 16)
    given = 1.0 if scale_of_all is None else float(reader.values(scale_of_all, 0, 1)[0, 0])
    if not 0.0 < given < float("inf"):
        return None
    inverse = given if divides else single(1.0 / given)
    if inverse == float("inf"):
        return None
    found = _nvfp4(codes, scale, inverse, 0.0 if divides else abs(inverse * given - 1.0) + cost)
    return found if wanted.takes(found.verdict) or wanted.name == "auto" else None


def _nvfp4(codes: Expression, scale: Expression, divisor: float, error: float) -> Written:
    parts = {
        "weight_packed": codes,
        "weight_scale": scale,
        "weight_global_scale": Constant(struct.pack("<f", divisor), (1,), "F32"),
    }
    settings = {"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group", "symmetric": True}
    return Written(parts, verdict(error), {**settings, "format": "nvfp4-pack-quantized"}, 4.5)


def whole_for(largest: float) -> float:
    """The scale of a tensor of NVFP4 whose largest magnitude this is, which makes it 448 * 6; float32, rounded as torch
    divides a number by a tensor."""
    found = single(2688.0 * single(1.0 / max(largest, 2.0**-126)))
    return found if found < float("inf") else 1.0


def _written_blocks(codes: Expression, scale: Expression, block: tuple[int, int]) -> Written:
    """8-bit floats under blocks of rows and columns: other names for the same bytes."""
    settings = {"num_bits": 8, "type": "float", "group_size": None, "strategy": "block", "symmetric": True}
    settings |= {"block_structure": list(block), "format": "float-quantized"}
    return Written({"weight": codes, "weight_scale": scale}, verdict(0.0), settings, 8.0)


def _integers(values: tuple[int, ...]) -> Constant:
    """A small tensor of integers."""
    return Constant(b"".join(value.to_bytes(8, "little") for value in values), (len(values),), "I64")


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json: a group for each scheme; of several, with the names of their modules."""
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, settings in modules.items():
        schemes.setdefault(repr(sorted(settings.items())), (dict(settings), []))[1].append(name)
    groups, formats = {}, []
    for number, (weights, names) in enumerate(schemes.values()):
        formats.append(weights.pop("format"))
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(schemes) == 1 else names,
            "weights": {**weights, "dynamic": False},
            "input_activations": None,
            "output_activations": None,
            **({"format": formats[-1]} if len(set(formats)) > 1 or len(schemes) > 1 else {}),
        }
    own = {
        "quant_method": "compressed-tensors",
        "format": formats[0] if len(set(formats)) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(others),
    }
    return {"quantization_config": own}
