"""MLX: one stream of bits for each row, with scale and bias for each group, or small floats under shared scales.

affine: weight U32 [out, in * bits / 32], scales and biases [out, in / group]: weight = scale * code + bias. mxfp4,
mxfp8: scales U8, powers of two, no biases; nvfp4: scales U8, e4m3. config.json has `quantization` with group_size, bits
and mode, and modules that differ by their path. Source: mlx 0.32.4 ops.quantize, mlx-lm 0.32.2 utils.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, viewed
from modelfmt.checkpoints.written import Form, Written, group_of, numbers
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.grid import INTEGERS, Packing
from modelfmt.ir.ops import Coded, Expression, Packed, Param, Reader, Reinterpret
from modelfmt.quant.transcode import Policy, e4m3_scales, powers, rounding, verdict, zeros

__all__ = ["FORMS", "MODES", "adapted", "configuration", "read", "write"]

MODES = {"affine": ("", 0), "mxfp4": ("E2M1", 4), "mxfp8": ("E4M3", 8), "nvfp4": ("E2M1", 4)}
"""Mode -> table and bits; affine has any bits."""

FORMS = {
    **{f"int{bits}": Form("mlx", f"U{bits}", 64, "") for bits in (4, 8, 6, 5, 3, 2)},
    "mxfp4": Form("mlx-mxfp4", "E2M1", 32, "", fixed=True),
    "mxfp8": Form("mlx-mxfp8", "E4M3", 32, "", fixed=True),
    "nvfp4": Form("mlx-nvfp4", "E2M1", 16, "", fixed=True),
}
"""Type -> how weights that are not quantized become one; the first where none is named."""

_BITS = (1, 2, 3, 4, 5, 6, 8)


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for module in parts.modules("scales"):
        expr = _module(parts, module)
        parts.put(f"{module}.weight", expr, *(f"{module}.{part}" for part in ("weight", "scales", "biases")))


def _module(parts: Parts, module: str) -> Coded:
    own = parts.settings.get(module)
    settings = {**parts.settings, **own} if isinstance(own, dict) else parts.settings
    mode = settings.get("mode") or "affine"
    if not isinstance(mode, str) or mode not in MODES:
        raise parts.refused("mode", mode, ", ".join(MODES))
    table, bits = MODES[mode]
    bits = bits or settings.get("bits", 4)
    if not isinstance(bits, int) or bits not in _BITS:
        raise parts.refused("bits", bits, ", ".join(map(str, _BITS)))
    weight, scales = parts.need(module, "weight", "U32"), parts.need(module, "scales", *FLOATS, "U8")
    if not weight.shape:
        raise parts.refused(f"{module}.weight", [], "a matrix")
    *outer, n_words = weight.shape
    n_cols, n_groups = n_words * 32 // bits, scales.shape[-1] if scales.shape else 0
    shape, group = (*outer, n_cols), n_cols // max(n_groups, 1)
    parts.shape(f"{module}.scales", scales, (*outer, n_cols // max(group, 1)))
    if n_words * 32 % bits or n_cols % max(n_groups, 1):
        raise parts.refused("bits", bits, f"whole codes in {n_words} words")
    label = f"MLX {mode} {bits} bits, group {group}"
    if mode == "affine":
        biases = parts.need(module, "biases", *FLOATS)
        parts.shape(f"{module}.biases", biases, scales.shape)
        scale, offset = Param(scales, group=group), Param(biases, group=group)
        return Coded(weight, Packing(bits), shape, f"U{bits}", group, (scale,), offset=offset, label=label)
    if parts.get(module, "global_scale") is not None:
        raise parts.refused(f"{module}.global_scale", "a scale of the tensor", "none")
    kind = "F8_E4M3" if mode == "nvfp4" else "F8_E8M0"
    scale = Param(viewed(scales, kind, scales.shape, parts, f"{module}.scales"), group=group)
    return Coded(weight, Packing(bits), shape, table, group, (scale,), label=label)


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:
    """The smallest form that a policy allows of a grid, [.., out, in]; None where there is none.

    Codes keep their width where scale and bias can be stored (in 16 bits or, larger but exact, in 32); moved around a
    power of two they need one bit more and no more than the scale's own bits for the bias.
    """
    own = grid.parse(expr.stored.name)
    found = sorted(_forms(expr, own, reader), key=lambda row: row.bits)
    exact = (row for row in found if row.verdict.kind == "exact")
    near = (row for row in found if wanted.takes(row.verdict))
    return next(exact, None) or next(near, None) if wanted.name == "auto" else next(near, None)


def _forms(expr: Expression, own: grid.Grid, reader: Reader) -> Iterator[Written]:
    if own.table == "E2M1" and own.group % 32 == 0 and powers(expr, reader):
        yield _small(expr, "mxfp4", 4, 32)
    if own.table == "E4M3" and own.group % 32 == 0 and powers(expr, reader):
        yield _small(expr, "mxfp8", 8, 32)
    if own.table == "E2M1" and own.group % 16 == 0 and e4m3_scales(expr, reader):
        yield _small(expr, "nvfp4", 4, 16)
    group = group_of(expr, (32, 64, 128))
    if not own.integer or group is None:
        return
    bits = INTEGERS[own.table]
    bits = 8 if bits == 7 else bits
    for encoding in ("F16", "BF16", "F32"):
        error = rounding(expr, reader, scale=encoding, offset=encoding)
        yield _affine(expr, bits, group, encoding, -1, 0.0, error)
    low, high = zeros(expr, reader)
    if bits < 6 and low >= 0 and high <= own.limit:
        middle = float(1 << bits)
        error = rounding(expr, reader, scale="F16", offset="F16", rezero=middle)
        yield _affine(expr, bits + 1, group, "F16", int(middle), middle, error)


def _affine(
    expr: Expression, bits: int, group: int, encoding: str, rezero: int, middle: float, error: float
) -> Written:
    parts: dict[str, Expression] = {
        "weight": Packed(expr, Packing(bits), "U32", rezero),
        "scales": numbers(expr, "scale", encoding, group),
        "biases": numbers(expr, "offset", encoding, group, rezero=middle),
    }
    size = bits + 2 * ENCODINGS[encoding].block_bytes * 8 / group
    return Written(parts, verdict(error), {"group_size": group, "bits": bits}, size)


def _small(expr: Expression, mode: str, bits: int, group: int) -> Written:
    scales = numbers(expr, "scale", "F8_E4M3", group) if mode == "nvfp4" else numbers(expr, "exponent", "U8", group)
    parts: dict[str, Expression] = {
        "weight": Packed(expr, Packing(bits), "U32"),
        "scales": Reinterpret(scales, scales.shape, "U8"),
    }
    return Written(parts, verdict(0.0), {"group_size": group, "bits": bits, "mode": mode}, bits + 8 / group)


def adapted(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with what mlx-lm looks for: rope_theta and rope_scaling beside the rope_parameters of transformers
    5."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" in config or not isinstance(rope.get("rope_theta"), int | float):
        return dict(config)
    scaling = None if rope.get("rope_type", "default") == "default" else rope
    return {**config, "rope_theta": rope["rope_theta"], "rope_scaling": config.get("rope_scaling") or scaling}


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json: what most modules have, and those that differ. others: weights that stay dense."""
    counts = Counter(tuple(sorted(settings.items())) for settings in modules.values())
    usual = dict(counts.most_common(1)[0][0]) if counts else {"group_size": 64, "bits": 4}
    differing = {name: dict(settings) for name, settings in modules.items() if dict(settings) != usual}
    own = {**usual, **differing, **dict.fromkeys(others, False)}
    return {"quantization": own, "quantization_config": own}
