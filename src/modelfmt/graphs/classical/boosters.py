"""What XGBoost's and LightGBM's boosters have in common: parts of a nested file, sums of trees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.graphs.classical.branches import Tree, ensemble
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["MAX_CLASSES", "inner_booster", "labels", "part", "total", "written"]

MAX_CLASSES = 10_000


def part(e: Fields, *keys: str) -> Fields:
    """A dict some way down, as fields."""
    held: Any = e.record.attributes
    for key in keys:
        held = (
            held.get(key) if isinstance(held, dict) else held.attributes.get(key) if isinstance(held, Record) else None
        )
    if not isinstance(held, dict | Record):
        raise e.corrupt("a part of a booster is missing", ".".join(keys), held)
    return e.of(held if isinstance(held, Record) else Record("dict", held), ".".join(keys))


def written(e: Fields, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer, written as a text."""
    value = e.get(key, default)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value):
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise e.corrupt("an integer out of range", key, value, f"{low} to {high}")
    return value


def inner_booster(e: Fields) -> Fields:
    """The booster that an estimator holds, or is."""
    return e if e.record.name == "Booster" else e.of(e.inner("_Booster"), "_Booster")


def labels(e: Fields, n: int, *keys: str) -> Array:
    """The labels of n classes: 0, 1 .. where the file has none."""
    key = next((key for key in keys if e.get(key) is not None), None)
    found = np.arange(n) if key is None else e.classes(key)
    if len(found) != n:
        raise e.corrupt("labels of the classes are wanted", key or "classes_", len(found), n)
    return found


def total(build: Build, x: str, trees: Sequence[Tree], base: Array, e: Fields) -> str:
    """The sums of the trees by target, [N, len(base)], plus base."""
    if not trees:
        raise e.corrupt("trees are wanted", "trees", 0)
    return build.op("Add", ensemble(build, x, trees, len(base)), base)
