"""Norms, activations and arithmetic as nodes of OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node


def elementwise(op: str) -> Callable[[Lowering, Node], None]:
    def lowered(low: Lowering, node: Node) -> None:
        low.op(op, node.inputs, node.outputs[0])

    return lowered


def identity(low: Lowering, node: Node) -> None:
    """The same under another name, which the output has."""
    shape = low.value(node.inputs[0]).shape
    assert shape is not None
    low.op("Reshape", [node.inputs[0], low.integers(*[0] * len(shape))], node.outputs[0])


def rms_norm(low: Lowering, node: Node) -> None:
    x, weight = node.inputs
    name, heads = node.outputs[0], node.get("heads")
    if heads is not None:
        x = low.heads(x, heads)
        low.apart[name] = name
    square = low.op("Power", [x, low.scalar(2.0)], f"{name}/square")
    mean = low.op("ReduceMean", [square, low.integers(-1)], f"{name}/mean", keep_dims=True)
    added = low.op("Add", [mean, low.scalar(node.get("epsilon"))], f"{name}/mean_epsilon")
    root = low.op("Sqrt", [added], f"{name}/root")
    inverse = low.op("Divide", [low.scalar(1.0), root], f"{name}/inverse")
    normed = low.op("Multiply", [x, inverse], f"{name}/normed")
    low.op("Multiply", [weight, normed], name)


def layer_norm(low: Lowering, node: Node) -> None:
    x, weight, *bias = node.inputs
    name = node.outputs[0]
    inside = {"eps": node.get("epsilon"), "normalize_variance": True, "eps_mode": "INSIDE_SQRT"}
    normed = low.op("MVN", [x, low.integers(-1)], f"{name}/normed", **inside)
    scaled = f"{name}/scaled" if bias else name
    low.op("Multiply", [normed, weight], scaled)
    if bias:
        low.op("Add", [scaled, bias[0]], name)


def scale(low: Lowering, node: Node) -> None:
    low.op("Multiply", [node.inputs[0], low.scalar(node.get("factor"))], node.outputs[0])


def softcap(low: Lowering, node: Node) -> None:
    cap(low, node.inputs[0], node.get("cap"), node.outputs[0])


def cap(low: Lowering, x: str, cap: float, name: str) -> str:
    part = low.op("Divide", [x, low.scalar(cap)], f"{name}/divided")
    bounded = low.op("Tanh", [part], f"{name}/bounded")
    return low.op("Multiply", [bounded, low.scalar(cap)], name)


def activation(low: Lowering, node: Node) -> None:
    activate(low, node.get("kind").decode(), node.inputs[0], node.outputs[0])


_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "silu": ("Swish", {}),
    "gelu": ("Gelu", {"approximation_mode": "ERF"}),
    "gelu_tanh": ("Gelu", {"approximation_mode": "TANH"}),
    "relu": ("ReLU", {}),
    "relu2": ("ReLU", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
}


def activate(low: Lowering, kind: str, x: str, name: str) -> str:
    """Nodes for an activation of a value."""
    if kind == "quick_gelu":
        return low.op("Swish", [x, low.scalar(1.702)], name)
    op, attributes = _ACTIVATIONS[kind]
    if kind != "relu2":
        return low.op(op, [x], name, **attributes)
    part = low.op(op, [x], f"{name}/relu")
    return low.op("Multiply", [part, part], name)


def split(low: Lowering, node: Node) -> None:
    inputs = [node.inputs[0], low.integer(-1), low.integers(*node.get("sizes"))]
    low.ops("VariadicSplit", inputs, node.outputs)
