"""Rotary positions as nodes of OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node


def rope_table(low: Lowering, node: Node) -> None:
    """position [batch, sequence] times frequency [rotated / 2], twice: [batch, 1, sequence, rotated]."""
    positions, frequencies, *long = node.inputs
    cos, sin = node.outputs
    base = cos.removesuffix("/cos_out")
    if long:
        largest = low.op("ReduceMax", [positions, low.integers(0, 1)], f"{base}/largest", keep_dims=False)
        beyond = low.op("GreaterEqual", [largest, low.integer(node.get("original"))], f"{base}/beyond")
        frequencies = low.op("Select", [beyond, long[0], frequencies], f"{base}/chosen")
    real = low.cast(positions, "FLOAT", f"{base}/positions")
    column = low.unsqueeze(real, f"{base}/column", 1, 3)
    angles = low.op("Multiply", [column, frequencies], f"{base}/angles")
    scale = node.get("scale")
    for op, name in (("Cos", cos), ("Sin", sin)):
        made = low.op(op, [angles], f"{name}/half")
        if scale != 1.0:
            made = low.op("Multiply", [made, low.scalar(scale)], f"{name}/scaled")
        low.op("Concat", [made, made], name, axis=-1)


def rope(low: Lowering, node: Node) -> None:
    x, cos, sin = node.inputs
    name, rotated = node.outputs[0], node.get("rotated")
    whole = low.turn(x, node.get("heads"))
    size = low.width(whole)
    low.turned[name] = name
    if rotated == size:
        _rotate(low, whole, (cos, sin), name, node)
        return
    sizes = low.integers(rotated, size - rotated)
    names = (f"{name}/first", f"{name}/rest")
    first, rest = low.ops("VariadicSplit", [whole, low.integer(3), sizes], names)
    made = _rotate(low, first, (cos, sin), f"{name}/rotated", node)
    low.op("Concat", [made, rest], name, axis=-1)


def _rotate(low: Lowering, x: str, tables: Sequence[str], name: str, node: Node) -> str:
    """x * cos + (the halves of x, the second negated, exchanged) * sin; neighbours instead of halves where they are
    pairs."""
    half = node.get("rotated") // 2
    cos, sin = tables
    if node.get("interleaved"):
        x = _halves(low, x, half, f"{name}/halves")
    axis, sizes = low.integer(3), low.integers(half, half)
    one, two = low.ops("VariadicSplit", [x, axis, sizes], (f"{name}/one", f"{name}/two"))
    negated = low.op("Multiply", [two, low.scalar(-1.0)], f"{name}/negated")
    exchanged = low.op("Concat", [negated, one], f"{name}/exchanged", axis=-1)
    straight = low.op("Multiply", [x, cos], f"{name}/cos")
    across = low.op("Multiply", [exchanged, sin], f"{name}/sin")
    if not node.get("interleaved"):
        return low.op("Add", [straight, across], name)
    made = low.op("Add", [straight, across], f"{name}/sum")
    return _pairs(low, made, half, name)


def _halves(low: Lowering, x: str, half: int, name: str) -> str:
    """Elements 0, 2, .. of each head, then 1, 3, .."""
    order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2)]
    return low.op("Gather", [x, low.integers(*order), low.integer(3)], name)


def _pairs(low: Lowering, x: str, half: int, name: str) -> str:
    """What `_halves` has taken apart, together again."""
    order = [place for pair in zip(range(half), range(half, 2 * half), strict=True) for place in pair]
    return low.op("Gather", [x, low.integers(*order), low.integer(3)], name)
