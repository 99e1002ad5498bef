"""Every convention of quantized checkpoints, read: the values are those that its own program gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import modelfmt
import schemes
from modelfmt.errors import LossyError, UnsupportedError

MADE = sorted(Path(__file__).parent.glob("data/schemes/*/config.json"))

NESTED = ("bnb-nf4", "bnb-nf4-nested", "bnb-fp4")


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_values_are_those_of_the_scheme(name: str, golden: Path, tmp_path: Path) -> None:
    values = schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", tmp_path / "q", layers=1)
    with modelfmt.open(tmp_path / "q") as model:
        assert set(values) <= set(model)
        for tensor, expected in values.items():
            assert np.array_equal(model[tensor].numpy(), expected.astype(np.float32)), tensor


@pytest.mark.parametrize("config", MADE, ids=lambda path: path.parent.name)
def test_files_of_other_programs(config: Path) -> None:
    """What tests/other_schemes.py made with hqq, torchao, Quark, gptqmodel, autoawq and transformers."""
    name, others = "model.layers.0.mlp.up_proj.weight", {"model.norm.weight"}
    with modelfmt.open(config.parent) as model:
        assert np.array_equal(model[name].numpy(), np.load(config.parent / "values.npy"))
        assert set(model) == {name} | (others if "torchao" in config.parent.name else set())


def test_there_are_files_of_other_programs() -> None:
    assert len(MADE) == 45


WORDS = (
    ("awq-gemv", "awq-gemm"),
    ("gptq-4", "awq-gemm"),
    ("gptq_v2-4", "awq-gemm"),
    ("awq-gemm", "gptq_v2-4"),
    *((f"gptq-{bits}", f"gptq_v2-{bits}") for bits in (2, 3, 4, 8)),
)


@pytest.mark.parametrize(("name", "like"), WORDS)
def test_words_are_those_of_their_packers(name: str, like: str, tmp_path: Path) -> None:
    """The same codes, scales and zeros in two layouts: one becomes the other, byte for byte."""
    home = MADE[0].parent.parent
    modelfmt.convert(home / name, tmp_path / "out", to=like.partition("-")[0].removesuffix("_v2"), transcode="exact")
    found, expected = load_file(tmp_path / "out/model.safetensors"), load_file(home / like / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[key].dtype == part.dtype and found[key].equal(part) for key, part in expected.items())


@pytest.mark.parametrize("own", ["hf_quant_config.json", "config.json"])
def test_modelopt_names_itself_in_either_file(own: str, golden: Path, tmp_path: Path) -> None:
    """hf_quant_config.json, as its exporter writes it, beside or instead of the section in config.json."""
    source = golden / "checkpoints/llama3-big"
    values = schemes.write(schemes.SCHEMES["modelopt-nvfp4"], source, tmp_path / "q", layers=1)
    path = tmp_path / "q/config.json"
    config = json.loads(path.read_text())
    algorithm = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": ["lm_head"]}
    if own == "hf_quant_config.json":
        del config["quantization_config"]
        row = {"producer": {"name": "modelopt", "version": "0.47"}, "quantization": algorithm}
        (tmp_path / "q" / own).write_text(json.dumps(row))
    else:
        config["quantization_config"] |= algorithm
    path.write_text(json.dumps(config))
    with modelfmt.open(tmp_path / "q") as model:
        for name, expected in values.items():
            assert np.array_equal(model[name].numpy(), expected.astype(np.float32))


def test_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    """What torchao 0.18 has beside the weight where NVFP4 was calibrated."""
    shutil.copytree(MADE[0].parent.parent / "torchao-nvfp4", tmp_path / "q")
    path = tmp_path / "q/model.safetensors"
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["model.layers.0.mlp.up_proj._weight_act_per_tensor_scale"] = torch.tensor(0.5)
    save_file(tensors, path, metadata)
    with modelfmt.open(tmp_path / "q") as model:
        assert set(model) == {"model.layers.0.mlp.up_proj.weight", "model.norm.weight"}


def test_scales_without_a_reciprocal_stay_where_they_are(golden: Path, tmp_path: Path) -> None:
    """One over them is no float32: of a divisor, which GGUF multiplies by, and of a factor, which others divide by."""
    for scheme, part in {"ct-nvfp4": "weight_global_scale", "modelopt-nvfp4": "weight_scale_2"}.items():
        schemes.write(schemes.SCHEMES[scheme], golden / "checkpoints/llama3-big", tmp_path / scheme, layers=1)
        path = tmp_path / scheme / "model.safetensors"
        tensors = load_file(path)
        tensors |= {name: torch.full_like(one, 1e-44) for name, one in tensors.items() if name.endswith(f".{part}")}
        save_file(tensors, path, {"format": "pt"})
    with pytest.raises(LossyError) as caught:
        modelfmt.plan(tmp_path / "ct-nvfp4", tmp_path / "m.gguf")
    assert caught.value.code == "transcode"
    planned = modelfmt.plan(tmp_path / "modelopt-nvfp4", tmp_path / "out", to="compressed-tensors")
    assert not [line for line in planned.table() if "global_scale" in line["name"]]


def test_an_old_torchao_file_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(MADE[-1].parent, tmp_path / "q")
    tensors = load_file(tmp_path / "q/model.safetensors")
    save_file(tensors, tmp_path / "q/model.safetensors")  # without its metadata
    with modelfmt.open(tmp_path / "q") as model, pytest.raises(UnsupportedError) as caught:
        raise model.extras["quantization"]["error"]
    assert caught.value.code == "quant-config"
