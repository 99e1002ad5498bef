"""MLX: one stream of bits for each row, with scale and bias for each group, or small floats under shared scales.

affine: weight U32 [out, in * bits / 32], scales and biases [out, in / group]: weight = scale * code + bias. mxfp4,
mxfp8: scales U8, powers of two, no biases; nvfp4: scales U8, e4m3. config.json has `quantization` with group_size, bits
and mode, and modules that differ by their path. Source: mlx 0.32.4 ops.quantize, mlx-lm 0.32.2 utils.py.
"""

from __future__ import annotations

from modelfmt.checkpoints.coded import FLOATS, Parts, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Param

__all__ = ["MODES", "read"]

MODES = {"affine": ("", 0), "mxfp4": ("E2M1", 4), "mxfp8": ("E4M3", 8), "nvfp4": ("E2M1", 4)}
"""Mode -> table and bits; affine has any bits."""

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
    if mode not in MODES:
        raise parts.refused("mode", mode, ", ".join(MODES))
    table, bits = MODES[mode]
    bits = bits or settings.get("bits", 4)
    if bits not in _BITS:
        raise parts.refused("bits", bits, ", ".join(map(str, _BITS)))
    weight, scales = parts.need(module, "weight", "U32"), parts.need(module, "scales", *FLOATS, "U8")
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
