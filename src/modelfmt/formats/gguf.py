"""GGUF: llama.cpp's container. Key-values, a table of tensors, then their bytes, aligned.

Source: the GGUF specification (versions 1 to 3), ggml's gguf.cpp, and gguf-split. Reads little and big-endian files of any
alignment, and splits given by any of their shards; writes version 3, little-endian, contiguous as llama.cpp demands. That
the file stores dimensions innermost first, and types as numbers, is known here and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import Any

from modelfmt.errors import CorruptFile, ShapeError, SourceMissing, UnsupportedError, UsageError
from modelfmt.formats.gguf_metadata import MAX_KEY, Cursor, GgufArray, encode_string, encode_value, read_value
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry, FileLayout, Placed
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Leaf, Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained

__all__ = ["TENSOR_TYPES", "GgufArray", "layout", "read", "sniff"]

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
ALIGNMENTS = tuple(1 << power for power in range(3, 21))
MAX_DIMS = 4
MAX_NAME = 64

# fmt: off
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}
"""Encodings by their number in the file."""
REMOVED_TYPES = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}
# fmt: on
_TYPE_IDS = {name: number for number, name in TENSOR_TYPES.items()}
_OLDER = {b"tjgg": "GGJT", b"fmgg": "GGMF", b"lmgg": "GGML"}

_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass
class _Shard:
    """One file: what its header says."""

    path: str
    version: int
    big: bool
    alignment: int
    metadata: dict[str, Any]
    types: dict[str, str]
    leaves: dict[str, Leaf]

    def split(self, key: str) -> int:
        value = self.metadata.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CorruptFile("a split key that is no count", code="split", path=self.path, place=key, found=value)
        return value


def sniff(head: bytes) -> bool:
    """True where the first bytes of a file (4 suffice) are those of a GGUF file."""
    return head[:4] == MAGIC


def read(path: str, files: Files, reader: Reader) -> Model:
    """One GGUF file, or all shards of a split of which any one is given; the others lie next to it.

    `metadata` holds plain values and, for arrays, a lazy GgufArray; the split's own keys are left out. extras["gguf"]:
    version, byteorder, alignment, types (value type by key: "UINT32", "ARRAY:STRING"), split (None, or count and files).
    Raises SourceMissing (a shard), CorruptFile, LimitExceeded, UnsupportedError (version, tensor type).
    """
    shard = _read_shard(path, files)
    shards = _siblings(shard, files) if shard.split("split.count") > 1 else [shard]
    first = shards[0]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, leaf in shard.leaves.items():
            if name in tensors:
                raise CorruptFile("a tensor is in two shards", code="duplicate-key", path=shard.path, place=name)
            tensors[name] = Tensor(name, leaf, reader)
    split = None
    if len(shards) > 1:
        _check_total(first, len(tensors))
        split = {"count": len(shards), "files": [shard.path for shard in shards]}
    own = {
        "version": first.version,
        "byteorder": "big" if first.big else "little",
        "alignment": first.alignment,
        "types": {key: kind for key, kind in first.types.items() if key not in _SPLIT_KEYS},
        "split": split,
    }
    metadata = {key: value for key, value in first.metadata.items() if key not in _SPLIT_KEYS}
    architecture = metadata.get("general.architecture")
    return Model(
        "gguf",
        path,
        tensors,
        architecture=architecture if isinstance(architecture, str) else None,
        metadata=metadata,
        extras={"gguf": own},
        files=files,
    )


def layout(
    entries: Sequence[Entry],
    *,
    metadata: Sequence[tuple[str, str, Any]],
    alignment: int = DEFAULT_ALIGNMENT,
    split_size: int | None = None,
    split_tensors: int | None = None,
    stem: str = "model",
) -> list[FileLayout]:
    """Where everything lies in one file, or in shards as gguf-split cuts them: by padded tensor bytes or number of tensors.

    metadata: (key, type, value) in order; types as in extras["gguf"]["types"]; a GgufArray's bytes are copied. Shards are
    called `<stem>-00001-of-0000N.gguf`, all metadata is in the first; a single file has no name and no split keys. A
    tensor larger than split_size stands alone. Written contiguously in the given order, each padded to the alignment;
    `general.alignment` is added where it is not 32.

    Raises UsageError (keys, values, names, options), ShapeError (rows that are not whole blocks), UnsupportedError (types).
    """
    metadata = _with_alignment(metadata, alignment)
    _check_entries(entries)
    values = [(key, _encode_key(key, kind, value)) for key, kind, value in metadata]
    if len(dict(values)) != len(values) or any(key in _SPLIT_KEYS for key, _ in values):
        keys = [key for key, _ in values]
        twice = next(key for key in keys if keys.count(key) > 1 or key in _SPLIT_KEYS)
        raise UsageError("a metadata key is given twice, or belongs to splitting", code="duplicate-key", place=twice)
    groups = _groups(entries, alignment, split_size, split_tensors)
    if len(groups) == 1:
        return [_file("", groups[0], [data for _, data in values], alignment)]
    if "/" in stem or "\\" in stem or not stem:
        raise UsageError("a stem is part of a file name", code="stem", found=stem)
    if len(groups) > 0xFFFF:
        raise UsageError(
            "too many shards",
            code="shards",
            found=len(groups),
            allowed="at most 65535",
            hint="give a larger split size",
        )
    parsing = [data for key, data in values if key == "general.alignment"]
    files = []
    for number, group in enumerate(groups):
        own = [
            _encode_key("split.no", "UINT16", number),
            _encode_key("split.tensors.count", "INT32", len(entries)),
            _encode_key("split.count", "UINT16", len(groups)),
        ]
        held = [data for _, data in values] if number == 0 else parsing
        files.append(_file(f"{stem}-{number + 1:05}-of-{len(groups):05}.gguf", group, held + own, alignment))
    return files


def _read_shard(path: str, files: Files) -> _Shard:
    cursor = Cursor(path, files)
    version = _open(cursor)
    n_tensors = cursor.count("the number of tensors", least=16 + cursor.width)
    n_values = cursor.count("the number of key-values", least=5 + cursor.width)
    metadata: dict[str, Any] = {}
    types: dict[str, str] = {}
    for _ in range(n_values):
        key = cursor.name("a key", at_most=MAX_KEY)
        if key in metadata:
            raise CorruptFile("a key is given twice", code="duplicate-key", path=path, place=key)
        types[key], metadata[key] = read_value(cursor, key)
    alignment = _alignment(path, metadata, types)
    rows = [_tensor(cursor) for _ in range(n_tensors)]
    leaves = _leaves(cursor, rows, alignment)
    return _Shard(path, version, cursor.big, alignment, metadata, types, leaves)


def _open(cursor: Cursor) -> int:
    """Check magic and version, and set the cursor to the file's byte order and width of counts."""
    if cursor.size < 16:
        raise CorruptFile(
            "too short for a GGUF file",
            code="header-cut",
            path=cursor.path,
            found=f"{cursor.size} bytes",
            allowed="at least 16",
        )
    magic = cursor.take(4, "the magic")
    if magic in _OLDER:
        raise UnsupportedError(
            f"a {_OLDER[magic]} file, from before GGUF",
            code="magic",
            path=cursor.path,
            hint="convert the original checkpoint; llama.cpp dropped this container in 2023",
        )
    if magic != MAGIC:
        raise CorruptFile("not a GGUF file", code="magic", path=cursor.path, place="byte 0", found=magic, allowed=MAGIC)
    version = cursor.number("UINT32", "the version")
    if version & 0xFFFF == 0 and version:
        cursor.big = True
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (1, 2, 3):
        raise UnsupportedError(
            "an unknown version of GGUF",
            code="version",
            path=cursor.path,
            place="byte 4",
            found=version,
            allowed="1, 2 or 3",
        )
    cursor.width = 4 if version == 1 else 8
    return version


def _alignment(path: str, metadata: dict[str, Any], types: dict[str, str]) -> int:
    found: int = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if types.get("general.alignment", "UINT32") != "UINT32" or found not in ALIGNMENTS:
        raise CorruptFile(
            "an impossible alignment",
            code="alignment",
            path=path,
            place="general.alignment",
            found=found,
            allowed="a power of two from 8 to 1048576, as UINT32",
        )
    return found


def _tensor(cursor: Cursor) -> tuple[str, str, tuple[int, ...], int]:
    """Name, encoding, row-major shape and offset (in the data section) of the next entry of the tensor table."""
    name = cursor.name("a tensor name", at_most=MAX_NAME)
    n_dims = cursor.number("UINT32", name)
    if n_dims > MAX_DIMS:
        raise CorruptFile(
            "too many dimensions",
            code="dimensions",
            path=cursor.path,
            place=name,
            found=n_dims,
            allowed=f"at most {MAX_DIMS}",
        )
    form = Struct(f"{'>' if cursor.big else '<'}{n_dims}{'I' if cursor.width == 4 else 'Q'}IQ")
    *dims, number, offset = form.unpack(cursor.take(form.size, name))
    shape = tuple(reversed(dims))
    if number not in TENSOR_TYPES:
        removed = REMOVED_TYPES.get(number)
        raise UnsupportedError(
            f"the tensor type {removed} was removed from GGUF" if removed else "an unknown tensor type",
            code="tensor-type",
            path=cursor.path,
            place=name,
            found=number,
            allowed="the types 0 to 42 that ggml still has",
            hint="convert again from the original checkpoint" if removed else "a newer modelfmt may know it",
        )
    if prod(filter(None, shape)) >= 1 << 60:
        raise CorruptFile(
            "an impossible shape",
            code="shape",
            path=cursor.path,
            place=name,
            found=shape,
            allowed="below 2^60 elements",
        )
    encoding = TENSOR_TYPES[number]
    block = ENCODINGS[encoding].block_elements
    if block > 1 and (not shape or shape[-1] % block):
        raise CorruptFile(
            "a row is not whole blocks",
            code="row-not-blocks",
            path=cursor.path,
            place=name,
            found=shape,
            allowed=f"rows in multiples of {block} for {encoding}",
        )
    return name, encoding, shape, offset


def _leaves(cursor: Cursor, rows: list[tuple[str, str, tuple[int, ...], int]], alignment: int) -> dict[str, Leaf]:
    """Where the tensors lie, once each is known to lie inside the file, aligned, and apart from every other."""
    path = cursor.path
    start = _padded(cursor.at, alignment)
    leaves: dict[str, Leaf] = {}
    spans = []
    for name, encoding, shape, offset in rows:
        if name in leaves:
            raise CorruptFile("a tensor name is given twice", code="duplicate-key", path=path, place=name)
        if offset % alignment:
            raise CorruptFile(
                "a tensor is not aligned",
                code="misaligned",
                path=path,
                place=name,
                found=offset,
                allowed=f"a multiple of {alignment}",
            )
        begin = start + offset
        size = _nbytes(encoding, shape)
        if begin + size > cursor.size:
            raise CorruptFile(
                "tensor data runs past the end of the file",
                code="span-past-end",
                path=path,
                place=name,
                found=begin + size,
                allowed=f"at most {cursor.size}",
                hint="the download may be incomplete",
            )
        spans.append((begin, begin + size, name))
        leaves[name] = Leaf(path, begin, shape, encoding, cursor.big)
    end = start if rows else cursor.at
    for begin, stop, name in sorted(spans):
        if begin < end:
            raise CorruptFile(
                "tensors overlap", code="overlap", path=path, place=name, found=begin, allowed=f"at least {end}"
            )
        end = stop
    if cursor.size > _padded(end, alignment):
        raise CorruptFile(
            "bytes follow the last tensor",
            code="data-size",
            path=path,
            found=f"{cursor.size} bytes",
            allowed=f"at most {_padded(end, alignment)}",
            hint="shards must not be joined with cat: give one of the shards as they were downloaded",
        )
    return leaves


def _siblings(given: _Shard, files: Files) -> list[_Shard]:
    """Every shard of the split that `given` belongs to, in order."""
    count, number = given.split("split.count"), given.split("split.no")
    folder, name = os.path.split(given.path)
    match = _SHARD.fullmatch(name)
    allowed = f"<name>-{number + 1:05}-of-{count:05}.gguf"
    if match is None or int(match["number"]) != number + 1 or int(match["count"]) != count:
        raise CorruptFile(
            "the file's name does not say which shard it is",
            code="split-name",
            path=given.path,
            found=name,
            allowed=allowed,
            hint="give the shards the names they were published under",
        )
    shards = []
    missing = []
    for i in range(count):
        if i == number:
            shards.append(given)
            continue
        sibling = f"{match['stem']}-{i + 1:05}-of-{count:05}.gguf"
        path = str(contained(folder, sibling, named_in=given.path))
        try:
            files.size(path)
        except SourceMissing:
            missing.append(sibling)
            if len(missing) > 5:
                break
            continue
        if not missing:
            shards.append(_checked(_read_shard(path, files), i, count))
    if missing:
        raise SourceMissing(
            "shards of the split are missing",
            path=given.path,
            found=f"no {', '.join(missing)}",
            hint="download the rest of the shards",
        )
    return shards


def _checked(shard: _Shard, number: int, count: int) -> _Shard:
    found = (shard.split("split.no"), shard.split("split.count"))
    if found != (number, count):
        raise CorruptFile(
            "a shard of another split",
            code="split",
            path=shard.path,
            place="split.no, split.count",
            found=found,
            allowed=(number, count),
        )
    return shard


def _check_total(first: _Shard, n_tensors: int) -> None:
    if first.split("split.tensors.count") != n_tensors:
        raise CorruptFile(
            "the shards do not hold the number of tensors they promise",
            code="split",
            path=first.path,
            place="split.tensors.count",
            found=n_tensors,
            allowed=first.split("split.tensors.count"),
        )


def _with_alignment(metadata: Sequence[tuple[str, str, Any]], alignment: int) -> list[tuple[str, str, Any]]:
    """The metadata with the alignment that the file will have."""
    if alignment not in ALIGNMENTS:
        raise UsageError(
            "an impossible alignment", code="alignment", found=alignment, allowed="a power of two from 8 to 1048576"
        )
    rows = list(metadata)
    given = [value for key, _, value in rows if key == "general.alignment"]
    if given and given != [alignment]:
        raise UsageError(
            "general.alignment contradicts the alignment", code="alignment", found=given[0], allowed=alignment
        )
    if not given and alignment != DEFAULT_ALIGNMENT:
        rows.append(("general.alignment", "UINT32", alignment))
    return rows


def _check_entries(entries: Sequence[Entry]) -> None:
    names = set()
    for entry in entries:
        if entry.encoding not in _TYPE_IDS:
            raise UnsupportedError(
                "GGUF has no type for this encoding",
                code="tensor-type",
                place=entry.name,
                found=entry.encoding,
                allowed=" ".join(_TYPE_IDS),
            )
        block = ENCODINGS[entry.encoding].block_elements
        if block > 1 and (not entry.shape or entry.shape[-1] % block):
            raise ShapeError(
                "a row is not whole blocks",
                code="row-not-blocks",
                place=entry.name,
                found=entry.shape,
                allowed=f"rows in multiples of {block} for {entry.encoding}",
            )
        size = _utf8(entry.name)
        if not 0 < size < MAX_NAME:
            raise UsageError(
                "not a tensor name of GGUF",
                code="name-length",
                place=entry.name,
                found=f"{size} bytes",
                allowed=f"1 to {MAX_NAME - 1} bytes",
            )
        if entry.name in names:
            raise UsageError("a tensor name is given twice", code="duplicate-key", place=entry.name)
        if len(entry.shape) > MAX_DIMS or any(n < 0 for n in entry.shape):
            raise ShapeError(
                "a shape that cannot be stored",
                code="dimensions",
                place=entry.name,
                found=entry.shape,
                allowed=f"at most {MAX_DIMS} dimensions",
            )
        names.add(entry.name)


def _groups(
    entries: Sequence[Entry], alignment: int, split_size: int | None, split_tensors: int | None
) -> list[list[Entry]]:
    if split_size is not None and split_tensors is not None:
        raise UsageError("a split is by size or by number of tensors, not both", code="split-options")
    if (split_size is not None and split_size <= 0) or (split_tensors is not None and split_tensors <= 0):
        raise UsageError(
            "a split limit is positive",
            code="split-options",
            found=split_size if split_tensors is None else split_tensors,
        )
    groups: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        size = _padded(_nbytes(entry.encoding, entry.shape), alignment)
        full = (split_size is not None and filled + size > split_size) or (
            split_tensors is not None and len(groups[-1]) == split_tensors
        )
        if full and groups[-1]:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += size
    return groups


def _file(name: str, entries: list[Entry], values: list[bytes], alignment: int) -> FileLayout:
    table = []
    places = []
    offset = 0
    for entry in entries:
        size = _nbytes(entry.encoding, entry.shape)
        dims = tuple(reversed(entry.shape))
        form = Struct(f"<I{len(dims)}QIQ")
        table.append(encode_string(entry.name) + form.pack(len(dims), *dims, _TYPE_IDS[entry.encoding], offset))
        places.append((offset, size))
        offset = _padded(offset + size, alignment)
    head = MAGIC + Struct("<IQQ").pack(3, len(entries), len(values)) + b"".join(values) + b"".join(table)
    head += bytes(-len(head) % alignment)
    placed = tuple(
        Placed(entry.name, entry.encoding, tuple(entry.shape), len(head) + begin, size)
        for entry, (begin, size) in zip(entries, places, strict=True)
    )
    return FileLayout(name, len(head) + offset, head, placed)


def _encode_key(key: str, type_name: str, value: Any) -> bytes:
    if not 0 < _utf8(key) <= MAX_KEY:
        raise UsageError(
            "not a metadata key of GGUF",
            code="name-length",
            place=key,
            found=f"{len(key)} characters",
            allowed=f"1 to {MAX_KEY} bytes",
        )
    return encode_string(key) + encode_value(key, type_name, value)


def _utf8(name: str) -> int:
    """Bytes of a name in UTF-8; 0 where it cannot be written."""
    try:
        return 0 if any(c < " " or c == "\x7f" for c in name) else len(name.encode())
    except UnicodeEncodeError:
        return 0


def _nbytes(encoding: str, shape: tuple[int, ...]) -> int:
    row = ENCODINGS[encoding]
    return prod(shape) // row.block_elements * row.block_bytes


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
