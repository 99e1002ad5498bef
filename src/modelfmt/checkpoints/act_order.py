"""Act-order in schemes that have none: the columns of a down projection in the order of their groups, where the layer
before it can follow.

GPTQ with desc_act gives each column a group of its own choosing (g_idx). Where only gate and up come before down, one
number for each of its columns, their rows can stand in any order as long as down's columns stand in the same: the
network computes the same sums, of the same products. All other matrices read the residual stream or the heads, whose
order other matrices share: their codes cannot follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from modelfmt.ir.ops import Coded, Expression, GroupOrder, Reshape
from modelfmt.report import Note

__all__ = ["folded", "in_storage_order"]

_DOWN, _BEFORE = "down_proj", ("gate_proj", "up_proj")


def folded(tensors: Mapping[str, Expression]) -> tuple[dict[str, Expression], list[Note]]:
    """The tensors with every down projection that can be in the order of its groups, and what is to be said of it."""
    found = dict(tensors)
    names = [name for name in tensors if name.endswith(f".{_DOWN}.weight")]
    count = sum(_fold(found, name.removesuffix(f"{_DOWN}.weight")) for name in names)
    detail = f"{count} down projections have their columns in the order of groups; the rows of gate and up follow"
    return found, [Note("act-order", detail)] if count else []


def _fold(tensors: dict[str, Expression], home: str) -> bool:
    down = tensors[f"{home}{_DOWN}.weight"]
    if not isinstance(down, Coded) or down.index is None or down.sorted:
        return False
    own = [name for name in tensors if name.startswith(home)]
    parts = {f"{home}{module}.{part}" for module in (*_BEFORE, _DOWN) for part in ("weight", "bias")}
    before = [name for name in own if not name.startswith(f"{home}{_DOWN}.")]
    n = down.shape[-1]
    if not before or any(name not in parts or tensors[name].shape[0] != n for name in before):
        return False
    for name in before:
        expr = tensors[name]
        column = expr if len(expr.shape) > 1 else Reshape(expr, (n, 1))
        tensors[name] = Reshape(GroupOrder(column, down.index), expr.shape)
    tensors[f"{home}{_DOWN}.weight"] = msgspec.structs.replace(down, group=down.scales[0].group, sorted=True)
    return True


def in_storage_order(expr: Expression) -> tuple[Expression, Expression | None]:
    """A grid as its codes and parameters lie, and the group of each column, [1, columns], where these are not in
    order."""
    if not isinstance(expr, Coded) or expr.index is None or expr.sorted:
        return expr, None
    return msgspec.structs.replace(expr, group=expr.scales[0].group, index=None), expr.index
