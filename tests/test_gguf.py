"""GGUF files: against PyPI's gguf package, both ways; versions, byte orders, alignments, splits, large vocabularies."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf as reference
import numpy as np
import pytest

import on_disk
from modelfmt.errors import (
    CorruptFile,
    LimitExceeded,
    ModelfmtError,
    ShapeError,
    SourceMissing,
    UnsafePath,
    UnsupportedError,
    UsageError,
)
from modelfmt.formats import gguf
from modelfmt.formats.gguf_tables import ALIGNMENTS, REMOVED_TYPES, TENSOR_TYPES, VALUE_TYPES
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry, FileLayout

# Q8_1: the package's table has the older block of 40 bytes; Q2_0: newer than the package
SHARED_TYPES = sorted(set(TENSOR_TYPES.values()) - {"Q8_1", "Q2_0"})

VALUES: list[tuple[str, str, Any]] = [
    ("general.architecture", "STRING", "toy"),
    ("u8", "UINT8", 255),
    ("i8", "INT8", -128),
    ("u16", "UINT16", 65_535),
    ("i16", "INT16", -32_768),
    ("u32", "UINT32", 2**32 - 1),
    ("i32", "INT32", -(2**31)),
    ("f32", "FLOAT32", 0.25),
    ("yes", "BOOL", True),
    ("no", "BOOL", False),
    ("text", "STRING", "a\nβ"),
    ("u64", "UINT64", 2**64 - 1),
    ("i64", "INT64", -(2**63)),
    ("f64", "FLOAT64", 0.1),
    ("texts", "ARRAY:STRING", ["", "a", "βγ", "x" * 300]),
    ("numbers", "ARRAY:INT32", [1, -2, 3]),
    ("bytes", "ARRAY:UINT8", list(range(7))),
    ("flags", "ARRAY:BOOL", [True, False, True]),
    ("floats", "ARRAY:FLOAT32", [0.5, -1.5]),
    ("wide", "ARRAY:UINT64", [2**63]),
    ("doubles", "ARRAY:FLOAT64", [0.1]),
]


def shape_of(encoding: str) -> tuple[int, ...]:
    return (2, 3, ENCODINGS[encoding].block_elements * 2)


def write_reference(
    path: Path, tensors: Iterable[tuple[Entry, bytes]], values: Iterable[tuple[str, str, Any]] = VALUES, **options: Any
) -> None:
    """A file by the package's own writer. Tensor bytes are little-endian; a big-endian writer swaps dense ones."""
    alignment = options.pop("alignment", 32)
    writer = reference.GGUFWriter(path, "toy", **options)
    if alignment != 32:
        writer.data_alignment = alignment
    for key, kind, value in values:
        if key == "general.architecture":
            continue
        kind, _, item = kind.partition(":")
        types = reference.GGUFValueType
        writer.add_key_value(key, value, types[kind], sub_type=types[item] if item else None)
    for entry, data in tensors:
        row = ENCODINGS[entry.encoding]
        kind = reference.GGMLQuantizationType[entry.encoding]
        if row.dense and row.numpy and row.numpy != "bfloat16":
            array = np.frombuffer(data, row.numpy).reshape(entry.shape)
            writer.add_tensor(entry.name, array, raw_dtype=kind)
        else:
            array = np.frombuffer(data, np.uint8).reshape(*entry.shape[:-1], -1)
            writer.add_tensor(entry.name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_reference(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    reader = reference.GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {
        tensor.name: (tensor.tensor_type.name, tuple(map(int, reversed(tensor.shape))), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return values, tensors


def laid_out(
    entries: list[Entry], values: Iterable[tuple[str, str, Any]] = VALUES, **options: Any
) -> tuple[list[FileLayout], dict[str, bytes]]:
    layouts = gguf.layout(entries, metadata=list(values), **options)
    return layouts, on_disk.payload(entries, on_disk.sizes(layouts))


def plain(values: Iterable[tuple[str, str, Any]]) -> dict[str, Any]:
    return {key: value for key, _, value in values}


def every_type(types: Iterable[str]) -> list[Entry]:
    return [Entry(f"blk.{i}.{name.lower()}", name, shape_of(name)) for i, name in enumerate(types)]


def test_reference_reads_what_we_lay_out(tmp_path: Path) -> None:
    entries = [*every_type(SHARED_TYPES), Entry("vector", "F32", (5,)), Entry("four", "F16", (2, 1, 3, 4))]
    (layout,), data = laid_out(entries)
    path = tmp_path / "a.gguf"
    path.write_bytes(on_disk.image(layout, data))
    values, tensors = read_reference(path)
    assert values == plain(VALUES)
    assert tensors == {entry.name: (entry.encoding, entry.shape, data[entry.name]) for entry in entries}


def test_we_read_what_the_reference_writes(tmp_path: Path) -> None:
    entries = every_type(SHARED_TYPES)
    _, data = laid_out(entries)
    path = tmp_path / "a.gguf"
    write_reference(path, [(entry, data[entry.name]) for entry in entries])
    model = on_disk.opened(gguf.read, path)
    assert on_disk.contents(model) == {entry.name: (entry.encoding, entry.shape, data[entry.name]) for entry in entries}
    assert {key: list(v) if isinstance(v, gguf.GgufArray) else v for key, v in model.metadata.items()} == plain(VALUES)
    assert model.extras["gguf"]["types"] == {key: kind for key, kind, _ in VALUES}
    assert model.architecture == "toy"
    on_disk.check_spans(model)


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_layout_is_the_references_file_byte_for_byte(tmp_path: Path, alignment: int) -> None:
    values = [*VALUES, *([("general.alignment", "UINT32", alignment)] if alignment != 32 else [])]
    entries = [*every_type(SHARED_TYPES), Entry("odd", "I8", (5,))]
    (layout,), data = laid_out(entries, values, alignment=alignment)
    path = tmp_path / "a.gguf"
    write_reference(path, [(entry, data[entry.name]) for entry in entries], values, alignment=alignment)
    assert on_disk.image(layout, data) == path.read_bytes()


def test_types_the_package_does_not_know_round_trip() -> None:
    entries = every_type(["Q8_1", "Q2_0"])
    (layout,), data = laid_out(entries)
    model = on_disk.opened_bytes(gguf.read, on_disk.image(layout, data))
    assert on_disk.contents(model) == {e.name: (e.encoding, e.shape, data[e.name]) for e in entries}


def test_type_ids_are_the_references() -> None:
    known = {kind.value: kind.name for kind in reference.GGMLQuantizationType}
    assert {number: name for number, name in TENSOR_TYPES.items() if number in known} == known
    assert [kind.name for kind in sorted(reference.GGUFValueType)] == list(VALUE_TYPES)
    assert not set(TENSOR_TYPES) & set(REMOVED_TYPES)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_alignment_round_trips(alignment: int, tmp_path: Path) -> None:
    entries = [Entry("a", "I8", (3,)), Entry("b", "F32", (1,)), Entry("c", "F64", (2, 2))]
    (layout,), data = laid_out(entries, alignment=alignment)
    assert all(placed.offset % alignment == 0 for placed in layout.tensors)
    image = on_disk.image(layout, data)
    model = on_disk.opened_bytes(gguf.read, image)
    assert model.extras["gguf"]["alignment"] == alignment
    assert on_disk.contents(model) == {e.name: (e.encoding, e.shape, data[e.name]) for e in entries}
    path = tmp_path / "a.gguf"
    path.write_bytes(image)
    assert read_reference(path)[1] == on_disk.contents(model)


def test_big_endian_file_of_the_reference(tmp_path: Path) -> None:
    dense = ["F64", "F32", "F16", "I64", "I32", "I16", "I8"]
    entries = every_type(dense)
    _, data = laid_out(entries)
    path = tmp_path / "big.gguf"
    write_reference(path, [(e, data[e.name]) for e in entries], endianess=reference.GGUFEndian.BIG)
    model = on_disk.opened(gguf.read, path)
    assert model.extras["gguf"]["byteorder"] == "big"
    assert {key: list(v) if isinstance(v, gguf.GgufArray) else v for key, v in model.metadata.items()} == plain(VALUES)
    assert on_disk.contents(model) == {e.name: (e.encoding, e.shape, data[e.name]) for e in entries}
    little, _ = laid_out(entries, [(k, model.extras["gguf"]["types"][k], v) for k, v in model.metadata.items()])
    assert little == laid_out(entries)[0]
    np.testing.assert_array_equal(model.metadata["numbers"].numpy(), [1, -2, 3])


def by_hand(version: int, big: bool = False) -> bytes:
    """A file with two strings, an array and a 2 x 3 matrix, written from the specification."""
    order = ">" if big else "<"

    def number(code: str, value: int) -> bytes:
        return struct.pack(order + code, value)

    def size(value: int) -> bytes:
        return number("I" if version == 1 else "Q", value)

    def text(value: str) -> bytes:
        return size(len(value.encode())) + value.encode()

    head = b"GGUF" + number("I", version) + size(1) + size(3)
    head += text("general.architecture") + number("I", 8) + text("toy")
    head += text("words") + number("I", 9) + number("I", 8) + size(3) + text("a") + text("") + text("βγ")
    head += text("toy.count") + number("I", 4) + number("I", 7)
    head += text("w") + number("I", 2) + size(3) + size(2) + number("I", 0) + number("Q", 0)
    head += bytes(-len(head) % 32)
    return head + struct.pack(order + "6f", 1, 2, 3, 4, 5, 6) + bytes(8)


@pytest.mark.parametrize(("version", "big"), [(1, False), (2, False), (3, False), (3, True)])
def test_versions(version: int, big: bool) -> None:
    model = on_disk.opened_bytes(gguf.read, by_hand(version, big))
    assert model.extras["gguf"]["version"] == version
    assert model.metadata == {"general.architecture": "toy", "words": ["a", "", "βγ"], "toy.count": 7}
    assert model.metadata["words"][2] == "βγ"
    np.testing.assert_array_equal(model["w"].numpy(), [[1, 2, 3], [4, 5, 6]])
    types = model.extras["gguf"]["types"]
    (layout,) = gguf.layout([], metadata=[(k, types[k], v) for k, v in model.metadata.items()])
    assert on_disk.opened_bytes(gguf.read, on_disk.image(layout, {})).metadata == model.metadata


def test_array_behaves_like_a_list() -> None:
    values = plain(VALUES)
    (layout,) = gguf.layout([], metadata=VALUES)
    model = on_disk.opened_bytes(gguf.read, on_disk.image(layout, {}))
    for key in ("texts", "numbers", "bytes", "flags", "floats", "wide"):
        array = model.metadata[key]
        assert isinstance(array, gguf.GgufArray)
        assert len(array) == len(values[key])
        assert list(array) == values[key]
        assert [array[i] for i in range(len(array))] == values[key]
        assert array[-1] == values[key][-1]
        assert array[1:] == values[key][1:]
        assert array == gguf.GgufArray.of(array.type, values[key])
        with pytest.raises(IndexError):
            array[len(array)]


def test_string_that_is_not_utf8_is_refused_when_it_is_read() -> None:
    data = by_hand(3).replace("βγ".encode(), b"\xce\xb2\xff\xff")
    words = on_disk.opened_bytes(gguf.read, data).metadata["words"]
    assert words[0] == "a"
    assert list(words.items())[2] == b"\xce\xb2\xff\xff"
    for read in (lambda: words[2], words.tolist):
        with pytest.raises(CorruptFile) as caught:
            read()
        assert caught.value.place == "words[2]"


SPLIT_ENTRIES = [Entry(f"t{i}", "F32", (n,)) for i, n in enumerate([8, 8, 16, 64, 1, 1, 1])]


def write_split(folder: Path, **options: Any) -> tuple[list[FileLayout], dict[str, bytes]]:
    layouts, data = laid_out(SPLIT_ENTRIES, stem="toy", **options)
    for layout in layouts:
        (folder / layout.name).write_bytes(on_disk.image(layout, data))
    return layouts, data


@pytest.mark.parametrize("options", [{"split_tensors": 3}, {"split_size": 96}, {"split_size": 96, "alignment": 64}])
def test_split_is_opened_from_any_shard(tmp_path: Path, options: dict[str, int]) -> None:
    layouts, data = write_split(tmp_path, **options)
    assert len(layouts) > 2
    for layout in layouts:
        model = on_disk.opened(gguf.read, tmp_path / layout.name)
        assert {name: content for name, (_, _, content) in on_disk.contents(model).items()} == data
        assert list(model) == [entry.name for entry in SPLIT_ENTRIES]
        assert "split.count" not in model.metadata
        assert {key for key, _, _ in VALUES} <= model.metadata.keys()
        assert model.extras["gguf"]["split"]["count"] == len(layouts)


def test_split_keys_are_those_of_gguf_split(tmp_path: Path) -> None:
    layouts, _ = write_split(tmp_path, split_tensors=3)
    assert [layout.name for layout in layouts] == [f"toy-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for number, layout in enumerate(layouts):
        fields = reference.GGUFReader(tmp_path / layout.name).fields
        own = {key: (field.types[0].name, field.contents()) for key, field in fields.items() if "split" in key}
        assert own == {
            "split.no": ("UINT16", number),
            "split.tensors.count": ("INT32", len(SPLIT_ENTRIES)),
            "split.count": ("UINT16", 3),
        }
        assert ("general.architecture" in fields) == (number == 0)


def test_split_by_size_cuts_where_gguf_split_cuts() -> None:
    # its rule: a new shard once padded tensor bytes would exceed the limit; it fails on a first tensor that is larger
    layouts, _ = laid_out(SPLIT_ENTRIES, split_size=96)
    assert [[placed.name for placed in layout.tensors] for layout in layouts] == [
        ["t0", "t1"],
        ["t2"],
        ["t3"],
        ["t4", "t5", "t6"],
    ]


def test_split_of_the_reference(tmp_path: Path) -> None:
    _, data = laid_out(SPLIT_ENTRIES)
    tensors = [(entry, data[entry.name]) for entry in SPLIT_ENTRIES]
    write_reference(tmp_path / "ref.gguf", tensors, split_max_tensors=2)
    shards = sorted(tmp_path.iterdir())
    assert len(shards) == 4
    for path in shards:
        model = on_disk.opened(gguf.read, path)
        assert {name: content for name, (_, _, content) in on_disk.contents(model).items()} == data


def test_missing_shards_are_named(tmp_path: Path) -> None:
    layouts, _ = write_split(tmp_path, split_tensors=3)
    (tmp_path / layouts[1].name).unlink()
    with pytest.raises(SourceMissing) as caught:
        on_disk.opened(gguf.read, tmp_path / layouts[2].name)
    assert layouts[1].name in str(caught.value)


def test_renamed_exchanged_and_foreign_shards(tmp_path: Path) -> None:
    layouts, data = write_split(tmp_path, split_tensors=3)
    first, second, third = (tmp_path / layout.name for layout in layouts)
    other = tmp_path / "other.gguf"
    other.write_bytes(second.read_bytes())
    with pytest.raises(CorruptFile) as caught:
        on_disk.opened(gguf.read, other)
    assert caught.value.code == "split-name"
    second.write_bytes(third.read_bytes())
    with pytest.raises(CorruptFile) as caught:
        on_disk.opened(gguf.read, first)
    assert caught.value.code == "split"
    half = gguf.layout(SPLIT_ENTRIES[:4], metadata=VALUES, split_tensors=2, stem="toy")
    (tmp_path / "x-00001-of-00002.gguf").write_bytes(on_disk.image(half[0], data))
    broken = on_disk.image(half[1], data).replace(struct.pack("<Ii", 5, 4), struct.pack("<Ii", 5, 9))
    (tmp_path / "x-00002-of-00002.gguf").write_bytes(broken)
    on_disk.opened(gguf.read, tmp_path / "x-00001-of-00002.gguf")  # only the first shard's total counts
    (tmp_path / "x-00001-of-00002.gguf").write_bytes(
        on_disk.image(half[0], data).replace(struct.pack("<Ii", 5, 4), struct.pack("<Ii", 5, 9))
    )
    with pytest.raises(CorruptFile, match="number of tensors"):
        on_disk.opened(gguf.read, tmp_path / "x-00001-of-00002.gguf")


def test_shard_that_is_a_link_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    layouts, _ = write_split(inside, split_tensors=3)
    moved = outside / "shard.gguf"
    (inside / layouts[1].name).rename(moved)
    (inside / layouts[1].name).symlink_to(moved)
    with pytest.raises(UnsafePath):
        on_disk.opened(gguf.read, inside / layouts[0].name)


def test_joined_shards_are_refused_with_a_hint(tmp_path: Path) -> None:
    layouts, data = laid_out(SPLIT_ENTRIES)
    path = tmp_path / "joined.gguf"
    path.write_bytes(on_disk.image(layouts[0], data) * 2)
    with pytest.raises(CorruptFile, match="cat"):
        on_disk.opened(gguf.read, path)


def test_one_shard_is_a_plain_file() -> None:
    (layout,), _ = laid_out(SPLIT_ENTRIES, split_tensors=100)
    assert layout.name == ""
    assert b"split." not in layout.header


@pytest.mark.parametrize(
    ("entries", "error", "code"),
    [
        ([Entry("a", "Q4_K", (255,))], ShapeError, "row-not-blocks"),
        ([Entry("a", "Q8_0", ())], ShapeError, "row-not-blocks"),
        ([Entry("a", "F8_E4M3", (4,))], UnsupportedError, "tensor-type"),
        ([Entry("a", "F32", (1, 1, 1, 1, 1))], ShapeError, "dimensions"),
        ([Entry("a", "F32", (-1,))], ShapeError, "dimensions"),
        ([Entry("a" * 64, "F32", (1,))], UsageError, "name-length"),
        ([Entry("β" * 32, "F32", (1,))], UsageError, "name-length"),
        ([Entry("", "F32", (1,))], UsageError, "name-length"),
        ([Entry("a\ud800", "F32", (1,))], UsageError, "name-length"),
        ([Entry("a", "F32", (1,)), Entry("a", "F32", (1,))], UsageError, "duplicate-key"),
    ],
)
def test_layout_refuses_tensors(entries: list[Entry], error: type[ModelfmtError], code: str) -> None:
    with pytest.raises(error) as caught:
        gguf.layout(entries, metadata=[])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT8", 128),
        ("UINT32", 2**32),
        ("INT32", 2**31),
        ("UINT64", 2**64),
        ("INT64", 2**63),
        ("UINT32", 1.0),
        ("UINT32", True),
        ("UINT32", "1"),
        ("FLOAT32", 1e39),
        ("FLOAT32", "x"),
        ("BOOL", 1),
        ("STRING", 5),
        ("STRING", "\ud800"),
        ("ARRAY:INT32", [1, 2**31]),
        ("ARRAY:STRING", ["a", 1]),
        ("ARRAY:STRING", "abc"),
        ("ARRAY:BOOL", [1]),
        ("ARRAY:INT32", gguf.GgufArray.of("UINT32", [1])),
        ("ARRAY:INT32", 3),
    ],
)
def test_layout_refuses_values_that_do_not_fit(kind: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        gguf.layout([], metadata=[("key", kind, value)])
    assert (caught.value.code, caught.value.place) == ("value-range", "key")


@pytest.mark.parametrize("kind", ["", "uint32", "ARRAY", "ARRAY:ARRAY", "ARRAY:", "STRING:STRING", "HALF"])
def test_layout_refuses_unknown_value_types(kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        gguf.layout([], metadata=[("key", kind, 1)])
    assert caught.value.code == "value-type"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"metadata": [("a", "UINT8", 1), ("a", "UINT8", 1)]}, "duplicate-key"),
        ({"metadata": [("split.count", "UINT16", 2)]}, "duplicate-key"),
        ({"metadata": [("", "UINT8", 1)]}, "name-length"),
        ({"metadata": [("x" * 65_536, "UINT8", 1)]}, "name-length"),
        ({"metadata": [("general.alignment", "UINT32", 64)]}, "alignment"),
        ({"metadata": [], "alignment": 48}, "alignment"),
        ({"metadata": [], "alignment": 0}, "alignment"),
        ({"metadata": [], "split_size": 0}, "split-options"),
        ({"metadata": [], "split_size": 1, "split_tensors": 1}, "split-options"),
        ({"metadata": [], "split_tensors": 1, "stem": "../x"}, "stem"),
    ],
)
def test_layout_refuses_options(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        gguf.layout(SPLIT_ENTRIES, **options)
    assert caught.value.code == code


def tampered(find: bytes, put: bytes, *, version: int = 3) -> bytes:
    data = by_hand(version)
    assert data.count(find) == 1
    return data.replace(find, put)


INFO = b"w" + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
COUNT = b"toy.count" + struct.pack("<II", 4, 7)


def info(*, n_dims: int = 2, dims: tuple[int, ...] = (3, 2), kind: int = 0, offset: int = 0) -> bytes:
    return b"w" + struct.pack(f"<I{len(dims)}QIQ", n_dims, *dims, kind, offset)


def value(kind: int, data: bytes) -> bytes:
    return b"toy.count" + struct.pack("<I", kind) + data


def counts(n_tensors: int, n_values: int) -> bytes:
    return by_hand(3)[:8] + struct.pack("<QQ", n_tensors, n_values) + by_hand(3)[24:]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header-cut"),
    "magic alone": (b"GGUF", "header-cut"),
    "not GGUF": (b"GGUX" + bytes(60), "magic"),
    "GGJT": (b"tjgg" + bytes(60), "magic"),
    "version 0": (b"GGUF" + bytes(60), "version"),
    "version 4": (b"GGUF\4" + bytes(60), "version"),
    "big-endian version 4": (b"GGUF\0\0\0\4" + bytes(60), "version"),
    "2^64 - 1 tensors": (counts(2**64 - 1, 3), "count"),
    "2^61 tensors": (counts(2**61, 3), "count"),
    "2^63 values": (counts(1, 2**63), "count"),
    "a tensor too many": (counts(2, 3), "count"),
    "a value too many": (counts(1, 4), "count"),
    "key of 2^64 - 1": (by_hand(3)[:24] + b"\xff" * 8 + by_hand(3)[32:], "count"),
    "key twice": (tampered(struct.pack("<Q", 9) + b"toy.count", struct.pack("<Q", 5) + b"words"), "duplicate-key"),
    "NUL in a key": (tampered(b"toy.count", b"toy\0count"), "name"),
    "control characters in a key": (tampered(b"toy.count", b"toy\ncount"), "name"),
    "key is not UTF-8": (tampered(b"toy.count", b"toy\xffcount"), "not-utf8"),
    "value type 13": (tampered(COUNT, value(13, bytes(4))), "value-type"),
    "bool of 2": (tampered(COUNT, value(7, b"\2") + bytes(3)), "bool"),
    "array of bools with a 2": (tampered(COUNT, value(9, struct.pack("<IQ", 7, 2) + b"\1\2")), "bool"),
    "array of 2^63": (tampered(COUNT, value(9, struct.pack("<IQ", 4, 2**63))), "count"),
    "array of 2^61 u64 (wraps to 0)": (tampered(COUNT, value(9, struct.pack("<IQ", 10, 2**61))), "count"),
    "array of 2^61 strings": (tampered(COUNT, value(9, struct.pack("<IQ", 8, 2**61))), "count"),
    "array of 2^40 strings": (tampered(COUNT, value(9, struct.pack("<IQ", 8, 2**40))), "count"),
    "array of arrays": (tampered(COUNT, value(9, struct.pack("<IQ", 9, 1))), "nested-array"),
    "array of type 99": (tampered(COUNT, value(9, struct.pack("<IQ", 99, 1))), "value-type"),
    "string of 2^63 in an array": (
        tampered(COUNT, value(9, struct.pack("<IQQ", 8, 2, 2**63) + bytes(16))),
        "header-cut",
    ),
    "string past the end": (tampered(COUNT, value(8, struct.pack("<Q", 10_000))), "count"),
    "5 dimensions": (tampered(INFO, info(n_dims=5, dims=(3, 2, 1, 1, 1))), "dimensions"),
    "2^32 - 1 dimensions": (tampered(INFO, info(n_dims=2**32 - 1)), "dimensions"),
    "size of 2^64 - 1": (tampered(INFO, info(dims=(2**64 - 1, 2))), "shape"),
    "product of 2^64": (tampered(INFO, info(dims=(2**32, 2**32))), "shape"),
    "product that wraps to 6": (tampered(INFO, info(dims=(2**63 + 3, 2))), "shape"),
    "shape larger than the file": (tampered(INFO, info(dims=(3, 3))), "span-past-end"),
    "type 4, removed": (tampered(INFO, info(kind=4)), "tensor-type"),
    "type 99": (tampered(INFO, info(kind=99)), "tensor-type"),
    "half a block": (tampered(INFO, info(kind=8)), "row-not-blocks"),
    "offset 2^64 - 32 (wraps before the data)": (tampered(INFO, info(offset=2**64 - 32)), "span-past-end"),
    "offset 2^63": (tampered(INFO, info(offset=2**63)), "span-past-end"),
    "unaligned offset": (tampered(INFO, info(offset=4)), "misaligned"),
    "bytes behind": (by_hand(3) + bytes(4096), "data-size"),
    "bytes cut": (by_hand(3)[:-9], "span-past-end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name: str) -> None:
    data, code = HOSTILE[name]
    with pytest.raises((CorruptFile, LimitExceeded, UnsupportedError)) as caught:
        on_disk.opened_bytes(gguf.read, data)
    assert caught.value.code == code, caught.value
    assert caught.value.path == "memory"


@pytest.mark.parametrize("number", sorted(REMOVED_TYPES))
def test_removed_types_are_named(number: int) -> None:
    with pytest.raises(UnsupportedError, match=REMOVED_TYPES[number]):
        on_disk.opened_bytes(gguf.read, tampered(INFO, info(kind=number)))


def two(first: tuple[str, int], second: tuple[str, int], data_bytes: int = 64) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0)
    for name, offset in (first, second):
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, 8, 0, offset)
    return head + bytes(-len(head) % 32) + bytes(data_bytes)


def test_overlaps_and_repeated_names() -> None:
    assert len(on_disk.opened_bytes(gguf.read, two(("a", 0), ("b", 32)))) == 2
    assert len(on_disk.opened_bytes(gguf.read, two(("a", 32), ("b", 0)))) == 2
    for data, code in ((two(("a", 0), ("b", 0), 32), "overlap"), (two(("a", 0), ("a", 32)), "duplicate-key")):
        with pytest.raises(CorruptFile) as caught:
            on_disk.opened_bytes(gguf.read, data)
        assert caught.value.code == code


@pytest.mark.parametrize("name_bytes", [64, 65])
def test_names_up_to_the_specifications_64_bytes(name_bytes: int) -> None:
    data = two(("n" * name_bytes, 0), ("b", 32))
    if name_bytes == 64:
        assert "n" * 64 in on_disk.opened_bytes(gguf.read, data)
        return
    with pytest.raises(LimitExceeded) as caught:
        on_disk.opened_bytes(gguf.read, data)
    assert caught.value.code == "name-length"


@pytest.mark.parametrize(
    ("kind", "data"), [(4, struct.pack("<I", n)) for n in (0, 1, 4, 48, 2**21, 2**31)] + [(10, struct.pack("<Q", 32))]
)
def test_impossible_alignments(kind: int, data: bytes) -> None:
    key = b"general.alignment"
    file = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<I", kind) + data
    with pytest.raises(CorruptFile) as caught:
        on_disk.opened_bytes(gguf.read, file)
    assert caught.value.code == "alignment"


def test_large_vocabulary_opens_lazily(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 150_000
    words = [f"tok{i}é" for i in range(n)]
    merges = [f"a{i} b{i}" for i in range(n)]
    values = [("tokens", "ARRAY:STRING", words), ("merges", "ARRAY:STRING", merges), ("last", "STRING", "end")]
    (layout,) = gguf.layout([], metadata=values)
    path = tmp_path / "vocab.gguf"
    path.write_bytes(layout.header)
    began = time.perf_counter()
    model = on_disk.opened(gguf.read, path)
    opened = time.perf_counter()
    assert model.metadata["tokens"][n - 1] == words[-1]
    assert model.metadata["tokens"].tolist() == words
    assert model.metadata["last"] == "end"
    copied = gguf.layout([], metadata=[(k, model.extras["gguf"]["types"][k], v) for k, v in model.metadata.items()])
    assert copied == [layout]
    with capsys.disabled():
        print(f" [{2 * n:,} strings, {layout.size / 1e6:.1f} MB: opened in {1e3 * (opened - began):.1f} ms]", end="")


def test_real_vocabularies_match_the_reference(shared_data: Path) -> None:
    for name in ("llama-spm", "bert-bge"):
        path = shared_data / "vocab" / f"ggml-vocab-{name}.gguf"
        model = on_disk.opened(gguf.read, path)
        expected, _ = read_reference(path)
        assert {k: v.tolist() if isinstance(v, gguf.GgufArray) else v for k, v in model.metadata.items()} == expected


def test_every_real_file_opens(shared_data: Path) -> None:
    paths = [*(shared_data / "vocab").glob("*.gguf"), *(shared_data / "gguf").rglob("*.gguf")]
    broken = [path for path in paths if path.name == "hdr-zero-first-dim.gguf"]
    assert len(paths) - len(broken) >= 12
    for path in set(paths) - set(broken):
        assert on_disk.opened(gguf.read, path).architecture
    for path in [*broken, *(shared_data / "gguf").rglob("*huge*.bin")]:
        with pytest.raises(CorruptFile):
            on_disk.opened(gguf.read, path)


def test_sniff() -> None:
    assert gguf.sniff(by_hand(1))
    assert not gguf.sniff(b"GGU")
    assert not gguf.sniff(b"")
