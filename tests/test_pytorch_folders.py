"""Checkpoint folders with pytorch_model.bin, one or shards: they convert as the same folder with safetensors does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import modelfmt
from modelfmt.errors import CorruptFile, ModelfmtError, SourceMissing
from test_convert_golden import metadata_of, tensors_of


def pickled(source: Path, folder: Path, shards: int) -> Path:
    """The folder `source` with its weights in pytorch_model.bin, or in as many shards with their index."""
    folder.mkdir()
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            weights |= load_file(path)
        elif not path.name.endswith(".safetensors.index.json") and path.is_file():
            shutil.copy(path, folder)
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {key: weights[key] for key in list(weights)[number::shards]}
        torch.save(part, folder / name, _use_new_zipfile_serialization=number % 2 == 0)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["llama-spm", "qwen3", "gpt2", "bert", "mixtral"])
def test_a_bin_becomes_the_same_gguf(name: str, shards: int, golden: Path, tmp_path: Path) -> None:
    """But for the header that says how weights were stored: they come back as safetensors, with all other files."""
    source = golden / "checkpoints" / name
    folder = pickled(source, tmp_path / name, shards)
    modelfmt.convert(source, tmp_path / "a.gguf")
    modelfmt.convert(folder, tmp_path / "b.gguf")
    assert tensors_of(tmp_path / "a.gguf") == tensors_of(tmp_path / "b.gguf")
    first, second = (
        {key: value for key, value in metadata_of(path).items() if not key.startswith("modelfmt.safetensors.")}
        for path in (tmp_path / "a.gguf", tmp_path / "b.gguf")
    )
    assert first == second
    modelfmt.convert(tmp_path / "b.gguf", tmp_path / "back")
    others = {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir() if path.suffix != ".safetensors"}
    assert others == {path.name: path.read_bytes() for path in folder.iterdir() if "pytorch_model" not in path.name}
    with modelfmt.open(tmp_path / "back") as back, modelfmt.open(source) as original:
        assert {key: (value.encoding, value.shape) for key, value in back.items()} == {
            key: (value.encoding, value.shape) for key, value in original.items()
        }
        if name not in ("bert", "gpt2"):  # whose float32 "auto" makes float16
            assert all((value.numpy() == original[key].numpy()).all() for key, value in back.items())


def test_safetensors_come_first(golden: Path, tmp_path: Path) -> None:
    folder = pickled(golden / "checkpoints" / "qwen3", tmp_path / "x", 1)
    shutil.copy(folder / "pytorch_model.bin", tmp_path / "weights.bin")
    modelfmt.convert(tmp_path / "weights.bin", folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    with modelfmt.open(folder) as model:
        assert model.extras["huggingface"]["shards"] == [str(folder / "model.safetensors")]
        assert any("pytorch_model.bin" in note for note in model.extras["notes"])


def test_optimizer_states_and_arguments_are_no_weights(golden: Path, tmp_path: Path) -> None:
    folder = pickled(golden / "checkpoints" / "qwen3", tmp_path / "x", 1)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"not looked at")
    with modelfmt.open(folder) as model:
        assert model.extras["huggingface"]["shards"] == [str(folder / "pytorch_model.bin")]


def test_one_shard_opens_the_checkpoint_around_it(golden: Path, tmp_path: Path) -> None:
    folder = pickled(golden / "checkpoints" / "qwen3", tmp_path / "x", 2)
    with (
        modelfmt.open(folder) as whole,
        modelfmt.open(folder / "pytorch_model-00002-of-00002.bin", format="huggingface") as model,
    ):
        assert set(model) == set(whole)


def test_a_missing_shard_is_named(golden: Path, tmp_path: Path) -> None:
    folder = pickled(golden / "checkpoints" / "qwen3", tmp_path / "x", 2)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(SourceMissing, match="pytorch_model-00002"):
        modelfmt.open(folder)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/../../x.bin"])
def test_an_index_that_points_outside(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "x.bin")
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CorruptFile):
        modelfmt.open(folder)


def test_a_bin_alone_needs_its_configuration_for_gguf(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "x.bin")
    with pytest.raises(ModelfmtError):
        modelfmt.convert(tmp_path / "x.bin", tmp_path / "x.gguf")


def test_a_dense_module_of_a_sentence_transformer(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "2_Dense", "type": "a.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    torch.save({"linear.weight": torch.ones(2, 3)}, tmp_path / "2_Dense" / "pytorch_model.bin")
    with modelfmt.open(tmp_path) as model:
        assert list(model) == ["w"]
        assert list(model.extras["huggingface"]["modules"][0]["tensors"]) == ["linear.weight"]
