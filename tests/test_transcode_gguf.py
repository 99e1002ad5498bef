"""Quantized checkpoints become GGUF: the numbers of the source, as gguf-py reads them, and a network that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import llama
import modelfmt
import schemes

TARGETS = {
    "awq-g64": ("Q5_0", 0.0),
    "awq-g128": ("Q5_0", 0.0),
    "gptq-4-v1": ("Q5_0", 0.0),
    "gptq-4-sym": ("Q4_0", 0.0),
    "gptq-3-v1": ("Q4_0", 0.0),
    "ct-int4-sym": ("Q4_0", 0.0),
    "ct-int4-channel": ("Q4_0", 0.0),
    "ct-int8-pack": ("Q8_0", 0.0),
    "ct-int8": ("Q8_0", 0.0),
    "ct-mxfp4": ("MXFP4", 0.0),
    "modelopt-nvfp4": ("NVFP4", 0.0),
    "ct-nvfp4": ("NVFP4", 2.0**-23),
    "fp8-ue8m0": ("BF16", 0.0),
    "fp8-block": ("F16", 2.0**-10),
    "bnb-nf4-nested": ("F16", 2.0**-10),
    "bnb-int8": ("Q8_0", 2.0**-10),
    "mlx-4": ("Q4_1", 2.0**-10),
}
"""Scheme -> what it becomes by itself, and the largest error relative to the largest weight."""

NAMES = {
    "self_attn.q_proj": ("attn_q", 4),
    "self_attn.k_proj": ("attn_k", 2),
    "self_attn.v_proj": ("attn_v", 0),
    "self_attn.o_proj": ("attn_output", 0),
    "mlp.gate_proj": ("ffn_gate", 0),
    "mlp.up_proj": ("ffn_up", 0),
    "mlp.down_proj": ("ffn_down", 0),
}
TOKENS = [1, 17, 300, 44, 5, 260, 99, 480]


@pytest.fixture(params=TARGETS)
def made(request: pytest.FixtureRequest, golden: Path, tmp_path: Path) -> tuple[str, Path, dict[str, schemes.Values]]:
    name = request.param
    folder = tmp_path / name
    return name, folder, schemes.write(schemes.SCHEMES[name], golden / "checkpoints/llama3-big", folder)


def permuted(values: schemes.Values, heads: int) -> schemes.Values:
    """As llama.cpp's converter turns query and key rows: LlamaModel.permute."""
    if not heads:
        return values
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def test_file_has_the_numbers_and_runs(made: tuple[str, Path, dict[str, schemes.Values]], tmp_path: Path) -> None:
    name, folder, values = made
    target, bound = TARGETS[name]
    report = modelfmt.convert(folder, tmp_path / "out.gguf", stats=True)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for source, expected in values.items():
        layer, module = source.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        short, heads = NAMES[module]
        tensor = found[f"blk.{layer}.{short}.weight"]
        assert tensor.tensor_type.name == target
        read = _dequantized(tensor, expected.shape)
        if f"blk.{layer}.{short}.scale" in found:
            read = read * float(found[f"blk.{layer}.{short}.scale"].data[0])
        off = np.abs(read - permuted(expected, heads)).max()
        assert off <= bound * np.abs(expected).max(), source
    measured = {row.name: row for row in report.tensors if row.source_encoding.startswith("GRID")}
    assert all((row.max_error == 0.0) == (bound == 0.0 or name == "ct-nvfp4") for row in measured.values())
    reference = _dense(folder, values, tmp_path)
    with llama.Network(tmp_path / "out.gguf") as network, llama.Network(reference) as dense:
        ours, theirs = network.logits(TOKENS), dense.logits(TOKENS)
    # llama.cpp rounds what it multiplies with blocks to 8 bits; weights with one scale for a row leave more to it
    assert rms(ours - theirs) <= (3e-2 if "channel" in name else 2e-2) * rms(theirs)
    if "NVFP4" not in target:
        modelfmt.convert(tmp_path / "out.gguf", tmp_path / "opened-F32.gguf")
        with llama.Network(tmp_path / "opened-F32.gguf") as network:
            assert np.abs(network.logits(TOKENS) - theirs).max() <= (1e-4 if bound == 0.0 else 1e-2)


def rms(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _dequantized(tensor: gguf.ReaderTensor, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if tensor.tensor_type.name in ("F16", "F32"):
        return np.asarray(tensor.data, np.float64).reshape(shape)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64).reshape(shape)


def _dense(folder: Path, values: dict[str, schemes.Values], tmp_path: Path) -> Path:
    """The same network in float32, from the values that the scheme's own program gives."""
    plain = tmp_path / "plain"
    plain.mkdir()
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if _is_dense(k)}
    kept |= {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in values.items()}
    save_file(kept, plain / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    config.pop("quantization", None)
    (plain / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "tokenizer.json", plain)
    modelfmt.convert(plain, tmp_path / "plain-F32.gguf")
    return tmp_path / "plain-F32.gguf"


def _is_dense(name: str) -> bool:
    return name.endswith((".weight", ".bias")) and not any(f"{module}." in name for module in NAMES)
