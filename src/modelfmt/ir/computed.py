"""Operations that compute values: each by itself, or a product added."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from modelfmt.errors import BadValue, ShapeError
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.op import Computed, Leaf, Op, Reader, spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]

__all__ = [
    "FACTOR_ELEMENTS",
    "AddConstant",
    "AddLowRank",
    "Affine",
    "Cast",
    "Dequantize",
    "Encoded",
    "Finite",
    "Integers",
    "NegativeExp",
    "NegativeLog",
    "Scale",
]

FACTOR_ELEMENTS = 1 << 20
"""Elements of a factor of low rank that are held at once, about."""

STRIP_ELEMENTS = 1 << 16
"""Elements of a sum that are worked on at once, about."""


class AddConstant(Computed, frozen=True):
    """Each value plus a number, in float32 (Gemma stores norm weights minus one)."""

    input: Expression
    value: float

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return (reader.values(self.input, start, stop) + np.float32(self.value)).view(np.uint8)


class Scale(Computed, frozen=True):
    """Each value times a number, in float32 (multipliers that a graph does not have)."""

    input: Expression
    factor: float

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return (reader.values(self.input, start, stop) * np.float32(self.factor)).view(np.uint8)


class NegativeExp(Computed, frozen=True):
    """-exp(x) of each value, rounded once from float64 (state-space models store the logarithm of -A)."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        with np.errstate(over="ignore"):
            exp = -np.exp(reader.values(self.input, start, stop).astype(np.float64))
            return exp.astype(np.float32).view(np.uint8)


class NegativeLog(Computed, frozen=True):
    """log(-x) of each value, rounded once from float64: the inverse of NegativeExp."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(-reader.values(self.input, start, stop).astype(np.float64))
        return log.astype(np.float32).view(np.uint8)


class Dequantize(Computed, frozen=True):
    """The values as float32, for operations that cannot move codes."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return reader.values(self.input, start, stop).view(np.uint8)


class Recoded(Op, frozen=True):
    """The same numbers in another encoding."""

    input: Expression
    encoding: str

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]


class Cast(Recoded, frozen=True):
    """The values in another dense encoding, rounded once: a result keeps the type of what it was made from."""

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return reader.encoded(self.input, start, stop, self.encoding)


class Encoded(Recoded, frozen=True):
    """Dense values quantized into blocks, for what takes these apart. rounding: how, "ggml" or "best"."""

    rounding: str = "ggml"

    def __post_init__(self) -> None:
        if not self.shape or self.shape[-1] % self.stored.block_elements:
            raise ShapeError("rows are no whole blocks", code="blocks", found=self.shape, allowed=self.encoding)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return reader.encoded(self.input, start, stop, self.encoding, self.rounding)


class Finite(Op, frozen=True):
    """The same bytes, of dense values none of which is NaN or infinite. name: for the error."""

    input: Expression
    name: str

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        bad = ~np.isfinite(reader.values(self.input, start, stop)).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise BadValue(
                "a value that is not finite in an adapter",
                code="lora-not-finite",
                path=self.name,
                place=f"row {row}",
                found="NaN or infinity",
                allowed="finite numbers",
                hint="the adapter was saved from a diverged run, or is damaged",
                row=row,
            )
        return reader.rows(self.input, start, stop)


class Integers(Recoded, frozen=True):
    """Whole numbers, none of them negative, in another width. below: what all of them are less than, where it is not
    0."""

    below: int = 0

    def __post_init__(self) -> None:
        source = self.input.stored
        if not source.dense or source.element.kind != "int":
            raise BadValue("not whole numbers", code="not-integers", found=source.name, allowed="integers")

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        codes = reader.rows(self.input, start, stop).view(self.input.stored.numpy)
        wanted = np.dtype(self.stored.numpy)
        limit = min(self.below or 2**63, np.iinfo(wanted).max + 1)
        bad = (codes < 0) | (codes > limit - 1)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise BadValue(
                "a number that is no index",
                code="index-range",
                place=f"row {start + row}",
                found=int(codes[row, column]),
                allowed=f"from 0 to {limit - 1}",
                row=start + int(row),
                column=int(column),
            )
        return np.ascontiguousarray(codes.astype(wanted)).view(np.uint8)


class AddLowRank(Computed, frozen=True):
    """input + scale * (b @ a), in float32: an adapter of low rank merged into its weight.

    input: [*outer, rows, columns], or [columns] as one row; a: [*outer, rank, columns], or [rank, columns] for all of
    outer; b: [*outer, rows, rank]. magnitude: [rows, 1] over all of outer, the length that each row of the sum is given
    (DoRA). Sums are made in the order of the rank.
    """

    input: Expression
    a: Expression
    b: Expression
    scale: float
    magnitude: Expression | None = None

    def __post_init__(self) -> None:
        *outer, rows, columns = self.input.shape if len(self.input.shape) > 1 else (1, *self.input.shape)
        rank = self.b.shape[-1]
        fits = self.a.shape in ((*outer, rank, columns), (rank, columns)) and self.b.shape == (*outer, rows, rank)
        if self.magnitude is not None:
            fits = fits and self.magnitude.shape == (prod(outer) * rows, 1)
        if not fits:
            raise ShapeError(
                "factors that do not fit their weight",
                code="low-rank",
                found=(self.b.shape, self.a.shape),
                allowed=self.input.shape,
            )

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return (self.input, self.a, self.b) if self.magnitude is None else (self.input, self.a, self.b, self.magnitude)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        rank, columns = self.a.shape[-2:]
        per_matrix = self.b.shape[-2]
        out = np.empty((stop - start, columns), np.float32)
        step = max(1, FACTOR_ELEMENTS // max(columns, stop - start, 1))
        strip = max(1, STRIP_ELEMENTS // max(columns, 1)) if isinstance(self.input, Leaf) else stop - start
        at = start
        for matrix, first, last in spans(start, stop, per_matrix):
            skip, end = matrix * rank if len(self.a.shape) > 2 else 0, at + last - first
            for k in range(0, max(rank, 1), step):
                a = np.ascontiguousarray(reader.values(self.a, skip + k, skip + min(k + step, rank)))
                b = np.ascontiguousarray(reader.values(self.b, at, end)[:, k : k + step])
                for row in range(at, end, strip):  # short enough to stay in a cache
                    until = min(row + strip, end)
                    sums = out[row - start : until - start]
                    if k == 0:
                        sums[:] = 0
                    reader.add_product(a, b[row - at : until - at], sums)
                    if k + step >= rank:
                        self._finish(sums, row, until, reader)
            at = end
        return out.view(np.uint8)

    def _finish(self, sums: NDArray[np.float32], start: int, stop: int, reader: Reader) -> None:
        """From the product to the result, in place."""
        import numpy as np

        sums *= np.float32(self.scale)
        sums += reader.values(self.input, start, stop).reshape(sums.shape)
        if self.magnitude is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                sums *= reader.values(self.magnitude, start, stop) / reader.row_lengths(sums)[:, None]


class Affine(Computed, frozen=True):
    """Integer codes as float32 values: (code - zero_points[i]) * scales[i], i the index along `axis`, or 0 for all.

    Source: torch's dequantize: the product for one scale is made in float32, for many in float64 and then rounded.
    """

    input: Expression
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        n = 1 if self.axis is None else self.input.shape[self.axis]
        if len(self.scales) != n or len(self.zero_points) != n:
            raise ShapeError("scales and zero points do not fit", code="affine", found=len(self.scales), allowed=n)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        codes = reader.rows(self.input, start, stop).view(self.input.stored.numpy)
        if self.axis is None:
            values = (codes - np.int64(self.zero_points[0])).astype(np.float32) * np.float32(self.scales[0])
            return values.view(np.uint8)
        index = np.arange(start * codes.shape[1], stop * codes.shape[1])
        which = (index // prod(self.shape[self.axis + 1 :]) % len(self.scales)).reshape(codes.shape)
        exact: NDArray[np.float64] = (codes - np.array(self.zero_points)[which]) * np.array(self.scales)[which]
        return exact.astype(np.float32).view(np.uint8)
