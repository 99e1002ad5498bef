"""Quantized weights in ONNX: carried over from GGUF, or made; what ONNX Runtime computes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from onnx import helper

import modelfmt
import onnx_models
import schemes
from modelfmt import grids
from modelfmt.grids import LAYOUTS
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import Constant
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

WIDE = onnx_models.DECODER | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A Llama whose rows are whole blocks of every type, in float32."""
    config = transformers.LlamaConfig(**WIDE)
    model = onnx_models.shaken(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    folder = tmp_path_factory.mktemp("wide") / "model"
    model.save_pretrained(folder)
    return model, folder


def products(path: Path) -> dict[str, np.ndarray]:
    """The matrices of every quantized product in a model, as ONNX Runtime computes them from an identity."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            depth = next(a.i for a in node.attribute if a.name == "K")
            used, x = [node], node.input[0]
        elif node.op_type == "DequantizeLinear":
            product = next(other for other in model.graph.node if node.output[0] in other.input)
            depth = constants[node.input[0]].dims[1]
            used, x = [node, product], product.input[0]
        else:
            continue
        needed = [constants[name] for one in used for name in one.input if name in constants]
        value = helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [depth, depth])
        result = onnx.ValueInfoProto(name=used[-1].output[0])
        graph = helper.make_graph(used, "g", [value], [result], needed)
        single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=11)
        run = onnxruntime.InferenceSession(single.SerializeToString(), providers=["CPUExecutionProvider"])
        (made,) = run.run(None, {x: np.eye(depth, dtype=np.float32)})
        found[needed[0].name.rsplit("_", 1)[0]] = made.T
    return found


EXACT = {
    "Q4_0": 0.0,
    "Q5_0": 0.0,
    "Q8_0": 0.0,
    "Q6_K": 0.0,
    "Q3_K": 0.0,
    "IQ4_NL": 0.0,
    "IQ4_XS": 0.0,
    "Q2_0": 0.0,
    "TQ2_0": 0.0,
    "Q1_0": 0.0,
    "Q4_1": 2e-7,
    "Q4_K": 2e-7,
    "Q2_K": 2e-7,
}
FLOAT = {"Q5_1", "Q5_K"}
"""Types that no operator takes: MatMulNBits of 8 bits has no float zero points."""


@pytest.mark.parametrize("profile", ["auto", "onnx-standard"])
@pytest.mark.parametrize("kind", EXACT)
def test_gguf_blocks_are_carried_over(kind: str, profile: str, wide: Any, tmp_path: Path) -> None:
    """Bit for bit where there is no offset, within the rounding of float32 elsewhere; the logits follow."""
    _, folder = wide
    modelfmt.convert(folder, tmp_path / "m.gguf", quant=kind, pure=True)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.onnx", profile=profile)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    matrices = products(tmp_path / "m.onnx")
    assert len(matrices) == (8 if profile == "auto" or not LAYOUTS[kind].zeros else 0)
    with modelfmt.open(tmp_path / "dense") as dense:
        for name, made in matrices.items():
            wanted = dense[name].numpy()
            assert np.abs(made - wanted).max() <= EXACT[kind] * np.abs(wanted).max(), name
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype="float32").eval()
    assert onnx_models.difference(model, tmp_path / "m.onnx", steps=2) < 1e-4


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_made_from_a_checkpoint(kind: str, wide: Any, tmp_path: Path) -> None:
    """The same codes as in the GGUF file of that type; each weight is named as a loss."""
    _, folder = wide
    plan = modelfmt.plan(folder, tmp_path / "m.onnx", quant=kind)
    assert {(loss.kind, loss.detail) for loss in plan.losses} == {("quantized", f"F32 to {kind}")}
    assert len(plan.losses) == 8
    modelfmt.run(plan)
    modelfmt.convert(folder, tmp_path / "m.gguf", quant=kind, pure=True, intermediate="F32")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    matrices = products(tmp_path / "m.onnx")
    with modelfmt.open(tmp_path / "dense") as dense:
        for name, made in matrices.items():
            wanted = dense[name].numpy()
            assert np.abs(made - wanted).max() <= EXACT[kind] * np.abs(wanted).max(), name


def test_a_quantized_file_becomes_dense_when_asked(wide: Any, tmp_path: Path) -> None:
    _, folder = wide
    modelfmt.convert(folder, tmp_path / "m.gguf", quant="Q8_0")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.onnx", quant="F16")
    assert products(tmp_path / "m.onnx") == {}


def test_every_type_that_comes_apart_is_in_the_table() -> None:
    assert set(LAYOUTS) - FLOAT - {"MXFP4", "NVFP4"} == set(EXACT)


def test_blocks_without_an_operator_are_named(wide: Any, tmp_path: Path) -> None:
    _, folder = wide
    modelfmt.convert(folder, tmp_path / "m.gguf", quant="Q5_1", pure=True)
    plan = modelfmt.plan(tmp_path / "m.gguf", tmp_path / "m.onnx")
    assert any(note.subject == "Q5_1" and "F32" in note.detail for note in plan.notes)


def test_memory_is_that_of_tiles(wide: Any, tmp_path: Path) -> None:
    """Codes and scales of a large matrix are made a few rows at a time."""
    folder = tmp_path / "large"
    folder.mkdir()
    config = json.loads((wide[1] / "config.json").read_text()) | {"vocab_size": 1 << 20}
    (folder / "config.json").write_text(json.dumps(config))
    with modelfmt.open(wide[1]) as small:
        arrays = {name: tensor.numpy() for name, tensor in small.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = np.broadcast_to(np.float16(0), (1 << 20, 256))
    plan = modelfmt.plan(folder_of(arrays, folder), tmp_path / "m.onnx", quant="Q4_0")
    assert plan.peak_memory < 20_000_000


def folder_of(arrays: dict[str, np.ndarray], folder: Path) -> Path:
    """A checkpoint of the shapes of arrays; its weights are a hole in the file."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F16", "shape": array.shape, "data_offsets": [at, at + array.size * 2]}
        at += array.size * 2
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return folder


SCHEMES = {"awq-g64": 4, "gptq-4-sym": 4, "gptq-8-v1": 8, "ct-int4-asym": 4, "ct-mxfp4": 8, "gptq-3-v1": 4}
"""Scheme of a checkpoint -> bits of its codes in ONNX."""


@pytest.mark.parametrize("name", SCHEMES)
def test_codes_of_quantized_checkpoints_are_carried_over(name: str, golden: Path, tmp_path: Path) -> None:
    """Bit for bit, with whole zero points as integers."""
    values = schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    modelfmt.convert(tmp_path / "in", tmp_path / "m.onnx")
    nodes = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "MatMulNBits"]
    assert {a.i for node in nodes for a in node.attribute if a.name == "bits"} == {SCHEMES[name]}
    matrices = products(tmp_path / "m.onnx")
    assert matrices.keys() >= values.keys()
    for key, expected in values.items():
        assert np.array_equal(matrices[key], expected.astype(np.float32)), key


@pytest.mark.parametrize("kind", sorted(set(LAYOUTS) - {"Q1_0", "Q2_0"}))  # which gguf 0.19 does not read
def test_types_come_apart(kind: str) -> None:
    """Codes less zeros times scales are what gguf says the blocks are, within one rounding where there is an offset."""
    row = ENCODINGS[kind]
    n_cols = 2 * max(row.block_elements, 64)
    rng = np.random.default_rng(1)
    blocks = modelfmt.quantize(rng.standard_normal((3, n_cols)).astype(np.float32), kind)
    found = grids.apart(Constant(blocks.tobytes(), (3, n_cols), kind))
    assert found is not None
    reader = Evaluator(Files())
    codes = reader.rows(found.codes, 0, 3)
    if found.layout.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    codes = codes.reshape(3, -1, found.layout.block).astype(np.float64)
    scales = reader.values(found.scales, 0, 3).astype(np.float64)[..., None]
    zeros = np.full((3, 1), 1 << (found.layout.bits - 1)) if found.zeros is None else reader.values(found.zeros, 0, 3)
    made = ((codes - zeros[..., None]) * scales).reshape(3, n_cols)
    wanted = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.abs(made - wanted).max() <= (2e-7 if found.zeros is not None else 0.0) * np.abs(wanted).max()
