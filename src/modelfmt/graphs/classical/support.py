"""Support vector machines: a kernel to every support vector, then what libsvm does with the sums.

Source: scikit-learn 1.9, svm/_base.py, and its libsvm (svm.cpp: svm_predict_values, multiclass_probability).
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.graphs.classical.results import Classified, Labelled, Regressed
from modelfmt.ir.graph import Graph, Value

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["MAX_CLASSES", "PREDICTORS", "pair_scores"]

MAX_CLASSES, MAX_SHARED = 150, 40
_SMALLEST = 1e-7


_KERNELS = ("linear", "poly", "rbf", "sigmoid")


def _vectors(e: Fields, width: int) -> Array:
    """The support vectors [M, n], of a kernel that nodes can be made for."""
    e.choice("kernel", _KERNELS, "rbf")
    return e.array("support_vectors_", None, width)


def _kernel(build: Build, e: Fields, x: Columns, vectors: Array) -> str:
    """The kernel [N, M] between rows and support vectors [M, n]."""
    kind = e.get("kernel", "rbf")
    value = x.numbers()
    if kind == "linear":
        return build.op("MatMul", value, np.ascontiguousarray(vectors.T))
    gamma = e.number(e.first("_gamma", "gamma"))
    if kind == "rbf":
        return build.op("Exp", build.op("Mul", build.squared_distances(value, vectors), -gamma))
    inner = build.op("MatMul", value, np.ascontiguousarray(vectors.T * gamma))
    inner = build.op("Add", inner, e.number("coef0", 0.0))
    return build.op("Pow", inner, float(e.integer("degree", 0, 1000, 3))) if kind == "poly" else build.op("Tanh", inner)


def _sums(build: Build, e: Fields, x: Columns) -> str:
    """[N, 1]: of machines with one sum, for numbers and for outliers."""
    vectors = _vectors(e, x.width)
    weights = e.array("dual_coef_", 1, len(vectors))
    bias = e.array("intercept_", 1)
    return build.op("Add", build.op("MatMul", _kernel(build, e, x, vectors), weights.reshape(-1, 1)), bias)


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """SVR and NuSVR."""
    return Regressed(_sums(build, e, x))


def outliers(build: Build, e: Fields, x: Columns) -> Labelled:
    """OneClassSVM."""
    scores = _sums(build, e, x)
    label = build.flat(build.op("Where", build.op("Greater", scores, 0.0), 1, -1))
    return Labelled(label, scores)


def classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """SVC and NuSVC: a sum for each pair of classes, and votes."""
    classes = e.classes()
    n = len(classes)
    if not 2 <= n <= MAX_CLASSES:
        raise e.corrupt("too few classes, or too many", "classes_", n, f"2 to {MAX_CLASSES}")
    vectors = _vectors(e, x.width)
    counts = e.integers(e.first("_n_support", "n_support_"), n, low=0, high=len(vectors))
    if counts.sum() != len(vectors):
        raise e.corrupt("vectors of each class are wanted", "_n_support", int(counts.sum()), len(vectors))
    weights = e.array(e.first("_dual_coef_", "dual_coef_"), n - 1, len(vectors))
    pairs = list(combinations(range(n), 2))
    bias = e.array(e.first("_intercept_", "intercept_"), len(pairs))
    if e.get("_dual_coef_") is None and n == 2:
        weights, bias = -weights, -bias  # the public ones have the other sign
    table = e.zeros("support_vectors_", len(vectors), len(pairs))
    owner = np.repeat(np.arange(n), counts)
    for number, (first, second) in enumerate(pairs):
        table[owner == first, number] = weights[second - 1, owner == first]
        table[owner == second, number] = weights[first, owner == second]
    sums = build.op("Add", build.op("MatMul", _kernel(build, e, x, vectors), table), bias)
    return _voted(build, e, classes, sums)


def _voted(build: Build, e: Fields, classes: Array, sums: str) -> Classified:
    n = len(classes)
    shares = _probabilities(build, e, n, sums)
    if n == 2:
        index = build.flat(build.cast(build.op("Not", build.op("Greater", sums, 0.0)), "INT64"))
        return Classified(classes, index, shares, build.op("Neg", sums))
    first = build.cast(build.op("Greater", sums, 0.0), "DOUBLE")
    ours, theirs = _sides(n)
    votes = build.op("Add", build.op("MatMul", first, ours - theirs), theirs.sum(axis=0))
    index = build.argmax(votes)
    if e.choice("decision_function_shape", ("ovr", "ovo", None), "ovr") != "ovr":
        return Classified(classes, index, shares, sums, len(ours))
    lost = build.cast(build.op("Less", sums, 0.0), "DOUBLE")
    scores = pair_scores(build, lost, build.op("Neg", sums), n)
    if e.flag("break_ties", False):
        index = build.argmax(scores)
    return Classified(classes, index, shares, scores)


def _sides(n: int) -> tuple[Array, Array]:
    """Two tables [pairs, n]: 1 at the first class of each pair, and at the second."""
    pairs = np.asarray(list(combinations(range(n), 2)))
    return np.eye(n)[pairs[:, 0]], np.eye(n)[pairs[:, 1]]


def pair_scores(build: Build, second: str, confidence: str, n: int) -> str:
    """A score for each class from votes of pairs, and from confidences where votes are equal. second: 1 where the
    second class of a pair won. Source: utils/multiclass.py, _ovr_decision_function."""
    ours, theirs = _sides(n)
    votes = build.op("Add", build.op("MatMul", second, theirs - ours), ours.sum(axis=0))
    total = build.op("MatMul", confidence, theirs - ours)
    size = build.op("Mul", build.op("Add", build.op("Abs", total), 1.0), 3.0)
    return build.op("Add", votes, build.op("Div", total, size))


def _probabilities(build: Build, e: Fields, n: int, sums: str) -> str | None:
    """Probabilities by Platt's sigmoids for pairs and libsvm's iteration over them; None where it has none."""
    n_pairs = n * (n - 1) // 2
    slopes, offsets = (e.get(e.first(f"_prob{one}", f"prob{one}_")) for one in "AB")
    if slopes is None or not getattr(slopes, "n_elements", 0):
        return None
    if n > MAX_SHARED:
        raise e.refused("probabilities of so many classes are not made", "classes_", n, (f"{MAX_SHARED} classes",))
    slope, offset = e.shaped(slopes, "_probA", n_pairs), e.shaped(offsets, "_probB", n_pairs)
    shares = build.op("Sigmoid", build.op("Neg", build.op("Add", build.op("Mul", sums, slope), offset)))
    shares = build.op("Clip", shares, _SMALLEST, 1 - _SMALLEST)
    pairs = list(combinations(range(n), 2))
    above = np.zeros((n_pairs, n * n))
    below = np.zeros((n_pairs, n * n))
    for number, (i, j) in enumerate(pairs):
        above[number, i * n + j] = 1
        below[number, j * n + i] = 1
    rest = build.op("Sub", 1.0, shares)
    table = build.op("Add", build.op("MatMul", shares, above), build.op("MatMul", rest, below))
    table = build.op("Reshape", table, [-1, n, n])  # [t, j]: how likely t is among the two
    other = build.op("Transpose", table, perm=[0, 2, 1])
    own = build.op("ReduceSumSquare", other, [2], keepdims=1)
    matrix = build.op("Sub", build.op("Mul", own, np.eye(n)), build.op("Mul", other, table))
    size = build.op("Shape", sums, start=0, end=1)
    start = build.op("Expand", np.float64(1 / n), build.op("Concat", size, [n], axis=0))
    return _iterated(build, n, matrix, start)


def _iterated(build: Build, n: int, matrix: str, start: str) -> str:
    """libsvm's fixed point: rows stop once their error is below 0.005 / n."""
    outer, build.graph.nodes = build.graph.nodes, []
    shares = "shares_in"
    product = build.op("Squeeze", build.op("MatMul", matrix, build.op("Unsqueeze", shares, [2])), [2])
    whole = build.sum(build.op("Mul", shares, product), keep=True)
    error = build.op("ReduceMax", build.op("Abs", build.op("Sub", product, whole)), [1], keepdims=1)
    busy = build.op("GreaterOrEqual", error, 0.005 / n)
    moved = shares
    for t in range(n):
        row = build.op("Gather", matrix, t, axis=1)
        own = build.column(row, t)
        mine = build.column(product, t)
        step = build.op("Div", build.op("Sub", whole, mine), own)
        scale = build.op("Add", step, 1.0)
        moved = build.op("Add", moved, build.op("Mul", step, np.eye(n)[[t]]))
        grown = build.op("Add", build.op("Mul", step, own), build.op("Mul", mine, 2.0))
        whole = build.op("Add", whole, build.op("Mul", step, grown))
        whole = build.op("Div", build.op("Div", whole, scale), scale)
        product = build.op("Div", build.op("Add", product, build.op("Mul", step, row)), scale)
        moved = build.op("Div", moved, scale)
    chosen = build.op("Where", busy, moved, shares)
    more = build.op("ReduceMax", build.cast(busy, "INT64"), keepdims=0)
    again = build.cast(more, "BOOL")
    body: Any = Graph(
        "iteration",
        build.graph.nodes,
        [Value("step_in", "INT64", ()), Value("again_in", "BOOL", ()), Value(shares, "DOUBLE", None)],
        [Value(again, "BOOL", ()), Value(chosen, "DOUBLE", None)],
    )
    build.graph.nodes = outer
    return build.op("Loop", max(100, n), np.asarray(True), start, body=body)


PREDICTORS = {
    **dict.fromkeys(("SVC", "NuSVC"), classifier),
    **dict.fromkeys(("SVR", "NuSVR"), regressor),
    "OneClassSVM": outliers,
}
