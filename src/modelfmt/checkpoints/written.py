"""What the conventions that are written share: a grid as parts of a module, and how exactly they hold it; and how they
quantize weights that lie on no grid yet."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import msgspec

from modelfmt import grids
from modelfmt.ir import grid
from modelfmt.ir.ops import Cast, Dequantize, Expression, Numbers, Reader, Reshape, Transpose, geometry, nearest
from modelfmt.quant.transcode import Verdict

__all__ = ["LEAST", "Form", "Written", "group_of", "largest", "numbers", "on_grid"]

LEAST = 16
"""Columns of the smallest group that a folder is written with."""


class Written(msgspec.Struct, frozen=True):
    """parts: suffix of the module's name -> expression. settings: what the configuration says of it. bits: stored bits
    for each weight, parameters included. note: what is to be said of all that have this form."""

    parts: Mapping[str, Expression]
    verdict: Verdict
    settings: Mapping[str, Any] = msgspec.field(default_factory=dict)
    bits: float = 0.0
    note: str = ""


class Form(msgspec.Struct, frozen=True):
    """What a scheme makes of weights that are not quantized: each value to the nearest code, without calibration.

    how: a row of modelfmt.ir.to_grid.RULES, or a GGUF type with the same codes. size: columns that share a scale
    (0: the row), rows: neighbouring rows that do. scale: the type of scales, "" for that of the weights. flat: groups
    run over the rows' ends. turned: of tensors [.., in, out]. fixed: no smaller groups where these do not divide rows.
    """

    how: str
    table: str
    size: int
    scale: str = "F16"
    rows: int = 1
    flat: bool = False
    turned: bool = False
    fixed: bool = False

    def divides(self, shape: tuple[int, ...], size: int) -> bool:
        """Whether a tensor of this shape falls into groups of `size`."""
        whole = prod(shape) if self.flat else shape[-2 if self.turned else -1]
        return self.rows > 1 or size == 0 or whole % size == 0


def on_grid(expr: Expression, form: Form, size: int) -> Expression:
    """A dense tensor as one of a grid in groups of `size` columns (0: rows)."""
    own = Dequantize(expr) if not expr.stored.dense else expr
    scale = form.scale or (own.stored.name if own.stored.name in ("F16", "BF16") else "F32")
    if form.turned:
        own = Transpose(own)
    if grids.source(form.how):
        return grids.regridded(Cast(own, form.how))
    if form.flat:
        own = Reshape(own, (prod(own.shape) // size, size))
    return nearest(own, form.how, form.table, size or own.shape[-1], scale, rows=form.rows)


def largest(expr: Expression, reader: Reader) -> float:
    """The largest magnitude of dense values, all of which are read. Raises BadValue (not-finite)."""
    import numpy as np

    n_rows, n_cols = geometry(expr.shape, expr.stored)
    step, found = max(1, (1 << 20) // n_cols), 0.0
    rows = grids.records_of(nearest(expr, "nf4", "NF4", n_cols, "F32"))  # whose scales these are
    for start in range(0, n_rows, step):
        records = reader.rows(rows, start, min(start + step, n_rows)).view(np.float64)
        found = max(found, float(records[:, 0].max()))
    return found


def group_of(expr: Expression, sizes: tuple[int, ...]) -> int | None:
    """The largest of some group sizes that divides the grid's."""
    own = grid.parse(expr.stored.name)
    return next((size for size in sorted(sizes, reverse=True) if own.group % size == 0), None)


def numbers(expr: Expression, what: str, encoding: str, group: int, **how: Any) -> Numbers:
    """The scales, zeros or offsets of a grid for groups of `group` columns: [.., rows, groups], or turned."""
    records = grids.records_of(expr)
    own = grid.parse(records.stored.name)
    *outer, n_rows, n_cols = expr.shape
    if group < own.group:
        records = grids.restricted(records, 0, n_cols, group)
    shape = (n_cols // group, n_rows) if how.get("turned") else (*outer, n_rows, n_cols // group)
    return Numbers(records, what, encoding, how.pop("shape", shape), group=group, **how)
