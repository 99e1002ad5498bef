"""Rows of grids made from values: the kernel of csrc/quant/grid_round.c behind modelfmt.ir.ops.Nearest."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from modelfmt import _kernels
from modelfmt.errors import BadValue
from modelfmt.grids.params import Planes
from modelfmt.ir import grid
from modelfmt.ir.ops import Nearest, Reader, geometry
from modelfmt.ir.to_grid import RULES
from modelfmt.kernels import kernel_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Choices = tuple[int, int, int, int, int, int, bool]
    Numbers = tuple[float, float, float, float, float, float]

__all__ = ["nearest", "planes_of_values", "rows_at_once"]

_FOUND = {"largest": 0, "farthest": 1, "range": 2, "edge": 3}
_KEPT = {"F32": 0, "F16": 1, "BF16": 2, "E4M3": 3, "power": 4, "power above": 5}
_CODES = {"even": 0, "away": 1, "float": 2, "book": 3}
"""Names of modelfmt.ir.to_grid.Rule -> numbers of csrc/grid.h."""

_STEPS = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
"""Dense type -> the step from 1 to its next number."""

_AT_ONCE = 1 << 17
"""Values that become scales, codes or words before the next do: what stays in a cache."""


def nearest(expr: Nearest, start: int, stop: int, reader: Reader) -> Rows:
    """Rows start..stop. Raises BadValue (not-finite, scale-not-finite)."""
    import numpy as np

    n_all, last = expr.input.shape[-1], expr.first + expr.shape[-1]
    begin, end = expr.first // expr.size * expr.size, min(-(-last // expr.size) * expr.size, n_all)
    low = start // expr.rows * expr.rows
    high = min(-(-stop // expr.rows) * expr.rows, geometry(expr.input.shape, expr.input.stored)[0])
    kind, given = _given(expr, (low, high), begin, end, reader)
    own = grid.Grid("-" if expr.records else expr.table, expr.group, end - begin)
    made = reader.empty(high - low, own.row_bytes)
    size = (high - low, own.n_cols, own.group)
    choices, numbers, book = _rule(expr.how, expr.table, expr.scale, expr.whole)
    how, shared = (*choices, expr.records), (expr.size, expr.rows)
    fault = _kernels.grid_round(how, numbers, book, shared, size, kind, given, made)
    if fault is not None:
        raise _refused(expr, low + fault[0], begin + fault[1], of_scale=fault[2])
    made = made[start - low : stop - low]
    if (begin, end) == (expr.first, last):
        return made
    head, skip = own.head_bytes, expr.first - begin
    records = made[:, skip // own.group * grid.RECORD :][:, : expr.shape[-1] // own.group * grid.RECORD]
    codes = made[:, head + skip :][:, : 0 if expr.records else expr.shape[-1]]
    return np.concatenate([records, codes], axis=1)


def planes_of_values(
    expr: Nearest, rows: tuple[int, int], columns: NDArray[np.int64], reader: Reader, wanted: Sequence[str]
) -> Planes:
    """Scale, offset and zero of the groups that begin at some columns: float64 [rows, groups] of each that is wanted, 0
    for the others."""
    import numpy as np

    own = expr.group
    first, last = int(columns.min(initial=0)) // own * own, int(columns.max(initial=0)) // own * own + own
    only = msgspec.structs.replace(expr, records=True, first=expr.first + first, width=last - first)
    fields = {field: np.empty((rows[1] - rows[0], len(columns))) for field in wanted}
    step, which = rows_at_once(last - first, expr.rows), (columns - first) // own
    every = slice(None) if np.array_equal(which, np.arange((last - first) // own)) else which
    for start in range(rows[0] // expr.rows * expr.rows, rows[1], step):
        begin, stop = max(start, rows[0]), min(start + step, rows[1])
        records = nearest(only, begin, stop, reader).view(np.float64).reshape(stop - begin, -1, 3)
        for at, field in enumerate(Planes._fields):
            if field in fields:
                fields[field][begin - rows[0] : stop - rows[0]] = records[:, every, at]
    return Planes(*(fields.get(field, 0.0) for field in Planes._fields))


def rows_at_once(n_cols: int, unit: int) -> int:
    """Rows of values that stay in a cache, a multiple of `unit`."""
    return max(1, _AT_ONCE // (n_cols * unit)) * unit


def _given(expr: Nearest, rows: tuple[int, int], begin: int, end: int, reader: Reader) -> tuple[int, Rows]:
    """Columns begin..end of the values, as a type of the kernels."""
    import numpy as np

    source, types = expr.input, kernel_types()
    if source.stored.name in types and source.stored.dense and source.stored.element.kind == "float":
        return types[source.stored.name].id, np.ascontiguousarray(reader.columns(source, rows, begin, end))
    values = np.ascontiguousarray(reader.values(source, *rows)[:, begin:end])
    return types["F32"].id, values.view(np.uint8)


@lru_cache(256)
def _rule(how: str, table: str, scale: str, whole: float) -> tuple[Choices, Numbers, bytes]:
    """A row of the table as the kernel takes it, but for whether records alone are wanted."""
    import numpy as np

    rule, limit = RULES[how], (1 << grid.INTEGERS.get(table, 8)) - 1
    shift = (limit + 1) // 2 if rule.codes == "even" and rule.found != "edge" else 0
    reach = rule.reach or {"largest": limit / 2, "farthest": (limit + 1) / 2}.get(rule.found, float(limit))
    least = _STEPS[scale] if rule.least is None else rule.least
    numbers = (reach, whole, rule.over * whole, least, rule.floor, rule.top)
    kinds = (_FOUND[rule.found], _CODES[rule.codes], _KEPT[scale], _KEPT[rule.stored or "F32"])
    none = np.zeros(15, np.float32), np.zeros(16, np.uint8)
    thresholds, codes = _book(table, rule.ties, scale) if rule.codes == "book" else none
    return (*kinds, limit, shift, rule.divide), numbers, thresholds.tobytes() + codes.tobytes()


def _book(table: str, ties: str, scale: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Fifteen thresholds, in order, and the code of what is above none of them, one, and so on.

    Half way between two entries is below the threshold; an even code takes it where ties go to these. Of signed zeros,
    "even" keeps that of a negative value, "low" knows one. There, quotients are rounded to the type `scale` first, as
    MLX computes: half of its step more.
    """
    import numpy as np

    values = np.array(grid.TABLES[table], np.float32)
    if table != "E2M1":
        return ((values[:-1] + values[1:]) / 2).astype(np.float32), np.arange(16, dtype=np.uint8)
    sizes = values[:8]
    between = (sizes[:-1] + sizes[1:]) / 2
    below = np.nextafter(between, np.float32(0))
    codes = np.array([*range(15, 7, -1), *range(8)], np.uint8)
    if ties == "even":  # the upper one of two neighbours, where its code is even: what reaches the middle is above
        up = np.arange(1, 8) % 2 == 0
        above, under = np.where(up, below, between), np.where(up, -between, np.nextafter(-between, np.float32(-9)))
        return np.concatenate([under[::-1], [np.float32(-1e-45)], above]).astype(np.float32), codes
    codes[7] = 0
    above = between if scale == "F32" else between + 2.0 ** np.floor(np.log2(between)) * np.float32(_STEPS[scale] / 2)
    under = np.nextafter(-above.astype(np.float32), np.float32(-9))
    return np.concatenate([under[::-1], [np.float32(0)], above]).astype(np.float32), codes


def _refused(expr: Nearest, row: int, column: int, *, of_scale: bool) -> BadValue:
    if of_scale:
        return BadValue(
            "a scale beyond the range of its type",
            code="scale-not-finite",
            place=f"row {row}, column {column}",
            found=expr.scale,
            row=row,
            column=column,
        )
    return BadValue(
        "a value that cannot be quantized",
        code="not-finite",
        place=f"row {row}, column {column}",
        found="NaN or infinity",
        allowed="finite numbers",
        row=row,
        column=column,
    )
