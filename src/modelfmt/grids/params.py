"""Scales, zeros and offsets of coded tensors as records of a grid: read, unpacked, combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from modelfmt import _kernels
from modelfmt.errors import BadValue
from modelfmt.grids.values import decode
from modelfmt.ir import grid
from modelfmt.ir.ops import Coded, Param, Reader, Reshape, geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Columns = NDArray[np.int64]

Layout = tuple[int, int, int, int, int]

__all__ = ["LAYS", "ORDERS", "Layout", "Planes", "layout", "padded", "planes", "records", "whole_of", "zeros_of"]

LAYS = {"rows": 0, "words": 1, "columns": 2, "blocks": 3}
ORDERS = {"low": 0, "high": 1, "awq": 2}
"""Names of ir.grid.Packing -> numbers of csrc/grid.h."""


def layout(packing: grid.Packing, stride: int) -> Layout:
    """How codes lie, as the kernels take it. stride: bytes of a line."""
    return LAYS[packing.lay], ORDERS[packing.order], packing.bits, packing.flip, stride


_HOW = {"set": 0, "times": 1, "over": 2}


class Planes(NamedTuple):
    """A number for all, or float64 [rows, groups] (turned: [groups, rows])."""

    scale: float | Values
    offset: float | Values
    zero: float | Values


def planes(
    expr: Coded,
    start: int,
    stop: int,
    columns: Columns,
    reader: Reader,
    *,
    turned: bool = False,
    wanted: Sequence[str] = Planes._fields,
) -> Planes:
    """Scale, offset and zero of rows start..stop in the groups that begin at `columns`; what is not wanted is 1, 0, 0.

    Raises BadValue (scale-not-finite, group-index).
    """
    shape = (len(columns), stop - start) if turned else (stop - start, len(columns))
    rows = (start, stop, columns)
    scale: float | Values = 1.0
    if expr.scales and "scale" in wanted:
        scale = _plane(shape, reader)
        finite = True
        for n, param in enumerate(expr.scales):
            if n == 0 and param.divide:
                scale.fill(1.0)
            how = "over" if param.divide else "times" if n else "set"
            finite &= _spread(param, rows, expr, reader, scale, how, turned=turned)
        if not finite:
            raise BadValue(
                "a scale that is not finite",
                code="scale-not-finite",
                place=expr.label,
                found="NaN or infinity",
                row=start,
            )
    others: list[float | Values] = []
    for name, given in (("offset", expr.offset), ("zero", expr.zero)):
        if given is None or name not in wanted:
            others.append(0.0)
        elif isinstance(given, Param):
            plane = _plane(shape, reader)
            _spread(given, rows, expr, reader, plane, "set", turned=turned)
            others.append(plane)
        else:
            others.append(given)
    return Planes(scale, *others)


def _plane(shape: tuple[int, int], reader: Reader) -> Values:
    import numpy as np

    return reader.empty(shape[0], 8 * shape[1]).view(np.float64)


def records(expr: Coded, start: int, stop: int, columns: Columns, reader: Reader) -> Values:
    """The same as float64 [n, groups, 3]."""
    import numpy as np

    found = np.empty((stop - start, len(columns), 3))
    for field, plane in enumerate(planes(expr, start, stop, columns, reader)):
        found[..., field] = plane
    return found


def whole_of(param: Param, start: int, stop: int, reader: Reader) -> Values:
    """The numbers of rows start..stop that have one each, or all the same: float64 [rows, 1]."""
    import numpy as np

    first, last = _line_range(param, start, stop)
    lines = reader.values(param.input, first, last)[:, :1].astype(np.float64)
    which = np.arange(start, stop) // param.rows - first if param.rows else np.zeros(stop - start, np.int64)
    found: Values = lines[which]
    return found


def zeros_of(expr: Coded, reader: Reader) -> tuple[float, float]:
    """The smallest and the largest zero that a tensor stores."""
    import numpy as np

    param = expr.zero
    if not isinstance(param, Param):
        return param, param
    n_rows, low, high = geometry(expr.shape, expr.stored)[0], float("inf"), float("-inf")
    columns = np.zeros(1, np.int64) if param.group == 0 else np.arange(0, expr.n_cols, param.group)
    step = max(8, (1 << 18) // len(columns) // 8 * 8)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        if param.flat:
            found: NDArray[Any] = _flat(param, start, stop, columns, expr, reader)
        else:
            found = _lines(param, *_line_range(param, start, stop), reader)[:, : len(columns)] + param.plus
        low, high = min(low, float(found.min(initial=np.inf))), max(high, float(found.max(initial=-np.inf)))
    return low, high


def _line_range(param: Param, start: int, stop: int) -> tuple[int, int]:
    return (start // param.rows, (stop - 1) // param.rows + 1) if param.rows and stop > start else (0, stop > start)


def _flat(param: Param, start: int, stop: int, columns: Columns, expr: Coded, reader: Reader) -> NDArray[np.float32]:
    """Numbers of neighbouring elements of the whole, in row-major order."""
    import numpy as np

    places = (np.arange(start, stop)[:, None] * expr.n_cols + columns) // param.group
    first, last = int(places.min(initial=0)), int(places.max(initial=-1)) + 1
    line = Reshape(param.input, (int(np.prod(param.input.shape)), 1))
    found: NDArray[np.float32] = reader.values(line, first, max(first, last)).reshape(-1)[places - first]
    return found


def _spread(
    param: Param,
    rows: tuple[int, int, Columns],
    expr: Coded,
    reader: Reader,
    plane: Values,
    how: str,
    *,
    turned: bool,
) -> bool:
    """The numbers of a parameter into a plane; False where some of it are not finite."""
    import numpy as np

    start, stop, columns = rows
    if param.flat:
        found: NDArray[Any] = _flat(param, start, stop, columns, expr, reader)
        groups, per_line, begin = np.arange(len(columns)), 1, 0
    else:
        groups = np.zeros(len(columns), np.int64) if param.group == 0 else columns // param.group
        per_line, begin = param.rows, start
        found = _lines(param, *_line_range(param, start, stop), reader)
    if len(groups) and int(groups.max()) >= found.shape[1]:
        raise BadValue(
            "a column names a group that is not there",
            code="group-index",
            place=expr.label,
            found=int(groups.max()),
            allowed=f"below {found.shape[1]}",
        )
    kind = np.uint8 if found.dtype == np.uint8 else np.float32
    found = found.astype(kind, copy=False)
    if how == "over" and not np.isfinite(found).all():  # what is left of a number over infinity is finite
        return False
    step = (found.shape[1], 1)
    if found.T.flags.c_contiguous:
        found, step = found.T, (1, found.shape[0])
    size = (stop - start, len(columns))
    numbers = np.ascontiguousarray(found)
    lines, which = (begin, per_line), groups.astype(np.uintp)
    return _kernels.grid_spread(
        numbers, kind is np.uint8, step, lines, which, param.plus, _HOW[how], size, turned, plane
    )


def _lines(param: Param, first: int, last: int, reader: Reader) -> NDArray[Any]:
    """Numbers of lines first..last, [n, groups], of packed words or plain values."""
    import numpy as np

    expr = param.input
    if param.bits == 0:
        if not param.turned:
            return reader.values(expr, first, last)
        n_lines = geometry(expr.shape, expr.stored)[0]
        strip = np.ascontiguousarray(reader.columns(expr, (0, n_lines), first, last))
        return decode(strip, expr.stored.name, last - first).T
    per_word = 32 // param.bits
    if param.along == "groups":
        words = np.ascontiguousarray(reader.rows(expr, first, last)).view(np.uint32)
        return _fields(words, param)
    n_lines = geometry(expr.shape, expr.stored)[0]
    begin, end = first // per_word, -(-last // per_word)
    if 32 % param.bits and not param.padded:  # codes straddle words: as many words as bits hold 32 of them
        begin, end = first // 32 * param.bits, -(-last // 32) * param.bits
    if param.turned:
        end = min(end, expr.shape[-1])
        strip = np.ascontiguousarray(reader.columns(expr, (0, n_lines), begin, end)).view(np.uint32)
        fields = _fields(strip, param).T
    else:  # packed along the first axis
        strip = np.ascontiguousarray(reader.rows(expr, begin, min(end, n_lines))).view(np.uint32)
        fields = _fields(np.ascontiguousarray(strip.T), param).T
    skip = first - (begin * per_word if param.padded else begin * 32 // param.bits)
    return fields[skip : skip + last - first]


def _fields(words: NDArray[Any], param: Param) -> NDArray[np.uint8]:
    """Fields of `bits` bits along the last axis of words, lowest first, [n, words] -> [n, codes]."""
    import numpy as np

    if param.add:  # where codes straddle words, to each code instead: that is what gptqmodel does
        words = words + np.uint32(param.add if 32 % param.bits == 0 else 0)
    if param.padded:
        return padded(words, param.bits)
    n = words.shape[1] * 32 // param.bits
    rows = np.empty((len(words), grid.RECORD + n), np.uint8)
    out = rows[:, grid.RECORD :]
    packed = np.ascontiguousarray(words)
    if n:
        packing = (LAYS["rows"], ORDERS[param.order], param.bits, 0, words.shape[1] * 4)
        _kernels.grid_unpack(packing, (len(words), n, n), packed, rows)
    if param.add and 32 % param.bits:
        out = (out + np.uint8(param.add)) & np.uint8((1 << param.bits) - 1)
    return out


def padded(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes of words that hold as many as are whole in them, lowest first: [n, words] -> [n, words * (32 // bits)]."""
    import numpy as np

    fields = words.view(np.uint32)[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits))
    found: NDArray[np.uint8] = (fields & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(len(words), -1)
    return found
