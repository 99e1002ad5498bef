"""XGBoost's and LightGBM's estimators and boosters: sums of trees below a link.

XGBoost compares columns and thresholds in float32 (left below the threshold), LightGBM in float64 (left at it). Source:
XGBoost 3.2, include/xgboost/tree_model.h, src/common/categorical.h, src/objective; LightGBM 4.7, include/LightGBM/tree.h
(NumericalDecision, CategoricalDecision), src/objective.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.graphs.classical.branches import Tree, ensemble
from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Regressed
from modelfmt.graphs.classical.trees import rounded
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "features"]

MAX_CLASSES = 10_000
MAX_CATEGORY = 1 << 20
_BIG = 2**62
_ZERO = 1e-35


def features(e: Fields) -> tuple[int, tuple[str, ...]]:
    """How many columns a booster was trained on, and their names."""
    if e.record.package == "xgboost":
        learner = _learner(e)
        width = _number(_part(learner, "learner_model_param"), "num_feature", 1, 1 << 20)
        names = learner.get("feature_names")
    else:
        header = _header(e)
        width = _number(header, "max_feature_idx", 0, 1 << 20) + 1
        names = str(header.get("feature_names", "")).split(" ")
        names = None if names == [f"Column_{n}" for n in range(width)] else names
    known = isinstance(names, list) and len(names) == width and all(isinstance(one, str) for one in names)
    return width, tuple(names) if known and len(set(names)) == width else ()


def _part(e: Fields, *keys: str) -> Fields:
    """A dict some way down, as fields."""
    held: Any = e.record.attributes
    for key in keys:
        held = (
            held.get(key) if isinstance(held, dict) else held.attributes.get(key) if isinstance(held, Record) else None
        )
    if not isinstance(held, dict | Record):
        raise e.corrupt("a part of a booster is missing", ".".join(keys), held)
    return e.of(held if isinstance(held, Record) else Record("dict", held), ".".join(keys))


def _number(e: Fields, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer, written as a text."""
    value = e.get(key, default)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value):
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise e.corrupt("an integer out of range", key, value, f"{low} to {high}")
    return value


def _booster(e: Fields) -> Fields:
    return e if e.record.name == "Booster" else e.of(e.inner("_Booster"), "_Booster")


def _classes(e: Fields, n: int, *keys: str) -> Array:
    key = next((key for key in keys if e.get(key) is not None), None)
    found = np.arange(n) if key is None else e.classes(key)
    if len(found) != n:
        raise e.corrupt("labels of the classes are wanted", key or "classes_", len(found), n)
    return found


# XGBoost

_XGB_PLAIN = ("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror",
              "reg:squaredlogerror", "rank:ndcg", "rank:map", "rank:pairwise", "binary:logitraw")  # fmt: skip
_XGB_EXP = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox")
_XGB_SIGMOID = ("binary:logistic", "reg:logistic")
_XGB_SOFTMAX = ("multi:softprob", "multi:softmax")


def _learner(e: Fields) -> Fields:
    booster = _booster(e)
    handle = booster.get("handle")
    if not isinstance(handle, dict):
        raise booster.refused("a booster in this form is not read", "handle", handle, ("XGBoost 1.0 or newer",))
    return _part(booster, "handle", "Model", "learner") if "Model" in handle else _part(booster, "handle", "learner")


def _base(learner: Fields, objective: str, groups: int) -> Array:
    """What is added to the sums, on their scale."""
    text = _part(learner, "learner_model_param").get("base_score", "0.5")
    words = str(text).strip("[]").split(",")
    if not all(re.fullmatch(r"\s*-?[0-9.]{1,40}([eE][-+]?[0-9]{1,3})?\s*", word) for word in words):
        raise learner.corrupt("a number is wanted", "learner_model_param.base_score", text)
    base = np.asarray([float(word) for word in words])
    if len(base) not in (1, groups):
        raise learner.corrupt("a first guess for each group is wanted", "learner_model_param.base_score", text, groups)
    base = np.broadcast_to(base, (groups,))
    if objective in (*_XGB_SIGMOID, "binary:logitraw"):
        return -np.log(1.0 / base - 1.0)
    return np.log(base) if objective in _XGB_EXP else base.copy()


def _xgb_tree(e: Fields, n_features: int) -> Tree:
    left = e.integers("left_children", None, low=-1, high=_BIG)
    n = len(left)
    right = e.integers("right_children", n, low=-1, high=_BIG)
    values = e.array("split_conditions", n)
    size = _part(e, "tree_param").get("size_leaf_vector", "1") if "tree_param" in e else "1"
    if size not in ("0", "1"):
        raise e.refused("leaves with several numbers", "tree_param.size_leaf_vector", size, ("1",))
    feature = e.integers("split_indices", n, low=0, high=_BIG)
    missing = e.integers("default_left", n, low=0, high=1) != 0
    members = _xgb_members(e, left)
    if members:  # a member goes to the right
        nodes = np.asarray(list(members))
        left[nodes], right[nodes] = right[nodes].copy(), left[nodes].copy()
        missing[nodes] = ~missing[nodes]
    tree = Tree(feature, values, left, right, values, missing, less=True, members=members)
    return tree.check(e, "left_children", n_features)


def _xgb_members(e: Fields, left: Array) -> dict[int, list[float]]:
    """Categories of the nodes that split on such."""
    if e.get("categories_nodes") is None:
        return {}
    nodes = e.integers("categories_nodes", None, low=0, high=len(left) - 1)
    starts = e.integers("categories_segments", len(nodes), low=0, high=_BIG)
    sizes = e.integers("categories_sizes", len(nodes), low=0, high=_BIG)
    held = e.integers("categories", None, low=0, high=MAX_CATEGORY).astype(float).tolist()
    if (len(nodes) and (starts + sizes).max() > len(held)) or (left[nodes] < 0).any():
        raise e.corrupt("categories of a split are not there", "categories_segments", len(held))
    if len(nodes) and sizes.min() < 1:
        raise e.corrupt("a split without categories", "categories_sizes", 0)
    return {int(node): held[a : a + n] for node, a, n in zip(nodes, starts, sizes, strict=True)}


def _xgb_sums(build: Build, e: Fields, x: Columns) -> tuple[str, int, str]:
    """(sums [N, groups], groups, name of the objective)."""
    missing = e.get("missing")
    if missing is not None and not (isinstance(missing, float) and missing != missing):
        raise e.refused("another number than NaN means what is missing", "missing", missing, ("NaN",))
    learner = _learner(e)
    objective = str(_part(learner, "objective").get("name"))
    booster = _part(learner, "gradient_booster")
    kind = booster.choice("name", ("gbtree", "dart"))
    holder = _part(booster, "gbtree") if kind == "dart" else booster
    model = _part(holder, "model")
    params = _part(learner, "learner_model_param")
    groups = max(_number(params, "num_class", 0, MAX_CLASSES, 0), _number(params, "num_target", 1, MAX_CLASSES, 1), 1)
    rows = model.get("trees")
    if not isinstance(rows, list):
        raise model.corrupt("trees are wanted", "trees", rows)
    targets = model.integers("tree_info", len(rows), low=0, high=groups - 1)
    scale = booster.array("weight_drop", len(rows)) if kind == "dart" else np.ones(len(rows))
    rows = rows[: _xgb_limit(e, learner, model, groups)]
    trees = []
    for number, held in enumerate(rows):
        if not isinstance(held, dict):
            raise model.corrupt("a tree is wanted", f"trees.{number}", held)
        tree = _xgb_tree(model.of(Record("dict", held), f"trees.{number}"), x.width)
        tree.value, tree.target = tree.value * scale[number], int(targets[number])
        trees.append(tree)
    base = _base(learner, objective, groups)
    return _sum(build, rounded(build, x.numbers()), trees, base, model), groups, objective


def _sum(build: Build, x: str, trees: Sequence[Tree], base: Array, e: Fields) -> str:
    if not trees:
        raise e.corrupt("trees are wanted", "trees", 0)
    return build.op("Add", ensemble(build, x, trees, len(base)), base)


def _xgb_limit(e: Fields, learner: Fields, model: Fields, groups: int) -> int | None:
    """How many trees count, where training was stopped early."""
    best = learner.get("attributes", {})
    best = best.get("best_iteration") if isinstance(best, dict) else None
    if best is None or e.record.name == "Booster":
        return None
    parallel = _number(_part(model, "gbtree_model_param"), "num_parallel_tree", 1, 1 << 20, 1)
    return (_number(e.of(Record("", {"best": best}), "best"), "best", 0, 1 << 30) + 1) * groups * parallel


def xgb_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """XGBClassifier, XGBRFClassifier."""
    sums, groups, objective = _xgb_sums(build, e, x)
    if objective in _XGB_SOFTMAX:
        classes = _classes(e, groups, "classes_")
        return Classified(classes, build.argmax(sums), build.op("Softmax", sums, axis=1))
    if objective not in _XGB_SIGMOID or groups != 1:
        raise e.refused("an objective without probabilities", "objective", objective, (*_XGB_SIGMOID, *_XGB_SOFTMAX))
    positive = build.op("Sigmoid", sums)
    index = build.flat(build.cast(build.op("Greater", positive, 0.5), "INT64"))
    return Classified(_classes(e, 2, "classes_"), index, two_columns(build, positive))


def xgb_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """XGBRegressor, XGBRFRegressor, XGBRanker, Booster."""
    sums, groups, objective = _xgb_sums(build, e, x)
    value = _linked(build, e, sums, objective)
    return Regressed(value, groups, groups == 1)


def _linked(build: Build, e: Fields, sums: str, objective: str) -> str:
    if objective in _XGB_PLAIN:
        return sums
    ops = dict.fromkeys(_XGB_EXP, "Exp") | dict.fromkeys(_XGB_SIGMOID, "Sigmoid")
    if objective == "multi:softprob":
        return build.op("Softmax", sums, axis=1)
    if objective not in ops:
        raise e.refused("an objective that is not known", "objective", objective, (*_XGB_PLAIN, *ops))
    return build.op(ops[objective], sums)


# LightGBM

_LGB_PLAIN = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom")
_LGB_EXP = ("poisson", "gamma", "tweedie")
_LGB_SIGMOID = ("binary", "cross_entropy")


def _text(e: Fields) -> Fields:
    booster = _booster(e)
    key = booster.first("_handle", "handle", "_model_str")
    if not isinstance(booster.get(key), dict):
        raise booster.corrupt("the text of a model is wanted", key, booster.get(key))
    return _part(booster, key)


def _header(e: Fields) -> Fields:
    return _part(_text(e), "header")


def _lgb_tree(e: Fields, n_features: int, zeros: dict[int, bool]) -> Tree:
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
        members=_lgb_members(e, threshold, np.flatnonzero(categorical)),
    ).check(e, "left_child", n_features)


def _lgb_members(e: Fields, threshold: Array, nodes: Array) -> dict[int, list[float]]:
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


def _lgb_sums(build: Build, e: Fields, x: Columns) -> tuple[str, int, str, dict[str, str]]:
    """(sums [N, groups], groups, objective, its settings)."""
    text, header = _text(e), _header(e)
    objective, *settings = str(header.get("objective", "custom")).split(" ")
    groups = _number(header, "num_tree_per_iteration", 1, MAX_CLASSES, 1)
    rows = text.get("trees")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise text.corrupt("trees are wanted", "trees", rows)
    best = _booster(e).get("best_iteration")
    if type(best) is int and best > 0:
        rows = rows[: best * groups]
    zeros: dict[int, bool] = {}
    trees = []
    for number, row in enumerate(rows):
        tree = _lgb_tree(text.of(Record("dict", row), f"trees.{number}"), x.width, zeros)
        tree.target = number % groups
        trees.append(tree)
    value = x.numbers()
    absent = np.asarray([zeros.get(n, False) for n in range(x.width)])
    if absent.any():
        nothing = build.op("And", build.op("LessOrEqual", build.op("Abs", value), _ZERO), absent)
        value = build.op("Where", nothing, np.float64(np.nan), value)
    sums = _sum(build, value, trees, np.zeros(groups), text)
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


def lgb_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """LGBMClassifier."""
    sums, groups, objective, settings = _lgb_sums(build, e, x)
    if objective == "multiclass":
        shares = build.op("Softmax", sums, axis=1)
        return Classified(_classes(e, groups, "_classes"), build.argmax(shares), shares)
    if objective == "multiclassova":
        shares = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
        return Classified(_classes(e, groups, "_classes"), build.argmax(shares), shares)
    if objective != "binary" or groups != 1:
        raise e.refused("an objective without probabilities", "objective", objective, ("binary", "multiclass"))
    positive = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
    shares = two_columns(build, positive)
    return Classified(_classes(e, 2, "_classes"), build.argmax(shares), shares)


def lgb_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """LGBMRegressor, LGBMRanker, Booster."""
    sums, groups, objective, settings = _lgb_sums(build, e, x)
    header = str(_header(e).get("objective", ""))
    if objective == "regression" and " sqrt" in header:
        sums = build.op("Mul", build.op("Sign", sums), build.op("Mul", sums, sums))
    elif objective in _LGB_EXP:
        sums = build.op("Exp", sums)
    elif objective in _LGB_SIGMOID:
        sums = build.op("Sigmoid", build.op("Mul", sums, _slope(e, settings)))
    elif objective == "multiclass":
        sums = build.op("Softmax", sums, axis=1)
    elif objective not in _LGB_PLAIN:
        allowed = (*_LGB_PLAIN, *_LGB_EXP, *_LGB_SIGMOID)
        raise e.refused("an objective that is not known", "objective", objective, allowed)
    return Regressed(sums, groups, groups == 1)


def booster(build: Build, e: Fields, x: Columns) -> Regressed:
    """A booster by itself."""
    return xgb_regressor(build, e, x) if e.record.package == "xgboost" else lgb_regressor(build, e, x)


PREDICTORS = {
    **dict.fromkeys(("XGBClassifier", "XGBRFClassifier"), xgb_classifier),
    **dict.fromkeys(("XGBRegressor", "XGBRFRegressor", "XGBRanker"), xgb_regressor),
    "LGBMClassifier": lgb_classifier,
    **dict.fromkeys(("LGBMRegressor", "LGBMRanker"), lgb_regressor),
    "Booster": booster,
}
