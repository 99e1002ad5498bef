"""Evaluates tensor expressions: rows of encoded bytes, or of float32 values, from the files they point into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfmt import _kernels, grids
from modelfmt.errors import CorruptFile, SourceMissing
from modelfmt.grids import decode
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import GRIDDED, Expression, Leaf, geometry, row_bytes
from modelfmt.kernels import add_product, convert, kernel_types, row_lengths, swap_bytes
from modelfmt.storage.buffers import Buffers
from modelfmt.storage.files import Files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Evaluator", "check_span", "decode"]

_MADE_AT_ONCE = 1 << 20  # bytes
_WHOLE_ROW, _SHORT_READ = 4096, 512  # bytes: of rows that are read whole for a few bytes of each


class Evaluator:
    """The `Reader` of `modelfmt.ir.ops` over a pool of files. Safe to share between threads."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._buffers = Buffers()

    def empty(self, n_rows: int, row_bytes: int) -> NDArray[np.uint8]:
        """Uninitialised rows, uint8 [n_rows, row_bytes], in memory that is used again once nothing refers to it."""
        return self._buffers.empty(n_rows, row_bytes)

    def rows(self, expr: Expression, start: int, stop: int) -> NDArray[np.uint8]:
        """Encoded rows start..stop, uint8 [stop - start, row_bytes]."""
        if isinstance(expr, GRIDDED):
            return grids.tile(expr, start, stop, self)
        if not isinstance(expr, Leaf):
            return expr.tile(start, stop, self)
        size = row_bytes(expr)
        out = self.empty(stop - start, size)
        self.files.read_into(expr.file, expr.offset + start * size, out.reshape(-1).data)
        if expr.big:
            swap_bytes(expr.encoding, out)
        return out

    def values(self, expr: Expression, start: int, stop: int) -> NDArray[np.float32]:
        """Decoded rows start..stop, float32 [stop - start, n_cols]. Raises UnsupportedError for encodings without
        values."""
        n_cols = geometry(expr.shape, expr.stored)[1]
        return decode(self.rows(expr, start, stop), expr.stored.name, n_cols)

    def columns(self, expr: Expression, rows: tuple[int, int], first: int, last: int) -> NDArray[np.uint8]:
        """Elements first..last of each row, of blocks these, uint8 [n, (last - first) * block_bytes]."""
        item, size = expr.stored.block_bytes, row_bytes(expr)
        wide = (last - first) * 2 >= size // item
        if wide or (isinstance(expr, Leaf) and size <= _WHOLE_ROW and (last - first) * item <= _SHORT_READ):
            return self.rows(expr, *rows)[:, first * item : last * item]
        out = self.empty(rows[1] - rows[0], (last - first) * item)
        if isinstance(expr, Leaf):
            self._read_strip(expr, rows, first * item, out)
            return out
        step = max(1, _MADE_AT_ONCE // size)  # a few rows, since all of them may not fit
        for row in range(rows[0], rows[1], step):
            made = self.rows(expr, row, min(row + step, rows[1]))
            out[row - rows[0] : row - rows[0] + len(made)] = made[:, first * item : last * item]
        return out

    def _read_strip(self, expr: Leaf, rows: tuple[int, int], skip: int, out: NDArray[np.uint8]) -> None:
        """As many bytes of each row as `out` is wide, behind the first `skip`."""
        handle, size = self.files.handle(expr.file), row_bytes(expr)
        begin, done = expr.offset + rows[0] * size + skip, 0
        if handle is not None and out.size:
            try:
                done = _kernels.read_strip(handle, begin, size, out.shape[1], out)
            except OSError as error:
                raise SourceMissing(
                    "reading failed", code="read-failed", path=expr.file, place=f"byte {begin}", found=error.strerror
                ) from error
        for row in range(rows[0] + done, rows[1]):  # in memory; or a line that is cut off, which is an error
            self.files.read_into(expr.file, expr.offset + row * size + skip, out[row - rows[0]].data)
        if expr.big:
            swap_bytes(expr.encoding, out)

    def encoded(
        self, expr: Expression, start: int, stop: int, encoding: str, rounding: str = "ggml"
    ) -> NDArray[np.uint8]:
        """Rows start..stop in another encoding, uint8 [stop - start, row_bytes]: as they are where they have it, else
        each value rounded once, or quantized.

        Raises BadValue (NaN or infinity in blocks), UnsupportedError (an encoding without values).
        """
        rows = self.rows(expr, start, stop)
        if expr.stored.name == encoding:
            return rows
        import numpy as np

        n_cols, source = geometry(expr.shape, expr.stored)[1], expr.stored.name
        if source not in kernel_types():
            source, rows = "F32", decode(rows, source, n_cols).view(np.uint8)
        out = np.empty((stop - start, ENCODINGS[encoding].row_bytes(n_cols)), np.uint8)
        convert(source, rows, encoding, out, stop - start, n_cols, rounding=rounding, first_row=start)
        return out

    def add_product(self, a: NDArray[np.float32], b: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
        """sums [n, columns] += b [n, rank] @ a [rank, columns], each element in the order of the rank."""
        add_product(a, b, sums)

    def row_lengths(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The Euclidean norm of each row, float32 [n]."""
        return row_lengths(x)


def check_span(expr: Leaf, files: Files, *, tensor: str) -> None:
    """Raise CorruptFile where a leaf reaches past the end of its file. Readers call this before anything is read."""
    n_rows = geometry(expr.shape, expr.stored)[0]
    end = expr.offset + n_rows * row_bytes(expr)
    size = files.size(expr.file)
    if expr.offset < 0 or end > size:
        raise CorruptFile(
            "tensor data runs past the end of the file",
            code="span-past-end",
            path=expr.file,
            place=tensor,
            found=end,
            allowed=f"at most {size}",
            hint="the download may be incomplete",
        )
