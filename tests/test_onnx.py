"""ONNX files: what is read, what is written, beside onnx and ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import modelfmt
import onnx_roundtrip
from modelfmt.errors import ModelfmtError
from modelfmt.ir.graph import ELEMENT_TYPES

SHIPPED = [(name, path) for name, path, _ in onnx_roundtrip.shipped_cases()]


@pytest.mark.parametrize(("name", "path"), SHIPPED[::12], ids=lambda value: value if isinstance(value, str) else "")
def test_shipped_models_come_back(name: str, path: Path, tmp_path: Path) -> None:
    """A sample; `python tests/onnx_roundtrip.py` runs every case."""
    assert onnx_roundtrip.check(path, None, tmp_path).startswith("equal")


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def holding(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", [tensors[0].name], ["y"])]
    result = helper.make_tensor_value_info("y", tensors[0].data_type, tensors[0].dims)
    graph = helper.make_graph(nodes, "g", [], [result], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_the_types_are_those_of_onnx() -> None:
    theirs = {name: number for name, number in TensorProto.DataType.items() if number}
    assert {row.name: row.number for row in ELEMENT_TYPES.values()} == theirs


@pytest.mark.parametrize("kind", [name for name in ELEMENT_TYPES if name != "STRING"])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (0, 3), ()])
def test_every_type_in_every_form(kind: str, raw: bool, shape: tuple[int, ...], tmp_path: Path) -> None:
    """raw_data and typed fields, whole bytes and odd counts, to raw_data with the bytes that onnx itself packs."""
    number = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    values = np.arange(int(np.prod(shape))).reshape(shape) % (2 if kind in ("BOOL", "UINT2", "INT2") else 4)
    tensor = numpy_helper.from_array(values.astype(dtype), "t")
    assert tensor.data_type == number
    wanted = tensor.raw_data
    if not raw:
        tensor = helper.make_tensor("t", number, shape, values.astype(dtype).reshape(-1))
    source = saved(holding(tensor), tmp_path / "s.onnx")
    modelfmt.convert(source, tmp_path / "d.onnx")
    (made,) = onnx.load(tmp_path / "d.onnx").graph.initializer
    assert made.raw_data == wanted
    assert tuple(made.dims) == shape


def test_constants_become_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    big = np.arange(3000, dtype="f4").reshape(3, 1000)
    half = np.arange(4, dtype=ml_dtypes.bfloat16)
    source = saved(
        holding(numpy_helper.from_array(big, "big"), numpy_helper.from_array(half, "b")), tmp_path / "s.onnx"
    )
    modelfmt.convert(source, tmp_path / "d.safetensors")
    assert (load_file(tmp_path / "d.safetensors")["big"] == big).all()
    with modelfmt.open(tmp_path / "d.safetensors") as model:
        assert (model["b"].numpy() == half).all()


def test_files_beside_the_model(tmp_path: Path) -> None:
    """Cut where a limit says so, aligned, equal bytes in equal runs; onnx loads what was written, and so do we."""
    tensors = [numpy_helper.from_array(np.full((700,), i, "f4"), f"t{i}") for i in range(4)]
    tensors.append(numpy_helper.from_array(np.array([1, 2]), "small"))
    source = saved(holding(*tensors), tmp_path / "s.onnx")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        modelfmt.convert(source, tmp_path / name / "d.onnx", external="always", split_size=8000, alignment=512)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written == ["d.onnx", "d.onnx_data", "d.onnx_data_1"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in written)
    proto = onnx.load(tmp_path / "a" / "d.onnx", load_external_data=False)
    offsets = [int({e.key: e.value for e in t.external_data}["offset"]) for t in proto.graph.initializer[:4]]
    assert offsets == [0, 3072, 0, 3072]
    assert proto.graph.initializer[4].raw_data
    onnx.checker.check_model(str(tmp_path / "a" / "d.onnx"))
    for tensor in onnx.load(tmp_path / "a" / "d.onnx").graph.initializer[:4]:
        assert set(numpy_helper.to_array(tensor)) == {float(tensor.name[1])}
    modelfmt.convert(tmp_path / "a" / "d.onnx", tmp_path / "again.onnx", external="never")
    assert onnx.load(tmp_path / "again.onnx").graph == onnx.load(source).graph


def test_what_is_not_known_survives(tmp_path: Path) -> None:
    """Fields of a later version, operators and types of other domains."""
    model = holding(numpy_helper.from_array(np.zeros(3, "f4"), "t"))
    model.graph.node.add(op_type="Strange", domain="elsewhere", input=["y"], output=["z"], name="n")
    later = b"\xc2\x3e\x03abc"  # field 1000
    graph = model.graph.SerializeToString() + later
    model.ClearField("graph")
    data = model.SerializeToString() + b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph + later
    (tmp_path / "s.onnx").write_bytes(data)
    modelfmt.convert(tmp_path / "s.onnx", tmp_path / "d.onnx")
    first, second = onnx.load(tmp_path / "s.onnx"), onnx.load(tmp_path / "d.onnx")
    assert first.graph.node == second.graph.node
    assert (tmp_path / "d.onnx").read_bytes().count(later) == 2


def test_training_information_is_dropped_and_named(tmp_path: Path) -> None:
    model = holding(numpy_helper.from_array(np.zeros(3, "f4"), "t"))
    model.training_info.add()
    plan = modelfmt.plan(saved(model, tmp_path / "s.onnx"), tmp_path / "d.onnx")
    assert any("training_info" in note.detail for note in plan.notes)


def test_a_large_model_opens_in_little_memory(tmp_path: Path) -> None:
    """2 GiB of constants inside one message: a sparse file."""
    tensor = onnx.TensorProto(name="t", data_type=1, dims=[(1 << 29) - 4096])
    head = tensor.SerializeToString()
    size = (1 << 31) - 4 * 4096
    raw = b"\x4a" + varint(size)
    inner = varint(len(head) + len(raw) + size)
    body = b"\x2a" + inner + head + raw
    start = b"\x08\x0a\x42\x02\x10\x15\x3a" + varint(len(body) + size) + body
    path = tmp_path / "s.onnx"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + size)
    code = (
        "import modelfmt, sys; m = modelfmt.open(sys.argv[1]); assert m['t'].nbytes > 2 * 10**9;"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 80_000


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_types_of_a_graph_stay(tmp_path: Path) -> None:
    source = saved(holding(numpy_helper.from_array(np.zeros(3, "f4"), "t")), tmp_path / "s.onnx")
    with pytest.raises(ModelfmtError, match="kept"):
        modelfmt.plan(source, tmp_path / "d.onnx", quant="F16")
