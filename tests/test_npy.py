"""NumPy's files: equal to what np.load gives, written so that np.load reads them; headers that lie are refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfmt
from modelfmt.arrays.literal import LiteralError, parse
from modelfmt.arrays.npy import header_bytes
from modelfmt.ir.record import Table, Texts
from modelfmt.storage import inflated

TYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
SHAPES = ((), (0,), (5,), (2, 3), (3, 0, 2), (2, 3, 4), (1, 7, 1))
RNG = np.random.default_rng(5)


def made(kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.asarray(RNG.integers(0, 100, shape)).astype(kind)


@pytest.mark.parametrize("kind", TYPES)
def test_arrays_of_every_type_order_and_shape(kind: str, tmp_path: Path) -> None:
    arrays = {}
    for number, shape in enumerate(SHAPES):
        for order in ("<", ">"):
            array = made(kind, shape).astype(np.dtype(kind).newbyteorder(order))
            arrays[f"c{number}{order}"] = array
            arrays[f"f{number}{order}"] = np.asfortranarray(array)
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    for name in ("a.npz", "b.npz"):
        with modelfmt.open(tmp_path / name) as model:
            assert model.format == "npz" and list(model) == list(arrays)
            for key, array in arrays.items():
                found = model[key].numpy()
                assert found.dtype == np.dtype(kind) and found.shape == array.shape
                assert found.tobytes() == np.ascontiguousarray(array.astype(kind)).tobytes(), key


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version(version: tuple[int, int], tmp_path: Path) -> None:
    held = io.BytesIO()
    np.lib.format.write_array(held, np.arange(6.0).reshape(2, 3), version=version)
    (tmp_path / "a.npy").write_bytes(held.getvalue())
    with modelfmt.open(tmp_path / "a.npy") as model:
        assert np.array_equal(model["array"].numpy(), np.arange(6.0).reshape(2, 3))


def test_headers_are_numpys() -> None:
    for kind, encoding in (("<f4", "F32"), ("|b1", "BOOL"), ("<c16", "C128"), ("<u2", "U16")):
        for shape in SHAPES:
            held = io.BytesIO()
            np.save(held, np.zeros(shape, kind))
            assert held.getvalue().startswith(header_bytes(encoding, shape))


def test_tables_and_texts(tmp_path: Path) -> None:
    inner = np.dtype([("x", "u1"), ("y", "<c8")], align=True)
    kind = np.dtype([("a", "<i8"), ("b", ">f4", (2, 3)), ("s", "<U4"), ("c", inner), ("n", "S3")], align=True)
    table = np.zeros((2, 3), kind)
    for name in ("a", "b"):
        table[name] = RNG.integers(0, 9, table[name].shape)
    table["c"]["y"] = 2 + 3j
    table["s"][0] = "añ"
    table["n"] = b"xy"
    for array in (table, np.asfortranarray(table)):
        texts = np.array([["ab", ""], ["é", "xyz"]])
        np.savez(tmp_path / "a.npz", table=array, texts=texts, raw=np.array([b"a", b"bc"]))
        with modelfmt.open(tmp_path / "a.npz") as model:
            found, read = model.content["table"], model.content["texts"]
            assert isinstance(found, Table) and isinstance(read, Texts)
            for name in ("a", "b"):
                assert np.array_equal(found[name].numpy(), table[name])
            assert np.array_equal(found["c.y"].numpy(), table["c"]["y"])
            assert np.array_equal(model["table.c.x"].numpy(), table["c"]["x"])
            assert found["s"].tolist() == table["s"].tolist() and found["n"].tolist() == table["n"].tolist()
            assert read.tolist() == texts.tolist()
            assert model.content["raw"].tolist() == [b"a", b"bc"]


@pytest.mark.parametrize(
    "array",
    [np.array([1, None], object), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "V3"),
     np.zeros(2, [("a", object)])],
    ids=["objects", "dates", "bytes", "structures with objects"],
)  # fmt: skip
def test_what_has_no_encoding_is_refused_by_name(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", good=np.ones(2), bad=array)
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.open(tmp_path / "a.npz")
    assert "bad" in str(caught.value) and caught.value.path


def test_conversion_both_ways(tmp_path: Path) -> None:
    arrays = {"w.a": made("f4", (3, 4)), "b/c": made("i8", (5,)), "f": np.asfortranarray(made("f8", (4, 3)))}
    arrays |= {"big": made("f2", (2, 2)).astype(">f2"), "empty": np.zeros((0, 2), "u1"), "one": np.array(True)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    modelfmt.convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    modelfmt.convert(tmp_path / "b.safetensors", tmp_path / "c.npz")
    modelfmt.convert(tmp_path / "a.npz", tmp_path / "d.npz")
    from safetensors.numpy import load_file

    plain = load_file(tmp_path / "b.safetensors")
    for name in ("c.npz", "d.npz"):
        with np.load(tmp_path / name) as found:
            assert sorted(found) == sorted(arrays)
            for key, array in arrays.items():
                assert found[key].shape == array.shape and np.array_equal(found[key], array), key
                assert np.array_equal(plain[key], array)
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.testzip() is None
        assert modelfmt.scan(tmp_path / name).verdict == "safe"


def test_one_array(tmp_path: Path) -> None:
    array = made("f4", (3, 5))
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    modelfmt.convert(tmp_path / "a.npy", tmp_path / "b.npy")
    held = io.BytesIO()
    np.save(held, array)
    assert (tmp_path / "b.npy").read_bytes() == held.getvalue()
    np.savez(tmp_path / "c.npz", a=array, b=array)
    with pytest.raises(modelfmt.UnsupportedError, match="one array"):
        modelfmt.convert(tmp_path / "c.npz", tmp_path / "d.npy")


def test_types_that_numpy_lacks_are_widened_when_asked(tmp_path: Path) -> None:
    import ml_dtypes

    source = {"w": np.arange(4).astype(ml_dtypes.bfloat16)}
    with pytest.raises(modelfmt.UnsupportedError, match="no type"):
        modelfmt.convert(source, tmp_path / "a.npz")
    modelfmt.convert(source, tmp_path / "a.npz", quant="F32")
    assert np.load(tmp_path / "a.npz")["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../b", "a\\..\\..\\b"])
def test_names_that_lead_out_are_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(modelfmt.UsageError):
        modelfmt.convert({name: np.ones(2)}, tmp_path / "a.npz")


def test_texts_left_out_are_a_loss(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(2), names=np.array(["a"]))
    assert [loss.kind for loss in modelfmt.convert(tmp_path / "a.npz", tmp_path / "b.safetensors").losses] == [
        "dropped"
    ]
    with pytest.raises(modelfmt.LossyError):
        modelfmt.convert(tmp_path / "a.npz", tmp_path / "c.safetensors", strict=True)


def test_a_deflated_member_streams_through_a_small_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """38 MB in six deflated arrays, with windows of 2 MB: never more than some MB, the same bytes."""
    monkeypatch.setattr(inflated, "WINDOW", 2 << 20)
    arrays = {name: np.tile(RNG.normal(size=1000), 800) for name in "abcdef"}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    tracemalloc.start()
    modelfmt.convert(tmp_path / "a.npz", tmp_path / "b.npz", threads=1, memory="8M")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20, peak
    with np.load(tmp_path / "b.npz") as found:
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    monkeypatch.setattr(inflated, "WINDOW", 64 << 20)
    with modelfmt.open(tmp_path / "a.npz") as model:  # only the last two keep what they have inflated
        for tensor in model.values():
            tensor.numpy()
        held = [source._held for source in model.files._sources.values()]
        assert [bool(n) for n in held] == [False] * 4 + [True] * 2
    with modelfmt.open(tmp_path / "a.npz") as model:  # backwards: the stream starts again
        last, first = model["a"].numpy()[-5:].copy(), model["a"].numpy()[:5].copy()
        assert np.array_equal(last, arrays["a"][-5:]) and np.array_equal(first, arrays["a"][:5])


def test_a_deflated_member_with_a_wrong_checksum(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=RNG.normal(size=300_000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.index(b"PK\1\2") + 16
    for place in (14, at):
        data[place] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with modelfmt.open(tmp_path / "a.npz") as model, pytest.raises(modelfmt.CorruptFile, match="checksum"):
        model["a"].numpy()


def npy_file(header: str, data: bytes = b"", version: int = 1) -> bytes:
    raw = header.encode("utf-8", "surrogateescape")
    length = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + data


BAD_HEADERS = {
    "a call": "__import__('os').system('touch /tmp/modelfmt-was-here')",
    "a call inside": "{'descr': '<f4', 'fortran_order': False, 'shape': (int('3'),)}",
    "deep lists": "[" * 60_000,
    "deep tuples": "{'descr': " + "(" * 500 + ")" * 500 + ", 'fortran_order': False, 'shape': ()}",
    "a key twice": "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,)}",
    "another key": "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
    "a key missing": "{'descr': '<f4', 'shape': (1,)}",
    "an order that is a number": "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
    "a power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}",
    "a long number": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 50_000 + ",)}",
    "a size that wraps": "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "a huge size": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}",
    "a huge size beside a zero": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904)}",
    "a negative size": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    "a size that is true": "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    "too many dimensions": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + ")}",
    "an unknown type": "{'descr': '<q4', 'fortran_order': False, 'shape': (1,)}",
    "a wide text": "{'descr': '<U999999999999', 'fortran_order': False, 'shape': (1,)}",
    "fields that are none": "{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}",
    "two fields of a name": "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
    "fields in fields": "{'descr': " + "[('a', " * 12 + "'<f4'" + ")]" * 12 + ", 'fortran_order': False, 'shape': ()}",
    "fields of a huge array": "{'descr': [('a', '<f4', (65536, 65536, 65536))], 'fortran_order': False, 'shape': (1,)}",
    "nothing": "",
    "not text": "{'descr': '<f4', \udcff}",
}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_lie(name: str, version: int, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_file(BAD_HEADERS[name], bytes(8), version))
    tracemalloc.start()
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.open(tmp_path / "a.npy")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert caught.value.path
    assert not Path("/tmp/modelfmt-was-here").exists()


@pytest.mark.parametrize("length", [2**20 + 1, 2**31, 2**32 - 1])
def test_the_length_of_a_header(length: int, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", length) + b"{}" * 40)
    with pytest.raises(modelfmt.ModelfmtError):
        modelfmt.open(tmp_path / "a.npy")


def test_literals() -> None:
    import ast

    texts = [
        "()",
        "(1,)",
        "(1, 2)",
        "[1, (2,), {'a': None}]",
        "{}",
        "{'a': -1, }",
        "'x\\n\\x41'",
        "b'ab'",
        "  True ",
        "('a')",
    ]
    for text in texts:
        expected = ast.literal_eval(text.strip())
        assert parse(text) == (expected.decode() if isinstance(expected, bytes) else expected)
    for text in (
        "1 2",
        "(1 2)",
        "(,)",
        "{'a'}",
        "{1: 2}",
        "[1,,2]",
        "(1",
        "1)",
        "{'a': 1: 2}",
        "'a' 'b'",
        "x",
        "1+1",
        "[]]",
    ):
        with pytest.raises(LiteralError):
            parse(text)


def test_a_member_that_claims_more_than_deflate_can(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(modelfmt.CorruptFile):
        modelfmt.open(tmp_path / "a.npz")


def test_files_of_others(shared_data: Path) -> None:
    found = sorted((shared_data / "torch").rglob("*.np[yz]"))
    assert len(found) > 1
    for path in found:
        with modelfmt.open(path) as model:
            real = np.load(path)
            for name, tensor in model.items():
                assert np.array_equal(tensor.numpy(), real if path.suffix == ".npy" else real[name])
