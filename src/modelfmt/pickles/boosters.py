"""Boosters of XGBoost and LightGBM inside pickles: their own text or binary form, as values.

Source: XGBoost's doc/tutorials/saving_model.rst and src/learner.cc (Save: `Config` and `Model` in UBJSON, before 2.0 in
JSON; before 1.0 a binary form, which stays as it is); LightGBM's src/io/gbdt_model_text.cpp and tree.cpp (ToString).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from modelfmt.arrays.values import Make
from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.ir.ops import Leaf
from modelfmt.ir.record import Record, Texts
from modelfmt.pickles.ubjson import parse
from modelfmt.storage.region import Region
from modelfmt.storage.strict_json import parse as parse_json

__all__ = ["BOOSTERS"]

MAX_TEXT = 256 << 20
_SCALARS = frozenset({"num_leaves", "num_cat", "shrinkage", "is_linear"})
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LINE = re.compile(r"([\w.]+)=(.*)")


def _xgboost(record: Record, region: Region, make: Make) -> None:
    """`handle`: the serialised booster, as a dict of `Config` and `Model`."""
    handle = record.attributes.get("handle")
    if not isinstance(handle, Texts) or not isinstance(handle.codes.expr, Leaf):
        return
    leaf = handle.codes.expr
    place = Region(region.files, leaf.file, leaf.offset, leaf.shape[-1])
    head = place.read(0, min(place.size, 2))
    if head == b'{"':
        if place.size > MAX_TEXT:
            raise LimitExceeded("a booster's JSON is too long", code="booster-size", path=region.path)
        record.attributes["handle"] = parse_json(place.read(0, place.size), path=region.path, at_most=MAX_TEXT)
    elif head[:1] == b"{":
        record.attributes["handle"] = parse(place, make)


def _lightgbm(record: Record, region: Region, make: Make) -> None:
    """`model`: the header, trees, importances and parameters that the model's text holds."""
    for key in ("_handle", "handle", "_model_str"):
        text = record.attributes.get(key)
        if isinstance(text, str) and text.startswith("tree"):
            record.attributes[key] = _Text(record, region, make).parse(text)


class _Text:
    """LightGBM's text. Numbers of trees go into one buffer in memory, which their tensors point into."""

    def __init__(self, record: Record, region: Region, make: Make) -> None:
        self.region = region
        self.make = make
        self.name = f"{region.path}#trees{record.offset}"
        self.data = bytearray()

    def parse(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {"header": {}, "trees": [], "feature_importances": {}, "parameters": {}}
        section = found["header"]
        in_tree = False
        for line in text.split("\n"):
            if line.startswith("Tree="):
                section, in_tree = {}, True
                found["trees"].append(section)
            elif line in ("feature_importances:", "parameters:"):
                section, in_tree = found[line[:-1]], False
            elif line.startswith("end of"):
                section, in_tree = found["header"], False
            elif line.startswith("[") and line.endswith("]") and ": " in line:
                key, _, value = line[1:-1].partition(": ")
                section[key] = value
            elif line.startswith("pandas_categorical:"):
                found["pandas_categorical"] = line.partition(":")[2]
            elif match := _LINE.fullmatch(line):
                section[match[1]] = self._value(match[1], match[2], tree=in_tree)
        self.region.files.register(self.name, bytes(self.data))
        return found

    def _value(self, key: str, text: str, *, tree: bool) -> Any:
        words = text.split(" ")
        if not tree or not words[0] or not _numeric(words[0]):
            return text
        if key in _SCALARS:
            return int(text) if _INTEGER.fullmatch(text) else self._floats(words)[0].item()
        import numpy as np

        words = [word for word in words if word]
        whole = all(_INTEGER.fullmatch(word) for word in words)
        array = np.array([int(word) for word in words], "<i8") if whole else self._floats(words)
        self.data += bytes(-len(self.data) % 8)
        leaf = Leaf(self.name, len(self.data), (len(words),), "I64" if whole else "F64")
        self.data += array.tobytes()
        return self.make(leaf)

    def _floats(self, words: list[str]) -> Any:
        import numpy as np

        try:
            return np.array([float(word) for word in words], "<f8")
        except ValueError:
            raise CorruptFile(
                "not a number in a booster's text", code="booster-text", path=self.region.path, found=words[0][:40]
            ) from None


def _numeric(word: str) -> bool:
    return word[:1].isdigit() or word[:1] in "-+." or word.lower() in ("nan", "inf")


BOOSTERS: dict[str, Callable[[Record, Region, Make], None]] = {
    "xgboost.core.Booster": _xgboost,
    "lightgbm.basic.Booster": _lightgbm,
}
"""Type of a record -> what reads the booster in it."""
