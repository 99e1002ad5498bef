"""IQ1, IQ2 and IQ3: byte for byte what llama.cpp writes, bit for bit what it reads, at every level this CPU runs.

Where the sums of squares overflow llama.cpp ends the process (GGML_ASSERT), so it is asked in a child process; there,
our bytes only have to be the same at every level.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ggml
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

LATTICE = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]
WRITTEN = [name for name in LATTICE if TYPES[name][4]]
NEEDS_IMPORTANCE = {"IQ1_S", "IQ2_XXS", "IQ2_XS"}


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("cols", [256, 768])
@pytest.mark.parametrize("type", WRITTEN)
def test_bytes_are_those_of_llama_cpp(type: str, cols: int, name: str) -> None:
    weights = importance(name, cols)
    if weights is None and type in NEEDS_IMPORTANCE:
        pytest.skip(f"{type} is not written without importance")
    compared = 0
    for what, x in values(5, cols):
        blocks = ggml.quantize_or_abort(TYPES[type][1], x, weights)
        expected = None if blocks is None else np.frombuffer(blocks, np.uint8)
        compared += expected is not None
        for level in levels():
            found = quantize(type, x, weights)
            if expected is None:
                expected = found
            wrong = np.flatnonzero(found != expected) // TYPES[type][3]
            assert not wrong.size, (type, what, name, level, f"{np.unique(wrong).size} blocks, first {wrong[0]}")
    assert compared >= (8 if name in ("huge", "every magnitude") else 20)


@pytest.mark.parametrize("name", ["none", "random"])
@pytest.mark.parametrize("type", WRITTEN)
def test_many_weights_have_the_bytes_of_llama_cpp(type: str, name: str) -> None:
    if name == "none" and type in NEEDS_IMPORTANCE:
        pytest.skip(f"{type} is not written without importance")
    rng = np.random.default_rng(52)
    for what, x in [("gaussian", rng.standard_normal((48, 4096))), ("student t", rng.standard_t(3, (48, 4096)))]:
        assert_bytes_of_llama_cpp(type, (x * 0.03).astype(np.float32), importance(name, 4096), what)


@pytest.mark.parametrize("type", WRITTEN)
def test_any_number_of_blocks_fills_the_lanes(type: str) -> None:
    rng = np.random.default_rng(53)
    for n_blocks in [*range(1, 35), 64, 65]:
        x = rng.standard_normal((n_blocks, 256)).astype(np.float32)
        assert_bytes_of_llama_cpp(type, x, importance("random", 256), f"{n_blocks} rows of one block")
        row = x.reshape(1, -1)
        assert_bytes_of_llama_cpp(type, row, importance("random", row.size), f"one row of {n_blocks} blocks")


@pytest.mark.parametrize("type", WRITTEN)
def test_importance_is_needed_where_llama_cpp_needs_it(type: str) -> None:
    assert TYPES[type][6] == (type in NEEDS_IMPORTANCE)
    assert bool(ggml.library().ggml_quantize_requires_imatrix(TYPES[type][1])) == (type in NEEDS_IMPORTANCE)


@pytest.mark.parametrize("type", WRITTEN)
def test_threads_share_the_tables(type: str) -> None:
    x = np.random.default_rng(54).standard_normal((4, 512)).astype(np.float32)
    weights = importance("random", 512)
    expected = ggml.quantize(TYPES[type][1], x, weights)
    for _ in levels():
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: quantize(type, x, weights).tobytes(), range(8)):
                assert found == expected


@pytest.mark.parametrize("type", LATTICE)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(51).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)
