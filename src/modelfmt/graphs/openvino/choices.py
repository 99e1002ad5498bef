"""Branches of decoders that have seen tokens before, or not. A model with a state needs none: its caches are empty at
first, and keys and values of the encoder's states are made where the state has none of them yet.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.openvino.lowering import Lowering, State
from modelfmt.ir.graph import Graph, Node


def choice(low: Lowering, node: Node, lower: Callable[[Lowering, Node], None]) -> None:
    """The one branch of an If that is right with a state. lower: lowers a node."""
    cached, first = node.get("then_branch"), node.get("else_branch")
    made = {each.op: each for each in first.nodes}
    if "EmptyCache" in made:
        _own(low, node, cached, made["EmptyCache"])
    elif "CrossAttention" in made:
        _crossed(low, node, first, lower)
    else:
        raise UnsupportedError("no such choice is lowered", code="lowering", found=", ".join(made))


def _own(low: Lowering, node: Node, cached: Graph, empty: Node) -> None:
    """Keys and values of the tokens before: those of the state, whose first are empty."""
    for name, each in zip(node.outputs, cached.nodes, strict=True):
        low.past[name] = State(low.past[each.inputs[0]].variable, empty.get("heads"), empty.get("size"))


def _crossed(low: Lowering, node: Node, first: Graph, lower: Callable[[Lowering, Node], None]) -> None:
    """Keys and values of the encoder's states: made once, where the state is reset."""
    kept = {name.name: out for name, out in zip(first.outputs, node.outputs, strict=True)}
    for each in first.nodes:
        (name,) = each.outputs
        if name not in kept:
            lower(low, each)
        elif each.op == "CrossAttention":
            lower(low, msgspec.structs.replace(each, outputs=[kept[name]]))
        else:
            lower(low, msgspec.structs.replace(each, outputs=[f"{name}/made"]))
            _keep(low, f"{name}/made", name, kept[name])


def _keep(low: Lowering, value: str, name: str, present: str) -> None:
    """A value that a state begins with and keeps."""
    variable = f"{present.replace('present', 'past_key_values')}{present}"
    shape = low.value(value).shape
    kept = {"variable_id": variable, "variable_type": "FLOAT", "variable_shape": shape}
    low.op("ReadValue", [value], name, **kept)
    low.op("Assign", [name], f"{name}/assign", variable_id=variable)
