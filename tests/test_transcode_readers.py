"""Every convention of quantized checkpoints, read: the values are those that its own program gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import modelfmt
import schemes

NESTED = ("bnb-nf4", "bnb-nf4-nested", "bnb-fp4")


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_values_are_those_of_the_scheme(name: str, golden: Path, tmp_path: Path) -> None:
    values = schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", tmp_path / "q", layers=1)
    with modelfmt.open(tmp_path / "q") as model:
        assert set(values) <= set(model)
        for tensor, expected in values.items():
            assert np.array_equal(model[tensor].numpy(), expected.astype(np.float32)), tensor
