"""Dense casts, Q8_0 and the byte moves of modelfmt._kernels, at every level this CPU runs, against NumPy, ml_dtypes,
PyTorch and llama.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES

import ggml
from modelfmt import _kernels as kernels

TYPES = {row[0]: row for row in kernels.types()}
Array = npt.NDArray[Any]


def convert(src: str, x: Array, dst: str, *, cols: int | None = None, importance: Array | None = None) -> Array:
    """The bytes of x (of type src, its blocks in rows of `cols` elements) in type dst."""
    x = np.ascontiguousarray(x)
    (_, src_id, src_elements, src_bytes, *_), (_, dst_id, elements, size, *_) = TYPES[src], TYPES[dst]
    n = x.nbytes // src_bytes * src_elements
    cols = n if cols is None else cols
    out = np.full(n // elements * size, 0xAA, dtype=np.uint8)
    kernels.convert(src_id, x.view(np.uint8), dst_id, out, n // cols if cols else 0, cols, importance)
    return out


def hard_floats() -> npt.NDArray[np.float32]:
    """Random bit patterns, every half value, its neighbours in float32, and every midpoint between two halves."""
    random = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    middle = halves + 0x1000
    brains = (np.arange(65536, dtype=np.uint32) << 16) + 0x8000
    subnormal = np.random.default_rng(2).integers(0x33000000 - 4096, 0x38800000 + 4096, 100_000, dtype=np.uint32)
    sets = [random, halves, subnormal, subnormal | 0x80000000]
    for exact in (halves, middle, brains):
        sets += [exact, exact + 1, exact - 1]
    return np.concatenate(sets).view(np.float32)


def assert_same_but_nan(found: Array, expected: Array, nan: Array) -> None:
    """Equal bits wherever the input was a number."""
    assert np.array_equal(found[~nan], expected[~nan])


def test_types_agree_with_gguf_on_names_and_block_sizes() -> None:
    # gguf-py counts Q8_1's scales as float32; ggml's block_q8_1 holds float16 and is 36 bytes.
    expected = {int(t): (t.name, *sizes) for t, sizes in GGML_QUANT_SIZES.items() if t.name != "Q8_1"}
    found = {row[1]: (row[0], row[2], row[3]) for row in kernels.types()}
    assert expected.items() <= found.items()


def test_types_agree_with_llama_cpp_on_block_sizes() -> None:
    for name, type_id, elements, size, *_ in kernels.types():
        traits = ggml.traits(type_id)
        assert (traits.blck_size, traits.type_size) == (elements, size), name


def test_every_half_becomes_the_float_that_numpy_says(level: str) -> None:
    halves = np.arange(65536, dtype=np.uint16)
    found = convert("F16", halves, "F32").view(np.uint32)
    expected = halves.view(np.float16).astype(np.float32)
    assert_same_but_nan(found, expected.view(np.uint32), np.isnan(expected))
    assert np.isnan(found.view(np.float32)[np.isnan(expected)]).all()
    # NaN, bit for bit: what the hardware conversion in ggml makes of it
    oracle = ggml.cast_row("ggml_fp16_to_fp32_row", halves, np.uint32)
    assert np.array_equal(found[np.isnan(expected)] | 0x00400000, oracle[np.isnan(expected)] | 0x00400000)


def test_floats_round_to_half_like_numpy_and_torch(level: str) -> None:
    x = hard_floats()
    found = convert("F32", x, "F16").view(np.uint16)
    nan = np.isnan(x)
    with np.errstate(over="ignore"):
        assert_same_but_nan(found, x.astype(np.float16).view(np.uint16), nan)
    assert_same_but_nan(found, torch.from_numpy(x).to(torch.float16).view(torch.uint16).numpy(), nan)
    bits = x.view(np.uint32)[nan]
    assert np.array_equal(found[nan], (bits >> 16 & 0x8000 | 0x7E00 | bits >> 13 & 0x3FF).astype(np.uint16))


def test_floats_round_to_bfloat16_like_llama_cpp_and_ml_dtypes(level: str) -> None:
    x = hard_floats()
    found = convert("F32", x, "BF16").view(np.uint16)
    assert np.array_equal(found, ggml.cast_row("ggml_fp32_to_bf16_row", x, np.uint16))
    with np.errstate(invalid="ignore"):
        assert_same_but_nan(found, x.astype(ml_dtypes.bfloat16).view(np.uint16), np.isnan(x))


def test_every_bfloat16_widens_exactly(level: str) -> None:
    brains = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(convert("BF16", brains, "F32").view(np.uint32), brains.astype(np.uint32) << 16)


def test_half_and_bfloat16_meet_like_torch(level: str) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    halves = torch.from_numpy(bits.view(np.float16))
    found = convert("F16", bits, "BF16").view(np.uint16)
    assert_same_but_nan(found, halves.to(torch.bfloat16).view(torch.uint16).numpy(), np.isnan(bits.view(np.float16)))
    brains = torch.from_numpy(bits).view(torch.bfloat16)
    found = convert("BF16", bits, "F16").view(np.uint16)
    assert_same_but_nan(found, brains.to(torch.float16).view(torch.uint16).numpy(), torch.isnan(brains).numpy())


def test_doubles_round_once(level: str) -> None:
    rng = np.random.default_rng(3)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([rng.standard_normal(10_000), 10.0 ** rng.uniform(-320, 308, 20_000), halves, middles])
    x = np.concatenate([x, -x, x * (1 + 2.0**-40), x * (1 - 2.0**-40), [np.inf, -np.inf, 0.0, -0.0]])
    with np.errstate(over="ignore", under="ignore"):
        assert np.array_equal(convert("F64", x, "F32").view(np.float32), x.astype(np.float32))
        assert np.array_equal(convert("F64", x, "F16").view(np.uint16), x.astype(np.float16).view(np.uint16))
    narrow = convert("F64", x, "BF16").view(ml_dtypes.bfloat16)
    normal = (np.abs(x) > 1e-37) & (np.abs(x) < 3e38)
    narrow, exact = narrow[normal], x[normal]
    error = np.abs(narrow.astype(np.float64) - exact)
    for side in (-np.inf, np.inf):
        neighbour = np.nextafter(narrow, np.array(side, ml_dtypes.bfloat16)).astype(np.float64)
        assert (error <= np.abs(neighbour - exact)).all()
    floats = hard_floats()
    wide = convert("F32", floats, "F64").view(np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaN
        assert np.array_equal(wide, floats.astype(np.float64), equal_nan=True)


@pytest.mark.parametrize("n", [0, 1, 3, 15, 17, 33, 8191, 8193])
@pytest.mark.parametrize(("src", "dst"), [("F32", "F16"), ("F16", "BF16"), ("BF16", "F32")])
def test_lengths_and_alignments_do_not_matter(level: str, src: str, dst: str, n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    data = convert("F32", x, src)
    shifted = np.empty(data.size + 1, np.uint8)[1:]
    shifted[:] = data
    into = np.full(n * TYPES[dst][3] + 9, 0x55, np.uint8)
    kernels.convert(TYPES[src][1], shifted, TYPES[dst][1], into[5:-4], 1, n)
    assert np.array_equal(into[5:-4], convert(src, data, dst))
    assert (into[:5] == 0x55).all() and (into[-4:] == 0x55).all()


def block_values() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(4)
    yield "normal", rng.standard_normal((37, 96)).astype(np.float32)
    yield "wide", (rng.standard_normal((64, 256)) * 10.0 ** rng.uniform(-30, 30, (64, 1))).astype(np.float32)
    yield "halves", (rng.integers(-254, 255, (64, 64)) / 2).astype(np.float32)
    yield "zeros", np.zeros((3, 32), np.float32)
    yield "negative zeros", np.full((3, 32), -0.0, np.float32)
    yield "subnormal", rng.integers(0, 200, (64, 64), dtype=np.uint32).view(np.float32)
    yield "tiny", (rng.standard_normal((64, 64)) * 1e-37).astype(np.float32)
    yield "huge", np.clip(rng.standard_normal((64, 64)) * 2e38, -3.4e38, 3.4e38).astype(np.float32)
    yield "long", rng.standard_normal((1, 8192 * 3 + 32)).astype(np.float32)


@pytest.mark.parametrize("x", [pytest.param(x, id=name) for name, x in block_values()])
def test_q8_0_bytes_are_those_of_llama_cpp(level: str, x: npt.NDArray[np.float32]) -> None:
    blocks = convert("F32", x, "Q8_0", cols=x.shape[1])
    assert blocks.tobytes() == ggml.quantize(8, x)
    weights = np.ones(x.shape[1], np.float32)
    assert convert("F32", x, "Q8_0", cols=x.shape[1], importance=weights).tobytes() == blocks.tobytes()
    assert np.array_equal(
        convert("Q8_0", blocks, "F32").view(np.uint32), ggml.dequantize(8, blocks.tobytes()).view("u4")
    )


def test_q8_0_reads_any_bytes_like_llama_cpp(level: str) -> None:
    blocks = np.random.default_rng(5).integers(0, 256, 34 * 4096, dtype=np.uint8)
    found, expected = convert("Q8_0", blocks, "F32").view(np.float32), ggml.dequantize(8, blocks.tobytes())
    assert np.array_equal(found, expected, equal_nan=True)


def test_half_sources_quantize_like_their_floats(level: str) -> None:
    x = np.random.default_rng(6).standard_normal((50, 320)).astype(np.float16)
    assert convert("F16", x, "Q8_0", cols=320).tobytes() == ggml.quantize(8, x.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 77), (40, 351)])
def test_values_that_blocks_cannot_hold_are_named(level: str, value: float, place: tuple[int, int]) -> None:
    x = np.ones((41, 352), np.float32)
    x[place] = value
    with pytest.raises(kernels.KernelError) as caught:
        convert("F32", x, "Q8_0", cols=352)
    assert (caught.value.status, caught.value.row, caught.value.column) == (kernels.BAD_VALUE, *place)
    assert np.array_equal(convert("F32", x, "F32").view(np.float32).reshape(x.shape), x, equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_importance_is_named(level: str, value: float) -> None:
    weights = np.ones(64, np.float32)
    weights[5] = value
    with pytest.raises(kernels.KernelError) as caught:
        convert("F32", np.ones((2, 64), np.float32), "Q8_0", cols=64, importance=weights)
    assert (caught.value.status, caught.value.column) == (kernels.BAD_IMPORTANCE, 5)


def test_subnormals_survive_a_thread_that_flushes_them(level: str) -> None:
    x = np.random.default_rng(7).integers(0, 1 << 23, 64, dtype=np.uint32).view(np.float32)
    expected = convert("F32", x, "Q8_0")
    assert torch.set_flush_denormal(True)
    try:
        assert np.array_equal(convert("F32", x, "Q8_0"), expected)
    finally:
        torch.set_flush_denormal(False)


def test_lengths_are_checked_before_anything_is_touched() -> None:
    x, y = np.zeros(64, np.float32), np.full(68, 7, np.uint8)
    for src, dst, rows, cols in [(x[1:], y, 2, 32), (x, y[1:], 2, 32), (x, y, 3, 32), (x, y, 2, 33), (x, y, -2, 32)]:
        with pytest.raises(ValueError, match=r"bytes|columns|negative"):
            kernels.convert(0, src, 8, dst, rows, cols)
    with pytest.raises(ValueError, match="memory"):
        kernels.convert(0, x, 8, y, 2**40, 2**40)
    with pytest.raises(ValueError, match="overlap"):
        kernels.convert(0, y[:64], 1, y[16:48], 1, 16)
    with pytest.raises(ValueError, match="no tensor type"):
        kernels.convert(4, x, 8, y, 2, 32)
    with pytest.raises(kernels.KernelError) as caught:
        kernels.convert(24, np.zeros(64, np.int8), 8, y, 2, 32)
    assert caught.value.status == kernels.UNSUPPORTED
    assert (y == 7).all()


def test_error_sums_are_the_same_doubles_at_every_level() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal(32 * 1001).astype(np.float32)
    q8 = convert("F32", x, "Q8_0")
    found = []
    for name in kernels.isa_levels():
        kernels.set_isa(name)
        found.append(kernels.error_sums(0, x, 8, q8, x.size))
    kernels.set_isa(kernels.isa_levels()[0])
    assert len(set(found)) == 1
    off = x.astype(np.float64) - ggml.dequantize(8, q8.tobytes())
    expected = ((off**2).sum(), (x.astype(np.float64) ** 2).sum(), np.abs(off).max())
    assert found[0] == pytest.approx(expected, rel=1e-12)


def test_swapping_bytes_is_its_own_inverse_and_matches_numpy() -> None:
    x = np.random.default_rng(9).standard_normal(64).astype(np.float32)
    swapped = x.copy()
    kernels.swap_bytes(0, swapped.view(np.uint8))
    assert np.array_equal(swapped.view(">f4"), x)
    blocks = convert("F32", x, "Q8_0")
    swapped = blocks.copy()
    kernels.swap_bytes(8, swapped)
    view = blocks.reshape(-1, 34)
    assert np.array_equal(swapped.reshape(-1, 34)[:, :2], view[:, 1::-1])
    assert np.array_equal(swapped.reshape(-1, 34)[:, 2:], view[:, 2:])
    with pytest.raises(ValueError, match="whole number"):
        kernels.swap_bytes(8, swapped[1:])


def test_swaps_stay_inside_the_block() -> None:
    for name, _, _, size, _, _, _, swaps, _ in kernels.types():
        assert all(offset + width * count <= size for offset, width, count in swaps), name


def test_gathered_rows_are_numpys_take() -> None:
    src = np.arange(60, dtype=np.uint8).reshape(12, 5)
    order = np.array([3, 0, 11, 3], dtype=np.int64)
    out = np.zeros((4, 5), np.uint8)
    kernels.gather_rows(src, out, 5, order)
    assert np.array_equal(out, src[order])
    for bad in (-1, 12, 2**62):
        with pytest.raises(ValueError, match="outside"):
            kernels.gather_rows(src, out, 5, np.array([0, 1, bad, 2], dtype=np.int64))
    with pytest.raises(ValueError, match="expected exactly"):
        kernels.gather_rows(src, out[1:], 5, order)


def test_an_unknown_level_is_told_but_does_not_stop_the_import() -> None:
    code = (
        "from modelfmt import _kernels as k\n"
        "try: k.isa()\n"
        "except ValueError as error: print('told', 'z9' in str(error))\n"
        "k.set_isa(k.isa_levels()[-1]); print(k.isa() in k.isa_levels())\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "MODELFMT_ISA": "z9", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["told", "True", "True"]
    with pytest.raises(ValueError, match="unknown"):
        kernels.set_isa("z9")
