"""Codes from one layout into another in one call of csrc/grid_move.c: what most tensors of a transcoding are."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from modelfmt import _kernels
from modelfmt.errors import ShapeError
from modelfmt.grids.kinds import GROUPS, direct, implied_zero
from modelfmt.grids.params import LAYS, Layout, Planes, layout, planes, whole_of
from modelfmt.grids.values import table
from modelfmt.ir import grid
from modelfmt.ir.ops import Coded, Reader, Regrid
from modelfmt.kernels import kernel_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]

__all__ = ["Held", "hold", "opened_planes", "span"]


class Held(NamedTuple):
    """Rows of a grid as they were read: their bytes, how these lie, and the numbers of their groups."""

    layout: Layout
    packed: Rows
    planes: Planes
    own: grid.Grid
    group: int

    def move(self, rows: tuple[int, int], target: Layout, out: Rows, rezero: int = -1) -> tuple[int, int] | None:
        """Some of the rows into a layout (see _kernels.grid_move); those of words across rows begin with a word.

        Returns (row, column) of a code or scale that has no place there.
        """
        first, last = rows
        size = (last - first, self.own.n_cols, self.group)
        begin = {LAYS["words"]: 4 * first, LAYS["columns"]: first // 2}.get(self.layout[0])
        packed = self.packed[first:last] if begin is None else self.packed.reshape(-1)[begin:]
        planes = Planes(*(plane if isinstance(plane, float) else plane[first:last] for plane in self.planes))
        entries = table(self.own.table)
        return _kernels.grid_move(self.layout, target, size, packed, planes, self.own.limit, rezero, entries, out)


def hold(expr: Coded | Regrid, start: int, stop: int, reader: Reader, wanted: Sequence[str]) -> Held:
    """Rows start..stop of a grid, to be moved without the grid; `direct` says of which. wanted: of the numbers."""
    import numpy as np

    assert direct(expr)
    own = grid.parse(expr.stored.name)
    if isinstance(expr, Coded):
        packed, lies = span(expr, start, stop, reader, expr.first, own.n_cols)
        columns = expr.first + np.arange(own.n_cols // own.group) * own.group
        return Held(lies, packed, planes(expr, start, stop, columns, reader, wanted=wanted), own, own.group)
    packed, name = _block_span(expr, start, stop, reader), expr.input.stored.name
    lies = (LAYS["blocks"], 0, kernel_types()[name].id, 0, packed.shape[1])
    return Held(lies, packed, Planes(0.0, 0.0, 0.0), own, GROUPS[name])


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
    if expr.whole is not None:
        found[0] *= whole_of(expr.whole, *rows, reader)
    zero = implied_zero(name)
    return Planes(found[0], *found[1:]) if zero is None else Planes(found[0], 0.0, zero)


def span(expr: Coded, start: int, stop: int, reader: Reader, first: int, n_cols: int) -> tuple[Rows, Layout]:
    """The packed bytes of columns first .. first + n_cols of rows start..stop, and how they lie.

    Raises ShapeError (packing) where the columns begin or end within a word.
    """
    import numpy as np

    codes, packing = expr.codes, expr.packing
    word = codes.stored.block_bytes
    if packing.lay == "rows":
        if first == 0 and n_cols == expr.n_cols:
            found = reader.rows(codes, start, stop)
        else:
            found = reader.columns(codes, (start, stop), *_words(packing.bits, first, first + n_cols, 8 * word))
    elif packing.lay == "words":
        found = reader.columns(codes, _words(packing.bits, first, first + n_cols, 32), start, stop)
    else:
        found = reader.columns(codes, (first, first + n_cols), start // 8, stop // 8)
    return np.ascontiguousarray(found), layout(packing, found.shape[1])


def _words(bits: int, first: int, last: int, word: int) -> tuple[int, int]:
    """The words, of so many bits, that codes first..last are."""
    if first * bits % word or last * bits % word:
        raise ShapeError(
            "a window of codes begins or ends within a word",
            code="packing",
            found=(first, last),
            allowed=f"multiples of {word // gcd(bits, word)}",
        )
    return first * bits // word, last * bits // word
