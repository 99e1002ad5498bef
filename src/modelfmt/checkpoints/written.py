"""What the conventions that are written share: a grid as parts of a module, and how exactly they hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt import grids
from modelfmt.ir import grid
from modelfmt.ir.ops import Expression, Numbers
from modelfmt.quant.transcode import Verdict

__all__ = ["LEAST", "Written", "group_of", "numbers"]

LEAST = 16
"""Columns of the smallest group that a folder is written with."""


@dataclass(frozen=True)
class Written:
    """parts: suffix of the module's name -> expression. settings: what the configuration says of it. bits: stored bits
    for each weight, parameters included."""

    parts: Mapping[str, Expression]
    verdict: Verdict
    settings: Mapping[str, Any] = field(default_factory=dict)
    bits: float = 0.0


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
