"""Probabilities from scores: calibrated classifiers, isotonic curves. Source: scikit-learn 1.9, calibration.py,
isotonic.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.linear import normalized, two_columns
from modelfmt.graphs.classical.results import Classified, Regressed
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "interpolated"]


def interpolated(build: Build, value: str, xs: Array, ys: Array) -> str:
    """Of [N, 1], what a line through points (ascending xs) gives; the ends' beyond them."""
    if len(xs) == 1:
        return build.op("Add", build.op("Mul", value, 0.0), float(ys[0]))
    held = build.op("Clip", value, float(xs[0]), float(xs[-1]))
    passed = build.sum(build.cast(build.op("Greater", held, xs), "INT64"), keep=True)
    after = build.op("Max", build.op("Min", passed, len(xs) - 1), 1)
    before = build.op("Sub", after, 1)
    x0, x1 = build.op("Gather", xs, before, axis=0), build.op("Gather", xs, after, axis=0)
    y0, y1 = build.op("Gather", ys, before, axis=0), build.op("Gather", ys, after, axis=0)
    slope = build.op("Div", build.op("Sub", y1, y0), build.op("Sub", x1, x0))
    return build.op("Add", build.op("Mul", build.op("Sub", held, x0), slope), y0)


def _curve(build: Build, e: Fields, value: str) -> str:
    """IsotonicRegression of [N, 1]."""
    xs = e.array(e.first("X_thresholds_", "_necessary_X_"), None)
    ys = e.array(e.first("y_thresholds_", "_necessary_y_"), len(xs))
    if not len(xs) or not (np.diff(xs) > 0).all():
        raise e.corrupt("ascending thresholds are wanted", "X_thresholds_", None)
    made = interpolated(build, value, xs, ys)
    if e.choice("out_of_bounds", ("nan", "clip"), "nan") == "clip":
        return made
    inside = build.op("And", build.op("GreaterOrEqual", value, xs[0]), build.op("LessOrEqual", value, xs[-1]))
    return build.op("Where", inside, made, np.float64(np.nan))


def isotonic(build: Build, e: Fields, x: Columns) -> Regressed:
    """IsotonicRegression of one column."""
    if x.width != 1:
        raise e.corrupt("one column is wanted", "X_thresholds_", x.width)
    return Regressed(_curve(build, e, x.numbers()))


def _calibrator(build: Build, e: Fields, value: str) -> str:
    if e.record.name == "IsotonicRegression":
        return _curve(build, e, value)
    if e.record.name != "_SigmoidCalibration":
        raise e.refused("calibrated in another way", "calibrators", e.record.type, ("sigmoid", "isotonic"))
    line = build.op("Add", build.op("Mul", value, e.number("a_")), e.number("b_"))
    return build.op("Sigmoid", build.op("Neg", line))


def _one(build: Build, e: Fields, x: Columns, classes: Array) -> str:
    """Probabilities [N, K] of one calibrated classifier."""
    key = e.first("estimator", "base_estimator")
    found = build.predict(e.inner(key), e.at(key), x)
    if not isinstance(found, Classified):
        raise e.corrupt("a classifier is wanted", key, type(found).__name__)
    n = len(classes)
    if found.classes.tolist() != classes.tolist():
        raise e.refused("a classifier that knows fewer classes", key, found.classes.tolist()[:5], classes.tolist()[:5])
    answers = found.scores
    if not answers and found.probabilities:
        answers = build.column(found.probabilities, 1) if n == 2 else found.probabilities
    members = e.inners(e.first("calibrators", "calibrators_"))
    if not answers or len(members) != (1 if n == 2 else n) or found.n_scores != len(members):
        raise e.corrupt("a calibrator for each class is wanted", "calibrators", len(members), n)
    parts = []
    for number, one in enumerate(members):
        own = answers if n == 2 else build.column(answers, number)
        parts.append(_calibrator(build, e.of(one, f"calibrators.{number}"), own))
    if n == 2:
        return two_columns(build, parts[0])
    return normalized(build, build.join(parts), n)


def calibrated(build: Build, e: Fields, x: Columns) -> Classified:
    """CalibratedClassifierCV: the mean of several."""
    e.choice("method", ("sigmoid", "isotonic"), "sigmoid")
    classes = e.classes()
    members = e.inners("calibrated_classifiers_")
    parts = [_one(build, e.of(m, f"calibrated_classifiers_.{n}"), x, classes) for n, m in enumerate(members)]
    total = build.op("Sum", *parts) if len(parts) > 1 else parts[0]
    shares = build.op("Div", total, float(len(parts)))
    return Classified(classes, build.argmax(shares), shares)


def fixed_threshold(build: Build, e: Fields, x: Columns) -> Classified:
    """FixedThresholdClassifier and TunedThresholdClassifierCV: the second class from a threshold on."""
    key = "estimator_" if isinstance(e.get("estimator_"), Record) else "estimator"
    found = build.predict(e.inner(key), e.at(key), x)
    if not isinstance(found, Classified) or len(found.classes) != 2:
        raise e.corrupt("a classifier of two classes is wanted", key, type(found).__name__)
    way = e.choice("response_method", ("auto", "predict_proba", "decision_function"), "auto")
    given = e.get(e.first("best_threshold_", "threshold"))
    positive = e.get("pos_label")
    if positive is not None and positive != found.classes.tolist()[1]:
        raise e.refused("the first class as the positive one", "pos_label", positive, (found.classes.tolist()[1],))
    shares = found.probabilities is not None and way != "decision_function"
    if not shares and not found.scores:
        raise e.corrupt("an estimator cannot be asked in this way", "response_method", way)
    threshold = (0.5 if shares else 0.0) if given == "auto" else e.number(e.first("best_threshold_", "threshold"))
    value = build.column(str(found.probabilities), 1) if shares else str(found.scores)
    index = build.flat(build.cast(build.op("GreaterOrEqual", value, threshold), "INT64"))
    return Classified(found.classes, index, found.probabilities, found.scores)


PREDICTORS = {
    "CalibratedClassifierCV": calibrated,
    "IsotonicRegression": isotonic,
    **dict.fromkeys(("FixedThresholdClassifier", "TunedThresholdClassifierCV"), fixed_threshold),
}
