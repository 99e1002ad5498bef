"""A short run of the mutator of fuzz_folders; the long one is a command."""

from __future__ import annotations

import fuzz_folders


def test_mutated_quantized_folders() -> None:
    found = fuzz_folders.run(500, seed=3)
    assert 20 < found["read"] < 400
    assert len(found) > 8
