"""IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0, Q8_1 and Q8_K: byte for byte what llama.cpp writes, bit for
bit what it reads, at every level this CPU runs."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import ggml
from quantizing import (
    IMPORTANCES,
    TYPES,
    assert_bytes_of_llama_cpp,
    assert_reads_like_llama_cpp,
    dequantize,
    importance,
    levels,
    quantize,
    values,
)

WITH_IMPORTANCE = ["IQ4_NL", "IQ4_XS"]
PLAIN = ["TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"]
INTERNAL = ["Q8_1", "Q8_K"]  # llama.cpp multiplies with them; ggml_quantize_chunk does not know them
COLUMNS = [32, 64, 128, 256, 768, 4096]
NUMBERS_OF_BLOCKS = [*range(1, 35), 63, 64, 65]


def columns_of(type: str) -> list[int]:
    return [cols for cols in COLUMNS if cols % TYPES[type][2] == 0]


@pytest.mark.parametrize(("type", "cols"), [(name, cols) for name in PLAIN for cols in columns_of(name)])
def test_bytes_are_those_of_llama_cpp(type: str, cols: int) -> None:
    for what, x in values(5 if cols == 4096 else 37, cols):
        assert_bytes_of_llama_cpp(type, x, None, f"{what}, {cols} columns")
        assert_bytes_of_llama_cpp(type, x, importance("random", cols), f"{what}, {cols} columns, importance")


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize(("type", "cols"), [(name, cols) for name in WITH_IMPORTANCE for cols in columns_of(name)])
def test_weighted_bytes_are_those_of_llama_cpp(type: str, cols: int, name: str) -> None:
    for what, x in values(1 if cols == 4096 else 19, cols):
        assert_bytes_of_llama_cpp(type, x, importance(name, cols), f"{what}, {cols} columns, importance {name}")


@pytest.mark.parametrize("type", [*WITH_IMPORTANCE, *PLAIN])
def test_any_number_of_blocks_fills_the_lanes(type: str) -> None:
    rng = np.random.default_rng(31)
    elements = TYPES[type][2]
    for n_blocks in NUMBERS_OF_BLOCKS:
        x = rng.standard_normal((n_blocks, elements)).astype(np.float32)
        for name in ("none", "random"):
            assert_bytes_of_llama_cpp(type, x, importance(name, elements), f"{n_blocks} rows of one block, {name}")
            row = x.reshape(1, -1)
            assert_bytes_of_llama_cpp(type, row, importance(name, row.size), f"one row of {n_blocks} blocks, {name}")


@pytest.mark.parametrize("type", [*WITH_IMPORTANCE, *PLAIN])
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(32).integers(0, 256, TYPES[type][3] * 4099, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)


def test_mxfp4_scale_of_magnitudes_around_every_power_of_two() -> None:
    """The reference takes floorf(log2f(x)), and log2f of what is just below 2^k is k."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).view(np.int32)
    near = (powers[:, None] + np.arange(-120, 121)).reshape(-1)
    x = np.zeros((near.size, 32), np.float32)
    x[:, 5] = np.abs(np.clip(near, 0, 0x7F7FFFFF).astype(np.int32).view(np.float32))
    x[:, 6] = -x[:, 5] / 3
    assert_bytes_of_llama_cpp("MXFP4", x, None, "around powers of two")


@pytest.mark.parametrize("type", ["MXFP4", "NVFP4"])
def test_values_on_and_next_to_the_middle_between_two_codes(type: str) -> None:
    middles = np.array([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
    around = np.concatenate([middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, np.float32(-9))])
    for scale in (1, 1.125, 1.625, 2.0**-9, 3 * 2.0**-9, 2.0**-20, 2.0**-135, 40, 448, 2.0**100):
        x = np.zeros((around.size, TYPES[type][2]), np.float32)
        x[:, ::16] = 6 * scale
        x[:, 1], x[:, 30] = around * scale, -around * scale
        assert_bytes_of_llama_cpp(type, x, None, f"middles at scale {scale}")


def test_nvfp4_every_scale_and_what_lies_between() -> None:
    bits = np.arange(0x38000000, 0x46000000, 0x3FFF, dtype=np.uint32)  # 2^-15 to 2^13, none, and all that clamp
    x = np.random.default_rng(33).uniform(-1, 1, (bits.size // 4, 4, 16)).astype(np.float32)
    x[:, :, 3] = 1
    x *= bits.view(np.float32)[: bits.size // 4 * 4].reshape(-1, 4, 1)
    assert_bytes_of_llama_cpp("NVFP4", x.reshape(-1, 64), None, "scales")


@pytest.mark.parametrize("type", ["TQ1_0", "TQ2_0"])
def test_every_combination_of_five_trits(type: str) -> None:
    trits = (np.arange(243)[:, None] // 3 ** np.arange(5) % 3 - 1).astype(np.float32)
    x = np.ones((243, 256), np.float32)
    for first, stride in ((0, 32), (160, 16)):
        x[:, first : first + 5 * stride : stride] = trits
    x[:, 240:256:4] = trits[:, :4]
    assert_bytes_of_llama_cpp(type, x * 0.7, None, "trits")
    for level in levels():
        assert np.array_equal(dequantize(type, quantize(type, x)).reshape(x.shape), x), level


@pytest.mark.parametrize("type", WITH_IMPORTANCE)
def test_values_next_to_the_middle_between_two_numbers_of_the_table(type: str) -> None:
    table = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
    middles = (table[1:] + table[:-1]) / 2
    x = np.zeros((64, TYPES[type][2]), np.float32)
    for row in x:
        row[::32] = -127
        row[1:16] = middles
        row[17:32] = middles
    steps = np.random.default_rng(34).integers(-2, 3, x.shape, dtype=np.int32)
    near = np.where(x == 0, 0, (x.view(np.int32) + steps).view(np.float32)).astype(np.float32)
    for name in ("none", "ones", "random"):
        for scale in (1, 0.01, -3.7):
            what = f"middles at scale {scale}, importance {name}"
            assert_bytes_of_llama_cpp(type, (near * np.float32(scale)), importance(name, x.shape[1]), what)


@pytest.mark.parametrize("type", INTERNAL)
def test_internal_blocks_are_those_of_llama_cpp(type: str) -> None:
    for cols in columns_of(type):
        for rows in (1, 3, 37):
            for what, x in values(rows, cols):
                expected = ggml.quantize_internal(TYPES[type][1], x)
                for level in levels():
                    assert quantize(type, x).tobytes() == expected, (type, what, rows, cols, level)


def test_q8_k_is_read_like_llama_cpp() -> None:
    blocks = np.random.default_rng(35).integers(0, 256, TYPES["Q8_K"][3] * 1027, dtype=np.uint8)
    expected = np.empty(1027 * 256, np.float32)
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    signature(("dequantize_row_q8_K", ggml.library()))(blocks.ctypes.data, expected.ctypes.data, expected.size)
    nan = np.isnan(expected)
    for level in levels():
        found = dequantize("Q8_K", blocks)
        assert np.array_equal(np.isnan(found), nan), level
        assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan]), level


def test_q8_1_is_read_as_scale_times_code() -> None:
    """llama.cpp has no function that reads Q8_1; its first two bytes and its codes are a Q8_0 block, which it reads."""
    blocks = np.random.default_rng(36).integers(0, 256, (1027, TYPES["Q8_1"][3]), dtype=np.uint8)
    q8_0 = np.concatenate([blocks[:, :2], blocks[:, 4:]], axis=1)
    expected = ggml.dequantize(TYPES["Q8_0"][1], q8_0.tobytes())
    nan = np.isnan(expected)
    for level in levels():
        found = dequantize("Q8_1", blocks.reshape(-1))
        assert np.array_equal(np.isnan(found), nan), level
        assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan]), level
