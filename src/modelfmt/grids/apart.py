"""Grids taken apart for runtimes that keep codes, scales and zeros of a matrix in tensors of their own: MatMulNBits and
DequantizeLinear of ONNX, and all others that compute scale * (code - zero).

Codes are unsigned, 4 or 8 bits wide, in the order of their elements, the first in the lowest bits. Where a scheme has
no zeros of its own, the zero is half of the range, 8 or 128.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from modelfmt.grids.kinds import GROUPS, TABLES, implied_zero, records_of, regridded, widened
from modelfmt.ir import grid
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Nearest, Numbers, Packed, Param, Regrid, Uniform, nodes

__all__ = ["LAYOUTS", "Apart", "Layout", "apart", "half_scales"]


class Layout(NamedTuple):
    """bits: of a code, 4 or 8. block: columns that share a scale. zeros: it has zeros of its own."""

    bits: int
    block: int
    zeros: bool


class Apart(NamedTuple):
    """A grid of [.., n, k] in tensors of their own.

    codes: U8 [.., n, k * bits / 8]. scales: F32 [.., n, k / block]. zeros: the same, or None where all of them are half
    of the range; whole: they are whole numbers, so that `zero_points` has them, too.
    """

    layout: Layout
    codes: Packed
    scales: Numbers
    zeros: Numbers | None
    whole: bool

    def zero_points(self) -> Numbers:
        """Whole zeros as integers of the width of the codes, two in a byte: U8 [.., n, ceil(k / block * bits / 8)]."""
        assert self.zeros is not None
        assert self.whole
        *outer, n_groups = self.zeros.shape
        width = -(-n_groups * self.layout.bits // 8)
        bits = self.layout.bits if self.layout.bits < 8 else 0
        return msgspec.structs.replace(self.zeros, encoding="U8", bits=bits, along="groups", shape=(*outer, width))


def _layout(table: str, group: int, *, zeros: bool) -> Layout | None:
    """How a grid comes apart; None where its codes are no integers, and no multiples of one number."""
    bits = 8 if grid.whole(table) is not None else grid.INTEGERS.get(table)
    return None if bits is None else Layout(4 if bits <= 4 else 8, group, zeros)


LAYOUTS: dict[str, Layout] = {
    name: found
    for name, group in GROUPS.items()
    if (found := _layout(TABLES[name], group, zeros=implied_zero(name) is None)) is not None
}
"""GGUF type -> how it comes apart."""


def apart(expr: Expression) -> Apart | None:
    """A matrix of blocks or of a grid in tensors of their own; None where its values are no integers under scales.

    expr: [.., n, k], in a type of LAYOUTS or on a grid (quantized checkpoints). Exact, but for zeros of types that
    store an offset m: these are -m / scale, rounded to float32 once.
    """
    if not (expr.stored.name in GROUPS or expr.stored.name.startswith("GRID:")):
        return None
    given = regridded(expr)
    own = grid.parse(given.stored.name)
    zeros, whole = _zeros(given)
    layout = _layout(own.table, own.group, zeros=zeros)
    if layout is None or own.n_cols * layout.bits % 8:
        return None
    if not own.integer:
        given = widened(given)[-1]  # of eight bits, around half of the range
    rezero = -1 if zeros else 1 << (layout.bits - 1)
    codes = Packed(given if whole else Uniform(given), Packing(layout.bits), "U8", rezero)
    records = records_of(given) if whole else Uniform(records_of(given))
    shape = (*given.shape[:-1], own.n_cols // own.group)
    scales = Numbers(records, "scale", "F32", shape, group=own.group)
    return Apart(
        layout, codes, scales, Numbers(records, "zero", "F32", shape, group=own.group) if zeros else None, whole
    )


def _zeros(expr: Expression) -> tuple[bool, bool]:
    """Whether a grid has zeros of its own, and whether all of them are whole numbers."""
    zeros, whole = False, True
    for node in nodes(expr):
        if isinstance(node, Nearest):
            zeros = zeros or node.rule.found == "range"
        elif isinstance(node, Coded):
            zero = node.zero
            zeros = zeros or node.offset is not None or isinstance(zero, Param) or not zero.is_integer()
            whole = whole and node.offset is None and _whole(zero)
        elif isinstance(node, Regrid) and implied_zero(node.input.stored.name) is None:
            zeros, whole = True, False
    return zeros, whole


def _whole(zero: float | Param) -> bool:
    if isinstance(zero, Param):
        return (zero.bits > 0 or zero.input.stored.element.kind == "int") and zero.plus.is_integer()
    return zero.is_integer()


def half_scales(expr: Expression) -> bool:
    """Whether float16 holds the scales of a grid exactly: they are such numbers, and nothing else."""
    for node in nodes(expr):
        if isinstance(node, Regrid):
            return [level.dtype for level in node.input.stored.levels] == ["F16"]
        if isinstance(node, Coded):
            return [(one.input.stored.name, one.divide) for one in node.scales] == [("F16", False)]
    return False
