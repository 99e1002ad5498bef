"""Multilayer perceptrons. Source: scikit-learn 1.9, neural_network/_multilayer_perceptron.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Regressed

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS"]

_ACTIVATIONS = {"identity": None, "logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def _layers(build: Build, e: Fields, x: Columns) -> tuple[str, int]:
    """What the last layer sums, and its width."""
    weights, biases = e.get("coefs_"), e.get("intercepts_")
    if not (isinstance(weights, list) and isinstance(biases, list) and 0 < len(weights) == len(biases)):
        raise e.corrupt("weights of each layer are wanted", "coefs_", weights)
    activation = _ACTIVATIONS[e.choice("activation", tuple(_ACTIVATIONS), "relu")]
    value, width = x.numbers(), x.width
    for number, (held, bias) in enumerate(zip(weights, biases, strict=True)):
        matrix = e.shaped(held, f"coefs_.{number}", width, None)
        width = matrix.shape[1]
        value = build.op("MatMul", value, np.ascontiguousarray(matrix))
        value = build.op("Add", value, e.shaped(bias, f"intercepts_.{number}", width))
        if activation and number < len(weights) - 1:
            value = build.op(activation, value)
    return value, width


def classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """MLPClassifier: a sigmoid for two classes, a softmax for more."""
    binarizer = e.of(e.inner("_label_binarizer"), "_label_binarizer")
    if e.get("out_activation_") == "logistic" and binarizer.get("y_type_") == "multilabel-indicator":
        raise binarizer.refused("several labels for a row", "y_type_", "multilabel-indicator", ("binary", "multiclass"))
    classes = binarizer.classes()
    value, width = _layers(build, e, x)
    if width != (1 if len(classes) == 2 else len(classes)):
        raise e.corrupt("the last layer does not fit the classes", "coefs_", width, len(classes))
    if e.choice("out_activation_", ("logistic", "softmax")) == "softmax":
        return Classified(classes, build.argmax(value), build.op("Softmax", value, axis=1))
    positive = build.op("Sigmoid", value)
    index = build.flat(build.cast(build.op("Greater", positive, 0.5), "INT64"))
    return Classified(classes, index, two_columns(build, positive))


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """MLPRegressor."""
    value, width = _layers(build, e, x)
    if e.choice("out_activation_", ("identity", "exp"), "identity") == "exp":
        value = build.op("Exp", value)
    return Regressed(value, width, width == 1)


PREDICTORS = {"MLPClassifier": classifier, "MLPRegressor": regressor}
