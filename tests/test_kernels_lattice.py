"""IQ1, IQ2 and IQ3: byte for byte what llama.cpp writes, bit for bit what it reads, at every level this CPU runs."""

from __future__ import annotations

import numpy as np
import pytest

from quantizing import TYPES, assert_reads_like_llama_cpp

LATTICE = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]


@pytest.mark.parametrize("type", LATTICE)
def test_any_bytes_are_read_like_llama_cpp(type: str) -> None:
    blocks = np.random.default_rng(51).integers(0, 256, TYPES[type][3] * 4096, dtype=np.uint8)
    assert_reads_like_llama_cpp(type, blocks)
