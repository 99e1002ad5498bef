"""modelfmt scan: hostile files are dangerous or not fully read, honest ones safe, and nothing is loaded meanwhile."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import hostile_pickles
import modelfmt
import other_files
from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError, UnsupportedError
from modelfmt.scanning import DANGEROUS, SAFE, UNKNOWN
from test_hostile_files import gguf_bytes, safetensors_bytes
from test_pytorch import LEFTOVERS, views

CALL = hostile_pickles.CALL + b"."


def verdict(data: bytes, tmp_path: Path, name: str = "f.bin") -> str:
    (tmp_path / name).write_bytes(data)
    return modelfmt.scan(tmp_path / name).verdict


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, modelfmt.scanning.FileScan]:
    folder = tmp_path_factory.mktemp("corpus")
    for name, data in hostile_pickles.corpus().items():
        (folder / name).write_bytes(data)
    return {Path(row.path).name: row for row in modelfmt.scan(folder).files}


def test_every_gadget_is_dangerous_and_named(corpus: dict[str, modelfmt.scanning.FileScan]) -> None:
    for name, _ in hostile_pickles.gadgets():
        row = corpus[name]
        assert row.verdict == DANGEROUS, (name, row.findings)
        assert any(finding.name and name.startswith(finding.name) for finding in row.findings), name


CUT_SHORT = {"name-not-text.pkl", "stack-global-of-none.pkl", "stack-global-of-int.pkl", "stack-global-of-bytes.pkl"}
"""An unpickler stops at these before anything is called."""


def test_every_trick_is_dangerous_or_cut_short(corpus: dict[str, modelfmt.scanning.FileScan]) -> None:
    found = {name: corpus[name].verdict for name, _ in hostile_pickles.tricks()}
    assert {name for name, row in found.items() if row != DANGEROUS} == CUT_SHORT
    assert all(found[name] == UNKNOWN for name in CUT_SHORT)


@pytest.mark.parametrize("name", [name for name, data in hostile_pickles.zips() if b"os\nsystem" in data])
def test_payloads_in_archives_are_found(name: str, corpus: dict[str, modelfmt.scanning.FileScan]) -> None:
    assert corpus[name].verdict == (UNKNOWN if name in ("zip-suffix.pt", "zip-comment-payload.pt") else DANGEROUS)


def test_what_the_reader_refuses_is_not_safe(corpus: dict[str, modelfmt.scanning.FileScan], tmp_path: Path) -> None:
    refused, files = 0, dict(hostile_pickles.zips())
    for name in hostile_pickles.TENSOR_LIES:
        (tmp_path / "f.pt").write_bytes(files[f"tensor-{name}.pt"])
        try:
            modelfmt.open(tmp_path / "f.pt").close()
        except (CorruptFile, LimitExceeded):
            refused += 1
            assert corpus[f"tensor-{name}.pt"].verdict != SAFE, name
        except UnsupportedError:
            pass
    assert refused >= 30


def test_every_payload_is_dangerous_or_refused(corpus: dict[str, modelfmt.scanning.FileScan], tmp_path: Path) -> None:
    """So are files that would exhaust a loader."""
    names = [name for name, data in hostile_pickles.corpus().items() if b"system" in data or "bomb" in name]
    names += [name for name, _ in hostile_pickles.gadgets()] + ["memo-huge.pkl", "tar-path.pt"]
    harmless = {"bomb-long1.pkl"}  # a number of 255 bytes
    for name in names:
        if corpus[name].verdict != DANGEROUS and name not in harmless:
            with pytest.raises(ModelfmtError):
                modelfmt.open(corpus[name].path)


def test_a_refusal_says_where_and_why(corpus: dict[str, modelfmt.scanning.FileScan]) -> None:
    (finding,) = corpus["tensor-offset-past-end.pt"].findings
    assert (finding.verdict, finding.rule) == (UNKNOWN, "refused")
    assert "tensor-span" in finding.reason and finding.offset > 0


def test_a_public_scanners_files(shared_data: Path) -> None:
    rows = {Path(row.path).name: row.verdict for row in modelfmt.scan(shared_data / "malicious").files}
    bad = {
        name: row for name, row in rows.items() if name.startswith("malicious") or "exploit" in name or "sploit" in name
    }
    assert len(bad) > 30
    assert {name for name, row in bad.items() if row != DANGEROUS} == set()
    honest = {"benign0_v0.pkl", "benign0_v3.pkl", "benign0_v4.pkl", "pytorch_model.bin", "new_pytorch_model.bin"}
    assert all(rows[name] == SAFE for name in honest)


def test_honest_real_files_are_safe(shared_data: Path) -> None:
    rows = modelfmt.scan(shared_data / "torch").files
    assert len(rows) > 100
    assert [row.path for row in rows if row.verdict != SAFE] == []


def test_estimators_are_unknown_and_read_to_their_end(shared_data: Path) -> None:
    rows = modelfmt.scan(shared_data / "sklearn").files
    assert len(rows) == 6
    for row in rows:
        assert row.verdict == UNKNOWN
        assert {finding.rule for finding in row.findings} == {"import"}, row.findings
        assert all(finding.name.startswith("sklearn.") for finding in row.findings), row.findings


def test_training_leftovers(tmp_path: Path) -> None:
    state = {"w": torch.ones(2)}
    found = {}
    for kind in ("deepspeed", "whisper", "nested"):
        torch.save(LEFTOVERS[kind](state), tmp_path / kind)
        found[kind] = modelfmt.scan(tmp_path / kind).verdict
    assert found == {"deepspeed": SAFE, "whisper": SAFE, "nested": SAFE}
    torch.save(LEFTOVERS["lightning"](state), tmp_path / "lightning")
    report = modelfmt.scan(tmp_path / "lightning")
    assert report.verdict == UNKNOWN
    assert {finding.name.rpartition(".")[2] for finding in report.files[0].findings} == {"Callback"}


def test_views_and_modules(tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "views.pt")
    assert modelfmt.scan(tmp_path / "views.pt").verdict == SAFE
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert modelfmt.scan(tmp_path / "module.pt").verdict == UNKNOWN


def test_an_attribute_that_is_known_hides_no_other(tmp_path: Path) -> None:
    """The call of getattr that an honest ShardedTensor has, and then the same name, from the memo, for another end."""
    known = b"ctorch.distributed._shard.sharded_tensor.api\nShardedTensor\nS'ProcessGroupState'\n"
    honest = b"c__builtin__\ngetattr\np0\n(" + known + b"tR"
    assert verdict(honest + b".", tmp_path) == SAFE
    assert verdict(honest + b"0g0\n(cos\n_exit\nS'__call__'\ntR.", tmp_path) == DANGEROUS
    assert (
        verdict(honest + b"0g0\n(" + known.replace(b"ProcessGroupState", b"__init__") + b"tR.", tmp_path) == DANGEROUS
    )
    assert (
        verdict(b"c__builtin__\ngetattr\np0\n(ctorch\nTensor\nS'x'\ntR0g0\n(" + known + b"tR.", tmp_path) == DANGEROUS
    )


RAW2 = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24}


def sevenzip(data: bytes, coder: bytes, properties: bytes, filter: dict[str, int] | None) -> bytes:
    """A 7z archive of one member, by hand after 7zFormat.txt."""
    packed = data if filter is None else lzma.compress(data, lzma.FORMAT_RAW, filters=[filter])

    def number(n: int) -> bytes:
        return bytes([0xC0 | n >> 16, n & 255, n >> 8 & 255])

    name = "x.pkl\0".encode("utf-16-le")
    described = bytes([1, (0x20 if properties else 0) | len(coder)]) + coder
    described += bytes([len(properties)]) + properties if properties else b""
    header = b"\1\4" + b"\6\0\1\x09" + number(len(packed)) + b"\0"
    header += b"\7\x0b\1\0" + described + b"\x0c" + number(len(data)) + b"\0\0"
    header += b"\5\1\x11" + bytes([len(name) + 1]) + b"\0" + name + b"\0\0"
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<I", zlib.crc32(start)) + start + packed + header


WRAPPERS = {
    "gzip": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress, "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": other_files.lz4, "joblib's old zlib": other_files.COMPRESSIONS["old zlib"],
    "7z": lambda data: sevenzip(data, b"\x21", b"\x18", RAW2), "7z, LZMA": lambda data: sevenzip(
        data, b"\x03\x01\x01", b"\x5d\0\0\1\0", {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}),
    "7z, copied": lambda data: sevenzip(data, b"\0", b"", None),
    "zip": lambda data: hostile_pickles.zipped({"x.txt": data}, zipfile.ZIP_DEFLATED),
    "zip in zip": lambda data: hostile_pickles.zipped({"a.zip": hostile_pickles.zipped({"b": data})}),
    "tar": lambda data: hostile_pickles.tarred({"x": data}),
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_payloads(wrapper: str, tmp_path: Path) -> None:
    assert verdict(WRAPPERS[wrapper](b"\x80\x02" + CALL), tmp_path) == DANGEROUS
    assert verdict(WRAPPERS[wrapper](pickle.dumps({"a": 1})), tmp_path) == SAFE


SEVENZIPS = {
    name: base64.b85decode(text)
    for name, _, text in (
        row.partition(" ") for row in Path(__file__).with_name("sevenzips.txt").read_text().splitlines()
    )
}
"""Made by py7zr 1.1: a text, an empty file and a pickle that calls os.system, with each of its methods."""
UNREAD = {"zstd", "ppmd", "encrypted"}


@pytest.mark.parametrize("method", SEVENZIPS)
def test_pickles_in_7z(method: str, tmp_path: Path) -> None:
    (tmp_path / "f.7z").write_bytes(SEVENZIPS[method])
    report = modelfmt.scan(tmp_path / "f.7z")
    (finding,) = report.files[0].findings
    if method in UNREAD:
        assert report.verdict == UNKNOWN and "7z" in finding.reason
    else:
        assert report.verdict == DANGEROUS
        assert (finding.member, finding.name) == ("sub/data.pkl", "os.system")


@pytest.mark.parametrize("method", SEVENZIPS)
def test_damaged_7z_archives_are_findings(method: str, tmp_path: Path) -> None:
    source = random.Random(method)
    data = SEVENZIPS[method]
    for cut in range(0, len(data), 7):
        assert verdict(data[:cut], tmp_path, "f.7z") != SAFE or cut < 6
    for _ in range(150):
        broken = bytearray(data)
        broken[source.randrange(6, len(data))] ^= 1 << source.randrange(8)
        verdict(bytes(broken), tmp_path, "f.7z")


def test_arrays_of_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert modelfmt.scan(tmp_path / "a.npy").verdict == SAFE
    np.save(tmp_path / "b.npy", np.array([1, None], dtype=object), allow_pickle=True)
    data = (tmp_path / "b.npy").read_bytes()
    assert modelfmt.scan(tmp_path / "b.npy").verdict == SAFE
    assert verdict(data[: data.index(b"\n") + 1] + CALL, tmp_path, "b.npy") == DANGEROUS
    np.savez(tmp_path / "c.npz", a=np.arange(3))
    assert modelfmt.scan(tmp_path / "c.npz").verdict == SAFE


def test_an_array_behind_a_broken_header(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, None], dtype=object), allow_pickle=True)
    data = (tmp_path / "a.npy").read_bytes()
    begin = data.index(b"\n") + 1
    for broken in (data.replace(b"'shape'", b"'shapE'", 1), data.replace(b"(2,)", b"(2*)", 1)):
        assert verdict(broken[:begin] + CALL, tmp_path, "a.npy") == DANGEROUS
        assert verdict(broken[:begin], tmp_path, "a.npy") == UNKNOWN


def test_skops_types(tmp_path: Path) -> None:
    def judged(node: dict[str, object]) -> str:
        return verdict(other_files.skops(other_files.dict_node({"a": node})), tmp_path, "a.skops")

    assert judged(other_files.array_node(1)) == SAFE
    assert verdict(other_files.skops(), tmp_path, "a.skops") == UNKNOWN
    assert judged(other_files.node("FunctionNode", "system", "os")) == DANGEROUS
    assert judged(other_files.node("ObjectNode", "Popen", "subprocess", content=None)) == DANGEROUS
    assert judged(other_files.node("TypeNode", "float64", "numpy")) == SAFE
    method = {"func": "x", "obj": other_files.json_node(1)}
    assert judged(other_files.node("MethodNode", "X", "sklearn.x", content=method)) == DANGEROUS
    assert judged(other_files.node("OperatorFuncNode", "methodcaller", "operator", attrs=None)) == DANGEROUS


def test_damaged_7z(tmp_path: Path) -> None:
    good = sevenzip(b"\x80\x02" + CALL, b"\x21", b"\x18", RAW2)
    for end in range(7, len(good)):
        assert verdict(good[:end], tmp_path, "a.7z") != SAFE
    for place in range(len(good)):
        broken = bytearray(good)
        broken[place] ^= 0x11
        verdict(bytes(broken), tmp_path, "a.7z")


def test_payloads_among_joblibs_arrays(tmp_path: Path) -> None:
    plain = other_files.joblib()
    assert verdict(plain, tmp_path, "a.joblib") == SAFE
    assert verdict(plain[:-1] + b"U\x01z" + CALL[:-1] + b"s.", tmp_path, "a.joblib") == DANGEROUS
    objects = other_files.joblib(np.array([1, None], dtype=object))
    at = objects.index(b"cnumpy", objects.index(b"NumpyArrayWrapper"))
    inner = objects.index(b"\x80\x02", at)
    assert verdict(objects[:inner] + CALL + objects[inner:], tmp_path, "a.joblib") == DANGEROUS


def test_other_carriers(tmp_path: Path) -> None:
    assert verdict(gguf_bytes(), tmp_path, "f.gguf") == SAFE
    assert verdict(safetensors_bytes(), tmp_path, "f.safetensors") == SAFE
    assert verdict(safetensors_bytes() + CALL, tmp_path, "f.safetensors") == UNKNOWN
    layers = {"class_name": "Functional", "config": {"layers": [{"class_name": "Dense", "module": "keras.layers"}]}}
    keras = {"config.json": json.dumps(layers).encode(), "metadata.json": b"{}"}
    assert verdict(hostile_pickles.zipped(keras), tmp_path, "f.keras") == SAFE
    for bad in ({"class_name": "Lambda"}, {"class_name": "x", "module": "os"}, {"class_name": "__lambda__"}):
        keras["config.json"] = json.dumps({**layers, "more": [bad]}).encode()
        assert verdict(hostile_pickles.zipped(keras), tmp_path, "f.keras") == DANGEROUS
    assert verdict(b"\x89HDF\r\n\x1a\n" + b'..{"class_name": "Lambda"}..', tmp_path, "f.h5") == DANGEROUS
    assert verdict(b"# a text file\nclass X:\n  pass\n", tmp_path, "f.py") == SAFE


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", SAFE),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", DANGEROUS),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", DANGEROUS),
        ("{{ x|attr('a') }}", DANGEROUS),
    ],
)
def test_chat_templates_of_ggufs(template: str, wanted: str, tmp_path: Path) -> None:
    from modelfmt.formats import gguf

    (layout,) = gguf.layout([], metadata=[("general.architecture", "STRING", "llama"),
                                          ("tokenizer.chat_template", "STRING", template)])  # fmt: skip
    assert verdict(bytes(layout.header).ljust(layout.size, b"\0"), tmp_path, "f.gguf") == wanted


def test_the_report_says_where_and_with_what(tmp_path: Path) -> None:
    (tmp_path / "f.pt").write_bytes(hostile_pickles.checkpoint(CALL))
    (row,) = modelfmt.scan(tmp_path / "f.pt").files[0].findings
    assert (row.member, row.name) == ("archive/data.pkl", "os.system")
    assert "touch /tmp/modelfmt-was-here" in row.arguments
    assert (tmp_path / "f.pt").read_bytes()[row.offset - 1 : row.offset] == b"R"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelfmt", "scan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(CALL)
    (tmp_path / "good.pkl").write_bytes(pickle.dumps([1]))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert [run(tmp_path / name).returncode for name in ("good.pkl", "bad.pkl", "module.pt")] == [0, 8, 9]
    shown = run(tmp_path)
    assert shown.returncode == 8
    assert "os.system('touch" in shown.stdout.replace("(('", "('") and "3 files, 2 not safe" in shown.stderr
    found = json.loads(run(tmp_path, "--json").stdout)
    assert found["schema"] == "modelfmt.scan/1"
    assert Counter(row["verdict"] for row in found["files"]) == {"safe": 1, "unknown": 1, "dangerous": 1}
    log = json.loads(run(tmp_path, "--sarif").stdout)
    assert log["version"] == "2.1.0"
    assert {row["level"] for row in log["runs"][0]["results"]} == {"error", "warning"}
    assert run(tmp_path / "absent").returncode == 3


def test_a_scan_loads_nothing(shared_data: Path) -> None:
    code = "import sys, modelfmt; modelfmt.scan(sys.argv[1]); print(sorted({'pickle', 'torch'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(shared_data / "malicious")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
