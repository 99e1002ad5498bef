"""`modelfmt verify`: sound conversions pass in the runtimes that they are made for, broken ones do not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy

import modelfmt
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.verifying.measures import Distributions, States, distributions, states


@pytest.fixture(scope="module")
def made(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str | None], Path]:
    """(checkpoint, suffix, type) -> what it became; made once."""
    place, known = tmp_path_factory.mktemp("made"), {}

    def make(name: str, suffix: str, quant: str | None = None) -> Path:
        key = (name, suffix, quant)
        if key not in known:
            known[key] = place / f"{name}-{quant}{suffix}"
            modelfmt.convert(golden / "checkpoints" / name, known[key], quant=quant)
        return known[key]

    return make


@pytest.mark.parametrize("name", ["gemma3", "mixtral", "gpt2"])
@pytest.mark.parametrize(("suffix", "runtime"), [(".gguf", "llama.cpp"), (".onnx", "onnxruntime")])
def test_sound(name: str, suffix: str, runtime: str, made: Any, golden: Path) -> None:
    """Ours in NumPy beside the runtime: equal weights, equal distributions, a cache that works."""
    path = made(name, suffix, "F32" if suffix == ".gguf" else None)
    found = modelfmt.verify(path, golden / "checkpoints" / name, length=12)
    assert found.passed and not found.missing, found.failures
    assert found.runtimes == ("numpy", runtime)
    assert found.weights and all(row.max_error == 0 for row in found.weights)
    (row,) = found.outputs
    assert isinstance(row, Distributions) and row.agreement == 1.0
    assert row.kl_max < (1e-6 if runtime == "llama.cpp" else 1e-11)
    assert found.steps is not None and found.steps.kl_max < 1e-8


def test_openvino(made: Any, golden: Path) -> None:
    """Its files have no weights that are read; the cache is its state."""
    found = modelfmt.verify(made("qwen3", ".xml"), golden / "checkpoints" / "qwen3", length=12)
    assert found.passed and found.runtimes == ("numpy", "openvino") and not found.weights
    assert found.outputs[0].kl_max < 1e-11 and found.steps is not None  # type: ignore[union-attr]


def test_several_graphs(golden: Path, tmp_path: Path) -> None:
    """An encoder and its decoder: one file at a time."""
    source, folder = golden / "checkpoints" / "t5", tmp_path / "t5"
    modelfmt.convert(source, folder, to="onnx")
    found = modelfmt.verify(folder / "encoder_model.onnx", source, length=8)
    assert found.passed and found.outputs[0].cosine_min > 0.999999  # type: ignore[union-attr]
    found = modelfmt.verify(folder / "decoder_model_merged.onnx", source, length=8)
    assert found.passed and found.steps is not None and found.outputs[0].kl_max < 1e-9  # type: ignore[union-attr]
    (folder / "encoder_model.onnx").rename(folder / "model.onnx")
    with pytest.raises(UnsupportedError, match="more than one graph"):
        modelfmt.verify(folder, source, length=8, weights=False)


def test_encoders(made: Any, golden: Path) -> None:
    for suffix in (".gguf", ".onnx"):
        path = made("bert", suffix, "F32" if suffix == ".gguf" else None)
        found = modelfmt.verify(path, golden / "checkpoints" / "bert", length=12)
        (row,) = found.outputs
        assert isinstance(row, States) and row.cosine_min > 0.999999
        assert found.passed and found.steps is None


def test_the_source_in_its_own_class(made: Any, golden: Path) -> None:
    """Mamba has no graph of ours: transformers computes it."""
    found = modelfmt.verify(made("mamba", ".gguf", "F32"), golden / "checkpoints" / "mamba", length=8)
    assert found.runtimes == ("transformers", "llama.cpp")
    assert found.passed and found.outputs[0].kl_max < 1e-5  # type: ignore[union-attr]


def test_a_loss_that_the_plan_names_shows(made: Any, golden: Path) -> None:
    """llama.cpp's qwen3moe graph normalises the weights of experts, which this checkpoint does not: same weights, other
    distributions."""
    source, path = golden / "checkpoints" / "qwen3-moe", made("qwen3-moe", ".gguf", "F32")
    there = modelfmt.verify(path, source, length=8)
    assert there.weights[0].max_error == 0
    assert there.outputs[0].kl_mean > 1e-5  # type: ignore[union-attr]
    ours = modelfmt.verify(path, source, length=8, runtime="numpy")
    assert ours.outputs[0].kl_max < 1e-11  # type: ignore[union-attr]


def test_quantized(made: Any, golden: Path) -> None:
    source = golden / "checkpoints" / "qwen3"
    found = modelfmt.verify(made("qwen3", ".gguf", "Q4_0"), source, length=8, runtime="numpy", layers=True)
    assert found.passed and found.weights[0].rms_error > 0.01
    assert [row.name for row in found.layers] == ["layer 0", "layer 1"]
    assert 0.9 < min(row.cosine_min for row in found.layers) < 1
    mean = found.outputs[0].kl_mean  # type: ignore[union-attr]
    strict = modelfmt.verify(made("qwen3", ".gguf", "Q4_0"), source, length=8, runtime="numpy", max_kl=mean / 2)
    assert not strict.passed and "mean KL" in strict.failures[0]
    strict = modelfmt.verify(made("qwen3", ".gguf", "Q4_0"), source, outputs=False, max_error=0.01)
    assert not strict.passed and "above 0.01" in strict.failures[0]


def test_a_wrong_order_of_rows_shows(made: Any, golden: Path, tmp_path: Path) -> None:
    """A checkpoint whose queries have rows in another order gives other distributions."""
    folder = tmp_path / "wrong"
    shutil.copytree(golden / "checkpoints" / "qwen3", folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].astype(np.float32)[::-1].astype(tensors[name].dtype)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    found = modelfmt.verify(made("qwen3", ".onnx"), folder, length=8, max_kl=1e-6)
    assert not found.passed
    assert found.weights[0].name == name and found.weights[0].rms_error > 1
    assert "mean KL" in found.failures[0]


def test_a_broken_cache_shows(made: Any, golden: Path, tmp_path: Path) -> None:
    """A graph that gives back the values of another layer as its cache is right for all tokens at once only."""
    model = onnx.load(made("qwen3", ".onnx"))
    for node in model.graph.node:
        for outputs in (node.output,):
            for index, name in enumerate(outputs):
                if name == "present.0.value":
                    outputs[index] = "kept"
    zero = onnx.helper.make_node("Sub", ["kept", "kept"], ["present.0.value"])
    model.graph.node.append(zero)
    onnx.save(model, tmp_path / "broken.onnx")
    found = modelfmt.verify(tmp_path / "broken.onnx", golden / "checkpoints" / "qwen3", length=12)
    assert not found.passed
    assert found.outputs[0].kl_max < 1e-11  # type: ignore[union-attr]
    assert [failure.split(":")[0] for failure in found.failures] == ["tokens one by one differ from all at once"]


def test_a_weight_that_is_gone(golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints" / "qwen3" / "model.safetensors"
    tensors = safetensors.numpy.load_file(source)
    tensors.pop("model.norm.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "less.safetensors")
    found = modelfmt.verify(tmp_path / "less.safetensors", source)
    assert found.missing == ("model.norm.weight",) and not found.passed
    assert any("not compared" in note for note in found.notes)


def test_what_cannot_be_compared(made: Any, golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints" / "qwen3"
    with pytest.raises(UnsupportedError, match="no graph"):
        modelfmt.verify(golden / "checkpoints" / "mamba", golden / "checkpoints" / "mamba", runtime="numpy")
    with pytest.raises(UsageError, match="no such runtime"):
        modelfmt.verify(made("qwen3", ".onnx"), source, runtime="tensorrt")
    with pytest.raises(UsageError, match="too few tokens"):
        modelfmt.verify(made("qwen3", ".onnx"), source, tokens=[1])
    safetensors.numpy.save_file({"other": np.ones(3, "f4")}, tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.verify(tmp_path / "other.safetensors", source, outputs=False, weights=False)
    assert caught.value.code == "verify-nothing"


def test_the_command(made: Any, golden: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    source = str(golden / "checkpoints" / "qwen3")
    command = [sys.executable, "-m", "modelfmt", "verify", str(made("qwen3", ".onnx")), "--against", source]
    done = subprocess.run([*command, "--text", str(text), "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["schema"] == "modelfmt.verify/1" and found["passed"] and len(found["tokens"]) == 32
    assert found["outputs"][0]["kind"] == "distributions"
    done = subprocess.run(
        [*command, "--max-kl", "-1", "--tokens", "5,6,7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "failed: logits: mean KL" in done.stderr and done.stdout.endswith("not verified\n")


def test_measures_beside_torch() -> None:
    import torch

    one, two = np.random.default_rng(0).standard_normal((2, 5, 50))
    found = distributions("logits", one, two)
    p, q = (torch.log_softmax(torch.from_numpy(x), -1) for x in (one, two))
    theirs = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert found.kl_mean == pytest.approx(theirs.mean().item()) and found.kl_max == pytest.approx(theirs.max().item())
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(one), torch.from_numpy(two), dim=-1).min().item()
    assert states("x", one, two).cosine_min == pytest.approx(cosine)
