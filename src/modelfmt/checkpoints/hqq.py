"""HQQ: integers under a scale and a zero that is no integer, packed as planes of rows.

W_q: the matrix as rows of a group each (axis 1) or columns of one (axis 0), codes of 1, 2, 4 or 8 bits in U8 or of 3
in I32: of as many parts of the rows as fit in a word, the first in the highest bits. scale, zero: a number for each
group; weight = (code - zero) * scale. shape, axis, nbits and more as tensors. Source: hqq 0.2.8 core/quantize.py,
bitpack.py. Not here: scales and zeros that are quantized themselves.
"""

from __future__ import annotations

from math import gcd, isfinite, prod

from modelfmt.checkpoints.coded import FLOATS, Parts, viewed
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Concat, Expression, Fields, Param, Reshape, Slice

__all__ = ["read"]

_SHIFTS = {1: (7, 6, 5, 4, 3, 2, 1, 0), 2: (6, 4, 2, 0), 3: tuple(range(27, -1, -3)), 4: (4, 0), 8: (0,)}
"""Bits of a packed code -> where the parts of the rows lie in a word."""

_STORED = {8: 8, 6: 8, 5: 8, 4: 4, 3: 3, 2: 2, 1: 1}
_OTHERS = (
    *("nbits", "group_size", "shape", "axis", "packing", "view_as_float", "unpack_view_dtype", "round_zero"),
    *("channel_wise", "optimize", "compute_dtype", "quant_scale", "quant_zero", "offload_meta", "stores_quant_config"),
    *("encoded_state_dict", "scale", "zero"),
)


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for module in parts.modules("W_q"):
        expr = _module(parts, module)
        parts.put(f"{module}.weight", expr, *(f"{module}.{part}" for part in ("W_q", *_OTHERS)))


def _number(parts: Parts, module: str, part: str, default: float) -> float:
    found = parts.get(module, part)
    if found is None:
        return default
    values = parts.array(found, f"{module}.{part}").astype("f8")
    if values.size != 1 or not isfinite(values[0]):
        raise parts.refused(f"{module}.{part}", values.tolist()[:4], "one number")
    return float(values[0])


def _module(parts: Parts, module: str) -> Coded:
    place = f"{module}.W_q"
    shape = tuple(int(n) for n in parts.array(parts.need(module, "shape", "I64", "I32"), f"{module}.shape"))
    axis, bits = int(_number(parts, module, "axis", 1)), _number(parts, module, "nbits", 0)
    stored = 2 if 1.5 < bits < 1.7 else _STORED.get(int(bits), 0)
    if len(shape) != 2 or min(shape) <= 0 or max(shape) >= 1 << 31 or stored == 0 or axis not in (0, 1):
        raise parts.refused(place, (shape, axis, bits), "a matrix, axis 0 or 1, 1 to 6 or 8 bits")
    if any(_number(parts, module, name, 0) for name in ("quant_scale", "quant_zero")):
        raise parts.refused(place, "scales that are quantized themselves", "plain ones")
    scale, zero = (parts.need(module, name, *FLOATS) for name in ("scale", "zero"))
    parts.shape(f"{module}.zero", zero, scale.shape)
    n_groups = prod(scale.shape)
    if n_groups == 0 or prod(shape) % n_groups:
        raise parts.refused(f"{module}.scale", list(scale.shape), f"groups of {prod(shape)} weights")
    group = prod(shape) // n_groups
    lines = (n_groups, group) if axis == 1 else (group, n_groups)
    codes = Reshape(_codes(parts, place, parts.need(module, "W_q"), stored, lines), shape)
    label = f"HQQ int{bits:g}, group {group}" + ("" if axis == 1 else ", along the outputs")
    own, scales, zeros = _groups(parts, place, (scale, zero), shape, group, axis)
    return Coded(codes, Packing(8), shape, f"U{stored}", own, (scales,), zeros, label=label)


def _codes(parts: Parts, place: str, packed: Expression, bits: int, lines: tuple[int, int]) -> Expression:
    """Codes U8 [lines], the parts of the rows one below the other."""
    shifts, word = _SHIFTS[bits], 4 if bits == 3 else 1
    n_words = -(-lines[0] // len(shifts))
    packed = viewed(packed, "I32" if word == 4 else "U8", (n_words, lines[1]), parts, place)
    planes = Concat(tuple(Fields(packed, bits, (shift,)) for shift in shifts))
    return planes if planes.shape[0] == lines[0] else Slice(planes, 0, 0, lines[0])


def _groups(
    parts: Parts,
    place: str,
    both: tuple[Expression, Expression],
    shape: tuple[int, int] | tuple[int, ...],
    group: int,
    axis: int,
) -> tuple[int, Param, Param]:
    """Columns that share a record, and how scale and zero lie."""
    n_rows, n_cols = shape
    if axis == 1:
        if n_cols % group == 0:
            scale, zero = (Param(Reshape(expr, (n_rows, n_cols // group)), group=group) for expr in both)
            return group, scale, zero
        scale, zero = (Param(Reshape(expr, (prod(expr.shape),)), group=group, flat=True) for expr in both)
        return gcd(group, n_cols), scale, zero
    if n_rows % group:  # the groups of a column begin in the middle of a row
        raise parts.refused(place, f"groups of {group} along {n_rows} outputs", "a divisor of them")
    rows = n_rows // group
    scale, zero = (Param(Concat((Reshape(expr, (rows, n_cols)),) * group), group=1) for expr in both)
    return 1, scale, zero
