"""Transformers that treat each column by itself or each row by itself: scalers, powers, bins, products.

Source: scikit-learn 1.9, preprocessing/_data.py, _polynomial.py, _discretization.py, _function_transformer.py.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.fields import MAX_WIDTH
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["TRANSFORMERS", "named_function"]


def _made(build: Build, name: str, width: int) -> Columns:
    return Made(name, width).columns(build)


def _maybe(e: Fields, name: str, width: int) -> Array | None:
    """An attribute that is None where it was not asked for."""
    return None if e.get(name) is None else e.array(name, width)


def standard_scaler(build: Build, e: Fields, x: Columns) -> Columns:
    """(x - mean) / scale, either of them on request."""
    return _center_scale(build, e, x, ("with_mean", "mean_"), ("with_std", e.first("scale_", "std_")))


def robust_scaler(build: Build, e: Fields, x: Columns) -> Columns:
    """(x - center) / scale, either of them on request."""
    return _center_scale(build, e, x, ("with_centering", "center_"), ("with_scaling", "scale_"))


def _center_scale(build: Build, e: Fields, x: Columns, center: tuple[str, str], scale: tuple[str, str]) -> Columns:
    value = x.numbers()
    for op, (flag, name) in (("Sub", center), ("Div", scale)):
        numbers = _maybe(e, name, x.width) if e.flag(flag, True) else None
        if numbers is not None:
            value = build.op(op, value, numbers)
    return _made(build, value, x.width)


def min_max_scaler(build: Build, e: Fields, x: Columns) -> Columns:
    """x * scale + min, clipped on request."""
    value = build.op("Mul", x.numbers(), e.array("scale_", x.width))
    value = build.op("Add", value, e.array("min_", x.width))
    if e.flag("clip", False):
        low, high = e.array("feature_range", 2)
        value = _clip(build, value, low, high)
    return _made(build, value, x.width)


def max_abs_scaler(build: Build, e: Fields, x: Columns) -> Columns:
    """x / scale, clipped to -1 and 1 on request."""
    value = build.op("Div", x.numbers(), e.array("scale_", x.width))
    value = _clip(build, value, -1.0, 1.0) if e.flag("clip", False) else value
    return _made(build, value, x.width)


def _clip(build: Build, value: str, low: float, high: float) -> str:
    return build.op("Clip", value, float(low), float(high))


def normalizer(build: Build, e: Fields, x: Columns) -> Columns:
    """Rows divided by their norm, where that is not zero."""
    value = x.numbers()
    norm = e.choice("norm", ("l1", "l2", "max"), "l2")
    if norm == "l1":
        size = build.op("ReduceL1", value, [1], keepdims=1)
    elif norm == "l2":
        size = build.op("Sqrt", build.op("ReduceSumSquare", value, [1], keepdims=1))
    else:
        size = build.op("ReduceMax", build.op("Abs", value), [1], keepdims=1)
    size = build.op("Where", build.op("Equal", size, 0.0), 1.0, size)
    return _made(build, build.op("Div", value, size), x.width)


def binarizer(build: Build, e: Fields, x: Columns) -> Columns:
    """1 above the threshold, else 0."""
    above = build.op("Greater", x.numbers(), e.number("threshold", 0.0))
    return _made(build, build.cast(above, "DOUBLE"), x.width)


def polynomial_features(build: Build, e: Fields, x: Columns) -> Columns:
    """Products of columns, degree by degree: each is a column times a product of the degree before."""
    low, high = 0, e.get("degree", 2)
    if isinstance(high, list | tuple) and len(high) == 2:
        low, high = high
    if not all(type(n) is int and 0 <= n <= 20 for n in (low, high)):
        raise e.corrupt("a degree out of range", "degree", e.get("degree"), "0 to 20")
    choose: Any = combinations if e.flag("interaction_only", False) else combinations_with_replacement
    value = x.numbers()
    parts: list[str] = []
    width = 0
    if e.flag("include_bias", True):
        ones = build.op("Expand", 1.0, build.op("Concat", build.op("Shape", value, start=0, end=1), [1], axis=0))
        parts, width = [ones], 1
    before, last = {(): 0}, ""
    for degree in range(1, high + 1):
        rows = list(_limited(choose(range(x.width), degree), e))
        if not rows:
            break
        if degree == 1:
            last = value
        else:
            first = build.op("Gather", value, [row[0] for row in rows], axis=1)
            last = build.op("Mul", build.op("Gather", last, [before[row[1:]] for row in rows], axis=1), first)
        before = {row: index for index, row in enumerate(rows)}
        if degree >= max(low, 1):
            parts.append(last)
            width += len(rows)
    if not parts:
        raise e.corrupt("no column is left", "degree", e.get("degree"))
    return _made(build, build.join(parts), width)


def _limited(rows: Any, e: Fields) -> Any:
    for count, row in enumerate(rows):
        if count >= MAX_WIDTH // 4:
            raise e.refused("so many products are not made", "degree", e.get("degree"), (f"{MAX_WIDTH // 4} columns",))
        yield row


def bins(build: Build, e: Fields, x: Columns) -> Columns:
    """KBinsDiscretizer: the number of inner edges at or below a value; as it is, or as one column for each bin."""
    held = e.get("bin_edges_")
    rows = getattr(held, "items", None)
    if not isinstance(rows, list) or len(rows) != x.width:
        raise e.corrupt("edges of each column are wanted", "bin_edges_", held, x.width)
    edges = [e.shaped(row, "bin_edges_", None) for row in rows]
    counts = [len(row) - 1 for row in edges]
    if min(counts) < 1 or sum(counts) > MAX_WIDTH or max(counts) * x.width > 16 * MAX_WIDTH:
        raise e.corrupt("a column without bins, or too many", "bin_edges_", counts)
    table = np.full((x.width, max(max(counts) - 1, 1)), np.nan)
    for row, own in zip(table, edges, strict=True):
        row[: len(own) - 2] = own[1:-1]
    value = build.op("Unsqueeze", x.numbers(), [2])
    passed = build.cast(build.op("GreaterOrEqual", value, table), "DOUBLE")
    index = build.sum(passed, axis=2)
    if e.choice("encode", ("onehot", "onehot-dense", "ordinal"), "onehot") == "ordinal":
        return _made(build, index, x.width)
    numbers = np.concatenate([np.arange(n, dtype=np.float64) for n in counts])
    owners = np.repeat(np.arange(x.width), counts)
    hits = build.op("Equal", build.op("Gather", index, owners, axis=1), numbers)
    return _made(build, build.cast(hits, "DOUBLE"), len(numbers))


def power_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """Yeo-Johnson or Box-Cox with a power for each column, then standardized on request."""
    powers = e.array("lambdas_", x.width)
    value = x.numbers()
    if e.choice("method", ("yeo-johnson", "box-cox"), "yeo-johnson") == "box-cox":
        value = _power(build, value, build.op("Log", value), powers)
    else:
        up = build.op("Max", value, 0.0)
        down = build.op("Max", build.op("Neg", value), 0.0)
        raised, lowered = build.op("Add", up, 1.0), build.op("Add", down, 1.0)
        above = _power(build, raised, build.op("Log", raised), powers)
        below = build.op("Neg", _power(build, lowered, build.op("Log", lowered), 2.0 - powers))
        chosen = build.op("Where", build.op("GreaterOrEqual", value, 0.0), above, below)
        value = build.op("Where", build.op("IsNaN", value), value, chosen)
    made = _made(build, value, x.width)
    if not e.flag("standardize", True):
        return made
    return build.transform(e.inner("_scaler"), e.at("_scaler"), made)


def _power(build: Build, value: str, log: str, powers: Array) -> str:
    """(value^p - 1) / p, which is the logarithm at p = 0."""
    zero = np.abs(powers) < np.finfo(np.float64).eps
    safe = np.where(zero, 1.0, powers)
    raised = build.op("Div", build.op("Sub", build.op("Pow", value, safe), 1.0), safe)
    return build.op("Where", zero, log, raised) if zero.any() else raised


def _applied(op: str, build: Build, x: str) -> str:
    return build.op(op, x)


_PLAIN = {"log": "Log", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs", "absolute": "Abs"}
_UFUNC_MODULES = ("numpy.core._multiarray_umath", "numpy._core._multiarray_umath")
_FUNCTIONS: dict[str, Any] = {
    "log1p": lambda build, x: build.op("Log", build.op("Add", x, 1.0)),
    "expm1": lambda build, x: build.op("Sub", build.op("Exp", x), 1.0),
    "square": lambda build, x: build.op("Mul", x, x),
    **{name: partial(_applied, op) for name, op in _PLAIN.items()},
}


def named_function(e: Fields, key: str) -> Any:
    """What a parameter that names a function of NumPy does to a value; None where it names none."""
    function = e.get(key)
    if function is None or _is_check(function):
        return None
    package, _, name = str(function).rpartition(".")
    if package not in ("numpy", *_UFUNC_MODULES) or name not in _FUNCTIONS or e.get("kw_args"):
        allowed = ("None", *(f"numpy.{name}" for name in _FUNCTIONS))
        raise e.refused("a function is code, and is not converted", key, function, allowed)
    return _FUNCTIONS[name]


def _is_check(function: Any) -> bool:
    """True for what histogram-based trees put in the place of a function: a check of their input."""
    known = isinstance(function, Record) and function.type == "functools.partial"
    return known and function.args[:1] == ("sklearn.utils.validation.check_array",)


def function_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """Nothing, or one of a few functions of NumPy; those of users are code."""
    function = named_function(e, "func")
    return x if function is None else _made(build, function(build, x.numbers()), x.width)


TRANSFORMERS = {
    "StandardScaler": standard_scaler,
    "RobustScaler": robust_scaler,
    "MinMaxScaler": min_max_scaler,
    "MaxAbsScaler": max_abs_scaler,
    "Normalizer": normalizer,
    "Binarizer": binarizer,
    "PolynomialFeatures": polynomial_features,
    "KBinsDiscretizer": bins,
    "PowerTransformer": power_transformer,
    "FunctionTransformer": function_transformer,
}
