"""What is near: nearest neighbors, centroids, clusters. Source: scikit-learn 1.9, neighbors, cluster/_kmeans.py.

Neighbors are found by a matrix of distances to all rows of the training data; those found are then measured again, by
differences. Of rows that are equally far, the first ones count, as a brute-force search of scikit-learn has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.results import Classified, Labelled, Regressed, Several
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "TRANSFORMERS"]

_EUCLIDEAN = ("euclidean", "l2", "sqeuclidean")
_CITY = ("manhattan", "cityblock", "l1")


def _metric(e: Fields) -> str:
    """The metric, with Minkowski's by its power."""
    named = e.first("effective_metric_", "metric")
    allowed = ("minkowski", *_EUCLIDEAN[:2], *_CITY, "chebyshev", "cosine")
    metric = str(e.choice(named, allowed, "minkowski"))
    if metric == "minkowski":
        power = e.number("p", 2)
        if power not in (1, 2):
            raise e.refused("distances of this power are not made", "p", power, (1, 2))
        return "euclidean" if power == 2 else "manhattan"
    return "euclidean" if metric in _EUCLIDEAN else "manhattan" if metric in _CITY else metric


def _near(build: Build, e: Fields, x: Columns) -> tuple[str, str, int, Array]:
    """(distances [N, k], indices [N, k], k, training rows)."""
    rows = e.array("_fit_X", None, x.width)
    count = e.integer("n_neighbors", 1, len(rows))
    metric, value = _metric(e), x.numbers()
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        size = build.op("Sqrt", build.op("ReduceSumSquare", value, [1], keepdims=1))
        value = build.op("Div", value, build.op("Where", build.op("Equal", size, 0.0), 1.0, size))
        far = build.op("Sub", 1.0, build.op("MatMul", value, np.ascontiguousarray(rows.T)))
    elif metric == "euclidean":
        far = build.squared_distances(value, rows)
    else:
        far = _reduced(build, metric, build.op("Sub", build.op("Unsqueeze", value, [1]), rows))
    distances, index = build.ops("TopK", 2, far, [count], axis=1, largest=0, sorted=1)
    if metric == "euclidean":
        there = build.op("Gather", rows, index, axis=0)
        away = build.op("Sub", build.op("Unsqueeze", value, [1]), there)
        distances = build.op("Sqrt", build.op("ReduceSumSquare", away, [2], keepdims=0))
    return distances, index, count, rows


def _reduced(build: Build, metric: str, away: str) -> str:
    size = build.op("Abs", away)
    return build.op("ReduceSum" if metric == "manhattan" else "ReduceMax", size, [2], keepdims=0)


def _weights(build: Build, e: Fields, distances: str) -> str | None:
    """[N, k, 1]: weights of neighbors; None where all are equal. A neighbor at no distance counts alone."""
    if e.choice("weights", ("uniform", "distance"), "uniform") == "uniform":
        return None
    at = build.cast(build.op("Equal", distances, 0.0), "DOUBLE")
    some = build.op("Greater", build.op("ReduceMax", at, [1], keepdims=1), 0.0)
    safe = build.op("Where", some, 1.0, distances)
    return build.op("Unsqueeze", build.op("Where", some, at, build.op("Div", 1.0, safe)), [2])


def _targets(e: Fields, n: int) -> Array:
    """What training rows were taught, [n, outputs]."""
    held = e.read(e.get("_y"), "_y")
    return e.shaped(e.get("_y"), "_y", n) if held.ndim == 1 else e.shaped(e.get("_y"), "_y", n, None)


def neighbors_classifier(build: Build, e: Fields, x: Columns) -> Classified | Several:
    """The class that most of the neighbors have."""
    distances, index, _, rows = _near(build, e, x)
    weights = _weights(build, e, distances)
    held = e.get("classes_")
    several = isinstance(held, list) and not all(isinstance(one, str | int | float) for one in held)
    classes = [e.labels(one, "classes_") for one in held] if several else [e.classes()]
    taught = _targets(e, len(rows))
    taught = taught.reshape(len(rows), -1)
    if taught.shape[1] != len(classes):
        raise e.corrupt("labels of the training data are wanted", "_y", list(taught.shape), len(classes))
    found = []
    for number, own in enumerate(classes):
        codes = e.whole(taught[:, number].tolist(), "_y", len(rows), low=0, high=len(own) - 1)
        votes = build.op("Gather", e.units("_y", codes, len(own)), index, axis=0)
        votes = build.op("Mul", votes, weights) if weights else votes
        total = build.sum(votes, axis=1)
        shares = build.op("Div", total, build.sum(total, keep=True))
        found.append(Classified(own, build.argmax(total), shares))
    return Several(tuple(found)) if several else found[0]


def neighbors_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """The mean of what the neighbors were taught."""
    distances, index, count, rows = _near(build, e, x)
    weights = _weights(build, e, distances)
    taught = _targets(e, len(rows))
    flat = taught.ndim == 1
    taught = taught.reshape(len(rows), -1)
    values = build.op("Gather", taught, index, axis=0)
    if weights is None:
        total = build.op("Div", build.sum(values, axis=1), float(count))
    else:
        total = build.op("Div", build.sum(build.op("Mul", values, weights), axis=1), build.sum(weights, axis=1))
    return Regressed(total, taught.shape[1], flat)


def nearest_centroid(build: Build, e: Fields, x: Columns) -> Classified:
    """The class whose middle is nearest."""
    classes = e.classes()
    centers = e.array("centroids_", len(classes), x.width)
    prior = e.array("class_prior_", len(classes)) if isinstance(e.get("class_prior_"), Tensor) else None
    if prior is not None and not np.allclose(prior, 1 / len(classes)):
        raise e.refused("priors are not converted", "class_prior_", prior.tolist()[:3], ("uniform ones",))
    metric = e.choice("metric", ("euclidean", "manhattan"), "euclidean")
    value = x.numbers()
    if metric == "euclidean":
        far = build.squared_distances(value, centers)
    else:
        far = _reduced(build, metric, build.op("Sub", build.op("Unsqueeze", value, [1]), centers))
    return Classified(classes, build.op("ArgMin", far, axis=1, keepdims=0))


def _cluster_distances(build: Build, e: Fields, x: Columns) -> tuple[str, int]:
    """Distances to the centers [N, k], measured by differences."""
    centers = e.array("cluster_centers_", None, x.width)
    away = build.op("Sub", build.op("Unsqueeze", x.numbers(), [1]), centers)
    return build.op("Sqrt", build.op("ReduceSumSquare", away, [2], keepdims=0)), len(centers)


def k_means(build: Build, e: Fields, x: Columns) -> Labelled:
    """The nearest center, and the distances to all."""
    far, count = _cluster_distances(build, e, x)
    return Labelled(build.op("ArgMin", far, axis=1, keepdims=0), far, count)


def k_means_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """The distances to the centers."""
    far, count = _cluster_distances(build, e, x)
    return Made(far, count).columns(build)


PREDICTORS = {
    "KNeighborsClassifier": neighbors_classifier,
    "KNeighborsRegressor": neighbors_regressor,
    "NearestCentroid": nearest_centroid,
    **dict.fromkeys(("KMeans", "MiniBatchKMeans"), k_means),
}
TRANSFORMERS = dict.fromkeys(("KMeans", "MiniBatchKMeans"), k_means_transformer)
