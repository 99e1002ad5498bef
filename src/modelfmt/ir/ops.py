"""Tensor expressions: a leaf in a file, a constant, or one of a closed set of operations over them.

Expressions are data: they serialise with a plan and hold no file handle. Every tensor is seen as rows (the last axis)
of encoded bytes. An operation says its shape and encoding, and makes any range of its rows from rows of its inputs, so
that a tensor never has to be in memory. Operations that only move whole rows keep the encoding: quantized codes pass
untouched. A `Reader` (modelfmt.tiles) supplies the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from modelfmt.errors import BadValue, ShapeError
from modelfmt.ir import grid
from modelfmt.ir.blocks import LAYOUTS
from modelfmt.ir.encoding import ENCODINGS, Encoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.uint8]

SHORT_RUN = 1 << 16
"""Bytes that are read at once for a view, however few of them it uses."""
MAX_PARTS = 1 << 14
"""Boxes that one tensor may be cut into."""

FACTOR_ELEMENTS = 1 << 20
"""Elements of a factor of low rank that are held at once, about."""

STRIP_ELEMENTS = 1 << 16
"""Elements of a sum that are worked on at once, about."""

__all__ = [
    "GRIDDED",
    "ROUNDED",
    "AddConstant",
    "AddLowRank",
    "Affine",
    "BlockPart",
    "Blocks",
    "Cast",
    "Coded",
    "Concat",
    "Constant",
    "Dequantize",
    "Expression",
    "Finite",
    "FlipBits",
    "Leaf",
    "NegativeExp",
    "NegativeLog",
    "Nested",
    "Numbers",
    "Packed",
    "Pad",
    "Param",
    "Reader",
    "Regrid",
    "Reinterpret",
    "Reshape",
    "RopePermute",
    "Scale",
    "Slice",
    "Stack",
    "Strided",
    "Swap",
    "Tiled",
    "Transpose",
    "geometry",
    "nodes",
    "read_bytes",
    "row_bytes",
    "source_label",
    "stored_bytes",
    "with_inputs",
]


class Reader(Protocol):
    """Evaluates expressions; the operations below call back into it for their inputs."""

    def rows(self, expr: Expression, start: int, stop: int) -> Rows:
        """Encoded rows start..stop as uint8 [stop - start, row_bytes]."""

    def values(self, expr: Expression, start: int, stop: int) -> NDArray[np.float32]:
        """The same rows decoded, float32 [stop - start, n_cols]."""

    def blocks(self, expr: Expression, encoding: str, start: int, stop: int, rounding: str) -> Rows:
        """The same rows in a quantized encoding: as they are where they have it, else quantized."""

    def columns(self, expr: Expression, rows: tuple[int, int], first: int, last: int) -> Rows:
        """Columns first..last of a dense expression's rows, uint8 [n, (last - first) * itemsize]."""

    def encoded(self, expr: Expression, start: int, stop: int, encoding: str) -> Rows:
        """Rows start..stop in another dense encoding, each value rounded once."""

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


class _Op(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower):
    """What every expression has."""

    @property
    def stored(self) -> Encoding:
        """The encoding of the result."""
        return self.inputs[0].stored

    @property
    def inputs(self) -> tuple[Expression, ...]:
        """The expressions that this one is made from."""
        return (self.input,)  # type: ignore[attr-defined]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        """Encoded rows start..stop, uint8 [stop - start, row_bytes]; leaves and grids are made by the reader itself."""
        raise AssertionError("the reader makes these rows")


class Leaf(_Op, frozen=True):
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


class Constant(_Op, frozen=True):
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
        return np.frombuffer(self.data, np.uint8, (stop - start) * size, start * size).reshape(-1, size)


class Reshape(_Op, frozen=True):
    """The same bytes in row-major order under another shape. Blocks must not be cut: a quantized row keeps its
    length."""

    input: Expression
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        old, new = self.input.shape, self.shape
        if prod(old) != prod(new) or (new and new[-1] % self.stored.block_elements and not self.stored.dense):
            raise ShapeError("these shapes do not hold the same elements", code="reshape", found=new, allowed=old)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return _regrouped(self, start, stop, reader)


class RopePermute(_Op, frozen=True):
    """Rows of each head from halves (x0 x1 .. | y0 y1 ..) to pairs (x0 y0 x1 y1 ..), as llama.cpp's NORM rope wants
    them.

    input: [heads * head_size, columns]. inverse: pairs back to halves. Commutes with quantized rows.
    """

    input: Expression
    heads: int
    inverse: bool = False

    def __post_init__(self) -> None:
        rows = geometry(self.input.shape, self.stored)[0]
        if self.heads <= 0 or rows % (2 * self.heads):
            raise ShapeError(
                "rows do not divide into heads of two halves",
                code="rope-heads",
                found=rows,
                allowed=f"a multiple of {2 * self.heads}",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        size = geometry(self.shape, self.stored)[0] // self.heads
        first, last = start // size * size, -(-stop // size) * size
        head = np.arange(size).reshape(size // 2, 2) if self.inverse else np.arange(size).reshape(2, size // 2)
        order = (np.arange(first, last, size)[:, None] + head.T.reshape(-1)).reshape(-1)[start - first : stop - first]
        rows: Rows = reader.rows(self.input, first, last)[order - first]
        return rows


class Stack(_Op, frozen=True):
    """Tensors of one shape under a new first axis (experts)."""

    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        _same("shape", [part.shape for part in self.parts])
        _same("encoding", [part.stored.name for part in self.parts])

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return self.parts

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return _joined(self.parts, start, stop, reader)


class Concat(_Op, frozen=True):
    """Tensors joined along the first axis."""

    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        _same("shape behind the first axis", [part.shape[1:] for part in self.parts])
        _same("encoding", [part.stored.name for part in self.parts])

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return self.parts

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return _joined(self.parts, start, stop, reader)


class Slice(_Op, frozen=True):
    """Indices start, start + step, .. below stop along one axis that is not the last (fused projections, vocabulary
    padding)."""

    input: Expression
    axis: int
    start: int
    stop: int
    step: int = 1

    def __post_init__(self) -> None:
        shape = self.input.shape
        if not (
            0 <= self.axis < len(shape) - 1 and 0 <= self.start <= self.stop <= shape[self.axis] and self.step >= 1
        ):
            raise ShapeError(
                "a slice outside its tensor", code="slice", found=(self.axis, self.start, self.stop), allowed=shape
            )

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.input.shape
        return (*shape[: self.axis], len(range(self.start, self.stop, self.step)), *shape[self.axis + 1 :])

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        behind = prod(self.input.shape[self.axis + 1 : -1])
        kept, whole = self.shape[self.axis], self.input.shape[self.axis]
        row = np.arange(start, stop)
        outer, middle, inner = row // (kept * behind), row // behind % kept, row % behind
        source = (outer * whole + self.start + middle * self.step) * behind + inner
        return gather(self.input, source, reader)


class Transpose(_Op, frozen=True):
    """The last two axes exchanged; dense encodings of whole bytes only."""

    input: Expression

    def __post_init__(self) -> None:
        if len(self.input.shape) < 2 or not self.stored.dense or self.stored.block_elements != 1:
            raise ShapeError(
                "only dense matrices can be transposed", code="transpose", found=(self.input.shape, self.stored.name)
            )

    @property
    def shape(self) -> tuple[int, ...]:
        *outer, rows, columns = self.input.shape
        return (*outer, columns, rows)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        n_rows, n_cols = self.input.shape[-2:]
        item = self.stored.block_bytes
        pieces = []
        for matrix, first, last in spans(start, stop, n_cols):
            block = reader.columns(self.input, (matrix * n_rows, (matrix + 1) * n_rows), first, last)
            block = block.reshape(n_rows, last - first, item)
            pieces.append(np.ascontiguousarray(block.transpose(1, 0, 2)).reshape(last - first, n_rows * item))
        return _stacked(pieces, n_rows * item)


class Swap(_Op, frozen=True):
    """Axes `axis` and `axis + 1` exchanged, neither of them the last: whole rows move (the order of heads)."""

    input: Expression
    axis: int

    def __post_init__(self) -> None:
        if not 0 <= self.axis < len(self.input.shape) - 2:
            raise ShapeError(
                "only axes before the last can be exchanged", code="swap", found=self.axis, allowed=self.input.shape
            )

    @property
    def shape(self) -> tuple[int, ...]:
        shape, axis = self.input.shape, self.axis
        return (*shape[:axis], shape[axis + 1], shape[axis], *shape[axis + 2 :])

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        first, second = self.input.shape[self.axis : self.axis + 2]
        behind = prod(self.input.shape[self.axis + 2 : -1])
        row = np.arange(start, stop)
        outer, inner = row // (first * second * behind), row % behind
        low, high = row // behind % first, row // (behind * first) % second
        return gather(self.input, ((outer * first + low) * second + high) * behind + inner, reader)


class _Computed(_Op, frozen=True):
    """Each value by itself, as float32."""

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["F32"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs[0].shape


class AddConstant(_Computed, frozen=True):
    """Each value plus a number, in float32 (Gemma stores norm weights minus one)."""

    input: Expression
    value: float

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return (reader.values(self.input, start, stop) + np.float32(self.value)).view(np.uint8)


class Scale(_Computed, frozen=True):
    """Each value times a number, in float32 (multipliers that a graph does not have)."""

    input: Expression
    factor: float

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return (reader.values(self.input, start, stop) * np.float32(self.factor)).view(np.uint8)


class NegativeExp(_Computed, frozen=True):
    """-exp(x) of each value, rounded once from float64 (state-space models store the logarithm of -A)."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        with np.errstate(over="ignore"):
            exp = -np.exp(reader.values(self.input, start, stop).astype(np.float64))
            return exp.astype(np.float32).view(np.uint8)


class NegativeLog(_Computed, frozen=True):
    """log(-x) of each value, rounded once from float64: the inverse of NegativeExp."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(-reader.values(self.input, start, stop).astype(np.float64))
        return log.astype(np.float32).view(np.uint8)


class Dequantize(_Computed, frozen=True):
    """The values as float32, for operations that cannot move codes."""

    input: Expression

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        return reader.values(self.input, start, stop).view(np.uint8)


class Cast(_Op, frozen=True):
    """The values in another dense encoding, rounded once: a result keeps the type of what it was made from."""

    input: Expression
    encoding: str

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return reader.encoded(self.input, start, stop, self.encoding)


class Finite(_Op, frozen=True):
    """The same bytes, of dense values none of which is NaN or infinite. name: for the error."""

    input: Expression
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape

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


class AddLowRank(_Computed, frozen=True):
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


class Pad(_Op, frozen=True):
    """Zero rows appended until the first axis has `rows` entries (vocabulary padding)."""

    input: Expression
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.input.shape[1:])

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        end = geometry(self.input.shape, self.stored)[0]
        held = reader.rows(self.input, min(start, end), min(stop, end))
        return np.concatenate([held, np.zeros((stop - start - len(held), row_bytes(self)), np.uint8)])


class Strided(_Op, frozen=True):
    """A view: element (i, j, ..) is element offset + i * strides[0] + j * strides[1] + .. of a dense input [n, 1].

    Read in pieces: a piece is the run of the input that it spans, where that is short or mostly used; otherwise it is
    cut along the axis that reaches furthest.
    """

    input: Expression
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        inside = len(self.strides) == len(self.shape) and min((*self.strides, *self.shape, self.offset)) >= 0
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=False))
        if not inside or (0 not in self.shape and last >= prod(self.input.shape)) or self.stored.block_elements != 1:
            raise ShapeError(
                "a view outside its storage",
                code="view",
                found=(self.offset, self.shape, self.strides),
                allowed=self.input.shape,
            )

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        item = self.stored.block_bytes
        out = np.empty((stop - start, row_bytes(self)), np.uint8)
        at = 0
        for begin, sizes in boxes(start, stop, self.shape[:-1]):
            place = self.offset + sum(i * stride for i, stride in zip(begin, self.strides, strict=False))
            count = prod(sizes)
            piece = out[at : at + count].reshape(-1).view(f"V{item}").reshape((*sizes, *self.shape[-1:]))
            self._fill(piece, place, reader)
            at += count
        return out

    def _fill(self, piece: NDArray[np.void], place: int, reader: Reader) -> None:
        import numpy as np

        item = self.stored.block_bytes
        strides = [stride * item for stride in self.strides]
        waiting = [(piece, place)]
        while waiting:
            piece, place = waiting.pop()
            if not piece.size:
                continue
            reach = [(n - 1) * stride for n, stride in zip(piece.shape, self.strides, strict=True)]
            extent = sum(reach) + 1
            if extent * item <= SHORT_RUN or extent <= 4 * piece.size:
                run = reader.rows(self.input, place, place + extent)
                piece[...] = np.ndarray(piece.shape, piece.dtype, run.data, 0, strides)
                continue
            axis = reach.index(max(reach))
            stride, n = self.strides[axis], piece.shape[axis]
            step = max(1, min(n // 2, (SHORT_RUN // item - extent + reach[axis]) // stride + 1))
            before = (slice(None),) * axis
            waiting += [(piece[(*before, slice(i, min(i + step, n)))], place + i * stride) for i in range(0, n, step)]


class Tiled(_Op, frozen=True):
    """Boxes of one dense tensor that lie apart (shards along any axes): part i begins at index offsets[i].

    The parts cover the shape, and none covers what another does: no byte is left unset.
    """

    shape: tuple[int, ...]
    parts: tuple[Expression, ...]
    offsets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _same("encoding", [part.stored.name for part in self.parts])
        boxes = [(offset, part.shape) for offset, part in zip(self.offsets, self.parts, strict=False)]
        if len(self.offsets) != len(self.parts) or self.stored.block_elements != 1 or not self.shape:
            raise ShapeError("parts without their places", code="tiles", found=len(self.offsets))
        if (fault := misplaced(self.shape, boxes)) is not None:
            raise ShapeError("parts do not make up the tensor", code="tiles", found=fault, allowed=self.shape)

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return self.parts

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        item = self.stored.block_bytes
        out = np.empty((stop - start, row_bytes(self)), np.uint8)
        at = 0
        for begin, sizes in boxes(start, stop, self.shape[:-1]):
            piece = out[at : at + prod(sizes)].reshape((*sizes, -1))
            at += prod(sizes)
            for part, offset in zip(self.parts, self.offsets, strict=True):
                low = [max(b, o) for b, o in zip(begin, offset, strict=False)]
                high = [min(b + n, o + m) for b, n, o, m in zip(begin, sizes, offset, part.shape, strict=False)]
                if any(a >= b for a, b in zip(low, high, strict=True)):
                    continue
                inner = [np.arange(a - o, b - o) for a, b, o in zip(low, high, offset, strict=False)]
                numbers = np.zeros((1,) * len(inner), np.int64)
                for axis, index in enumerate(inner):
                    step = prod(part.shape[axis + 1 : -1])
                    numbers = numbers + (index * step).reshape([-1 if i == axis else 1 for i in range(len(inner))])
                held = gather(part, numbers.reshape(-1), reader)
                place = tuple(slice(a - b, c - b) for a, b, c in zip(low, begin, high, strict=True))
                columns = slice(offset[-1] * item, (offset[-1] + part.shape[-1]) * item)
                piece[(*place, columns)] = held.reshape((*(b - a for a, b in zip(low, high, strict=True)), -1))
        return out


class Reinterpret(_Op, frozen=True):
    """The bytes of a U8 expression as elements of another dense encoding. big: they are big-endian."""

    input: Expression
    shape: tuple[int, ...]
    encoding: str
    big: bool = False

    def __post_init__(self) -> None:
        row = self.stored
        if self.input.stored.name != "U8" or not row.dense or row.block_elements != 1:
            raise ShapeError("only plain bytes can be reinterpreted", code="reinterpret", found=self.encoding)
        if prod(self.shape) * row.block_bytes != prod(self.input.shape):
            raise ShapeError(
                "these bytes are not that many elements", code="reinterpret", found=self.shape, allowed=self.input.shape
            )

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        rows = _regrouped(self, start, stop, reader)
        size = self.stored.block_bytes // (2 if self.stored.element.kind == "complex" else 1)
        if not self.big or size == 1:
            return rows
        swapped: Rows = rows.reshape(-1, size)[:, ::-1].reshape(rows.shape)
        return swapped


class FlipBits(_Op, frozen=True):
    """Each element's bytes with those of `mask` flipped: the sign bits of conjugated and negated views."""

    input: Expression
    mask: bytes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        rows = reader.rows(self.input, start, stop)
        flipped: Rows = (rows.reshape(-1, len(self.mask)) ^ np.frombuffer(self.mask, np.uint8)).reshape(rows.shape)
        return flipped


class Affine(_Op, frozen=True):
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

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["F32"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape

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


class Param(msgspec.Struct, frozen=True):
    """A number for each group of a coded tensor: a scale, a zero or an offset, and how it lies.

    input: [rows, groups] values of any dense type; turned: [groups, rows]. rows: neighbouring rows that share a number
    (0: all); group: neighbouring columns (0: all), or with flat: neighbouring elements of the whole in row-major order.
    bits: integers of so many bits, packed in 32-bit words along the rows ("rows") or the groups ("groups"); order: of
    nibbles, "awq"; padded: as many as are whole in each word; add: a number added to each word before (GPTQ's zeros);
    plus: one added to each value; divide: by the number.
    """

    input: Expression
    turned: bool = False
    rows: int = 1
    group: int = 0
    flat: bool = False
    bits: int = 0
    along: str = ""
    order: str = "low"
    padded: bool = False
    add: int = 0
    plus: float = 0.0
    divide: bool = False


class Coded(_Op, frozen=True):
    """A quantized tensor whose codes and parameters are tensors of their own: rows of a grid (modelfmt.ir.grid).

    codes: words as `packing` says, of the whole tensor. shape: logical, [.., rows, columns]. table: what codes stand
    for. group: columns that share a record, a divisor of every parameter's. value = product(scales) * (code - zero) +
    offset. zero: a number or a Param. index: the group of each column where they are not in order (GPTQ's g_idx);
    sorted: the columns are put in the order of their groups. first: the column of `codes` that this begins with.
    records: no codes, for what asks about scales alone. label: for people.
    """

    codes: Expression
    packing: grid.Packing
    shape: tuple[int, ...]
    table: str
    group: int
    scales: tuple[Param, ...]
    zero: float | Param = 0.0
    offset: Param | None = None
    index: Expression | None = None
    sorted: bool = False
    first: int = 0
    whole: int = 0
    records: bool = False
    label: str = ""

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]

    @property
    def inputs(self) -> tuple[Expression, ...]:
        own = (*self.scales, self.zero, self.offset)
        params = tuple(param.input for param in own if isinstance(param, Param))
        return (self.codes, *params, *(() if self.index is None else (self.index,)))

    @property
    def n_cols(self) -> int:
        """Columns of the codes as stored, of which this may be a window."""
        return self.whole or self.shape[-1]


class Regrid(_Op, frozen=True):
    """Blocks of a GGUF type as rows of a grid. group: that of the type."""

    input: Expression
    table: str
    group: int
    records: bool = False
    first: int = 0
    width: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input.shape[:-1], self.width or self.input.shape[-1])

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]


class Blocks(_Op, frozen=True):
    """Codes moved into blocks of a GGUF type, where all of them fit: what a sink makes, made before rows are moved."""

    input: Coded
    encoding: str

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.input.shape


class Packed(_Op, frozen=True):
    """The codes of a grid, packed in words of `encoding`. rezero: codes become code - zero + rezero (-1: as they are).

    Rows of words: [.., rows, columns * bits / word]; words: [columns * bits / 32, rows]; columns: [columns, rows * bits
    / 32].
    """

    input: Expression
    packing: grid.Packing
    encoding: str
    rezero: int = -1

    def __post_init__(self) -> None:
        shape, bits, word = self.input.shape, self.packing.bits, self.stored.block_bytes * 8
        across = shape[-2] if self.packing.lay == "columns" else shape[-1]
        if across * bits % word or (self.packing.lay != "rows" and len(shape) != 2):
            raise ShapeError(
                "codes do not fill whole words", code="packing", found=shape, allowed=f"a multiple of {word // bits}"
            )

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def shape(self) -> tuple[int, ...]:
        *outer, n_rows, n_cols = self.input.shape
        per_word = self.packing.bits / (self.stored.block_bytes * 8)
        if self.packing.lay == "rows":
            return (*outer, n_rows, int(n_cols * per_word))
        if self.packing.lay == "words":
            return (int(n_cols * per_word), n_rows)
        return (n_cols, int(n_rows * per_word))


class Numbers(_Op, frozen=True):
    """The scales, zeros or offsets of a grid of records, in a dense encoding.

    what: scale; exponent (of a scale that is a power of two, plus 127); zero (whole, offsets included); offset (of
    codes whose zero is none, or `rezero`). bits: zeros packed in 32-bit words along the rows or groups (see Param).
    rows, group: of how many neighbours one is taken. shape: as laid out; turned: [groups, rows].
    """

    input: Expression
    what: str
    encoding: str
    shape: tuple[int, ...]
    turned: bool = False
    rows: int = 1
    group: int = 0
    bits: int = 0
    along: str = ""
    order: str = "low"
    rezero: float = 0.0

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]


class Nested(_Computed, frozen=True):
    """Scales that are codes themselves (bitsandbytes): table[code] * scales[i // block] + offset, each step rounded to
    float32. input: U8 [.., n]."""

    input: Expression
    scales: Expression
    table: tuple[float, ...]
    block: int
    offset: float

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return (self.input, self.scales)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        codes = reader.rows(self.input, start, stop)
        n_cols = codes.shape[1]
        blocks = np.arange(start * n_cols, stop * n_cols) // self.block
        first, last = (int(blocks[0]), int(blocks[-1]) + 1) if len(blocks) else (0, 0)
        scales = reader.values(Reshape(self.scales, (prod(self.scales.shape), 1)), first, last).reshape(-1)
        table = np.array(self.table, np.float32)
        found = table[codes.reshape(-1)] * scales[blocks - first] + np.float32(self.offset)
        made: Rows = found.reshape(codes.shape).view(np.uint8)
        return made


class BlockPart(_Op, frozen=True):
    """One part of a quantized matrix [n, columns]: `codes` uint8 [n, blocks, code bytes], `scales` or `zeros` float32
    [n, blocks] (modelfmt.ir.blocks). encoding: the type of the blocks, into which a dense input is quantized first.
    rounding: how."""

    input: Expression
    encoding: str
    part: Literal["codes", "scales", "zeros"]
    rounding: str = "ggml"

    def __post_init__(self) -> None:
        if len(self.input.shape) != 2 or self.input.shape[1] % ENCODINGS[self.encoding].block_elements:
            raise ShapeError("not a matrix of whole blocks", code="blocks", found=self.input.shape)

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["U8" if self.part == "codes" else "F32"]

    @property
    def shape(self) -> tuple[int, ...]:
        layout = LAYOUTS[self.encoding]
        n_blocks = self.input.shape[1] // layout.block
        return (self.input.shape[0], n_blocks) + ((layout.code_bytes,) if self.part == "codes" else ())

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        layout, (_, columns) = LAYOUTS[self.encoding], self.input.shape
        per_row = columns // layout.block if self.part == "codes" else 1  # rows of the result in a row of the input
        first, last = start // per_row, -(-stop // per_row)
        blocks = reader.blocks(self.input, self.encoding, first, last, self.rounding)
        blocks = blocks.reshape(-1, ENCODINGS[self.encoding].block_bytes)
        if self.part == "codes":
            codes = layout.codes(blocks)
            return codes[start - first * per_row : stop - first * per_row]
        found = layout.levels(blocks)[self.part == "zeros"]
        return np.ascontiguousarray(found, np.float32).reshape(last - first, -1).view(np.uint8)


GRIDDED = (Coded, Regrid, Packed, Numbers, Blocks)
"""Operations that kernels do: the reader makes their rows itself (modelfmt.grids)."""


def with_inputs(expr: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """The same operation over other inputs: `change` of each. Sources of grids and leaves stay as they are."""
    if isinstance(expr, Stack | Concat | Tiled):
        return msgspec.structs.replace(expr, parts=tuple(map(change, expr.parts)))
    if isinstance(expr, Leaf | Constant | Coded | Regrid | Blocks):
        return expr
    return msgspec.structs.replace(expr, input=change(expr.input))


Expression = (
    Leaf
    | Constant
    | Reshape
    | RopePermute
    | Stack
    | Concat
    | Slice
    | Swap
    | Transpose
    | AddConstant
    | Scale
    | NegativeExp
    | NegativeLog
    | Dequantize
    | Cast
    | Finite
    | AddLowRank
    | Pad
    | Strided
    | Tiled
    | FlipBits
    | Affine
    | Coded
    | Regrid
    | Packed
    | Numbers
    | Nested
    | Blocks
    | BlockPart
    | Reinterpret
)


ROUNDED = (AddConstant, Scale, NegativeExp, NegativeLog)
"""Operations after whose inverse the last bits of a value may be others."""


def nodes(expr: Expression) -> list[Expression]:
    """An expression and all that it is made from."""
    return [expr, *(node for part in expr.inputs for node in nodes(part))]


def source_label(expr: Expression) -> str:
    """What a tensor is made from, for people: the scheme of a quantized checkpoint, else the encoding."""
    return next((node.label for node in nodes(expr) if isinstance(node, Coded)), "") or expr.stored.name


def stored_bytes(expr: Expression) -> int:
    """Bytes in files that an expression is made from; of a grid's records without its codes."""
    if isinstance(expr, Leaf | Constant):
        return geometry(expr.shape, expr.stored)[0] * row_bytes(expr)
    inputs = expr.inputs[1:] if isinstance(expr, Coded) and expr.records else expr.inputs
    return sum(stored_bytes(part) for part in inputs)


def read_bytes(expr: Expression, n_rows: int) -> int:
    """Bytes that n_rows rows of an expression take from files, about."""
    if not any(isinstance(node, GRIDDED) for node in nodes(expr)):
        return n_rows * row_bytes(expr)
    return stored_bytes(expr) * n_rows // max(geometry(expr.shape, expr.stored)[0], 1)


def boxes(start: int, stop: int, sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The positions start..stop of an array of `sizes`, in row-major order, as (first index, size) of whole boxes.

    >>> list(boxes(1, 6, (3, 2)))
    [((0, 1), (1, 1)), ((1, 0), (2, 2))]
    """
    if start >= stop:
        return
    if not sizes:
        yield (), ()
        return
    inner = prod(sizes[1:])
    (first, before), (last, after) = divmod(start, inner), divmod(stop, inner)
    if before:
        end = min(inner, before + stop - start)
        yield from (((first, *at), (1, *size)) for at, size in boxes(before, end, sizes[1:]))
        first += 1
    if first < last:
        yield (first, *(0 for _ in sizes[1:])), (last - first, *sizes[1:])
    if after and last >= first:
        yield from (((last, *at), (1, *size)) for at, size in boxes(0, after, sizes[1:]))


def misplaced(shape: tuple[int, ...], parts: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> object:
    """What is wrong with boxes (offset, size) that are to make up an array without gap or overlap; None for nothing.

    >>> misplaced((4, 6), [((0, 0), (4, 2)), ((0, 2), (4, 4))])
    >>> misplaced((4, 6), [((0, 0), (4, 2)), ((0, 1), (4, 4))])
    'parts overlap at (0, 1)'
    """
    import numpy as np

    if len(parts) > MAX_PARTS:
        return f"{len(parts)} parts, more than {MAX_PARTS}"
    for offset, size in parts:
        inside = len(offset) == len(size) == len(shape) and min((*offset, *size), default=0) >= 0
        if not inside or any(o + n > whole for o, n, whole in zip(offset, size, shape, strict=True)):
            return f"a part of {size} at {offset}"
    ordered = sorted((part for part in parts if 0 not in part[1]), key=lambda part: part[0])
    low = np.array([offset for offset, _ in ordered], np.int64).reshape(len(ordered), len(shape))
    high = low + np.array([size for _, size in ordered], np.int64).reshape(low.shape)
    for i in range(len(ordered) if shape else 0):
        until = int(np.searchsorted(low[:, 0], high[i, 0]))
        meets = (np.maximum(low[i], low[i + 1 : until]) < np.minimum(high[i], high[i + 1 : until])).all(axis=1)
        if meets.any():
            return f"parts overlap at {ordered[i + 1 + int(meets.argmax())][0]}"
    held = sum(prod(size) for _, size in ordered)
    return None if held == prod(shape) else f"{held} of {prod(shape)} elements"


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
    pieces = [reader.rows(expr, int(run[0]), int(run[-1]) + 1).copy() for run in np.split(source, cuts)]
    return _stacked(pieces, row_bytes(expr))


def _regrouped(expr: Reshape | Reinterpret, start: int, stop: int, reader: Reader) -> Rows:
    """Rows of an expression whose bytes are its input's, in rows of another length."""
    size, inner = row_bytes(expr), row_bytes(expr.input)
    if inner == 0 or size == 0:
        return reader.rows(expr.input, 0, 0).reshape(stop - start, size)
    first, last = start * size // inner, -(-stop * size // inner)
    flat = reader.rows(expr.input, first, last).reshape(-1)
    begin = start * size - first * inner
    return flat[begin : begin + (stop - start) * size].reshape(-1, size)


def _joined(parts: tuple[Expression, ...], start: int, stop: int, reader: Reader) -> Rows:
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
    return _stacked(pieces, row_bytes(parts[0]))


def _stacked(pieces: list[Rows], size: int) -> Rows:
    import numpy as np

    if not pieces:
        return np.zeros((0, size), np.uint8)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _same(what: str, found: list[object]) -> None:
    if not found or any(value != found[0] for value in found):
        raise ShapeError(f"parts to be joined differ in their {what}", code="parts-differ", found=found[:4])
