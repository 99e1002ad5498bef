"""Rows of grids: codes of checkpoints unpacked, blocks opened, and blocks made of packed codes directly."""

from __future__ import annotations

from itertools import pairwise
from math import lcm
from typing import TYPE_CHECKING

from modelfmt import _kernels
from modelfmt.grids import params
from modelfmt.grids.kinds import GROUPS
from modelfmt.grids.moving import hold, span
from modelfmt.grids.values import no_place, opened
from modelfmt.ir import grid
from modelfmt.ir.ops import Blocks, Coded, Reader, Regrid, Uniform, row_bytes
from modelfmt.kernels import kernel_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Values = NDArray[np.float64]

__all__ = ["blocks", "coded", "regrid", "slab_rows", "slabs", "uniform"]

SLAB, SLAB_ROWS = 1 << 20, 128
"""Bytes of blocks that are made at once, about, in whole multiples of so many rows: those of a cache line of words."""


def coded(expr: Coded, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    if expr.packing.lay == "columns" and (start % 8 or stop % 8):  # words hold eight rows
        first, last = start // 8 * 8, -(-stop // 8) * 8
        return coded(expr, first, last, reader)[start - first : stop - first]
    n, n_groups = stop - start, expr.shape[-1] // expr.group
    out = np.empty((n, row_bytes(expr)), np.uint8)
    order = None if expr.index is None else reader.rows(expr.index, 0, 1).reshape(-1).view(np.int32)
    if not expr.records:
        if expr.sorted and order is not None:
            _sorted_codes(expr, start, stop, reader, np.argsort(order, kind="stable"), out)
        else:
            _unpack(expr, start, stop, reader, out)
    columns = expr.first + np.arange(n_groups) * expr.group
    if order is not None and not expr.sorted:
        columns = order[columns].astype(np.int64) * max(p.group for p in expr.scales)
    n_bytes = n_groups * grid.RECORD
    out[:, :n_bytes] = params.records(expr, start, stop, columns, reader).view(np.uint8).reshape(n, n_bytes)
    return out


def _unpack(expr: Coded, start: int, stop: int, reader: Reader, out: Rows) -> None:
    packing = expr.packing
    if packing.lay == "padded":
        codes = params.padded(reader.rows(expr.codes, start, stop), packing.bits)
        head = expr.shape[-1] // expr.group * grid.RECORD
        out[:, head:] = codes[:, expr.first : expr.first + expr.shape[-1]]
        return
    packed, layout = span(expr, start, stop, reader, expr.first, expr.shape[-1])
    _kernels.grid_unpack(layout, (stop - start, expr.shape[-1], expr.group), packed, out)


def _sorted_codes(expr: Coded, start: int, stop: int, reader: Reader, order: NDArray[np.int64], out: Rows) -> None:
    """The columns in the order of their groups, of which expr may be a window."""
    import numpy as np

    n_all, n_cols = expr.n_cols, expr.shape[-1]
    packed, layout = span(expr, start, stop, reader, 0, n_all)
    whole = np.empty((stop - start, grid.RECORD + n_all), np.uint8)
    _kernels.grid_unpack(layout, (stop - start, n_all, n_all), packed, whole)
    chosen = grid.RECORD + order[expr.first : expr.first + n_cols]
    out[:, n_cols // expr.group * grid.RECORD :] = whole[:, chosen]


def regrid(expr: Regrid, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    name, n_all = expr.input.stored.name, expr.input.shape[-1]
    rows = opened(reader.rows(expr.input, start, stop), name, n_all)
    width = expr.width or n_all
    own, n = GROUPS[name], len(rows)
    records = rows[:, : n_all // own * grid.RECORD].reshape(n, -1, grid.RECORD)
    which = (expr.first + np.arange(width // expr.group) * expr.group) // own
    head = records if len(which) == records.shape[1] else records[:, which]
    if expr.whole is not None:
        scaled = np.ascontiguousarray(head).view(np.float64)
        scaled[..., 0] *= params.whole_of(expr.whole, start, stop, reader)
        head = scaled.view(np.uint8)
    if expr.records:
        return np.ascontiguousarray(head.reshape(n, -1))
    if width == n_all and expr.group == own and expr.whole is None:
        return rows
    begin = n_all // own * grid.RECORD + expr.first
    return np.concatenate([head.reshape(n, -1), rows[:, begin : begin + width]], axis=1)


def uniform(expr: Uniform, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    own, rows = grid.parse(expr.input.stored.name), reader.rows(expr.input, start, stop)
    rows = np.array(rows)
    head = own.head_bytes
    records = rows[:, :head].copy().view(np.float64).reshape(len(rows), -1, 3)
    scale, offset, zero = records[..., 0], records[..., 1], records[..., 2]
    codes = rows[:, head:]
    still = (scale == 0.0) & (offset != 0.0)
    if still.any():  # a constant: codes of 0, whose zero is the constant itself
        if codes.size:
            codes.reshape(len(rows), -1, own.group)[still] = 0
        scale[still], zero[still] = 1.0, 0.0
    np.subtract(zero, np.divide(offset, scale, where=offset != 0.0, out=np.zeros_like(offset)), out=zero)
    offset[:] = 0.0
    rows[:, :head] = records.reshape(len(rows), -1).view(np.uint8)
    return rows


def blocks(expr: Blocks, start: int, stop: int, reader: Reader) -> Rows:
    return next(_made(expr, (start, stop), reader)) if start < stop else reader.empty(0, row_bytes(expr))


def slabs(expr: Blocks, start: int, stop: int, reader: Reader, unit: int = SLAB_ROWS) -> Iterator[Rows]:
    """Rows start..stop, cut where multiples of `unit` lie: so many that they stay in the cache. What they are made of
    is read once."""
    step = slab_rows(expr, unit)
    first = start // step * step + step
    yield from _made(expr, (start, *range(first, stop, step), stop), reader)


def slab_rows(expr: Blocks, unit: int = SLAB_ROWS) -> int:
    """Rows of a slab: whole units, which begin and end with words of the codes."""
    unit = max(lcm(unit, _word(expr)), 1)
    return max(SLAB // max(row_bytes(expr) * unit, 1), 1) * unit


def _word(expr: Blocks) -> int:
    """Rows of a word."""
    return 8 if isinstance(expr.input, Coded) and expr.input.packing.lay == "columns" else 1


def _made(expr: Blocks, cuts: Sequence[int], reader: Reader) -> Iterator[Rows]:
    """Rows from each cut to the next; all but the first and the last lie between words."""
    row, size, word = kernel_types()[expr.encoding], row_bytes(expr), _word(expr)
    whole = cuts[0] // word * word
    held = hold(expr.input, whole, -(-cuts[-1] // word) * word, reader, params.Planes._fields)
    for start, stop in pairwise(cuts):
        begin, end = start // word * word, -(-stop // word) * word
        out = reader.empty(end - begin, size)
        fault = held.move((begin - whole, end - whole), (params.LAYS["blocks"], 0, row.id, 0, size), out)
        if fault is not None:
            raise no_place(*fault, expr.encoding, begin)
        yield out[start - begin : stop - begin]
