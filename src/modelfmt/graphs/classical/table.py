"""Class names of scikit-learn -> the functions that make their nodes, and the way from a record to one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.classical import (
    calibration,
    compose,
    dummy,
    encoders,
    ensembles,
    histograms,
    lgb,
    linear,
    neighbors,
    networks,
    probabilistic,
    projections,
    scaling,
    several,
    support,
    texts,
    trees,
    xgb,
)
from modelfmt.graphs.classical.fields import MAX_WIDTH, Fields
from modelfmt.graphs.classical.nodes import MAX_DEPTH
from modelfmt.ir.record import Objects, Record
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.nodes import Build
    from modelfmt.graphs.classical.results import Result

__all__ = [
    "PACKAGES",
    "PREDICTORS",
    "TRANSFORMERS",
    "boosted_features",
    "covered",
    "inside",
    "predict",
    "transform",
    "width",
]

_FAMILIES: tuple[Any, ...] = (
    calibration,
    compose,
    dummy,
    encoders,
    ensembles,
    histograms,
    lgb,
    linear,
    neighbors,
    networks,
    probabilistic,
    projections,
    scaling,
    several,
    support,
    texts,
    trees,
    xgb,
)

PREDICTORS: dict[str, Callable[[Build, Fields, Columns], Result]] = {}
TRANSFORMERS: dict[str, Callable[[Build, Fields, Columns], Columns]] = {}
for _family in _FAMILIES:
    PREDICTORS |= getattr(_family, "PREDICTORS", {})
    TRANSFORMERS |= getattr(_family, "TRANSFORMERS", {})

_BOOSTERS: dict[str, Any] = {"xgboost": xgb, "lightgbm": lgb}


def _booster(build: Build, e: Fields, x: Columns) -> Result:
    """A booster by itself, of either library."""
    family = _BOOSTERS.get(e.record.package)
    if family is None:
        raise e.refused("a booster of another library", "type", e.record.type, tuple(_BOOSTERS))
    made: Result = family.regressor(build, e, x)
    return made


PREDICTORS["Booster"] = _booster

PACKAGES = ("sklearn", "imblearn", "xgboost", "lightgbm")
"""Where classes of these names may come from; one of the same name elsewhere may compute anything."""


def covered(record: Record) -> str | None:
    """What an estimator becomes at the end of a graph: "predict", "transform", or None."""
    for _ in range(MAX_DEPTH):
        inner = _decides(record)
        if not isinstance(inner, Record):
            break
        record = inner
    if record.package not in PACKAGES:
        return None
    return "predict" if record.name in PREDICTORS else "transform" if record.name in TRANSFORMERS else None


def _decides(record: Record) -> Any:
    """The estimator inside that says what one that is made of others does: a pipeline's last, a search's best."""
    if record.name == "Pipeline":
        steps = [step for _, step in record.steps if step not in ("passthrough", None)]
        return steps[-1] if steps else None
    return record.get("best_estimator_")


def predict(build: Build, record: Record, place: str, x: Columns) -> Result:
    """The nodes of what an estimator predicts."""
    made: Result = _found(PREDICTORS, build, record, place)(build, _fields(build, record, place), x)
    return made


def transform(build: Build, record: Record, place: str, x: Columns) -> Columns:
    """The nodes of what a transformer makes."""
    made: Columns = _found(TRANSFORMERS, build, record, place)(build, _fields(build, record, place), x)
    return made


ONE_COLUMN = ("LabelEncoder", "LabelBinarizer", "IsotonicRegression", "CountVectorizer", "TfidfVectorizer")


def boosted_features(record: Record, e: Fields) -> tuple[int, tuple[str, ...]] | None:
    """How many columns a booster was trained on, and their names; None of anything else."""
    family = _BOOSTERS.get(record.package)
    if family is None or record.name not in PREDICTORS:
        return None
    found: tuple[int, tuple[str, ...]] = family.features(e)
    return found


def inside(record: Record) -> list[Record]:
    """The estimators inside that may say how many columns one that does not was fitted on."""
    found: list[Any] = [step for _, step in record.steps]
    for key in ("estimators_", "calibrated_classifiers_"):
        held = record.get(key)
        found += held.items if isinstance(held, Objects) else held if isinstance(held, list | tuple) else []
    found += [record.get(key) for key in ("regressor_", "estimator_", "best_estimator_", "estimator", "base_estimator")]
    return [one for one in found if isinstance(one, Record)]


def width(e: Fields) -> int | None:
    """How many columns an estimator says that it was fitted on."""
    if e.record.name in ONE_COLUMN:
        return 1
    for key in ("n_features_in_", "n_features_", "n_features", "shape_fit_"):
        value = e.get(key)
        value = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if type(value) is int:
            return e.of(Record("", {key: value}), key).integer(key, 1, MAX_WIDTH)
    for key in _LENGTHS:
        value = e.get(key)
        if isinstance(value, Tensor) and value.shape and 0 < value.shape[-1] <= MAX_WIDTH:
            return value.shape[-1]
    return None


_LENGTHS = ("coef_", "mean_", "scale_", "center_", "components_", "feature_log_prob_", "support_vectors_", "theta_",
            "_fit_X", "cluster_centers_", "means_", "statistics_", "variances_", "scores_", "centroids_")  # fmt: skip
"""Attributes of older releases whose last axis is that of the columns."""


def _fields(build: Build, record: Record, place: str) -> Fields:
    return Fields(record, place, build.path, build.read)


def _found(table: dict[str, Any], build: Build, record: Record, place: str) -> Any:
    if record.package in PACKAGES and record.name in table:
        return table[record.name]
    raise UnsupportedError(
        "no graph is built for this estimator",
        code="no-graph",
        path=build.path,
        place=place or None,
        found=record.type,
        allowed=", ".join(sorted(table)),
        missing=[record.type],
    )
