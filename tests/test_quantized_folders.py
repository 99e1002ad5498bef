"""Weights that are not quantized become folders of a scheme: the codes are those of the scheme's own program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import modelfmt
import schemes
from modelfmt.errors import LossyError, UnsupportedError, UsageError
from schemes import Arrays, Values
from test_transcode_folders import READERS

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


@pytest.fixture(scope="module")
def plain(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One layer of a Llama with a group of nothing and an outlier, in float32 and bfloat16."""
    found = {}
    for name, dtype in DTYPES.items():

        def make(weights: Any, rng: np.random.Generator, dtype: torch.dtype = dtype) -> schemes.Made:
            weights = weights.copy()
            weights[0, :128], weights[1, 5] = 0, 3.25
            tensor = torch.from_numpy(weights).to(dtype)
            return {"weight": tensor}, tensor.double().numpy()

        found[name] = tmp_path_factory.mktemp("plain") / name
        schemes.write(schemes.Scheme({}, make), golden / "checkpoints/llama3-big", found[name], layers=1)
    return found


def given(folder: Path) -> Arrays:
    return {k: v for k, v in load_file(folder / "model.safetensors").items() if schemes.linear(k)}


def compressed(weights: torch.Tensor, scale: torch.dtype, **settings: Any) -> Values:
    """The values after compressed-tensors' own observer formula and rounding, in float32."""
    from compressed_tensors.quantization import QuantizationArgs  # type: ignore[import-untyped]
    from compressed_tensors.quantization.lifecycle.forward import quantize  # type: ignore[import-untyped]
    from compressed_tensors.quantization.utils import calculate_qparams  # type: ignore[import-untyped]

    x, args = weights.float(), QuantizationArgs(**settings)
    n, k = x.shape
    size = settings.get("group_size") or k
    if (block := settings.get("block_structure")) is not None:
        high, wide = block
        padded = torch.zeros(-(-n // high) * high, -(-k // wide) * wide)
        padded[:n, :k] = x
        pieces = padded.reshape(-(-n // high), high, -(-k // wide), wide)
        scales, zeros = calculate_qparams(pieces.amin((1, 3)), pieces.amax((1, 3)), args)
        size = wide
    else:
        pieces = x.reshape(n, k // size, size)
        scales, zeros = calculate_qparams(pieces.amin(-1), pieces.amax(-1), args)
    scales = torch.where(scales.to(scale) == 0, torch.finfo(scale).eps, scales.to(scale)).float()
    zeros = torch.where(pieces.amax(-1) == pieces.amin(-1), 0, zeros) if block is None else zeros
    codes = quantize(x=x, scale=scales, zero_point=zeros, args=args).double().numpy()
    wide_scales, wide_zeros = (np.repeat(part.double().numpy(), size, 1)[:, :k] for part in (scales, zeros))
    if block is not None:
        wide_scales, wide_zeros = (np.repeat(part, block[0], 0)[:n] for part in (wide_scales, wide_zeros))
    return (codes - wide_zeros) * wide_scales


INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
CASES = {
    ("awq", "auto", "F32"): (torch.float16, {**INT4, "symmetric": False}),
    ("gptq", "auto", "BF16"): (torch.float16, INT4),
    ("gptq", "int8", "F32"): (torch.float16, {**INT4, "num_bits": 8}),
    ("compressed-tensors", "auto", "BF16"): (torch.bfloat16, INT4),
    ("compressed-tensors", "int4-asymmetric", "F32"): (torch.float32, {**INT4, "symmetric": False}),
    ("compressed-tensors", "int8", "BF16"): (torch.bfloat16, {**INT4, "num_bits": 8}),
    ("compressed-tensors", "fp8", "BF16"): (torch.bfloat16, {**FP8, "strategy": "channel"}),
    ("compressed-tensors", "fp8-block", "BF16"): (
        torch.float32,
        {**FP8, "strategy": "block", "block_structure": [128, 128]},
    ),
}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_codes_are_those_of_compressed_tensors(
    case: tuple[str, str, str], plain: dict[str, Path], tmp_path: Path
) -> None:
    target, label, source = case
    scale, settings = CASES[case]
    report = modelfmt.convert(plain[source], tmp_path / "out", to=target, quant=label)
    assert not report.losses
    assert "7 matrices are quantized" in report.notes[0].detail
    tensors = load_file(tmp_path / "out/model.safetensors")
    config = json.loads((tmp_path / "out/config.json").read_text())
    for name, weights in given(plain[source]).items():
        module = name.removesuffix(".weight")
        parts = schemes.of_module(tensors, module)
        read = READERS[target](parts, config, module, (weights.shape[0], weights.shape[1]))
        assert np.array_equal(read, compressed(weights, scale, **settings)), name


FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("label", ["nvfp4", "mxfp8"])
def test_bytes_are_those_of_compressed_tensors(label: str, source: str, plain: dict[str, Path], tmp_path: Path) -> None:
    """Its formula for scales in float32, and its compressor."""
    from compressed_tensors.compressors import BaseCompressor  # type: ignore[import-untyped]
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme  # type: ignore[import-untyped]
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    modelfmt.convert(plain[source], tmp_path / "out", to="compressed-tensors", quant=label)
    tensors = load_file(tmp_path / "out/model.safetensors")
    section = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    preset = preset_name_to_scheme({"nvfp4": "NVFP4A16", "mxfp8": "MXFP8A16"}[label], ["Linear"])
    scheme = QuantizationScheme.model_validate(section["config_groups"]["group_0"])
    assert scheme.weights.group_size == preset.weights.group_size
    compressor = BaseCompressor.get_value_from_registry(section["format"])
    for name, weights in given(plain[source]).items():
        module, x = name.removesuffix(".weight"), weights.float()
        pieces = x.unflatten(-1, (-1, preset.weights.group_size))
        home, part = module.rsplit(".", 1)  # vLLM fuses these, and wants one scale for all
        fused = next((parts for parts in FUSED if part in parts), (part,))
        most = max(given(plain[source])[f"{home}.{other}.weight"].abs().max().float() for other in fused)
        whole = generate_gparam(-most, most) if label == "nvfp4" else None
        scale, _ = calculate_qparams(pieces.amin(-1), pieces.amax(-1), preset.weights, whole)
        state = {"weight": x, "weight_scale": scale}
        state |= {"weight_global_scale": whole} if whole is not None else {}
        expected = compressor.compress(state, preset)
        found = schemes.of_module(tensors, module)
        assert found.keys() == expected.keys()
        for part, value in expected.items():
            assert torch.equal(found[part].view(torch.uint8), value.contiguous().view(torch.uint8)), (name, part)
            assert found[part].dtype == value.dtype


def test_fp8_folder_is_the_block_form(plain: dict[str, Path], tmp_path: Path) -> None:
    modelfmt.convert(plain["BF16"], tmp_path / "fp8", to="fp8")
    modelfmt.convert(plain["BF16"], tmp_path / "ct", to="compressed-tensors", quant="fp8-block")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("fp8", "ct"))
    for name in given(plain["BF16"]):
        assert torch.equal(ours[name].view(torch.uint8), theirs[name].view(torch.uint8))
        assert torch.equal(ours[f"{name}_scale_inv"], theirs[f"{name}_scale"])


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bytes_are_those_of_mlx(bits: int, source: str, plain: dict[str, Path], tmp_path: Path) -> None:
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    modelfmt.convert(plain[source], tmp_path / "out", to="mlx", quant=f"int{bits}")
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, weights in given(plain[source]).items():
        array = mx.array(weights.float().numpy()).astype(mx.float32 if source == "F32" else mx.bfloat16)
        module = name.removesuffix(".weight")
        for part, value in zip(("weight", "scales", "biases"), mx.quantize(array, 64, bits), strict=True):
            found = tensors[f"{module}.{part}"]
            expected = np.array(value if part == "weight" else value.astype(mx.float32))
            assert np.array_equal(found.numpy() if part == "weight" else found.float().numpy(), expected), (name, part)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_small_floats_are_those_of_mlx(mode: str, source: str, plain: dict[str, Path], tmp_path: Path) -> None:
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    modelfmt.convert(plain[source], tmp_path / "out", to="mlx", quant=mode)
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, weights in given(plain[source]).items():
        array = mx.array(weights.float().numpy()).astype(mx.float32 if source == "F32" else mx.bfloat16)
        for part, value in zip(("weight", "scales"), mx.quantize(array, mode=mode), strict=True):
            found = tensors[f"{name.removesuffix('.weight')}.{part}"].numpy()
            assert found.dtype == np.array(value).dtype
            assert np.array_equal(found, np.array(value)), (name, part)


@pytest.mark.parametrize("source", DTYPES)
def test_eight_bits_are_those_of_bitsandbytes(source: str, plain: dict[str, Path], tmp_path: Path) -> None:
    """Its layer rounds weights to float16 first, which changes none of these in bfloat16."""
    from bitsandbytes import functional as bnb  # type: ignore[import-untyped,unused-ignore]

    modelfmt.convert(plain[source], tmp_path / "out", to="bitsandbytes", quant="int8")
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, weights in given(plain[source]).items():
        codes, scales, _ = bnb.int8_vectorwise_quant(weights.half() if source == "BF16" else weights)
        module = name.removesuffix(".weight")
        assert torch.equal(tensors[name], codes)
        assert torch.equal(tensors[f"{module}.SCB"], scales)
        assert tensors[f"{module}.weight_format"].shape == ()
    with modelfmt.open(tmp_path / "out") as model:
        for name in given(plain[source]):
            theirs = bnb.int8_vectorwise_dequant(tensors[name], tensors[f"{name.removesuffix('.weight')}.SCB"])
            assert np.abs(model[name].numpy() - theirs.float().numpy()).max() < 1e-6


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
def test_bytes_are_those_of_bitsandbytes(source: str, nested: bool, plain: dict[str, Path], tmp_path: Path) -> None:
    from bitsandbytes import functional as bnb  # type: ignore[import-untyped,unused-ignore]

    modelfmt.convert(plain[source], tmp_path / "out", to="bitsandbytes", quant="nf4-nested" if nested else "nf4")
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, weights in given(plain[source]).items():
        packed, state = bnb.quantize_4bit(weights, compress_statistics=False, quant_type="nf4")
        expected = {"weight": packed}
        if nested:  # its mean is a sum in an order of its own: the last bit is not the same on every machine
            mean = state.absmax.double().mean().float()
            assert abs(mean - state.absmax.mean()) <= 2e-7 * mean
            codes, second = bnb.quantize_blockwise(state.absmax - mean, blocksize=256)
            scaled = (state.absmax - mean) * (1 / second.absmax).repeat_interleave(256)[: len(codes)]
            nearest = torch.bucketize(scaled, (second.code[:-1] + second.code[1:]) / 2).to(torch.uint8)
            assert (nearest != codes).double().mean() < 0.01  # its CPU library's steps are coarse
            state.absmax, state.offset, state.state2, state.nested = nearest, mean, second, True
        expected |= {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        module = name.removesuffix(".weight")
        found = schemes.of_module(tensors, module)
        assert found.keys() == expected.keys()
        for part, value in expected.items():
            if "quant_state" in part:
                assert json.loads(found[part].numpy().tobytes()) == json.loads(value.numpy().tobytes())
            else:
                assert torch.equal(found[part], value), (name, part)


@pytest.mark.parametrize(
    ("scheme", "target"),
    [
        *((name, "bitsandbytes") for name in ("bnb-nf4", "bnb-nf4-nested", "bnb-int8")),
        *((name, "compressed-tensors") for name in ("ct-mxfp4", "ct-mxfp8", "ct-nvfp4")),
        *((name, "mlx") for name in ("mlx-mxfp8", "mlx-nvfp4")),
    ],
)
def test_a_scheme_stays_as_it_is(scheme: str, target: str, golden: Path, tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES[scheme], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    report = modelfmt.convert(tmp_path / "in", tmp_path / "out", to=target, transcode="exact")
    assert not report.losses
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    before = {name: value for name, value in before.items() if "input_global" not in name}  # of activations
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "quant_state" not in name:
            assert torch.equal(value.reshape(-1).view(torch.uint8), after[name].reshape(-1).view(torch.uint8)), name


def test_experts_of_gpt_oss_are_those_of_ggml(golden: Path, tmp_path: Path) -> None:
    """Through GGUF, where llama.cpp's quantizer makes the blocks, and directly: the same bytes; values by
    transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    source = golden / "checkpoints/gpt-oss"
    modelfmt.convert(source, tmp_path / "m.gguf", quant="MXFP4_MOE")
    modelfmt.convert(source, tmp_path / "direct", to="mxfp4")
    report = modelfmt.convert(tmp_path / "m.gguf", tmp_path / "moved", to="mxfp4")
    assert not [loss for loss in report.losses if "experts" in loss.subject]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("direct", "moved"))
    names = [name.removesuffix("_blocks") for name in ours if name.endswith("_blocks")]
    assert len(names) == 4
    with modelfmt.open(tmp_path / "moved") as model:
        for name in names:
            blocks, scales = theirs[f"{name}_blocks"], theirs[f"{name}_scales"]
            assert torch.equal(ours[f"{name}_blocks"], blocks)
            assert torch.equal(ours[f"{name}_scales"], scales)
            values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            assert np.array_equal(model[name].numpy(), values.numpy())


def test_a_quantized_source_needs_leave(golden: Path, plain: dict[str, Path], tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES["awq-g64"], golden / "checkpoints/llama3-big", tmp_path / "awq", layers=1)
    with pytest.raises(LossyError) as caught:
        modelfmt.plan(tmp_path / "awq", tmp_path / "out", to="bitsandbytes", quant="nf4")
    assert caught.value.code == "requantize"
    planned = modelfmt.plan(tmp_path / "awq", tmp_path / "out", to="bitsandbytes", quant="nf4", allow_requantize=True)
    assert [loss.kind for loss in planned.losses] == ["requantized"] * 7
    kept = modelfmt.plan(tmp_path / "awq", tmp_path / "out", to="bitsandbytes", transcode="any", allow_requantize=True)
    assert [loss.kind for loss in kept.losses] == ["requantized"] * 7


def test_what_has_no_form_is_refused(golden: Path, plain: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        modelfmt.plan(plain["F32"], tmp_path / "out", to="awq", quant="int3")
    assert caught.value.code == "quant-container"
    for source, target in ((golden / "checkpoints/gpt2", "awq"), (plain["F32"], "mxfp4")):
        with pytest.raises(UnsupportedError) as refused:
            modelfmt.plan(source, tmp_path / "out", to=target)
        assert refused.value.code == "nothing-quantized"


def test_tiles_change_no_byte(plain: dict[str, Path], tmp_path: Path) -> None:
    import msgspec

    from modelfmt.executor import run

    for target, label in (("gptq", "auto"), ("fp8", "auto"), ("bitsandbytes", "nf4-nested")):
        found = []
        for tile in (1 << 20, 3000):
            folder = tmp_path / f"{target}{tile}"
            planned = modelfmt.plan(plain["BF16"], folder, to=target, quant=label)
            run(msgspec.structs.replace(planned, tile_elements=tile), threads=2)
            found.append((folder / "model.safetensors").read_bytes())
        assert found[0] == found[1]


def test_a_value_that_is_no_number_is_an_error(plain: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(plain["F32"], tmp_path / "in")
    tensors = load_file(tmp_path / "in/model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 7] = float("nan")
    save_file(tensors, tmp_path / "in/model.safetensors")
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.convert(tmp_path / "in", tmp_path / "out", to="awq")
    assert caught.value.code == "not-finite"
    assert not (tmp_path / "out/model.safetensors").exists()
