"""Linear models: scores are X @ coef.T + intercept, and what each class of scikit-learn makes of them.

Source: scikit-learn 1.9, linear_model/_base.py, _logistic.py, _stochastic_gradient.py, _glm/glm.py; svm/_classes.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.results import Classified, Labelled, Regressed

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "choose", "normalized", "softmax_classes", "two_columns"]


def choose(build: Build, classes: Array, scores: str) -> str:
    """The index of the class that scores say: above zero for two classes, else the largest."""
    if len(classes) == 2:
        return build.flat(build.cast(build.op("Greater", scores, 0.0), "INT64"))
    return build.argmax(scores)


def two_columns(build: Build, positive: str) -> str:
    """[N, 1] of a second class as [N, 2] of both."""
    return build.join([build.op("Sub", 1.0, positive), positive])


def normalized(build: Build, values: str, n_classes: int) -> str:
    """Rows divided by their sums; a row of zeros becomes equal parts."""
    empty = build.op("Equal", build.sum(values, keep=True), 0.0)
    return build.op("Where", empty, 1.0 / n_classes, build.shares(values))


def softmax_classes(build: Build, classes: Array, scores: str) -> Classified:
    """Classes by the softmax of scores [N, K]."""
    return Classified(classes, build.argmax(scores), build.op("Softmax", scores, axis=1), scores)


def _scores(build: Build, e: Fields, x: Columns, rows: int) -> str:
    """Scores [N, rows]."""
    held = e.read(e.get("coef_"), "coef_")
    one = held.ndim == 1 and rows == 1
    coef = e.array("coef_", x.width).reshape(1, -1) if one else e.array("coef_", rows, x.width)
    return build.op("Add", build.op("MatMul", x.numbers(), np.ascontiguousarray(coef.T)), _intercept(e, rows))


def _intercept(e: Fields, rows: int) -> Array:
    """[rows], of a number or an array; zeros where the model has none."""
    value = e.get("intercept_", 0.0)
    if type(value) in (int, float):
        return np.full(rows, e.number("intercept_", 0.0))
    found = e.read(value, "intercept_").reshape(-1)
    return e.shaped(found.tolist() if found.dtype.kind in "fiu" else None, "intercept_", rows)


def _linear_scores(build: Build, e: Fields, x: Columns, classes: Array) -> str:
    return _scores(build, e, x, 1 if len(classes) == 2 else len(classes))


def linear_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """Labels by scores, no probabilities: LinearSVC, Perceptron, SGDClassifier with a hinge."""
    classes = e.classes()
    scores = _linear_scores(build, e, x, classes)
    return Classified(classes, choose(build, classes, scores), None, scores)


def ridge_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """Classes are those of the binarizer of labels."""
    classes = e.of(e.inner("_label_binarizer"), "_label_binarizer").classes()
    scores = _linear_scores(build, e, x, classes)
    return Classified(classes, choose(build, classes, scores), None, scores)


def logistic(build: Build, e: Fields, x: Columns) -> Classified:
    """One sigmoid for each class, or a softmax, as the release that wrote the file has it."""
    classes = e.classes()
    scores = _linear_scores(build, e, x, classes)
    index = choose(build, classes, scores)
    ways = ("auto", "ovr", "multinomial", "deprecated", "warn")
    way = e.choice("multi_class", ways, "deprecated")
    single = way in ("ovr", "warn") or (way != "multinomial" and len(classes) <= 2)
    single = single or ("multi_class" in e and way != "multinomial" and e.get("solver") == "liblinear")
    if single:
        return Classified(classes, index, _sigmoids(build, classes, scores), scores)
    both = build.join([build.op("Neg", scores), scores]) if len(classes) == 2 else scores
    return Classified(classes, index, build.op("Softmax", both, axis=1), scores)


def _sigmoids(build: Build, classes: Array, scores: str) -> str:
    each = build.op("Sigmoid", scores)
    return two_columns(build, each) if len(classes) == 2 else normalized(build, each, len(classes))


def sgd_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """Probabilities for the two losses that have them."""
    found = linear_classifier(build, e, x)
    loss, scores, n = e.get("loss"), found.scores, len(found.classes)
    assert scores is not None
    if loss in ("log_loss", "log"):
        return Classified(found.classes, found.index, _sigmoids(build, found.classes, scores), scores)
    if loss != "modified_huber":
        return found
    clipped = build.op("Max", build.op("Min", scores, 1.0), -1.0)
    half = build.op("Div", build.op("Add", clipped, 1.0), 2.0)
    parts = two_columns(build, half) if n == 2 else normalized(build, half, n)
    return Classified(found.classes, found.index, parts, scores)


def linear_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """One target, or several."""
    coef = e.read(e.get("coef_"), "coef_")
    if coef.ndim == 1 or (coef.shape[:1] == (1,) and coef.size == x.width):
        weights = e.shaped(coef.reshape(-1).tolist(), "coef_", x.width)
        value = build.op("MatMul", x.numbers(), weights.reshape(-1, 1))
        return Regressed(build.op("Add", value, _intercept(e, 1)), 1, coef.ndim == 1)
    rows = coef.shape[0] if coef.ndim == 2 else 0
    return Regressed(_scores(build, e, x, rows), rows, flat=False)


def generalized(build: Build, e: Fields, x: Columns) -> Regressed:
    """A linear predictor below an inverse link: exp, or nothing."""
    found = linear_regressor(build, e, x)
    link = "log"
    if e.record.name == "TweedieRegressor":
        link = e.choice("link", ("auto", "identity", "log"), "auto")
        link = link if link != "auto" else "identity" if e.number("power", 0.0) <= 0 else "log"
    return Regressed(build.op("Exp", found.value)) if link == "log" else found


def sgd_outliers(build: Build, e: Fields, x: Columns) -> Labelled:
    """SGDOneClassSVM: scores are X @ coef - offset."""
    coef = e.array("coef_", x.width)
    offset = e.shaped(e.get("offset_"), "offset_", 1)
    scores = build.op("Sub", build.op("MatMul", x.numbers(), coef.reshape(-1, 1)), offset)
    return Labelled(build.signs(scores), scores)


PREDICTORS = {
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), logistic),
    **dict.fromkeys(("LinearSVC", "Perceptron", "PassiveAggressiveClassifier"), linear_classifier),
    **dict.fromkeys(("RidgeClassifier", "RidgeClassifierCV"), ridge_classifier),
    "SGDClassifier": sgd_classifier,
    **dict.fromkeys(
        (
            "ARDRegression",
            "BayesianRidge",
            "ElasticNet",
            "ElasticNetCV",
            "HuberRegressor",
            "Lars",
            "LarsCV",
            "Lasso",
            "LassoCV",
            "LassoLars",
            "LassoLarsCV",
            "LassoLarsIC",
            "LinearRegression",
            "LinearSVR",
            "MultiTaskElasticNet",
            "MultiTaskElasticNetCV",
            "MultiTaskLasso",
            "MultiTaskLassoCV",
            "OrthogonalMatchingPursuit",
            "OrthogonalMatchingPursuitCV",
            "PassiveAggressiveRegressor",
            "QuantileRegressor",
            "Ridge",
            "RidgeCV",
            "SGDRegressor",
            "TheilSenRegressor",
        ),
        linear_regressor,
    ),
    **dict.fromkeys(("GammaRegressor", "PoissonRegressor", "TweedieRegressor"), generalized),
    "SGDOneClassSVM": sgd_outliers,
}
