"""The compiled kernels (csrc/module.c).

Buffers are contiguous, of any alignment unless said otherwise; every length is exact and checked before anything is
read or written (ValueError with the numbers). The GIL is released while a kernel runs; a buffer must not be changed
by another thread meanwhile. Types are ggml's ids.
"""

from array import array
from mmap import mmap
from typing import Any, Final, TypeAlias

import numpy.typing as npt

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap | npt.NDArray[Any]

BAD_SIZE: Final[int]
BAD_VALUE: Final[int]
BAD_IMPORTANCE: Final[int]
NEEDS_IMPORTANCE: Final[int]
UNSUPPORTED: Final[int]
ROUNDING_GGML: Final[int]
ROUNDING_BEST: Final[int]
XXH32_STATE: Final[int]

class KernelError(ValueError):
    """A conversion that cannot be done; the destination is then unfinished. status: one of the constants above."""

    status: int
    row: int
    column: int

def types() -> list[tuple[str, int, int, int, bool, bool, bool, tuple[tuple[int, int, int], ...], bool]]:
    """Every tensor type: name, id, block elements, block bytes, can quantize, can dequantize, needs importance, the
    (offset, size, count) of the multi-byte numbers in a block, and whether ROUNDING_BEST changes anything."""

def convert(
    src_type: int,
    src: Buffer,
    dst_type: int,
    dst: Buffer,
    n_rows: int,
    n_cols: int,
    importance: Buffer | None = None,
    rounding: int = ...,
) -> None:
    """n_rows rows of n_cols elements from one type to another, through float32 (the same type: a copy).

    importance: float32 [n_cols], aligned, finite and >= 0. rounding: ROUNDING_GGML, the default, or ROUNDING_BEST.
    src and dst must not overlap. float64 to float16 or bfloat16 rounds once. Dense destinations take NaN and infinity;
    blocks refuse them (BAD_VALUE with row and column).
    Raises ValueError (lengths), KernelError.
    """

def error_sums(src_type: int, src: Buffer, dst_type: int, dst: Buffer, n_elements: int) -> tuple[float, float, float]:
    """Sum of (src - dst)^2, sum of src^2 and largest |src - dst|, in float64; the same doubles on every CPU."""

def swap_bytes(type: int, buffer: Buffer) -> None:
    """Turns whole blocks from big-endian to little-endian or back, in place."""

def gather_rows(src: Buffer, dst: Buffer, row_bytes: int, indices: Buffer) -> None:
    """dst row i = src row indices[i]; indices: int64, each inside src (ValueError; dst is then unfinished)."""

def skip_strings(
    buffer: Buffer, at: int, n: int, width: int, big: bool, begins: array[int] | None = None
) -> tuple[int, int]:
    """Steps over up to n strings (a length of 4 or 8 bytes, then the bytes) from at on: (how many, where the next is).

    Stops before a string that is not wholly inside the buffer. begins: uint64 [n], gets where each begins.
    """

def lz4_block(src: Buffer, history: Buffer, out: Buffer) -> int:
    """Inflates one block of LZ4 into out; returns the bytes made. history: what was made before (up to 64 KiB count).

    ValueError where the block is damaged, or does not fit.
    """

def xxh32(data: Buffer, state: Buffer | None = None) -> int:
    """XXH32 (seed 0) of data, or of what was added to a state and then data."""

def xxh32_add(state: Buffer, data: Buffer) -> None:
    """Adds data to a state: XXH32_STATE bytes, zeros for a new one."""

def isa() -> str:
    """The active level. ValueError where MODELFMT_ISA named one that is unknown or not for this CPU."""

def isa_levels() -> tuple[str, ...]:
    """The levels that this CPU runs, fastest first; of x86-64: v4, v3, base."""

def set_isa(name: str) -> None:
    """Switches to another level, for tests: the results are the same. Raises ValueError."""
