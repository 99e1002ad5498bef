"""Codes from one layout into another in one call of csrc/grid_move.c: what most tensors of a transcoding are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfmt import _kernels
from modelfmt.grids.kinds import GROUPS, direct, implied_zero
from modelfmt.grids.params import LAYS, ORDERS, Planes, planes
from modelfmt.grids.values import table
from modelfmt.ir import grid
from modelfmt.ir.ops import Coded, Reader, Regrid
from modelfmt.kernels import kernel_types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Layout = tuple[int, int, int, int, int]

__all__ = ["move", "opened_planes", "span"]


def move(
    expr: Coded | Regrid, start: int, stop: int, reader: Reader, target: Layout, out: Rows, rezero: int = -1
) -> tuple[int, int] | None:
    """Rows start..stop of a grid into a layout (see _kernels.grid_move), without the grid; `direct` says of which.

    Returns (row, column) of a code or scale that has no place there.
    """
    import numpy as np

    assert direct(expr)
    own, name = grid.parse(expr.stored.name), ""
    if isinstance(expr, Coded):
        packed, stride = span(expr, start, stop, reader, expr.first, own.n_cols)
        packing, group = expr.packing, own.group
        source = (LAYS[packing.lay], ORDERS[packing.order], packing.bits, packing.flip, stride)
        wanted = Planes._fields if target[0] == LAYS["blocks"] else ("zero",) if rezero >= 0 else ()
        columns = expr.first + np.arange(own.n_cols // group) * group
        found = planes(expr, start, stop, columns, reader, wanted=wanted)
    else:
        packed, name = _block_span(expr, start, stop, reader), expr.input.stored.name
        source, group = (LAYS["blocks"], 0, kernel_types()[name].id, 0, packed.shape[1]), GROUPS[name]
        found = Planes(0.0, 0.0, 0.0)
    size = (stop - start, own.n_cols, group)
    return _kernels.grid_move(source, target, size, packed, found, own.limit, rezero, table(own.table), out)


def _block_span(expr: Regrid, start: int, stop: int, reader: Reader) -> Rows:
    """Blocks of the columns of a grid, which begin and end with blocks."""
    import numpy as np

    n_all, elements = expr.input.shape[-1], expr.input.stored.block_elements
    width = expr.width or n_all
    if width == n_all:
        return np.ascontiguousarray(reader.rows(expr.input, start, stop))
    first, last = expr.first // elements, (expr.first + width) // elements
    return np.ascontiguousarray(reader.columns(expr.input, (start, stop), first, last))


def opened_planes(expr: Regrid, rows: tuple[int, int], columns: NDArray[np.int64], reader: Reader) -> Planes:
    """Scale, offset and zero of blocks in the groups that begin at some columns: float64 [rows, groups]; the zero, and
    no offset, as numbers where the type has these for all."""
    import numpy as np

    name, n_rows = expr.input.stored.name, rows[1] - rows[0]
    elements, group = expr.input.stored.block_elements, GROUPS[name]
    first = (expr.first + int(columns.min(initial=0))) // elements
    last = (expr.first + int(columns.max(initial=0))) // elements + 1
    blocks = np.ascontiguousarray(reader.columns(expr.input, rows, first, last))
    n_cols = (last - first) * elements
    found = np.empty((3, n_rows, n_cols // group))
    _kernels.grid_numbers(kernel_types()[name].id, (n_rows, n_cols, group), blocks, found)
    which = (expr.first + columns - first * elements) // group
    if not np.array_equal(which, np.arange(found.shape[2])):
        found = found[:, :, which]
    zero = implied_zero(name)
    return Planes(found[0], *found[1:]) if zero is None else Planes(found[0], 0.0, zero)


def span(expr: Coded, start: int, stop: int, reader: Reader, first: int, n_cols: int) -> tuple[Rows, int]:
    """The packed bytes of columns first .. first + n_cols of rows start..stop, and the bytes of a line of them."""
    import numpy as np

    codes, packing = expr.codes, expr.packing
    word = codes.stored.block_bytes
    if packing.lay == "rows":
        if first == 0 and n_cols == expr.n_cols:
            found = reader.rows(codes, start, stop)
        else:
            begin, end = first * packing.bits // (8 * word), (first + n_cols) * packing.bits // (8 * word)
            found = reader.columns(codes, (start, stop), begin, end)
    elif packing.lay == "words":
        found = reader.columns(codes, (first * packing.bits // 32, (first + n_cols) * packing.bits // 32), start, stop)
    else:
        found = reader.columns(codes, (first, first + n_cols), start // 8, stop // 8)
    return np.ascontiguousarray(found), found.shape[1]
