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
def test_values_a_few_ulps_apart_have_the_bytes_of_llama_cpp(type: str) -> None:
    """Rounding alone decides these fits: a minimum may meet the maximum, and what is rounded to a code be infinite."""
    rng = np.random.default_rng(34)
    shape = (1 << 15, 16)
    spread = rng.integers(2, 80, (shape[0], 1))
    ulps = (spread * rng.choice([0, 0.17, 0.5, 0.9, 1], (shape[0], 1)) + rng.integers(-1, 2, shape)).astype(np.int32)
    ulps = np.where(rng.random(shape) < 0.9, ulps, rng.random(shape) * spread).clip(0, spread).astype(np.int32)
    ulps[:, 0], ulps[:, 12] = 0, spread[:, 0]
    base = rng.choice(np.array([-1, -1.37, -1000, -1e10, -1e-17], np.float32), (shape[0], 1))
    x = (np.broadcast_to(base, shape).view(np.int32) + ulps).view(np.float32)
    found = [0x3F800000 + k for k in (0, 6, 6, 6, 6, 8, 6, 7, 8, 7, 8, 6, 44, 6, 7, 8)]  # infinite in Q2_K
    x[0] = -np.array(found, np.uint32).view(np.float32)
    assert_bytes_of_llama_cpp(type, x.reshape(-1, 256), None, "a few ulps apart")
    assert_bytes_of_llama_cpp(type, x.reshape(-1, 256), importance("random", 256), "a few ulps apart, importance")


@pytest.mark.parametrize("type", MINMAX)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(33).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)
