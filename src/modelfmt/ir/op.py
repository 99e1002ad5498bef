"""What every tensor expression has, the two that have no inputs, and what their operations share.

`modelfmt.ir.ops` has the whole set; it puts the union of it, `Expression`, into this module and its kin, where msgspec
looks annotations up.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Protocol

import msgspec

from modelfmt.errors import ShapeError
from modelfmt.ir.encoding import ENCODINGS, Encoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]

__all__ = [
    "Computed",
    "Constant",
    "Leaf",
    "Op",
    "Reader",
    "gather",
    "geometry",
    "joined",
    "regrouped",
    "row_bytes",
    "same",
    "spans",
    "stacked",
]


class Reader(Protocol):
    """Evaluates expressions; the operations below call back into it for their inputs."""

    def rows(self, expr: Expression, start: int, stop: int) -> Rows:
        """Encoded rows start..stop as uint8 [stop - start, row_bytes]."""

    def empty(self, n_rows: int, row_bytes: int) -> Rows:
        """Uninitialised rows as uint8 [n_rows, row_bytes]."""

    def values(self, expr: Expression, start: int, stop: int) -> NDArray[np.float32]:
        """The same rows decoded, float32 [stop - start, n_cols]."""

    def columns(self, expr: Expression, rows: tuple[int, int], first: int, last: int) -> Rows:
        """Elements first..last of each row, of blocks these, uint8 [n, (last - first) * block_bytes]."""

    def encoded(self, expr: Expression, start: int, stop: int, encoding: str, rounding: str = "ggml") -> Rows:
        """Rows start..stop in another encoding: as they are where they have it, else each value rounded once, or
        quantized."""

    def add_product(self, a: NDArray[np.float32], b: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
        """sums += b @ a, each element in the order of the inner dimension."""

    def row_lengths(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The Euclidean norm of each row, float32 [n]."""


def geometry(shape: tuple[int, ...], encoding: Encoding) -> tuple[int, int]:
    """(rows, columns) of a shape: the last axis is the row, unless it cuts through a block: then all is one row.

    >>> geometry((2, 3, 4), ENCODINGS["F32"])
    (6, 4)
    """
    if not shape:
        return 1, 1
    if shape[-1] % encoding.block_elements:
        return 1, prod(shape)
    return prod(shape[:-1]), shape[-1]


def row_bytes(expr: Expression) -> int:
    """Encoded bytes of one row of an expression."""
    return expr.stored.row_bytes(geometry(expr.shape, expr.stored)[1])


class Op(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower):
    """What every expression has."""

    @property
    def stored(self) -> Encoding:
        """The encoding of the result."""
        return self.inputs[0].stored

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.inputs[0].shape

    @property
    def inputs(self) -> tuple[Expression, ...]:
        """The expressions that this one is made from."""
        return (self.input,)  # type: ignore[attr-defined]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        """Encoded rows start..stop, uint8 [stop - start, row_bytes]; leaves and grids are made by the reader itself."""
        raise AssertionError("the reader makes these rows")


class Leaf(Op, frozen=True):
    """Bytes of a file: `shape` elements in `encoding` from `offset` on. big: multi-byte fields are big-endian."""

    file: str
    offset: int
    shape: tuple[int, ...]
    encoding: str
    big: bool = False

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return ()


class Constant(Op, frozen=True):
    """Values that stand in the plan itself."""

    data: bytes
    shape: tuple[int, ...]
    encoding: str

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return ()

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        size = row_bytes(self)
        return np.frombuffer(self.data, np.uint8, (stop - start) * size, start * size).reshape(stop - start, size)


class Computed(Op, frozen=True):
    """Values that are computed, as float32."""

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["F32"]


def spans(start: int, stop: int, size: int) -> list[tuple[int, int, int]]:
    """The range start..stop cut where multiples of size lie: (which, first, last) with first and last inside the piece.

    >>> spans(3, 9, 4)
    [(0, 3, 4), (1, 0, 4), (2, 0, 1)]
    """
    found = []
    while start < stop:
        which, first = divmod(start, size)
        last = min(size, first + stop - start)
        found.append((which, first, last))
        start += last - first
    return found


def gather(expr: Expression, source: NDArray[np.int64], reader: Reader) -> Rows:
    """The rows of expr with the given numbers, read as few contiguous runs as their order allows."""
    import numpy as np

    if len(source) == 0:
        return reader.rows(expr, 0, 0)
    cuts = np.flatnonzero(np.diff(source) != 1) + 1
    if len(cuts) > 8:
        first, last = int(source.min()), int(source.max()) + 1
        if last - first <= 4 * len(source):
            return reader.rows(expr, first, last)[source - first]
        order = np.argsort(source, kind="stable")
        source, cuts = source[order], np.flatnonzero(np.diff(source[order]) != 1) + 1
        pieces = [reader.rows(expr, int(run[0]), int(run[-1]) + 1).copy() for run in np.split(source, cuts)]
        found = stacked(pieces, row_bytes(expr))
        out = np.empty_like(found)
        out[order] = found
        return out
    pieces = [reader.rows(expr, int(run[0]), int(run[-1]) + 1).copy() for run in np.split(source, cuts)]
    return stacked(pieces, row_bytes(expr))


def regrouped(expr: Expression, start: int, stop: int, reader: Reader) -> Rows:
    """Rows of an expression whose bytes are its input's, in rows of another length."""
    size, inner = row_bytes(expr), row_bytes(expr.inputs[0])
    if inner == 0 or size == 0:
        return reader.rows(expr.inputs[0], 0, 0).reshape(stop - start, size)
    first, last = start * size // inner, -(-stop * size // inner)
    flat = reader.rows(expr.inputs[0], first, last).reshape(-1)
    begin = start * size - first * inner
    return flat[begin : begin + (stop - start) * size].reshape(-1, size)


def joined(parts: tuple[Expression, ...], start: int, stop: int, reader: Reader) -> Rows:
    pieces, base = [], 0
    for part in parts:
        n_rows = geometry(part.shape, part.stored)[0]
        first, last = max(start - base, 0), min(stop - base, n_rows)
        if first < last:
            rows = reader.rows(part, first, last)
            if last - first == stop - start:
                return rows
            pieces.append(rows.copy())
        base += n_rows
    return stacked(pieces, row_bytes(parts[0]))


def stacked(pieces: list[Rows], size: int) -> Rows:
    import numpy as np

    if not pieces:
        return np.zeros((0, size), np.uint8)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def same(what: str, found: list[object]) -> None:
    if not found or any(value != found[0] for value in found):
        raise ShapeError(f"parts to be joined differ in their {what}", code="parts-differ", found=found[:4])
