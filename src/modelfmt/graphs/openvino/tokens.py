"""Positions of tokens, and one vector for each text, as nodes of OpenVINO."""

from __future__ import annotations

from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node


def positions(low: Lowering, node: Node) -> None:
    """0, 1, .. for each text, behind the cache where there is one; with padding: counted over the tokens that are not
    this one."""
    ids, *past = node.inputs
    name, padding = node.outputs[0], node.get("padding")
    if padding is None:
        row = low.unsqueeze(low.row_numbers(ids, "".join(past))[0], f"{name}/rows", 0)
        low.op("Add", [row, _zeros(low, ids)], name)
        return
    real = low.op("NotEqual", [ids, low.integer(padding)], f"{name}/unlike")
    _count(low, low.cast(real, "INT64", f"{name}/real"), name)


def mask_positions(low: Lowering, node: Node) -> None:
    """Positions counted over the tokens that a mask shows; 0 before them."""
    _count(low, node.inputs[0], node.outputs[0])


def _count(low: Lowering, ones: str, name: str) -> None:
    """How many ones lie before each, at least 0."""
    count = low.op("CumSum", [ones, low.integer(1)], f"{name}/count")
    before = low.op("Subtract", [count, low.integer(1)], f"{name}/before")
    low.op("Maximum", [before, low.integer(0)], name)


def _zeros(low: Lowering, ids: str) -> str:
    name = f"/zeros/{ids}"
    return low.once(name, lambda: low.op("Subtract", [ids, ids], name))


def zero_ids(low: Lowering, node: Node) -> None:
    low.op("Subtract", [node.inputs[0], node.inputs[0]], node.outputs[0])


def pool(low: Lowering, node: Node) -> None:
    """One vector for each text."""
    states, mask = node.inputs
    name, unit = node.outputs[0], bool(node.get("normalised"))
    made = _POOLINGS[node.get("kind").decode()](low, states, mask, f"{name}/pooled" if unit else name)
    if unit:
        length = low.op("ReduceL2", [made, low.integers(-1)], f"{name}/norm", keep_dims=True)
        low.op("Divide", [made, low.op("Maximum", [length, low.scalar(1e-12)], f"{name}/length")], name)


def _mean(low: Lowering, states: str, mask: str, name: str) -> str:
    seen = low.unsqueeze(low.cast(mask, "FLOAT", f"{name}/seen"), f"{name}/column", 2)
    kept = low.op("Multiply", [states, seen], f"{name}/kept")
    total = low.op("ReduceSum", [kept, low.integers(1)], f"{name}/total", keep_dims=False)
    count = low.op("ReduceSum", [seen, low.integers(1)], f"{name}/count", keep_dims=False)
    return low.op("Divide", [total, low.op("Maximum", [count, low.scalar(1e-9)], f"{name}/counted")], name)


def _first(low: Lowering, states: str, _: str, name: str) -> str:
    return low.op("Gather", [states, low.integer(0), low.integer(1)], name)


def _last(low: Lowering, states: str, mask: str, name: str) -> str:
    """The last token that the mask shows, of each text."""
    seen = low.op("Multiply", [mask, low.row_numbers(mask, "")[0]], f"{name}/seen")
    last = low.op("ReduceMax", [seen, low.integers(1)], f"{name}/last", keep_dims=True)
    picked = low.op("Gather", [states, last, low.integer(1)], f"{name}/picked", batch_dims=1)
    return low.op("Squeeze", [picked, low.integers(1)], name)


_POOLINGS = {"mean": _mean, "cls": _first, "last": _last}
