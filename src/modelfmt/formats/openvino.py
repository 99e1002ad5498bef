"""OpenVINO's intermediate representation, version 11: an XML file of layers and edges, and a file of constants.

Written only. A program's nodes have the operator set in the place of the domain (`opset1`), their attributes as text;
every value between them is in the graph's `values`, with its type and shape, of which sizes that are not numbers
become -1. Constants lie one behind another in the second file, each at a multiple of the alignment. Source:
ov::pass::Serialize of OpenVINO 2026.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from modelfmt.ir.graph import Dim, Graph, GraphTensor, Node, Value, stored_as
from modelfmt.ir.layout import FileLayout, Placed
from modelfmt.ir.ops import Constant

__all__ = ["ALIGNMENT", "ELEMENT_NAMES", "layout"]

ALIGNMENT = 64
_SMALL = 1024

ELEMENT_NAMES = {
    "FLOAT": ("f32", "FP32"),
    "FLOAT16": ("f16", "FP16"),
    "BFLOAT16": ("bf16", "BF16"),
    "INT64": ("i64", "I64"),
    "INT32": ("i32", "I32"),
    "INT8": ("i8", "I8"),
    "UINT8": ("u8", "U8"),
    "INT4": ("i4", "I4"),
    "UINT4": ("u4", "U4"),
    "BOOL": ("boolean", "BOOL"),
}
"""Type of elements -> its name as an attribute, and as the precision of a port."""


def layout(graph: Graph, *, stem: str = "openvino_model", alignment: int | None = None) -> list[FileLayout]:
    """The model's file, which has no name, and `stem`.bin. Tensors of the layouts bear the names of the graph's."""
    placed, data = _constants(graph, f"{stem}.bin", alignment or ALIGNMENT)
    text = "".join(_Writer(graph, placed).lines()).encode()
    return [FileLayout("", len(text), text, ()), data]


def _constants(graph: Graph, name: str, alignment: int) -> tuple[dict[str, int], FileLayout]:
    """The place of each constant, and the file that they are in."""
    at, places = 0, {}
    tensors: list[Placed] = []
    patches: list[tuple[int, bytes]] = []
    for tensor in graph.tensors.values():
        at = -(-at // alignment) * alignment
        places[tensor.name] = at
        if isinstance(tensor.data, Constant) and tensor.nbytes <= _SMALL:
            patches.append((at, tensor.data.data))
        else:
            shape, encoding = stored_as(tensor.type, tensor.shape)
            tensors.append(Placed(tensor.name, encoding, shape, at, tensor.nbytes))
        at += tensor.nbytes
    return places, FileLayout(name, at, b"", tuple(tensors), tuple(patches))


class _Writer:
    """Numbers layers, and says where each value comes from."""

    def __init__(self, graph: Graph, places: dict[str, int]) -> None:
        self.graph = graph
        self.places = places
        self.values = {value.name: value for value in (*graph.inputs, *graph.values)}
        for tensor in graph.tensors.values():
            self.values[tensor.name] = Value(tensor.name, tensor.type, tensor.shape)
        self.named = {value.name for value in (*graph.inputs, *graph.outputs)}
        self.sources: dict[str, tuple[int, int]] = {}
        self.edges: list[tuple[int, int, int, int]] = []
        self.number = 0

    def lines(self) -> Iterator[str]:
        yield f'<?xml version="1.0"?>\n<net name="{escape(self.graph.name)}" version="11">\n\t<layers>\n'
        for value in self.graph.inputs:
            shape = ",".join("?" if size < 0 else str(size) for size in map(_size, value.shape or ()))
            data = f'shape="{shape}" element_type="{ELEMENT_NAMES[value.type][0]}"'
            yield from self.layer(value.name, "Parameter", "opset1", data, (), (value.name,))
        for tensor in self.graph.tensors.values():
            yield from self.layer(tensor.name, "Const", "opset1", self.constant(tensor), (), (tensor.name,))
        for node in self.graph.nodes:
            yield from self.node(node)
        for value in self.graph.outputs:
            more = f' output_names="{escape(value.name)}"'
            yield from self.layer(f"{value.name}/result", "Result", "opset1", "", (value.name,), (), more=more)
        yield "\t</layers>\n\t<edges>\n"
        for source, out, target, into in self.edges:
            yield f'\t\t<edge from-layer="{source}" from-port="{out}" to-layer="{target}" to-port="{into}" />\n'
        yield "\t</edges>\n\t<rt_info />\n</net>\n"

    def constant(self, tensor: GraphTensor) -> str:
        shape = ", ".join(map(str, tensor.shape))
        kind, place = ELEMENT_NAMES[tensor.type][0], self.places[tensor.name]
        return f'element_type="{kind}" shape="{shape}" offset="{place}" size="{tensor.nbytes}"'

    def node(self, node: Node) -> Iterator[str]:
        pairs = ((name, one.value.decode()) for name, one in node.attributes.items())
        data = " ".join(f'{name}="{escape(text)}"' for name, text in pairs)
        marks = [name for name, _ in node.properties]
        yield from self.layer(node.outputs[0], node.op, node.domain, data, node.inputs, node.outputs, marks=marks)

    def layer(
        self,
        name: str,
        kind: str,
        version: str,
        data: str,
        inputs: tuple[str, ...] | list[str],
        outputs: tuple[str, ...] | list[str],
        *,
        marks: list[str] | tuple[str, ...] = (),
        more: str = "",
    ) -> Iterator[str]:
        number = self.number
        self.number += 1
        yield f'\t\t<layer id="{number}" name="{escape(name)}" type="{kind}" version="{version}"{more}>\n'
        if data:
            yield f"\t\t\t<data {data} />\n"
        if marks:
            yield "\t\t\t<rt_info>\n"
            yield from (f'\t\t\t\t<attribute name="{mark}" version="0" />\n' for mark in marks)
            yield "\t\t\t</rt_info>\n"
        if inputs:
            yield "\t\t\t<input>\n"
            for port, value in enumerate(inputs):
                self.edges.append((*self.sources[value], number, port))
                yield from self.port(port, value, named=False)
            yield "\t\t\t</input>\n"
        if outputs:
            yield "\t\t\t<output>\n"
            for port, value in enumerate(outputs, len(inputs)):
                self.sources[value] = (number, port)
                yield from self.port(port, value, named=value in self.named)
            yield "\t\t\t</output>\n"
        yield "\t\t</layer>\n"

    def port(self, port: int, name: str, *, named: bool) -> Iterator[str]:
        value = self.values[name]
        start = f'\t\t\t\t<port id="{port}" precision="{ELEMENT_NAMES[value.type][1]}"'
        start += f' names="{escape(name)}"' if named else ""
        if not value.shape:
            yield start + " />\n"
            return
        yield start + ">\n"
        yield from (f"\t\t\t\t\t<dim>{_size(dim)}</dim>\n" for dim in value.shape)
        yield "\t\t\t\t</port>\n"


def _size(dim: Dim) -> int:
    return dim if isinstance(dim, int) else -1
