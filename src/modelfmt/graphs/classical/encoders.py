"""Categories as numbers: one-hot, ordinal and target encoders, labels, values for what is missing.

A text that is missing (None or NaN in a table) is the empty text at the graph's inputs, since STRING has no other.
What was not seen in training raises an error in scikit-learn unless it is handled; a graph cannot raise: one-hot gives
zeros, an ordinal NaN, and a note says so. Source: scikit-learn 1.9, preprocessing/_encoders.py, _label.py,
_target_encoder.py, impute/_base.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.compose import beside
from modelfmt.graphs.classical.fields import MAX_WIDTH
from modelfmt.ir.record import Objects, Record, Texts
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["TRANSFORMERS"]


class _Categories(msgspec.Struct, frozen=True):
    """Of one column. values: float64 [n] (NaN: missing) or texts [n] (empty: missing). missing: its index, or None."""

    values: Array
    missing: int | None

    def __len__(self) -> int:
        return len(self.values)

    def hits(self, build: Build, x: Columns) -> str:
        """DOUBLE [N, n]: 1 where a row has the category."""
        if self.values.dtype == object:
            found = build.op("Equal", x.texts(), self.values.reshape(1, -1))
        else:
            found = build.op("Equal", x.numbers(), self.values.reshape(1, -1))
            if self.missing is not None:
                place = np.arange(len(self)) == self.missing
                found = build.op("Or", found, build.op("And", build.op("IsNaN", x.numbers()), place.reshape(1, -1)))
        return build.cast(found, "DOUBLE")


def _categories(e: Fields, x: Columns, key: str = "categories_") -> list[_Categories]:
    """The categories of each column."""
    held = e.get(key)
    if not isinstance(held, list) or len(held) != x.width:
        raise e.corrupt("categories of each column are wanted", key, held, x.width)
    return [_one(e, one, key) for one in held]


def _one(e: Fields, held: Any, key: str) -> _Categories:
    if isinstance(held, Tensor):
        values = e.shaped(held, key, None)
        items = values.tolist()
    else:
        items = held.tolist() if isinstance(held, Texts) else held.items if isinstance(held, Objects) else held
        if not isinstance(items, list):
            raise e.corrupt("categories are wanted", key, held)
        values = _values(e, items, key)
    if not len(values) or len(values) > MAX_WIDTH:
        raise e.corrupt("categories are wanted", key, held)
    lost = [n for n, one in enumerate(items) if _is_missing(one)]
    if len(lost) > 1 or (lost and sum(one == "" for one in values.tolist()) > 1):
        raise e.refused("an empty text and a missing value are both categories", key, held, ("one of them",))
    return _Categories(values, lost[0] if lost else None)


def _is_missing(one: Any) -> bool:
    return (
        one is None
        or (isinstance(one, float) and math.isnan(one))
        or (isinstance(one, Record) and one.name in ("NAType", "_missing"))
    )


def _values(e: Fields, items: list[Any], key: str) -> Array:
    """Texts, or numbers, with None and NaN among them."""
    kept = [one for one in items if not _is_missing(one)]
    if kept and all(isinstance(one, str) for one in kept):
        return np.asarray(["" if _is_missing(one) else one for one in items], object)
    if all(type(one) in (int, float, bool) and abs(one) < 2**53 for one in kept):
        return np.asarray([math.nan if _is_missing(one) else float(one) for one in items])
    raise e.refused("a column of categories of several types", key, sorted({type(one).__name__ for one in kept}),
                    ("texts", "numbers"))  # fmt: skip


def _row(e: Fields, key: str, number: int) -> Any:
    """What a list, or an array of objects, has for a column."""
    held = e.get(key)
    if isinstance(held, Tensor):
        held = e.read(held, key).reshape(-1).tolist()
    rows = held.items if isinstance(held, Objects) else held
    if rows is None:
        return None
    if not isinstance(rows, list) or number >= len(rows):
        raise e.corrupt("a value for each column is wanted", key, held)
    return rows[number]


def _grouped(e: Fields, number: int, n: int) -> Array | None:
    """Where each of n categories goes, where rare ones were put together."""
    if not e.get("_infrequent_enabled", False) or e.get("_default_to_infrequent_mappings") is None:
        return None
    row = _row(e, "_default_to_infrequent_mappings", number)
    if row is None:
        return None
    return e.whole(row, "_default_to_infrequent_mappings", n, low=0, high=n - 1)


def one_hot_encoder(build: Build, e: Fields, x: Columns) -> Columns:
    """A column for each category, but for those that are dropped or put together."""
    unknown = e.choice("handle_unknown", ("error", "ignore", "infrequent_if_exist", "warn"), "error")
    parts = []
    for number, own in enumerate(_categories(e, x)):
        hits = own.hits(build, x.take([number]))
        n = len(own)
        group = _grouped(e, number, n)
        if group is not None:
            n = int(group.max()) + 1
            spread = e.units("categories_", group, n)
            if unknown in ("infrequent_if_exist", "warn"):
                rest = build.op("Sub", 1.0, build.sum(hits, keep=True))
                hits = build.op("MatMul", hits, spread)
                hits = build.op("Add", hits, build.op("MatMul", rest, e.units("categories_", np.asarray([n - 1]), n)))
            else:
                hits = build.op("MatMul", hits, spread)
        key = e.first("_drop_idx_after_grouping", "drop_idx_")
        drop = _row(e, key, number)
        kept = [index for index in range(n) if index != drop]
        if len(kept) < n:
            hits = build.op("Gather", hits, kept, axis=1)
        if kept:
            parts.append(Made(hits, len(kept)).columns(build))
    if unknown == "error":
        build.note(e.place, "an unknown category gives zeros; scikit-learn raises an error")
    if not parts:
        raise e.corrupt("no column is left", "categories_", None)
    return beside(build, parts)


def ordinal_encoder(build: Build, e: Fields, x: Columns) -> Columns:
    """The index of each category."""
    handled = e.choice("handle_unknown", ("error", "use_encoded_value"), "error") == "use_encoded_value"
    unknown = _maybe_nan(e, "unknown_value") if handled else math.nan
    lost = _maybe_nan(e, "encoded_missing_value")
    parts = []
    for number, own in enumerate(_categories(e, x)):
        group = _grouped(e, number, len(own))
        codes = (np.arange(len(own)) if group is None else group).astype(np.float64)
        parts.append(_coded(build, own, x.take([number]), codes, unknown, lost))
    if not handled:
        build.note(e.place, "an unknown category gives NaN; scikit-learn raises an error")
    return Made(build.join(parts), len(parts)).columns(build)


def _maybe_nan(e: Fields, key: str) -> float:
    value = e.get(key, math.nan)
    return math.nan if value is None or (isinstance(value, float) and math.isnan(value)) else e.number(key)


def _coded(build: Build, own: _Categories, x: Columns, codes: Array, unknown: float, lost: float | None) -> str:
    """[N, 1]: the code of a row's category. lost: the code of what is missing, where that is a category."""
    hits = own.hits(build, x)
    value = build.op("MatMul", hits, codes.reshape(-1, 1))
    found = build.op("Greater", build.sum(hits, keep=True), 0.0)
    value = build.op("Where", found, value, float(unknown))
    if own.missing is not None and lost is not None:
        gone = build.op("Greater", build.column(hits, own.missing), 0.0)
        value = build.op("Where", gone, float(lost), value)
    return value


def target_encoder(build: Build, e: Fields, x: Columns) -> Columns:
    """The mean of the target for each category; of all rows for unknown ones."""
    held = e.get("encodings_")
    mean = e.read(e.get("target_mean_"), "target_mean_") if isinstance(e.get("target_mean_"), Tensor) else None
    means = np.asarray([e.number("target_mean_")]) if mean is None else mean.reshape(-1).astype(np.float64)
    if not isinstance(held, list) or len(held) != x.width * len(means):
        raise e.corrupt("means of each column are wanted", "encodings_", held)
    parts = []
    for number, own in enumerate(_categories(e, x)):
        for target, overall in enumerate(means):
            codes = e.shaped(held[number * len(means) + target], "encodings_", len(own))
            parts.append(_coded(build, own, x.take([number]), codes, float(overall), None))
    return Made(build.join(parts), len(parts)).columns(build)


def label_encoder(build: Build, e: Fields, x: Columns) -> Columns:
    """The index of each label."""
    own = _one(e, e.get("classes_"), "classes_")
    build.note(e.place, "an unknown label gives NaN; scikit-learn raises an error")
    codes = np.arange(len(own), dtype=np.float64)
    return Made(_coded(build, own, _single(e, x), codes, math.nan, None), 1).columns(build)


def label_binarizer(build: Build, e: Fields, x: Columns) -> Columns:
    """A column for each label; one for two labels."""
    own = _one(e, e.get("classes_"), "classes_")
    e.choice("y_type_", ("binary", "multiclass"), "multiclass")
    hits = own.hits(build, _single(e, x))
    width = len(own)
    if width == 2:
        hits, width = build.column(hits, 1), 1
    low, high = e.number("neg_label", 0), e.number("pos_label", 1)
    if (low, high) != (0, 1):
        hits = build.op("Add", build.op("Mul", hits, high - low), low)
    return Made(hits, width).columns(build)


def _single(e: Fields, x: Columns) -> Columns:
    if x.width != 1:
        raise e.corrupt("one column of labels is wanted", "classes_", x.width)
    return x


def simple_imputer(build: Build, e: Fields, x: Columns) -> Columns:
    """A value in the place of what is missing; columns that had no other are dropped, unless they are kept."""
    if "axis" in e and e.get("axis") != 0:
        raise e.refused("rows are not filled", "axis", e.get("axis"), (0,))
    held = e.get("statistics_")
    values = e.shaped(held, "statistics_", x.width) if isinstance(held, Tensor) else _filling(e, held, x)
    texts = values.dtype == object
    gone = _missing(build, e, x, texts=texts)
    value = x.texts() if texts else x.numbers()
    filled = build.op("Where", gone, values, value)
    kept = [n for n, one in enumerate(values.tolist()) if one == one]
    made = Made(filled, x.width, "STRING" if texts else "DOUBLE").columns(build).take(kept)
    if not kept:
        raise e.corrupt("no column is left", "statistics_", None)
    if not e.flag("add_indicator", False) or e.get("indicator_") is None:
        return made
    return beside(build, [made, missing_indicator(build, e.of(e.inner("indicator_"), "indicator_"), x)])


def _filling(e: Fields, held: Any, x: Columns) -> Array:
    items = held.tolist() if isinstance(held, Texts) else held.items if isinstance(held, Objects) else None
    if not isinstance(items, list) or len(items) != x.width:
        raise e.corrupt("a value for each column is wanted", "statistics_", held, x.width)
    if any(_is_missing(one) for one in items) and any(isinstance(one, str) for one in items):
        raise e.refused("a column of texts without a value", "statistics_", held, ("a text for each column",))
    return _values(e, items, "statistics_")


def _missing(build: Build, e: Fields, x: Columns, *, texts: bool) -> str:
    """BOOL: where values are missing."""
    value = e.get("missing_values", math.nan)
    value = math.nan if value == "NaN" else value
    if texts:
        if not _is_missing(value) and not isinstance(value, str):
            raise e.refused("texts are not compared with this", "missing_values", value, ("NaN", "None", "a text"))
        return build.op("Equal", x.texts(), np.asarray("" if _is_missing(value) else value, object))
    if _is_missing(value):
        return build.op("IsNaN", x.numbers())
    return build.op("Equal", x.numbers(), e.number("missing_values"))


def missing_indicator(build: Build, e: Fields, x: Columns) -> Columns:
    """1 where a value is missing, of the columns that had such."""
    chosen = e.integers("features_", None, low=0, high=x.width - 1)
    if not len(chosen):
        return Made("", 0).columns(build)
    part = x.take(chosen.tolist())
    texts = part.kind == "STRING"
    return Made(build.cast(_missing(build, e, part, texts=texts), "DOUBLE"), len(chosen)).columns(build)


TRANSFORMERS = {
    "OneHotEncoder": one_hot_encoder,
    "OrdinalEncoder": ordinal_encoder,
    "TargetEncoder": target_encoder,
    "LabelEncoder": label_encoder,
    "LabelBinarizer": label_binarizer,
    "SimpleImputer": simple_imputer,
    "Imputer": simple_imputer,
    "MissingIndicator": missing_indicator,
}
