"""Estimators that are made of others in a row or side by side: pipelines, unions, columns, searches, scaled targets.

Source: scikit-learn 1.9, pipeline.py, compose/_column_transformer.py, compose/_target.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelfmt.graphs.classical.columns import Columns, Inputs, Made
from modelfmt.graphs.classical.results import Regressed, Result
from modelfmt.graphs.classical.scaling import named_function
from modelfmt.ir.record import Objects, Record, Texts
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "TRANSFORMERS", "beside"]

_RESAMPLERS = ("imblearn.over_sampling.", "imblearn.under_sampling.", "imblearn.combine.")
_DROPPED, _KEPT = ("drop",), ("passthrough", None)


def beside(build: Build, parts: Sequence[Columns]) -> Columns:
    """Columns of several sources as one matrix. Raises LimitExceeded (more than MAX_WIDTH)."""
    build.check_width(sum(part.width for part in parts))
    kinds = {part.kind for part in parts if part.width}
    if kinds == {"STRING"}:
        return Made(build.join([part.texts() for part in parts]), sum(p.width for p in parts), "STRING").columns(build)
    names = [part.numbers() for part in parts if part.width]
    return Made(build.join(names), sum(part.width for part in parts)).columns(build)


def _steps(e: Fields, key: str) -> list[tuple[str, Any, Any]]:
    """(name, step, columns) of the rows of a list; columns: None where rows are pairs."""
    rows = e.get(key)
    if not isinstance(rows, list) or not rows:
        raise e.corrupt("a list of steps is wanted", key, rows)
    found = []
    for row in rows:
        proper = isinstance(row, tuple | list) and len(row) in (2, 3) and isinstance(row[0], str)
        if not proper or not isinstance(row[1], Record | str | None):
            raise e.corrupt("a step is a name and an estimator", key, row)
        found.append((row[0], row[1], row[2] if len(row) == 3 else None))
    return found


def _through(build: Build, e: Fields, x: Columns, *, last: bool) -> tuple[Columns, Record | None, str]:
    """Columns behind all steps, or all but the last, which then comes with its place."""
    steps = _steps(e, "steps")
    for number, (name, step, _) in enumerate(steps):
        place = e.at(f"steps.{number}.{name}")
        if step in _KEPT:
            continue
        if not isinstance(step, Record):
            raise e.corrupt("a step is a name and an estimator", "steps", step)
        if last and number == len(steps) - 1:
            return x, step, place
        if not step.type.startswith(_RESAMPLERS):
            x = build.transform(step, place, x)
    return x, None, e.place


def pipeline(build: Build, e: Fields, x: Columns) -> Result:
    """Transformers in a row, then an estimator."""
    x, step, place = _through(build, e, x, last=True)
    if step is None:
        raise e.refused("a pipeline that ends in no estimator predicts nothing", "steps", None, ("an estimator",))
    return build.predict(step, place, x)


def pipeline_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """Transformers in a row."""
    return _through(build, e, x, last=False)[0]


def feature_union(build: Build, e: Fields, x: Columns) -> Columns:
    """Transformers side by side, all given the same."""
    parts = []
    for number, (name, step, _) in enumerate(_steps(e, "transformer_list")):
        place = e.at(f"transformer_list.{number}.{name}")
        parts += _one(build, e, name, step, place, x)
    return _joined(build, e, parts, "transformer_list")


def column_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """Transformers side by side, each given columns of its own."""
    parts: list[Columns] = []
    used: set[int] = set()
    total = 0
    for number, (name, step, columns) in enumerate(_steps(e, "transformers_")):
        if step in _DROPPED:
            continue
        chosen = _chosen(e, name, columns, x)
        used.update(chosen)
        total += len(chosen)
        build.check_width(total)
        if chosen:
            place = e.at(f"transformers_.{number}.{name}")
            parts += _one(build, e, name, step, place, x.take(chosen))
    if isinstance(x.source, Inputs) and len(used) < x.width:
        x.source.apart = True
    return _joined(build, e, parts, "transformers_")


def _joined(build: Build, e: Fields, parts: list[Columns], key: str) -> Columns:
    parts = [part for part in parts if part.width]
    if not parts:
        raise e.corrupt("no column is left", key, None)
    return beside(build, parts)


def _one(build: Build, e: Fields, name: str, step: Any, place: str, x: Columns) -> list[Columns]:
    if step in _DROPPED:
        return []
    if isinstance(step, str) and step not in _KEPT:
        raise e.corrupt("a step is a name and an estimator", name, step)
    made = x if step in _KEPT else build.transform(step, place, x)
    weights = e.get("transformer_weights")
    if isinstance(weights, dict) and name in weights:
        weight = e.of(Record("", weights), "transformer_weights").number(name)
        made = Made(build.op("Mul", made.numbers(), weight), made.width).columns(build)
    return [made]


def _chosen(e: Fields, name: str, columns: Any, x: Columns) -> list[int]:
    """Indices of the columns that a transformer was fitted on."""
    known = e.get("_transformer_to_input_indices")
    if isinstance(known, dict) and name in known:
        columns = known[name]
    if isinstance(columns, Record) and isinstance(columns.get("data"), list):
        columns = columns["data"]  # a list with warnings
    if isinstance(columns, slice):
        columns = list(range(x.width)[_positions(e, columns, x)])
    if isinstance(columns, Texts):
        columns = columns.tolist()
    if isinstance(columns, Objects):
        columns = columns.items
    if isinstance(columns, str) or type(columns) is int:
        columns = [columns]
    if isinstance(columns, Tensor):
        columns = e.read(columns, "transformers_").reshape(-1).tolist()
    if not isinstance(columns, list):
        raise e.refused("columns of this kind are not converted", "transformers_", columns, ("names", "indices"))
    if columns and all(isinstance(one, bool) for one in columns) and len(columns) == x.width:
        columns = [index for index, one in enumerate(columns) if one]
    return [_position(e, one, x) for one in columns]


def _positions(e: Fields, columns: slice, x: Columns) -> slice:
    """A slice, whose ends may be names (then the last is in it)."""
    if not all(one is None or type(one) in (int, str) for one in (columns.start, columns.stop, columns.step)):
        raise e.corrupt("a slice of names or indices is wanted", "transformers_", columns)
    start, stop = (_position(e, end, x) if isinstance(end, str) else end for end in (columns.start, columns.stop))
    stop = stop + 1 if isinstance(columns.stop, str) else stop
    return slice(start, stop, columns.step if isinstance(columns.step, int) and columns.step else None)


def _position(e: Fields, column: Any, x: Columns) -> int:
    if isinstance(column, str) and column in x.names:
        return x.names.index(column)
    if type(column) is int and -x.width <= column < x.width:
        return column % x.width
    raise e.corrupt("a column that is not there", "transformers_", column, f"{x.width} columns")


def search(build: Build, e: Fields, x: Columns) -> Result:
    """The best estimator of a search, which was fitted on all data."""
    return build.predict(e.inner("best_estimator_"), e.at("best_estimator_"), x)


def search_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """The best transformer of a search."""
    return build.transform(e.inner("best_estimator_"), e.at("best_estimator_"), x)


def inner_estimator(build: Build, e: Fields, x: Columns) -> Result:
    """What wraps one estimator: RANSAC, a threshold that was left alone, selection by removal."""
    return build.predict(e.inner("estimator_"), e.at("estimator_"), x)


def scaled_target(build: Build, e: Fields, x: Columns) -> Regressed:
    """TransformedTargetRegressor: a regressor, then what its transformer of targets did, undone."""
    found = build.predict(e.inner("regressor_"), e.at("regressor_"), x)
    if not isinstance(found, Regressed):
        raise e.corrupt("a regressor is wanted", "regressor_", e.get("regressor_"))
    inverse = e.of(e.inner("transformer_"), "transformer_")
    undo = _UNDO.get(inverse.record.name)
    if undo is None:
        raise e.refused("targets are not transformed back by this", "transformer_", inverse.record.type, tuple(_UNDO))
    return Regressed(undo(build, inverse, found.value, found.width), found.width, found.flat)


def _unscaled(build: Build, e: Fields, value: str, width: int) -> str:
    for op, flag, key in (("Mul", "with_std", "scale_"), ("Add", "with_mean", "mean_")):
        if e.flag(flag, True) and e.get(key) is not None:
            value = build.op(op, value, e.array(key, width))
    return value


def _unscaled_range(build: Build, e: Fields, value: str, width: int) -> str:
    return build.op("Div", build.op("Sub", value, e.array("min_", width)), e.array("scale_", width))


def _unscaled_quartiles(build: Build, e: Fields, value: str, width: int) -> str:
    for op, flag, key in (("Mul", "with_scaling", "scale_"), ("Add", "with_centering", "center_")):
        if e.flag(flag, True) and e.get(key) is not None:
            value = build.op(op, value, e.array(key, width))
    return value


def _undone(build: Build, e: Fields, value: str, _: int) -> str:
    function = named_function(e, "inverse_func")
    return function(build, value) if function else value


_UNDO = {
    "StandardScaler": _unscaled,
    "MinMaxScaler": _unscaled_range,
    "RobustScaler": _unscaled_quartiles,
    "FunctionTransformer": _undone,
}

_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")

PREDICTORS = {
    "Pipeline": pipeline,
    **dict.fromkeys(_SEARCHES, search),
    "RANSACRegressor": inner_estimator,
    "TransformedTargetRegressor": scaled_target,
}
TRANSFORMERS = {
    "Pipeline": pipeline_transformer,
    "FeatureUnion": feature_union,
    "ColumnTransformer": column_transformer,
    **dict.fromkeys(_SEARCHES, search_transformer),
}
