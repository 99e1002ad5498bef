"""Scales, zeros and offsets of coded tensors as records of a grid: read, unpacked, combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfmt import _kernels
from modelfmt.errors import BadValue
from modelfmt.grids.values import decode
from modelfmt.ir import grid
from modelfmt.ir.ops import Coded, Param, Reader, Reshape, geometry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Values = NDArray[np.float64]

__all__ = ["AWQ", "padded", "records", "zeros_of"]


AWQ = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ's word has each of eight neighbours."""


def records(expr: Coded, start: int, stop: int, columns: NDArray[np.int64], reader: Reader) -> Values:
    """scale, offset and zero of the groups that begin at `columns`: float64 [n, groups, 3]."""
    import numpy as np

    found = np.empty((stop - start, len(columns), 3))
    scale: Any = 1.0
    for param in expr.scales:
        numbers = _param(param, start, stop, columns, expr, reader)
        scale = scale / numbers if param.divide else scale * numbers
    if not np.isfinite(scale).all():
        raise BadValue(
            "a scale that is not finite", code="scale-not-finite", place=expr.label, found="NaN or infinity", row=start
        )
    found[..., 0] = scale
    found[..., 1] = 0.0 if expr.offset is None else _param(expr.offset, start, stop, columns, expr, reader)
    found[..., 2] = _param(expr.zero, start, stop, columns, expr, reader) if isinstance(expr.zero, Param) else expr.zero
    return found


def zeros_of(expr: Coded, reader: Reader) -> tuple[float, float]:
    """The smallest and the largest zero that a tensor stores."""
    import numpy as np

    if not isinstance(expr.zero, Param):
        return expr.zero, expr.zero
    n_rows, low, high = geometry(expr.shape, expr.stored)[0], float("inf"), float("-inf")
    columns = np.zeros(1, np.int64) if expr.zero.group == 0 else np.arange(0, expr.n_cols, expr.zero.group)
    step = max(8, (1 << 18) // len(columns) // 8 * 8)
    for start in range(0, n_rows, step):
        found = _param(expr.zero, start, min(start + step, n_rows), columns, expr, reader)
        low, high = min(low, float(found.min(initial=low))), max(high, float(found.max(initial=high)))
    return low, high


def _param(
    param: Param, start: int, stop: int, columns: NDArray[np.int64], expr: Coded, reader: Reader
) -> NDArray[Any]:
    """The numbers of rows start..stop for groups that begin at `columns`, broadcastable to [n, groups]."""
    import numpy as np

    if param.flat:
        places = (np.arange(start, stop)[:, None] * expr.n_cols + columns) // param.group
        first, last = int(places.min(initial=0)), int(places.max(initial=-1)) + 1
        line = Reshape(param.input, (int(np.prod(param.input.shape)), 1))
        flat: Values = reader.values(line, first, max(first, last)).reshape(-1)[places - first].astype(np.float64)
        return flat
    groups = np.zeros(len(columns), np.int64) if param.group == 0 else columns // param.group
    rows = np.zeros(stop - start, np.int64) if param.rows == 0 else np.arange(start, stop) // param.rows
    first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    found = _lines(param, first, last, reader)[rows - first]
    if len(groups) != found.shape[1] or not np.array_equal(groups, np.arange(len(groups))):
        if len(groups) and int(groups.max()) >= found.shape[1]:
            raise BadValue(
                "a column names a group that is not there",
                code="group-index",
                place=expr.label,
                found=int(groups.max()),
                allowed=f"below {found.shape[1]}",
            )
        found = found[:, groups]
    return found.astype(np.float64) + param.plus if param.plus else found.astype(np.float64)


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
        _kernels.grid_unpack((0, 0, param.bits, 0, words.shape[1] * 4), (len(words), n, n), packed, rows)
    if param.add and 32 % param.bits:
        out = (out + np.uint8(param.add)) & np.uint8((1 << param.bits) - 1)
    if param.order == "awq":
        out = out.reshape(len(words), -1, 8)[..., AWQ].reshape(len(words), -1)
    return out


def padded(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes of words that hold as many as are whole in them, lowest first: [n, words] -> [n, words * (32 // bits)]."""
    import numpy as np

    fields = words.view(np.uint32)[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits))
    found: NDArray[np.uint8] = (fields & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(len(words), -1)
    return found
