"""Histogram-based boosted trees: float64 comparisons, ways for missing values, splits on categories.

Source: scikit-learn 1.9, ensemble/_hist_gradient_boosting/gradient_boosting.py, _predictor.pyx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.branches import Tree, ensemble
from modelfmt.graphs.classical.results import Classified, Regressed
from modelfmt.graphs.classical.trees import from_scores
from modelfmt.ir.record import Record, Table

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS"]

_WORDS = 8
_COLUMNS = ("value", "feature_idx", "missing_go_to_left", "left", "right", "is_leaf")


def _tree(e: Fields, n_features: int) -> Tree:
    nodes = e.get("nodes")
    if not isinstance(nodes, Table) or len(nodes.shape) != 1 or not set(_COLUMNS) <= set(nodes.columns):
        raise e.corrupt("a table of nodes is wanted", "nodes", nodes)
    n = nodes.shape[0]
    found = {key: e.shaped(nodes[key], f"nodes.{key}", n) for key in _COLUMNS}
    key = "num_threshold" if "num_threshold" in nodes.columns else "threshold"
    leaf = found["is_leaf"] != 0
    left, right, feature = (
        np.where(leaf, -1, found[name]).astype(np.int64) for name in ("left", "right", "feature_idx")
    )
    members = _members(e, nodes, leaf) if "is_categorical" in nodes.columns else {}
    threshold = e.shaped(nodes[key], f"nodes.{key}", n)
    tree = Tree(feature, threshold, left, right, found["value"], found["missing_go_to_left"] != 0, members=members)
    return tree.check(e, "nodes", n_features)


def _members(e: Fields, nodes: Table, leaf: Array) -> dict[int, list[float]]:
    """Of nodes that split on categories, those that go left: bits of eight words."""
    split = np.flatnonzero((e.shaped(nodes["is_categorical"], "nodes.is_categorical", len(leaf)) != 0) & ~leaf)
    if not len(split):
        return {}
    words = e.integers("raw_left_cat_bitsets", None, _WORDS, low=0, high=2**32 - 1)
    rows = e.whole(nodes["bitset_idx"], "nodes.bitset_idx", len(leaf), low=0, high=2**32)
    if rows[split].max() >= len(words):
        raise e.corrupt("a split without its categories", "nodes.bitset_idx", int(rows[split].max()), len(words))
    bits = (words[:, :, None] >> np.arange(32)) & 1
    held = bits.reshape(len(words), -1)
    return {int(node): np.flatnonzero(held[rows[node]]).astype(float).tolist() for node in split}


def _encoded(build: Build, e: Fields, x: Columns) -> tuple[str, int]:
    """The columns as the trees see them: encoded by a transformer that newer releases keep; unknown ones are NaN."""
    if isinstance(e.get("_preprocessor"), Record):
        x = build.transform(e.inner("_preprocessor"), e.at("_preprocessor"), x)
        return x.numbers(), x.width
    value = x.numbers()
    if e.get("is_categorical_") is None:
        return value, x.width
    mapper = e.of(e.inner("_bin_mapper"), "_bin_mapper")
    known = mapper.get("bin_thresholds_")
    flags = e.integers("is_categorical_", x.width, low=0, high=1)
    if not isinstance(known, list) or len(known) != x.width:
        raise mapper.corrupt("categories of each column are wanted", "bin_thresholds_", known)
    columns = [build.column(value, number) for number in range(x.width)]
    for number in np.flatnonzero(flags):
        whole = build.op("Floor", columns[number])
        hits = build.op("Equal", whole, mapper.shaped(known[number], "bin_thresholds_", None))
        hit = build.op("ReduceMax", build.cast(hits, "DOUBLE"), [1], keepdims=1)
        columns[number] = build.op("Where", build.op("Greater", hit, 0.0), whole, np.float64(np.nan))
    return build.join(columns), x.width


def _raw(build: Build, e: Fields, x: Columns, width: int) -> str:
    """Raw scores [N, width]."""
    rounds = e.get("_predictors")
    if not isinstance(rounds, list) or not all(isinstance(row, list) and len(row) == width for row in rounds):
        raise e.corrupt("trees for each class are wanted", "_predictors", rounds, width)
    value, n_features = _encoded(build, e, x)
    trees = []
    for number, row in enumerate(rounds):
        for target, one in enumerate(row):
            if not isinstance(one, Record):
                raise e.corrupt("a tree is wanted", "_predictors", one)
            tree = _tree(e.of(one, f"_predictors.{number}.{target}"), n_features)
            tree.target = target
            trees.append(tree)
    first = e.read(e.get("_baseline_prediction"), "_baseline_prediction") if not _plain(e) else None
    base = np.asarray([e.number("_baseline_prediction")]) if first is None else first.reshape(-1).astype(np.float64)
    if len(base) != width:
        raise e.corrupt("a first guess for each class is wanted", "_baseline_prediction", len(base), width)
    return build.op("Add", ensemble(build, value, trees, width), base)


def _plain(e: Fields) -> bool:
    return isinstance(e.get("_baseline_prediction"), int | float)


def classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """HistGradientBoostingClassifier."""
    losses = ("log_loss", "auto", "binary_crossentropy", "categorical_crossentropy")
    e.choice("loss", losses, "log_loss")
    classes = e.classes()
    scores = _raw(build, e, x, 1 if len(classes) <= 2 else len(classes))
    return from_scores(build, classes, scores, above="Greater")


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """HistGradientBoostingRegressor: some losses have a logarithm as their link."""
    plain = ("squared_error", "absolute_error", "quantile", "least_squares", "least_absolute_deviation")
    loss = e.choice("loss", (*plain, "gamma", "poisson"), "squared_error")
    scores = _raw(build, e, x, 1)
    return Regressed(scores if loss in plain else build.op("Exp", scores))


PREDICTORS = {"HistGradientBoostingClassifier": classifier, "HistGradientBoostingRegressor": regressor}
