"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: byte for byte what llama.cpp writes, bit for bit what it reads, at every level this
CPU runs."""

from __future__ import annotations

import numpy as np
import pytest

from quantizing import (
    IMPORTANCES,
    TYPES,
    assert_bytes_of_llama_cpp,
    assert_reads_like_llama_cpp,
    importance,
    levels,
    quantize,
    values,
)

LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
WITH_IMPORTANCE = LEGACY[:4]


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("cols", [32, 96, 256, 512, 768, 4096])
@pytest.mark.parametrize("type", LEGACY)
def test_bytes_are_those_of_llama_cpp(type: str, cols: int, name: str) -> None:
    for what, x in values(5 if cols == 4096 else 37, cols):
        assert_bytes_of_llama_cpp(type, x, importance(name, cols), f"{what}, {cols} columns, importance {name}")


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", LEGACY)
def test_a_million_weights_have_the_bytes_of_llama_cpp(type: str, name: str) -> None:
    rng = np.random.default_rng(21)
    for what, x in [("gaussian", rng.standard_normal((256, 4096))), ("student t", rng.standard_t(3, (256, 4096)))]:
        assert_bytes_of_llama_cpp(type, (x * 0.03).astype(np.float32), importance(name, 4096), what)


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", LEGACY)
def test_any_number_of_blocks_fills_the_lanes(type: str, name: str) -> None:
    rng = np.random.default_rng(22)
    for n_blocks in [*range(1, 35), 63, 64, 65, 129]:
        x = rng.standard_normal((n_blocks, 32)).astype(np.float32)
        assert_bytes_of_llama_cpp(type, x, importance(name, 32), f"{n_blocks} rows of one block")
        row = x.reshape(1, -1)
        assert_bytes_of_llama_cpp(type, row, importance(name, row.size), f"one row of {n_blocks} blocks")


@pytest.mark.parametrize("type", WITH_IMPORTANCE)
def test_weights_follow_the_mean_square_of_the_whole_row(type: str) -> None:
    n_rows, cols = 35, 8192 + 96  # longer than the piece a conversion works on, and more rows than lanes
    x = np.random.default_rng(23).standard_normal((n_rows, cols)).astype(np.float32)
    x[:, -1] *= 10.0 ** (np.arange(n_rows) - 10.0)  # in the later rows so large that it changes every block of the row
    weights = importance("random", cols)
    assert_bytes_of_llama_cpp(type, x, weights, "long rows")
    calm = x.copy()
    calm[:, -1] = 0
    for level in levels():
        first_blocks, of_calm = (quantize(type, rows, weights).reshape(n_rows, -1)[:, :512] for rows in (x, calm))
        assert (first_blocks[-1] != of_calm[-1]).any(), level


@pytest.mark.parametrize("type", ["Q4_0", "Q5_0"])
def test_the_first_of_two_largest_magnitudes_decides_the_sign(type: str) -> None:
    x = np.zeros((2, 32), np.float32)
    x[0, [3, 20]], x[1, [3, 20]] = (-2, 2), (2, -2)
    for name in ("none", "ones"):
        assert_bytes_of_llama_cpp(type, x, importance(name, 32), "ties of magnitude")
    for level in levels():
        scales = quantize(type, x).reshape(2, -1)[:, :2].copy().view(np.float16)[:, 0]
        assert (np.sign(scales) == (1, -1)).all(), level


@pytest.mark.parametrize("type", LEGACY)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(24).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)


@pytest.mark.parametrize("type", LEGACY)
def test_every_scale_is_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(25).integers(0, 256, (65536, TYPES[type][3]), dtype=np.uint8)
    blocks[:, :2] = np.arange(65536, dtype=np.uint16)[:, None].view(np.uint8)
    assert_reads_like_llama_cpp(type, blocks.reshape(-1))
