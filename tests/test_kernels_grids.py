"""The kernels of grids at every level this CPU runs: the bytes that NumPy makes in another way, exact lengths only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelfmt import _kernels as kernels

Array = npt.NDArray[Any]
TYPES = {row[0]: row for row in kernels.types()}
ROWS, WORDS, COLUMNS, BLOCKS = 0, 1, 2, 3
LOW, HIGH, AWQ = 0, 1, 2
RECORD = 24


def grid(codes: Array, records: Array) -> Array:
    """Rows of a grid: records [n, groups, 3] and codes [n, columns]."""
    head = np.ascontiguousarray(records, np.float64).view(np.uint8).reshape(len(codes), -1)
    return np.ascontiguousarray(np.concatenate([head, codes.astype(np.uint8)], axis=1))


def stream(codes: Array, bits: int) -> Array:
    """Codes along the last axis as bytes, lowest bit first."""
    planes = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    return np.packbits(planes.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("n", "k"), [(1, 8), (3, 40), (17, 72), (5, 1032)])
def test_rows_of_bits(level: str, bits: int, n: int, k: int) -> None:
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (n, k))
    packed = stream(codes, bits)
    rows = np.full((n, RECORD + k), 0xAA, np.uint8)
    kernels.grid_unpack((ROWS, LOW, bits, 0, packed.shape[1]), (n, k, k), packed, rows)
    assert np.array_equal(rows[:, RECORD:], codes)
    assert (rows[:, :RECORD] == 0xAA).all()
    out = np.full_like(packed, 0xAA)
    rows[:, :RECORD] = 0
    assert kernels.grid_pack((ROWS, LOW, bits, 0, packed.shape[1]), (n, k, k), rows, out, -1) is None
    assert np.array_equal(out, packed)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize(("n", "k"), [(8, 32), (21, 96), (40, 832)])
def test_words_below_each_other(level: str, bits: int, n: int, k: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (n, k))
    packed = np.ascontiguousarray(stream(codes, bits).view(np.uint32).T)
    rows = np.zeros((n, RECORD + k), np.uint8)
    kernels.grid_unpack((WORDS, LOW, bits, 0, 4 * n), (n, k, k), packed, rows)
    assert np.array_equal(rows[:, RECORD:], codes)
    out = np.full_like(packed, 0xAAAAAAAA)
    assert kernels.grid_pack((WORDS, LOW, bits, 0, 4 * n), (n, k, k), rows, out, -1) is None
    assert np.array_equal(out, packed)


@pytest.mark.parametrize("order", [LOW, AWQ])
@pytest.mark.parametrize(("n", "k"), [(8, 1), (40, 19), (264, 50), (256, 256), (392, 161)])
def test_words_across_rows(level: str, order: int, n: int, k: int) -> None:
    codes = np.random.default_rng(n).integers(0, 16, (n, k))
    places = [0, 2, 4, 6, 1, 3, 5, 7] if order == AWQ else list(range(8))
    turned = codes.T.reshape(k, n // 8, 8)[..., places].reshape(k, n)
    packed = stream(turned, 4)
    rows = np.zeros((n, RECORD + k), np.uint8)
    kernels.grid_unpack((COLUMNS, order, 4, 0, n // 2), (n, k, k), packed, rows)
    assert np.array_equal(rows[:, RECORD:], codes)
    out = np.full_like(packed, 0xAA)
    assert kernels.grid_pack((COLUMNS, order, 4, 0, n // 2), (n, k, k), rows, out, -1) is None
    assert np.array_equal(out, packed)


def test_codes_that_move_and_those_that_cannot(level: str) -> None:
    codes = np.array([[0, 3, 15, 9] * 8])
    records = np.array([[[1.0, 0.0, 3.0]]])
    out = np.zeros((1, 20), np.uint8)
    assert kernels.grid_pack((ROWS, LOW, 5, 0, 20), (1, 32, 32), grid(codes, records), out, 16) is None
    assert np.array_equal(out, stream(codes + 13, 5))
    small = np.zeros((1, 16), np.uint8)
    assert kernels.grid_pack((ROWS, LOW, 4, 0, 16), (1, 32, 32), grid(codes, records), small, 8) == (0, 0)
    three = np.zeros((1, 12), np.uint8)
    assert kernels.grid_pack((ROWS, LOW, 3, 0, 12), (1, 32, 32), grid(codes, records), three, -1) == (0, 0)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_0", "TQ2_0", "MXFP4", "NVFP4"])
def test_blocks_and_back_at_every_level(level: str, kind: str) -> None:
    _, number, elements, size, *_ = TYPES[kind]
    group = 16 if kind == "NVFP4" else elements
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (7, 512 // elements, size), np.uint8)
    fields = {"Q4_1": (0, 4), "Q5_1": (0, 4), "TQ2_0": (64, 66), "MXFP4": (0, 1), "NVFP4": (0, 4)}.get(kind, (0, 2))
    blocks[..., fields[0] : fields[1]] &= 0x3B  # finite scales, none of them negative
    if kind == "TQ2_0":
        blocks[..., :64] &= 0x55
    blocks = blocks.reshape(7, -1)
    rows = np.zeros((7, 512 // group * RECORD + 512), np.uint8)
    kernels.grid_from_blocks(number, (7, 512, group), blocks, rows)
    out = np.zeros_like(blocks)
    limit = {"Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 31, "Q8_0": 255, "Q2_0": 3, "TQ2_0": 3}.get(kind, 15)
    worst, fits, _, _ = kernels.grid_to_blocks(number, (7, 512, group), limit, rows, out)
    assert (worst, fits) == (0.0, True)
    assert np.array_equal(out, blocks)
    values = np.empty((7, 512))
    table = np.zeros(256)
    table[:16] = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    kernels.grid_values((7, 512, group), rows, table if kind in ("MXFP4", "NVFP4") else None, values)
    theirs = np.empty((7, 512), np.float32)
    kernels.convert(number, blocks, 0, theirs, 7, 512)
    assert np.array_equal(values.astype(np.float32), theirs)


@pytest.mark.parametrize("n", [88, 296])
@pytest.mark.parametrize("lay", [ROWS, WORDS, COLUMNS])
def test_moving_is_unpacking_and_making(level: str, lay: int, n: int) -> None:
    k, group = 256, 64
    rng = np.random.default_rng(lay)
    shape = {ROWS: (n, k // 2), WORDS: (k // 8, 4 * n), COLUMNS: (k, n // 2)}[lay]
    packed = rng.integers(0, 256, shape, np.uint8)
    records = np.zeros((n, k // group, 3))
    records[..., 0] = rng.uniform(0.01, 0.02, (n, k // group)).astype(np.float16)
    records[..., 2] = rng.integers(0, 16, (n, k // group))
    packing, size = (lay, LOW, 4, 0, shape[1]), (n, k, group)
    rows = grid(np.zeros((n, k)), records)
    kernels.grid_unpack(packing, size, packed, rows)
    one, two = np.zeros((n, k // 32 * 22), np.uint8), np.zeros((n, k // 32 * 22), np.uint8)
    assert kernels.grid_to_blocks(6, size, 15, rows, one)[1]
    planes = [np.ascontiguousarray(records[..., field]) for field in (0, 2)]
    target = (BLOCKS, 0, 6, 0, two.shape[1])
    assert kernels.grid_move(packing, target, size, packed, (planes[0], 0.0, planes[1]), 15, -1, None, two) is None
    assert np.array_equal(one, two)
    if lay == ROWS:
        return
    first, three = 24, np.zeros((n - 24, k // 32 * 22), np.uint8)  # the later rows of the same strip
    strip = packed.reshape(-1)[first * 4 if lay == WORDS else first // 2 :]
    later = (planes[0][first:], 0.0, planes[1][first:])
    assert kernels.grid_move(packing, target, (n - first, k, group), strip, later, 15, -1, None, three) is None
    assert np.array_equal(two[first:], three)
    with pytest.raises(ValueError, match="expected exactly"):
        kernels.grid_move(packing, target, (n, k, group), strip, (1.0, 0.0, 8.0), 15, -1, None, two)


@pytest.mark.parametrize("n", [88, 296])
@pytest.mark.parametrize("lay", [WORDS, COLUMNS])
def test_rows_become_words_across_a_slab_at_a_time(level: str, lay: int, n: int) -> None:
    k, first = 256, 24
    packed = np.random.default_rng(lay).integers(0, 256, (n, k // 2), np.uint8)
    shape = {WORDS: (k // 8, 4 * n), COLUMNS: (k, n // 2)}[lay]
    source, target = (ROWS, LOW, 4, 0, k // 2), (lay, LOW, 4, 0, shape[1])
    whole, slabs, numbers = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), (1.0, 0.0, 8.0)
    assert kernels.grid_move(source, target, (n, k, k), packed, numbers, 15, -1, None, whole) is None
    for begin, end in ((0, first), (first, n)):
        part = slabs.reshape(-1)[begin * 4 if lay == WORDS else begin // 2 :]
        size = (end - begin, k, k)
        assert kernels.grid_move(source, target, size, packed[begin:end], numbers, 15, -1, None, part) is None
    assert np.array_equal(whole, slabs)
    short = slabs.reshape(-1)[(first * 4 if lay == WORDS else first // 2) + 1 :]
    with pytest.raises(ValueError, match="target"):
        kernels.grid_move(source, target, (n - first, k, k), packed[first:], numbers, 15, -1, None, short)


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "Q4_1", "Q2_0", "MXFP4"])
def test_a_group_does_not_depend_on_those_before_it(level: str, kind: str) -> None:
    _, number, elements, size, *_ = TYPES[kind]
    n_groups, rng = 400, np.random.default_rng(3)
    scales = [0.5, -0.5, 0.0, 2.0**-24, 3 * 2.0**-20, 0.1, 65504.0, 1e-9, float(np.float16(0.3)), 2.0**-14, 2.0**-15]
    records = np.zeros((n_groups, 1, 3))
    records[:, 0, 0] = rng.choice(scales, n_groups)
    records[:, 0, 1] = rng.choice([0.0, 0.0, 0.0, 0.25], n_groups)
    records[:, 0, 2] = rng.choice([0.0, 1.0, 7.0, 8.0, 8.0, 16.0, 0.5], n_groups)
    codes = rng.integers(0, 4, (n_groups, elements))
    alone, worst, kept = [], 0.0, []
    for i in range(n_groups):
        out = np.zeros(size, np.uint8)
        row = grid(codes[i : i + 1], records[i : i + 1])
        found = kernels.grid_to_blocks(number, (1, elements, elements), 15, row, out)
        if found[1]:
            alone, worst, kept = [*alone, out], max(worst, found[0]), [*kept, i]
    assert len(kept) > 20
    out = np.zeros((len(kept), size), np.uint8)
    row = grid(codes[kept].reshape(1, -1), records[kept].reshape(1, -1, 3))
    found = kernels.grid_to_blocks(number, (1, len(kept) * elements, elements), 15, row, out)
    assert found[:2] == (worst, True)
    assert np.array_equal(out, np.array(alone))


def test_words_that_occur_are_marked() -> None:
    words, seen = np.random.default_rng(1).integers(0, 1 << 16, 5000).astype(np.uint16), np.zeros(1 << 16, np.uint8)
    kernels.mark_words(words, seen)
    assert np.array_equal(np.flatnonzero(seen), np.unique(words))


@pytest.mark.parametrize(
    ("kind", "zero", "code"), [("Q8_0", 100, 250), ("Q8_0", 200, 0), ("Q5_0", -230, 15), ("Q4_0", -3 * 2**52, 8)]
)
def test_codes_do_not_come_back_past_the_end_of_a_byte(level: str, kind: str, zero: float, code: int) -> None:
    """Moved by what their zero is off, they are one of the type's codes again in eight bits alone, or in 64."""
    _, number, elements, size, *_ = TYPES[kind]
    limit = 255 if kind == "Q8_0" else 15
    rows = grid(np.full((1, elements), code), np.array([[[0.5, 0.0, zero]]]))
    worst, fits, row, column = kernels.grid_to_blocks(number, (1, elements, elements), limit, rows, bytearray(size))
    assert (worst, fits, row, column) == (0.0, False, 0, 0)


def test_a_negative_scale_holds_what_a_positive_cannot(level: str) -> None:
    codes = np.array([[1, 16 - 1] * 16])  # 8 - code is in -7 .. 7, code - 8 too; with a zero of 7, -6 .. 8
    records = np.array([[[0.5, 0.0, 7.0]]])
    out = np.zeros((1, 18), np.uint8)
    worst, fits, _, _ = kernels.grid_to_blocks(2, (1, 32, 32), 15, grid(codes, records), out)
    assert (worst, fits) == (0.0, True)
    assert out[:, :2].view(np.float16)[0, 0] == -0.5
    values = np.empty((1, 32), np.float32)
    kernels.convert(2, out, 0, values, 1, 32)
    assert np.array_equal(values, (codes - 7) * np.float32(0.5))


def move(**changed: Any) -> Any:
    given = {"source": (ROWS, LOW, 4, 0, 16), "target": (BLOCKS, 0, 2, 0, 18), "grid": (1, 32, 32), "codes": bytes(16)}
    given |= {"planes": (1.0, 0.0, 8.0), "limit": 15, "rezero": -1, "table": None, "out": bytearray(18)} | changed
    return kernels.grid_move(*given.values())


def spread(numbers: bytes, item: int, rows: int = 2, plane: bytearray | None = None) -> Any:
    groups = np.array([item], np.uintp)
    out = bytearray(8 * min(rows, 2)) if plane is None else plane
    return kernels.grid_spread(numbers, False, (1, 1), (0, 1), groups, 0.0, 0, (rows, 1), False, out)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernels.grid_unpack((ROWS, LOW, 4, 0, 4), (2, 8, 8), bytes(7), bytearray(64)),
        lambda: kernels.grid_unpack((ROWS, LOW, 4, 0, 3), (2, 8, 8), bytes(6), bytearray(64)),
        lambda: kernels.grid_unpack((ROWS, LOW, 4, 0, 4), (2, 8, 8), bytes(8), bytearray(63)),
        lambda: kernels.grid_unpack((ROWS, LOW, 9, 0, 16), (1, 8, 8), bytes(16), bytearray(32)),
        lambda: kernels.grid_unpack((WORDS, LOW, 5, 0, 4), (1, 32, 32), bytes(20), bytearray(56)),
        lambda: kernels.grid_unpack((COLUMNS, AWQ, 4, 0, 2), (4, 8, 8), bytes(16), bytearray(128)),
        lambda: kernels.grid_unpack((ROWS, LOW, 4, 0, 4), (2, 8, 3), bytes(8), bytearray(64)),
        lambda: kernels.grid_unpack((ROWS, LOW, 4, 0, 1 << 62), (1 << 40, 8, 8), bytes(8), bytearray(64)),
        lambda: kernels.grid_to_blocks(2, (1, 48, 48), 15, bytes(72), None),
        lambda: kernels.grid_to_blocks(99, (1, 32, 32), 15, bytes(56), None),
        lambda: kernels.grid_to_blocks(2, (1, 32, 32), 999, bytes(56), None),
        lambda: kernels.grid_from_blocks(2, (1, 32, 16), bytes(18), bytearray(80)),
        lambda: move(planes=(bytes(7), 0.0, 8.0)),
        lambda: move(codes=bytes(15)),
        lambda: move(out=bytearray(17)),
        lambda: move(limit=0),
        lambda: move(rezero=256),
        lambda: move(target=(BLOCKS, 0, 99, 0, 18)),
        lambda: move(target=(BLOCKS, 0, 12, 0, 18)),
        lambda: move(target=(BLOCKS, 0, 2, 0, 17), out=bytearray(17)),
        lambda: move(source=(BLOCKS, 0, 0, 0, 128), codes=bytes(128)),
        lambda: move(table=bytes(8)),
        lambda: kernels.grid_numbers(2, (1, 32, 32), bytes(17), bytearray(24)),
        lambda: kernels.grid_numbers(2, (1, 32, 32), bytes(18), bytearray(23)),
        lambda: kernels.grid_numbers(2, (1, 32, 16), bytes(18), bytearray(48)),
        lambda: spread(bytes(4), 1),
        lambda: spread(bytes(8), 2),
        lambda: spread(bytes(8), 1, rows=1 << 62),
        lambda: spread(bytes(8), 1, plane=bytearray(8)),
        lambda: kernels.grid_values((1, 8, 8), bytes(32), bytes(8), bytearray(64)),
        lambda: kernels.mark_words(bytes(3), bytearray(1 << 16)),
        lambda: kernels.mark_words(bytes(4), bytearray(1 << 15)),
        lambda: kernels.read_strip(0, -1, 8, 8, bytearray(8)),
        lambda: kernels.read_strip(0, 0, 1 << 62, 1, bytearray(8)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        call()
