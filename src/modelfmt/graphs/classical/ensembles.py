"""Estimators that ask several others the same: bagging, voting, stacking, AdaBoost.

Source: scikit-learn 1.9, ensemble/_bagging.py, _voting.py, _stacking.py, _weight_boosting.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.compose import beside
from modelfmt.graphs.classical.linear import choose
from modelfmt.graphs.classical.results import Classified, Regressed, Result

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "asked", "classifiers", "regressors"]


def asked(build: Build, e: Fields, x: Columns, key: str = "estimators_") -> list[Result]:
    """What each of the others says, of columns of its own where it has been given such."""
    members = e.inners(key)
    chosen = e.get("estimators_features_")
    found = []
    for number, one in enumerate(members):
        own = x
        if isinstance(chosen, list):
            if number >= len(chosen):
                raise e.corrupt("columns of each estimator are wanted", "estimators_features_", len(chosen))
            own = x.take(e.whole(chosen[number], "estimators_features_", None, low=0, high=x.width - 1).tolist())
        found.append(build.predict(one, e.at(f"{key}.{number}"), own))
    return found


def classifiers(build: Build, e: Fields, x: Columns, key: str = "estimators_") -> list[Classified]:
    found = asked(build, e, x, key)
    wrong = [one for one in found if not isinstance(one, Classified)]
    if wrong:
        raise e.corrupt("classifiers are wanted", key, type(wrong[0]).__name__)
    return [one for one in found if isinstance(one, Classified)]


def regressors(build: Build, e: Fields, x: Columns, key: str = "estimators_") -> list[Regressed]:
    found = asked(build, e, x, key)
    wrong = [one for one in found if not isinstance(one, Regressed)]
    if wrong:
        raise e.corrupt("regressors are wanted", key, type(wrong[0]).__name__)
    kept = [one for one in found if isinstance(one, Regressed)]
    if len({one.width for one in kept}) != 1:
        raise e.corrupt("regressors differ in their number of outputs", key, [one.width for one in kept])
    return kept


def _places(e: Fields, inner: Array, outer: Array) -> Array:
    """A table [inner, outer]: 1 where a class of an inner estimator, a label or a label's index, is an outer one."""
    known = {label: n for n, label in enumerate(outer.tolist())}
    rows = inner.tolist()
    if not set(rows) <= set(known):
        if not all(type(n) in (int, float) and 0 <= n < len(outer) and n == int(n) for n in rows):
            raise e.corrupt("an inner estimator has other classes", "classes_", rows[:5], outer.tolist()[:5])
        known = {n: n for n in range(len(outer))}
    return e.units("classes_", np.asarray([known[n] for n in rows]), len(outer))


def _indexed(e: Fields, inner: Array, n: int) -> Array:
    """The same for inner classes that are indices of outer ones."""
    return _places(e, inner, np.arange(n))


def _is_same(table: Array) -> bool:
    """True where inner classes are the outer ones, in their order."""
    return table.shape[0] == table.shape[1] and bool((np.diagonal(table) == 1).all())


def _spread(build: Build, value: str, table: Array) -> str:
    """Columns of inner classes as columns of outer ones."""
    if _is_same(table):
        return value
    return build.op("MatMul", value, table)


def _chosen(build: Build, found: Classified) -> str:
    """DOUBLE [N, K]: 1 at the class that was chosen."""
    hits = build.op("Equal", build.upright(found.index), np.arange(len(found.classes)))
    return build.cast(hits, "DOUBLE")


def _shares(build: Build, e: Fields, found: Classified, table: Array) -> str:
    """Probabilities of outer classes."""
    if found.probabilities is None:
        raise e.refused("an inner estimator has no probabilities", "estimators_", None, ("those that have",))
    return _spread(build, found.probabilities, table)


def _total(build: Build, values: list[str], weights: Array) -> str:
    """The sum of values, each times its weight."""
    scaled = [
        value if weight == 1 else build.op("Mul", value, float(weight))
        for value, weight in zip(values, weights, strict=True)
    ]
    return scaled[0] if len(scaled) == 1 else build.op("Sum", *scaled)


def bagging_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """The mean of probabilities, or of votes where there are none."""
    classes = e.classes()
    found = classifiers(build, e, x)
    parts, scores = [], []
    for one in found:
        table = _indexed(e, one.classes, len(classes))
        parts.append(_spread(build, one.probabilities or _chosen(build, one), table))
        scores.append(one.scores)
    ones = np.ones(len(found))
    shares = build.op("Div", _total(build, parts, ones), float(len(found)))
    score = None
    if all(one.scores and len(one.classes) == len(classes) for one in found):
        score = build.op("Div", _total(build, [str(one) for one in scores], ones), float(len(found)))
    return Classified(classes, build.argmax(shares), shares, score)


def mean_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """The mean of what each says: bagging, voting."""
    found = regressors(build, e, x)
    weights = _voters(e, len(found)) if e.record.name == "VotingRegressor" else np.ones(len(found))
    total = build.op("Div", _total(build, [one.value for one in found], weights), float(weights.sum()))
    return Regressed(total, found[0].width, found[0].flat)


def _voters(e: Fields, n: int) -> Array:
    """Weights of those voters that were not dropped."""
    if e.get("weights") is None:
        return np.ones(n)
    given = e.array("weights", None)
    rows = e.get("estimators")
    kept = [not (isinstance(row, tuple) and len(row) > 1 and row[1] in ("drop", None)) for row in rows or ()]
    weights = given[kept] if len(kept) == len(given) else given
    if len(weights) != n or not weights.sum() > 0:
        raise e.corrupt("a weight for each voter is wanted", "weights", len(weights), n)
    return weights


def voting_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """The class of the largest weighted mean of probabilities, or of most weighted votes."""
    classes = e.classes()
    found = classifiers(build, e, x)
    weights = _voters(e, len(found))
    soft = e.choice("voting", ("hard", "soft"), "hard") == "soft"
    parts = []
    for one in found:
        table = _indexed(e, one.classes, len(classes))
        parts.append(_shares(build, e, one, table) if soft else _spread(build, _chosen(build, one), table))
    total = build.op("Div", _total(build, parts, weights), float(weights.sum()))
    return Classified(classes, build.argmax(total), total if soft else None)


def _stacked(build: Build, e: Fields, x: Columns) -> Result:
    """What the last estimator makes of the answers of the others."""
    found = asked(build, e, x)
    ways = e.get("stack_method_")
    if not isinstance(ways, list) or len(ways) != len(found):
        raise e.corrupt("a way to ask each estimator is wanted", "stack_method_", ways)
    parts = [_answer(build, e, one, way) for one, way in zip(found, ways, strict=True)]
    if e.flag("passthrough", False):
        parts.append(x)
    return build.predict(e.inner("final_estimator_"), e.at("final_estimator_"), beside(build, parts))


def _answer(build: Build, e: Fields, found: Result, way: str) -> Columns:
    if isinstance(found, Regressed):
        return Made(found.value, found.width).columns(build)
    if not isinstance(found, Classified):
        raise e.refused("an inner estimator of this kind", "estimators_", type(found).__name__, ("classifiers",))
    n = len(found.classes)
    if way == "predict":
        labels = found.classes
        if labels.dtype == object:
            raise e.corrupt("labels of inner estimators are numbers", "estimators_", labels.tolist()[:3])
        value = build.op("Gather", labels.astype(np.float64), found.index, axis=0)
        return Made(build.upright(value), 1).columns(build)
    if way == "decision_function" and found.scores:
        return Made(found.scores, found.n_scores).columns(build)
    if way != "predict_proba" or not found.probabilities:
        raise e.corrupt("an estimator cannot be asked in this way", "stack_method_", way)
    made = Made(found.probabilities, n).columns(build)
    return made.take([1]) if n == 2 else made


def stacking_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """StackingClassifier: the last estimator's classes are indices."""
    classes = e.classes()
    found = _stacked(build, e, x)
    if not isinstance(found, Classified):
        raise e.corrupt("a classifier is wanted", "final_estimator_", type(found).__name__)
    table = _indexed(e, found.classes, len(classes))
    if not _is_same(table):
        raise e.refused("the last estimator knows fewer classes", "final_estimator_", len(table), (len(classes),))
    return Classified(classes, found.index, found.probabilities, found.scores, found.width)


def stacking_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """StackingRegressor."""
    found = _stacked(build, e, x)
    if not isinstance(found, Regressed):
        raise e.corrupt("a regressor is wanted", "final_estimator_", type(found).__name__)
    return found


def ada_boost_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """SAMME: weighted votes; SAMME.R of older releases: logarithms of probabilities."""
    classes = e.classes()
    n = len(classes)
    found = classifiers(build, e, x)
    weights = e.array("estimator_weights_", None)[: len(found)]
    if n < 2 or len(weights) != len(found) or not weights.sum() > 0:
        raise e.corrupt("a weight for each estimator is wanted", "estimator_weights_", len(weights), len(found))
    real = e.choice("algorithm", ("SAMME", "SAMME.R", "deprecated"), "deprecated") == "SAMME.R"
    parts = []
    for one in found:
        table = _places(e, one.classes, classes)
        if real:
            shares = build.op("Max", _shares(build, e, one, table), float(np.finfo(np.float64).eps))
            logs = build.op("Log", shares)
            middle = build.op("ReduceMean", logs, [1], keepdims=1)
            parts.append(build.op("Mul", build.op("Sub", logs, middle), float(n - 1)))
        else:
            votes = build.op("Mul", _spread(build, _chosen(build, one), table), n / (n - 1))
            parts.append(build.op("Sub", votes, 1 / (n - 1)))
    total = _total(build, parts, np.ones(len(found)) if real else weights)
    scores = build.op("Div", total, float(weights.sum()))
    if n == 2:
        scores = build.op("Sub", build.column(scores, 1), build.column(scores, 0))
        half = build.op("Div", scores, 2.0)
        shares = build.op("Softmax", build.join([build.op("Neg", half), half]), axis=1)
    else:
        shares = build.op("Softmax", build.op("Div", scores, float(n - 1)), axis=1)
    return Classified(classes, choose(build, classes, scores), shares, scores)


def ada_boost_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """The weighted median of what each says."""
    found = regressors(build, e, x)
    weights = e.array("estimator_weights_", None)[: len(found)]
    if len(weights) != len(found) or found[0].width != 1:
        raise e.corrupt("a weight for each estimator is wanted", "estimator_weights_", len(weights), len(found))
    values = build.join([one.value for one in found])
    ordered, index = build.ops("TopK", 2, values, [len(found)], axis=1, largest=0, sorted=1)
    passed = build.op("CumSum", build.op("Gather", weights, index, axis=0), 1)
    half = build.op("Mul", build.column(passed, len(found) - 1), 0.5)
    first = build.op("ArgMax", build.cast(build.op("GreaterOrEqual", passed, half), "INT64"), axis=1, keepdims=1)
    return Regressed(build.op("GatherElements", ordered, first, axis=1))


PREDICTORS = {
    "BaggingClassifier": bagging_classifier,
    **dict.fromkeys(("BaggingRegressor", "VotingRegressor"), mean_regressor),
    "VotingClassifier": voting_classifier,
    "StackingClassifier": stacking_classifier,
    "StackingRegressor": stacking_regressor,
    "AdaBoostClassifier": ada_boost_classifier,
    "AdaBoostRegressor": ada_boost_regressor,
}
