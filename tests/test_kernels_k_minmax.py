"""Q2_K, Q4_K and Q5_K: byte for byte what llama.cpp writes, bit for bit what it reads, at every level this CPU runs."""

from __future__ import annotations

import numpy as np
import pytest

from quantizing import (
    IMPORTANCES,
    TYPES,
    assert_bytes_of_llama_cpp,
    assert_reads_like_llama_cpp,
    importance,
    values,
)

MINMAX = ["Q2_K", "Q4_K", "Q5_K"]


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("cols", [256, 512, 768, 4096])
@pytest.mark.parametrize("type", MINMAX)
def test_bytes_are_those_of_llama_cpp(type: str, cols: int, name: str) -> None:
    for what, x in values(3 if cols == 4096 else 19, cols):
        assert_bytes_of_llama_cpp(type, x, importance(name, cols), f"{what}, {cols} columns, importance {name}")


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", MINMAX)
def test_a_million_weights_have_the_bytes_of_llama_cpp(type: str, name: str) -> None:
    rng = np.random.default_rng(31)
    for what, x in [("gaussian", rng.standard_normal((256, 4096))), ("student t", rng.standard_t(3, (256, 4096)))]:
        assert_bytes_of_llama_cpp(type, (x * 0.03).astype(np.float32), importance(name, 4096), what)


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", MINMAX)
def test_any_number_of_blocks_fills_the_lanes(type: str, name: str) -> None:
    rng = np.random.default_rng(32)
    for n_blocks in [*range(1, 35), 64, 65]:
        x = rng.standard_normal((n_blocks, 256)).astype(np.float32)
        assert_bytes_of_llama_cpp(type, x, importance(name, 256), f"{n_blocks} rows of one block")
        row = x.reshape(1, -1)
        assert_bytes_of_llama_cpp(type, row, importance(name, row.size), f"one row of {n_blocks} blocks")


@pytest.mark.parametrize("type", MINMAX)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(33).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)
