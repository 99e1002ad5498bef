"""Makes the rows of grids, and what is made of grids: the kernels of csrc/grid.h behind expressions.

Here is what the data of `modelfmt.ir.ops.Coded` and its kin mean. Every function takes the reader that it gets its
inputs from, so that nothing here opens a file.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt import _kernels
from modelfmt.errors import BadValue, UnsupportedError
from modelfmt.ir import grid
from modelfmt.ir.ops import (
    Blocks,
    Coded,
    Concat,
    Expression,
    Nearest,
    Numbers,
    Packed,
    Param,
    Reader,
    Regrid,
    Reshape,
    RopePermute,
    Slice,
    Stack,
    Swap,
    Widened,
    geometry,
    row_bytes,
    with_inputs,
)
from modelfmt.kernels import convert, kernel_types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Values = NDArray[np.float64]

__all__ = [
    "BLOCKS",
    "GROUPS",
    "as_blocks",
    "blocks_of",
    "decode",
    "doubles",
    "fit",
    "records_of",
    "regridded",
    "restricted",
    "source",
    "tile",
    "values",
    "widened",
    "zeros_of",
]

GROUPS = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"), 32),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q6_K", "NVFP4"), 16),
    "TQ2_0": 256,
    "Q1_0": 128,
    "Q2_0": 64,
}
"""GGUF type -> the columns that share a record in its grid."""

_TABLES = {
    "Q4_0": "U4",
    "Q4_1": "U4",
    "Q5_0": "U5",
    "Q5_1": "U5",
    "Q8_0": "U8",
    "Q2_K": "U2",
    "Q3_K": "U3",
    "Q4_K": "U4",
    "Q5_K": "U5",
    "Q6_K": "U6",
    "IQ4_NL": "IQ4",
    "IQ4_XS": "IQ4",
    "TQ2_0": "U2",
    "MXFP4": "E2M1",
    "NVFP4": "E2M1",
    "Q1_0": "U1",
    "Q2_0": "U2",
}

BLOCKS = ("TQ2_0", "Q2_0", "MXFP4", "Q4_0", "NVFP4", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types whose blocks are made from grids, smallest first."""

_WHOLE = {"E2M1": (("U5", 0.5), ("U8", 0.5)), "IQ4": (("U8", 1.0),)}
"""Table -> integers that hold it, and of which number its values are multiples."""

_LAYS = {"rows": 0, "words": 1, "columns": 2}
_ORDERS = {"low": 0, "high": 1, "awq": 2}
_AWQ = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ's word has each of eight neighbours."""


def source(name: str) -> bool:
    """True where blocks of a type can be seen as a grid."""
    return name in GROUPS


def regridded(expr: Expression) -> Expression:
    """An expression of blocks as one of a grid. Raises UnsupportedError (no-grid)."""
    name = expr.stored.name
    if name.startswith("GRID:"):
        return expr
    if name not in GROUPS:
        raise UnsupportedError(
            "the values of this type lie on no grid", code="no-grid", found=name, allowed=", ".join(GROUPS)
        )
    return Regrid(expr, _TABLES[name], GROUPS[name])


def widened(expr: Expression) -> list[Expression]:
    """A grid of a table whose values are whole multiples of one number, as grids of integers, the smallest first."""
    own = grid.parse(expr.stored.name)
    found: list[Expression] = []
    for table, factor in _WHOLE.get(own.table, ()):
        zero = 1 << grid.INTEGERS[table] - 1
        codes = tuple(int(value / factor) + zero for value in grid.TABLES[own.table])
        found.append(Widened(expr, table, codes, float(zero), factor))
    return found


def tile(expr: Expression, start: int, stop: int, reader: Reader) -> Rows:
    """Rows of a Coded, Regrid, Packed or Numbers expression."""
    match expr:
        case Coded():
            return _coded(expr, start, stop, reader)
        case Regrid():
            return _regrid(expr, start, stop, reader)
        case Packed():
            return _packed(expr, start, stop, reader)
        case Numbers():
            return _numbers(expr, start, stop, reader)
        case Blocks():
            return _blocks(expr, start, stop, reader)
    raise AssertionError(type(expr).__name__)


def blocks_of(expr: Expression, target: str) -> Expression | None:
    """The same rows, made into blocks of a type where they are read, before operations move them: those move blocks as
    well. None where codes are not read from tensors of their own."""
    if isinstance(expr, Coded):
        direct = expr.index is None and not expr.records and expr.packing.lay in _LAYS
        return Blocks(expr, target) if direct else None
    if is_row_operation(expr):
        parts = [blocks_of(part, target) for part in expr.inputs]
        return None if None in parts else with_inputs(expr, lambda part: blocks_of(part, target) or part)
    return None


def is_row_operation(expr: Expression) -> bool:
    """True for what moves whole rows of its inputs and nothing else."""
    return isinstance(expr, Reshape | RopePermute | Stack | Concat | Slice | Swap)


def _blocks(expr: Blocks, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    inner, row = expr.input, kernel_types()[expr.encoding]
    if inner.packing.lay == "columns" and (start % 8 or stop % 8):
        first, last = start // 8 * 8, -(-stop // 8) * 8
        return _blocks(expr, first, last, reader)[start - first : stop - first]
    own, n = grid.parse(inner.stored.name), stop - start
    packed, stride = _span(inner, start, stop, reader, inner.first, own.n_cols)
    columns = inner.first + np.arange(own.n_cols // own.group) * own.group
    records = _records(inner, start, stop, columns, reader)
    out = np.empty((n, row_bytes(expr)), np.uint8)
    packing = inner.packing
    layout = (_LAYS[packing.lay], _ORDERS[packing.order], packing.bits, packing.flip, stride)
    size = (n, own.n_cols, own.group)
    fault = _kernels.grid_move(layout, size, packed, records, row.id, own.limit, out)
    if fault is not None:
        raise _no_place(*fault, expr.encoding, start)
    return out


def _no_place(row: int, column: int, target: str, first: int = 0) -> BadValue:
    return BadValue(
        "a code or a scale has no place in this type",
        code="no-place",
        place=f"row {first + row}, column {column}",
        found=target,
        hint="the source has changed since the plan was made",
        row=first + row,
        column=column,
    )


def records_of(expr: Expression) -> Expression:
    """The same rows of a grid without their codes: what scales and zeros there are, for a fraction of the bytes."""
    if isinstance(expr, Coded | Regrid | Nearest):
        return msgspec.structs.replace(expr, records=True)
    return with_inputs(expr, records_of)


def restricted(expr: Expression, first: int, last: int, group: int) -> Expression:
    """Columns first..last of a grid, in groups of `group`, which divides the grid's and both numbers."""
    if isinstance(expr, Coded):
        shape = (*expr.shape[:-1], last - first)
        return msgspec.structs.replace(expr, shape=shape, group=group, first=expr.first + first, whole=expr.n_cols)
    if isinstance(expr, Regrid | Nearest):
        return msgspec.structs.replace(expr, first=expr.first + first, width=last - first, group=group)
    if isinstance(expr, Reshape):
        inner = restricted(expr.input, first, last, group)
        return msgspec.structs.replace(expr, input=inner, shape=(*expr.shape[:-1], last - first))
    return with_inputs(expr, lambda part: restricted(part, first, last, group))


def values(rows: Rows, name: str) -> Values:
    """Rows of a grid as float64 [n, columns]: exact, but for offsets."""
    import numpy as np

    own = grid.parse(name)
    out = np.empty((len(rows), own.n_cols), np.float64)
    _kernels.grid_values((len(rows), own.n_cols, own.group), rows, _table(own.table), out)
    return out


def doubles(rows: Rows, name: str, n_cols: int) -> Values:
    """Rows of any type as float64 [n, n_cols]; exact for grids and for types that are grids."""
    import numpy as np

    if name.startswith("GRID:"):
        return values(rows, name)
    if name in GROUPS:
        own = grid.grid_name(_TABLES[name], GROUPS[name], n_cols)
        return values(_opened(rows, name, n_cols), own)
    return decode(rows, name, n_cols).astype(np.float64)


def decode(rows: NDArray[np.uint8], name: str, n_cols: int) -> NDArray[np.float32]:
    """Encoded rows uint8 [n, row_bytes] -> float32 [n, n_cols]."""
    import numpy as np

    if name == "F32":
        return rows.view(np.float32)
    if name.startswith("GRID:"):
        return values(rows, name).astype(np.float32)
    from modelfmt.ir.encoding import ENCODINGS

    row = ENCODINGS[name]
    if name in kernel_types() and not (row.dense and row.element.kind == "int"):
        out = np.empty((len(rows), n_cols), np.float32)
        convert(name, rows, "F32", out, len(rows), n_cols)
        return out
    if not row.numpy or row.element.kind == "complex":
        raise UnsupportedError("values of this encoding cannot be computed", code="no-values", found=name)
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, row.numpy, None) or row.numpy)
    return rows.view(dtype).astype(np.float32)


def as_blocks(rows: Rows, name: str, target: str) -> Rows:
    """Rows of a grid as blocks of a type. Raises BadValue (no-place) where a code or scale does not fit."""
    import numpy as np

    own, row = grid.parse(name), kernel_types()[target]
    out = np.empty((len(rows), own.n_cols // row.block_elements * row.block_bytes), np.uint8)
    _, fits, at, column = _kernels.grid_to_blocks(row.id, (len(rows), own.n_cols, own.group), own.limit, rows, out)
    if not fits:
        raise _no_place(at, column, target)
    return out


def fit(rows: Rows, name: str, target: str) -> float | None:
    """The largest error of these rows as blocks of a type, over the largest magnitude of the block's grid; None where
    they do not fit."""
    own, row = grid.parse(name), kernel_types()[target]
    if own.n_cols % row.block_elements:
        return None
    worst, fits, _, _ = _kernels.grid_to_blocks(row.id, (len(rows), own.n_cols, own.group), own.limit, rows, None)
    return float(worst) if fits else None


@cache
def _table(name: str) -> NDArray[np.float64] | None:
    import numpy as np

    found = grid.values(name)
    if found is None:
        return None
    table = np.zeros(256)
    table[: len(found)] = found
    return table


def _coded(expr: Coded, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    if expr.packing.lay == "columns" and (start % 8 or stop % 8):  # words hold eight rows
        first, last = start // 8 * 8, -(-stop // 8) * 8
        return _coded(expr, first, last, reader)[start - first : stop - first]
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
    out[:, : n_groups * grid.RECORD] = _records(expr, start, stop, columns, reader).view(np.uint8).reshape(n, -1)
    return out


def _records(expr: Coded, start: int, stop: int, columns: NDArray[np.int64], reader: Reader) -> Values:
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
        return _padded(words, param.bits)
    n = words.shape[1] * 32 // param.bits
    rows = np.empty((len(words), grid.RECORD + n), np.uint8)
    out = rows[:, grid.RECORD :]
    packed = np.ascontiguousarray(words)
    if n:
        _kernels.grid_unpack((0, 0, param.bits, 0, words.shape[1] * 4), (len(words), n, n), packed, rows)
    if param.add and 32 % param.bits:
        out = (out + np.uint8(param.add)) & np.uint8((1 << param.bits) - 1)
    if param.order == "awq":
        out = out.reshape(len(words), -1, 8)[..., _AWQ].reshape(len(words), -1)
    return out


def _padded(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes of words that hold as many as are whole in them, lowest first: [n, words] -> [n, words * (32 // bits)]."""
    import numpy as np

    fields = words.view(np.uint32)[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits))
    found: NDArray[np.uint8] = (fields & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(len(words), -1)
    return found


def _span(expr: Coded, start: int, stop: int, reader: Reader, first: int, n_cols: int) -> tuple[Rows, int]:
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


def _unpack(expr: Coded, start: int, stop: int, reader: Reader, out: Rows) -> None:
    packing = expr.packing
    if packing.lay == "padded":
        codes = _padded(reader.rows(expr.codes, start, stop), packing.bits)
        head = expr.shape[-1] // expr.group * grid.RECORD
        out[:, head:] = codes[:, expr.first : expr.first + expr.shape[-1]]
        return
    packed, stride = _span(expr, start, stop, reader, expr.first, expr.shape[-1])
    layout = (_LAYS[packing.lay], _ORDERS[packing.order], packing.bits, packing.flip, stride)
    _kernels.grid_unpack(layout, (stop - start, expr.shape[-1], expr.group), packed, out)


def _sorted_codes(expr: Coded, start: int, stop: int, reader: Reader, order: NDArray[np.int64], out: Rows) -> None:
    """The columns in the order of their groups, of which expr may be a window."""
    import numpy as np

    n_all, n_cols = expr.n_cols, expr.shape[-1]
    packed, stride = _span(expr, start, stop, reader, 0, n_all)
    packing = expr.packing
    layout = (_LAYS[packing.lay], _ORDERS[packing.order], packing.bits, packing.flip, stride)
    whole = np.empty((stop - start, grid.RECORD + n_all), np.uint8)
    _kernels.grid_unpack(layout, (stop - start, n_all, n_all), packed, whole)
    chosen = grid.RECORD + order[expr.first : expr.first + n_cols]
    out[:, n_cols // expr.group * grid.RECORD :] = whole[:, chosen]


def _opened(blocks: Rows, name: str, n_cols: int) -> Rows:
    import numpy as np

    group = GROUPS[name]
    out = np.empty((len(blocks), n_cols // group * grid.RECORD + n_cols), np.uint8)
    _kernels.grid_from_blocks(kernel_types()[name].id, (len(blocks), n_cols, group), np.ascontiguousarray(blocks), out)
    return out


def _regrid(expr: Regrid, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    name, n_all = expr.input.stored.name, expr.input.shape[-1]
    rows = _opened(reader.rows(expr.input, start, stop), name, n_all)
    width = expr.width or n_all
    own, n = GROUPS[name], len(rows)
    records = rows[:, : n_all // own * grid.RECORD].reshape(n, -1, grid.RECORD)
    which = (expr.first + np.arange(width // expr.group) * expr.group) // own
    head = records if len(which) == records.shape[1] else records[:, which]
    if expr.records:
        return np.ascontiguousarray(head.reshape(n, -1))
    if width == n_all and expr.group == own:
        return rows
    begin = n_all // own * grid.RECORD + expr.first
    return np.concatenate([head.reshape(n, -1), rows[:, begin : begin + width]], axis=1)


def _packed(expr: Packed, start: int, stop: int, reader: Reader) -> Rows:
    import numpy as np

    packing, word = expr.packing, expr.stored.block_bytes
    if packing.lay == "rows":
        own, rows = grid.parse(expr.input.stored.name), reader.rows(expr.input, start, stop)
        n_lines, stride = stop - start, expr.shape[-1] * word
    else:
        per_line = 32 // packing.bits if packing.lay == "words" else 1
        if packing.lay == "words" and 32 % packing.bits:
            return _packed_threes(expr, start, stop, reader)
        whole = grid.parse(expr.input.stored.name)
        first, last = start * per_line, stop * per_line
        group = gcd(whole.group, first, last - first)
        window = restricted(expr.input, first, last, group)
        own, rows = grid.parse(window.stored.name), reader.rows(window, 0, geometry(window.shape, window.stored)[0])
        n_lines, stride = stop - start, expr.shape[-1] * word
    out = np.empty((n_lines, stride), np.uint8)
    layout = (_LAYS[packing.lay], _ORDERS[packing.order], packing.bits, packing.flip, stride)
    fault = _kernels.grid_pack(layout, (len(rows), own.n_cols, own.group), np.ascontiguousarray(rows), out, expr.rezero)
    if fault is not None:
        raise _no_place(*fault, f"{packing.bits} bits")
    return out


def _packed_threes(expr: Packed, start: int, stop: int, reader: Reader) -> Rows:
    """Words of 3-bit codes, of which three go together."""
    first, last = start // 3 * 3, -(-stop // 3) * 3
    columns = first * 32 // 3, last * 32 // 3
    group = gcd(grid.parse(expr.input.stored.name).group, columns[0], columns[1] - columns[0])
    window = restricted(expr.input, *columns, group)
    whole = msgspec.structs.replace(expr, input=window)
    import numpy as np

    own = grid.parse(window.stored.name)
    rows = reader.rows(window, 0, geometry(window.shape, window.stored)[0])
    stride = whole.shape[-1] * 4
    out = np.empty((last - first, stride), np.uint8)
    layout = (1, 0, expr.packing.bits, expr.packing.flip, stride)
    if _kernels.grid_pack(layout, (len(rows), own.n_cols, own.group), rows, out, expr.rezero) is not None:
        raise _no_place(0, 0, f"{expr.packing.bits} bits")
    return out[start - first : stop - first]


def _numbers(expr: Numbers, start: int, stop: int, reader: Reader) -> Rows:
    """Lines of the tensor as laid out: rows of the grid, or columns of it where turned."""
    import numpy as np

    n_rows = geometry(expr.input.shape, expr.input.stored)[0]
    if expr.turned:  # every line has a number of every row
        found = _of_records(expr, 0, n_rows, reader).T[start:stop]
        return _words(found, expr.bits, expr.order) if expr.bits else _dense(found, expr.encoding)
    if expr.along == "rows":  # words of neighbouring rows, one line for each word; as many words as bits hold 32 rows
        first = start // expr.bits * 32
        codes = _of_records(expr, first, min(-(-stop // expr.bits) * 32, n_rows), reader)
        lines = _words(codes.T, expr.bits, expr.order).view(np.uint32).T
        skip = start - start // expr.bits * expr.bits
        return np.ascontiguousarray(lines[skip : skip + stop - start]).view(np.uint8)
    found = _of_records(expr, start, stop, reader)
    return _words(found, expr.bits, expr.order) if expr.bits else _dense(found, expr.encoding)


def _of_records(expr: Numbers, start: int, stop: int, reader: Reader) -> Values:
    """The numbers of lines start..stop, each of expr.rows rows: float64 [n, groups]."""
    import numpy as np

    own = grid.parse(expr.input.stored.name)
    last = min(stop * expr.rows, geometry(expr.input.shape, expr.input.stored)[0])
    rows = reader.rows(expr.input, start * expr.rows, last)
    records = np.ascontiguousarray(rows).view(np.float64).reshape(len(rows), -1, 3)[:: expr.rows]
    step = max(1, expr.group // own.group) if expr.group else records.shape[1]
    records = records[:, ::step]
    scale, offset, zero = records[..., 0], records[..., 1], records[..., 2]
    if expr.what == "scale":
        return scale
    if expr.what == "exponent":  # of a power of two, as an E8M0 byte
        return np.frexp(scale)[1] + 126.0
    if expr.what == "offset":  # of codes that were moved so that `rezero` is their zero
        return offset - scale * (zero if expr.rezero == 0.0 else expr.rezero)
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero that says what an offset says
        whole: Values = np.rint(zero - np.where(scale == 0.0, 0.0, offset / scale))
    return whole


def _words(codes: NDArray[Any], bits: int, order: str) -> Rows:
    """Integers [n, m] to fields of 32-bit words along the last axis, zeros behind the last."""
    import numpy as np

    n, m = codes.shape
    per_unit = 8 if order == "awq" else 32 if 32 % bits else 32 // bits
    padded = np.zeros((n, -(-m // per_unit) * per_unit), np.uint8)
    padded[:, :m] = codes
    if order == "awq":
        inverse = np.argsort(_AWQ)
        padded = padded.reshape(n, -1, 8)[..., inverse].reshape(n, -1)
    n_cols = padded.shape[1]
    rows = np.zeros((n, grid.RECORD + n_cols), np.uint8)
    rows[:, grid.RECORD :] = padded
    out = np.empty((n, n_cols * bits // 8), np.uint8)
    if n_cols:
        _kernels.grid_pack((0, 0, bits, 0, n_cols * bits // 8), (n, n_cols, n_cols), rows, out, -1)
    return out


def _dense(found: Values, encoding: str) -> Rows:
    """float64 numbers in a dense encoding, rounded once; whole numbers into integers."""
    import numpy as np

    from modelfmt.ir.encoding import ENCODINGS

    n, m = found.shape
    row = ENCODINGS[encoding]
    if row.element.kind == "int":
        return np.ascontiguousarray(np.rint(found).astype(row.numpy)).view(np.uint8).reshape(n, -1)
    out = np.empty((n, m * row.block_bytes), np.uint8)
    if n and m:
        convert("F64", np.ascontiguousarray(found), encoding, out, n, m)
    return out
