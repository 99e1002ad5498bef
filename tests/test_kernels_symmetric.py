"""Q3_K and Q6_K: byte for byte what llama.cpp writes, bit for bit what it reads, at every level this CPU runs."""

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

SYMMETRIC = ["Q3_K", "Q6_K"]


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("cols", [256, 512, 768, 4096])
@pytest.mark.parametrize("type", SYMMETRIC)
def test_bytes_are_those_of_llama_cpp(type: str, cols: int, name: str) -> None:
    for what, x in values(5 if cols == 4096 else 37, cols):
        assert_bytes_of_llama_cpp(type, x, importance(name, cols), f"{what}, {cols} columns, importance {name}")


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", SYMMETRIC)
def test_a_million_weights_have_the_bytes_of_llama_cpp(type: str, name: str) -> None:
    rng = np.random.default_rng(11)
    for what, x in [("gaussian", rng.standard_normal((256, 4096))), ("student t", rng.standard_t(3, (256, 4096)))]:
        assert_bytes_of_llama_cpp(type, (x * 0.03).astype(np.float32), importance(name, 4096), what)


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", SYMMETRIC)
def test_any_number_of_blocks_fills_the_lanes(type: str, name: str) -> None:
    rng = np.random.default_rng(12)
    for n_blocks in [*range(1, 35), 64, 65]:
        x = rng.standard_normal((n_blocks, 256)).astype(np.float32)
        assert_bytes_of_llama_cpp(type, x, importance(name, 256), f"{n_blocks} rows of one block")
        row = x.reshape(1, -1)
        assert_bytes_of_llama_cpp(type, row, importance(name, row.size), f"one row of {n_blocks} blocks")


@pytest.mark.parametrize("type", SYMMETRIC)
def test_the_first_of_two_largest_magnitudes_decides_the_sign(type: str) -> None:
    x = np.zeros((2, 256), np.float32)
    x[0, [3, 9]], x[1, [3, 9]] = (-2, 2), (2, -2)
    assert_bytes_of_llama_cpp(type, x, None, "ties of magnitude")
    for level in levels():
        # it becomes a negative level, its sub-block's scale a negative integer: d has its sign (both types end with d)
        d = quantize(type, x).reshape(2, -1)[:, -2:].copy().view(np.float16)[:, 0]
        assert (np.sign(d) == (-1, 1)).all(), level


@pytest.mark.parametrize("type", SYMMETRIC)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(13).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)


@pytest.mark.parametrize("type", SYMMETRIC)
def test_written_blocks_are_read_like_llama_cpp(type: str) -> None:
    for _, x in values(5, 768):
        assert_reads_like_llama_cpp(type, quantize(type, x))
