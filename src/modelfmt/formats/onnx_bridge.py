"""To and from the package onnx-ir, whose passes and rewriters then work on our graphs; weights stay in their files.

Constants of the main graph cross as lazy tensors: what onnx-ir does not touch is read when the result is written, from
the file that it lies in. Everything else crosses as a serialized model. Source: onnx-ir 1.1.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from modelfmt.errors import CorruptFile, UnsupportedError, UsageError
from modelfmt.formats import onnx
from modelfmt.ir.graph import ELEMENT_TYPES, GraphTensor, Program, stored_as, walk_tensors
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Leaf, geometry
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["from_onnx_ir", "to_onnx_ir"]

_LARGE = 1024  # bytes; smaller constants cross with the graph
_OURS = "modelfmt"  # key in the meta store of a tensor
_NAMES = {row.number: row.name for row in ELEMENT_TYPES.values()}


def to_onnx_ir(model: Model) -> onnx_ir.Model:
    """A model with a graph (an ONNX file that was opened) as an onnx_ir.Model. Large constants are lazy: `model` must
    stay open while they are read. Raises UsageError (no graph), UnsupportedError (onnx-ir is not installed).

    >>> import modelfmt, onnx_ir
    >>> from modelfmt.ir.graph import Graph, Node, Program, Value
    >>> graph = Graph("g", [Node("Neg", ["x"], ["y"])], [Value("x", "FLOAT", (2,))], [Value("y", "FLOAT", (2,))])
    >>> made = to_onnx_ir(modelfmt.Model("onnx", "<memory>", program=Program(graph, {"": 23}, ir_version=11)))
    >>> [node.op_type for node in made.graph]
    ['Neg']
    """
    ir, proto = _packages()
    program = model.program
    if program is None:
        raise UsageError(
            "this model has no graph", code="source-kind", path=model.path, found=model.format, allowed="ONNX"
        )
    large = {n: t for n, t in program.graph.tensors.items() if t.data is not None and t.nbytes >= _LARGE}
    left = {name: _placeholder(name) if name in large else one for name, one in program.graph.tensors.items()}
    made: onnx_ir.Model = ir.from_proto(proto.load_from_string(_serialized(program, left, model.files or Files())))
    for name, tensor in large.items():
        shape, kind = ir.Shape(tensor.shape), ir.DataType(ELEMENT_TYPES[tensor.type].number)
        lazy = ir.LazyTensor(_reading(tensor, model.files), kind, shape, name=name, doc_string=tensor.doc)
        lazy.meta[_OURS] = (tensor, model.files)
        value = made.graph.initializers[name]
        value.const_value, value.shape, value.type = lazy, shape, ir.TensorType(kind)
    return made


def from_onnx_ir(model: onnx_ir.Model) -> Model:
    """An onnx_ir.Model as one of ours, which `modelfmt.convert` writes. Constants that came from here or lie in
    external files stay there; others are taken from memory as they are.

    Raises CorruptFile (a name without a value, a graph that is no model), UnsupportedError (onnx-ir is not installed).
    """
    ir, _ = _packages()
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= _LARGE
        and value.const_value.dtype != ir.DataType.STRING
    }
    try:
        for name in large:
            empty = ir.Tensor(_array((0,), "uint8"), name=name)
            model.graph.initializers[name].const_value = empty
        data = ir.to_proto(model).SerializeToString()
    finally:
        for name, tensor in large.items():
            model.graph.initializers[name].const_value = tensor
    files = _pool(large)
    program, notes = onnx.parse(files.register("<onnx-ir>", data), files)
    for name, tensor in large.items():
        program.graph.tensors[name] = _taken(name, tensor, files)
    reader = Evaluator(files)
    tensors = {name: Tensor(name, one.data, reader) for name, one in program.graph.tensors.items() if one.data}
    return Model("onnx", "<onnx-ir>", tensors, program=program, extras={"notes": notes}, files=files)


def _packages() -> tuple[Any, Any]:
    try:
        import onnx as proto
        import onnx_ir as ir
    except ImportError as error:
        raise UnsupportedError(
            "the package onnx-ir is not installed", code="not-installed", hint="pip install onnx-ir"
        ) from error
    return ir, proto


def _placeholder(name: str) -> GraphTensor:
    return GraphTensor.of_bytes(name, "UINT8", (0,), b"")


def _serialized(program: Program, tensors: dict[str, GraphTensor], files: Files) -> bytes:
    """The model as bytes, with these constants in its main graph."""
    (whole,) = onnx.layout(replace(program, graph=replace(program.graph, tensors=tensors)), external="never")
    data = bytearray(whole.size)
    data[: len(whole.header)] = whole.header
    for offset, patch in whole.patches:
        data[offset : offset + len(patch)] = patch
    known = dict(walk_tensors(program))
    for placed in whole.tensors:
        part = _bytes(known[placed.name], files)
        data[placed.offset : placed.offset + len(part)] = part
    return bytes(data)


def _bytes(tensor: GraphTensor, files: Files) -> bytes:
    assert tensor.data is not None
    n_rows = geometry(tensor.data.shape, tensor.data.stored)[0]
    encoding = stored_as(tensor.type, tensor.shape)[1]
    stored = tensor.data.stored.name
    found = Evaluator(files).encoded(tensor.data, 0, n_rows, stored if stored == "U8" else encoding)
    return found.tobytes()


def _reading(tensor: GraphTensor, files: Files) -> Any:
    """What reads a constant when onnx-ir asks for it."""

    def read() -> Any:
        ir, proto = _packages()
        message = proto.TensorProto(
            name=tensor.name,
            dims=tensor.shape,
            data_type=ELEMENT_TYPES[tensor.type].number,
            raw_data=_bytes(tensor, files),
        )
        return ir.TensorProtoTensor(message)

    return read


def _array(shape: tuple[int, ...], kind: str) -> Any:
    import numpy as np

    return np.zeros(shape, kind)


def _pool(large: dict[str, Any]) -> Files:
    """The files of the constants that came from here, where all are of one model; else a new pool."""
    pools = {id(one.meta[_OURS][1]): one.meta[_OURS][1] for one in large.values() if _OURS in one.meta}
    return next(iter(pools.values())) if len(pools) == 1 else Files()


def _taken(name: str, tensor: Any, files: Files) -> GraphTensor:
    """One constant, without its bytes where these lie in a file."""
    import onnx_ir as ir

    kind, shape = _NAMES[int(tensor.dtype)], tuple(int(size) for size in tensor.shape)
    mine: tuple[GraphTensor, Files] | None = tensor.meta.get(_OURS)
    if mine is not None and mine[1] is files:
        return replace(mine[0], name=name)
    form, encoding = stored_as(kind, shape)
    if isinstance(tensor, ir.ExternalTensor):
        size = -(-prod(shape) * ELEMENT_TYPES[kind].bits // 8)
        path, offset = str(Path(tensor.path)), int(tensor.offset or 0)
        if offset < 0 or offset + size > files.size(path) or tensor.length not in (None, size):
            raise CorruptFile(
                "a constant runs past the end of its file",
                code="span-past-end",
                path=path,
                place=name,
                found=offset + size,
                allowed=files.size(path),
            )
        return GraphTensor(name, kind, shape, Leaf(path, offset, form, encoding))
    key = files.register(f"<onnx-ir {name}>", tensor.tobytes())
    return GraphTensor(name, kind, shape, Leaf(key, 0, form, encoding))
