"""joblib's files: every compression, arrays in the middle and beside, and streams that become more than they may."""

from __future__ import annotations

import lzma
import pickle
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfmt
import other_files
from modelfmt.ir.ops import Leaf
from modelfmt.ir.record import Objects, Record, Table
from modelfmt.storage import inflated

PLAIN = np.arange(6, dtype="f4").reshape(2, 3)


def opened(data: bytes, tmp_path: Path) -> modelfmt.Model:
    (tmp_path / "f.joblib").write_bytes(data)
    return modelfmt.open(tmp_path / "f.joblib")


@pytest.mark.parametrize("padding", [None, 0, 1, 16, 255])
def test_an_array_in_the_middle_is_a_byte_range(padding: int | None, tmp_path: Path) -> None:
    data = other_files.joblib(padding=padding)
    with opened(data, tmp_path) as model:
        assert model.format == "joblib" and model.content["n"] == 1
        leaf = model["x"].expr
        assert isinstance(leaf, Leaf) and data[leaf.offset :].startswith(PLAIN.tobytes())
        assert np.array_equal(model["x"].numpy(), PLAIN)


@pytest.mark.parametrize("name", other_files.COMPRESSIONS)
def test_compressed_by_hand(name: str, tmp_path: Path) -> None:
    with opened(other_files.COMPRESSIONS[name](other_files.joblib()), tmp_path) as model:
        assert np.array_equal(model["x"].numpy(), PLAIN)
    modelfmt.convert(tmp_path / "f.joblib", tmp_path / "x.npz")
    assert np.array_equal(np.load(tmp_path / "x.npz")["x"], PLAIN)


VALUES: dict[str, Any] = {
    "c": np.random.default_rng(0).normal(size=(40, 30)),
    "f": np.asfortranarray(np.arange(24, dtype=">i4").reshape(2, 3, 4)),
    "empty": np.zeros((0, 3)),
    "table": other_files.TABLE,
    "objects": np.array([["a", None], [1.5, (2, 3)]], dtype=object),
    "nested": [{"deep": np.arange(3, dtype="u1")}],
}


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3), ("lz4", 3)])
def test_what_joblib_writes(compress: Any, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    if compress and compress[0] == "lz4":
        pytest.importorskip("lz4")
    for protocol in (2, 4, 5):
        joblib.dump(VALUES, tmp_path / "f.joblib", compress=compress, protocol=protocol)
        with modelfmt.open(tmp_path / "f.joblib") as model:
            assert model.format == "joblib"
            assert model.extras["joblib"]["compression"] == (compress[0] if compress else None)
            for name in ("c", "f", "empty"):
                found = model[name].numpy()
                assert found.shape == VALUES[name].shape and np.array_equal(found, VALUES[name]), name
            assert np.array_equal(model["nested.0.deep"].numpy(), [0, 1, 2])
            assert isinstance(model.content["table"], Table)
            assert np.array_equal(model["table.b"].numpy(), other_files.TABLE["b"])
            objects = model.content["objects"]
            assert isinstance(objects, Objects) and objects.shape == (2, 2)
            assert objects.items == ["a", None, 1.5, (2, 3)]


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_lz4_frames_of_every_kind(size: int, checks: bool, linked: bool) -> None:
    frame = pytest.importorskip("lz4.frame")
    source = random.Random(3)
    words = [b"xy", b"foo bar", source.randbytes(3), bytes(70_000)]
    long = b"".join(source.choice(words[:3]) for _ in range(60_000)) + words[3]
    for data in (b"", b"a", bytes(300_000), source.randbytes(200_000), long):
        for level in (0, 9):
            packed = frame.compress(
                data, level, block_size=size, block_linked=linked, content_checksum=checks,
                block_checksum=checks, store_size=not checks,
            )  # fmt: skip
            files = modelfmt.open({"x": np.ones(1)}).files
            files.register("packed", packed)
            region = inflated.inflated(inflated.Region.whole("packed", files), "lz4", "plain")
            assert region.read(0, region.size) == data


def test_damaged_lz4(tmp_path: Path) -> None:
    frame = pytest.importorskip("lz4.frame")
    good = frame.compress(other_files.joblib(np.zeros(500)), content_checksum=True, block_checksum=True)
    accepted = 0
    for place in range(len(good)):
        for bit in (0, 5):
            broken = bytearray(good)
            broken[place] ^= 1 << bit
            try:
                opened(bytes(broken), tmp_path).close()
                accepted += 1
            except modelfmt.ModelfmtError:
                pass
    assert accepted == 0


def beside(kind: str, module: str = "joblib.numpy_pickle", **state: Any) -> bytes:
    """A pickle of {"x": wrapper of an array in another file}, as joblib before 0.10 wrote it."""
    return b"\x80\x02}U\x01xc" + f"{module}\n{kind}\n".encode() + b")\x81" + pickle.dumps(state, 2)[2:-1] + b"bs."


MODULES = ("joblib.numpy_pickle", "joblib.numpy_pickle_compat", "sklearn.externals.joblib.numpy_pickle")


@pytest.mark.parametrize("module", MODULES)
def test_arrays_in_files_beside(module: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.joblib_01.npy", np.asfortranarray(PLAIN))
    with opened(beside("NDArrayWrapper", module, filename="f.joblib_01.npy", subclass=None), tmp_path) as model:
        assert np.array_equal(model["x"].numpy(), PLAIN)
    packed = other_files.COMPRESSIONS["old zlib"](PLAIN.tobytes("F"))
    (tmp_path / "f.joblib_01.npy.z").write_bytes(packed)
    state = (1, (2, 3), PLAIN.dtype, True)
    with opened(beside("ZNDArrayWrapper", module, filename="f.joblib_01.npy.z", state=state), tmp_path) as model:
        assert np.array_equal(model["x"].numpy(), PLAIN)


@pytest.mark.parametrize(
    "name", ["../x.npy", "/etc/passwd", "a/../../x.npy", "link.npy", "", ".", "a\0b", "missing.npy"]
)
def test_files_beside_stay_beside(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    np.save(tmp_path / "x.npy", PLAIN)
    (folder / "link.npy").symlink_to("../x.npy")
    with pytest.raises(modelfmt.ModelfmtError):
        opened(beside("NDArrayWrapper", filename=name), folder)


def test_a_plan_of_a_compressed_file_runs_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "f.joblib").write_bytes(zlib.compress(other_files.joblib()))
    np.savez_compressed(tmp_path / "g.npz", x=np.zeros(300_000))
    for name in ("f.joblib", "g.npz"):
        planned = modelfmt.plan(tmp_path / name, tmp_path / f"{name}.safetensors")
        modelfmt.run(planned)
        with modelfmt.open(tmp_path / name) as source, modelfmt.open(tmp_path / f"{name}.safetensors") as made:
            assert np.array_equal(source["x"].numpy(), made["x"].numpy())


def test_objects_that_hold_themselves(tmp_path: Path) -> None:
    own: list[Any] = [1]
    own.append(own)
    own.append({"own": own})
    with opened(pickle.dumps({"a": own, "x": PLAIN}), tmp_path) as model:
        assert model.content["a"][1] is model.content["a"]
        assert list(model) == ["x"]


def test_shared_arrays_keep_both_names(tmp_path: Path) -> None:
    with opened(pickle.dumps({"a": PLAIN, "b": [PLAIN]}), tmp_path) as model:
        assert list(model) == ["a", "b.0"]
    modelfmt.convert(tmp_path / "f.joblib", tmp_path / "x.npz")
    assert sorted(np.load(tmp_path / "x.npz")) == ["a", "b.0"]


def test_numbers_keys_and_types(tmp_path: Path) -> None:
    value = {1: np.float32(0.5), "a": np.str_("é"), (1, 2): b"x", None: np.bool_(True), "s": {3}, "r": range(3)}
    value |= {"z": 1 + 2j, "t": np.float64, "d": np.dtype(">i4"), "b": bytearray(b"x" * 2000), "h": np.float16(2)}
    for protocol in range(6):
        with opened(pickle.dumps(value, protocol), tmp_path) as model:
            found = dict(model.content)
            assert found[1] == 0.5 and found["a"] == "é" and found[(1, 2)] == b"x" and found[None] is True
            assert isinstance(found["s"], Record) and found["s"].items == [3] and found["r"] == range(3)
            assert found["z"] == 1 + 2j and found["t"] == "numpy.float64" and found["d"] == "int32"
            assert found["b"].tolist() == b"x" * 2000 and found["h"] == 2


BOMBS = {
    "zlib": lambda n: zlib.compress(bytes(n), 9),
    "xz": lambda n: lzma.compress(bytes(n), preset=0),
    "lz4": lambda n: _lz4_bomb(n),
    "old zlib": lambda n: b"ZF" + b"0xffffffffffffffff ".ljust(19) + zlib.compress(bytes(n)),
    "old zlib, wrong size": lambda n: b"ZF" + hex(n // 2).ljust(19).encode() + zlib.compress(bytes(n)),
}


def _lz4_bomb(n: int) -> bytes:
    """Blocks of zeros, 255 times their size, in a frame of 4 MB blocks."""
    from modelfmt._kernels import xxh32

    body = 4 << 20
    block = b"\x1f\0\1\0" + b"\xff" * ((body - 20) // 255) + b"\0"
    head = bytes([0x60, 0x70])
    frame = b"\x04\x22\x4d\x18" + head + bytes([xxh32(head) >> 8 & 255])
    return frame + (len(block).to_bytes(4, "little") + block) * (n // body) + bytes(4)


LIMITED = """
import resource, sys, time
import numpy, modelfmt
resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        modelfmt.open(path).close()
        print("opened", path)
    except modelfmt.ModelfmtError as error:
        print(error.path.startswith(path), time.process_time() - began < 4)
"""


def test_bombs_end_at_the_budget(tmp_path: Path) -> None:
    """120 MB of zeros in some kilobytes (256 in a megabyte, for lz4): refused in bounded memory and time."""
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make(256 << 20 if name == "lz4" else 120 << 20))
    command = [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in BOMBS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "True True\n" * len(BOMBS), done.stdout + done.stderr[-2000:]


LIES = {
    "more than there is": {"shape": (2**40,)},
    "a size that wraps": {"shape": (2**33, 2**33)},
    "less than zero": {"shape": (-1,)},
    "no shape": {"shape": None},
    "no type": {"dtype": None},
    "another type": {"dtype": "float32"},
}


@pytest.mark.parametrize("name", LIES)
def test_arrays_that_lie(name: str, tmp_path: Path) -> None:
    state = {"subclass": None, "shape": (2,), "order": "C", "dtype": np.dtype("f4")} | LIES[name]
    inner = pickle.dumps(state, 2)[2:-1]
    data = b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + inner + b"b" + bytes(8) + b"."
    with pytest.raises(modelfmt.ModelfmtError):
        opened(data, tmp_path)


def test_pickles_in_pickles_end(tmp_path: Path) -> None:
    one = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
    one += pickle.dumps({"shape": (1,), "dtype": np.dtype("O")}, 2)[2:-1] + b"b"
    with pytest.raises(modelfmt.LimitExceeded):
        opened(b"\x80\x02" + one * 2000, tmp_path)
    with pytest.raises(modelfmt.LimitExceeded):
        opened(b"\x80\x02(" + (one + b"N.") * 500 + b"l.", tmp_path)
