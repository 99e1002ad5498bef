"""Densities for classes and clusters: naive Bayes, discriminant analysis, mixtures.

Source: scikit-learn 1.9, naive_bayes.py, discriminant_analysis.py, mixture/_gaussian_mixture.py, covariance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.linear import linear_classifier, two_columns
from modelfmt.graphs.classical.results import Classified, Labelled

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS"]


def _classified(build: Build, classes: Array, logs: str, scores: str | None = None) -> Classified:
    """Classes by logarithms of joint probabilities [N, K]."""
    return Classified(classes, build.argmax(logs), build.op("Softmax", logs, axis=1), scores)


def _squares(build: Build, x: Columns, means: Array, spread: Array) -> str:
    """[N, K]: sums of (x - means)^2 / spread."""
    away = build.op("Sub", build.op("Unsqueeze", x.numbers(), [1]), means)
    return build.op("ReduceSum", build.op("Div", build.op("Mul", away, away), spread), [2], keepdims=0)


def _positive(e: Fields, name: str, *shape: int) -> Array:
    found = e.array(name, *shape)
    if not (found > 0).all():
        raise e.corrupt("numbers above zero are wanted", name, float(found.min()) if found.size else None)
    return found


def gaussian(build: Build, e: Fields, x: Columns) -> Classified:
    """GaussianNB."""
    classes = e.classes()
    n = len(classes)
    means = e.array("theta_", n, x.width)
    spread = _positive(e, e.first("var_", "sigma_"), n, x.width)
    prior = e.array("class_prior_", n)
    constant = np.log(prior) - 0.5 * np.log(2.0 * np.pi * spread).sum(axis=1)
    logs = build.op("Sub", constant, build.op("Mul", _squares(build, x, means, spread), 0.5))
    return _classified(build, classes, logs)


def multinomial(build: Build, e: Fields, x: Columns) -> Classified:
    """MultinomialNB, and ComplementNB, which leaves priors out."""
    classes = e.classes()
    table = e.array("feature_log_prob_", len(classes), x.width)
    logs = build.op("MatMul", x.numbers(), np.ascontiguousarray(table.T))
    if e.record.name == "MultinomialNB" or len(classes) == 1:
        logs = build.op("Add", logs, e.array("class_log_prior_", len(classes)))
    return _classified(build, classes, logs)


def bernoulli(build: Build, e: Fields, x: Columns) -> Classified:
    """BernoulliNB, of columns that are made 0 and 1 on request."""
    classes = e.classes()
    table = e.array("feature_log_prob_", len(classes), x.width)
    absent = np.log(1 - np.exp(table))
    value = x.numbers()
    if e.get("binarize") is not None:
        value = build.cast(build.op("Greater", value, e.number("binarize")), "DOUBLE")
    logs = build.op("MatMul", value, np.ascontiguousarray((table - absent).T))
    return _classified(
        build, classes, build.op("Add", logs, e.array("class_log_prior_", len(classes)) + absent.sum(axis=1))
    )


def linear_discriminant(build: Build, e: Fields, x: Columns) -> Classified:
    """LinearDiscriminantAnalysis as a classifier."""
    found = linear_classifier(build, e, x)
    assert found.scores is not None
    if len(found.classes) == 2:
        shares = two_columns(build, build.op("Sigmoid", found.scores))
    else:
        shares = build.op("Softmax", found.scores, axis=1)
    return Classified(found.classes, found.index, shares, found.scores)


def quadratic_discriminant(build: Build, e: Fields, x: Columns) -> Classified:
    """QuadraticDiscriminantAnalysis: a rotation and scales for each class."""
    classes = e.classes()
    n = len(classes)
    means, prior = e.array("means_", n, x.width), _positive(e, "priors_", n)
    rotations, scalings = e.get("rotations_"), e.get("scalings_")
    if not (isinstance(rotations, list) and isinstance(scalings, list) and len(rotations) == len(scalings) == n):
        raise e.corrupt("a rotation for each class is wanted", "rotations_", rotations)
    value, parts = x.numbers(), []
    for number in range(n):
        scale = e.shaped(scalings[number], "scalings_", None)
        if not len(scale) or not (scale > 0).all():
            raise e.corrupt("numbers above zero are wanted", "scalings_", None)
        turn = e.shaped(rotations[number], "rotations_", x.width, len(scale)) * scale**-0.5
        turned = build.op("MatMul", build.op("Sub", value, means[number]), turn)
        size = build.op("ReduceSumSquare", turned, [1], keepdims=1)
        constant = float(np.log(prior[number]) - 0.5 * np.log(scale).sum())
        parts.append(build.op("Sub", constant, build.op("Mul", size, 0.5)))
    logs = build.join(parts)
    scores = build.op("Sub", parts[1], parts[0]) if n == 2 else logs
    return _classified(build, classes, logs, scores)


def gaussian_mixture(build: Build, e: Fields, x: Columns) -> Labelled:
    """GaussianMixture: the most likely component, and how likely each is."""
    weights = _positive(e, "weights_", e.integer("n_components", 1, 1 << 16))
    n, width = len(weights), x.width
    means = e.array("means_", n, width)
    kind = e.choice("covariance_type", ("full", "tied", "diag", "spherical"), "full")
    shapes = {"full": (n, width, width), "tied": (width, width), "diag": (n, width), "spherical": (n,)}
    roots = e.array("precisions_cholesky_", *shapes[kind])
    value = x.numbers()
    if kind in ("full", "tied"):
        each = roots if kind == "full" else np.broadcast_to(roots, (n, width, width))
        parts = []
        for mean, root in zip(means, each, strict=True):
            turned = build.op("MatMul", build.op("Sub", value, mean), np.ascontiguousarray(root))
            parts.append(build.op("ReduceSumSquare", turned, [1], keepdims=1))
        sizes = build.join(parts)
        half = np.log(np.diagonal(each, axis1=1, axis2=2)).sum(axis=1)
    else:
        wide = roots if kind == "diag" else np.repeat(roots[:, None], width, axis=1)
        sizes = _squares(build, x, means, wide**-2)
        half = np.log(wide).sum(axis=1)
    constant = np.log(weights) + half - 0.5 * width * math.log(2 * math.pi)
    logs = build.op("Sub", constant, build.op("Mul", sizes, 0.5))
    return Labelled(build.argmax(logs), build.op("Softmax", logs, axis=1), n, probabilities=True)


def elliptic_envelope(build: Build, e: Fields, x: Columns) -> Labelled:
    """EllipticEnvelope: scores by Mahalanobis' distance."""
    moved = build.op("Sub", x.numbers(), e.array("location_", x.width))
    turned = build.op("MatMul", moved, e.array("precision_", x.width, x.width))
    size = build.sum(build.op("Mul", turned, moved), keep=True)
    scores = build.op("Sub", build.op("Neg", size), e.number("offset_"))
    return Labelled(build.signs(scores), scores)


PREDICTORS = {
    "GaussianNB": gaussian,
    **dict.fromkeys(("MultinomialNB", "ComplementNB"), multinomial),
    "BernoulliNB": bernoulli,
    "LinearDiscriminantAnalysis": linear_discriminant,
    "QuadraticDiscriminantAnalysis": quadratic_discriminant,
    "GaussianMixture": gaussian_mixture,
    "EllipticEnvelope": elliptic_envelope,
}
