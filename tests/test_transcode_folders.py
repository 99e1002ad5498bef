"""Folders of other schemes: MLX, compressed-tensors and the text of GPTQ and AWQ read in them what was there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import modelfmt
import schemes
from modelfmt.errors import UnsupportedError
from schemes import Arrays, Values


def unpacked(words: np.ndarray[Any, Any], bits: int, n: int) -> Values:
    """n fields of a row of words, lowest first."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    fields = stream[..., : n * bits].reshape(*words.shape[:-1], n, bits).astype(np.int64) << np.arange(bits)
    return fields.sum(-1).astype(np.float64)


def wide(tensor: torch.Tensor, size: int) -> Values:
    return np.repeat(tensor.double().numpy(), size, axis=-1)


def read_mlx(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    own = config["quantization"]
    settings = {**own, **own[module]} if isinstance(own.get(module), dict) else own
    bits, group, mode = settings["bits"], settings["group_size"], settings.get("mode", "affine")
    given = {name: value.float() if name != "weight" and mode == "affine" else value for name, value in parts.items()}
    arrays = [mx.array(given[name].numpy()) for name in ("weight", "scales", "biases") if name in given]
    theirs = np.array(mx.dequantize(*arrays, group_size=group, bits=bits, mode=mode).astype(mx.float32))
    if mode != "affine":
        return theirs.astype(np.float64)
    codes = unpacked(parts["weight"].numpy(), bits, shape[1])
    values = codes * wide(parts["scales"], group) + wide(parts["biases"], group)
    assert np.allclose(values, theirs, rtol=0, atol=np.abs(theirs).max() * 2.0**-22)
    return values


def read_compressed(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32  # type: ignore[import-untyped]
    from compressed_tensors.quantization import QuantizationConfig  # type: ignore[import-untyped]

    section = config["quantization_config"]
    QuantizationConfig.model_validate(section)
    groups = section["config_groups"].values()
    weights = next((g for g in groups if module in g["targets"]), next(iter(groups)))["weights"]
    if "weight" in parts:
        columns = parts["weight_scale"].shape[1]
        scale = parts["weight_scale"].double().numpy()
        high, across = weights.get("block_structure") or (1, -(-shape[1] // columns))
        whole = np.repeat(np.repeat(scale, high, 0), across, 1)[: shape[0], : shape[1]]
        return parts["weight"].double().numpy() * whole
    bits = weights["num_bits"]
    assert tuple(parts["weight_shape"].tolist()) == shape
    codes = unpack_from_int32(parts["weight_packed"], bits, torch.Size(shape)).double().numpy()
    group = weights["group_size"] or shape[1]
    zeros = np.zeros((shape[0], shape[1] // group))
    if "weight_zero_point" in parts:
        found = unpack_from_int32(parts["weight_zero_point"], bits, torch.Size(zeros.shape), packed_dim=0)
        zeros = found.double().numpy()
    return (codes - np.repeat(zeros, group, 1)) * wide(parts["weight_scale"], group)


def read_gptq(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    section = config["quantization_config"]
    assert section["checkpoint_format"] == "gptq_v2"
    bits = parts["qweight"].shape[0] * 32 // shape[1]
    codes = unpacked(parts["qweight"].numpy().T, bits, shape[1])
    zeros = unpacked(parts["qzeros"].numpy(), bits, shape[0]).T
    index = parts["g_idx"].numpy()
    return (codes - zeros[:, index]) * parts["scales"].double().numpy().T[:, index]


def read_awq(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    """As autoawq's unpack_awq and reverse_awq_order do it."""
    inverse = [0, 4, 1, 5, 2, 6, 3, 7]

    def ordered(words: torch.Tensor) -> Values:
        fields = unpacked(words.numpy(), 4, words.shape[1] * 8)
        return fields.reshape(len(fields), -1, 8)[..., inverse].reshape(len(fields), -1).T

    group = shape[1] // parts["scales"].shape[0]
    zeros = np.repeat(ordered(parts["qzeros"]), group, 1)
    return (ordered(parts["qweight"]) - zeros) * np.repeat(parts["scales"].double().numpy().T, group, 1)


READERS: dict[str, Callable[[Arrays, dict[str, Any], str, tuple[int, int]], Values]] = {
    "mlx": read_mlx,
    "compressed-tensors": read_compressed,
    "gptq": read_gptq,
    "awq": read_awq,
}

EXACT = {
    "mlx": ("awq-g64", "gptq-4-v1", "gptq-3-v1", "gptq-8-v1", "ct-int4-sym", "ct-int8", "ct-mxfp4", "fp8-ue8m0"),
    "compressed-tensors": ("awq-g128", "awq-gemv-g64", "gptq-3-v1", "gptq-2-v1", "ct-int6-asym", "fp8-block"),
    "gptq": ("awq-g64", "ct-int4-asym", "ct-int3-asym", "gptq-8-v1", "gptq-4-sym"),
    "awq": ("gptq-4-v1", "ct-int4-channel", "awq-g64"),
}  # fmt: skip

FROM_GGUF = (("Q4_0", "awq"), ("Q5_0", "mlx"), ("Q4_K", "mlx"))
FROM_GGUF += (("IQ4_NL", "mlx"), ("IQ4_NL", "compressed-tensors"), ("IQ4_NL", "gptq"), ("MXFP4", "gptq"))
FROM_GGUF += (("Q8_0", "compressed-tensors"), ("Q6_K", "compressed-tensors"))


@pytest.mark.parametrize(("target", "name"), [(target, name) for target, names in EXACT.items() for name in names])
def test_folder_has_the_numbers(target: str, name: str, golden: Path, tmp_path: Path) -> None:
    values = schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    report = modelfmt.convert(tmp_path / "in", tmp_path / "out", to=target, transcode="exact")
    assert not report.losses
    check(tmp_path / "out", target, values, 0.0)


def check(folder: Path, target: str, values: dict[str, Values], bound: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for name, expected in values.items():
        module = name.removesuffix(".weight")
        parts = schemes.of_module(tensors, module)
        read = READERS[target](parts, config, module, (expected.shape[0], expected.shape[1]))
        assert np.abs(read - expected).max() <= bound * np.abs(expected).max(), name


@pytest.mark.parametrize(("kind", "target"), FROM_GGUF)
def test_gguf_becomes_a_folder(kind: str, target: str, golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints/llama3-big"
    modelfmt.convert(source, tmp_path / "in.gguf", quant="F16", tensor_types={"ffn": kind, "attn_[qkvo]": kind})
    report = modelfmt.convert(tmp_path / "in.gguf", tmp_path / "out", to=target, transcode="exact")
    assert not [loss for loss in report.losses if loss.kind != "dropped"]
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "in.gguf").tensors}
    names = {"mlp.down_proj": "ffn_down", "mlp.gate_proj": "ffn_gate", "self_attn.v_proj": "attn_v"}
    values = {}
    for module, short in names.items():
        tensor = found[f"blk.1.{short}.weight"]
        assert tensor.tensor_type.name == kind
        values[f"model.layers.1.{module}.weight"] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(
            float
        )
    check(tmp_path / "out", target, values, 2.0**-24)


def test_transformers_runs_the_folder(golden: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = golden / "checkpoints/llama3-big"
    values = schemes.write(schemes.SCHEMES["gptq-4-sym"], source, tmp_path / "in", layers=2)
    modelfmt.convert(tmp_path / "in", tmp_path / "out", to="compressed-tensors")
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    plain.model.layers = plain.model.layers[:2]
    weights = dict(plain.named_parameters())
    tokens = torch.tensor([[1, 17, 300, 44, 5, 260, 99, 480]])
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        assert (loaded(tokens).logits - plain(tokens).logits).abs().max() <= 1e-3


def test_awq_and_back_is_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES["awq-g64"], golden / "checkpoints/llama3-big", tmp_path / "a", layers=1)
    modelfmt.convert(tmp_path / "a", tmp_path / "b", to="gptq")
    modelfmt.convert(tmp_path / "b", tmp_path / "c", to="awq")
    before, after = load_file(tmp_path / "a/model.safetensors"), load_file(tmp_path / "c/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_awq_has_one_size_of_groups() -> None:
    """A row that is one group of that size is no other size; where all rows are groups of their own, -1 says so."""
    from modelfmt.checkpoints import awq

    def size(*found: tuple[int, bool]) -> int:
        modules = {str(i): {"group_size": group, "whole": whole} for i, (group, whole) in enumerate(found)}
        section: dict[str, Any] = awq.configuration(modules, [])["quantization_config"]
        return int(section["group_size"])

    assert size((128, False), (128, True)) == 128
    assert size((128, True), (256, True)) == -1
    with pytest.raises(UnsupportedError) as caught:
        size((128, False), (256, True))
    assert caught.value.code == "mixed-groups"


@pytest.mark.parametrize("scheme", ["modelopt-nvfp4", "ct-nvfp4"])
def test_four_bit_floats_come_back_from_gguf(scheme: str, golden: Path, tmp_path: Path) -> None:
    """With the scale of the whole, which lies beside the blocks as a tensor of its own: within a rounded float32."""
    from cells import read_folder

    values = schemes.write(schemes.SCHEMES[scheme], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    modelfmt.convert(tmp_path / "in", tmp_path / "m.gguf")
    report = modelfmt.convert(tmp_path / "m.gguf", tmp_path / "out", to="compressed-tensors", transcode="near:1.2e-7")
    assert {loss.kind for loss in report.losses} == {"approximated"}
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    shapes = {name: (value.shape[0], value.shape[1]) for name, value in values.items()}
    for name, found in read_folder(tmp_path / "out", "compressed-tensors", shapes).items():
        assert np.abs(found - values[name]).max() <= 2.0**-22 * np.abs(values[name]).max()
        for part in ("packed", "scale") if scheme == "ct-nvfp4" else ():
            one, two = before[f"{name}_{part}"], after[f"{name}_{part}"]
            assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "hf", to="huggingface", quant="F32")
    with modelfmt.open(tmp_path / "hf") as model:
        for name, value in values.items():
            assert np.abs(model[name].numpy() - value).max() <= 2.0**-22 * np.abs(value).max()


EXPERTS_APART = {
    # llm-compressor's first class of its own, and its later one (pull requests 2113 and 3100)
    "gpt-oss": "model.layers.{i}.mlp.experts.experts.{e}.{part}.weight",
    "gpt-oss-later": "model.layers.{i}.mlp.experts.{e}.{part}.weight",
}


def apart(golden: Path, folder: Path, name: str) -> None:
    """gpt-oss with a module for each expert's weights."""
    shutil.copytree(golden / "checkpoints/gpt-oss", folder)
    tensors = load_file(folder / "model.safetensors")
    for i in range(2):
        prefix = f"model.layers.{i}.mlp.experts"
        both, down = (tensors.pop(f"{prefix}.{part}").transpose(1, 2) for part in ("gate_up_proj", "down_proj"))
        for e, (gate_up, one) in enumerate(zip(both, down, strict=True)):
            for part, value in (("gate_proj", gate_up[0::2]), ("up_proj", gate_up[1::2]), ("down_proj", one)):
                tensors[name.format(i=i, e=e, part=part)] = value.contiguous()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("kind", EXPERTS_APART)
def test_experts_apart_do_not_become_those_of_gpt_oss(kind: str, golden: Path, tmp_path: Path) -> None:
    apart(golden, tmp_path / "plain", EXPERTS_APART[kind])
    modelfmt.convert(tmp_path / "plain", tmp_path / "in", to="compressed-tensors", quant="mxfp4")
    refuse_mxfp4(tmp_path / "in", "gpt_oss")


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "qwen3_vl_moe"])
def test_mxfp4_is_for_gpt_oss(model_type: str, golden: Path, tmp_path: Path) -> None:
    """Also where experts are stacked under the same names: transformers has the form for gpt-oss alone."""
    source = tmp_path / "in"
    if model_type == "qwen3_vl_moe":
        shutil.copytree(golden / "checkpoints/gpt-oss", source)
        config = json.loads((source / "config.json").read_text()) | {"model_type": model_type}
        (source / "config.json").write_text(json.dumps(config))
    else:
        given = golden / "checkpoints" / model_type.replace("_", "-")
        modelfmt.convert(given, source, to="compressed-tensors", quant="mxfp4")
    refuse_mxfp4(source, model_type)


def refuse_mxfp4(source: Path, model_type: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        modelfmt.plan(source, source.parent / "out", to="mxfp4")
    assert refused.value.code == "nothing-quantized"
    assert f"mxfp4 for {model_type}" in str(refused.value)
    assert "experts of gpt_oss" in str(refused.value)
