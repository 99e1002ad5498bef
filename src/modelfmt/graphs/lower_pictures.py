"""What pictures and sounds need, in standard nodes: convolutions, patches as a sequence, one vector of it."""

from __future__ import annotations

from modelfmt.graphs.lowering import Lowering, Table, activate
from modelfmt.ir.graph import Node

__all__ = ["LOWERINGS"]


def _convolution(low: Lowering, node: Node) -> None:
    """[batch, channels, length] or [batch, channels, height, width], and an activation where there is one."""
    name, kind = node.outputs[0], node.get("activation")
    shape = {"strides": node.get("strides"), "pads": node.get("pads")}
    made = low.op("Conv", node.inputs, f"{name}/plain" if kind else name, **shape)
    if kind:
        activate(low, kind.decode(), made, name)


def _channels_last(low: Lowering, node: Node) -> None:
    """Places in their order, each with its channels: [batch, places, channels]."""
    name, width = node.outputs[0], node.get("width")
    merged = low.op("Reshape", [node.inputs[0], low.integers("/shape/places", [0, width, -1])], f"{name}/places")
    low.made_sequence(low.op("Transpose", [merged], name, perm=[0, 2, 1]), width)


def _prepend_token(low: Lowering, node: Node) -> None:
    """A learned token before the first."""
    x, token = node.inputs
    name, width = node.outputs[0], node.get("width")
    sequence = low.sequence(x)
    batch = low.op("Shape", [sequence], f"{name}/batch", start=0, end=1)
    shape = low.op("Concat", [batch, low.integers("/shape/token", [1, width])], f"{name}/shape", axis=0)
    first = low.op(
        "Expand",
        [low.op("Reshape", [token, low.integers("/shape/one", [1, 1, width])], f"{name}/one"), shape],
        f"{name}/first",
    )
    low.made_sequence(low.op("Concat", [first, sequence], name, axis=1), width)


def _add_rows(low: Lowering, node: Node) -> None:
    """A table with a row for each place added to each text or picture."""
    x, table = node.inputs
    low.made_sequence(low.op("Add", [low.sequence(x), table], node.outputs[0]), node.get("width"))


def _first_token(low: Lowering, node: Node) -> None:
    """[batch, width]."""
    import numpy as np

    zero = low.constant("/zero", np.array(0, np.int64))
    low.op("Gather", [low.sequence(node.inputs[0]), zero], low.result(node), axis=1)


def _end_token(low: Lowering, node: Node) -> None:
    """[batch, width] of the first token with the number `end`; without one, of that with the largest number."""
    import numpy as np

    x, ids = node.inputs
    name, end = node.outputs[0], node.get("end")
    if end is not None:
        alike = low.op("Equal", [ids, low.constant(f"{name}/number", np.array(end, np.int64))], f"{name}/alike")
        ids = low.op("Cast", [alike], f"{name}/found", to=6)
    place = low.op("ArgMax", [ids], f"{name}/place", axis=1, keepdims=1)
    low.op("GatherND", [low.sequence(x), place], low.result(node), batch_dims=1)


def _unit(low: Lowering, node: Node) -> None:
    """Each row divided by its length."""
    x, name = low.hidden(node.inputs[0]), node.outputs[0]
    length = low.op("ReduceL2", [x, low.integers("/axes", [-1])], f"{name}/length")
    low.op("Div", [x, length], low.result(node))


def _similarity(low: Lowering, node: Node) -> None:
    """The products of all rows of one with all of another, times the exponential of a number; and turned."""
    a, b, scale = node.inputs
    name, turned = node.outputs
    product = low.op("Gemm", [low.hidden(a), low.hidden(b)], f"{name}/plain", transB=1)
    low.op("Mul", [product, low.op("Exp", [scale], f"{name}/scale")], name)
    low.op("Transpose", [name], turned, perm=[1, 0])


LOWERINGS: Table = {
    "AddRows": _add_rows,
    "ChannelsLast": _channels_last,
    "Convolution": _convolution,
    "EndToken": _end_token,
    "FirstToken": _first_token,
    "PrependToken": _prepend_token,
    "Similarity": _similarity,
    "Unit": _unit,
}
