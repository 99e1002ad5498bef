"""Importance matrices: both forms, their hostile variants, the weights and the bytes that follow from them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import ggml
from modelfmt.errors import CorruptFile, ModelfmtError, UsageError
from modelfmt.formats.imatrix_dat import read_dat, write_dat
from modelfmt.quant.ggml_types import GGML_TYPES
from modelfmt.quant.imatrix import Importance, from_dat, from_gguf, merge

MODELS = ("llama3-big", "minilm")


def stored(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and row-major tensors of a GGUF file, by the gguf package."""
    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    return metadata, {row.name: np.array(row.data) for row in reader.tensors}


@pytest.fixture(params=MODELS)
def example(request: pytest.FixtureRequest, golden: Path) -> tuple[Path, Importance]:
    folder = golden / "quantized" / request.param
    return folder, from_gguf(*stored(folder / "imatrix.gguf"))


def small(**parts: Any) -> Importance:
    return Importance.from_mapping({"a": (np.full((2, 4), 6, "f4"), np.array([3, 0], "f4"))}, **parts)


def test_metadata_is_what_llama_quantize_wrote(example: tuple[Path, Importance]) -> None:
    folder, importance = example
    manifests = sorted(folder.glob("*.imatrix.json"))
    assert manifests
    for path in manifests:
        metadata = json.loads(path.read_text())["metadata"]
        wanted = [(key, row["type"][0], row["value"]) for key, row in metadata.items() if key.startswith("quantize.")]
        assert importance.metadata() == wanted
    file = importance.metadata("models/imatrix.gguf")[0]
    assert file == ("quantize.imatrix.file", "STRING", "models/imatrix.gguf")


def test_every_weight_fits_its_tensor(example: tuple[Path, Importance]) -> None:
    folder, importance = example
    tensors = json.loads((folder / "Q4_K_M.imatrix.json").read_text())["tensors"]
    shapes = {name: row["shape"] for name, row in tensors.items()}
    assert importance.usable(shapes) == importance.names & shapes.keys() == importance.names
    for name in importance:
        assert importance.weights(name, shapes[name]).shape == (1, shapes[name][-1])


@pytest.mark.parametrize("name", ["Q4_K_M", "Q4_0", "Q2_K_S", "IQ3_XXS"])
def test_weights_give_the_bytes_of_llama_quantize(name: str, golden: Path) -> None:
    folder = golden / "quantized" / "llama3-big"
    importance = from_gguf(*stored(folder / "imatrix.gguf"))
    checkpoint: dict[str, torch.Tensor] = {}
    for shard in sorted((golden / "checkpoints" / "llama3-big").glob("*.safetensors")):
        checkpoint |= load_file(shard)
    tensors = json.loads((folder / f"{name}.imatrix.json").read_text())["tensors"]
    for i in range(8):
        row = tensors[f"blk.{i}.ffn_down.weight"]
        values = checkpoint[f"model.layers.{i}.mlp.down_proj.weight"].float().numpy()
        weights = importance.weights(f"blk.{i}.ffn_down.weight", row["shape"])
        blocks = ggml.quantize(GGML_TYPES[row["type"]].id, values, weights[0])
        assert hashlib.sha256(blocks).hexdigest() == row["sha256"]


def test_experts_that_were_never_used_weigh_all_columns_alike() -> None:
    assert small().weights("a").tolist() == [[2, 2, 2, 2], [1, 1, 1, 1]]
    assert small().weights("a").dtype == np.float32


def test_counts_are_whole_numbers_half_away_from_zero() -> None:
    counts = np.array([2.5, 0.4, -1, 1.49], "f4")
    found = Importance.from_mapping({"a": (np.ones((4, 2), "f4"), counts)})
    assert found.weights("a")[:, 0].tolist() == [np.float32(1) / np.float32(3), 1, 1, 1]


@pytest.mark.parametrize(
    ("sums", "counts", "code"),
    [
        ([[1, np.nan]], [1], "importance-value"),
        ([[1, np.inf]], [1], "importance-value"),
        ([[1, -1]], [1], "importance-value"),
        ([[1, 1]], [np.nan], "importance-value"),
        ([[1, 1, 1]], [1, 1], "importance-shape"),
        ([[1]], [], "importance-shape"),
        ([[]], [1], "importance-shape"),
    ],
)
def test_what_is_no_weight_is_an_error(sums: list[Any], counts: list[Any], code: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        Importance.from_mapping({"ok": (np.ones(2, "f4"), [1]), "bad": (sums, counts)}, path="x.gguf")
    assert caught.value.code == code
    assert str(caught.value.place).startswith("bad")


def test_a_matrix_of_another_model_is_an_error_save_for_token_embeddings() -> None:
    importance = Importance.from_mapping({name: (np.ones(8, "f4"), [1]) for name in ("a", "token_embd.weight")})
    assert importance.usable({"token_embd.weight": (100, 16), "a": (3, 8), "b": (3, 3)}) == {"a"}
    with pytest.raises(UsageError, match="8, allowed 16 x 1") as caught:
        importance.usable({"a": (3, 16)})
    assert caught.value.code == "importance-shape"
    with pytest.raises(UsageError, match="importance-missing"):
        importance.weights("c")


@pytest.mark.parametrize("key", ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"])
def test_gguf_without_its_metadata_is_refused(key: str, golden: Path) -> None:
    metadata, tensors = stored(golden / "quantized" / "minilm" / "imatrix.gguf")
    del metadata[key]
    with pytest.raises(CorruptFile, match=key):
        from_gguf(metadata, tensors)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"x.in_sum2": np.ones((1, 2), "f4")}, "importance-pair"),
        ({"x.counts": np.ones((1, 1), "f4")}, "importance-pair"),
        ({"x.in_sum2": np.ones((1, 2), "f4"), "x.counts": np.ones((1, 1), "f8")}, "importance-type"),
    ],
)
def test_gguf_with_odd_tensors_is_refused(change: dict[str, Any], code: str, golden: Path) -> None:
    metadata, tensors = stored(golden / "quantized" / "minilm" / "imatrix.gguf")
    with pytest.raises(CorruptFile) as caught:
        from_gguf(metadata, tensors | change)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "bad", [{"imatrix.chunk_count": -1}, {"imatrix.chunk_size": "9"}, {"imatrix.datasets": "text"}]
)
def test_gguf_with_odd_metadata_is_refused(bad: dict[str, Any], golden: Path) -> None:
    metadata, tensors = stored(golden / "quantized" / "minilm" / "imatrix.gguf")
    with pytest.raises(CorruptFile, match="importance-metadata"):
        from_gguf(metadata | bad, tensors)


def test_gguf_form_comes_back(example: tuple[Path, Importance]) -> None:
    folder, importance = example
    metadata, tensors = importance.to_gguf()
    wanted_metadata, wanted = stored(folder / "imatrix.gguf")
    assert {key: value for key, _, value in metadata}.items() <= wanted_metadata.items()
    assert list(tensors) == sorted(wanted, key=lambda name: (name.rsplit(".", 1)[0], name.endswith("counts")))
    for name, values in wanted.items():
        assert tensors[name].tobytes() == values.tobytes()


def test_included_and_excluded_weights() -> None:
    importance = Importance.from_mapping({name: (np.ones(1, "f4"), [1]) for name in ("ffn_up", "ffn_down", "attn_v")})
    assert importance.select(include=["ffn"], exclude=["down"]).names == {"ffn_up"}
    assert len(importance.select(exclude=["attn"])) == 2
    assert importance.select(include=["nothing"]).metadata("file") == []


def test_long_names_are_cut_at_a_character() -> None:
    assert small(datasets=["é" * 100]).metadata("x" * 200)[:2] == [
        ("quantize.imatrix.file", "STRING", "x" * 127),
        ("quantize.imatrix.dataset", "STRING", "é" * 63),
    ]


# the legacy form


def by_hand(entries: Mapping[bytes, tuple[int, list[float]]], tail: bytes = b"") -> bytes:
    """A .dat file as llama-imatrix wrote it."""
    parts = [struct.pack("<i", len(entries))]
    for name, (calls, values) in entries.items():
        parts += [struct.pack("<i", len(name)), name, struct.pack(f"<ii{len(values)}f", calls, len(values), *values)]
    return b"".join(parts) + tail


def opened(data: bytes) -> Importance:
    dat = read_dat(data)
    return from_dat(dat.entries, dat.chunk_count, dat.dataset)


def test_a_real_dat_file(shared_data: Path) -> None:
    path = shared_data / "imatrix" / "calcuis+gguf-quantizor" / "imatrix.dat"
    data = path.read_bytes()
    dat = read_dat(data, str(path))
    assert (len(dat.entries), dat.chunk_count, dat.dataset) == (154, 365, "imatrix-training-full-3")
    assert write_dat(dat.entries, chunk_count=dat.chunk_count, dataset=dat.dataset) == data
    importance = from_dat(dat.entries, dat.chunk_count, dat.dataset)
    values, calls = dat.entries["blk.21.ffn_up.weight"]
    assert calls == 365
    np.testing.assert_array_equal(importance.weights("blk.21.ffn_up.weight")[0], values / np.float32(365))
    assert importance.metadata()[-2:] == [
        ("quantize.imatrix.entries_count", "UINT32", 154),
        ("quantize.imatrix.chunks_count", "UINT32", 365),
    ]


def test_dat_weights_are_means_of_squares() -> None:
    importance = opened(by_hand({b"a": (4, [8, 4]), b"b": (0, [8, 4]), b"c": (2, [2, 4, 6, 8])}))
    assert importance.weights("a").tolist() == [[2, 1]]
    assert importance.weights("b").tolist() == [[8, 4]]  # as llama-quantize: nothing to divide by
    assert importance.weights("c", (2, 3, 2)).tolist() == [[1, 2], [3, 4]]
    assert importance.chunk_count == 0 and importance.datasets == ()


@pytest.mark.parametrize(
    ("tail", "chunk_count", "dataset"),
    [
        (b"", None, None),
        (struct.pack("<i", 7), 7, None),
        (struct.pack("<ii", 7, 0), 7, None),
        (struct.pack("<ii3s", 7, 3, b"abc"), 7, "abc"),
    ],
)
def test_older_dat_files_end_earlier(tail: bytes, chunk_count: int | None, dataset: str | None) -> None:
    dat = read_dat(by_hand({b"a": (1, [1])}, tail))
    assert (dat.chunk_count, dat.dataset) == (chunk_count, dataset)


def test_dat_cut_off_at_every_byte() -> None:
    entries = by_hand({b"a": (1, [1, 2]), b"bc": (1, [3])})
    data = entries + struct.pack("<ii3s", 7, 3, b"abc")
    whole_without_all_of_the_tail = {len(entries), len(entries) + 4}
    for size in range(len(data)):
        if size in whole_without_all_of_the_tail:
            read_dat(data[:size])
            continue
        with pytest.raises(CorruptFile):
            read_dat(data[:size])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "cut-off"),
        (struct.pack("<i", 0), "count"),
        (struct.pack("<i", -1), "count"),
        (struct.pack("<i", 2**31 - 1) + bytes(100), "count"),
        (struct.pack("<ii", 1, 2**31 - 1) + bytes(100), "limit"),
        (struct.pack("<ii", 1, -5) + bytes(100), "count"),
        (struct.pack("<ii", 1, 0) + bytes(100), "count"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1) + bytes(100), "cut-off"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 0) + bytes(100), "count"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, -1) + bytes(100), "count"),
        (by_hand({b"\xff": (1, [1])}), "bad-text"),
        (by_hand({b"a\0b": (1, [1])}), "bad-text"),
        (by_hand({b"a": (1, [1])}, struct.pack("<ii", 1, -1)), "count"),
        (by_hand({b"a": (1, [1])}, struct.pack("<ii", 1, 0) + b"more"), "bytes-left-over"),
        (struct.pack("<i", 2) + by_hand({b"a": (1, [1])})[4:] * 2, "duplicate-entry"),
        (b"GGUF" + bytes(60), "count"),
    ],
)
def test_hostile_dat_files_are_named(data: bytes, code: str) -> None:
    with pytest.raises(ModelfmtError) as caught:
        read_dat(data, "x.dat")
    assert (caught.value.code, caught.value.path) == (code, "x.dat")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_dat(data)
    except ModelfmtError:
        return


NAMES = st.text(min_size=1, max_size=20).filter(lambda name: "\0" not in name and name.isprintable())


@given(
    st.dictionaries(
        NAMES, st.tuples(st.lists(st.floats(0, 2.0**100, width=32), min_size=1), st.integers(0, 10**6)), min_size=1
    ),
    st.integers(0, 10**6),
    NAMES,
)
def test_dat_round_trip(entries: dict[str, tuple[list[float], int]], chunk_count: int, dataset: str) -> None:
    arrays = {name: (np.array(values, "f4"), calls) for name, (values, calls) in entries.items()}
    dat = read_dat(write_dat(arrays, chunk_count=chunk_count, dataset=dataset))
    assert (list(dat.entries), dat.chunk_count, dat.dataset) == (list(arrays), chunk_count, dataset)
    for name, (values, calls) in arrays.items():
        np.testing.assert_array_equal(dat.entries[name][0], values)
        assert dat.entries[name][1] == calls


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({}, "no-entries"),
        ({"": (np.ones(1, "f4"), 1)}, "bad-name"),
        ({"a\0": (np.ones(1, "f4"), 1)}, "bad-name"),
        ({"a": (np.ones(1, "f4"), 2**31)}, "too-large"),
    ],
)
def test_what_dat_cannot_hold_is_refused(entries: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_dat(entries)
    assert caught.value.code == code


def test_dat_form_of_a_gguf_matrix_weighs_the_same(example: tuple[Path, Importance]) -> None:
    _, importance = example
    again = opened(write_dat(importance.to_dat(), chunk_count=importance.chunk_count, dataset=importance.datasets[0]))
    assert again.names == importance.names
    assert again.metadata() == importance.metadata()
    for name in importance:
        np.testing.assert_allclose(again.weights(name), importance.weights(name), rtol=3e-7)


def test_dat_form_stores_ones_for_unused_experts() -> None:
    found = small(chunk_size=2).to_dat()
    assert found["a"][1] == 2  # three tokens in chunks of two
    assert found["a"][0].tolist() == [4, 4, 4, 4, 2, 2, 2, 2]


# merging


def test_merging_adds_sums_and_counts() -> None:
    one, other = small(datasets=["x"], chunk_size=2), small(datasets=["y"], chunk_size=2)
    both = merge([one, other])
    assert both.entries["a"].in_sum2.tolist() == [[12] * 4, [12] * 4]
    assert both.entries["a"].counts.tolist() == [6, 0]
    assert (both.datasets, both.chunk_count, both.chunk_size) == (("x", "y"), 3, 2)
    np.testing.assert_array_equal(both.weights("a"), one.weights("a"))


def test_merging_the_legacy_form_counts_tokens() -> None:
    legacy = opened(by_hand({b"a": (3, [6.0] * 8), b"b": (3, [3.0])}))
    both = merge([legacy, small()], chunk_size=10)
    assert both.entries["a"].counts.tolist() == [33, 30]
    assert both.entries["a"].in_sum2.tolist() == [[66] * 4, [66] * 4]
    assert both.weights("b").tolist() == [[1]]
    assert not both.legacy


def test_merging_different_models_is_an_error() -> None:
    other = Importance.from_mapping({"a": (np.ones(4, "f4"), [1])})
    with pytest.raises(UsageError, match="importance-shape"):
        merge([small(), other])
    with pytest.raises(UsageError, match="no-entries"):
        merge([])
