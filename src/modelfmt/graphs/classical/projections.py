"""Fewer columns: chosen ones, or projections. Source: scikit-learn 1.9, feature_selection, decomposition,
random_projection.py, discriminant_analysis.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.trees import WITH_IMPORTANCES, importances

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["TRANSFORMERS"]


def _kept(e: Fields, x: Columns, mask: Array) -> Columns:
    chosen = np.flatnonzero(mask).tolist()
    if not chosen:
        raise e.corrupt("no column is left", "scores_", None)
    return x.take(chosen)


def _best(scores: Array, count: int) -> Array:
    """The highest scores; of equal ones the last. What is no number is lowest."""
    mask = np.zeros(len(scores), bool)
    if count:
        clean = np.where(np.isnan(scores), np.finfo(scores.dtype).min, scores)
        mask[np.argsort(clean, kind="mergesort")[-count:]] = True
    return mask


def _by_count(e: Fields, x: Columns, key: str) -> Array:
    if e.get(key) == "all":
        return np.ones(x.width, bool)
    return _best(e.array("scores_", x.width), e.integer(key, 0, x.width))


def _by_percentile(e: Fields, x: Columns, key: str) -> Array:
    percentile, scores = e.number(key), e.array("scores_", x.width)
    if percentile in (0, 100):
        return np.full(x.width, percentile == 100)
    if not 0 < percentile < 100:
        raise e.corrupt("a percentile is wanted", key, percentile, "0 to 100")
    clean = np.where(np.isnan(scores), np.finfo(scores.dtype).min, scores)
    threshold = np.percentile(clean, 100 - percentile)
    mask: Array = clean > threshold
    ties = np.flatnonzero(clean == threshold)
    mask[ties[: int(x.width * percentile / 100) - int(mask.sum())]] = True
    return mask


def _by_rate(e: Fields, x: Columns, key: str) -> Array:
    mask: Array = e.array("pvalues_", x.width) < e.number(key)
    return mask


def _by_family(e: Fields, x: Columns, key: str) -> Array:
    mask: Array = e.array("pvalues_", x.width) < e.number(key) / x.width
    return mask


def _by_discovery(e: Fields, x: Columns, key: str) -> Array:
    values = e.array("pvalues_", x.width)
    ranked = np.sort(values)
    passed = ranked[ranked <= e.number(key) / x.width * np.arange(1, x.width + 1)]
    mask: Array = values <= passed.max() if len(passed) else np.zeros(x.width, bool)
    return mask


_MODES = {
    "SelectKBest": ("k", _by_count),
    "SelectPercentile": ("percentile", _by_percentile),
    "SelectFpr": ("alpha", _by_rate),
    "SelectFwe": ("alpha", _by_family),
    "SelectFdr": ("alpha", _by_discovery),
}
_UNIVARIATE = {
    "k_best": "SelectKBest",
    "percentile": "SelectPercentile",
    "fpr": "SelectFpr",
    "fwe": "SelectFwe",
    "fdr": "SelectFdr",
}


def select_by_scores(_: Build, e: Fields, x: Columns) -> Columns:
    """The columns that a statistical test prefers."""
    key, how = _MODES[e.record.name]
    return _kept(e, x, how(e, x, key))


def select_univariate(_: Build, e: Fields, x: Columns) -> Columns:
    """The same, the way chosen by a parameter."""
    how = _MODES[_UNIVARIATE[e.choice("mode", tuple(_UNIVARIATE))]][1]
    return _kept(e, x, how(e, x, "param"))


def select_by_variance(_: Build, e: Fields, x: Columns) -> Columns:
    """The columns whose variance is above a threshold."""
    return _kept(e, x, e.array("variances_", x.width) > e.number("threshold", 0.0))


def select_by_support(_: Build, e: Fields, x: Columns) -> Columns:
    """The columns that a search has kept."""
    return _kept(e, x, e.integers("support_", x.width, low=0, high=1) != 0)


def select_from_model(_: Build, e: Fields, x: Columns) -> Columns:
    """The columns whose coefficients are large enough."""
    inner = e.of(e.inner("estimator" if e.get("prefit") else "estimator_"), "estimator_")
    if inner.record.name in WITH_IMPORTANCES:
        scores = importances(inner, x.width)
    else:
        coef = inner.read(inner.get("coef_"), "coef_").astype(np.float64)
        order = e.get("norm_order", 1)
        if order not in (1, 2) or coef.shape[-1:] != (x.width,) or coef.ndim > 2:
            raise e.refused("importances like these are not read", "norm_order", order, (1, 2))
        scores = np.abs(coef) if coef.ndim == 1 else np.linalg.norm(coef, axis=0, ord=order)
    mask = scores >= _threshold(e, inner, scores)
    if type(e.get(e.first("max_features_", "max_features"))) is int:
        most = e.integer(e.first("max_features_", "max_features"), 0, x.width)
        first = np.argsort(-scores, kind="mergesort")[:most]
        mask &= np.isin(np.arange(x.width), first)
    return _kept(e, x, mask)


def _threshold(e: Fields, inner: Fields, scores: Array) -> float:
    given = e.get("threshold")
    if given is None:
        sparse = (
            inner.get("penalty") == "l1"
            or "Lasso" in inner.record.name
            or (inner.record.name == "LogisticRegression" and inner.get("l1_ratio") == 1)
        )
        if inner.record.name in ("ElasticNet", "ElasticNetCV"):
            sparse = inner.get("l1_ratio_", inner.get("l1_ratio")) == 1
        return 1e-5 if sparse else float(scores.mean())
    if not isinstance(given, str):
        return e.number("threshold")
    scale, _, word = given.rpartition("*")
    named = {"mean": float(scores.mean()), "median": float(np.median(scores))}
    try:
        factor = float(scale.strip()) if scale else 1.0
    except ValueError:
        factor = np.nan
    if word.strip() not in named or not np.isfinite(factor):
        raise e.refused("a threshold that is not known", "threshold", given, tuple(named))
    return factor * named[word.strip()]


def principal(build: Build, e: Fields, x: Columns) -> Columns:
    """PCA: (x - mean) @ components.T, each divided by its deviation on request."""
    components = e.array("components_", None, x.width)
    value = build.op("Sub", x.numbers(), e.array("mean_", x.width)) if e.get("mean_") is not None else x.numbers()
    value = build.op("MatMul", value, np.ascontiguousarray(components.T))
    if e.flag("whiten", False):
        scale = np.sqrt(e.array("explained_variance_", len(components)))
        value = build.op("Div", value, np.maximum(scale, np.finfo(np.float64).eps))
    return Made(value, len(components)).columns(build)


def independent(build: Build, e: Fields, x: Columns) -> Columns:
    """FastICA: the mean is taken off where the data were whitened."""
    components = e.array("components_", None, x.width)
    value = x.numbers()
    if e.get("whiten", True):
        value = build.op("Sub", value, e.array("mean_", x.width))
    return Made(build.op("MatMul", value, np.ascontiguousarray(components.T)), len(components)).columns(build)


def projected(build: Build, e: Fields, x: Columns) -> Columns:
    """x @ components.T: a truncated decomposition, a random projection."""
    components = e.array("components_", None, x.width)
    value = build.op("MatMul", x.numbers(), np.ascontiguousarray(components.T))
    return Made(value, len(components)).columns(build)


def discriminant_axes(build: Build, e: Fields, x: Columns) -> Columns:
    """LinearDiscriminantAnalysis as a transformer."""
    scalings = e.array("scalings_", x.width, None)
    value = x.numbers()
    if e.choice("solver", ("svd", "eigen"), "svd") == "svd":
        value = build.op("Sub", value, e.array("xbar_", x.width))
    n = e.integer("_max_components", 1, 1 << 20)
    return Made(build.op("MatMul", value, scalings[:, :n].copy()), min(n, scalings.shape[1])).columns(build)


TRANSFORMERS = {
    **dict.fromkeys(_MODES, select_by_scores),
    "GenericUnivariateSelect": select_univariate,
    "VarianceThreshold": select_by_variance,
    **dict.fromkeys(("RFE", "RFECV", "SequentialFeatureSelector"), select_by_support),
    "SelectFromModel": select_from_model,
    **dict.fromkeys(("PCA", "IncrementalPCA"), principal),
    "FastICA": independent,
    **dict.fromkeys(("TruncatedSVD", "GaussianRandomProjection", "SparseRandomProjection"), projected),
    "LinearDiscriminantAnalysis": discriminant_axes,
}
