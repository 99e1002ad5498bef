"""Folders in the programs that they are for: transformers loads them on a CPU, and the network is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import modelfmt
import schemes

TOKENS = torch.tensor([[1, 17, 300, 44, 5, 260, 99, 480]])


@pytest.fixture(scope="module")
def plain(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_plain(golden, tmp_path_factory.mktemp("loaders") / "plain")


def made_plain(golden: Path, folder: Path) -> Path:
    """One layer of a Llama, float32 throughout."""

    def make(weights: Any, rng: np.random.Generator) -> schemes.Made:
        return {"weight": torch.from_numpy(weights)}, weights

    schemes.write(schemes.Scheme({}, make), golden / "checkpoints/llama3-big", folder, layers=1)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v.float() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    config |= {"dtype": "float32", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def made_folders(
    plain: Path, folder: Path, quantized: Mapping[str, Sequence[str]], moved: Mapping[str, Sequence[str]]
) -> dict[str, Path]:
    """What becomes of a dense folder, by words for it. quantized: types by target. moved: by target, names of
    tests/schemes.py that go there as they are."""
    found = {}
    for target, kinds in quantized.items():
        for kind in kinds:
            found[f"float to {target} {kind}"] = out = folder / f"{target}-{kind}"
            modelfmt.convert(plain, out, to=target, quant=kind)
    for target, names in moved.items():
        for name in names:
            home = folder / f"{name}-{target}"
            schemes.write(schemes.SCHEMES[name], plain, home / "in", layers=1)
            found[f"{name} to {target}"] = out = home / "out"
            modelfmt.convert(home / "in", out, to=target, transcode="exact")
    return found


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(TOKENS).logits.float()
    return found


def with_values(network: Any, folder: Path) -> Any:
    """The dense network with the values that a folder means."""
    with modelfmt.open(folder) as model, torch.no_grad():
        for name, weight in network.named_parameters():
            if name in model:
                weight.copy_(torch.from_numpy(np.array(model[name].numpy(), np.float32)))
    return network


QUANTIZED = {
    ("compressed-tensors", "int4"): torch.float32,
    ("compressed-tensors", "int8"): torch.float32,
    ("compressed-tensors", "fp8"): torch.float32,
    ("compressed-tensors", "fp8-block"): torch.float32,
    ("compressed-tensors", "mxfp4"): torch.bfloat16,  # the library gives no other
    ("compressed-tensors", "mxfp8"): torch.bfloat16,
    ("compressed-tensors", "nvfp4"): torch.bfloat16,
    ("fp8", "fp8"): torch.float32,
    ("bitsandbytes", "nf4"): torch.float32,
    ("bitsandbytes", "nf4-nested"): torch.float32,
}


@pytest.mark.parametrize("case", QUANTIZED, ids="-".join)
def test_transformers_loads_what_was_quantized(case: tuple[str, str], plain: Path, tmp_path: Path) -> None:
    modelfmt.convert(plain, tmp_path / "out", to=case[0], quant=case[1])
    dtype = QUANTIZED[case]
    ours, dense = loaded(tmp_path / "out", dtype), with_values(loaded(plain, dtype), tmp_path / "out")
    assert (logits(ours) - logits(dense)).abs().max() <= 1e-3
    assert (logits(dense) - logits(loaded(plain, dtype))).abs().max() > 1e-2


def test_transformers_loads_eight_bits_of_bitsandbytes(plain: Path, tmp_path: Path) -> None:
    """Whose products round activations, too: the weights are compared, and logits loosely."""
    from bitsandbytes.functional import int8_vectorwise_dequant  # type: ignore[import-untyped,unused-ignore]

    modelfmt.convert(plain, tmp_path / "out", to="bitsandbytes", quant="int8")
    ours, dense = loaded(tmp_path / "out"), with_values(loaded(plain), tmp_path / "out")
    values = dict(dense.named_parameters())
    modules = {name: module for name, module in ours.named_modules() if type(module).__name__ == "Linear8bitLt"}
    assert len(modules) == 7
    for name, module in modules.items():
        scale = module.weight.SCB if module.state.SCB is None else module.state.SCB
        found = int8_vectorwise_dequant(module.weight.data, scale)
        assert (found - values[f"{name}.weight"]).abs().max() < 1e-6
    assert (logits(ours) - logits(dense)).abs().max() < 0.2


MOVED: dict[str, tuple[str, Callable[[], schemes.Scheme]]] = {
    "gptq-to-ct": ("compressed-tensors", lambda: schemes.SCHEMES["gptq-4-sym"]),
    "ct-int8-to-pack": ("compressed-tensors", lambda: schemes.SCHEMES["ct-int8"]),
    "fp8-block-to-ct": ("compressed-tensors", lambda: schemes.SCHEMES["fp8-block"]),
    "ct-fp8-block-to-fp8": ("fp8", lambda: schemes.SCHEMES["ct-fp8-block"]),
    "bnb-nested": ("bitsandbytes", lambda: schemes.SCHEMES["bnb-nf4-nested"]),
}


@pytest.mark.parametrize("name", MOVED)
def test_transformers_loads_what_was_moved(name: str, plain: Path, tmp_path: Path) -> None:
    target, scheme = MOVED[name]
    schemes.write(scheme(), plain, tmp_path / "in", layers=1)
    modelfmt.convert(tmp_path / "in", tmp_path / "out", to=target, transcode="exact")
    dense = with_values(loaded(plain), tmp_path / "in")
    assert (logits(loaded(tmp_path / "out")) - logits(dense)).abs().max() <= 1e-3


@pytest.mark.parametrize("through_gguf", [False, True])
def test_transformers_loads_experts_of_gpt_oss(through_gguf: bool, golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints/gpt-oss"
    if through_gguf:
        modelfmt.convert(source, tmp_path / "m.gguf", quant="MXFP4_MOE")
    modelfmt.convert(tmp_path / "m.gguf" if through_gguf else source, tmp_path / "out", to="mxfp4")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    dense = with_values(loaded(source), tmp_path / "out")
    assert (logits(loaded(tmp_path / "out")) - logits(dense)).abs().max() <= 1e-3


def test_mlx_finds_the_base_of_rope(plain: Path, tmp_path: Path) -> None:
    """mlx-lm 0.32 does not know rope_parameters, and takes 10000 where rope_theta is absent."""
    modelfmt.convert(plain, tmp_path / "out", to="mlx")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500000.0
