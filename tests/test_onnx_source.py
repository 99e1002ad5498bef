"""ONNX models as sources: back to checkpoints and GGUF with the codes that MatMulNBits has. (Cells of the matrix:
test_transcode_cells.py, with ONNX Runtime as the oracle.)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer
from safetensors.numpy import load_file

import modelfmt
from modelfmt.errors import CorruptFile, LossyError, ModelfmtError, UnsupportedError


@pytest.fixture(scope="module")
def blocks(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of Q4_0, and graphs of it in folders by their profiles."""
    home = tmp_path_factory.mktemp("onnx")
    modelfmt.convert(golden / "checkpoints/qwen3", home / "m.gguf", quant="Q4_0")
    for profile in ("auto", "ort-genai", "onnx-standard"):
        modelfmt.convert(home / "m.gguf", home / profile, to="onnx", profile=profile)
    return home


@pytest.mark.parametrize("profile", ["auto", "ort-genai", "onnx-standard"])
def test_blocks_come_back_bit_by_bit(profile: str, blocks: Path, tmp_path: Path) -> None:
    report = modelfmt.convert(blocks / profile / "model.onnx", tmp_path / "m.gguf", transcode="exact")
    assert not [loss for loss in report.losses if loss.kind not in ("dropped", "narrowed")]
    given = {tensor.name: tensor for tensor in gguf.GGUFReader(blocks / "m.gguf").tensors}
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert made.keys() == given.keys()
    moved = 0
    for name, tensor in given.items():
        theirs, ours = (gguf.dequantize(one.data, one.tensor_type) for one in (tensor, made[name]))
        assert np.array_equal(theirs, ours), name
        moved += tensor.tensor_type.name == made[name].tensor_type.name == "Q4_0"
    assert moved == 15


def test_a_graph_becomes_a_checkpoint(golden: Path, tmp_path: Path) -> None:
    """Experts one by one, and norms to which the graph adds one: every value that the original has in float32."""
    for name in ("mixtral", "gemma2", "gpt2"):
        source = golden / "checkpoints" / name
        modelfmt.convert(source, tmp_path / name / "onnx", to="onnx", quant="F32")
        modelfmt.convert(tmp_path / name / "onnx/model.onnx", tmp_path / name / "hf", to="huggingface")
        found = load_file(tmp_path / name / "hf/model.safetensors")
        with modelfmt.open(source) as model:
            assert set(found) == set(model)
            for key in found:
                assert np.allclose(found[key], np.array(model[key].numpy(), np.float32), rtol=0, atol=2e-7), key


def test_what_onnx_runtime_quantized(golden: Path, tmp_path: Path) -> None:
    """Its quantizer on a graph with weights [in, out], named as onnxruntime-genai's builder names them."""
    source = golden / "checkpoints/qwen3"
    with modelfmt.open(source) as model:
        arrays = {name: np.array(model[name].numpy(), np.float32) for name in model}
    constants, nodes = {}, []
    for layer in range(2):
        home, own = f"model.layers.{layer}.", f"model.layers.{layer}.self_attn."
        fused = np.concatenate([arrays.pop(f"{own}{part}_proj.weight") for part in "qkv"])
        arrays[f"{home}attn.qkv_proj.MatMul.weight"] = fused
        arrays[f"{home}attn.o_proj.MatMul.weight"] = arrays.pop(f"{own}o_proj.weight")
        for part in "qk":
            arrays[f"{home}attn.{part}_norm.layernorm.weight"] = arrays.pop(f"{own}{part}_norm.weight")
        for part in ("gate", "up", "down"):
            arrays[f"{home}mlp.{part}_proj.MatMul.weight"] = arrays.pop(f"{home}mlp.{part}_proj.weight")
    arrays["model.layers.2.final_norm_layernorm.weight"] = arrays.pop("model.norm.weight")
    for number, (name, array) in enumerate(arrays.items()):
        if ".MatMul." in name:
            constants[name] = np.ascontiguousarray(array.T)
            nodes.append(helper.make_node("MatMul", [f"x{number}", name], [f"y{number}"], name=f"/{number}/MatMul"))
        else:
            constants[name] = array
            nodes.append(helper.make_node("Identity", [name], [f"y{number}"]))
    (tmp_path / "in").mkdir()
    shutil.copy(source / "config.json", tmp_path / "in")
    inputs = [
        helper.make_tensor_value_info(name, 1, None) for node in nodes for name in node.input if name.startswith("x")
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], 1, None) for node in nodes]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="onnxruntime-genai")
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(made, block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "in/model.onnx"))
    modelfmt.convert(tmp_path / "in/model.onnx", tmp_path / "ct", to="compressed-tensors", transcode="exact")
    with modelfmt.open(tmp_path / "ct") as ours, modelfmt.open(source) as model:
        assert set(ours) == set(model)
        stored = {one.name: numpy_helper.to_array(one) for one in quantizer.model.model.graph.initializer}
        for part, rows in {"q": slice(0, 128), "k": slice(128, 192), "v": slice(192, 256)}.items():
            own = "model.layers.1.attn.qkv_proj.MatMul.weight"
            codes = np.stack([stored[f"{own}_Q4"] & 15, stored[f"{own}_Q4"] >> 4], -1).reshape(256, -1, 32)[rows]
            values = (codes.astype(np.float32) - 8) * stored[f"{own}_scales"].reshape(256, -1, 1)[rows]
            name = f"model.layers.1.self_attn.{part}_proj.weight"
            assert np.array_equal(ours[name].numpy(), values.reshape(len(values), -1)), name
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "in/config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    with pytest.raises(CorruptFile) as caught:
        modelfmt.plan(tmp_path / "in/model.onnx", tmp_path / "fused", to="compressed-tensors")
    assert caught.value.code == "onnx-fused"


def test_names_of_the_graph_without_a_configuration(blocks: Path, tmp_path: Path) -> None:
    """Codes as they are, values where a type is asked for, and folders of a scheme without an architecture."""
    path = tmp_path / "alone" / "m.onnx"
    path.parent.mkdir()
    shutil.copy(blocks / "auto/model.onnx", path)
    name = "model.layers.0.mlp.down_proj.weight"
    modelfmt.convert(path, tmp_path / "codes.safetensors")
    assert load_file(tmp_path / "codes.safetensors")[f"{name}_codes"].dtype == np.uint8
    modelfmt.convert(path, tmp_path / "values.safetensors", quant="F32")
    values = load_file(tmp_path / "values.safetensors")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(blocks / "m.gguf").tensors}["blk.0.ffn_down.weight"]
    assert np.array_equal(values[name], gguf.dequantize(stored.data, stored.tensor_type))
    modelfmt.convert(path, tmp_path / "ct", to="compressed-tensors", transcode="exact")
    assert set(json.loads((tmp_path / "ct/config.json").read_text())) == {"quantization_config"}
    with modelfmt.open(tmp_path / "ct") as model:
        assert np.array_equal(model[name].numpy(), values[name])
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.plan(path, tmp_path / "m.gguf")
    assert caught.value.code == "no-config" and "config.json of the original" in str(caught.value)


def test_other_names_are_refused(blocks: Path, tmp_path: Path) -> None:
    shutil.copytree(blocks / "auto", tmp_path / "in")
    path = tmp_path / "in/model.onnx"
    made: Any = onnx.load(path)
    for tensor in made.graph.initializer:
        tensor.name = tensor.name.replace("mlp.down_proj", "mlp.other")
    for node in made.graph.node:
        node.input[:] = [name.replace("mlp.down_proj", "mlp.other") for name in node.input]
    onnx.save(made, path)
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.plan(path, tmp_path / "m.gguf")
    assert caught.value.code == "onnx-names"


def test_a_configuration_without_heads_is_an_error(blocks: Path, tmp_path: Path) -> None:
    shutil.copytree(blocks / "auto", tmp_path / "in")
    config = json.loads((tmp_path / "in/config.json").read_text())
    (tmp_path / "in/config.json").write_text(json.dumps(config | {"num_attention_heads": 0}))
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(tmp_path / "in/model.onnx", tmp_path / "m.gguf")
    assert caught.value.code == "config-value"


def test_a_scheme_without_a_form_is_an_error(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints/qwen3", tmp_path / "in", to="onnx", quant="uint4:16")
    with pytest.raises(LossyError, match="block 16"):
        modelfmt.plan(tmp_path / "in/model.onnx", tmp_path / "out", to="mlx")
