"""A short run of the mutator of fuzz_pickles; the long one is a command."""

from __future__ import annotations

import fuzz_pickles


def test_mutated_pickles_and_archives() -> None:
    found = fuzz_pickles.run(2500, seed=5)
    assert 100 < found["opened"] < 2400
