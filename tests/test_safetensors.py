"""safetensors files: against the reference library, both ways, and every rule of the header."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors as reference

import on_disk
from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError, UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry

# our name -> the name that the reference's constructor takes; F6 types it can read but not construct
REFERENCE_NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
SHAPES = [(3, 8), (4,), (2, 3, 4), (0, 4)]


def raw(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entries_of(dtype: str) -> list[Entry]:
    return [Entry(f"t{i}", dtype, shape) for i, shape in enumerate(SHAPES)]


def written_by_reference(data: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None) -> bytes:
    buffers = {name: np.frombuffer(content or b"\0", np.uint8) for name, (_, _, content) in data.items()}
    specs = {}
    for name, (dtype, shape, content) in data.items():
        stored = (*shape[:-1], shape[-1] // 2) if dtype == "F4" else shape
        address = buffers[name].ctypes.data
        specs[name] = reference.TensorSpec(
            dtype=REFERENCE_NAMES[dtype], shape=stored, data_ptr=address, data_len=len(content)
        )
    return reference.serialize(specs, metadata)


def test_dtype_table_is_the_references() -> None:
    assert set(REFERENCE_NAMES) | {"F6_E2M3", "F6_E3M2"} == safetensors.DTYPES


@pytest.mark.parametrize("dtype", sorted(safetensors.DTYPES))
def test_reference_reads_what_we_lay_out(dtype: str) -> None:
    entries = entries_of(dtype)
    (layout,), index = safetensors.layout(entries, metadata={"format": "pt", "é": "\n"})
    data = on_disk.payload(entries, on_disk.sizes([layout]))
    found = {name: (row["dtype"], tuple(row["shape"]), bytes(row["data"])) for name, row in deserialize(layout, data)}
    assert index is None
    assert found == {entry.name: (dtype, entry.shape, data[entry.name]) for entry in entries}


def deserialize(layout: Any, data: dict[str, bytes]) -> list[tuple[str, dict[str, Any]]]:
    return reference.deserialize(on_disk.image(layout, data))


@pytest.mark.parametrize("dtype", sorted(REFERENCE_NAMES))
def test_we_read_what_the_reference_writes(dtype: str) -> None:
    entries = entries_of(dtype)
    (layout,), _ = safetensors.layout(entries, metadata={})
    data = on_disk.payload(entries, on_disk.sizes([layout]))
    given = {entry.name: (dtype, entry.shape, data[entry.name]) for entry in entries}
    model = on_disk.opened_bytes(safetensors.read, written_by_reference(given, {"a": "b"}))
    assert on_disk.contents(model) == given
    assert model.metadata == {"a": "b"}
    on_disk.check_spans(model)


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_six_bit_types_round_trip(dtype: str) -> None:
    entries = entries_of(dtype)
    (layout,), _ = safetensors.layout(entries, metadata={})
    data = on_disk.payload(entries, on_disk.sizes([layout]))
    assert layout.tensors[0].size == 3 * 8 * 6 // 8
    model = on_disk.opened_bytes(safetensors.read, on_disk.image(layout, data))
    assert on_disk.contents(model) == {entry.name: (dtype, entry.shape, data[entry.name]) for entry in entries}


def test_same_order_gives_the_references_bytes() -> None:
    entries = [Entry("a", "F64", (2,)), Entry("b", "F32", (3,)), Entry("c", "BF16", (2, 2)), Entry("d", "U8", (5,))]
    (layout,), _ = safetensors.layout(entries, metadata={"format": "pt"})
    data = on_disk.payload(entries, on_disk.sizes([layout]))
    given = {entry.name: (entry.encoding, entry.shape, data[entry.name]) for entry in entries}
    assert on_disk.image(layout, data) == written_by_reference(given, {"format": "pt"})


def test_given_order_is_kept_where_it_is_aligned() -> None:
    entries = [Entry("z", "BF16", (4,)), Entry("a", "F32", (1,)), Entry("m", "BF16", (2,))]
    (layout,), _ = safetensors.layout(entries, metadata={})
    assert [placed.name for placed in layout.tensors] == ["z", "a", "m"]


def test_misaligned_order_is_sorted_by_element_size() -> None:
    entries = [Entry("u", "U8", (3,)), Entry("z", "BF16", (3,)), Entry("a", "F32", (1,)), Entry("b", "F32", (1,))]
    (layout,), _ = safetensors.layout(entries, metadata={})
    assert [placed.name for placed in layout.tensors] == ["a", "b", "z", "u"]
    assert all(placed.offset % size == 0 for placed, size in zip(layout.tensors, (4, 4, 2, 1), strict=True))


def test_scalars_and_no_tensors_at_all() -> None:
    (layout,), _ = safetensors.layout([Entry("s", "F32", ())], metadata={})
    assert deserialize(layout, {"s": b"\0\0\x80?"})[0][1]["shape"] == []
    (empty,), _ = safetensors.layout([], metadata={})
    assert deserialize(empty, {}) == []
    assert len(on_disk.opened_bytes(safetensors.read, on_disk.image(empty, {}))) == 0


def test_shards_are_those_of_the_hub_library(tmp_path: Any) -> None:
    hub = pytest.importorskip("huggingface_hub")
    torch = pytest.importorskip("torch")
    tensors = {f"w{i}": torch.zeros(n, 4) for i, n in enumerate([6, 6, 2, 6, 2, 2])}
    expected = hub.split_torch_state_dict_into_shards(tensors, max_shard_size=160)
    entries = [Entry(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()]
    layouts, index = safetensors.layout(entries, metadata={"format": "pt"}, shard_size=160)
    assert {layout.name: [placed.name for placed in layout.tensors] for layout in layouts} == {
        name: list(names) for name, names in expected.filename_to_tensors.items()
    }
    assert index is not None
    assert json.loads(index) == {
        "metadata": {"total_size": expected.metadata["total_size"]},
        "weight_map": expected.tensor_to_filename,
    }
    assert list(json.loads(index)["weight_map"]) == sorted(tensors)


@pytest.mark.parametrize(
    ("entry", "error", "code"),
    [
        (Entry("q", "Q4_K", (256,)), UnsupportedError, "dtype"),
        (Entry("__metadata__", "F32", (1,)), UsageError, "name"),
        (Entry("a\0b", "F32", (1,)), UsageError, "name"),
        (Entry("a\ud800", "F32", (1,)), UsageError, "name"),
        (Entry("a", "F32", (-1,)), UsageError, "shape"),
        (Entry("a", "F4", (3,)), UsageError, "shape"),
        (Entry("there", "F32", (1,)), UsageError, "duplicate-key"),
    ],
)
def test_layout_refuses(entry: Entry, error: type[ModelfmtError], code: str) -> None:
    with pytest.raises(error) as caught:
        safetensors.layout([Entry("there", "F32", (1,)), entry], metadata={})
    assert caught.value.code == code
    assert caught.value.place == entry.name


def test_layout_refuses_metadata_that_is_not_text() -> None:
    with pytest.raises(UsageError):
        safetensors.layout([], metadata={"n": 1})  # type: ignore[dict-item]


GOOD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}}'
ROW = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'


def one(row: bytes, size: int = 8) -> bytes:
    return raw(b'{"a":{' + row + b"}}", bytes(size))


# bytes, code, does the reference library accept what we refuse
HOSTILE: dict[str, tuple[bytes, str, bool]] = {
    "empty": (b"", "header-cut", False),
    "no header": (raw(b""), "header-cut", False),
    "length of 2^63": ((1 << 63).to_bytes(8, "little") + GOOD, "header-size", False),
    "length of -1": (b"\xff" * 8 + GOOD, "header-size", False),
    "one byte over the limit": ((100_000_001).to_bytes(8, "little") + GOOD, "header-size", False),
    "length past the end": ((10_000).to_bytes(8, "little") + GOOD, "header-cut", False),
    "begins with a space": (raw(b" " + GOOD, bytes(16)), "header-start", True),
    "a list": (raw(b"[1,2]"), "header-start", False),
    "not UTF-8": (raw(b'{"\xff":{' + ROW + b"}}", bytes(8)), "json", False),
    "lone surrogate": (raw(b'{"\\ud800":{' + ROW + b"}}", bytes(8)), "json", False),
    "cut JSON": (raw(GOOD[:-1], bytes(16)), "json", False),
    "text behind": (raw(GOOD + b"x", bytes(16)), "json", False),
    "name twice": (raw(b'{"a":{' + ROW + b'},"a":{' + ROW + b"}}", bytes(8)), "duplicate-key", True),
    "field twice": (one(ROW + b',"dtype":"F32"'), "duplicate-key", False),
    "metadata twice": (
        raw(b'{"__metadata__":{"k":"v","k":"w"},"a":{' + ROW + b"}}", bytes(8)),
        "duplicate-key",
        True,
    ),
    "metadata not text": (raw(b'{"__metadata__":{"k":1}}'), "header-entry", False),
    "unknown field": (one(ROW + b',"strides":[1]'), "header-entry", True),
    "missing field": (one(b'"dtype":"F32","shape":[2]'), "header-entry", False),
    "entry is null": (raw(b'{"a":null}'), "header-entry", False),
    "NUL in a name": (raw(b'{"a\\u0000":{' + ROW + b"}}", bytes(8)), "name", True),
    "unknown dtype": (one(ROW.replace(b"F32", b"F33")), "dtype", False),
    "float size": (one(ROW.replace(b"[2]", b"[2.0]")), "header-entry", False),
    "negative size": (one(ROW.replace(b"[2]", b"[-2]")), "shape", False),
    "true as size": (one(ROW.replace(b"[2]", b"[true]")), "header-entry", False),
    "product of 2^64": (one(ROW.replace(b"[2]", b"[4294967296,4294967296]")), "shape", False),
    "product wraps to 2": (one(ROW.replace(b"[2]", b"[9223372036854775809,2]")), "shape", False),
    "zero times 2^63": (one(ROW.replace(b"[2]", b"[0,9223372036854775807]").replace(b"0,8", b"0,0"), 0), "shape", True),
    "size of 2^200": (one(ROW.replace(b"[2]", b"[%d]" % (1 << 200))), "shape", False),
    "33 dimensions": (one(ROW.replace(b"[2]", b"[2" + b",1" * 32 + b"]")), "dimensions", True),
    "negative offset": (one(ROW.replace(b"0,8", b"-8,0")), "span-size", False),
    "offsets reversed": (one(ROW.replace(b"0,8", b"8,0")), "span-size", False),
    "span too long": (one(ROW.replace(b"0,8", b"0,12"), 12), "span-size", False),
    "three offsets": (one(ROW.replace(b"0,8", b"0,4,8")), "header-entry", False),
    "ends inside a byte": (one(b'"dtype":"F4","shape":[3],"data_offsets":[0,2]', 2), "sub-byte", False),
    "hole at the start": (one(ROW.replace(b"0,8", b"8,16"), 16), "hole", False),
    "hole": (raw(GOOD.replace(b"8,16", b"9,17"), bytes(17)), "hole", False),
    "overlap": (raw(GOOD.replace(b"8,16", b"4,12"), bytes(12)), "overlap", False),
    "data cut": (raw(GOOD, bytes(15)), "data-size", False),
    "data too long": (raw(GOOD, bytes(17)), "data-size", False),
    "deep lists": (raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "json-depth", False),
    "deep objects, unclosed": (raw(b'{"a":' * 50_000), "json-depth", False),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header_is_refused(name: str) -> None:
    data, code, stricter = HOSTILE[name]
    with pytest.raises((CorruptFile, LimitExceeded, UnsupportedError)) as caught:
        on_disk.opened_bytes(safetensors.read, data)
    assert caught.value.code == code, caught.value
    assert caught.value.path == "memory"
    assert reference_accepts(data) == stricter, "what is said of the reference library no longer holds"


def reference_accepts(data: bytes) -> bool:
    try:
        reference.deserialize(data)
    except reference.SafetensorError:
        return False
    return True


def test_escapes_and_braces_in_names() -> None:
    names = ['a"b', "a\\", "{[:", "}]", '\\"', "层.weight", "../../etc/passwd", " "]
    rows = {n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, n in enumerate(names)}
    data = raw(json.dumps(rows).encode(), bytes(len(names)))
    model = on_disk.opened_bytes(safetensors.read, data)
    assert list(model) == names
    assert sorted(name for name, _ in reference.deserialize(data)) == sorted(names)


def test_repeated_name_is_named() -> None:
    with pytest.raises(CorruptFile) as caught:
        on_disk.opened_bytes(safetensors.read, HOSTILE["name twice"][0])
    assert caught.value.found == "a"


def test_sniff() -> None:
    assert safetensors.sniff(raw(GOOD))
    assert not safetensors.sniff(b"GGUF\3\0\0\0\0\0")
    assert not safetensors.sniff(b"\xff" * 8 + b"{")
    assert not safetensors.sniff(raw(GOOD)[:8])


def test_real_files_match_the_reference(shared_data: Any) -> None:
    paths = sorted((shared_data / "safetensors").rglob("*.safetensors"))
    assert paths
    for path in paths:
        model = on_disk.opened(safetensors.read, path)
        expected = {
            name: (row["dtype"], tuple(row["shape"]), bytes(row["data"]))
            for name, row in reference.deserialize(path.read_bytes())
        }
        assert on_disk.contents(model) == expected
        with reference.safe_open(path, "np") as file:
            assert (file.metadata() or {}) == model.metadata
