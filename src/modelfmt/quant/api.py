"""Quantization of arrays: `modelfmt.quantize`, `modelfmt.dequantize`, `modelfmt.types`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from modelfmt.errors import ArrayError, ShapeError, UnsupportedError, UsageError
from modelfmt.ir.encoding import Encoding, encoding
from modelfmt.kernels import can_decode, can_encode, check_rounding, convert, kernel_types
from modelfmt.quant.arrays import as_bytes, as_floats, as_numbers, as_target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TypeInfo", "dequantize", "quantize", "types"]

_ROWS_PER_TASK_ELEMENTS = 1 << 18


class TypeInfo(NamedTuple):
    """One tensor type.

    needs_importance: it cannot be made without an importance matrix. can_refine: rounding="best" has a search for it.
    """

    name: str
    block_elements: int
    block_bytes: int
    bits_per_weight: float
    can_quantize: bool
    can_dequantize: bool
    needs_importance: bool
    can_refine: bool


def types() -> tuple[TypeInfo, ...]:
    """Every GGUF tensor type with its block, size and what the kernels can do.

    >>> next(row.bits_per_weight for row in types() if row.name == "Q4_K")
    4.5
    """
    rows = kernel_types().values()
    return tuple(
        TypeInfo(
            row.name,
            row.block_elements,
            row.block_bytes,
            row.block_bytes * 8 / row.block_elements,
            row.can_quantize,
            row.can_dequantize,
            row.needs_importance,
            row.can_refine,
        )
        for row in rows
    )


def quantize(
    x: Any,
    type: str,
    *,
    weights: Any = None,
    rounding: str = "ggml",
    threads: int | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Quantize the rows of x.

    x: numbers [..., cols], cols a multiple of the type's block: NumPy, ml_dtypes, a list, or anything with DLPack;
    float32, float16, bfloat16 and float64 are read as they are, others converted to float32 first. weights: numbers
    [cols], importance >= 0. rounding: "ggml", the bytes of llama.cpp, or "best", a search for blocks of the same type
    with less (weighted) squared error, which is never more than ggml's. threads: default 1.
    out: uint8 [..., row bytes] to write into: an array, anything with DLPack, or a buffer of as many bytes.
    Returns uint8 [..., cols / block_elements * block_bytes]; the same bytes on every CPU.
    Raises ShapeError (cols), BadValue (NaN or infinity, with row and column), UsageError (unknown type or rounding).
    Source: ggml, quantize_row_*_ref and quantize_* of ggml-quants.c.

    >>> import numpy as np
    >>> quantize(np.zeros((2, 256), "f4"), "Q4_K").shape
    (2, 144)
    """
    import numpy as np

    stored = encoding(type)
    check_rounding(rounding)
    if not can_encode(stored.name):
        raise UnsupportedError("no kernel makes this type", code="no-kernel", found=stored.name)
    array, source = as_numbers(x)
    if array.ndim == 0:
        raise ShapeError("a scalar has no rows", code="scalar", found=array.shape, allowed="at least one axis")
    n_cols, lead = array.shape[-1], array.shape[:-1]
    shape = (*lead, stored.row_bytes(n_cols))
    importance = None
    if weights is not None:
        importance = as_floats(weights)
        if importance.shape != (n_cols,):
            raise ShapeError(
                "importance weights do not match the columns",
                code="weights-shape",
                found=importance.shape,
                allowed=(n_cols,),
            )
        if not np.all(np.isfinite(importance)) or np.any(importance < 0):
            raise ArrayError("importance weights must be finite and not negative", code="weights-value")
    elif kernel_types()[stored.name].needs_importance:
        raise UsageError(
            "this type needs importance weights", code="importance-missing", found=stored.name, hint="pass weights="
        )
    target = as_target(out, shape, np.uint8)
    _convert_rows(
        (array.reshape(prod(lead), n_cols), source),
        (target.reshape(prod(lead), shape[-1]), stored.name),
        n_cols,
        threads,
        importance=importance,
        rounding=rounding,
    )
    return target


def dequantize(
    blocks: Any,
    type: str,
    shape: tuple[int, ...] | None = None,
    *,
    threads: int | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The float32 values of quantized rows.

    blocks: uint8 [..., row bytes], or any buffer of the right size where shape is given. shape: of the result, default
    [..., row bytes / block_bytes * block_elements]. threads, out (float32): as for quantize. Returns float32.
    Raises ShapeError, ArrayError (no array, no buffer), UsageError, UnsupportedError.

    >>> import numpy as np
    >>> dequantize(quantize(np.full((1, 32), 127, "f4"), "Q8_0"), "Q8_0")[0, :2]
    array([127., 127.], dtype=float32)
    """
    import numpy as np

    stored = encoding(type)
    if not can_decode(stored.name):
        raise UnsupportedError("no kernel reads this type", code="no-kernel", found=stored.name)
    data = as_bytes(blocks)
    if shape is not None:
        shape = _shape(shape)
    else:
        if data.shape[-1] % stored.block_bytes:
            raise ShapeError(
                "rows are no whole blocks",
                code="row-not-blocks",
                found=data.shape[-1],
                allowed=f"a multiple of {stored.block_bytes}",
            )
        shape = (*data.shape[:-1], data.shape[-1] // stored.block_bytes * stored.block_elements)
    n_cols = shape[-1] if shape else 1
    size = _stored_bytes(stored, shape)
    if data.nbytes != size:
        raise ShapeError(
            "the blocks are not as many bytes as the shape needs", code="blocks-size", found=data.nbytes, allowed=size
        )
    target = as_target(out, shape, np.float32)
    if target.size:
        _convert_rows(
            (data.reshape(target.size // n_cols, -1), stored.name), (target.reshape(-1, n_cols), "F32"), n_cols, threads
        )
    return target


def _stored_bytes(stored: Encoding, shape: tuple[int, ...]) -> int:
    n_cols = shape[-1] if shape else 1
    return prod(shape[:-1]) * stored.row_bytes(n_cols)


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        found = tuple(index(n) for n in shape)
    except TypeError:
        found = (-1,)
    if any(n < 0 for n in found):
        raise ShapeError("this is no shape", code="shape", found=shape, allowed="integers >= 0, one for each axis")
    return found


def _convert_rows(
    source: tuple[NDArray[Any], str],
    target: tuple[NDArray[Any], str],
    n_cols: int,
    threads: int | None,
    *,
    importance: NDArray[Any] | None = None,
    rounding: str = "ggml",
) -> None:
    rows, source_type = source
    out, target_type = target
    n_rows = len(out)
    if threads is not None and not (hasattr(threads, "__index__") and threads > 0):
        raise UsageError("this is no number of threads", code="threads", found=threads, allowed="an integer, 1 or more")
    step = max(1, _ROWS_PER_TASK_ELEMENTS // max(n_cols, 1))

    def task(start: int, stop: int) -> None:
        convert(
            source_type,
            rows[start:stop],
            target_type,
            out[start:stop],
            stop - start,
            n_cols,
            importance,
            rounding=rounding,
            first_row=start,
        )

    if threads in (None, 1) or n_rows <= step:
        task(0, n_rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: task(start, min(start + step, n_rows)), range(0, n_rows, step)))
