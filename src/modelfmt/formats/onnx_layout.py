"""How an ONNX model is written: messages in the order of their field numbers, with holes where constants go.

The same graph gives the same bytes. Constants above a kilobyte are written by the executor, into the model or, where
that would exceed the 2 GiB that protocol buffers hold or where it is asked for, into files beside it:
`<stem>.onnx_data` and, where a limit cuts them, `<stem>.onnx_data_1` and so on, as transformers.js names them, each
constant at a multiple of the alignment. A constant may also lie in a file that is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from modelfmt.errors import LimitExceeded, UsageError
from modelfmt.formats.onnx_schema import ATTRIBUTE_KINDS, MODEL, SCHEMAS
from modelfmt.formats.onnx_tensors import INLINE
from modelfmt.ir.graph import (
    ELEMENT_TYPES,
    Affine,
    Attribute,
    Function,
    Graph,
    GraphTensor,
    Node,
    Program,
    SparseTensor,
    Value,
    stored_as,
    walk_tensors,
)
from modelfmt.ir.layout import FileLayout, Placed
from modelfmt.ir.ops import Constant
from modelfmt.storage.protobuf import UNKNOWN, Hole, Pieces, encode

__all__ = ["ALIGNMENT", "EXTERNAL", "Elsewhere", "layout"]

ALIGNMENT = 4096
MAX_MESSAGE = (1 << 31) - 1
EXTERNAL = ("auto", "always", "never")

_BYTES = b""


class Elsewhere(NamedTuple):
    """Where the bytes of a constant lie already: a name beside the model, the place in that file."""

    location: str
    offset: int


def layout(
    program: Program,
    *,
    stem: str = "model",
    external: str = "auto",
    shard_size: int | None = None,
    alignment: int | None = None,
    elsewhere: Mapping[str, Elsewhere] | None = None,
) -> list[FileLayout]:
    """The model's file, which has no name, and those beside it.

    Tensors of the layouts bear the keys of `modelfmt.ir.graph.walk_tensors`. external: one of EXTERNAL. shard_size:
    bytes of a file beside the model. elsewhere: constants that lie in other files, by key. Raises UsageError,
    LimitExceeded (a model that is not to have files beside it, and is too large).
    """
    if external not in EXTERNAL:
        raise UsageError("no such way of storing", code="external", found=external, allowed=", ".join(EXTERNAL))
    writer = _Writer(program, alignment or ALIGNMENT, shard_size, f"{stem}.onnx_data", dict(elsewhere or {}))
    pieces = writer.model() if external != "always" else None
    if pieces is not None and pieces.size > MAX_MESSAGE:
        if external == "never":
            raise LimitExceeded(
                "the model would exceed what one message holds",
                code="protobuf-size",
                found=pieces.size,
                allowed=f"at most {MAX_MESSAGE}",
                hint="store its constants beside it (--external always)",
            )
        pieces = None
    if pieces is None:
        writer.beside = True
        pieces = writer.model()
    return [_file(pieces, writer.names), *writer.files()]


def _file(pieces: Pieces, names: Mapping[int, str]) -> FileLayout:
    header, patches, placed = b"", [], []
    at = 0
    run: list[bytes] = []
    begin = 0
    for part in [*pieces.parts, None]:
        if isinstance(part, bytes):
            run.append(part)
            at += len(part)
            continue
        if run:
            data = b"".join(run)
            if begin == 0:
                header = data
            else:
                patches.append((begin, data))
            run = []
        if part is not None:
            placed.append(_placed(part.key, names, at))
            at += part.size
        begin = at
    return FileLayout("", at, header, tuple(placed), tuple(patches))


def _placed(tensor: GraphTensor, names: Mapping[int, str], at: int) -> Placed:
    shape, encoding = stored_as(tensor.type, tensor.shape)
    return Placed(names[id(tensor)], encoding, shape, at, tensor.nbytes)


class _Shard(msgspec.Struct):
    """One file beside the model."""

    name: str
    size: int = 0
    placed: list[Placed] = msgspec.field(default_factory=list)


class _Writer:
    """Turns a program into messages. beside: constants go into files of their own."""

    def __init__(
        self,
        program: Program,
        alignment: int,
        shard_size: int | None,
        data_name: str,
        elsewhere: dict[str, Elsewhere],
    ) -> None:
        self.program = program
        self.alignment = alignment
        self.shard_size = shard_size
        self.data_name = data_name
        self.elsewhere = elsewhere
        self.beside = False
        self.names = _names(program)
        self.shards: list[_Shard] = []

    def files(self) -> list[FileLayout]:
        return [FileLayout(shard.name, shard.size, _BYTES, tuple(shard.placed)) for shard in self.shards]

    def model(self) -> Pieces:
        program = self.program
        return encode(
            MODEL,
            {
                "ir_version": program.ir_version,
                "producer_name": program.producer,
                "producer_version": program.producer_version,
                "domain": program.domain,
                "model_version": program.model_version,
                "doc_string": program.doc,
                "graph": self.graph(program.graph),
                "opset_import": _opsets(program.opsets),
                "metadata_props": _pairs(program.properties),
                "functions": [self.function(function) for function in program.functions],
                "configuration": program.configurations,
                UNKNOWN: program.unknown,
            },
        )

    def graph(self, graph: Graph) -> Pieces:
        return encode(
            SCHEMAS["Graph"],
            {
                "node": [self.node(node) for node in graph.nodes],
                "name": graph.name,
                "initializer": [self.tensor(tensor) for tensor in graph.tensors.values()],
                "doc_string": graph.doc,
                "input": [_value(value) for value in graph.inputs],
                "output": [_value(value) for value in graph.outputs],
                "value_info": [_value(value) for value in graph.values],
                "quantization_annotation": graph.annotations,
                "sparse_initializer": [self.sparse(sparse) for sparse in graph.sparse],
                "metadata_props": _pairs(graph.properties),
                UNKNOWN: graph.unknown,
            },
        )

    def function(self, function: Function) -> Pieces:
        return encode(
            SCHEMAS["Function"],
            {
                "name": function.name,
                "input": function.inputs,
                "output": function.outputs,
                "attribute": function.attributes,
                "node": [self.node(node) for node in function.nodes],
                "doc_string": function.doc,
                "opset_import": _opsets(function.opsets),
                "domain": function.domain,
                "attribute_proto": [self.attribute(attribute) for attribute in function.defaults],
                "value_info": [_value(value) for value in function.values],
                "overload": function.overload,
                "metadata_props": _pairs(function.properties),
                UNKNOWN: function.unknown,
            },
        )

    def node(self, node: Node) -> Pieces:
        return encode(
            SCHEMAS["Node"],
            {
                "input": node.inputs,
                "output": node.outputs,
                "name": node.name,
                "op_type": node.op,
                "attribute": [self.attribute(attribute) for attribute in node.attributes.values()],
                "doc_string": node.doc,
                "domain": node.domain or None,
                "overload": node.overload,
                "metadata_props": _pairs(node.properties),
                "device_configurations": node.devices,
                UNKNOWN: node.unknown,
            },
        )

    def attribute(self, attribute: Attribute) -> Pieces:
        number, key = ATTRIBUTE_KINDS[attribute.kind]
        value = attribute.value
        if key in ("t", "g", "sparse_tensor") and value is not None:
            value = self._message(value)
        elif key in ("tensors", "graphs", "sparse_tensors"):
            value = [self._message(one) for one in value]
        if attribute.reference and not value:
            value = None
        return encode(
            SCHEMAS["Attribute"],
            {
                "name": attribute.name,
                key: value,
                "doc_string": attribute.doc,
                "type": number,
                "ref_attr_name": attribute.reference,
                UNKNOWN: attribute.unknown,
            },
        )

    def _message(self, value: GraphTensor | Graph | SparseTensor) -> Pieces:
        if isinstance(value, GraphTensor):
            return self.tensor(value)
        return self.graph(value) if isinstance(value, Graph) else self.sparse(value)

    def sparse(self, sparse: SparseTensor) -> Pieces:
        indices = None if sparse.indices is None else self.tensor(sparse.indices)
        return encode(
            SCHEMAS["Sparse"],
            {"values": self.tensor(sparse.values), "indices": indices, "dims": sparse.shape, UNKNOWN: sparse.unknown},
        )

    def tensor(self, tensor: GraphTensor) -> Pieces:
        values: dict[str, Any] = {
            "dims": tensor.shape,
            "data_type": ELEMENT_TYPES[tensor.type].number,
            "name": tensor.name or None,
            "doc_string": tensor.doc,
            "metadata_props": _pairs(tensor.properties),
            UNKNOWN: tensor.unknown,
        }
        return encode(SCHEMAS["Tensor"], values | self._elements(tensor))

    def _elements(self, tensor: GraphTensor) -> dict[str, Any]:
        if tensor.data is None:
            return {"string_data": tensor.texts}
        found = self.elsewhere.get(self.names[id(tensor)])
        if isinstance(tensor.data, Constant) and tensor.nbytes <= INLINE:
            return {"raw_data": tensor.data.data}
        if found is None and self.beside and tensor.nbytes > INLINE:
            found = self._place(tensor)
        if found is None:
            return {"raw_data": Hole(tensor.nbytes, tensor)}
        entries = {"location": found.location, "offset": str(found.offset), "length": str(tensor.nbytes)}
        return {"external_data": _pairs(tuple(entries.items())), "data_location": 1}

    def _place(self, tensor: GraphTensor) -> Elsewhere:
        limit, last = self.shard_size, self.shards[-1] if self.shards else None
        offset = 0 if last is None else -(-last.size // self.alignment) * self.alignment
        if last is None or (limit is not None and offset + tensor.nbytes > limit):
            name = f"{self.data_name}_{len(self.shards)}" if self.shards else self.data_name
            last, offset = _Shard(name), 0
            self.shards.append(last)
        last.placed.append(_placed(tensor, self.names, offset))
        last.size = offset + tensor.nbytes
        return Elsewhere(last.name, offset)


def _names(program: Program) -> dict[int, str]:
    """The key of each constant by its identity. Raises where two would have one."""
    names: dict[int, str] = {}
    seen: set[str] = set()
    for key, tensor in walk_tensors(program):
        if id(tensor) in names:
            raise UsageError("one constant stands at two places of the graph", code="duplicate-key", place=key)
        while key in seen:
            key += "'"
        seen.add(key)
        names[id(tensor)] = key
    return names


def _opsets(opsets: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"domain": domain or None, "version": version} for domain, version in opsets.items()]


def _pairs(entries: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in entries]


def _value(value: Value) -> dict[str, Any]:
    kind: Any = value.raw
    if kind is None and value.type:
        inner: dict[str, Any] = {"elem_type": ELEMENT_TYPES[value.type].number}
        if value.shape is not None:
            inner["shape"] = {"dim": [_dim(dim) for dim in value.shape]}
        kind = b"".join(
            part for part in encode(SCHEMAS["Type"], {"tensor_type": inner}).parts if isinstance(part, bytes)
        )
    return {
        "name": value.name,
        "type": kind,
        "doc_string": value.doc,
        "metadata_props": _pairs(value.properties),
        UNKNOWN: value.unknown,
    }


def _dim(dim: int | str | Affine | None) -> dict[str, Any]:
    if dim is None:
        return {}
    return {"dim_value": dim} if isinstance(dim, int) else {"dim_param": str(dim)}
