"""Where code can hide: pickles one after another, in archives of every kind, behind wrong names, beside honest data.

A file is what its bytes say, not what its name says. What cannot be looked at is said, and is never "safe". Archives
are followed 4 deep; a deflated member is inflated up to 256 MiB.
"""

from __future__ import annotations

import bz2
import json
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from modelfmt.arrays.npy import read_header
from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError
from modelfmt.formats import gguf, pytorch, safetensors, skops
from modelfmt.formats.pytorch_forms import MAGIC_NUMBER
from modelfmt.pickles.joblib_arrays import follow_array
from modelfmt.pickles.machine import Pickle, load
from modelfmt.pickles.values import Blob, Call, Global
from modelfmt.scanning import sevenzip
from modelfmt.scanning.chains import archives
from modelfmt.scanning.findings import DANGEROUS, SAFE, UNKNOWN, Finding
from modelfmt.scanning.names import judged, proper, verdict_of
from modelfmt.storage.lz4 import Lz4Decoder
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import INFLATED_LIMIT, Archive
from modelfmt.tiles import Evaluator

__all__ = ["Found", "look", "refusals"]

MAX_DEPTH = 4
MAX_PICKLES = 64
MAX_LOOSE = 4096
_PICKLE_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".th", ".joblib", ".dat", ".data", ".sav", ".p")
_AMBIGUOUS = frozenset(
    {
        "zip-duplicate",
        "zip-header",
        "zip-overlap",
        "zip-prefix",
        "zip-encrypted",
        "zip-directory",
        "zip-crc",
        "zip-root",
    }
)
_REFUSALS = ("tensor-", "storage-", "tree-", "array-", "byteorder")
_UNREAD = {b"Rar!": "a RAR archive"}
_TEMPLATE = re.compile(r"__\w+__|\|\s*attr\b|\bimport\b|\bcycler\b.*__|\bself\._|\bmro\b|\bpopen\b")
_LAMBDA = re.compile(rb'"class_name":\s*"Lambda"')


class Found(msgspec.Struct):
    """findings: in the order of the file. names: everything a loader would import."""

    findings: list[Finding] = msgspec.field(default_factory=list)
    names: dict[str, None] = msgspec.field(default_factory=dict)

    def add(self, verdict: str, rule: str, reason: str, offset: int = 0, member: str = "") -> None:
        self.findings.append(Finding(verdict, rule, reason, offset, member))


def look(region: Region, name: str) -> Found:
    """Look at a file, and at everything in it. name: its own, which matters only where its content says nothing."""
    found = Found()
    _look(region, name, "", found, 0)
    return found


def refusals(region: Region) -> list[Finding]:
    """What the reader of PyTorch files refuses in a file, of tensors and storages that lie about their bytes.

    Damaged pickles and archives are findings of `look`.
    """
    if not pytorch.sniff(region.read(0, min(region.size, 512))):
        return []
    try:
        pytorch.read(region.path, region.files, Evaluator(region.files))
    except (CorruptFile, LimitExceeded) as error:
        if error.code.startswith(_REFUSALS):
            place = str(error.place).removeprefix("byte ")
            offset = int(place) if place.isdigit() else 0
            return [Finding(UNKNOWN, "refused", f"the reader refuses it: {error.message} [{error.code}]", offset)]
    except ModelfmtError:
        pass
    return []


def _look(region: Region, name: str, member: str, found: Found, depth: int) -> None:
    if depth > MAX_DEPTH:
        found.add(UNKNOWN, "nested", "archives are nested too deeply to be looked at", region.start, member)
        return
    head = region.read(0, min(region.size, 512))
    kind = next((what for magic, what in _UNREAD.items() if head.startswith(magic)), None)
    if kind is not None:
        found.add(UNKNOWN, "not-read", f"{kind} is not looked into", region.start, member)
        return
    for fits, action in _CARRIERS:
        if fits(head):
            try:
                action(region, member, found, depth)
            except ModelfmtError as error:
                found.add(UNKNOWN, "damaged", f"not looked at any further: {error.message}", region.start, member)
            return
    _maybe_pickles(region, name, member, found, depth)


def _pickles(region: Region, member: str, found: Found, depth: int, *, script: bool = False) -> None:
    """Pickles one after another; behind the five of an old PyTorch file lie raw storages."""
    at = 0
    rows: list[Pickle] = []
    while at < region.size and len(rows) < MAX_PICKLES:
        row = load(region, at, on_build=follow_array, damaged=True)
        if rows and row.damage is not None and not row.globals_:
            found.add(UNKNOWN, "trailing", "bytes follow the pickle", region.start + at, member)
            break
        rows.append(row)
        _judge(row, region, member, found, depth, script)
        at = row.end
        legacy = type(rows[0].root) is int and rows[0].root == MAGIC_NUMBER
        if row.damage is not None or (legacy and len(rows) == 5):
            break
    if len(rows) > 1 and not legacy:
        found.add(UNKNOWN, "trailing", "several pickles one after another", region.start + rows[0].end, member)


def _judge(pickle: Pickle, region: Region, member: str, found: Found, depth: int, script: bool) -> None:
    found.names |= dict.fromkeys(str(name) for name in pickle.globals_)
    found.findings += judged(pickle, member, script=script)
    for call in pickle.calls:  # pickles inside pickles
        for argument in call.args if isinstance(call.args, tuple) else ():
            if isinstance(argument, Blob):
                inner = argument.region
            elif isinstance(argument, bytes) and len(argument) > 2:
                files = region.files
                inner = Region.whole(files.register(f"{region.path}#{call.offset}", argument), files)
            else:
                continue
            loaded = call.name.endswith(("loads", "load", "_load_from_bytes"))
            names = load(inner, damaged=True).globals_
            if loaded or inner.read(0, 2) == b"PK" or any(proper(name) for name in names):
                _look(inner, "x.pkl", f"{member}#{call.offset}", found, depth + 1)


def _maybe_pickles(region: Region, name: str, member: str, found: Found, depth: int) -> None:
    """A file that says nothing about itself: a pickle of protocol 0 may begin with anything."""
    if region.size == 0:
        return
    row = load(region, on_build=follow_array, damaged=True)
    if row.damage is None or any(proper(named) for named in row.globals_) or name.lower().endswith(_PICKLE_NAMES):
        _pickles(region, member, found, depth)


def _zip(region: Region, member: str, found: Found, depth: int) -> None:
    try:
        archive = Archive(region)
    except ModelfmtError as error:
        if parts := archives(region):
            for part in parts:
                _zip(part, f"{member}@{part.start}" if member else f"@{part.start}", found, depth)
            return
        verdict = DANGEROUS if error.code in _AMBIGUOUS else UNKNOWN
        found.add(verdict, "archive", f"readers may disagree about the archive: {error.message}", region.start, member)
        _loose(region, member, found, depth)
        return
    if archive.comment:
        found.add(UNKNOWN, "comment", "bytes behind the archive's directory", region.start, member)
    if skops.SCHEMA in archive.members:
        _skops(archive, f"{member}!{skops.SCHEMA}" if member else skops.SCHEMA, found)
    script = any(name.endswith("constants.pkl") for name in archive.members)
    for name, row in archive.members.items():
        inside = f"{member}!{name}" if member else name
        if name.startswith("/") or ".." in name.split("/"):
            found.add(DANGEROUS, "path", "a member's name leads out of its folder", row.header_offset, inside)
        try:
            if row.crc and row.stored and row.size < INFLATED_LIMIT:
                archive.check(name)
            place = archive.place(name)
        except ModelfmtError as error:
            found.add(DANGEROUS, "archive", f"a member that readers may skip: {error.message}", row.offset, inside)
            if not row.stored:
                continue
            place = region.part(row.offset, row.size)
        if re.search(r"/data/\d+$|/constants/\d+$", name):
            continue  # raw storages
        if script and name.endswith(".pkl") and place.size:
            _pickles(place, inside, found, depth + 1, script=True)
        elif name.endswith(("config.json", "metadata.json")) and "/" not in name:
            _keras(place, inside, found)
        else:
            _look(place, name, inside, found, depth + 1)


def _loose(region: Region, member: str, found: Found, depth: int) -> None:
    """What lies behind each local header of an archive that cannot be trusted, flags and sizes ignored."""
    data = region.read(0, min(region.size, INFLATED_LIMIT))
    starts = [match.start() for match in re.finditer(b"PK\3\4", data)][:MAX_LOOSE]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        header = data[start : start + 30]
        if len(header) < 30:
            continue
        begin = start + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        name = data[start + 30 : start + 30 + int.from_bytes(header[26:28], "little")].decode("latin-1")
        raw = data[begin:end]
        if int.from_bytes(header[8:10], "little") == 8:
            raw = _inflated(zlib.decompressobj(-15), raw)
        files = region.files
        inner = Region.whole(files.register(f"{region.path}@{start}", raw), files)
        _maybe_pickles(inner, name, f"{member}!{name}" if member else name, found, depth + 1)


def _inflated(stream: Any, raw: bytes) -> bytes:
    """What a stream becomes, up to its damage or the limit."""
    pieces: list[bytes] = []
    left = INFLATED_LIMIT
    try:
        while left > 0 and (data := stream.decompress(raw, left)):
            pieces.append(data)
            left -= len(data)
            raw = b""
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
        pass  # bz2 and lzma say so at the end, too
    return b"".join(pieces)


def _compressed(make: Callable[[], Any], skip: int = 0) -> Callable[[Region, str, Found, int], None]:
    def action(region: Region, member: str, found: Found, depth: int) -> None:
        data = _inflated(make(), region.read(0, min(region.size, INFLATED_LIMIT))[skip:])
        if not data:
            found.add(UNKNOWN, "damaged", "a compressed stream that cannot be read", region.start, member)
            return
        files = region.files
        key = files.register(f"{region.path}#inflated{depth}", data)
        _look(Region.whole(key, files), "x.pkl", member, found, depth + 1)
        if len(data) >= INFLATED_LIMIT:
            found.add(UNKNOWN, "too-long", "a compressed stream is too long to be looked at", region.start, member)

    return action


def _tar(region: Region, member: str, found: Found, depth: int) -> None:
    at = 0
    while at + 512 <= region.size:
        head = region.read(at, 512)
        digits = head[124:136].strip(b" \0")
        if not head.strip(b"\0"):
            break
        if head[257:262] != b"ustar" or not digits or digits.strip(b"01234567"):
            found.add(UNKNOWN, "damaged", "a broken tar archive", region.start + at, member)
            break
        size, name = int(digits, 8), head[:100].partition(b"\0")[0].decode("latin-1")
        if name.startswith("/") or ".." in name.split("/"):
            found.add(DANGEROUS, "path", "a member's name leads out of its folder", region.start + at, name)
        place = region.part(at + 512, min(size, region.size - at - 512))
        if name in ("storages", "tensors"):
            _judge(load(place, damaged=True), place, f"{member}!{name}", found, depth, False)
        else:
            _look(place, name, f"{member}!{name}" if member else name, found, depth + 1)
        at += 512 + -(-size // 512) * 512


def _npy(region: Region, member: str, found: Found, depth: int) -> None:
    """An array of objects is a pickle behind the header; behind a header that is none, one is looked for."""
    try:
        header = read_header(region)
    except ModelfmtError as error:
        found.add(UNKNOWN, "damaged", f"not looked at any further: {error.message}", region.start, member)
        wide = region.read(6, 1) != b"\1"
        begin = 8 + (4 if wide else 2) + int.from_bytes(region.read(8, 4 if wide else 2), "little")
        if begin < region.size:
            _maybe_pickles(region.part(begin, region.size - begin), "x.pkl", member, found, depth)
        return
    if header.element.size is None:
        _pickles(header.data, member, found, depth)


def _sevenzip(region: Region, member: str, found: Found, depth: int) -> None:
    files = region.files
    for number, (name, data) in enumerate(sevenzip.members(region)):
        inside = f"{member}!{name}" if member else name
        inner = Region.whole(files.register(f"{region.path}#7z{region.start}.{number}", data), files)
        _look(inner, name, inside, found, depth + 1)


def _skops(archive: Archive, member: str, found: Found) -> None:
    """What skops would import and call once a user trusts the types of the file."""
    try:
        schema = skops.schema_of(archive)
    except ModelfmtError as error:
        found.add(UNKNOWN, "damaged", f"not looked at any further: {error.message}", 0, member)
        return
    for node in skops.nodes(schema):
        module, name, loader = (str(node.get(key)) for key in ("__module__", "__class__", "__loader__"))
        if loader in ("MethodNode", "OperatorFuncNode"):
            found.add(DANGEROUS, "skops-call", f"{module}.{name}: a method or operator is reached for", 0, member)
            continue
        named = Global(module, name, 0)
        full = str(named)
        if full in found.names:
            continue
        found.names[full] = None
        called = Call(named, (), 0, "REDUCE") if loader in ("ConstructorFromReduceNode", "PartialNode") else None
        verdict, rule, reason = verdict_of(named, called)
        if verdict != SAFE:
            found.findings.append(Finding(verdict, rule, reason, 0, member, full))


def _gguf(region: Region, member: str, found: Found, _depth: int) -> None:
    if member:
        found.add(UNKNOWN, "not-read", "a GGUF inside an archive is not looked into", region.start, member)
        return
    model = gguf.read(region.path, region.files, Evaluator(region.files))
    for key, value in model.metadata.items():
        if "chat_template" in key and isinstance(value, str) and (match := _TEMPLATE.search(value)):
            reason = f"a chat template reaches for {match[0]!r}"
            found.add(DANGEROUS, "template", reason, 0, key)


def _safetensors(region: Region, member: str, _found: Found, _depth: int) -> None:
    if member:
        return
    safetensors.read(region.path, region.files, Evaluator(region.files))


def _hdf5(region: Region, member: str, found: Found, _depth: int) -> None:
    data = region.read(0, min(region.size, INFLATED_LIMIT))
    for match in _LAMBDA.finditer(data):
        found.add(DANGEROUS, "lambda", "a Lambda layer holds Python code", region.start + match.start(), member)
    found.add(UNKNOWN, "not-read", "an HDF5 file is only searched for Lambda layers", region.start, member)


def _keras(region: Region, member: str, found: Found) -> None:
    """Keras names classes and functions in its configuration; Lambda layers hold code."""
    try:
        config = json.loads(region.read(0, min(region.size, 8 << 20)))
    except (ValueError, RecursionError):
        found.add(UNKNOWN, "damaged", "a configuration that is no JSON", 0, member)
        return
    waiting = [config]
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
            continue
        module = value.get("module") or "keras"
        if value["class_name"] in ("Lambda", "__lambda__"):
            found.add(DANGEROUS, "lambda", "a Lambda layer holds Python code", 0, member)
        elif not isinstance(module, str) or module.split(".")[0] not in ("keras", "builtins"):
            found.add(DANGEROUS, "keras-module", f"a class of {module} would be made", 0, member)


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


_CARRIERS: tuple[tuple[Callable[[bytes], bool], Callable[[Region, str, Found, int], None]], ...] = (
    (_starts(b"PK\3\4"), _zip),
    (_starts(b"\x1f\x8b"), _compressed(lambda: zlib.decompressobj(31))),
    (_starts(b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), _compressed(zlib.decompressobj)),
    (_starts(b"BZh"), _compressed(bz2.BZ2Decompressor)),
    (_starts(b"\xfd7zXZ\0", b"\x5d\0\0"), _compressed(lzma.LZMADecompressor)),
    (_starts(b"\x04\x22\x4d\x18"), _compressed(Lz4Decoder)),
    (_starts(b"ZF0x"), _compressed(zlib.decompressobj, skip=21)),
    (_starts(sevenzip.MAGIC), _sevenzip),
    (_starts(b"\x93NUMPY"), _npy),
    (_starts(b"\x89HDF"), _hdf5),
    (gguf.sniff, _gguf),
    (lambda head: head[257:262] == b"ustar", _tar),
    (safetensors.sniff, _safetensors),
    (pytorch.sniff, _pickles),
)
"""What the first bytes say, and what is then looked at; the first that fits counts."""
