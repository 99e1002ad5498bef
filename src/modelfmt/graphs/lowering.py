"""Standard nodes under construction: what every lowering to ONNX stands on.

Hidden states become [batch * sequence, width] on the way, so that a weight stays [out, in] as the checkpoint has it
and a linear layer is one Gemm; values are given back their sequence where an operator needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs import passes
from modelfmt.graphs.builder import STRUCTURAL, Builder, Form
from modelfmt.ir.graph import Graph, GraphTensor, Node, Program, Value
from modelfmt.ir.ops import Numbers, Packed

__all__ = ["IR_VERSION", "LOWEST", "MICROSOFT", "OPSET", "Lowering", "Table", "activate", "nbits", "width_of"]

OPSET, IR_VERSION = 23, 11
MICROSOFT = "com.microsoft"

LOWEST = {"FLOAT": -3.4028234663852886e38, "FLOAT16": -32752.0}
"""What is added to the score of a token that must not be seen: no infinity, since rows may have nothing else."""


class Lowering(Builder):
    """Standard nodes under construction. Values of the structural graph keep their names; `flat` has the name of each
    as [tokens, width], `sequences` as [batch, sequence, width], `origins` a value whose first two axes are its batch
    and sequence, `widths` the width of those that are sequences first; `makers` the structural node that makes it."""

    def __init__(self, source: Graph, form: Form, table: Table) -> None:
        super().__init__(source.name, form)
        self.source, self.table = source, table
        self.makers = {name: node for node in source.nodes for name in node.outputs}
        self.graph.inputs, self.graph.outputs = source.inputs, source.outputs
        self.graph.tensors = dict(source.tensors)
        self.flat: dict[str, str] = {}
        self.sequences: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.widths: dict[str, int] = {}
        self.wanted = {value.name for value in source.outputs}
        for value in source.inputs:
            if value.role == "hidden":
                self.made_sequence(value.name, width_of(value))

    def inner(self, graph: Graph) -> Lowering:
        """A lowering of a graph inside of a node: it sees what is here, and its constants are constants here."""
        made = Lowering(graph, self.form, self.table)
        made.graph.tensors, made.made = self.graph.tensors, set(self.made)
        made.flat, made.sequences = dict(self.flat), dict(self.sequences)
        made.origins, made.widths = dict(self.origins), dict(self.widths)
        return made

    def run(self) -> Program:
        """The program of the whole graph. Raises UnsupportedError."""
        for node in self.source.nodes:
            if node.domain not in (STRUCTURAL, ""):
                raise UnsupportedError("a node of a domain that is not lowered", code="lowering", found=node.domain)
            self.add(node)
        self.finish()
        domains = {node.domain for graph in _graphs(self.graph) for node in graph.nodes} - {""}
        opsets = {"": OPSET} | dict.fromkeys(sorted(domains), 1)
        program = Program(self.graph, opsets, ir_version=IR_VERSION, producer="modelfmt")
        passes.merge_constants(program)
        passes.remove_unused(program)
        return program

    def add(self, node: Node) -> None:
        """Lower one node. What it makes has the batch and the sequence of its first input."""
        self.lower(node)
        for name in node.outputs:
            self.origins.setdefault(name, self.origin(node.inputs[0]))

    def lower(self, node: Node) -> None:
        """The nodes for one node."""
        if node.op in self.table:
            self.table[node.op](self, node)
        elif node.domain == "":
            _elementwise(self, node)
        else:
            raise UnsupportedError("no such structural operation", code="lowering", found=node.op)

    def finish(self) -> None:
        """Give outputs that are hidden states their sequence; those of two axes are one vector for each text."""
        for value in self.graph.outputs:
            flat = self.flat.get(value.name, value.name)
            if flat == value.name:
                continue
            if len(value.shape or ()) == 2:
                self.op("Identity", [flat], value.name)
            else:
                self.op("Reshape", [flat, self.sequence_shape(self.origin(value.name))], value.name)

    def op(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A standard node with one output."""
        return self.node(op, inputs, name, domain="", **attributes)

    def hidden(self, name: str) -> str:
        """A hidden state as [tokens, width]."""
        if name not in self.flat:
            shape = self.integers("/shape/width", [-1, self.widths[name]])
            self.flat[name] = self.op("Reshape", [self.sequences[name], shape], self.fresh(f"{name}/flat"))
        return self.flat[name]

    def origin(self, name: str) -> str:
        """The value whose first two axes are the batch and the sequence of another one."""
        return self.origins.get(name, name)

    def made_sequence(self, name: str, width: int) -> str:
        """Take a value for a hidden state that is [batch, sequence, width]; returns its name."""
        self.sequences[name], self.origins[name], self.widths[name] = name, name, width
        return name

    def sequence(self, name: str) -> str:
        """A hidden state as [batch, sequence, width]."""
        if name not in self.sequences:
            shape = self.sequence_shape(self.origin(name))
            self.sequences[name] = self.op("Reshape", [self.hidden(name), shape], self.fresh(f"{name}/sequence"))
        return self.sequences[name]

    def result(self, node: Node) -> str:
        """The name of what a node makes, as [tokens, width]."""
        name = node.outputs[0]
        made = f"{name}/flat" if name in self.wanted else name
        self.flat[name] = made
        return made

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant of integers."""
        import numpy as np

        return self.constant(f"{name} {list(values)}", np.array(values, np.int64))

    def tokens(self, ids: str) -> str:
        """Ids [batch, sequence] in one row."""
        name = f"/shape/{ids}_flat"
        return self.once(name, lambda: self.op("Reshape", [ids, self.integers("/shape/all", [-1])], name))

    def integer(self, name: str, shape: tuple[int, ...], bits: int, *, signed: bool) -> str:
        """Packed codes or zero points as a constant of integers, instead of bytes. signed: codes with a zero in the
        middle of their range as numbers around 0."""
        own = f"{name.removesuffix('_codes')}_quantized"
        if own not in self.graph.tensors:
            expr = self.graph.tensors[name].data
            assert isinstance(expr, Packed | Numbers)
            if signed and isinstance(expr, Packed):
                packing = msgspec.structs.replace(expr.packing, flip=1 << (bits - 1))
                expr = msgspec.structs.replace(expr, packing=packing)
            self.graph.tensors[own] = GraphTensor(own, f"{'' if signed else 'U'}INT{bits}", shape, expr)
        return own

    def types(self, names: Sequence[str]) -> tuple[str, ...]:
        """Types of constants, empty for one that is not there."""
        return tuple(self.graph.tensors[name].type if name else "" for name in names)

    def scalar(self, value: float) -> str:
        """A constant number in the graph's type."""
        import numpy as np

        dtype = np.float16 if self.float_type == "FLOAT16" else np.float32
        return self.constant(f"/number {value!r}", np.array(value, dtype))

    def once(self, name: str, make: Callable[[], object]) -> str:
        """The value called `name`, made where it is not there yet."""
        if name not in self.made:
            make()
        return name

    def sequence_shape(self, origin: str) -> str:
        """[batch, sequence, -1], as another value has them."""
        name = f"/shape/{origin.strip('/')}/sequence_out"

        def make() -> None:
            shape = self.op("Shape", [origin], f"{name}/known", start=0, end=2)
            self.op("Concat", [shape, self.integers("/shape/rest", [-1])], name, axis=0)

        return self.once(name, make)


def _graphs(graph: Graph) -> list[Graph]:
    inner = [attribute.value for node in graph.nodes for attribute in node.attributes.values()]
    return [graph, *(found for one in inner if isinstance(one, Graph) for found in _graphs(one))]


def _elementwise(low: Lowering, node: Node) -> None:
    """A standard node over hidden states."""
    if node.op == "Identity" and node.inputs[0] not in low.flat and node.inputs[0] not in low.sequences:
        low.op(node.op, node.inputs, node.outputs[0])
        return
    inputs = [low.hidden(name) for name in node.inputs]
    if node.op == "Identity":
        low.flat[node.outputs[0]] = inputs[0]
        return
    low.op(node.op, inputs, low.result(node), **node.attributes)


def width_of(value: Value) -> int:
    """The width of a hidden state."""
    width = (value.shape or (None,))[-1]
    assert isinstance(width, int)
    return width


def activate(low: Lowering, kind: str, x: str, name: str) -> str:
    """Nodes for an activation of a value."""
    if kind == "silu":
        return low.op("Mul", [x, low.op("Sigmoid", [x], f"{name}/sigmoid")], name)
    if kind in ("gelu", "gelu_tanh"):
        return low.op("Gelu", [x], name, approximate="tanh" if kind == "gelu_tanh" else None)
    if kind == "relu2":
        part = low.op("Relu", [x], f"{name}/relu")
        return low.op("Mul", [part, part], name)
    if kind == "quick_gelu":
        wide = low.op("Mul", [x, low.scalar(1.702)], f"{name}/wide")
        return low.op("Mul", [x, low.op("Sigmoid", [wide], f"{name}/sigmoid")], name)
    return low.op({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[kind], [x], name)


def nbits(low: Lowering, shape: tuple[int, int], bits: int, block: int) -> dict[str, int]:
    """Attributes of MatMulNBits. shape: [out, in]."""
    n, k = shape
    return {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": low.form.accuracy_level}


Table = Mapping[str, Callable[[Lowering, Node], None]]
"""Structural operation -> what lowers it."""
