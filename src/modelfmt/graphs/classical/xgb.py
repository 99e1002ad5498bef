"""XGBoost: sums of trees in float32 (left below the threshold) below a link.

Source: XGBoost 3.2, include/xgboost/tree_model.h, src/common/categorical.h, src/objective.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.boosters import MAX_CLASSES, inner_booster, labels, part, total, written
from modelfmt.graphs.classical.branches import Tree
from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Regressed
from modelfmt.graphs.classical.trees import rounded
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "features"]

_BIG = 2**62
MAX_CATEGORY = 1 << 20

_PLAIN = ("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror",
              "reg:squaredlogerror", "rank:ndcg", "rank:map", "rank:pairwise", "binary:logitraw")  # fmt: skip
_EXP = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox")
_SIGMOID = ("binary:logistic", "reg:logistic")
_SOFTMAX = ("multi:softprob", "multi:softmax")


def _learner(e: Fields) -> Fields:
    booster = inner_booster(e)
    handle = booster.get("handle")
    if not isinstance(handle, dict):
        raise booster.refused("a booster in this form is not read", "handle", handle, ("XGBoost 1.0 or newer",))
    return part(booster, "handle", "Model", "learner") if "Model" in handle else part(booster, "handle", "learner")


def _base(learner: Fields, objective: str, groups: int) -> Array:
    """What is added to the sums, on their scale."""
    text = part(learner, "learner_model_param").get("base_score", "0.5")
    words = str(text).strip("[]").split(",")
    if not all(re.fullmatch(r"\s*-?[0-9.]{1,40}([eE][-+]?[0-9]{1,3})?\s*", word) for word in words):
        raise learner.corrupt("a number is wanted", "learner_model_param.base_score", text)
    base = np.asarray([float(word) for word in words])
    if len(base) not in (1, groups):
        raise learner.corrupt("a first guess for each group is wanted", "learner_model_param.base_score", text, groups)
    base = np.broadcast_to(base, (groups,))
    if objective in (*_SIGMOID, "binary:logitraw"):
        return -np.log(1.0 / base - 1.0)
    return np.log(base) if objective in _EXP else base.copy()


def _tree(e: Fields, n_features: int) -> Tree:
    left = e.integers("left_children", None, low=-1, high=_BIG)
    n = len(left)
    right = e.integers("right_children", n, low=-1, high=_BIG)
    values = e.array("split_conditions", n)
    size = part(e, "tree_param").get("size_leaf_vector", "1") if "tree_param" in e else "1"
    if size not in ("0", "1"):
        raise e.refused("leaves with several numbers", "tree_param.size_leaf_vector", size, ("1",))
    feature = e.integers("split_indices", n, low=0, high=_BIG)
    missing = e.integers("default_left", n, low=0, high=1) != 0
    members = _members(e, left)
    if members:  # a member goes to the right
        nodes = np.asarray(list(members))
        left[nodes], right[nodes] = right[nodes].copy(), left[nodes].copy()
        missing[nodes] = ~missing[nodes]
    tree = Tree(feature, values, left, right, values, missing, less=True, members=members)
    return tree.check(e, "left_children", n_features)


def _members(e: Fields, left: Array) -> dict[int, list[float]]:
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


def _sums(build: Build, e: Fields, x: Columns) -> tuple[str, int, str]:
    """(sums [N, groups], groups, name of the objective)."""
    missing = e.get("missing")
    if missing is not None and not (isinstance(missing, float) and missing != missing):
        raise e.refused("another number than NaN means what is missing", "missing", missing, ("NaN",))
    learner = _learner(e)
    objective = str(part(learner, "objective").get("name"))
    booster = part(learner, "gradient_booster")
    kind = booster.choice("name", ("gbtree", "dart"))
    holder = part(booster, "gbtree") if kind == "dart" else booster
    model = part(holder, "model")
    params = part(learner, "learner_model_param")
    groups = max(written(params, "num_class", 0, MAX_CLASSES, 0), written(params, "num_target", 1, MAX_CLASSES, 1), 1)
    rows = model.get("trees")
    if not isinstance(rows, list):
        raise model.corrupt("trees are wanted", "trees", rows)
    targets = model.integers("tree_info", len(rows), low=0, high=groups - 1)
    scale = booster.array("weight_drop", len(rows)) if kind == "dart" else np.ones(len(rows))
    rows = rows[: _limit(e, learner, model, groups)]
    trees = []
    for number, held in enumerate(rows):
        if not isinstance(held, dict):
            raise model.corrupt("a tree is wanted", f"trees.{number}", held)
        tree = _tree(model.of(Record("dict", held), f"trees.{number}"), x.width)
        tree.value, tree.target = tree.value * scale[number], int(targets[number])
        trees.append(tree)
    base = _base(learner, objective, groups)
    return total(build, rounded(build, x.numbers()), trees, base, model), groups, objective


def _limit(e: Fields, learner: Fields, model: Fields, groups: int) -> int | None:
    """How many trees count, where training was stopped early."""
    best = learner.get("attributes", {})
    best = best.get("best_iteration") if isinstance(best, dict) else None
    if best is None or e.record.name == "Booster":
        return None
    parallel = written(part(model, "gbtree_model_param"), "num_parallel_tree", 1, 1 << 20, 1)
    return (written(e.of(Record("", {"best": best}), "best"), "best", 0, 1 << 30) + 1) * groups * parallel


def classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """XGBClassifier, XGBRFClassifier."""
    sums, groups, objective = _sums(build, e, x)
    if objective in _SOFTMAX:
        classes = labels(e, groups, "classes_")
        return Classified(classes, build.argmax(sums), build.op("Softmax", sums, axis=1))
    if objective not in _SIGMOID or groups != 1:
        raise e.refused("an objective without probabilities", "objective", objective, (*_SIGMOID, *_SOFTMAX))
    positive = build.op("Sigmoid", sums)
    index = build.flat(build.cast(build.op("Greater", positive, 0.5), "INT64"))
    return Classified(labels(e, 2, "classes_"), index, two_columns(build, positive))


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """XGBRegressor, XGBRFRegressor, XGBRanker, Booster."""
    sums, groups, objective = _sums(build, e, x)
    value = _linked(build, e, sums, objective)
    return Regressed(value, groups, groups == 1)


def _linked(build: Build, e: Fields, sums: str, objective: str) -> str:
    if objective in _PLAIN:
        return sums
    ops = dict.fromkeys(_EXP, "Exp") | dict.fromkeys(_SIGMOID, "Sigmoid")
    if objective == "multi:softprob":
        return build.op("Softmax", sums, axis=1)
    if objective not in ops:
        raise e.refused("an objective that is not known", "objective", objective, (*_PLAIN, *ops))
    return build.op(ops[objective], sums)


def features(e: Fields) -> tuple[int, tuple[str, ...]]:
    """How many columns a booster was trained on, and their names."""
    learner = _learner(e)
    width = written(part(learner, "learner_model_param"), "num_feature", 1, 1 << 20)
    names = learner.get("feature_names")
    known = isinstance(names, list) and len(names) == width and all(isinstance(one, str) for one in names)
    return width, tuple(names) if known and len(set(names)) == width else ()


PREDICTORS = {
    **dict.fromkeys(("XGBClassifier", "XGBRFClassifier"), classifier),
    **dict.fromkeys(("XGBRegressor", "XGBRFRegressor", "XGBRanker"), regressor),
}
