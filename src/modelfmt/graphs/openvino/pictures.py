"""What pictures and sounds need, as nodes of OpenVINO: convolutions, patches as a sequence, one vector of it."""

from __future__ import annotations

from modelfmt.graphs.openvino.layers import activate
from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node


def convolution(low: Lowering, node: Node) -> None:
    """[batch, channels, length] or [batch, channels, height, width], and an activation where there is one."""
    x, weight, *bias = node.inputs
    name, kind, strides, pads = node.outputs[0], node.get("activation"), node.get("strides"), node.get("pads")
    n_axes = len(strides)
    shape = {"strides": strides, "pads_begin": pads[:n_axes], "pads_end": pads[n_axes:], "dilations": [1] * n_axes}
    plain = f"{name}/plain" if kind else name
    made = low.op("Convolution", [x, weight], f"{name}/product" if bias else plain, **shape)
    if bias:
        column = low.op("Reshape", [bias[0], low.integers(1, -1, *[1] * n_axes)], f"{name}/bias")
        made = low.op("Add", [made, column], plain)
    if kind:
        activate(low, kind.decode(), made, name)


def channels_last(low: Lowering, node: Node) -> None:
    """Places in their order, each with its channels: [batch, places, channels]."""
    name, width = node.outputs[0], node.get("width")
    merged = low.op("Reshape", [node.inputs[0], low.integers(0, width, -1)], f"{name}/places")
    low.op("Transpose", [merged, low.integers(0, 2, 1)], name)


def prepend_token(low: Lowering, node: Node) -> None:
    """A learned token before the first."""
    x, token = node.inputs
    name, width = node.outputs[0], node.get("width")
    one = low.op("Reshape", [token, low.integers(1, 1, width)], f"{name}/one")
    shape = low.joined([low.size(x, 0), low.integers(1, width)], f"{name}/shape")
    first = low.op("Broadcast", [one, shape], f"{name}/first", mode="numpy")
    low.op("Concat", [first, x], name, axis=1)


def add_rows(low: Lowering, node: Node) -> None:
    """A table with a row for each place added to each text or picture."""
    low.op("Add", node.inputs, node.outputs[0])


def first_token(low: Lowering, node: Node) -> None:
    """[batch, width]."""
    low.op("Gather", [node.inputs[0], low.integer(0), low.integer(1)], node.outputs[0])


def end_token(low: Lowering, node: Node) -> None:
    """[batch, width] of the first token with the number `end`; without one, of that with the largest number."""
    x, ids = node.inputs
    name, end = node.outputs[0], node.get("end")
    if end is not None:
        alike = low.op("Equal", [ids, low.integer(end)], f"{name}/alike")
        ids = low.cast(alike, "INT32", f"{name}/found")
    outputs = (f"{name}/largest", f"{name}/place")
    first = {"axis": 1, "mode": "max", "sort": "value", "index_element_type": "INT64", "stable": True}
    _, place = low.ops("TopK", [ids, low.integer(1)], outputs, **first)
    picked = low.op("Gather", [x, place, low.integer(1)], f"{name}/picked", batch_dims=1)
    low.op("Squeeze", [picked, low.integers(1)], name)


def unit(low: Lowering, node: Node) -> None:
    """Each row divided by its length."""
    x, name = node.inputs[0], node.outputs[0]
    low.op("Divide", [x, low.op("ReduceL2", [x, low.integers(-1)], f"{name}/length", keep_dims=True)], name)


def similarity(low: Lowering, node: Node) -> None:
    """The products of all rows of one with all of another, times the exponential of a number; and turned."""
    a, b, scale = node.inputs
    name, turned = node.outputs
    product = low.op("MatMul", [a, b], f"{name}/plain", transpose_b=True)
    low.op("Multiply", [product, low.op("Exp", [scale], f"{name}/scale")], name)
    low.op("Transpose", [name, low.integers(1, 0)], turned)
