"""Quantized weights in OpenVINO: carried over from GGUF and from quantized checkpoints, or made; what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import modelfmt
import onnx_models
import openvino_models
import schemes
from test_onnx_quantized import products

WIDE = onnx_models.DECODER | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
EXACT = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "Q6_K", "Q3_K", "IQ4_NL", "IQ4_XS"), 0.0),
    **dict.fromkeys(("Q4_1", "Q4_K", "Q5_1", "Q5_K", "Q2_K"), 2e-7),
}
"""Type -> how far its values may be off, relative to the largest: zeros of types that store an offset are quotients."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose rows are whole blocks of every type, in float32."""
    config = transformers.LlamaConfig(**WIDE)
    model = onnx_models.shaken(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    folder = tmp_path_factory.mktemp("wide") / "model"
    model.save_pretrained(folder)
    return folder


def compare(made: dict[str, np.ndarray], dense: Path, bound: float, n_matrices: int) -> None:
    """Matrices as OpenVINO has them beside those of a checkpoint."""
    assert len(made) == n_matrices
    with modelfmt.open(dense) as model:
        for name, found in made.items():
            wanted = model[name].numpy()
            assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max(), name


@pytest.mark.parametrize("kind", EXACT)
def test_gguf_blocks_are_carried_over(kind: str, wide: Path, tmp_path: Path) -> None:
    """Bit for bit where there is no offset, within the rounding of float32 elsewhere; the embedding, too."""
    modelfmt.convert(wide, tmp_path / "m.gguf", quant=kind, pure=True)
    plan = modelfmt.plan(tmp_path / "m.gguf", tmp_path / "m.xml")
    assert not [loss for loss in plan.losses if loss.kind != "dropped"]
    modelfmt.run(plan)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    compare(openvino_models.matrices(tmp_path / "m.xml"), tmp_path / "dense", EXACT[kind], 9)
    assert not openvino_models.misjudged(tmp_path / "m.xml")


@pytest.mark.parametrize(("kind", "code"), [("Q4_0", "i4"), ("Q4_K", "u4"), ("Q6_K", "i8"), ("Q5_K", "u8")])
def test_logits_follow(kind: str, code: str, wide: Path, tmp_path: Path) -> None:
    """The plugin keeps all matrices and the embedding as codes, under float zeros, too."""
    modelfmt.convert(wide, tmp_path / "m.gguf", quant=kind, pure=True)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.xml")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype="float32").eval()
    run = openvino_models.compiled(tmp_path / "m.xml")
    assert openvino_models.difference(model, run, steps=2) < 1e-4
    assert len(openvino_models.constants(run, code)) >= 9


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0"])
def test_blocks_are_made_from_a_checkpoint(kind: str, wide: Path, tmp_path: Path) -> None:
    """The same codes as in the GGUF file of that type; each weight is named as a loss."""
    plan = modelfmt.plan(wide, tmp_path / "m.xml", quant=kind)
    assert {(loss.kind, loss.detail) for loss in plan.losses} == {("quantized", f"F32 to {kind}")}
    assert len(plan.losses) == 8
    modelfmt.run(plan)
    modelfmt.convert(wide, tmp_path / "m.gguf", quant=kind, pure=True, intermediate="F32")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    compare(openvino_models.matrices(tmp_path / "m.xml"), tmp_path / "dense", EXACT[kind], 8)


@pytest.mark.parametrize(("kind", "code"), [("int4", "i4"), ("uint4:64", "u4"), ("int8", "i8"), ("uint8", "u8")])
def test_integers_are_those_of_onnx(kind: str, code: str, wide: Path, tmp_path: Path) -> None:
    """The matrices that ONNX Runtime computes from the ONNX graph of the same type, whole zeros as integers."""
    modelfmt.convert(wide, tmp_path / "m.xml", quant=kind)
    modelfmt.convert(wide, tmp_path / "m.onnx", quant=kind)
    made, wanted = openvino_models.matrices(tmp_path / "m.xml"), products(tmp_path / "m.onnx")
    assert made.keys() == wanted.keys()
    for name, found in made.items():
        assert np.abs(found - wanted[name]).max() <= 1e-6 * np.abs(wanted[name]).max(), name
    assert len(openvino_models.constants(openvino_models.compiled(tmp_path / "m.xml"), code)) >= 8


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_experts_stay_quantized(kind: str, tmp_path: Path) -> None:
    """As codes of all experts in one constant, which the plugin multiplies by those that were chosen."""
    onnx_models.decoder("qwen3-moe").save_pretrained(tmp_path / "torch")
    modelfmt.convert(tmp_path / "torch", tmp_path / "m.gguf", quant=kind, pure=True)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.xml")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "dense", to="huggingface", quant="F32")
    eager: dict[str, Any] = {"dtype": "float32", "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", **eager).eval()
    run = openvino_models.compiled(tmp_path / "m.xml")
    assert openvino_models.difference(model, run, steps=2) < 1e-5
    kept = openvino_models.constants(run, "i4" if kind == "Q4_0" else "u4")
    assert openvino_models.kernels(run)["GatherMatmul"] == 9
    assert sum(len(shape) == 3 for shape in kept) == 9


SCHEMES = ("awq-g64", "gptq-4-sym", "gptq-8-v1", "ct-int4-asym", "ct-mxfp4", "gptq-3-v1")


@pytest.mark.parametrize("name", SCHEMES)
def test_codes_of_quantized_checkpoints_are_carried_over(name: str, golden: Path, tmp_path: Path) -> None:
    """Bit for bit, with whole zeros as integers."""
    values = schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    modelfmt.convert(tmp_path / "in", tmp_path / "m.xml")
    made = openvino_models.matrices(tmp_path / "m.xml")
    assert made.keys() >= values.keys()
    for key, expected in values.items():
        assert np.array_equal(made[key], expected.astype(np.float32)), key


def test_a_quantized_file_becomes_dense_when_asked(wide: Path, tmp_path: Path) -> None:
    modelfmt.convert(wide, tmp_path / "m.gguf", quant="Q8_0")
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.xml", quant="F16")
    assert openvino_models.matrices(tmp_path / "m.xml") == {}
