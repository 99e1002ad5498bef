"""Files made to cost more than they are: refused in time, and with memory of a small multiple of their size."""

from __future__ import annotations

import re
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import on_disk
from modelfmt.checkpoints import huggingface
from modelfmt.errors import LimitExceeded, ModelfmtError
from modelfmt.formats import gguf, safetensors
from modelfmt.ir.layout import Entry
from modelfmt.ir.model import Model
from modelfmt.storage import strict_json

MIB = 1 << 20
BOUNDARIES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 32, 2**64 - 1)


def small_safetensors() -> bytes:
    entries = [Entry("a.weight", "BF16", (2, 3)), Entry("b", "F4", (4, 2)), Entry("c", "I64", ())]
    (layout,), _ = safetensors.layout(entries, metadata={"format": "pt"})
    return on_disk.image(layout, on_disk.payload(entries, on_disk.sizes([layout])))


def small_gguf() -> tuple[bytes, int]:
    """A file and the size of its header."""
    entries = [Entry("a.weight", "Q8_0", (2, 32)), Entry("b", "F32", (3,))]
    values = [
        ("general.architecture", "STRING", "toy"),
        ("toy.tokens", "ARRAY:STRING", ["a", "bc"]),
        ("toy.types", "ARRAY:INT32", [1, 2]),
        ("toy.flag", "BOOL", True),
    ]
    (layout,) = gguf.layout(entries, metadata=values)
    return on_disk.image(layout, on_disk.payload(entries, on_disk.sizes([layout]))), len(layout.header)


def read_safetensors(data: bytes, _: Path) -> Model:
    return on_disk.opened_bytes(safetensors.read, data)


def read_gguf(data: bytes, _: Path) -> Model:
    return on_disk.opened_bytes(gguf.read, data)


def read_config(data: bytes, folder: Path) -> Model:
    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(small_safetensors())
    return on_disk.opened(huggingface.read, folder)


def read_index(data: bytes, folder: Path) -> Model:
    (folder / "model.safetensors.index.json").write_bytes(data)
    return on_disk.opened(huggingface.read, folder)


def text_safetensors(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def gguf_strings(n: int, promised: int) -> bytes:
    """A GGUF file of one array of n empty strings that claims to have more."""
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, promised)
    return head + bytes(8 * n)


def numbered(form: bytes, n: int) -> bytes:
    return b"{" + b",".join(form.replace(b"#", b"%x" % i) for i in range(n)) + b"}"


Read = Callable[[bytes, Path], Model]

# name -> reader, text; every one is refused
BOMBS: dict[str, tuple[Read, Callable[[], bytes]]] = {
    "nested lists": (read_safetensors, lambda: text_safetensors(b'{"a":' + b"[" * 4 * MIB)),
    "nested objects": (read_safetensors, lambda: text_safetensors(b'{"a":' * MIB)),
    "60 levels, again and again": (
        read_safetensors,
        lambda: text_safetensors(b'{"a":[' + b",".join([b"[" * 60 + b"]" * 60] * (MIB // 30)) + b"]}"),
    ),
    "empty strings": (read_safetensors, lambda: text_safetensors(b'{"a":[' + b'"",' * MIB + b'""]}')),
    "quotes": (read_safetensors, lambda: text_safetensors(b"{" + b'"' * 4 * MIB)),
    "backslashes": (read_safetensors, lambda: text_safetensors(b'{"' + b"\\" * 4 * MIB)),
    "a long number": (read_safetensors, lambda: text_safetensors(b'{"a":' + b"9" * 4 * MIB + b"}")),
    "many sizes": (
        read_safetensors,
        lambda: text_safetensors(b'{"a":{"dtype":"U8","shape":[' + b"0," * MIB + b'0],"data_offsets":[0,0]}}'),
    ),
    "entries that are none": (read_safetensors, lambda: text_safetensors(numbered(b'"#":0', MIB // 4))),
    "more strings than there are": (read_gguf, lambda: gguf_strings(MIB // 2, MIB // 2 + 9)),
    "as many strings as could be": (read_gguf, lambda: gguf_strings(MIB // 2, 2**61)),
    "tensors without end": (read_gguf, lambda: b"GGUF" + struct.pack("<IQQ", 3, MIB // 8, 0) + bytes(4 * MIB)),
    "config of lists": (read_config, lambda: b'{"a":[' + b"[]," * MIB + b"[]]}"),
    "config of objects": (read_config, lambda: b'{"a":[' + b'{"a":0},' * MIB + b"0]}"),
    "config of deep lists": (read_config, lambda: b"[" * 4 * MIB),
    "config of a number": (read_config, lambda: b'{"a":' + b"1" * 4 * MIB + b"}"),
    "config too long": (read_config, lambda: b" " * 40 * MIB + b"{}"),
    "index of one name": (read_index, lambda: b'{"weight_map":{' + b'"":"",' * MIB + b'"":""}}'),
    "index of missing shards": (read_index, lambda: b'{"weight_map":' + numbered(b'"#":"#"', MIB // 8) + b"}"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_in_time_and_memory(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At most 24 times the file: what a JSON parser pays for values of a few bytes each."""
    read, make = BOMBS[name]
    data = make()
    began = time.perf_counter()
    with pytest.raises(ModelfmtError) as caught:
        read(data, tmp_path)
    seconds = time.perf_counter() - began
    assert caught.value.path
    assert len(str(caught.value)) < 10_000, "the message repeats the file"
    assert seconds < 10
    tracemalloc.start()
    try:
        with suppress(ModelfmtError):
            read(data, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB + 24 * len(data), f"{peak / len(data):.1f} times the file"
    with capsys.disabled():
        print(f" [{name}: {len(data) / MIB:.0f} MiB, {seconds:.2f} s, {peak / len(data):.1f} x memory]")


def test_densest_json_that_is_read() -> None:
    text = b"[" + b'{"abc":0},' * (MIB // 10) + b"0]"
    tracemalloc.start()
    try:
        assert len(strict_json.parse(text, path="x")) == MIB // 10 + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(text), f"{peak / len(text):.1f} times the text"


def overwritten(data: bytes, header: int) -> Iterator[bytes]:
    """Boundary values in 8 and in 4 bytes at every offset of a header."""
    for code in ("<Q", "<I"):
        size = struct.calcsize(code)
        for number in BOUNDARIES:
            for at in range(header - size if number < 1 << (8 * size) else 0):
                yield data[:at] + struct.pack(code, number) + data[at + size :]


def renumbered(data: bytes) -> Iterator[bytes]:
    """Boundary values, and things that are no count, in place of every number of a safetensors header."""
    text, weights = data[8 : 8 + int.from_bytes(data[:8], "little")], data[8 + int.from_bytes(data[:8], "little") :]
    for match in re.finditer(rb"\d+", text):
        for put in (*(str(number) for number in BOUNDARIES), "-1", "1e999", "0.5", "null", "[]", '"1"', "9" * 5000):
            yield text_safetensors(text[: match.start()] + put.encode() + text[match.end() :]) + weights


@pytest.mark.parametrize("name", ["gguf", "safetensors"])
def test_boundary_numbers_everywhere_take_no_memory(name: str, tmp_path: Path) -> None:
    """No reader believes a number that it has not checked: the peak over each of the files stays below 1 MiB."""
    read = read_gguf if name == "gguf" else read_safetensors
    files = list(overwritten(*small_gguf()) if name == "gguf" else renumbered(small_safetensors()))
    refused = 0
    for data in files:
        refused += attempt(read, data, tmp_path)
    assert refused > len(files) // 4
    tracemalloc.start()
    try:
        for data in files[:: max(1, len(files) // 1000)]:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            attempt(read, data, tmp_path)
            assert tracemalloc.get_traced_memory()[1] - before < MIB
    finally:
        tracemalloc.stop()


def attempt(read: Read, data: bytes, folder: Path) -> bool:
    """True where the file was refused; otherwise the model must lie inside it."""
    try:
        model = read(data, folder)
    except ModelfmtError:
        return True
    on_disk.check_spans(model)
    return False


def test_readers_start_nothing(tmp_path: Path) -> None:
    """An audit hook over truncated files: nothing is imported, executed or started, and no other path is opened."""
    forbidden = {"import", "exec", "compile", "subprocess.Popen", "os.system", "socket.connect", "ctypes.dlopen"}
    events: list[tuple[str, Any]] = []
    watching = False

    def hook(event: str, arguments: Any) -> None:
        if watching and (event in forbidden or (event == "open" and not str(arguments[0]).startswith(str(tmp_path)))):
            events.append((event, arguments))

    cases: list[tuple[Read, bytes]] = [
        (read_safetensors, small_safetensors()),
        (read_gguf, small_gguf()[0]),
        (read_config, b'{"architectures": ["A"], "n": [1, 2.5, null]}'),
    ]
    for read, data in cases:
        read(data, tmp_path)  # what is imported at first use is no finding
    sys.addaudithook(hook)
    for read, data in cases:
        for size in range(len(data) + 1):
            watching = True
            with suppress(ModelfmtError):
                read(data[:size], tmp_path)
            watching = False
    assert events == []


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 5000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"":', b"}")])
def test_depth_limit_is_exact(depth: int, pair: tuple[bytes, bytes]) -> None:
    text = pair[0] * (depth - 1) + (b"[]" if pair[0] == b"[" else b"{}") + pair[1] * (depth - 1)
    if depth <= strict_json.MAX_DEPTH:
        strict_json.parse(text, path="x")
        return
    with pytest.raises(LimitExceeded) as caught:
        strict_json.parse(text, path="x")
    assert caught.value.code == "json-depth"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"a":1,"a":2}', "duplicate-key"),
        (b'[{"b":{"a":1,"a":1}}]', "duplicate-key"),
        (b"[NaN]", "json-constant"),
        (b"[-Infinity]", "json-constant"),
        (b'["\\ud800"]', "json"),
        (b'["\xff"]', "json"),
        (b"[1,]", "json"),
        (b"\xef\xbb\xbf{}", "json"),
        (b"", "json"),
        (b"[" + b"9" * 5000 + b"]", "json"),
        (b"]" * 200, "json"),
    ],
)
def test_json_that_is_refused(text: bytes, code: str) -> None:
    with pytest.raises(ModelfmtError) as caught:
        strict_json.parse(text, path="x", place="y")
    assert (caught.value.code, caught.value.path) == (code, "x")


def test_json_that_is_read() -> None:
    text = rb'{"a\"{": ["\\", "\\\"[", "\ud83d\ude00", {}], "b": -1.5e3, "c": null}'
    assert strict_json.parse(text, path="x") == {'a"{': ["\\", '\\"[', "\U0001f600", {}], "b": -1500.0, "c": None}
    assert strict_json.parse(b"[Infinity]", path="x", non_finite=True) == [float("inf")]
