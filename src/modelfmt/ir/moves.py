"""Operations that move what is stored: rows of any encoding, or the elements of a dense one."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from modelfmt.errors import ShapeError
from modelfmt.ir.boxes import boxes, misplaced
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.op import Op, Reader, gather, geometry, joined, regrouped, row_bytes, same, spans, stacked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]

__all__ = [
    "Concat",
    "FlipBits",
    "GroupOrder",
    "Pad",
    "Reinterpret",
    "Reshape",
    "RopePermute",
    "Slice",
    "Stack",
    "Strided",
    "Swap",
    "Tiled",
    "Transpose",
]

SHORT_RUN = 1 << 16
"""Bytes that are read at once for a view, however few of them it uses."""


class Reshape(Op, frozen=True):
    """The same bytes in row-major order under another shape. Blocks must not be cut: a quantized row keeps its
    length."""

    input: Expression
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        old, new = self.input.shape, self.shape
        if prod(old) != prod(new) or (new and new[-1] % self.stored.block_elements and not self.stored.dense):
            raise ShapeError("these shapes do not hold the same elements", code="reshape", found=new, allowed=old)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return regrouped(self, start, stop, reader)


class RopePermute(Op, frozen=True):
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
    def head_rows(self) -> int:
        """Rows of one head."""
        return geometry(self.shape, self.stored)[0] // self.heads

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        size = self.head_rows
        first, last = start // size * size, -(-stop // size) * size
        return self.permuted(reader.rows(self.input, first, last), reader, start - first, stop - first)

    def permuted(self, rows: Rows, reader: Reader, start: int = 0, stop: int | None = None) -> Rows:
        """Rows start..stop of what becomes of `rows`, which are those of whole heads."""
        import numpy as np

        size = self.head_rows
        head = np.arange(size).reshape(size // 2, 2) if self.inverse else np.arange(size).reshape(2, size // 2)
        order = (np.arange(0, len(rows), size)[:, None] + head.T.reshape(-1)).reshape(-1)[start:stop]
        out = reader.empty(len(order), rows.shape[1])
        np.take(rows, order, 0, out, "clip")  # "raise" would make another array
        return out


class Stack(Op, frozen=True):
    """Tensors of one shape under a new first axis (experts)."""

    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        same("shape", [part.shape for part in self.parts])
        same("encoding", [part.stored.name for part in self.parts])

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return self.parts

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return joined(self.parts, start, stop, reader)


class Concat(Op, frozen=True):
    """Tensors joined along the first axis."""

    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        same("shape behind the first axis", [part.shape[1:] for part in self.parts])
        same("encoding", [part.stored.name for part in self.parts])

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return self.parts

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        return joined(self.parts, start, stop, reader)


class Slice(Op, frozen=True):
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


class Transpose(Op, frozen=True):
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
        return stacked(pieces, n_rows * item)


class Swap(Op, frozen=True):
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


class GroupOrder(Op, frozen=True):
    """Rows in the order of the groups that `index`, I32 [1, rows], gives each of them; those of a group as they are."""

    input: Expression
    index: Expression

    def __post_init__(self) -> None:
        if geometry(self.input.shape, self.stored)[0] != prod(self.index.shape) or self.index.stored.name != "I32":
            raise ShapeError(
                "rows without their groups", code="group-order", found=self.index.shape, allowed=self.input.shape
            )

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return (self.input, self.index)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        groups = reader.rows(self.index, 0, 1).reshape(-1).view(np.int32)
        return gather(self.input, np.argsort(groups, kind="stable")[start:stop], reader)


class Pad(Op, frozen=True):
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


class Strided(Op, frozen=True):
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


class Tiled(Op, frozen=True):
    """Boxes of one dense tensor that lie apart (shards along any axes): part i begins at index offsets[i].

    The parts cover the shape, and none covers what another does: no byte is left unset.
    """

    shape: tuple[int, ...]
    parts: tuple[Expression, ...]
    offsets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        same("encoding", [part.stored.name for part in self.parts])
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


class Reinterpret(Op, frozen=True):
    """The elements of an expression, of a byte each, as bytes of another dense encoding. big: they are big-endian."""

    input: Expression
    shape: tuple[int, ...]
    encoding: str
    big: bool = False

    def __post_init__(self) -> None:
        row, given = self.stored, self.input.stored
        plain = given.dense and row.dense and given.block_elements == row.block_elements == 1
        if not plain or given.block_bytes != 1:
            raise ShapeError("only plain bytes can be reinterpreted", code="reinterpret", found=self.encoding)
        if prod(self.shape) * row.block_bytes != prod(self.input.shape):
            raise ShapeError(
                "these bytes are not that many elements", code="reinterpret", found=self.shape, allowed=self.input.shape
            )

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        rows = regrouped(self, start, stop, reader)
        size = self.stored.block_bytes // (2 if self.stored.element.kind == "complex" else 1)
        if not self.big or size == 1:
            return rows
        swapped: Rows = rows.reshape(-1, size)[:, ::-1].reshape(rows.shape)
        return swapped


class FlipBits(Op, frozen=True):
    """Each element's bytes with those of `mask` flipped: the sign bits of conjugated and negated views."""

    input: Expression
    mask: bytes

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        rows = reader.rows(self.input, start, stop)
        flipped: Rows = (rows.reshape(-1, len(self.mask)) ^ np.frombuffer(self.mask, np.uint8)).reshape(rows.shape)
        return flipped
