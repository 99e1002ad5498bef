"""Values rounded to grids, at every level this CPU runs: the bytes that NumPy makes in another way, whole groups or the
end of one, one scale for many rows; what is not finite is found."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from modelfmt import _kernels as kernels

Array = npt.NDArray[Any]
RECORD = 24
DTYPES: dict[str, tuple[Any, int]] = {"F32": (np.float32, 0), "F16": (np.float16, 1), "BF16": (ml_dtypes.bfloat16, 30)}
STEPS = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
LARGEST, FARTHEST, RANGE, EDGE = range(4)
EVEN, AWAY, FLOAT, BOOK = range(4)
KEPT = {"F32": 0, "F16": 1, "BF16": 2}
E4M3, POWER, POWER_ABOVE = 3, 4, 5
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


# What the kernel makes, in NumPy: groups [n, groups, size] of float32 -> scale, offset, zero [n, groups] and codes


def stored(scale: Array, dtype: str) -> Array:
    return scale.astype(DTYPES[dtype][0]).astype(np.float32)


def symmetric(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    half = np.float32(1 << (bits - 1))
    scale = stored(np.abs(x).max(-1) / np.float32(((1 << bits) - 1) / 2), dtype)
    scale = np.where(scale == 0, np.float32(STEPS[dtype]), scale)
    codes = np.rint(np.clip(x / scale[..., None], -half, half - 1)) + half
    return scale, np.zeros_like(scale), np.full_like(scale, half), codes


def asymmetric(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    limit, half = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    exact = (high - low) / limit
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.rint(np.clip(np.where(exact == 0, 0, -half - low / exact), -half, half - 1)).astype(np.float32)
    scale = stored(exact, dtype)
    scale = np.where(scale == 0, np.float32(STEPS[dtype]), scale)
    codes = np.rint(np.clip(x / scale[..., None] + zero[..., None], -half, half - 1)) + half
    return scale, np.zeros_like(scale), zero + half, codes


def mlx(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    limit = np.float32((1 << bits) - 1)
    low, high = x.min(-1), x.max(-1)
    negative = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / limit, np.float32(1e-7))
    scale = np.where(negative, scale, -scale)
    edge = np.where(negative, low, high)
    first = np.rint(edge / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(first != 0, edge / first, scale)
    bias = np.where(first != 0, edge, np.float32(0))
    codes = np.clip(np.rint((x - bias[..., None]) / scale[..., None]), 0, limit)
    return stored(scale, dtype), stored(bias, dtype), np.zeros_like(scale), codes


def onnx_symmetric(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    low, high = x.min(-1), x.max(-1)
    middle = np.float32(1 << (bits - 1))
    exact = np.where(np.abs(high) > np.abs(low), high, low) / -middle
    return away(x, exact, np.full_like(exact, middle), bits, dtype)


def onnx_asymmetric(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    most = np.float32((1 << bits) - 1)
    exact = (high - low) / most
    quotient = np.divide(-low, exact, where=exact != 0, out=np.zeros_like(low))
    return away(x, exact, np.minimum(np.trunc(quotient) + (quotient % 1 >= 0.5), most), bits, dtype)


def away(x: Array, exact: Array, zero: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    scale = stored(exact, dtype)
    inverse = np.divide(np.float32(1), scale, where=scale != 0, out=np.zeros_like(scale))
    value = np.clip(x * inverse[..., None] + zero[..., None], 0, np.float32((1 << bits) - 1))
    return scale, np.zeros_like(scale), zero, np.trunc(value) + (value % 1 >= 0.5)


def e4m3(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    scale = stored(np.abs(x).max(-1) / np.float32(448), dtype)
    scale = np.where(scale == 0, np.float32(STEPS[dtype]), scale)
    codes = np.clip(x / scale[..., None], -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return scale, np.zeros_like(scale), np.zeros_like(scale), codes


def nf4(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    table = np.array(NF4, np.float32)
    scale = np.abs(x).max(-1)
    scaled = np.clip(x * (np.float32(1) / np.maximum(scale, np.float32(1e-38)))[..., None], -1, 1)
    return (
        scale,
        np.zeros_like(scale),
        np.zeros_like(scale),
        np.searchsorted((table[:-1] + table[1:]) / 2, scaled, side="left"),
    )


def int8_rows(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    scale = np.abs(x).max(-1)
    inverse = np.float32(127) * np.divide(np.float32(1), scale, where=scale != 0, out=np.zeros_like(scale))
    return scale, np.zeros_like(scale), np.full_like(scale, 128), np.rint(x * inverse[..., None]) + 128


def power(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    largest = (np.abs(x).max(-1).view(np.uint32) + np.uint32(0x200000)) & np.uint32(0x7F800000)
    scale = np.maximum(largest.view(np.float32) / 256, np.float32(2.0**-127))
    codes = np.clip(x / scale[..., None], -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return scale, np.zeros_like(scale), np.zeros_like(scale), codes


def nvfp4(x: Array, bits: int, dtype: str) -> tuple[Array, ...]:
    whole = np.float32(WHOLE)
    scale = whole * (np.abs(x).max(-1) / np.float32(6))
    scale = np.minimum(scale, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scale = np.where(scale == 0, np.float32(0.125), scale)
    v = np.clip(x / (scale / whole)[..., None], -6, 6)
    distance = np.abs(np.abs(v)[..., None].astype(np.float64) - E2M1)
    nearest = distance.min(-1, keepdims=True) == distance
    last = 7 - np.argmax(nearest[..., ::-1], -1)
    first = np.argmax(nearest, -1)
    return scale, np.zeros_like(scale), np.zeros_like(scale), np.where(first % 2 == 0, first, last) + 8 * (v < 0)


WHOLE = 2688.0 / 3.5
NOTHING = np.zeros(15, np.float32).tobytes() + bytes(16)


def book(thresholds: Any, codes: Any) -> bytes:
    return np.array(thresholds, np.float32).tobytes() + np.array(codes, np.uint8).tobytes()


def fours() -> bytes:
    """Half way to the even code; the negative ones first."""
    middle = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    even = np.arange(1, 8) % 2 == 0
    above = np.where(even, np.nextafter(middle, np.float32(0)), middle)
    under = np.where(even, -middle, np.nextafter(-middle, np.float32(-9)))
    return book([*under[::-1], np.float32(-1e-45), *above], [*range(15, 7, -1), *range(8)])


Rounded = tuple[Any, tuple[int, ...], tuple[float, ...], bytes]


def ways(bits: int, dtype: str) -> dict[str, Rounded]:
    """Name -> the same in NumPy, how (but for `records`), numbers, codebook."""
    limit, half = (1 << bits) - 1, 1 << (bits - 1)
    kept, step = KEPT[dtype], STEPS[dtype]
    middles = (np.array(NF4[:-1], np.float32) + np.array(NF4[1:], np.float32)) / 2
    return {
        "symmetric": (symmetric, (LARGEST, EVEN, kept, 0, limit, half, 1), (limit / 2, 1, 1, step, 0, 0), NOTHING),
        "asymmetric": (asymmetric, (RANGE, EVEN, kept, 0, limit, half, 1), (limit, 1, 1, step, 0, 0), NOTHING),
        "mlx": (mlx, (EDGE, EVEN, kept, 0, limit, 0, 1), (limit, 1, 1, 1e-7, 0, 0), NOTHING),
        "onnx": (onnx_symmetric, (FARTHEST, AWAY, kept, 0, limit, 0, 0), (half, 1, 1, 0, 0, 0), NOTHING),
        "onnx zeros": (onnx_asymmetric, (RANGE, AWAY, kept, 0, limit, 0, 0), (limit, 1, 1, 0, 0, 0), NOTHING),
        "e4m3": (e4m3, (LARGEST, FLOAT, kept, 0, 255, 0, 1), (448, 1, 1, step, 0, 448), NOTHING),
        "nf4": (nf4, (LARGEST, BOOK, 0, 0, 255, 0, 0), (1, 1, 1, 0, 1e-38, 1), book(middles, range(16))),
        "int8": (int8_rows, (LARGEST, EVEN, 0, 0, 255, 128, 0), (1, 1, 127, 0, 0, 0), NOTHING),
        "power": (power, (LARGEST, FLOAT, 0, POWER, 255, 0, 1), (256, 1, 1, 2.0**-127, 0, 448), NOTHING),
        "nvfp4": (nvfp4, (LARGEST, BOOK, 0, E4M3, 255, 0, 1), (6, WHOLE, WHOLE, 0.125, 0, 6), fours()),
    }


def rows_of(x: Array, dtype: str, how: Any, numbers: Any, codes: bytes, size: int, group: int, rows: int = 1) -> Array:
    given = np.ascontiguousarray(x.astype(DTYPES[dtype][0])).view(np.uint8)
    made = np.full((len(x), x.shape[1] // group * RECORD + x.shape[1]), 0xAA, np.uint8)
    shape = (*x.shape, group)
    assert kernels.grid_round((*how, 0), numbers, codes, (size, rows), shape, DTYPES[dtype][1], given, made) is None
    records = np.full((len(x), x.shape[1] // group * RECORD), 0xAA, np.uint8)
    assert kernels.grid_round((*how, 1), numbers, codes, (size, rows), shape, DTYPES[dtype][1], given, records) is None
    assert np.array_equal(records, made[:, : records.shape[1]])
    return made


def grid(parts: tuple[Array, ...], n_cols: int, repeat: int) -> Array:
    """Records, of which each stands for so many groups, and codes, as rows."""
    scale, offset, zero, codes = parts
    head = np.repeat(np.stack([scale, offset, zero], -1).astype(np.float64), repeat, 1)
    return np.concatenate([head.view(np.uint8).reshape(len(scale), -1), codes.reshape(len(scale), n_cols)], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ways(4, "F32"))
@pytest.mark.parametrize(("bits", "size"), [(1, 16), (3, 24), (4, 32), (4, 5), (4, 128), (8, 256), (6, 1000)])
def test_values_are_rounded_as_numpy_does_it(level: str, name: str, bits: int, size: int, dtype: str) -> None:
    if name in ("e4m3", "nf4", "int8", "power", "nvfp4") and bits != 4:
        bits = 8
    make, how, numbers, codes = ways(bits, dtype)[name]
    rng = np.random.default_rng(bits + size)
    x = rng.standard_normal((11, 3 * size)).astype(np.float32)
    x[1], x[2], x[3] = 0, np.abs(x[2]) + 1, -np.abs(x[3]) - 1
    x[4] = rng.integers(-16, 16, 3 * size) / 2  # halves of a scale
    x[5] *= 1e-4
    x[6, ::2], x[7] = -0.0, 3.5
    x[8] = rng.integers(-896, 897, 3 * size)  # half way between eighth parts
    x = x.astype(DTYPES[dtype][0]).astype(np.float32)
    group = next(n for n in (8, 4, 2, 1) if size % n == 0)
    wanted = grid(make(x.reshape(11, 3, size), bits, dtype), 3 * size, size // group)
    assert np.array_equal(rows_of(x, dtype, how, numbers, codes, size, group), wanted)


@pytest.mark.parametrize(("n", "k", "size", "rows"), [(300, 200, 128, 128), (5, 96, 128, 128), (7, 40, 16, 3)])
def test_rows_share_a_scale(level: str, n: int, k: int, size: int, rows: int) -> None:
    """Blocks that reach over rows, and the ends of a matrix."""
    _, how, numbers, codes = ways(8, "F32")["e4m3"]
    x = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    group = np.gcd(size, k)
    found = rows_of(x, "F32", how, numbers, codes, size, int(group), rows)
    high, wide = -(-n // rows), -(-k // size)
    padded = np.zeros((high * rows, wide * size), np.float32)
    padded[:n, :k] = x
    blocks = padded.reshape(high, rows, wide, size).transpose(0, 2, 1, 3).reshape(high, wide, -1)
    scale, _, _, made = e4m3(blocks, 8, "F32")
    made = made.reshape(high, wide, rows, size).transpose(0, 2, 1, 3).reshape(padded.shape)[:n, :k]
    assert np.array_equal(found[:, k // group * RECORD :], made)
    records = found[:, : k // group * RECORD].copy().view(np.float64).reshape(n, -1, 3)
    wide_scales = np.repeat(np.repeat(scale, rows, 0), size // group, 1)[:n, : k // group]
    assert np.array_equal(records[..., 0], wide_scales)


def test_signed_zeros_stay_in_floats(level: str) -> None:
    _, how, numbers, codes = ways(8, "F32")["e4m3"]
    x = np.array([[1.0, -0.0, 0.0, -1e-9] * 8], np.float32)
    found = rows_of(x, "F32", how, numbers, codes, 32, 32)[0, RECORD:]
    assert list(found[:4]) == [0x7E, 0x80, 0, 0x80]


def test_values_that_are_no_numbers_are_found(level: str) -> None:
    _, how, numbers, codes = ways(4, "F16")["onnx"]
    for bad in (np.nan, np.inf, -np.inf):
        for column in (37, 63):
            x = np.ones((4, 64), np.float32)
            x[2, column] = bad
            rows = np.empty((4, 2 * RECORD + 64), np.uint8)
            given = (*how, 0), numbers, codes, (32, 1), (4, 64, 32), 0, x, rows
            assert kernels.grid_round(*given) == (2, column, False)
    for size in (32, 5):
        x = np.full((1, size), 1e30, np.float32)
        rows = np.empty((1, RECORD), np.uint8)
        found = kernels.grid_round((*how, 1), numbers, codes, (size, 1), (1, size, size), 0, x, rows)
        assert found == (0, 0, True)


def call(**changed: Any) -> Any:
    given = {"how": (LARGEST, EVEN, 0, 0, 15, 8, 1, 0), "numbers": (7.5, 1, 1, 1, 0, 0), "book": NOTHING}
    given |= {"shared": (32, 1), "grid": (1, 32, 32), "type": 0, "x": bytes(128), "rows": bytearray(RECORD + 32)}
    return kernels.grid_round(*(given | changed).values())


@pytest.mark.parametrize(
    "changed",
    [
        {"how": (4, EVEN, 0, 0, 15, 8, 1, 0)},
        {"how": (-1, EVEN, 0, 0, 15, 8, 1, 0)},
        {"how": (LARGEST, 4, 0, 0, 15, 8, 1, 0)},
        {"how": (LARGEST, EVEN, 6, 0, 15, 8, 1, 0)},
        {"how": (LARGEST, EVEN, 0, 6, 15, 8, 1, 0)},
        {"how": (LARGEST, EVEN, 0, 0, 256, 8, 1, 0)},
        {"how": (LARGEST, EVEN, 0, 0, 15, 16, 1, 0)},
        {"how": (LARGEST, EVEN, 0, 0, 15, 8, 1, 1)},
        {"book": NOTHING[:-1]},
        {"shared": (0, 1)},
        {"shared": (48, 1)},
        {"shared": (32, 0)},
        {"shared": (1 << 62, 1)},
        {"shared": (32, 1 << 62)},
        {"grid": (1, 32, 24)},
        {"type": 2},
        {"type": 24},
        {"type": 99},
        {"x": bytes(124)},
        {"rows": bytearray(RECORD + 31)},
    ],
)
def test_rounding_takes_exact_lengths_and_known_rules_only(changed: Any) -> None:
    call()
    with pytest.raises(ValueError, match=r"."):
        call(**changed)
