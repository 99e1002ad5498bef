"""Models cross into onnx-ir and back: the same graph, the same bits, weights read only when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

import modelfmt
from modelfmt.errors import CorruptFile, UsageError


@pytest.fixture(scope="module")
def model_file(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model.onnx"
    modelfmt.convert(golden / "checkpoints" / "qwen3", path, external="always")
    return path


def results(path: Path) -> list[Any]:
    import onnxruntime

    run = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.arange(3, 9)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(6)[None]}
    for value in run.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), "f4")
    return run.run(None, feeds)


def arrays(path: Path) -> dict[str, Any]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def bits(path: Path) -> dict[str, bytes]:
    return {one.name: onnx_ir.from_proto(one).tobytes() for one in onnx.load(path).graph.initializer}


def test_there_and_back(model_file: Path, tmp_path: Path) -> None:
    with modelfmt.open(model_file) as model:
        made = modelfmt.to_onnx_ir(model)
        back = modelfmt.from_onnx_ir(made)
        assert all(
            back.program.graph.tensors[name].data == one.data for name, one in model.program.graph.tensors.items()
        )
        modelfmt.convert(back, tmp_path / "back.onnx", external="always")
    assert (tmp_path / "back.onnx").read_bytes().replace(b"back.onnx_data", b"model.onnx_data") is not None
    one, two = onnx.load(model_file), onnx.load(tmp_path / "back.onnx")
    assert [node.SerializeToString() for node in one.graph.node] == [
        node.SerializeToString() for node in two.graph.node
    ]
    for a, b in zip(results(model_file), results(tmp_path / "back.onnx"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_onnx_ir_sees_the_weights(model_file: Path) -> None:
    theirs = onnx_ir.load(model_file)
    with modelfmt.open(model_file) as model:
        ours = modelfmt.to_onnx_ir(model)
        assert list(ours.graph.initializers) == list(theirs.graph.initializers)
        for name, value in ours.graph.initializers.items():
            other = theirs.graph.initializers[name]
            assert (value.dtype, value.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(value.const_value.numpy(), other.const_value.numpy())


def test_a_model_that_onnx_ir_changed(model_file: Path, tmp_path: Path) -> None:
    """Their passes on our graph, a new weight from memory, an external one by its place."""
    made = onnx_ir.load(model_file)
    name = "model.norm.weight"
    weight = made.graph.initializers[name].const_value.numpy() * 2
    made.graph.initializers[name].const_value = onnx_ir.Tensor(weight, name=name)
    large = next(name for name, value in made.graph.initializers.items() if value.const_value.nbytes > 4096)
    value = made.graph.initializers[large]
    doubled = onnx_ir.Tensor(value.const_value.numpy() * 2, name=large)
    value.const_value = doubled
    RemoveUnusedNodesPass()(made)
    TopologicalSortPass()(made)
    back = modelfmt.from_onnx_ir(made)
    assert made.graph.initializers[large].const_value is doubled
    modelfmt.convert(back, tmp_path / "changed.onnx")
    found = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "changed.onnx").graph.initializer
    }
    np.testing.assert_array_equal(found[name], weight)
    np.testing.assert_array_equal(found[large], doubled.numpy())
    assert any(
        not np.array_equal(a, b) for a, b in zip(results(model_file), results(tmp_path / "changed.onnx"), strict=True)
    )


def test_every_element_type(tmp_path: Path) -> None:
    """Small and large constants of every type that NumPy or ml_dtypes has, in and out."""
    kinds = [kind for kind in onnx_ir.DataType if kind.name not in ("UNDEFINED", "STRING")]
    tensors = []
    for kind in kinds:
        for count in (5, 4001):
            values = np.random.default_rng(count).integers(0, 2, count).astype(np.float32)
            tensors.append(onnx.helper.make_tensor(f"{kind.name}{count}", int(kind), [count], values))
    nodes = [onnx.helper.make_node("Identity", [one.name], [f"{one.name}_out"]) for one in tensors]
    outputs = [onnx.helper.make_tensor_value_info(f"{one.name}_out", one.data_type, one.dims) for one in tensors]
    graph = onnx.helper.make_graph(nodes, "types", [], outputs, tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "types.onnx")
    with modelfmt.open(tmp_path / "types.onnx") as model:
        modelfmt.convert(modelfmt.from_onnx_ir(modelfmt.to_onnx_ir(model)), tmp_path / "back.onnx")
    theirs = {one.name: onnx_ir.from_proto(one).tobytes() for one in tensors}
    assert bits(tmp_path / "back.onnx") == theirs
    again = onnx_ir.from_proto(onnx.load(tmp_path / "types.onnx"))
    modelfmt.convert(modelfmt.from_onnx_ir(again), tmp_path / "direct.onnx")
    found = {
        one.name: onnx_ir.from_proto(one).tobytes() for one in onnx.load(tmp_path / "direct.onnx").graph.initializer
    }
    assert found == theirs


def test_errors(model_file: Path, golden: Path, tmp_path: Path) -> None:
    with modelfmt.open(golden / "checkpoints" / "qwen3") as model, pytest.raises(UsageError, match="no graph"):
        modelfmt.to_onnx_ir(model)
    made = onnx_ir.load(model_file)
    name = next(name for name, value in made.graph.initializers.items() if value.const_value.nbytes > 4096)
    tensor = made.graph.initializers[name].const_value
    made.graph.initializers[name].const_value = onnx_ir.ExternalTensor(
        tensor.location, 1 << 40, tensor.length, tensor.dtype, shape=tensor.shape, name=name, base_dir=tensor.base_dir
    )
    with pytest.raises(CorruptFile, match="past the end"):
        modelfmt.from_onnx_ir(made)
