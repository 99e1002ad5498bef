"""ONNX: a model as one protocol buffer, its large constants inside it or in files beside it.

Source: onnx.proto of ONNX 1.23: every IR version and operator set, all 28 element types, subgraphs, functions, sparse
and external constants. Reading takes the graph and leaves constants above a kilobyte where they are. What this version
does not know is kept as bytes and written again. Training information is dropped and named. How files are written:
onnx_layout.
"""

from __future__ import annotations

from typing import Any

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.formats.onnx_layout import Elsewhere, layout
from modelfmt.formats.onnx_schema import ATTRIBUTE_KINDS, MODEL, TYPE
from modelfmt.formats.onnx_tensors import Tensors, properties
from modelfmt.ir.graph import (
    ELEMENT_TYPES,
    Attribute,
    Dim,
    Function,
    Graph,
    GraphTensor,
    Node,
    Program,
    SparseTensor,
    Value,
    walk_graphs,
)
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.storage.protobuf import BYTES, UNKNOWN, VARINT, Window, decode, records
from modelfmt.storage.region import Region

__all__ = ["Elsewhere", "layout", "parse", "read", "sniff"]

MAX_MESSAGE = (1 << 31) - 1
"""Bytes that other readers accept in one message."""

_NEWEST_IR, _WITH_OPSETS = 64, 3
_KINDS = {number: name for name, (number, _) in ATTRIBUTE_KINDS.items()}
_TYPES = {row.number: row.name for row in ELEMENT_TYPES.values()}
_WIRES = {number: VARINT if rule.kind == "int" else BYTES for number, rule in MODEL.rules.items()}


def sniff(head: bytes) -> bool:
    """True where the first bytes of a file are fields of an ONNX model, the version of its form first."""
    if len(head) < 4 or head[0] != 8 or not 0 < head[1] <= _NEWEST_IR:
        return False
    files = Files()
    window = Window(Region.whole(files.register("<head>", head), files))
    seen = 0
    try:
        for record in records(window, 0, len(head)):
            if _WIRES.get(record.number) != record.wire:
                return False
            seen += 1
    except CorruptFile:
        pass  # the head ends inside a field
    return seen > 1 or (seen == 1 and head[2] >> 3 in _WIRES and head[2] & 7 == _WIRES[head[2] >> 3])


def read(path: str, files: Files, reader: Reader) -> Model:
    """A model: `program` is its graph, tensors are the constants of the main graph, by name.

    architecture is None; metadata has the versions, the operator sets and metadata_props. extras["notes"]: what was
    dropped. Raises SourceMissing, CorruptFile, UnsafePath, LimitExceeded, UnsupportedError.
    """
    program, notes = parse(path, files)
    tensors = {name: Tensor(name, tensor.data, reader) for name, tensor in program.graph.tensors.items() if tensor.data}
    notes += [f"{name}: text, which no tensor holds" for name, tensor in program.graph.tensors.items() if tensor.texts]
    return Model(
        "onnx", path, tensors, metadata=_metadata(program), program=program, extras={"notes": notes}, files=files
    )


def parse(path: str, files: Files) -> tuple[Program, list[str]]:
    """The graph of a file, and notes on what was left out."""
    window = Window(Region.whole(path, files))
    found = decode(MODEL, window, 0, window.size)
    if "graph" not in found:
        raise CorruptFile("no graph in the model", code="no-graph", path=path)
    if found.get("ir_version", 0) >= _WITH_OPSETS and not found.get("opset_import"):
        raise CorruptFile(
            "no operator set is named",
            code="no-opset",
            path=path,
            place="opset_import",
            allowed=f"at least one from IR version {_WITH_OPSETS} on",
            hint="the file may be cut off",
        )
    return _Builder(path, files, window).program(found)


def _metadata(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = {"ir_version": program.ir_version, "producer": program.producer}
    found |= {f"opset.{domain or 'ai.onnx'}": version for domain, version in program.opsets.items()}
    found |= {"inputs": [_shown(value) for value in program.graph.inputs]}
    found |= {"outputs": [_shown(value) for value in program.graph.outputs]}
    found |= {"nodes": len(program.graph.nodes), "functions": len(program.functions)}
    return {key: value for key, value in found.items() if value not in (None, "")} | dict(program.properties)


def _shown(value: Value) -> str:
    shape = "" if value.shape is None else str(["?" if dim is None else str(dim) for dim in value.shape])
    return f"{value.name} {value.type or 'of another kind'} {shape}".replace("'", "").rstrip()


class _Builder:
    """Makes the graph out of the messages of a file."""

    def __init__(self, path: str, files: Files, window: Window) -> None:
        self.path = path
        self.tensors = Tensors(path, files, window)

    def program(self, message: dict[str, Any]) -> tuple[Program, list[str]]:
        program = Program(
            self.graph(message["graph"], "graph"),
            self.opsets(message),
            [self.function(inner) for inner in message.get("functions", ())],
            message.get("ir_version"),
            message.get("producer_name"),
            message.get("producer_version"),
            message.get("domain"),
            message.get("model_version"),
            message.get("doc_string"),
            properties(message),
            tuple(message.get("configuration", ())),
            message.get(UNKNOWN, b""),
        )
        self.tensors.check_overlaps()
        _check_functions(program, self.path)
        dropped = len(message.get("training_info", ()))
        notes = [f"training_info: {dropped} entries, dropped"] if dropped else []
        return program, notes + list(dict.fromkeys(self.tensors.notes))

    def opsets(self, message: dict[str, Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in message.get("opset_import", ()):
            domain, version = row.get("domain", ""), row.get("version", 0)
            if found.get(domain, version) != version:
                raise CorruptFile(
                    "an operator set is imported twice", code="opset-twice", path=self.path, place=domain, found=version
                )
            found[domain] = version
        return found

    def graph(self, message: dict[str, Any], place: str) -> Graph:
        graph = Graph(
            message.get("name", ""),
            [self.node(inner) for inner in message.get("node", ())],
            [self.value(inner) for inner in message.get("input", ())],
            [self.value(inner) for inner in message.get("output", ())],
            [self.value(inner) for inner in message.get("value_info", ())],
            annotations=tuple(message.get("quantization_annotation", ())),
            doc=message.get("doc_string"),
            properties=properties(message),
            unknown=message.get(UNKNOWN, b""),
        )
        for number, inner in enumerate(message.get("initializer", ())):
            tensor = self.tensors.tensor(inner, f"{place}.initializer[{number}]")
            if tensor.name in graph.tensors:
                raise CorruptFile("a constant is given twice", code="duplicate-key", path=self.path, place=tensor.name)
            graph.tensors[tensor.name] = tensor
        graph.sparse = [self.sparse(inner, place) for inner in message.get("sparse_initializer", ())]
        return graph

    def function(self, message: dict[str, Any]) -> Function:
        return Function(
            message.get("domain", ""),
            message.get("name", ""),
            message.get("input", []),
            message.get("output", []),
            [self.node(inner) for inner in message.get("node", ())],
            self.opsets(message),
            message.get("overload"),
            message.get("attribute", []),
            [self.attribute(inner) for inner in message.get("attribute_proto", ())],
            [self.value(inner) for inner in message.get("value_info", ())],
            message.get("doc_string"),
            properties(message),
            message.get(UNKNOWN, b""),
        )

    def node(self, message: dict[str, Any]) -> Node:
        attributes: dict[str, Attribute] = {}
        for inner in message.get("attribute", ()):
            attribute = self.attribute(inner)
            if attribute.name in attributes:
                raise CorruptFile(
                    "an attribute is given twice", code="duplicate-key", path=self.path, place=attribute.name
                )
            attributes[attribute.name] = attribute
        return Node(
            message.get("op_type", ""),
            message.get("input", []),
            message.get("output", []),
            attributes,
            message.get("domain", ""),
            message.get("name"),
            message.get("overload"),
            message.get("doc_string"),
            properties(message),
            tuple(message.get("device_configurations", ())),
            message.get(UNKNOWN, b""),
        )

    def attribute(self, message: dict[str, Any]) -> Attribute:
        name, place = message.get("name", ""), f"attribute {message.get('name', '')}"
        held = [kind for kind, (_, key) in ATTRIBUTE_KINDS.items() if key in message]
        kind = _KINDS.get(message["type"]) if message.get("type") else held[0] if len(held) == 1 else "INTS"
        if kind is None:
            raise UnsupportedError(
                "an attribute of an unknown kind",
                code="attribute-kind",
                path=self.path,
                place=name,
                found=message["type"],
            )
        if [other for other in held if other != kind]:
            raise CorruptFile(
                "an attribute with values of several kinds",
                code="attribute-kind",
                path=self.path,
                place=name,
                found=", ".join(held),
                allowed=kind,
            )
        key = ATTRIBUTE_KINDS[kind][1]
        value = message.get(key, [] if kind.endswith("S") else _EMPTY.get(kind))
        if "tensor" in key or key == "t":
            make = self.tensors.tensor if "sparse" not in key else self.sparse
            value = [make(one, place) for one in value] if isinstance(value, list) else value and make(value, place)
        elif key in ("g", "graphs"):
            value = (
                [self.graph(one, place) for one in value]
                if isinstance(value, list)
                else value and self.graph(value, place)
            )
        if value is None and not message.get("ref_attr_name"):
            raise CorruptFile("an attribute without its value", code="attribute-kind", path=self.path, place=name)
        return Attribute(
            name, kind, value, message.get("ref_attr_name"), message.get("doc_string"), message.get(UNKNOWN, b"")
        )

    def sparse(self, message: dict[str, Any], place: str) -> SparseTensor:
        if "values" not in message:
            raise CorruptFile("a sparse constant without values", code="tensor", path=self.path, place=place)
        values = self.tensors.tensor(message["values"], f"{place}.values")
        indices: GraphTensor | None = None
        if "indices" in message:
            indices = self.tensors.tensor(message["indices"], f"{place}.indices")
        return SparseTensor(values, indices, tuple(message.get("dims", ())), message.get(UNKNOWN, b""))

    def value(self, message: dict[str, Any]) -> Value:
        value = Value(
            message.get("name", ""),
            doc=message.get("doc_string"),
            properties=properties(message),
            unknown=message.get(UNKNOWN, b""),
        )
        raw = message.get("type")
        if raw is not None:
            value.type, value.shape, plain = _tensor_type(raw, self.path)
            value.raw = None if plain else raw
        return value


_EMPTY: dict[str, Any] = {"FLOAT": 0.0, "INT": 0, "STRING": b""}


def _tensor_type(raw: bytes, path: str) -> tuple[str, tuple[Dim, ...] | None, bool]:
    """Element type and shape of a TypeProto, and whether these say all of it."""
    files = Files()
    window = Window(Region.whole(files.register(path, raw), files))
    found = decode(TYPE, window, 0, len(raw))
    inner = found.get("tensor_type")
    if inner is None:
        return "", None, False
    kind = _TYPES.get(inner.get("elem_type", 0), "")
    plain = bool(kind) and not (found.get(UNKNOWN) or inner.get(UNKNOWN))
    if "shape" not in inner:
        return kind, None, plain
    dims = inner["shape"].get("dim", [])
    plain = plain and not inner["shape"].get(UNKNOWN) and not any(UNKNOWN in dim or len(dim) > 1 for dim in dims)
    return kind, tuple(dim.get("dim_value", dim.get("dim_param")) for dim in dims), plain


def _check_functions(program: Program, path: str) -> None:
    """Raise where a function is defined twice or calls itself, also through others."""
    own = {(function.domain, function.name, function.overload or ""): function for function in program.functions}
    if len(own) != len(program.functions):
        raise CorruptFile("a function is defined twice", code="duplicate-key", path=path, place="functions")
    calls = {
        key: {
            call
            for _, graph in walk_graphs(Program(Graph(nodes=function.nodes)))
            for node in graph.nodes
            if (call := (node.domain, node.op, node.overload or "")) in own
        }
        for key, function in own.items()
    }
    done: set[tuple[str, str, str]] = set()
    for first in own:
        trail: list[tuple[tuple[str, str, str], list[tuple[str, str, str]]]] = [(first, sorted(calls[first]))]
        above = {first}
        while trail:
            key, left = trail[-1]
            if not left:
                trail.pop()
                above.discard(key)
                done.add(key)
                continue
            inner = left.pop()
            if inner in above:
                raise CorruptFile("a function calls itself", code="recursion", path=path, place=inner[1], found=key[1])
            if inner not in done:
                above.add(inner)
                trail.append((inner, sorted(calls[inner])))
    if len(own) > 1 << 16:
        raise LimitExceeded("too many functions", code="functions", path=path, found=len(own), allowed=1 << 16)
