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
import torch
import transformers
from onnx import helper

import modelfmt
import onnx_models
import schemes
from modelfmt import grids
from modelfmt.errors import ModelfmtError
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


def ort_quantizer(values: np.ndarray, bits: int, block: int, *, symmetric: bool) -> tuple[np.ndarray, ...]:
    """Codes, scales and zeros that ONNX Runtime's own quantizer makes of a matrix [n, k]."""
    from onnxruntime.capi import _pybind_state as ort

    n, k = values.shape
    blocks = k // block
    codes = np.zeros((n, blocks, block * bits // 8), np.uint8)
    scales, zeros = np.zeros((n, blocks), values.dtype), np.zeros((n, -(-blocks * bits // 8)), np.uint8)
    make = {4: ort.quantize_matmul_4bits, 8: ort.quantize_matmul_8bits}[bits]
    make(codes, np.ascontiguousarray(values.T), scales, zeros, block, n, k, symmetric)
    return codes, scales, zeros


@pytest.mark.parametrize("kind", ["int4", "uint4", "int4:16", "uint4:128", "int8:64", "uint8", "int4:256"])
@pytest.mark.parametrize("quant", ["F32", "F16"])
def test_integers_are_those_of_the_quantizer_of_onnx_runtime(kind: str, quant: str, wide: Any, tmp_path: Path) -> None:
    """Codes, scales and zeros, byte for byte, with scales of either type."""
    _, folder = wide
    if quant == "F16":
        modelfmt.convert(folder, tmp_path / "half", to="huggingface", quant="F16")
        folder = tmp_path / "half"
    plan = modelfmt.plan(folder, tmp_path / "m.onnx", quant=kind)
    modelfmt.run(plan)
    bits, block = (8 if "8" in kind.split(":")[0] else 4), int(kind.partition(":")[2] or 32)
    symmetric = kind.startswith("int")
    assert {loss.detail for loss in plan.losses} == {f"{quant} to {'' if symmetric else 'u'}int{bits}-{block}"}
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    with modelfmt.open(folder) as source:
        for name in ("model.layers.0.mlp.down_proj.weight", "lm_head.weight"):
            codes, scales, zeros = ort_quantizer(source[name].numpy(), bits, block, symmetric=symmetric)
            assert np.array_equal(found[f"{name}_codes"], codes)
            assert np.array_equal(found[f"{name}_scales"], scales)
            assert symmetric or np.array_equal(found[f"{name}_zero_points"], zeros)


def rounded(values: np.ndarray, bits: int, block: int, *, symmetric: bool) -> np.ndarray:
    """What the codes, scales and zeros of that quantizer stand for; of matrices of experts, one by one."""
    if values.ndim == 3:
        return np.stack([rounded(one, bits, block, symmetric=symmetric) for one in values])
    codes, scales, zeros = ort_quantizer(values, bits, block, symmetric=symmetric)
    codes, zeros = codes.reshape(len(codes), -1), zeros.reshape(len(codes), -1)
    if bits == 4:
        codes, zeros = (np.stack([part & 15, part >> 4], -1).reshape(len(part), -1) for part in (codes, zeros))
    zero = np.float32(1 << (bits - 1)) if symmetric else zeros[:, : scales.shape[1], None].astype("f4")
    return ((codes.reshape(*scales.shape, block).astype("f4") - zero) * scales[..., None]).reshape(values.shape)


@pytest.mark.parametrize("profile", ["auto", "onnx-standard"])
@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8:64"])
def test_what_integers_say_is_what_is_computed(kind: str, profile: str, wide: Any, tmp_path: Path) -> None:
    """Each product, beside the values that codes, scales and zeros stand for."""
    model, folder = wide
    modelfmt.convert(folder, tmp_path / "m.onnx", quant=kind, profile=profile)
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    bits, block, symmetric = (8 if "8" in kind else 4), (64 if "64" in kind else 32), kind.startswith("int")
    matrices = products(tmp_path / "m.onnx")
    assert len(matrices) == 8
    state = model.state_dict()
    for name, made in matrices.items():
        assert np.array_equal(made, rounded(state[name].numpy(), bits, block, symmetric=symmetric)), name


@pytest.mark.parametrize("profile", ["auto", "ort"])
@pytest.mark.parametrize("kind", ["int4", "uint4:64", "uint8"])
def test_experts_of_integers(kind: str, profile: str, experts: Path, tmp_path: Path) -> None:
    """In the loop, and in one node where they have four bits: the logits of the values that they stand for."""
    modelfmt.convert(experts, tmp_path / "m.onnx", quant=kind, profile=profile)
    ops = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert (ops.count("QMoE"), ops.count("Loop")) == ((1, 0) if profile == "ort" and "4" in kind[:5] else (0, 1))
    bits, block, symmetric = (8 if kind == "uint8" else 4), (64 if "64" in kind else 32), kind.startswith("int")
    model = transformers.AutoModelForCausalLM.from_pretrained(experts, dtype="float32").eval()
    shared = profile == "ort"  # the embedding is the head's matrix, quantized
    table = model.model.embed_tokens.weight.detach().clone()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "mlp.gate." not in name:
                weight.copy_(torch.tensor(rounded(weight.numpy(), bits, block, symmetric=symmetric)))
        if not shared:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
            model.model.embed_tokens.weight = torch.nn.Parameter(table)
    assert onnx_models.difference(model, tmp_path / "m.onnx", steps=2) < 1e-4


def test_rows_of_no_whole_blocks_take_a_smaller_one(tmp_path: Path) -> None:
    model = onnx_models.decoder("llama")  # 64 and 96 columns
    model.save_pretrained(tmp_path / "m")
    plan = modelfmt.plan(tmp_path / "m", tmp_path / "m.onnx", quant="int4:64")
    assert {loss.detail for loss in plan.losses} == {"F32 to int4-64", "F32 to int4-32"}


def test_integers_of_numbers_that_are_none(wide: Any, tmp_path: Path) -> None:
    with modelfmt.open(wide[1]) as source:
        arrays = {name: tensor.numpy().copy() for name, tensor in source.items()}
    arrays["lm_head.weight"][3, 77] = np.inf
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((wide[1] / "config.json").read_bytes())
    modelfmt.convert(arrays, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.convert(tmp_path / "m", tmp_path / "m.onnx", quant="int4")
    assert (caught.value.context["row"], caught.value.context["column"]) == (3, 77)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 mixture whose rows are whole blocks of every type, with tied embeddings."""
    kind, settings = onnx_models.DECODERS["qwen3-moe"]
    more = {"hidden_size": 256, "num_hidden_layers": 1, "moe_intermediate_size": 256, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings | more))
    folder = tmp_path_factory.mktemp("experts") / "model"
    onnx_models.shaken(model.float().eval()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("profile", ["auto", "ort", "onnx-standard"])
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_experts_and_embeddings_stay_in_their_blocks(kind: str, profile: str, experts: Path, tmp_path: Path) -> None:
    """Also where types are mixed, and where the head shares its blocks with the embedding."""
    modelfmt.convert(experts, tmp_path / "m.gguf", quant=kind)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.onnx", profile=profile)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype="float32").eval()
    assert onnx_models.difference(model, tmp_path / "m.onnx", steps=2) < 1e-4
    graph = onnx.load(tmp_path / "m.onnx").graph
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    body = [node.op_type for node in next(a.g for a in loop.attribute if a.name == "body").node]
    taken = {"Q8_0": (0, 3), "Q4_K_M": (0, 1)}[kind] if profile == "onnx-standard" else (3, 0)  # Q4_K has offsets
    assert (body.count("MatMulNBits"), body.count("DequantizeLinear")) == taken
    assert [node.op_type for node in graph.node].count("GatherBlockQuantized") == (profile == "ort")


def test_experts_that_have_no_operator_are_named(experts: Path, tmp_path: Path) -> None:
    plan = modelfmt.plan(experts, tmp_path / "m.onnx", quant="int4", profile="onnx-standard")
    assert sum("stays dense" in note.detail for note in plan.notes) == 3
    fused = modelfmt.plan(experts, tmp_path / "m.onnx", quant="int4", profile="ort")
    assert not any("stays dense" in note.detail for note in fused.notes)
    assert fused.bytes_written < plan.bytes_written / 3
