"""Runs a program in NumPy, node by node: slow, and independent of every runtime.

Constants are read when a node needs them and let go when the node is done, so that memory is that of activations and
of the largest weight. Operators: `modelfmt.graphs.reference_ops.OPERATORS`, functions of the program, Constant, If and
Loop. Not here: training, sequences, random numbers, control flow over anything but tensors.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import numpy as np

from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.graphs.reference_ops import OPERATORS, Array, numpy_type
from modelfmt.ir.graph import ELEMENT_TYPES, Attribute, Function, Graph, GraphTensor, Node, Program, SparseTensor
from modelfmt.ir.ops import Reader, geometry

__all__ = ["run"]

Values = MutableMapping[str, Array]


def run(
    program: Program, inputs: Mapping[str, Array], reader: Reader, observe: Callable[[str, Array], None] | None = None
) -> dict[str, Array]:
    """The outputs of a program by name. inputs: arrays by name. reader: supplies the bytes of constants. observe: is
    told name and value of everything that a node makes.

    Raises UnsupportedError (an operator that is not in the table), CorruptFile (a value that nothing makes).

    >>> from modelfmt.ir.graph import Value
    >>> graph = Graph(nodes=[Node("Add", ["x", "x"], ["y"])], outputs=[Value("y")])
    >>> run(Program(graph), {"x": np.array([1.0])}, None)["y"]
    array([2.])
    """
    runner = _Runner(program, reader, observe)
    names = [value.name for value in program.graph.outputs]
    with np.errstate(all="ignore"):
        return dict(zip(names, runner.graph(program.graph, dict(inputs)), strict=True))


class _Runner:
    """One run of a program."""

    def __init__(self, program: Program, reader: Reader, observe: Callable[[str, Array], None] | None) -> None:
        self.reader, self.observe = reader, observe
        self.functions = {(f.domain, f.name, f.overload or ""): f for f in program.functions}

    def graph(self, graph: Graph, values: Values) -> list[Array]:
        """The outputs of a graph. values: its inputs, and what an inner graph sees of those around it."""
        if graph.sparse:
            raise UnsupportedError("a sparse constant", code="reference", found=graph.name)
        constants = {name: tensor for name, tensor in graph.tensors.items() if name not in values}
        for node in graph.nodes:
            self.node(node, values, constants)
        return [self.value(output.name, values, constants) for output in graph.outputs]

    def value(self, name: str, values: Mapping[str, Array], constants: Mapping[str, GraphTensor]) -> Array:
        if name in values:
            return values[name]
        if name in constants:
            return self.constant(constants[name])
        raise CorruptFile("a value that nothing makes", code="graph-value", place=name)

    def node(self, node: Node, values: Values, constants: Mapping[str, GraphTensor]) -> None:
        """Compute one node and keep its outputs."""
        inputs = [self.value(name, values, constants) if name else None for name in node.inputs]
        domain = "" if node.domain == "ai.onnx" else node.domain
        call = (node.domain, node.op, node.overload or "")
        if call in self.functions:
            found = self.function(self.functions[call], node, inputs)
        elif domain == "" and node.op in _CONTROL:
            found = _CONTROL[node.op](self, node, inputs, _Scope(self, values, constants))
        elif (domain, node.op) in OPERATORS:
            found = OPERATORS[domain, node.op](node, *inputs)
        else:
            raise UnsupportedError("an operator without a reference", code="reference", found=f"{domain}.{node.op}")
        outputs = found if isinstance(found, tuple | list) else (found,)
        for name, made in zip(node.outputs, outputs, strict=False):
            if name:
                values[name] = np.asarray(made)
                if self.observe is not None:
                    self.observe(name, values[name])

    def function(self, function: Function, node: Node, inputs: Sequence[Array]) -> list[Array]:
        """A call: the body with the attributes of the call in the places that refer to them."""
        values: Values = {
            name: value for name, value in zip(function.inputs, inputs, strict=False) if value is not None
        }
        given = {attribute.name: attribute for attribute in function.defaults} | node.attributes
        for inner in function.nodes:
            self.node(_bound(inner, given), values, {})
        return [values[name] for name in function.outputs]

    def constant(self, tensor: GraphTensor | SparseTensor) -> Array:
        """A constant as an array."""
        if isinstance(tensor, SparseTensor):
            raise UnsupportedError("a sparse constant", code="reference", found=tensor.values.name)
        if tensor.data is None:
            return np.array([text.decode() for text in tensor.texts], object).reshape(tensor.shape)
        n_rows = geometry(tensor.data.shape, tensor.data.stored)[0]
        kind = numpy_type(tensor.type)
        encoding = ELEMENT_TYPES[tensor.type].encoding
        stored = tensor.data.stored.name
        if stored != encoding and stored != "U8":  # a weight that is written in another type
            return self.reader.values(tensor.data, 0, n_rows).astype(kind).reshape(tensor.shape)
        rows = self.reader.rows(tensor.data, 0, n_rows)
        bits = ELEMENT_TYPES[tensor.type].bits
        if bits >= 8:
            return np.ascontiguousarray(rows).reshape(-1).view(kind).reshape(tensor.shape)
        codes = np.unpackbits(rows.reshape(-1), bitorder="little").reshape(-1, bits)[: int(np.prod(tensor.shape))]
        whole = np.packbits(codes, axis=1, bitorder="little").reshape(-1)
        if tensor.type.startswith("INT"):
            signed = (whole.astype(np.int8) << (8 - bits)) >> (8 - bits)
            return signed.astype(kind).reshape(tensor.shape)
        made = whole.astype(kind) if tensor.type.startswith("UINT") else whole.view(kind)
        return made.reshape(tensor.shape)


class _Scope:
    """What an inner graph sees."""

    def __init__(self, runner: _Runner, values: Values, constants: Mapping[str, GraphTensor]) -> None:
        self.runner = runner
        self.values = values
        self.constants = constants

    def run(self, graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
        around = {name: self.constants[name] for name in _needed(graph) if name in self.constants}
        own: Values = dict(inputs) | {name: self.runner.constant(t) for name, t in around.items() if name not in inputs}
        return self.runner.graph(graph, ChainMap(own, self.values))


def _needed(graph: Graph) -> set[str]:
    found = {name for node in graph.nodes for name in node.inputs} | {value.name for value in graph.outputs}
    inner = [one.value for node in graph.nodes for one in node.attributes.values() if one.kind == "GRAPH"]
    return found.union(*(_needed(one) for one in inner)) - set(graph.tensors)


def _bound(node: Node, given: Mapping[str, Attribute]) -> Node:
    """A node of a function, for one call."""
    attributes = {}
    for name, attribute in node.attributes.items():
        if attribute.reference is None:
            attributes[name] = attribute
        elif attribute.reference in given:
            attributes[name] = Attribute(name, attribute.kind, given[attribute.reference].value)
    return Node(node.op, node.inputs, node.outputs, attributes, node.domain, overload=node.overload)


_DEFAULTS = {"value_float": np.float32, "value_int": np.int64, "value_floats": np.float32, "value_ints": np.int64}


def _constant(runner: _Runner, node: Node, inputs: Sequence[Array], scope: _Scope) -> list[Array]:
    ((name, attribute),) = node.attributes.items()
    if name in ("value", "sparse_value"):
        return [runner.constant(attribute.value)]
    if name in _DEFAULTS:
        return [np.array(attribute.value, _DEFAULTS[name])]
    texts = attribute.value if isinstance(attribute.value, list) else [attribute.value]
    found = np.array([text.decode() for text in texts], object)
    return [found if isinstance(attribute.value, list) else found.reshape(())]


def _if(runner: _Runner, node: Node, inputs: Sequence[Array], scope: _Scope) -> list[Array]:
    return scope.run(node.get("then_branch" if bool(np.ravel(inputs[0])[0]) else "else_branch"), {})


def _loop(runner: _Runner, node: Node, inputs: Sequence[Array], scope: _Scope) -> list[Array]:
    trips, go, *carried = inputs
    body: Graph = node.get("body")
    names = [value.name for value in body.inputs]
    limit = None if trips is None else int(np.ravel(trips)[0])
    going, turn = True if go is None else bool(np.ravel(go)[0]), 0
    scans: list[list[Array]] = [[] for _ in body.outputs[1 + len(carried) :]]
    while going and (limit is None or turn < limit):
        values = (np.array(turn, np.int64), np.array(going), *carried)
        again, *made = scope.run(body, dict(zip(names, values, strict=True)))
        carried, rest = made[: len(carried)], made[len(carried) :]
        for scan, one in zip(scans, rest, strict=True):
            scan.append(one)
        going, turn = bool(np.ravel(again)[0]), turn + 1
    return [*carried, *(np.stack(scan) if scan else np.zeros(0) for scan in scans)]


_CONTROL = {"Constant": _constant, "If": _if, "Loop": _loop}
