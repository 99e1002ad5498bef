"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import modelfmt

NOT_RUN = ("_kernels", "__main__")
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(modelfmt.__path__, "modelfmt.")
    if info.name.rpartition(".")[2] not in NOT_RUN
)


@pytest.mark.parametrize("name", ["modelfmt", *MODULES])
def test_examples_in(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
