"""Makes the rows of grids, and what is made of grids: the kernels of csrc/grid.h behind expressions.

Here is what the data of `modelfmt.ir.ops.Coded` and its kin mean. Every function takes the reader that it gets its
inputs from, so that nothing here opens a file. `apart` is for runtimes that keep codes, scales and zeros in tensors of
their own.
"""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

from modelfmt.grids import parts, rounding, rows
from modelfmt.grids.apart import LAYOUTS, Apart, Layout, apart, half_scales
from modelfmt.grids.kinds import (
    BLOCKS,
    blocks_of,
    direct,
    records_of,
    regridded,
    restricted,
    source,
    sources,
    widened,
)
from modelfmt.grids.params import Planes, records, zeros_of
from modelfmt.grids.parts import planes_of
from modelfmt.grids.rows import SLAB, SLAB_ROWS
from modelfmt.grids.values import as_blocks, decode, doubles, fit, storing, values
from modelfmt.ir.ops import (
    Blocks,
    Coded,
    Concat,
    Expression,
    Nearest,
    Numbers,
    Packed,
    Reader,
    Regrid,
    Reshape,
    RopePermute,
    Stack,
    Uniform,
    geometry,
    row_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BLOCKS",
    "LAYOUTS",
    "SLAB",
    "SLAB_ROWS",
    "Apart",
    "Layout",
    "Planes",
    "apart",
    "as_blocks",
    "blocks_of",
    "decode",
    "direct",
    "doubles",
    "fit",
    "half_scales",
    "planes_of",
    "records",
    "records_of",
    "regridded",
    "restricted",
    "slab_bytes",
    "slabs",
    "source",
    "sources",
    "storing",
    "tile",
    "values",
    "widened",
    "zeros_of",
]


def tile(expr: Expression, start: int, stop: int, reader: Reader) -> NDArray[np.uint8]:
    """Rows of one of modelfmt.ir.ops.GRIDDED."""
    match expr:
        case Coded():
            return rows.coded(expr, start, stop, reader)
        case Regrid():
            return rows.regrid(expr, start, stop, reader)
        case Nearest():
            return rounding.nearest(expr, start, stop, reader)
        case Uniform():
            return rows.uniform(expr, start, stop, reader)
        case Packed():
            return parts.packed(expr, start, stop, reader)
        case Numbers():
            return parts.numbers(expr, start, stop, reader)
        case Blocks():
            return rows.blocks(expr, start, stop, reader)
    raise AssertionError(type(expr).__name__)


def slabs(expr: Expression, start: int, stop: int, reader: Reader) -> Iterator[NDArray[np.uint8]]:
    """Rows start..stop of an expression one slab after the other, where they can be made so without reading again."""
    match expr:
        case Blocks():
            yield from rows.slabs(expr, start, stop, reader)
        case RopePermute(Blocks() as inner) if start % expr.head_rows == 0 and stop % expr.head_rows == 0:
            for slab in rows.slabs(inner, start, stop, reader, _heads(expr)):
                yield expr.permuted(slab, reader)
        case Reshape(inner) if row_bytes(inner) == row_bytes(expr):
            yield from slabs(inner, start, stop, reader)
        case Stack() | Concat() if len(expr.shape) > 1:
            base = 0
            for part in expr.inputs:
                n_rows = geometry(part.shape, part.stored)[0]
                first, last = max(start - base, 0), min(stop - base, n_rows)
                base += n_rows
                if first < last:
                    yield from slabs(part, first, last, reader)
        case _:
            yield reader.rows(expr, start, stop)


def slab_bytes(expr: Expression, n_rows: int) -> int | None:
    """What `slabs` holds at most of n_rows rows of whole heads: a slab, the one before it, and one whose rows change
    places; None where it makes all rows at once."""
    match expr:
        case Blocks():
            return 2 * min(rows.slab_rows(expr), n_rows) * row_bytes(expr)
        case RopePermute(Blocks() as inner):
            return 3 * min(rows.slab_rows(inner, _heads(expr)), n_rows) * row_bytes(expr)
        case Reshape(inner) if row_bytes(inner) == row_bytes(expr):
            return slab_bytes(inner, n_rows)
        case Stack() | Concat() if len(expr.shape) > 1:
            largest = 0
            for part in expr.inputs:
                size = slab_bytes(part, n_rows)
                if size is None:
                    return None
                largest = max(largest, size)
            return largest
    return None


def _heads(expr: RopePermute) -> int:
    """Rows that are whole heads, and lines of words where these lie across."""
    return lcm(expr.head_rows, SLAB_ROWS)
