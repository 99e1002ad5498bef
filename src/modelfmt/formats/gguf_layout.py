"""Lays out GGUF files: version 3, little-endian, contiguous as llama.cpp demands, split as gguf-split does.

Source: ggml's gguf.cpp (what its reader accepts), tools/gguf-split. All of it follows from names, types and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from modelfmt.errors import ShapeError, UnsupportedError, UsageError
from modelfmt.formats.gguf_metadata import encode_string, encode_value
from modelfmt.formats.gguf_tables import (
    ALIGNMENTS,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_KEY,
    MAX_NAME,
    SPLIT_KEYS,
    TENSOR_TYPES,
    nbytes,
    padded,
)
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry, FileLayout, Placed

__all__ = ["layout"]

_TYPE_IDS = {name: number for number, name in TENSOR_TYPES.items()}


def layout(
    entries: Sequence[Entry],
    *,
    metadata: Sequence[tuple[str, str, Any]],
    alignment: int = DEFAULT_ALIGNMENT,
    split_size: int | None = None,
    split_tensors: int | None = None,
    stem: str = "model",
) -> list[FileLayout]:
    """Where everything lies in one file, or in shards: by padded tensor bytes or by number of tensors.

    metadata: (key, type, value) in order; types as in extras["gguf"]["types"]; a GgufArray's bytes are copied. Shards
    are called `<stem>-00001-of-0000N.gguf`, all metadata is in the first; a single file has no name and no split keys.
    A tensor larger than split_size stands alone. Tensors are contiguous in the given order, each padded to the
    alignment; `general.alignment` is added, to every shard, where it is not 32.

    Raises UsageError (keys, values, names, options), ShapeError (rows that are not whole blocks), UnsupportedError
    (types).
    """
    metadata = _with_alignment(metadata, alignment)
    _check_entries(entries)
    values = [(key, _encode_key(key, kind, value)) for key, kind, value in metadata]
    if len(dict(values)) != len(values) or any(key in SPLIT_KEYS for key, _ in values):
        keys = [key for key, _ in values]
        twice = next(key for key in keys if keys.count(key) > 1 or key in SPLIT_KEYS)
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
        size = padded(nbytes(entry.encoding, entry.shape), alignment)
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
        size = nbytes(entry.encoding, entry.shape)
        dims = tuple(reversed(entry.shape))
        form = Struct(f"<I{len(dims)}QIQ")
        table.append(encode_string(entry.name) + form.pack(len(dims), *dims, _TYPE_IDS[entry.encoding], offset))
        places.append((offset, size))
        offset = padded(offset + size, alignment)
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
