"""Values of grids, and blocks made of them and taken for them: the kernels of csrc/grid.h behind arrays."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from modelfmt import _kernels
from modelfmt.errors import BadValue, UnsupportedError
from modelfmt.grids.kinds import GROUPS, TABLES
from modelfmt.ir import grid
from modelfmt.kernels import convert, kernel_types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]
    Values = NDArray[np.float64]

__all__ = ["as_blocks", "decode", "doubles", "fit", "no_place", "opened", "storing", "table", "values"]


def values(rows: Rows, name: str) -> Values:
    """Rows of a grid as float64 [n, columns]: exact, but for offsets."""
    import numpy as np

    own = grid.parse(name)
    out = np.empty((len(rows), own.n_cols), np.float64)
    _kernels.grid_values((len(rows), own.n_cols, own.group), rows, table(own.table), out)
    return out


def doubles(rows: Rows, name: str, n_cols: int) -> Values:
    """Rows of any type as float64 [n, n_cols]; exact for grids and for types that are grids."""
    import numpy as np

    if name.startswith("GRID:"):
        return values(rows, name)
    if name in GROUPS:
        own = grid.grid_name(TABLES[name], GROUPS[name], n_cols)
        return values(opened(rows, name, n_cols), own)
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
        raise no_place(at, column, target)
    return out


def fit(rows: Rows, name: str, target: str) -> float | None:
    """The largest error of these rows as blocks of a type, over the largest magnitude of the block's grid; None where
    they do not fit."""
    own, row = grid.parse(name), kernel_types()[target]
    if own.n_cols % row.block_elements:
        return None
    worst, fits, _, _ = _kernels.grid_to_blocks(row.id, (len(rows), own.n_cols, own.group), own.limit, rows, None)
    return float(worst) if fits else None


def opened(blocks: Rows, name: str, n_cols: int) -> Rows:
    import numpy as np

    group = GROUPS[name]
    out = np.empty((len(blocks), n_cols // group * grid.RECORD + n_cols), np.uint8)
    _kernels.grid_from_blocks(kernel_types()[name].id, (len(blocks), n_cols, group), np.ascontiguousarray(blocks), out)
    return out


def no_place(row: int, column: int, target: str, first: int = 0) -> BadValue:
    return BadValue(
        "a code or a scale has no place in this type",
        code="no-place",
        place=f"row {first + row}, column {column}",
        found=target,
        hint="the source has changed since the plan was made",
        row=first + row,
        column=column,
    )


def storing(
    planes: tuple[float | Values, float | Values, float | Values],
    count: int,
    top: float,
    integer: bool,
    scale: str,
    offset: str | None,
    rezero: float | None,
) -> float:
    """The largest error of storing scales, and offsets or whole zeros, in dense types (mf_grid_rounding)."""
    import numpy as np

    types = kernel_types()
    to = (types[scale].id, -1 if offset is None else types[offset].id)
    size, shift, zero = (plane if isinstance(plane, float) else np.ascontiguousarray(plane) for plane in planes)
    return _kernels.grid_rounding(
        (size, shift, zero), count, (*to, top, integer, float("nan") if rezero is None else rezero)
    )


@cache
def table(name: str) -> NDArray[np.float64] | None:
    import numpy as np

    found = grid.values(name)
    if found is None:
        return None
    entries = np.zeros(256)
    entries[: len(found)] = found
    return entries
