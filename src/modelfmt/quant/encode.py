"""Rows from one encoding into another, and what that cost: the step between a source tile and a destination tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfmt import grids
from modelfmt.errors import BadValue
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.kernels import can_decode, convert, error_sums, kernel_types
from modelfmt.tiles import decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["encode_rows", "row_errors"]


def encode_rows(
    rows: NDArray[np.uint8],
    source: str,
    target: str,
    n_cols: int,
    *,
    via: str | None = None,
    importance: NDArray[np.float32] | None = None,
    rounding: str = "ggml",
    tensor: str = "",
    first_row: int = 0,
    moved: bool = False,
) -> NDArray[np.uint8]:
    """uint8 [n, source row bytes] -> uint8 [n, target row bytes].

    via: a dense encoding that the values are rounded to first. importance: float32 [n_cols], weights of the columns.
    rounding: "ggml" or "best". moved: from a grid, codes are moved into blocks as they are.
    Raises BadValue (NaN or infinity into a block type), naming `tensor`, and the row counted from first_row, and
    column.
    """
    import numpy as np

    if via is not None and via not in (source, target):
        rows, source = encode_rows(rows, source, via, n_cols, tensor=tensor, first_row=first_row), via
    if source == target:
        return rows
    if source.startswith("GRID:"):
        if moved and target in grids.BLOCKS:
            return grids.as_blocks(rows, source, target)
        if ENCODINGS[target].dense:
            rows, source = np.ascontiguousarray(grids.values(rows, source)).view(np.uint8), "F64"
    if source not in kernel_types():
        rows, source = decode(rows, source, n_cols).view(np.uint8), "F32"
        if source == target:
            return rows
    out = np.empty((len(rows), ENCODINGS[target].row_bytes(n_cols)), np.uint8)
    with BadValue.of(tensor):
        convert(source, rows, target, out, len(rows), n_cols, importance, rounding=rounding, first_row=first_row)
    return out


def row_errors(
    rows: NDArray[np.uint8], source: str, result: NDArray[np.uint8], target: str, n_cols: int
) -> tuple[float, float, float] | None:
    """(sum of squared differences, sum of squares of the source, largest difference) of the same rows in two
    encodings. None of what stays as it is and has no values of its own: integers, packed codes."""
    if source.startswith("GRID:"):
        return _grid_errors(rows, source, result, target, n_cols)
    if source == target and not can_decode(source):
        return None
    if not can_decode(source):
        rows, source = decode(rows, source, n_cols).view("u1"), "F32"
    sums: tuple[Any, Any, Any] = error_sums(source, rows, target, result, len(rows) * n_cols)
    return float(sums[0]), float(sums[1]), float(sums[2])


_AT_ONCE = 1 << 18  # elements compared at a time


def _grid_errors(
    rows: NDArray[np.uint8], source: str, result: NDArray[np.uint8], target: str, n_cols: int
) -> tuple[float, float, float]:
    """The same from a grid, in float64 throughout; the order of the sums does not depend on anything else."""
    import numpy as np

    step = max(1, _AT_ONCE // max(n_cols, 1))
    difference = total = largest = 0.0
    for start in range(0, len(rows), step):
        wanted = grids.doubles(rows[start : start + step], source, n_cols)
        off = grids.doubles(result[start : start + step], target, n_cols) - wanted
        difference += float(np.sum(off * off))
        total += float(np.sum(wanted * wanted))
        largest = max(largest, float(np.max(np.abs(off), initial=0.0)))
    return difference, total, largest
