"""Rows from one encoding into another, and what that cost: the step between a source tile and a destination tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfmt.errors import BadValue
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.kernels import convert, error_sums, kernel_types
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
) -> NDArray[np.uint8]:
    """uint8 [n, source row bytes] -> uint8 [n, target row bytes].

    via: a dense encoding that the values are rounded to first. importance: float32 [n_cols], weights of the columns.
    rounding: "ggml" or "best".
    Raises BadValue (NaN or infinity into a block type), naming `tensor`, and the row counted from first_row, and
    column.
    """
    import numpy as np

    if via is not None and via not in (source, target):
        rows, source = encode_rows(rows, source, via, n_cols, tensor=tensor, first_row=first_row), via
    if source == target:
        return rows
    if source not in kernel_types():
        rows, source = decode(rows, source, n_cols).view(np.uint8), "F32"
        if source == target:
            return rows
    out = np.empty((len(rows), ENCODINGS[target].row_bytes(n_cols)), np.uint8)
    try:
        convert(source, rows, target, out, len(rows), n_cols, importance, rounding=rounding, first_row=first_row)
    except BadValue as error:
        error.path = tensor
        raise
    return out


def row_errors(
    rows: NDArray[np.uint8], source: str, result: NDArray[np.uint8], target: str, n_cols: int
) -> tuple[float, float, float]:
    """(sum of squared differences, sum of squares of the source, largest difference) of the same rows in two
    encodings."""
    if source not in kernel_types():
        rows, source = decode(rows, source, n_cols).view("u1"), "F32"
    sums: tuple[Any, Any, Any] = error_sums(source, rows, target, result, len(rows) * n_cols)
    return float(sums[0]), float(sums[1]), float(sums[2])
