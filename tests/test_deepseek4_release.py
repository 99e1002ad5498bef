"""DeepSeek V4 as it is released: matrices of FP8 in blocks, experts of FP4, scales called NAME.scale, names of its own.

A tiny model of transformers is written in that layout by torch and ml_dtypes, and read back by transformers' own code,
too. That takes the rows of a block to be rows / blocks: widths here are whole blocks, as in the released models, or
less than one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import llama
import modelfmt
from folders import computed, tokens
from modelfmt.errors import CorruptFile, UnsupportedError
from schemes import SCHEMES, Arrays, Values, of_module
from test_arch_models import DEEPSEEK4, MODELS, make

WIDE = {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 256, "q_lora_rank": 256}
CASE = replace(next(case for case in MODELS if case.name == "deepseek4"), config=DEEPSEEK4 | WIDE)
RENAMED = (
    ("embed_tokens.weight", "embed.weight"),
    ("lm_head.weight", "head.weight"),
    ("hc_head.hc_", "hc_head_"),
    ("attn.norm.weight", "attn.kv_norm.weight"),
)
"""What transformers saves, and the released files have, besides "model." before all."""
EIGHT = ("wq_a.weight", "wq_b.weight", "attn.wkv.weight", "wo_a.weight", "wo_b.weight")
WHOLE = ("hc_", "attn_sink", ".ape", "gate.bias")
"""Parts of the names of what is FP8, and of what stays float32."""
RELEASED = {
    "compress_ratios": [0, 4, 128, 4, 0],
    "num_hash_layers": 1,
    "qk_rope_head_dim": 16,
    "rope_theta": 1e4,
    "compress_rope_theta": 1.6e5,
    "expert_dtype": "fp4",
    "quantization_config": SCHEMES["deepseek4-fp8"].config,
}
"""What config.json has in the form of the released ones."""
OURS = ("layer_types", "mlp_layer_types", "rope_parameters", "partial_rotary_factor", "compress_rates", "dtype")


@dataclass(frozen=True)
class Release:
    """A folder in the released layout, its tensors, and the values that they mean."""

    folder: Path
    stored: Arrays
    values: dict[str, Values]


@pytest.fixture(scope="module")
def release(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release") / "hf"
    make(CASE, golden, folder)
    stored: Arrays = {}
    values: dict[str, Values] = {}
    rng = np.random.default_rng(0)
    fours, eights = SCHEMES["deepseek4-fp4"].make, SCHEMES["deepseek4-fp8"].make
    for saved, tensor in load_file(folder / "model.safetensors").items():
        name = saved.removeprefix("model.")
        for old, new in RENAMED:
            name = name.replace(old, new)
        module, parts = name.removesuffix(".weight"), {}
        if ".ffn.experts." in name:
            parts, values[name] = fours(tensor.numpy(), rng)
        elif (name.endswith(EIGHT) or "shared_experts" in name) and "compressor" not in name:
            parts, values[name] = eights(tensor.numpy(), rng)
        elif tensor.is_floating_point() and not any(part in name for part in WHOLE):
            tensor = tensor.bfloat16()
        stored |= {f"{module}.{part}": value for part, value in parts.items()} or {name: tensor}
        values.setdefault(name, tensor.double().numpy())
    further = "mtp.0.e_proj.weight"  # of the layer that predicts a further token
    parts, values[further] = eights(np.ones((256, 256), np.float32), rng)
    stored |= {f"mtp.0.e_proj.{part}": value for part, value in parts.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in OURS} | RELEASED
    (folder / "config.json").write_text(json.dumps(config))
    return Release(folder, stored, values)


def test_values_are_those_of_the_release(release: Release, tmp_path: Path) -> None:
    modelfmt.convert(release.folder, tmp_path / "values.safetensors", quant="F32")
    found = load_file(tmp_path / "values.safetensors")
    assert set(found) == set(release.values)
    for name, expected in release.values.items():
        assert np.array_equal(found[name].double().numpy(), expected), name


def test_experts_keep_their_codes_in_gguf_and_the_network_is_that_of_transformers(
    release: Release, tmp_path: Path
) -> None:
    import transformers

    report = modelfmt.convert(release.folder, tmp_path / "out.gguf")
    assert [loss.subject for loss in report.losses] == ["mtp.0.e_proj.weight"]
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for kind, part in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        for layer in range(4):
            tensor = found[f"blk.{layer}.ffn_{kind}_exps.weight"]
            assert tensor.tensor_type.name == "MXFP4"
            for number, rows in enumerate(np.asarray(tensor.data)):
                parts = of_module(release.stored, f"layers.{layer}.ffn.experts.{number}.{part}")
                scales, pairs = (parts[name].view(torch.uint8).numpy() for name in ("scale", "weight"))
                blocks, codes = rows.reshape(*scales.shape, 17), np.stack([pairs & 15, pairs >> 4], -1)
                halves = codes.reshape(*scales.shape, 2, 16)
                assert np.array_equal(blocks[..., 0], scales)
                assert np.array_equal(blocks[..., 1:], halves[..., 0, :] | halves[..., 1, :] << 4)
        shared = found[f"blk.1.ffn_{kind}_shexp.weight"]
        assert shared.tensor_type.name == "BF16"
        read = gguf.quants.dequantize(shared.data, shared.tensor_type).astype(np.float64)
        assert np.array_equal(read, release.values[f"layers.1.ffn.shared_experts.{part}.weight"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        release.folder, dtype=torch.float32, attn_implementation="eager"
    )
    expected = torch.tensor(computed(model.eval())).log_softmax(-1).numpy()
    modelfmt.convert(tmp_path / "out.gguf", tmp_path / "opened.gguf", quant="F32")
    with llama.Network(tmp_path / "opened.gguf") as network:
        ours = torch.tensor(network.logits(tokens())).log_softmax(-1).numpy()
    assert expected.std() > 0.1
    assert np.abs(ours - expected).max() < CASE.tolerance


def changed(release: Release, folder: Path, **parts: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(release.stored | parts, folder / "model.safetensors")
    (folder / "config.json").write_bytes((release.folder / "config.json").read_bytes())
    return folder


def test_base_models_have_scales_of_float32(release: Release, tmp_path: Path) -> None:
    """Their experts are FP8, too."""
    name = "layers.0.ffn.experts.0.w1.weight"
    scale = np.random.default_rng(1).uniform(0.1, 0.2, (2, 2)).astype(np.float32)
    codes = torch.from_numpy(release.values[name]).to(torch.float8_e4m3fn)
    base = {name: codes, name.replace("weight", "scale"): torch.from_numpy(scale)}
    with modelfmt.open(changed(release, tmp_path / "base", **base)) as model:
        expected = codes.double().numpy() * scale.astype(np.float64).repeat(128, 0).repeat(128, 1)
        assert np.array_equal(model[name].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("part", "tensor", "code"),
    [
        ("scale", torch.zeros(256, 4).to(torch.float8_e8m0fnu), "quant-shape"),
        ("scale", torch.zeros(256, 8), "quant-dtype"),
        ("scale", torch.zeros(1).to(torch.float8_e8m0fnu), "quant-config"),
        ("weight", torch.zeros(256, 127, dtype=torch.int8), "quant-shape"),
    ],
)
def test_damaged_experts_are_named(
    part: str, tensor: torch.Tensor, code: str, release: Release, tmp_path: Path
) -> None:
    harm = {f"layers.0.ffn.experts.0.w1.{part}": tensor}
    with pytest.raises((CorruptFile, UnsupportedError)) as caught:
        modelfmt.plan(changed(release, tmp_path / "bad", **harm), tmp_path / "out.gguf")
    assert caught.value.code == code
    assert "layers.0.ffn.experts.0.w1" in str(caught.value)


def test_a_scale_that_is_none_stays(release: Release, tmp_path: Path) -> None:
    """Norms may have a tensor of that name."""
    norm = {"layers.0.some_norm.scale": torch.ones(4), "layers.0.some_norm.weight": torch.ones(4)}
    with modelfmt.open(changed(release, tmp_path / "norm", **norm)) as model:
        assert set(norm) <= set(model)


def test_a_matrix_without_rows_has_no_values(release: Release, tmp_path: Path) -> None:
    empty = {"layers.0.none.weight": torch.zeros(0, 16, dtype=torch.int8)}
    empty["layers.0.none.scale"] = torch.zeros(0, 1).to(torch.float8_e8m0fnu)
    with modelfmt.open(changed(release, tmp_path / "none", **empty)) as model:
        assert model["layers.0.none.weight"].numpy().shape == (0, 32)
