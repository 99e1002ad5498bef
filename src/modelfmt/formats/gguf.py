"""GGUF: llama.cpp's container. Key-values, a table of tensors, then their bytes, aligned.

Source: the GGUF specification (versions 1 to 3) and ggml's gguf.cpp. Reads little and big-endian files of any
alignment, and splits given by any of their shards; writing is in gguf_layout. That the file stores dimensions innermost
first, and types as numbers, is known in the gguf files of this folder and nowhere else.
"""

from __future__ import annotations

import os
import re
from math import prod
from struct import Struct
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, SourceMissing, UnsupportedError
from modelfmt.formats.gguf_layout import layout
from modelfmt.formats.gguf_metadata import Cursor, GgufArray, read_value
from modelfmt.formats.gguf_tables import (
    ALIGNMENTS,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_KEY,
    MAX_NAME,
    REMOVED_TYPES,
    SPLIT_KEYS,
    TENSOR_TYPES,
    nbytes,
    padded,
)
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Leaf, Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained

__all__ = ["TENSOR_TYPES", "GgufArray", "layout", "read", "sniff"]

_OLDER = {b"tjgg": "GGJT", b"fmgg": "GGMF", b"lmgg": "GGML"}

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class _Shard(msgspec.Struct):
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
    version, byteorder, alignment, types (value type by key: "UINT32", "ARRAY:STRING"), split (None, or count and
    files).
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
        "types": {key: kind for key, kind in first.types.items() if key not in SPLIT_KEYS},
        "split": split,
    }
    metadata = {key: value for key, value in first.metadata.items() if key not in SPLIT_KEYS}
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
    start = padded(cursor.at, alignment)
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
        size = nbytes(encoding, shape)
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
    if cursor.size > padded(end, alignment):
        raise CorruptFile(
            "bytes follow the last tensor",
            code="data-size",
            path=path,
            found=f"{cursor.size} bytes",
            allowed=f"at most {padded(end, alignment)}",
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
