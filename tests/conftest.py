"""What tests share: where the golden data lies, the larger real files where they are there, every level of kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from modelfmt import _kernels as kernels

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("MODELFMT_HYPOTHESIS", "same every time"))

_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """tests/data/golden: small checkpoints, and what llama.cpp's own tools made of them."""
    return _HERE / "data" / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real files that are too large to commit: MODELFMT_TEST_DATA, or ../shared/data beside the checkout."""
    path = Path(os.environ.get("MODELFMT_TEST_DATA") or _HERE.parent.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("real files are not there: set MODELFMT_TEST_DATA, or put them in ../shared/data")
    return path


@pytest.fixture(params=kernels.isa_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this CPU has kernels for, at work during the test."""
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)
