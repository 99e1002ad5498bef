"""LightGBM: sums of trees in float64 (left at the threshold) below a link.

Source: LightGBM 4.7, include/LightGBM/tree.h (NumericalDecision, CategoricalDecision), src/objective.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.boosters import MAX_CLASSES, inner_booster, labels, part, total, written
from modelfmt.graphs.classical.branches import Tree
from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Regressed
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "features"]

_BIG = 2**62
_ZERO = 1e-35

_PLAIN = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom")
_EXP = ("poisson", "gamma", "tweedie")
_SIGMOID = ("binary", "cross_entropy")


def _text(e: Fields) -> Fields:
    booster = inner_booster(e)
    key = booster.first("_handle", "handle", "_model_str")
    if not isinstance(booster.get(key), dict):
        raise booster.corrupt("the text of a model is wanted", key, booster.get(key))
    return part(booster, key)


def _header(e: Fields) -> Fields:
    return part(_text(e), "header")


def _tree(e: Fields, n_features: int, zeros: dict[int, bool]) -> Tree:
    """A tree, whose leaves stand behind its nodes. zeros: of each column, whether zero is a missing value."""
    if e.get("is_linear", 0) != 0:
        raise e.refused("leaves with linear models", "is_linear", e.get("is_linear"), (0,))
    leaves = e.array("leaf_value", None)
    n = len(leaves) - 1
    if n < 0 or e.get("num_leaves", len(leaves)) != len(leaves):
        raise e.corrupt("a number for each leaf is wanted", "leaf_value", len(leaves), e.get("num_leaves"))
    whole = np.full(2 * n + 1, -1)
    if not n:
        return Tree(whole, np.zeros(1), whole.copy(), whole.copy(), leaves, np.zeros(1, bool)).check(e, "leaf_value", 1)
    feature = e.integers("split_feature", n, low=0, high=n_features - 1)
    threshold = e.array("threshold", n)
    kinds = e.integers("decision_type", n, low=-128, high=127)
    sides = []
    for key in ("left_child", "right_child"):
        side = e.integers(key, n, low=-n - 1, high=n - 1)
        sides.append(np.concatenate([np.where(side < 0, n + ~side, side), np.full(n + 1, -1)]))
    categorical, default_left, absent = (kinds & 1) != 0, (kinds & 2) != 0, (kinds >> 2) & 3
    for column, zero in zip(feature[~categorical].tolist(), (absent[~categorical] == 1).tolist(), strict=True):
        if zeros.setdefault(column, zero) != zero:
            raise e.refused("zero is a missing value in some splits of a column", "decision_type", column, ("all",))
    missing = np.where(absent == 0, threshold >= 0, default_left) & ~categorical
    pad = np.zeros(n + 1)
    return Tree(
        np.concatenate([feature, pad]).astype(np.int64),
        np.concatenate([threshold, pad]),
        sides[0],
        sides[1],
        np.concatenate([np.zeros(n), leaves]),
        np.concatenate([missing, pad]) != 0,
        members=_members(e, threshold, np.flatnonzero(categorical)),
    ).check(e, "left_child", n_features)


def _members(e: Fields, threshold: Array, nodes: Array) -> dict[int, list[float]]:
    """Categories that go left: bits of words."""
    if not len(nodes):
        return {}
    words = e.integers("cat_threshold", None, low=0, high=2**32 - 1)
    ends = e.integers("cat_boundaries", None, low=0, high=len(words))
    found = {}
    for node in nodes.tolist():
        row = threshold[node]
        if not (row == np.floor(row) and 0 <= row < len(ends) - 1) or ends[int(row)] >= ends[int(row) + 1]:
            raise e.corrupt("categories of a split are not there", "cat_boundaries", float(row))
        own = words[ends[int(row)] : ends[int(row) + 1]]
        bits = (own[:, None] >> np.arange(32)) & 1
        found[node] = np.flatnonzero(bits.reshape(-1)).astype(float).tolist()
        if not found[node]:
            raise e.corrupt("a split without categories", "cat_threshold", None)
    return found


def _sums(build: Build, e: Fields, x: Columns) -> tuple[str, int, str, dict[str, str]]:
    """(sums [N, groups], groups, objective, its settings)."""
    text, header = _text(e), _header(e)
    objective, *settings = str(header.get("objective", "custom")).split(" ")
    groups = written(header, "num_tree_per_iteration", 1, MAX_CLASSES, 1)
    rows = text.get("trees")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise text.corrupt("trees are wanted", "trees", rows)
    best = inner_booster(e).get("best_iteration")
    if type(best) is int and best > 0:
        rows = rows[: best * groups]
    zeros: dict[int, bool] = {}
    trees = []
    for number, row in enumerate(rows):
        tree = _tree(text.of(Record("dict", row), f"trees.{number}"), x.width, zeros)
        tree.target = number % groups
        trees.append(tree)
    value = x.numbers()
    absent = np.asarray([zeros.get(n, False) for n in range(x.width)])
    if absent.any():
        nothing = build.op("And", build.op("LessOrEqual", build.op("Abs", value), _ZERO), absent)
        value = build.op("Where", nothing, np.float64(np.nan), value)
    sums = total(build, value, trees, np.zeros(groups), text)
    parameters = text.get("parameters")
    if isinstance(parameters, dict) and parameters.get("boosting") in ("rf", "random_forest"):
        sums = build.op("Div", sums, float(max(len(rows) // groups, 1)))
    if text.get("pandas_categorical") not in (None, "null", "[]"):
        build.note(e.place, "columns that were categories of pandas are given as the codes of these")
    return sums, groups, objective, dict(one.split(":", 1) for one in settings if ":" in one)


def _slope(e: Fields, settings: dict[str, str]) -> float:
    text = settings.get("sigmoid", "1")
    if not re.fullmatch(r"[0-9.]{1,20}(e[-+]?[0-9]{1,2})?", text) or text.count(".") > 1 or text == ".":
        raise e.corrupt("a number is wanted", "objective", text)
    return float(text)


def classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """LGBMClassifier."""
    sums, groups, objective, settings = _sums(build, e, x)
    if objective == "multiclass":
        shares = build.op("Softmax", sums, axis=1)
        return Classified(labels(e, groups, "_classes"), build.argmax(shares), shares)
    if objective == "multiclassova":
        shares = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
        return Classified(labels(e, groups, "_classes"), build.argmax(shares), shares)
    if objective != "binary" or groups != 1:
        raise e.refused("an objective without probabilities", "objective", objective, ("binary", "multiclass"))
    positive = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
    shares = two_columns(build, positive)
    return Classified(labels(e, 2, "_classes"), build.argmax(shares), shares)


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """LGBMRegressor, LGBMRanker, Booster."""
    sums, groups, objective, settings = _sums(build, e, x)
    header = str(_header(e).get("objective", ""))
    if objective == "regression" and " sqrt" in header:
        sums = build.op("Mul", build.op("Sign", sums), build.op("Mul", sums, sums))
    elif objective in _EXP:
        sums = build.op("Exp", sums)
    elif objective in _SIGMOID:
        sums = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
    elif objective == "multiclass":
        sums = build.op("Softmax", sums, axis=1)
    elif objective not in _PLAIN:
        allowed = (*_PLAIN, *_EXP, *_SIGMOID)
        raise e.refused("an objective that is not known", "objective", objective, allowed)
    return Regressed(sums, groups, groups == 1)


def features(e: Fields) -> tuple[int, tuple[str, ...]]:
    """How many columns a booster was trained on, and their names."""
    header = _header(e)
    width = written(header, "max_feature_idx", 0, 1 << 20) + 1
    names = str(header.get("feature_names", "")).split(" ")
    own = names != [f"Column_{n}" for n in range(width)] and len(set(names)) == len(names) == width
    return width, tuple(names) if own else ()


PREDICTORS = {"LGBMClassifier": classifier, **dict.fromkeys(("LGBMRegressor", "LGBMRanker"), regressor)}
