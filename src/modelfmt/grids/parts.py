"""What is made of grids as tensors of their own: packed codes, scales, zeros, offsets."""

from __future__ import annotations

from math import gcd, lcm
from typing import TYPE_CHECKING, Any

from modelfmt import _kernels
from modelfmt.grids.kinds import direct, restricted
from modelfmt.grids.moving import hold, opened_planes
from modelfmt.grids.params import LAYS, ORDERS, Planes, layout, planes
from modelfmt.grids.rounding import planes_of_values, rows_at_once
from modelfmt.grids.rows import SLAB, SLAB_ROWS
from modelfmt.grids.values import no_place
from modelfmt.ir import grid
from modelfmt.ir.ops import Coded, Expression, Nearest, Numbers, Packed, Reader, Regrid, geometry, row_bytes
from modelfmt.kernels import convert, kernel_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Values = NDArray[np.float64]

__all__ = ["numbers", "packed", "planes_of"]


def packed(expr: Packed, start: int, stop: int, reader: Reader) -> Rows:
    """Lines start..stop. Raises BadValue (no-place)."""
    packing, lines = expr.packing, 1
    if packing.lay == "words":
        lines = packing.bits // gcd(packing.bits, 32)  # that end where codes do: three, of 3-bit codes
    first, last = start // lines * lines, -(-stop // lines) * lines
    window, low, high = expr.input, first, last
    if packing.lay != "rows":
        columns = (first * 32 // packing.bits, last * 32 // packing.bits) if packing.lay == "words" else (first, last)
        group = gcd(grid.parse(window.stored.name).group, columns[0], columns[1] - columns[0])
        window = restricted(window, *columns, group)
        low, high = 0, geometry(window.shape, window.stored)[0]
    out = reader.empty(last - first, expr.shape[-1] * expr.stored.block_bytes)
    if isinstance(window, Coded | Regrid) and direct(window) and lines == 1:
        _move(expr, window, low, high, reader, out)
    else:
        _pack(expr, window, low, high, reader, out)
    return out[start - first : stop - first]


def _pack(expr: Packed, window: Expression, low: int, high: int, reader: Reader, out: Rows) -> None:
    """Rows low..high of a grid into words."""
    import numpy as np

    packing, own = expr.packing, grid.parse(window.stored.name)
    for begin, end in _pieces(window, low, high):
        rows = np.ascontiguousarray(reader.rows(window, begin, end))
        across = {"rows": 0, "words": 4 * (end - begin), "columns": (end - begin) * packing.bits // 8}[packing.lay]
        part = reader.empty(len(out), across) if across else out[begin - low : end - low]
        size = (len(rows), own.n_cols, own.group)
        fault = _kernels.grid_pack(layout(packing, part.shape[1]), size, rows, part, expr.rezero)
        if fault is not None:
            raise no_place(*fault, f"{packing.bits} bits", begin)
        if across:
            out[:, begin * across // (end - begin) :][:, :across] = part


def _pieces(window: Expression, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Rows that are made at once: of values, a few; of others, whose operations may want more rows, all."""
    if not isinstance(window, Nearest):
        yield start, stop
        return
    step = rows_at_once(window.shape[-1], lcm(8, window.rows))
    for begin in range(start // step * step, stop, step):
        yield max(begin, start), min(begin + step, stop)


def _move(expr: Packed, window: Coded | Regrid, low: int, high: int, reader: Reader, out: Rows) -> None:
    """The same without a grid between, where the codes can be moved in one step."""
    packing, flat, wanted = expr.packing, out.reshape(-1), ("zero",) if expr.rezero >= 0 else ()
    target = layout(packing, out.shape[1])
    for begin, end in _slabs(window, low, high):
        held = hold(window, begin, end, reader, wanted)
        at = {"words": 4 * (begin - low), "columns": (begin - low) * packing.bits // 8}.get(packing.lay)
        part = out[begin - low : end - low] if at is None else flat[at:]
        fault = held.move((0, end - begin), target, part, expr.rezero)
        if fault is not None:
            raise no_place(*fault, f"{packing.bits} bits", begin)


def _slabs(inner: Coded | Regrid, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Rows that are read and moved at once: so many that they stay in the cache; all, where their words lie across."""
    crosses = isinstance(inner, Coded) and inner.packing.crosses
    step = stop - start if crosses else max(SLAB // (row_bytes(inner) * SLAB_ROWS), 1) * SLAB_ROWS
    for begin in range(start, stop, max(step, 1)):
        yield begin, min(begin + step, stop)


def numbers(expr: Numbers, start: int, stop: int, reader: Reader) -> Rows:
    """Lines of the tensor as laid out: rows of the grid, or columns of it where turned."""
    import numpy as np

    n_rows = geometry(expr.input.shape, expr.input.stored)[0]
    if expr.turned:  # every line has a number of every row
        return _stored(expr, _of_planes(expr, (0, n_rows), (start, stop), reader))
    n_groups = grid.parse(expr.input.stored.name).n_cols // (expr.group or expr.input.shape[-1])
    if expr.along == "rows":  # words of neighbouring rows, one line for each word; as many words as bits hold 32 rows
        first = start // expr.bits * 32
        codes = _of_planes(expr, (first, min(-(-stop // expr.bits) * 32, n_rows)), (0, n_groups), reader)
        lines = _words(codes.T, expr).view(np.uint32).T
        skip = start - start // expr.bits * expr.bits
        return np.ascontiguousarray(lines[skip : skip + stop - start]).view(np.uint8)
    rows = (start * expr.rows, min(stop * expr.rows, n_rows))
    return _stored(expr, _of_planes(expr, rows, (0, n_groups), reader)[:: expr.rows])


def _stored(expr: Numbers, found: Values) -> Rows:
    """Lines of numbers as words, or as numbers of a type; made once where all are alike."""
    import numpy as np

    lines = found[:1] if found.strides[0] == 0 else found
    rows = _words(lines, expr) if expr.bits else _dense(lines, expr.encoding)
    return np.repeat(rows, len(found), 0) if len(rows) < len(found) else rows


def _of_planes(expr: Numbers, rows: tuple[int, int], groups: tuple[int, int], reader: Reader) -> Values:
    """The numbers of some rows in some of the groups that are written: float64 [rows, groups], or turned."""
    import numpy as np

    size = expr.group or expr.input.shape[-1]
    wanted: Sequence[str] = ("scale",) if expr.what in ("scale", "exponent") else Planes._fields
    inner = expr.input
    plain = inner.offset is None if isinstance(inner, Coded) else isinstance(inner, Nearest) and inner.how != "mlx"
    if expr.what == "zero" and plain:
        wanted = ("zero",)
    columns = np.arange(*groups) * size
    scale, offset, zero = planes_of(expr.input, rows, columns, reader, turned=expr.turned, wanted=wanted)
    if expr.what == "scale":
        found = scale
    elif expr.what == "exponent":  # of a power of two, as an E8M0 byte
        found = np.frexp(scale)[1] + 126.0
    elif expr.what == "offset":  # of codes that were moved so that `rezero` is their zero
        found = offset - scale * (zero if expr.rezero == 0.0 else expr.rezero)
    else:
        found = zero  # that says what the offset says
        if not isinstance(offset, float) or offset:
            with np.errstate(divide="ignore", invalid="ignore"):
                found = zero - np.where(np.equal(scale, 0.0), 0.0, offset / scale)
        found = found if expr.stored.element.kind == "float" else np.rint(found)
    n, m = rows[1] - rows[0], groups[1] - groups[0]
    whole: Values = np.broadcast_to(found, (m, n) if expr.turned else (n, m))
    return whole


def planes_of(
    expr: Expression,
    rows: tuple[int, int],
    columns: NDArray[np.int64],
    reader: Reader,
    *,
    turned: bool = False,
    wanted: Sequence[str] = Planes._fields,
) -> Planes:
    """Scale, offset and zero of the groups that begin at some columns, from parameters or blocks where these are at
    hand, else from records; those that are not wanted may be anything."""
    import numpy as np

    if isinstance(expr, Coded) and expr.index is None:
        return planes(expr, *rows, expr.first + columns, reader, turned=turned, wanted=wanted)
    if isinstance(expr, Nearest):
        found = planes_of_values(expr, rows, columns, reader, wanted)
    elif isinstance(expr, Regrid):
        found = opened_planes(expr, rows, columns, reader)
    else:
        own = grid.parse(expr.stored.name)
        n_rows = rows[1] - rows[0]
        records = np.ascontiguousarray(reader.rows(expr, *rows)[:, : own.head_bytes])
        found = Planes(*np.moveaxis(records.view(np.float64).reshape(n_rows, -1, 3)[:, columns // own.group], 2, 0))
    if turned:
        found = Planes(*(plane if isinstance(plane, float) else plane.T for plane in found))
    return found


def _words(codes: NDArray[Any], expr: Numbers) -> Rows:
    """Integers [n, m] to fields of words along the last axis, zeros behind the last."""
    import numpy as np

    (n, m), bits, order = codes.shape, expr.bits, expr.order
    word = 8 * expr.stored.block_bytes
    per_unit = word // bits if word % bits == 0 else word  # whole codes in whole words
    padded = np.zeros((n, -(-m // per_unit) * per_unit), np.uint8)
    padded[:, :m] = codes
    n_cols = padded.shape[1]
    rows = np.zeros((n, grid.RECORD + n_cols), np.uint8)
    rows[:, grid.RECORD :] = padded
    out = np.empty((n, n_cols * bits // 8), np.uint8)
    if n_cols:
        _kernels.grid_pack((LAYS["rows"], ORDERS[order], bits, 0, out.shape[1]), (n, n_cols, n_cols), rows, out, -1)
    return out


def _dense(found: Values, encoding: str) -> Rows:
    """float64 numbers in a dense encoding, rounded once; whole numbers into integers."""
    import numpy as np

    from modelfmt.ir.encoding import ENCODINGS

    n, m = found.shape
    row = ENCODINGS[encoding]
    if row.element.kind == "int":
        return np.ascontiguousarray(np.rint(found).astype(row.numpy)).view(np.uint8).reshape(n, -1)
    if encoding not in kernel_types():  # 8-bit floats, which have these numbers
        import ml_dtypes

        return np.ascontiguousarray(found.astype(getattr(ml_dtypes, row.numpy))).view(np.uint8)
    out = np.empty((n, m * row.block_bytes), np.uint8)
    if n and m:
        convert("F64", np.ascontiguousarray(found), encoding, out, n, m)
    return out
