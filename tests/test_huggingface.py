"""Checkpoint folders: what transformers writes, shards and their index, hub caches, sentence-transformers, damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

import modelfmt
import on_disk
from modelfmt.checkpoints import huggingface
from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError, SourceMissing, UnsafePath, UnsupportedError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry
from modelfmt.ir.model import Model

torch = pytest.importorskip("torch")

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def opened(path: Path) -> Model:
    return on_disk.opened(huggingface.read, path)


def sharded(folder: Path, shards: dict[str, list[str]], weight_map: dict[str, str] | None = None) -> None:
    """Shards written by the reference library; tensor number i of the checkpoint is full of i."""
    names = [name for names in shards.values() for name in names]
    for shard, held in shards.items():
        save_file(
            {name: torch.full((2, 2), float(names.index(name))) for name in held}, folder / shard, {"format": "pt"}
        )
    index = weight_map or {name: shard for shard, held in shards.items() for name in held}
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": 16 * len(names)}, "weight_map": index}
    )
    write_json(folder / "config.json", CONFIG)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TWO = {FIRST: ["a", "b"], SECOND: ["c"]}


def test_every_golden_checkpoint_matches_the_reference(golden: Path) -> None:
    folders = sorted(path for path in (golden / "checkpoints").iterdir() if (path / "config.json").exists())
    assert folders
    for folder in folders:
        assert huggingface.is_checkpoint(str(folder))
        model = opened(folder)
        expected = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  not a mapping
                    tensor = file.get_tensor(name)
                    expected[name] = (tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes())
        assert {name: (shape, data) for name, (_, shape, data) in on_disk.contents(model).items()} == expected
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert model.config == config
        assert model.architecture == config["architectures"][0]
        for name in model.assets:
            assert model.assets[name] == (folder / name).read_bytes()
        assert "config.json" in model.assets


def test_shards_by_index(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    model = opened(tmp_path)
    assert {name: tensor.numpy()[0, 0] for name, tensor in model.items()} == {"a": 0, "b": 1, "c": 2}
    assert model.metadata == {"format": "pt"}
    assert model.extras["huggingface"]["index"] == {"total_size": 48}
    assert [Path(path).name for path in model.extras["huggingface"]["shards"]] == list(TWO)


def test_our_own_shards_are_opened_by_us_and_by_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    state = transformers.LlamaForCausalLM(config).state_dict()
    entries = [Entry(name, "F32", tuple(tensor.shape)) for name, tensor in state.items()]
    layouts, index = safetensors.layout(entries, metadata={"format": "pt"}, shard_size=600)
    assert index is not None
    assert len(layouts) > 2
    data = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    for layout in layouts:
        (tmp_path / layout.name).write_bytes(on_disk.image(layout, data))
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    config.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert {name: content for name, (_, _, content) in on_disk.contents(opened(tmp_path)).items()} == data


def test_one_file_opens_the_checkpoint_around_it(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    assert list(opened(tmp_path / "model-00002-of-00002.safetensors")) == ["a", "b", "c"]
    save_file({"x": torch.zeros(1)}, tmp_path / "extra.safetensors")
    alone = opened(tmp_path / "extra.safetensors")
    assert list(alone) == ["x"]
    assert alone.architecture == "LlamaForCausalLM"


def test_single_file_wins_over_an_index_as_in_transformers(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    model = opened(tmp_path)
    assert list(model) == ["x"]
    assert any("model-00001-of-00002.safetensors" in note for note in model.extras["notes"])


def test_several_files_without_an_index(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert sorted(opened(tmp_path)) == ["a", "b", "c"]
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CorruptFile) as caught:
        opened(tmp_path)
    assert (caught.value.code, caught.value.place) == ("duplicate-key", "a")


def test_files_outside_the_index_and_code_are_noted(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    save_file({"x": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "modeling_toy.py").write_bytes(b"raise SystemExit")
    notes = " ".join(opened(tmp_path).extras["notes"])
    assert all(name in notes for name in ("consolidated.safetensors", "pytorch_model.bin", "modeling_toy.py"))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceMissing, match="1 of 2") as caught:
        opened(tmp_path)
    assert "model-00002-of-00002.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("weight_map", "place"),
    [
        ({"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}, "d"),
        ({"a": FIRST, "c": SECOND}, "b"),
        ({"a": FIRST, "b": SECOND, "c": SECOND}, "b"),
    ],
    ids=["absent", "unlisted", "in the other shard"],
)
def test_index_and_shards_disagree(tmp_path: Path, weight_map: dict[str, str], place: str) -> None:
    sharded(tmp_path, TWO, weight_map)
    with pytest.raises(CorruptFile) as caught:
        opened(tmp_path)
    assert (caught.value.code, caught.value.place) == ("index-mismatch", place)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a/../../x.safetensors",
        "..\\x",
        "C:x",
        "x\0y",
        "~/x",
        "",
        ".",
        "./x",
        "x\n",
        "a" * 256,
        "x.",
        "x ",
        "ä" * 200,
    ],
)
def test_index_that_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    sharded(folder, TWO, {"a": name})
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UnsafePath) as caught:
        opened(folder)
    assert caught.value.path == str(folder / "model.safetensors.index.json")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": null}}',
        '{"metadata": [], "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"a": "x", "a": "y"}}',
        "",
        "nul",
    ],
)
def test_index_that_is_none(tmp_path: Path, text: str) -> None:
    sharded(tmp_path, TWO)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CorruptFile) as caught:
        opened(tmp_path)
    assert caught.value.path == str(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "", "{", '{"a": 1, "a": 2}', '{"a": "\ud800"}', "[" * 100_000])
def test_config_that_is_none(tmp_path: Path, text: str) -> None:
    sharded(tmp_path, TWO)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises((CorruptFile, LimitExceeded)) as caught:
        opened(tmp_path)
    assert caught.value.path == str(tmp_path / "config.json")


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [1], {}])
def test_config_without_architecture(tmp_path: Path, architectures: Any) -> None:
    sharded(tmp_path, TWO)
    write_json(tmp_path / "config.json", {"architectures": architectures})
    assert opened(tmp_path).architecture is None


def test_infinity_in_a_config_is_read(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert opened(tmp_path).config == {"time_step_limit": [0.0, float("inf")]}


def test_hub_cache_with_links_into_blobs(tmp_path: Path) -> None:
    model = tmp_path / "models--org--name"
    snapshot, blobs = model / "snapshots" / "0123", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    sharded(snapshot, TWO)
    write_json(snapshot / "tokenizer_config.json", {})
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{number:040x}")
        path.symlink_to(Path("../../blobs") / f"{number:040x}")
    found = opened(snapshot)
    assert len(found) == 3
    assert found.assets["tokenizer_config.json"] == b"{}"
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (snapshot / "generation_config.json").symlink_to(outside)
    found = opened(snapshot)
    with pytest.raises(UnsafePath):
        found.assets["generation_config.json"]


def test_sentence_transformers_folder(tmp_path: Path) -> None:
    save_file({"embeddings.w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"architectures": ["BertModel"]})
    rows = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    kind = "sentence_transformers.models."
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind + name} for i, (path, name) in enumerate(rows)]
    write_json(tmp_path / "modules.json", modules)
    for path in ("1_Pooling", "2_Dense"):
        (tmp_path / path).mkdir()
        write_json(tmp_path / path / "config.json", {"from": path})
    save_file({"linear.weight": torch.ones(3, 2)}, tmp_path / "2_Dense" / "model.safetensors")
    model = opened(tmp_path)
    found = model.extras["huggingface"]["modules"]
    assert list(model) == ["embeddings.w"]
    assert [(row["path"], row["config"].get("from")) for row in found] == [
        ("1_Pooling", "1_Pooling"),
        ("2_Dense", "2_Dense"),
        ("3_Normalize", None),
    ]
    assert found[1]["tensors"]["linear.weight"].shape == (3, 2)
    assert json.loads(model.assets["1_Pooling/config.json"]) == {"from": "1_Pooling"}
    assert "modules.json" in model.assets


def test_sentence_transformers_with_the_weights_in_a_folder(tmp_path: Path) -> None:
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    sharded(inner, TWO)
    write_json(tmp_path / "modules.json", [{"path": "0_Transformer", "type": "Transformer"}])
    (tmp_path / "README.md").write_text("card")
    (inner / "vocab.txt").write_text("[PAD]")
    assert huggingface.is_checkpoint(str(tmp_path))
    model = opened(tmp_path)
    assert len(model) == 3
    assert model.architecture == "LlamaForCausalLM"
    assert (model.assets["README.md"], model.assets["vocab.txt"]) == (b"card", b"[PAD]")


@pytest.mark.parametrize("path", ["../out", "/etc", "a/../..", "x\0"])
def test_module_that_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    sharded(tmp_path, TWO)
    write_json(tmp_path / "modules.json", [{"path": "", "type": "T"}, {"path": path, "type": "P"}])
    with pytest.raises(UnsafePath):
        opened(tmp_path)


def test_what_is_an_asset(tmp_path: Path) -> None:
    sharded(tmp_path, TWO)
    carried = [
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "vocab.txt",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
    ]
    left = ["training_args.bin", "notes.txt", "modeling.py", "pytorch_model.bin.index.json"]
    for name in carried + left:
        (tmp_path / name).write_bytes(name.encode())
    templates = tmp_path / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("t")
    assets = opened(tmp_path).assets
    assert set(assets) == {*carried, "config.json", "additional_chat_templates/tool.jinja"}
    assert all(assets[name] == name.encode() for name in carried)
    with pytest.raises(KeyError):
        assets["notes.txt"]


def test_folder_without_weights_says_what_it_has(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    with pytest.raises(UnsupportedError) as caught:
        opened(tmp_path)
    assert caught.value.code == "no-weights"
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(UnsupportedError, match=r"tf_model\.h5"):
        opened(tmp_path)


def test_what_is_a_checkpoint(tmp_path: Path) -> None:
    assert not huggingface.is_checkpoint(str(tmp_path))
    (tmp_path / "notes.txt").write_text("")
    assert not huggingface.is_checkpoint(str(tmp_path))
    assert not huggingface.is_checkpoint(str(tmp_path / "absent"))
    write_json(tmp_path / "config.json", {})
    assert huggingface.is_checkpoint(str(tmp_path))


JSON_FILES = {
    "config.json": b'{"architectures": ["A"], "rope": {"factor": 8.0, "wide": [1, 2]}}',
    "model.safetensors.index.json": b'{"metadata": {"total_size": 48}, "weight_map": {"a": "x", "b": "x", "c": "y"}}',
    "modules.json": b'[{"idx": 0, "path": "", "type": "T"}, {"idx": 1, "path": "1_Pooling", "type": "P"}]',
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_json_cut_at_every_byte_and_with_every_bit_flipped(tmp_path: Path, name: str) -> None:
    sharded(tmp_path, {"x": ["a", "b"], "y": ["c"]})
    data = JSON_FILES[name]
    damaged = [data[:size] for size in range(len(data))]
    for at in range(len(data)):
        damaged += [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for bit in range(8)]
    refused = 0
    for text in damaged:
        (tmp_path / name).write_bytes(text)
        try:
            on_disk.check_spans(opened(tmp_path))
        except ModelfmtError as error:
            refused += error.path is not None
    assert refused > len(damaged) // 4


def test_a_model_type_that_is_no_text_says_nothing(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "checkpoints/qwen3", tmp_path / "in", copy_function=shutil.copyfile)
    path = tmp_path / "in/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": ["qwen3"]}))
    for target in ("gguf", "onnx"):
        modelfmt.plan(tmp_path / "in", tmp_path / target, to=target)
