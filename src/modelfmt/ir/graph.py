"""A compute graph: nodes over named values, with subgraphs and functions, as data.

Nodes are of two levels, and both may stand in one graph: those of a runtime's operator set (ONNX's, any domain, unknown
ones too) and structural ones of the domain `modelfmt` (modelfmt.graphs), which are lowered before they are written. The
names Value, Node, Graph, Attribute and Function are those of onnx-ir. Source: onnx.proto of ONNX 1.23. Nothing here
reads a file: constants are tensor expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import msgspec

from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import Constant, Expression

__all__ = [
    "ELEMENT_TYPES",
    "Affine",
    "Attribute",
    "Dim",
    "ElementType",
    "Function",
    "Graph",
    "GraphTensor",
    "Node",
    "Program",
    "SparseTensor",
    "Value",
    "walk_graphs",
    "walk_tensors",
]


class ElementType(NamedTuple):
    """A type of elements. number: in TensorProto. bits: of one element, 0 for text. encoding: how whole bytes of them
    are stored."""

    name: str
    number: int
    bits: int
    encoding: str


ELEMENT_TYPES = {
    row.name: row
    for row in (
        ElementType("FLOAT", 1, 32, "F32"),
        ElementType("UINT8", 2, 8, "U8"),
        ElementType("INT8", 3, 8, "I8"),
        ElementType("UINT16", 4, 16, "U16"),
        ElementType("INT16", 5, 16, "I16"),
        ElementType("INT32", 6, 32, "I32"),
        ElementType("INT64", 7, 64, "I64"),
        ElementType("STRING", 8, 0, ""),
        ElementType("BOOL", 9, 8, "BOOL"),
        ElementType("FLOAT16", 10, 16, "F16"),
        ElementType("DOUBLE", 11, 64, "F64"),
        ElementType("UINT32", 12, 32, "U32"),
        ElementType("UINT64", 13, 64, "U64"),
        ElementType("COMPLEX64", 14, 64, "C64"),
        ElementType("COMPLEX128", 15, 128, "C128"),
        ElementType("BFLOAT16", 16, 16, "BF16"),
        ElementType("FLOAT8E4M3FN", 17, 8, "F8_E4M3"),
        ElementType("FLOAT8E4M3FNUZ", 18, 8, "F8_E4M3FNUZ"),
        ElementType("FLOAT8E5M2", 19, 8, "F8_E5M2"),
        ElementType("FLOAT8E5M2FNUZ", 20, 8, "F8_E5M2FNUZ"),
        ElementType("UINT4", 21, 4, "U4"),
        ElementType("INT4", 22, 4, "I4"),
        ElementType("FLOAT4E2M1", 23, 4, "F4"),
        ElementType("FLOAT8E8M0", 24, 8, "F8_E8M0"),
        ElementType("UINT2", 25, 2, "U2"),
        ElementType("INT2", 26, 2, "I2"),
        ElementType("FLOAT6E2M3", 27, 6, "F6_E2M3"),
        ElementType("FLOAT6E3M2", 28, 6, "F6_E3M2"),
    )
}
"""The element types of ONNX 1.23 by name."""


class Affine(msgspec.Struct, frozen=True):
    """A size that follows from others: sum of factor * symbol, plus a constant.

    >>> str(Affine((("past", 1), ("seq", 1))))
    'past + seq'
    >>> str(Affine((("n", 2),), 1))
    '2*n + 1'
    """

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    def __str__(self) -> str:
        words = [symbol if factor == 1 else f"{factor}*{symbol}" for symbol, factor in self.terms]
        words += [str(self.constant)] if self.constant or not words else []
        return " + ".join(words)


Dim = int | str | Affine | None
"""A size: a number, a symbol, an expression over symbols, or unknown."""


class Value(msgspec.Struct, eq=False):
    """What an input, an output or an edge is. type: a name of ELEMENT_TYPES, empty where unknown. shape: None where
    not even the rank is known. role: what it is for (`token_ids`, `past 3 key`), where that is known. raw: an ONNX
    TypeProto that type and shape cannot say (sequences, maps, denotations). doc, properties, unknown: kept as they are.
    """

    name: str
    type: str = ""
    shape: tuple[Dim, ...] | None = None
    role: str = ""
    raw: bytes | None = None
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    unknown: bytes = b""


class GraphTensor(msgspec.Struct, eq=False):
    """A constant. data: its bytes as an expression (of text: None, and `texts` has it); where elements do not fill
    bytes, their packed bytes as U8 [n]."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: Expression | None
    texts: tuple[bytes, ...] = ()
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    unknown: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed."""
        return -(-prod(self.shape) * ELEMENT_TYPES[self.type].bits // 8)

    @classmethod
    def of_bytes(cls, name: str, type: str, shape: tuple[int, ...], data: bytes) -> GraphTensor:
        """A constant that stands in the graph itself."""
        return cls(name, type, shape, Constant(data, *stored_as(type, shape)))


def stored_as(type: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """(shape, encoding) of the expression that holds elements of a type: packed bytes, where these do not divide.

    >>> stored_as("INT4", (3, 5)), stored_as("INT4", (3, 4))
    (((8,), 'U8'), ((3, 4), 'I4'))
    """
    row = ELEMENT_TYPES[type]
    encoding = ENCODINGS[row.encoding]
    if prod(shape) % encoding.block_elements:
        return (-(-prod(shape) * row.bits // 8),), "U8"
    return shape, row.encoding


class SparseTensor(msgspec.Struct, eq=False):
    """A constant that is mostly zeros: the others and their places."""

    values: GraphTensor
    indices: GraphTensor | None
    shape: tuple[int, ...]
    unknown: bytes = b""


class Attribute(msgspec.Struct, eq=False):
    """An attribute. kind: FLOAT, INT, STRING, TENSOR, GRAPH, SPARSE_TENSOR, TYPE_PROTO or their plurals; value: a
    float, int, bytes, GraphTensor, Graph, SparseTensor, bytes (TypeProto), or a list of these. reference: the attribute
    of the function around it that gives the value."""

    name: str
    kind: str
    value: Any
    reference: str | None = None
    doc: str | None = None
    unknown: bytes = b""


class Node(msgspec.Struct, eq=False):
    """One operation. inputs, outputs: names of values, empty for an optional one that is not there."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)
    domain: str = ""
    name: str | None = None
    overload: str | None = None
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    devices: tuple[bytes, ...] = ()
    unknown: bytes = b""

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = self.attributes.get(name)
        return default if found is None else found.value


class Graph(msgspec.Struct, eq=False):
    """Nodes in an order in which every value is made before it is used. values: what is known of edges between them."""

    name: str = ""
    nodes: list[Node] = msgspec.field(default_factory=list)
    inputs: list[Value] = msgspec.field(default_factory=list)
    outputs: list[Value] = msgspec.field(default_factory=list)
    values: list[Value] = msgspec.field(default_factory=list)
    tensors: dict[str, GraphTensor] = msgspec.field(default_factory=dict)
    sparse: list[SparseTensor] = msgspec.field(default_factory=list)
    annotations: tuple[bytes, ...] = ()
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    unknown: bytes = b""


class Function(msgspec.Struct, eq=False):
    """An operator that is made of others. defaults: attributes that have a value where the call gives none."""

    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    opsets: dict[str, int]
    overload: str | None = None
    attributes: list[str] = msgspec.field(default_factory=list)
    defaults: list[Attribute] = msgspec.field(default_factory=list)
    values: list[Value] = msgspec.field(default_factory=list)
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    unknown: bytes = b""


class Program(msgspec.Struct, eq=False):
    """A graph with what it stands on. ir_version, opsets (domain -> version), producer ...: ONNX's own."""

    graph: Graph
    opsets: dict[str, int] = msgspec.field(default_factory=dict)
    functions: list[Function] = msgspec.field(default_factory=list)
    ir_version: int | None = None
    producer: str | None = None
    producer_version: str | None = None
    domain: str | None = None
    model_version: int | None = None
    doc: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    configurations: tuple[bytes, ...] = ()
    unknown: bytes = b""


def walk_graphs(program: Program) -> Iterator[tuple[str, Graph | Function]]:
    """Every graph and function with a prefix for the names in it: the main one first (an empty prefix), then those
    inside of nodes, then functions."""
    yield from _inside("", program.graph)
    for index, function in enumerate(program.functions):
        yield from _inside(f"function {index}/", function)


def _inside(prefix: str, graph: Graph | Function) -> Iterator[tuple[str, Graph | Function]]:
    yield prefix, graph
    for index, node in enumerate(graph.nodes):
        for attribute in node.attributes.values():
            graphs = attribute.value if attribute.kind == "GRAPHS" else [attribute.value]
            if attribute.kind in ("GRAPH", "GRAPHS"):
                for number, inner in enumerate(graphs):
                    yield from _inside(f"{prefix}node {index}.{attribute.name}.{number}/", inner)


def walk_tensors(program: Program) -> Iterator[tuple[str, GraphTensor]]:
    """Every dense constant with a key of its own: the name, for those of the main graph."""
    for prefix, graph in walk_graphs(program):
        if isinstance(graph, Graph):
            yield from ((prefix + name, tensor) for name, tensor in graph.tensors.items())
            for index, sparse in enumerate(graph.sparse):
                yield from _parts(f"{prefix}sparse {index}", sparse)
        for index, node in enumerate(graph.nodes):
            for attribute in node.attributes.values():
                yield from _of_attribute(f"{prefix}node {index}.{attribute.name}", attribute)
        for attribute in graph.defaults if isinstance(graph, Function) else ():
            yield from _of_attribute(f"{prefix}default.{attribute.name}", attribute)


def _of_attribute(prefix: str, attribute: Attribute) -> Iterator[tuple[str, GraphTensor]]:
    values = attribute.value if attribute.kind.endswith("S") else [attribute.value]
    for number, value in enumerate(values if isinstance(values, list) else ()):
        if isinstance(value, GraphTensor):
            yield f"{prefix}.{number}", value
        elif isinstance(value, SparseTensor):
            yield from _parts(f"{prefix}.{number}", value)


def _parts(prefix: str, sparse: SparseTensor) -> Iterator[tuple[str, GraphTensor]]:
    yield f"{prefix} values", sparse.values
    if sparse.indices is not None:
        yield f"{prefix} indices", sparse.indices
