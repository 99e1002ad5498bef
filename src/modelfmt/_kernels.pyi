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

def add_product(a: Buffer, b: Buffer, sums: Buffer, n_rows: int, n_cols: int, rank: int) -> None:
    """sums [n_rows, n_cols] += b [n_rows, rank] times a [rank, n_cols], float32, aligned.

    Each element is summed in the order of the rank, whatever the level and however the matrices are cut: a rank added
    in several calls gives the same bits. sums must not overlap the others. Raises ValueError.
    """

def row_lengths(x: Buffer, lengths: Buffer, n_rows: int, n_cols: int) -> None:
    """lengths[i] = the Euclidean norm of row i of x [n_rows, n_cols], float32, summed in float64; the same bits on
    every CPU. Raises ValueError."""

def mark_words(words: Buffer, seen: Buffer) -> None:
    """Words of 16 bits that occur: seen[word] of 65536 bytes becomes 1."""

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

def grid_unpack(
    packing: tuple[int, int, int, int, int], grid: tuple[int, int, int], packed: Buffer, rows: Buffer
) -> None:
    """Packed codes into the codes of a grid's rows (csrc/grid.h); the records are left as they are.

    packing: (layout: rows 0, words 1, columns 2; order of nibbles: low 0, high 1, AWQ's 2; bits; bits exchanged in each
    code; bytes between packed lines). grid: (rows, columns, group).
    """

def grid_pack(
    packing: tuple[int, int, int, int, int], grid: tuple[int, int, int], rows: Buffer, packed: Buffer, rezero: int
) -> tuple[int, int] | None:
    """The inverse; rezero: codes become code - zero + rezero, -1: stay. (row, column) of a code without a place."""

def grid_values(grid: tuple[int, int, int], rows: Buffer, table: Buffer | None, values: Buffer) -> None:
    """Values of a grid's rows, float64 [rows, columns], aligned; table: float64 [256]."""

def grid_to_blocks(
    type: int, grid: tuple[int, int, int], limit: int, rows: Buffer, blocks: Buffer | None
) -> tuple[float, bool, int, int]:
    """Blocks of a type from a grid whose largest code is `limit`: (largest error over the largest magnitude of a
    block's grid, whether all fits, and the row and column where not). blocks None: only look."""

def grid_from_blocks(type: int, grid: tuple[int, int, int], blocks: Buffer, rows: Buffer) -> None:
    """A grid's rows from blocks; the group is the type's own."""

def grid_round(
    how: tuple[int, int, int, int, int, int, bool, bool],
    numbers: tuple[float, float, float, float, float, float],
    book: Buffer,
    shared: tuple[int, int],
    grid: tuple[int, int, int],
    type: int,
    values: Buffer,
    rows: Buffer,
) -> tuple[int, int, bool] | None:
    """A grid's rows from values [rows, columns] of a dense type: each to the nearest code (mf_rounded, csrc/grid.h).

    how: found, codes, via, stored, limit, shift, divide, records. numbers: reach, times, over, least, floor, top. book:
    thresholds, float32 [15], and codes, uint8 [16]. shared: columns and rows that share a scale. (row, column, whether
    it is the scale) of what is not finite.
    """

def grid_move(
    source: tuple[int, int, int, int, int],
    target: tuple[int, int, int, int, int],
    grid: tuple[int, int, int],
    codes: Buffer,
    planes: tuple[float | Buffer, float | Buffer, float | Buffer],
    limit: int,
    rezero: int,
    table: Buffer | None,
    out: Buffer,
) -> tuple[int, int] | None:
    """Codes from one layout into another through pieces of a grid: (row, column) of what has no place there.

    source, target: packings as above; of blocks, and of values as targets, (3, 0, type, 0, bytes of a row). planes:
    scale, offset and zero of codes that are no blocks, each a float or float64 [rows, groups]. limit: the largest code,
    for blocks; rezero: as in grid_pack; table: as in grid_values.
    """

def grid_numbers(type: int, grid: tuple[int, int, int], blocks: Buffer, planes: Buffer) -> None:
    """Scale, offset and zero of blocks: float64 [3, rows, groups]; the group is the type's own."""

def grid_spread(
    numbers: Buffer,
    bytes: bool,
    step: tuple[int, int],
    lines: tuple[int, int],
    groups: Buffer,
    plus: float,
    how: int,
    size: tuple[int, int],
    turned: bool,
    plane: Buffer,
) -> bool:
    """Numbers (float32, or bytes) into a plane, float64 [rows, groups] or turned: False where it is not finite then.

    step: from line to line and item to item, in elements. lines: the first row, and how many share a line (0: all).
    groups: uintp, the item of each group. how: set 0, multiply 1, divide by 2. size: rows, groups.
    """

def grid_rounding(
    planes: tuple[float | Buffer, float | Buffer, float | Buffer], n: int, stored: tuple[int, int, float, bool, float]
) -> float:
    """The largest error of storing n groups (scale, offset, zero; each a float or float64 [n]) over the largest
    magnitude of each group. stored: type of the scales, of the offsets (-1: none), the largest code or magnitude,
    whether codes are integers, and what their zero becomes (NaN: they stay)."""

def read_strip(handle: int, offset: int, stride: int, size: int, out: Buffer) -> int:
    """Lines of `size` bytes of an open file, `stride` apart from offset on, until out is full: how many are whole.

    Raises OSError.
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
