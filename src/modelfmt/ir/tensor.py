"""A named, lazy tensor: an expression and the reader that can evaluate it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.ir.ops import geometry, source_label, stored_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.encoding import Encoding
    from modelfmt.ir.ops import Expression, Reader

__all__ = ["Tensor"]


class Tensor:
    """A tensor that is read only when asked for its values.

    name, shape (row-major), encoding, nbytes (stored), expr (how it is made), `numpy()`, `rows()`; `np.asarray(tensor)`
    and DLPack consumers work too.
    """

    __slots__ = ("_reader", "expr", "name")

    def __init__(self, name: str, expr: Expression, reader: Reader) -> None:
        self.name = name
        self.expr = expr
        self._reader = reader

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape, row-major."""
        return self.expr.shape

    @property
    def encoding(self) -> Encoding:
        """How the values are stored."""
        return self.expr.stored

    @property
    def reader(self) -> Reader:
        """What evaluates the expression."""
        return self._reader

    @property
    def kind(self) -> str:
        """How the values are stored, for people: the encoding's name, or the scheme of a quantized checkpoint."""
        return source_label(self.expr)

    @property
    def n_elements(self) -> int:
        """Number of logical elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Stored bytes; of a tensor in several parts, those of all parts."""
        if self.encoding.name.startswith("GRID:"):
            return stored_bytes(self.expr)
        n_rows, n_cols = geometry(self.shape, self.encoding)
        return n_rows * self.encoding.row_bytes(n_cols)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of rows start..stop (all axes but the last, flattened): uint8 [stop - start, row_bytes]."""
        n_rows = geometry(self.shape, self.encoding)[0]
        if not 0 <= start <= stop <= n_rows:
            raise UsageError(
                "no such rows", code="rows", place=self.name, found=(start, stop), allowed=f"0 to {n_rows}"
            )
        return self._reader.rows(self.expr, start, stop)

    def numpy(self, *, dequantize: bool = True) -> NDArray[Any]:
        """The values: a dense tensor in its own NumPy or ml_dtypes type, a quantized one as float32 (or, with
        dequantize=False, its blocks as uint8 [rows, row_bytes]). Raises UnsupportedError where no array type can hold
        it.
        """
        import numpy as np

        n_rows = geometry(self.shape, self.encoding)[0]
        if not dequantize or not self.encoding.dense:
            if not dequantize:
                return self._reader.rows(self.expr, 0, n_rows)
            return self._reader.values(self.expr, 0, n_rows).reshape(self.shape)
        if not self.encoding.numpy:
            raise UnsupportedError(
                "no array type holds this encoding",
                code="no-array-type",
                place=self.name,
                found=self.encoding.name,
                hint="use numpy(dequantize=False) for the packed bytes",
            )
        if self.encoding.numpy.startswith(("bfloat", "float8")):
            import ml_dtypes

            dtype = np.dtype(getattr(ml_dtypes, self.encoding.numpy))
        else:
            dtype = np.dtype(self.encoding.numpy)
        values: NDArray[Any] = self._reader.rows(self.expr, 0, n_rows).reshape(-1).view(dtype)
        return values.reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        import numpy as np

        array = self.numpy()
        converted: NDArray[Any] = array if dtype is None else np.asarray(array, dtype)
        return converted

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.numpy().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {list(self.shape)}, {self.kind})"
