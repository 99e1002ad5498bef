"""Values quantized to a grid, each to the nearest code: what a scheme makes of weights that are not quantized yet.

The scale of a group is found first and rounded to the type that it will be stored in; codes are chosen for that scale.
Sources: compressed-tensors 0.20 quantization/utils/helpers.py (calculate_qparams) and lifecycle/forward.py (quantize)
for symmetric, asymmetric and e4m3; mlx 0.32 backend/cpu/quantized.cpp for mlx; bitsandbytes 0.50
backends/default/ops.py for nf4. All of it in float32, one operation after another, so that the codes are theirs.
Not here: calibration (GPTQ, AWQ and the like need text).
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Any

from modelfmt.errors import BadValue
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.op import Op, Reader, geometry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]
    Found = tuple[Any, Any, Any, Callable[[], Any]]

__all__ = ["ROUNDINGS", "NestedCodes", "ToGrid", "nearest"]


class ToGrid(Op, frozen=True):
    """Rows of a grid made from dense values [.., rows, columns].

    how: a row of ROUNDINGS. size: columns that share a scale; rows: neighbouring rows that do (blocks, of a matrix
    alone). scale: the dense type that scales are stored in. group, records, first, width: as in Regrid and Coded.
    """

    input: Expression
    how: str
    table: str
    size: int
    scale: str
    group: int
    rows: int = 1
    records: bool = False
    first: int = 0
    width: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input.shape[:-1], self.width or self.input.shape[-1])

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]

    @property
    def zeros(self) -> tuple[float, float]:
        """The smallest and the largest zero that there can be; of offsets, which are no zeros, what no code reaches."""
        limit = float(_limit(self))
        half = (limit + 1.0) / 2.0
        return {"symmetric": (half, half), "asymmetric": (0.0, limit)}.get(self.how, (-1.0, limit + 1.0))

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        n_all, last = self.input.shape[-1], self.first + self.shape[-1]
        begin, end = self.first // self.size * self.size, min(-(-last // self.size) * self.size, n_all)
        low = start // self.rows * self.rows
        high = min(-(-stop // self.rows) * self.rows, geometry(self.input.shape, self.input.stored)[0])
        given = self._values(low, high, begin, end, reader)
        n, n_groups = high - low, -(-(end - begin) // self.size)
        padded = np.zeros((n, n_groups * self.size), np.float32)
        padded[:, : end - begin] = given
        scale, offset, zero, codes = ROUNDINGS[self.how](padded.reshape(n, n_groups, self.size), self)
        which = (self.first - begin + np.arange(self.shape[-1] // self.group) * self.group) // self.size
        records = np.empty((n, n_groups, 3))
        records[..., 0], records[..., 1], records[..., 2] = scale, offset, zero
        head = np.ascontiguousarray(records[:, which]).view(np.uint8).reshape(n, -1)
        if not self.records:
            codes = codes().reshape(n, -1)[:, self.first - begin : last - begin].astype(np.uint8)
            head = np.concatenate([head, codes], axis=1)
        made: Rows = np.ascontiguousarray(head[start - low : stop - low])
        return made

    def _values(self, low: int, high: int, begin: int, end: int, reader: Reader) -> NDArray[np.float32]:
        import numpy as np

        if (begin, end) == (0, self.input.shape[-1]):
            found = reader.values(self.input, low, high)
        else:
            row = self.input.stored
            strip = np.ascontiguousarray(reader.columns(self.input, (low, high), begin, end))
            found = strip.view(_numpy(row.name)).astype(np.float32)
        if not np.isfinite(found).all():
            bad = ~np.isfinite(found)
            raise BadValue(
                "a value that cannot be quantized",
                code="not-finite",
                place=f"row {low + int(bad.any(axis=1).argmax())}",
                found="NaN or infinity",
                allowed="finite numbers",
                row=low + int(bad.any(axis=1).argmax()),
            )
        return found


class NestedCodes(Op, frozen=True):
    """Numbers as 8-bit codes of a table, under the largest magnitude of each block: bitsandbytes' scales of scales.

    The nearest codes, as its kernels for GPUs and its default one have them; its library for CPUs looks them up in
    steps of 2^-15, and is off by one for 0.2 % of them.

    input: F32 [n, 1]; offset is subtracted first. largest: not the codes, U8 [n, 1], but the magnitudes, F32 [n /
    block, 1].
    """

    input: Expression
    table: tuple[float, ...]
    block: int
    offset: float
    largest: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        n = self.input.shape[0]
        return (-(-n // self.block) if self.largest else n, 1)

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["F32" if self.largest else "U8"]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        n, block = self.input.shape[0], self.block
        first, last = (start, stop) if self.largest else (start // block, -(-stop // block))
        low, high = first * block, min(last * block, n)
        given = reader.values(self.input, low, high).reshape(-1) - np.float32(self.offset)
        largest = np.maximum.reduceat(np.abs(given), np.arange(0, len(given), block)) if len(given) else given
        if self.largest:
            found: Rows = largest.astype(np.float32).view(np.uint8).reshape(-1, 4)
            return found
        table = np.array(self.table, np.float32)
        inverse = np.repeat(np.float32(1) / np.maximum(largest, np.float32(1e-38)), block)[: len(given)]
        between = (table[:-1] + table[1:]) / 2
        codes: Rows = np.searchsorted(between, np.clip(given * inverse, -1, 1), side="left").astype(np.uint8)
        return codes[start - low : stop - low].reshape(-1, 1)


def nearest(input: Expression, how: str, table: str, size: int, scale: str, *, rows: int = 1) -> ToGrid:
    """The expression for groups of `size` columns, which need not divide the row for blocks of floats."""
    return ToGrid(input, how, table, size, scale, gcd(size, input.shape[-1]), rows)


def _numpy(encoding: str) -> Any:
    import ml_dtypes
    import numpy as np

    name = ENCODINGS[encoding].numpy
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def _limit(expr: ToGrid) -> int:
    """The largest code."""
    return grid.parse(grid.grid_name(expr.table, 1, 1)).limit


EPSILON = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
"""Dense type -> the step from 1 to its next number."""


def _stored(scale: Any, expr: ToGrid) -> Any:
    """Scales as they will be stored, float32; where one is nothing, the step from 1 to the next number."""
    import numpy as np

    kind = _numpy(expr.scale)
    with np.errstate(over="ignore"):
        found = scale.astype(kind)
    found = np.where(found == 0, EPSILON[expr.scale], found).astype(np.float32)
    if not np.isfinite(found).all():
        raise BadValue(
            "a scale beyond the range of its type", code="scale-not-finite", place=expr.how, found=expr.scale
        )
    return found


def _symmetric(x: Any, expr: ToGrid) -> Found:
    import numpy as np

    limit = _limit(expr)
    half = np.float32((limit + 1) // 2)
    scale = _stored(np.abs(x).max(-1) / np.float32(limit / 2), expr)
    return scale, 0.0, half, lambda: np.rint(np.clip(x / scale[..., None], -half, half - 1)) + half


def _asymmetric(x: Any, expr: ToGrid) -> Found:
    import numpy as np

    limit = _limit(expr)
    half = np.float32((limit + 1) // 2)
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    scale = (high - low) / np.float32(limit)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.rint(np.clip(np.where(scale == 0, 0, -half - low / scale), -half, half - 1))
    scale = _stored(scale, expr)

    def codes() -> Any:
        return np.rint(np.clip(x / scale[..., None] + zero[..., None], -half, half - 1)) + half

    return scale, 0.0, zero + half, codes


def _mlx(x: Any, expr: ToGrid) -> Found:
    """The end of the range that is further from nothing is a number of the grid."""
    import numpy as np

    limit = np.float32(_limit(expr))
    low, high = x.min(-1), x.max(-1)
    negative = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / limit, np.float32(1e-7))
    scale = np.where(negative, scale, -scale)
    edge = np.where(negative, low, high)
    first = np.rint(edge / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(first != 0, edge / first, scale)
    bias = np.where(first != 0, edge, np.float32(0))
    kind = _numpy(expr.scale)
    with np.errstate(over="ignore"):
        stored, offset = scale.astype(kind).astype(np.float64), bias.astype(kind).astype(np.float64)
    if not (np.isfinite(stored).all() and np.isfinite(offset).all()):
        raise BadValue(
            "a scale beyond the range of its type", code="scale-not-finite", place=expr.how, found=expr.scale
        )
    return stored, offset, 0.0, lambda: np.clip(np.rint((x - bias[..., None]) / scale[..., None]), 0, limit)


def _e4m3(x: Any, expr: ToGrid) -> Found:
    """Blocks of expr.rows rows."""
    import ml_dtypes
    import numpy as np

    largest = np.abs(x).max(-1)
    starts = np.arange(0, len(x), expr.rows)
    sizes = np.diff([*starts, len(x)])
    scale = np.repeat(_stored(np.maximum.reduceat(largest, starts, axis=0) / np.float32(448), expr), sizes, axis=0)

    def codes() -> Any:
        return np.clip(x / scale[..., None], -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)

    return scale, 0.0, 0.0, codes


def _nf4(x: Any, expr: ToGrid) -> Found:
    import numpy as np

    table = np.array(grid.TABLES[expr.table], np.float32)
    largest = np.abs(x).max(-1)
    inverse = np.float32(1) / np.maximum(largest, np.float32(1e-38))
    between = (table[:-1] + table[1:]) / 2
    return largest, 0.0, 0.0, lambda: np.searchsorted(between, np.clip(x * inverse[..., None], -1, 1), side="left")


ROUNDINGS: dict[str, Callable[[Any, ToGrid], Found]] = {
    "symmetric": _symmetric,
    "asymmetric": _asymmetric,
    "mlx": _mlx,
    "e4m3": _e4m3,
    "nf4": _nf4,
    "nf4-nested": _nf4,
}
"""How -> scale, offset and zero [n, groups], and what makes codes [n, groups, size] of float32 values of that shape."""
