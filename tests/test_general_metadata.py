"""general.* keys: equal to the golden files of llama.cpp's converter, and to gguf-py on names and cards made up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfmt.checkpoints import general, model_card
from modelfmt.checkpoints.general import ModelId, ParameterCount

DATA = Path(__file__).parent / "data"
CARDS = sorted((DATA / "cards").glob("*.md"))
OF_OTHERS = {f"general.{key}" for key in ("architecture", "file_type", "quantization_version", "alignment")}
SEVEN_B = ParameterCount(7_241_732_096, 7_241_732_096, 0, 0)
MIXTRAL = ParameterCount(46_702_792_704, 1_605_636_096, 5_637_144_576, 8)


def ours(
    folder: str = "a-model",
    card: Mapping[str, Any] | bytes = b"",
    config: Mapping[str, Any] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    n_params: ParameterCount = SEVEN_B,
) -> tuple[list[tuple[str, str, Any]], list[str]]:
    notes: list[Any] = []
    rows = general.metadata(
        folder_name=folder,
        config=config or {},
        card=model_card.parse(card) if isinstance(card, bytes) else card,
        generation_config=generation_config,
        n_params=n_params,
        notes=notes,
    )
    return rows, [note.subject for note in notes]


def gguf_py(folder: Path, n_params: ParameterCount) -> list[tuple[str, str, Any]]:
    """What llama.cpp's converter writes for the README.md, config.json and generation_config.json in that folder."""
    found = gguf.Metadata.load(None, folder, None, n_params.total)
    if found.size_label is None and n_params.total > 0:
        found.size_label = gguf.size_label(*n_params)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    found.set_gguf_meta_model(writer)
    rows = []
    for key, row in writer.kv_data[0].items():
        kind = row.type.name
        if kind == "ARRAY":
            kind += ":" + gguf.GGUFValueType.get_type(row.value[0]).name
            assert all(gguf.GGUFValueType.get_type(item).name == kind.partition(":")[2] for item in row.value)
        rows.append((key, kind, row.value))
    return [row for row in rows if row[0] not in OF_OTHERS]


def golden_rows(path: Path) -> list[tuple[str, str, Any]]:
    metadata = json.loads(path.read_text())["metadata"]
    rows = [(key, ":".join(row["type"]), row["value"]) for key, row in metadata.items()]
    return [row for row in rows if row[0].startswith("general.") and row[0] not in OF_OTHERS]


def golden_count(path: Path) -> ParameterCount:
    return general.count_parameters(
        (name, row["shape"]) for name, row in json.loads(path.read_text())["tensors"].items()
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (DATA / "golden" / "gguf").glob("*.json")))
def test_equals_the_golden_file_of(name: str, golden: Path) -> None:
    path, folder = golden / "gguf" / f"{name}.json", golden / "checkpoints" / name
    assets = {file.name: json.loads(file.read_text()) for file in folder.glob("*config.json")}
    rows, notes = ours(name, b"", assets["config.json"], assets.get("generation_config.json"), golden_count(path))
    assert rows == golden_rows(path)
    assert notes == []


def test_equals_the_golden_file_of_a_real_card(golden: Path) -> None:
    path = golden / "quantized" / "minilm" / "Q8_0.json"
    card = (DATA / "cards" / "all-MiniLM-L6-v2.md").read_bytes()
    rows, notes = ours("model", card, {"_name_or_path": "nreimers/MiniLM-L6-H384-uncased"}, None, golden_count(path))
    assert rows == golden_rows(path)
    assert len(rows) == 47
    assert notes == []


FOLDERS = (DATA / "model_names.txt").read_text().splitlines()


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(
    "n_params", [SEVEN_B, MIXTRAL, ParameterCount(0, 0, 0, 0), ParameterCount(-41_943_040, 41_943_040, 0, 0)]
)
def test_folder_names_are_taken_apart_as_by_gguf_py(folder: str, n_params: ParameterCount, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    assert ours(folder, n_params=n_params) == (gguf_py(tmp_path / folder, n_params), [])


CONFIGS: list[dict[str, Any]] = [
    {},
    {"_name_or_path": "mistralai/Mistral-7B-v0.1"},
    {"_name_or_path": "./hermes-2-pro-llama-3-8b-DPO"},
    {"_name_or_path": "/data/models/llama"},
    {"_name_or_path": ""},
    {"_name_or_path": "/root"},
]
GENERATION: list[dict[str, Any] | None] = [
    None,
    {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "bos_token_id": 1, "do_sample": True},
    {
        "temperature": 1,
        "top_k": 0,
        "min_p": None,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.1,
        "mirostat": 2,
        "mirostat_tau": 5,
    }
    | {"mirostat_eta": 0.1, "penalty_last_n": -1, "penalty_repeat": 1.1, "sequence": "kfypmt"},
    {"sequence": ""},
]
# cards whose values gguf-py can write; the others are in the tests below
CARDS_FOR_GGUF_PY = [path for path in CARDS if path.stem not in ("flow", "norwegian", "template")]


@pytest.mark.parametrize("card", CARDS_FOR_GGUF_PY, ids=lambda path: path.stem)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: repr(config.get("_name_or_path")))
@pytest.mark.parametrize("generation_config", GENERATION, ids=["none", "usual", "every", "empty"])
def test_cards_and_configs_give_what_gguf_py_gives(
    card: Path, config: dict[str, Any], generation_config: dict[str, Any] | None, tmp_path: Path
) -> None:
    folder = tmp_path / "Example-7B-chat-v1.5"
    folder.mkdir()
    (folder / "README.md").write_bytes(card.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    assert ours(folder.name, card.read_bytes(), config, generation_config) == (gguf_py(folder, SEVEN_B), [])


# The keys that gguf-py reads, each once, and what it makes of lists, nulls and empty values.
FRONT_MATTER = [
    "name: A\nmodel_name: B",
    "model_name: B",
    'name: ""',
    "name: ~\nmodel_name: B",
    "author: A\nmodel_author: B\nmodel_creator: C",
    "model_author: B\nmodel_creator: C",
    "model_creator: C",
    "version: v1\nmodel_version: v2",
    "organization: O\ndescription: D\nfinetune: F\nbasename: N\nsize_label: 7B",
    "model_organization: O\nmodel_description: D\nmodel_finetune: F\nmodel_basename: N\nmodel_size_label: 7B",
    "model_type: llama",
    "basename: A\nmodel_type: llama",
    "url: u\ndoi: d\nuuid: i\nrepo_url: r",
    "model_url: u\nmodel_doi: d\nmodel_uuid: i\nmodel_repo_url: r",
    "license: mit\nlicense_name: N\nlicense_link: L",
    "license: [mit, apache-2.0]",
    "license: []",
    "license:",
    "size_label: ''",
    "quantized_by: me\nurl: ''",
    "base_model: org/Name-7B-v0.1",
    "base_model: Name-7B",
    "base_model: A sentence about it",
    "base_model: ''",
    "base_model: /name",
    "base_model: ./local/name",
    "base_model: [a/b, c/d-v2]",
    "base_model:",
    "base_model: {name: x}",
    "base_models: a/b\nbase_model_sources: c/d",
    "base_model_sources: [c/d]",
    "base_model: https://huggingface.co/org/Name-7B-v0.1",
    "base_model: http://huggingface.co/org/Name-7B-v0.1/tree/main",
    "base_model: ssh://host/org/name",
    "base_model: [{name: A, author: B, version: v1, organization: O, description: D, url: U, doi: I, uuid: X}]",
    "datasets: [org/Set-1.5, squad, https://huggingface.co/datasets/org/set, {name: N, url: U}]",
    "dataset: org/set\ndataset_sources: x",
    "dataset_sources: x",
    "datasets: []",
    "tags: one",
    "tags: [a, b]\npipeline_tag: text-generation",
    "tags:\npipeline_tag: text-generation",
    "pipeline_tag: text-generation",
    "tags: {a: b}",
    "tags: []",
    "tags: ['', a]",
    "language: en\nlanguages: [de, fr]",
    "language:\n- en\n- no\n- zh",
]


@pytest.mark.parametrize("text", FRONT_MATTER)
def test_every_key_of_a_card_gives_what_gguf_py_gives(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    rows, _ = ours(tmp_path.name, f"---\n{text}\n---\n".encode())
    assert rows == gguf_py(tmp_path, SEVEN_B)


# where gguf-py fails, or loses what the card says: (front matter, the key, its value here, what is noted)
BETTER: list[tuple[str, str, Any, list[str]]] = [
    ("version: 1.10", "general.version", "1.10", []),
    ("license: 2.0", "general.license", "2.0", []),
    ("language: no", "general.languages", ["no"], []),
    ("language: [no, en]", "general.languages", ["no", "en"], []),
    ("tags: [2024, a]", "general.tags", ["2024", "a"], []),
    ("tags: [2024]", "general.tags", ["2024"], []),
    ("tags:\n- a\n-\n- b", "general.tags", ["a", "b"], ["model card: tags"]),
    ("tags: [a, [b]]", "general.tags", ["a"], ["model card: tags"]),
    ("license: [mit, ~]", "general.license", "mit", ["model card: license"]),
    ("name: [a]\nmodel_name: b", "general.name", "b", ["model card: name"]),
    ("base_model: [a/b, ~]", "general.base_model.count", 2, ["model card: base_model"]),
    ("base_model: {a: b}", "general.base_model.count", 0, ["model card: base_model"]),
    ("datasets: [{name: [x], url: u}]", "general.dataset.0.url", "u", ["model card: datasets: name"]),
    ("datasets: [{version: 1.0}]", "general.dataset.0.version", "1.0", []),
]


@pytest.mark.parametrize(("text", "key", "value", "noted"), BETTER, ids=[row[0] for row in BETTER])
def test_odd_values_of_a_card_become_text_or_a_note(text: str, key: str, value: Any, noted: list[str]) -> None:
    rows, notes = ours("m", f"---\n{text}\n---\n".encode())
    assert {key: value for key, _, value in rows}[key] == value
    assert notes == noted


@pytest.mark.parametrize("value", ["20", 2**31, 0.5, True, [1], math.nan])
def test_sampling_values_that_do_not_fit_are_left_out_and_noted(value: Any) -> None:
    rows, notes = ours(generation_config={"top_k": value, "top_p": 0.5})
    assert [row for row in rows if "sampling" in row[0]] == [("general.sampling.top_p", "FLOAT32", 0.5)]
    assert notes == ["generation_config.json: top_k"]


@pytest.mark.parametrize("value", ["1", 1e39, -math.inf, math.nan, 10**400])
def test_sampling_floats_fit_float32(value: Any) -> None:
    rows, notes = ours(generation_config={"temperature": value})
    assert not any("sampling" in key for key, _, _ in rows)
    assert notes == ["generation_config.json: temperature"]


@pytest.mark.parametrize("config", [{"_name_or_path": 7}, {"_name_or_path": None}, {"_name_or_path": ["a"]}])
def test_a_name_that_is_no_text_is_passed_over(config: dict[str, Any]) -> None:
    assert ours("folder", config=config) == ours("folder")


def test_every_text_can_be_written() -> None:
    rows, notes = ours("caf\udce9", {"tags": ["\ud800x"]}, {"_name_or_path": 1})
    for _, _, value in rows:
        for text in value if isinstance(value, list) else [value]:
            text.encode()
    assert notes == ["general.name", "general.tags"]


def test_typed_values_of_another_reader_become_text() -> None:
    rows, _ = ours("m", {"version": 1.5, "license": "mit", "tags": [True, 3]})
    assert ("general.version", "STRING", "1.5") in rows
    assert ("general.tags", "ARRAY:STRING", ["True", "3"]) in rows


# total and active weights in one name: from the source of llama.cpp's main branch, which gguf-py 0.19 does not have yet
@pytest.mark.parametrize(
    ("name", "n_params", "size", "finetune"),
    [
        ("gemma-4-26B-A4B-it", 4 * 10**9, "26B-A4B", "it"),
        ("gemma-4-26B-A4B-it", 26 * 10**9, "26B-A4B", "it"),
        ("gemma-4-26B-A4B-it", 140_000, "A4B", "26b-it"),
        ("Qwen2-57B-A14B-Instruct", 0, "57B-A14B", "Instruct"),
        ("llama-8B-3", 8 * 10**9, "8B", None),  # the next word is one digit: llama.cpp fails
    ],
)
def test_active_sizes(name: str, n_params: int, size: str, finetune: str | None) -> None:
    found = general.split_model_id(name, n_params)
    assert (found.size_label, found.finetune) == (size, finetune)


WORDS = sorted({word for name in FOLDERS for word in name.split("-")})
NAMES = st.lists(st.sampled_from(WORDS) | st.text(st.sampled_from("aBkKmM0179.x_é "), max_size=5), max_size=6).map(
    "-".join
)


@given(
    NAMES,
    st.sampled_from(["", "org/", "./", "../x/", "/", "a b/"]),
    st.sampled_from([0, 3, 125 * 10**6, 7 * 10**9, 2 * 10**12]),
    st.booleans(),
)
@settings(max_examples=2000, deadline=None)
def test_made_up_names_are_taken_apart_as_by_gguf_py(
    name: str, organization: str, n_params: int, adapter: bool
) -> None:
    n_params = -n_params if adapter else n_params
    found = general.split_model_id(organization + name, n_params)
    expected = gguf.Metadata.get_model_id_components(organization + name, n_params)
    assert found == ModelId(*expected)


@given(st.text(st.sampled_from("aBéßǆ1v.-_ \t\n'") | st.characters(codec="utf-8"), max_size=20))
@settings(max_examples=500, deadline=None)
def test_titles_are_those_of_gguf_py(text: str) -> None:
    assert general.title(text) == gguf.Metadata.id_to_title(text)


COUNTS = st.integers(0, 10**14) | st.sampled_from([10**power + step for power in range(14) for step in (-1, 0, 1)])


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 1024))
@settings(max_examples=1000, deadline=None)
def test_size_labels_are_those_of_gguf_py(total: int, shared: int, expert: int, expert_count: int) -> None:
    count = ParameterCount(total, shared, expert, expert_count)
    assert general.size_label(count) == gguf.size_label(*count)


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
TENSORS = st.dictionaries(
    st.sampled_from(
        ["output.weight", "blk.0.ffn_up_exps.weight", "blk.1.ffn_up_exps.weight", "blk.0.ffn_up_exps.bias"]
    ),
    SHAPES,
)


@given(TENSORS)
@settings(max_examples=300, deadline=None)
def test_parameters_are_counted_as_by_gguf_py(tensors: dict[str, tuple[int, ...]]) -> None:
    import numpy as np

    writer = gguf.GGUFWriter(None, "llama")
    for name, shape in tensors.items():
        writer.add_tensor_info(name, shape, np.dtype("f4"), math.prod(shape) * 4)
    assert general.count_parameters(tensors.items()) == ParameterCount(*writer.get_total_parameter_count())
