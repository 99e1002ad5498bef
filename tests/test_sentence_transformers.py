"""EmbeddingGemma with its two Dense modules: carried, computed by llama.cpp, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llama
import modelfmt
from folders import computed, contents, tokens
from test_arch_models import EMBEDDERS, make

WIDTH, BETWEEN = 64, 96
PLAIN = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
SIZES = {"2_Dense": (WIDTH, BETWEEN), "3_Dense": (BETWEEN, WIDTH)}


def folder(golden: Path, path: Path, **changes: Any) -> tuple[Any, list[np.ndarray]]:
    """A checkpoint as sentence-transformers saves it; the model, and the matrices of its Dense modules."""
    from safetensors.numpy import save_file

    model = make(EMBEDDERS[0], golden, path)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Dense", "Dense")]
    kinds += [("4_Normalize", "Normalize")]
    rows = [
        {"idx": at, "name": str(at), "path": name, "type": f"sentence_transformers.models.{kind}"}
        for at, (name, kind) in enumerate(kinds)
    ]
    (path / "modules.json").write_text(json.dumps(rows))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    generator, matrices = np.random.default_rng(5), []
    for name, (width_in, width_out) in SIZES.items():
        (path / name).mkdir()
        settings = {"in_features": width_in, "out_features": width_out} | PLAIN | changes
        (path / name / "config.json").write_text(json.dumps(settings))
        matrices.append(generator.standard_normal((width_out, width_in), np.float32) * 0.2)
        save_file({"linear.weight": matrices[-1]}, path / name / "model.safetensors")
    return model, matrices


def test_llama_cpp_computes_what_sentence_transformers_does(golden: Path, tmp_path: Path) -> None:
    """Pooling.forward is the mean of the hidden states, Dense.forward a matrix; llama.cpp leaves the norm to its
    callers."""
    model, (first, second) = folder(golden, tmp_path / "hf")
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    assert report.losses == ()
    with modelfmt.open(tmp_path / "model.gguf") as file:
        assert (file["dense_2.weight"].shape, file["dense_3.weight"].shape) == ((96, 64), (64, 96))
    expected = second @ (first @ computed(model).mean(0))
    with llama.Network(tmp_path / "model.gguf") as network:
        found = network.pooled(tokens())
    lengths = np.linalg.norm(found), np.linalg.norm(expected)
    assert (found * expected).sum() / lengths[0] / lengths[1] > 0.9999
    assert abs(lengths[0] / lengths[1] - 1) < 1e-3


def test_the_folder_comes_back_with_its_modules(golden: Path, tmp_path: Path) -> None:
    folder(golden, tmp_path / "hf")
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    report = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back")
    assert report.losses == ()
    assert contents(tmp_path / "back") == contents(tmp_path / "hf")


def test_without_carried_keys_the_modules_are_made_anew(golden: Path, tmp_path: Path) -> None:
    _, matrices = folder(golden, tmp_path / "hf")
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32", carry=False)
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back")
    with modelfmt.open(tmp_path / "back") as back:
        modules = {row["path"]: row for row in back.extras["huggingface"]["modules"]}
        assert list(modules) == ["1_Pooling", "2_Dense", "3_Dense"]
        for (name, (width_in, width_out)), matrix in zip(SIZES.items(), matrices, strict=True):
            assert (modules[name]["tensors"]["linear.weight"].numpy() == matrix).all()
            assert modules[name]["config"] == {"in_features": width_in, "out_features": width_out} | PLAIN
    modelfmt.convert(tmp_path / "back", tmp_path / "again.gguf", quant="F32", carry=False)
    with modelfmt.open(tmp_path / "model.gguf") as first, modelfmt.open(tmp_path / "again.gguf") as second:
        own = {key: value for key, value in first.metadata.items() if key.startswith("gemma-embedding.")}
        assert len([key for key in own if "dense" in key]) == 4
        assert own == {key: value for key, value in second.metadata.items() if key.startswith("gemma-embedding.")}
        assert set(first) == set(second)


@pytest.mark.parametrize(
    "change",
    [{"bias": True}, {"activation_function": "torch.nn.modules.activation.Tanh"}, {"in_features": 8}],
    ids=["bias", "activation", "size"],
)
def test_modules_that_the_graph_does_not_have_are_a_loss(golden: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder(golden, tmp_path / "hf", **change)
    plan = modelfmt.plan(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    assert [loss.subject for loss in plan.losses] == ["modules.json [2]", "modules.json [3]"]
    assert not any(row["name"].startswith("dense") for row in plan.table())
