"""The C kernels by type name: conversion of rows between any two encodings, and what the library was built with.

A thin layer over `modelfmt._kernels`: names instead of ids, errors of the tree instead of status codes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from modelfmt import _kernels
from modelfmt.errors import ArrayError, BadValue, UnsupportedError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ROUNDINGS",
    "KernelType",
    "add_product",
    "can_decode",
    "can_encode",
    "check_rounding",
    "convert",
    "error_sums",
    "kernel_types",
    "row_lengths",
    "swap_bytes",
]

ROUNDINGS = {"ggml": _kernels.ROUNDING_GGML, "best": _kernels.ROUNDING_BEST}
"""How values become blocks. ggml: its bytes. best: from these on, blocks of less (weighted) square error."""


class KernelType(NamedTuple):
    """One row of the C table of types."""

    name: str
    id: int
    block_elements: int
    block_bytes: int
    can_quantize: bool
    can_dequantize: bool
    needs_importance: bool
    swap_fields: Any
    can_refine: bool


@cache
def kernel_types() -> dict[str, KernelType]:
    """Every type that the kernels know, by name."""
    return {row[0]: KernelType(*row) for row in _kernels.types()}


def check_rounding(name: str) -> None:
    """Raise UsageError where there is no such rounding."""
    if name not in ROUNDINGS:
        raise UsageError("no such rounding", code="rounding", found=name, allowed=", ".join(ROUNDINGS))


def can_encode(name: str) -> bool:
    """True where float32 rows can be turned into this type."""
    row = kernel_types().get(name)
    return row is not None and row.can_quantize


def can_decode(name: str) -> bool:
    """True where rows of this type can be turned into float32."""
    row = kernel_types().get(name)
    return row is not None and row.can_dequantize


def convert(
    source_type: str,
    source: NDArray[Any],
    target_type: str,
    target: NDArray[Any],
    n_rows: int,
    n_cols: int,
    importance: NDArray[Any] | None = None,
    *,
    rounding: str = "ggml",
    first_row: int = 0,
) -> None:
    """Turn n_rows x n_cols elements from one type into another, buffer to buffer; importance: float32 [n_cols] or None.

    rounding: one of ROUNDINGS. first_row: the number of the first row in its tensor, for errors.

    Raises BadValue (NaN or infinity, with row and column), UnsupportedError (no kernel), ArrayError (buffer sizes).
    """
    types = kernel_types()
    if source_type not in types or target_type not in types:
        missing = source_type if source_type not in types else target_type
        raise UnsupportedError("no kernel for this type", code="no-kernel", found=missing)
    try:
        _kernels.convert(
            types[source_type].id,
            source,
            types[target_type].id,
            target,
            n_rows,
            n_cols,
            importance,
            ROUNDINGS[rounding],
        )
    except _kernels.KernelError as error:
        if error.status == _kernels.BAD_VALUE:
            raise BadValue(
                "a value that is not finite cannot be quantized",
                place=f"row {first_row + error.row}, column {error.column}",
                found="NaN or infinity",
                allowed="finite numbers",
                hint="the checkpoint is damaged, or was saved from a diverged run",
                row=first_row + error.row,
                column=error.column,
            ) from None
        if error.status in (_kernels.BAD_IMPORTANCE, _kernels.NEEDS_IMPORTANCE):
            raise ArrayError(str(error), code="importance", found=target_type) from None
        raise UnsupportedError(str(error), code="no-kernel", found=f"{source_type} to {target_type}") from None
    except ValueError as error:
        raise ArrayError(str(error), code="buffer-size") from None


def add_product(a: NDArray[Any], b: NDArray[Any], sums: NDArray[Any]) -> None:
    """sums [n, columns] += b [n, rank] @ a [rank, columns], contiguous float32, each in the order of the rank."""
    _kernels.add_product(a, b, sums, len(sums), sums.shape[1], len(a))


def row_lengths(x: NDArray[Any]) -> NDArray[Any]:
    """The Euclidean norm of each row of x, contiguous float32 [n, columns], summed in float64: float32 [n]."""
    import numpy as np

    lengths = np.empty(len(x), np.float32)
    _kernels.row_lengths(x, lengths, *x.shape)
    return lengths


def swap_bytes(name: str, rows: NDArray[Any]) -> None:
    """Exchange the byte order of every multi-byte field of encoded rows, in place (big-endian files)."""
    types = kernel_types()
    if name not in types:
        import numpy as np

        from modelfmt.ir.encoding import ENCODINGS

        size = ENCODINGS[name].block_bytes
        if ENCODINGS[name].element.kind == "complex":
            size //= 2
        if size > 1:
            rows.reshape(-1).view(np.dtype(f"u{size}")).byteswap(inplace=True)
        return
    _kernels.swap_bytes(types[name].id, rows)


def error_sums(
    source_type: str, source: NDArray[Any], other_type: str, other: NDArray[Any], n_elements: int
) -> tuple[float, float, float]:
    """(sum of squared differences, sum of squares of the source, largest difference) of equal elements in two types."""
    types = kernel_types()
    sums: tuple[float, float, float] = _kernels.error_sums(
        types[source_type].id, source, types[other_type].id, other, n_elements
    )
    return sums
