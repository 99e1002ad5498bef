"""Estimators that look at no column. Source: scikit-learn 1.9, dummy.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.results import Classified, Regressed

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS"]


def dummy_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """The shares of classes in the training data, whatever the input."""
    way = e.choice("strategy", ("prior", "most_frequent", "constant"), "prior")
    classes = e.classes()
    prior = e.array("class_prior_", len(classes))
    if way == "most_frequent":
        prior = e.units("classes_", np.asarray([prior.argmax()]), len(classes))[0]
    elif way == "constant":
        held = [n for n, one in enumerate(classes.tolist()) if one == e.get("constant")]
        if len(held) != 1:
            raise e.refused("the constant is none of the classes", "constant", e.get("constant"), classes.tolist())
        prior = e.units("classes_", np.asarray(held), len(classes))[0]
    shares = _everywhere(build, x, prior)
    return Classified(classes, build.argmax(shares), shares)


def dummy_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """A constant."""
    held = e.read(e.get("constant_"), "constant_").reshape(-1)
    values = e.shaped(held.tolist(), "constant_", len(held))
    return Regressed(_everywhere(build, x, values), len(values), len(values) == 1)


def _everywhere(build: Build, x: Columns, row: Array) -> str:
    """A row for each row of the input."""
    size = build.op("Shape", x.numbers(), start=0, end=1)
    return build.op("Expand", row.reshape(1, -1), build.op("Concat", size, [1], axis=0))


PREDICTORS = {"DummyClassifier": dummy_classifier, "DummyRegressor": dummy_regressor}
