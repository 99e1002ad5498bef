"""safetensors: an 8-byte length, a JSON header, then the bytes of every tensor without a gap.

Source: the safetensors 0.8 format and its dtype table. Stricter than the reference library in four points: the header
begins with `{`, no key is given twice at any level, an entry has exactly its three fields, and names hold no control
characters. Shards are laid out here; reading them by their index is a folder's affair (checkpoints.huggingface).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NoReturn

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError, UsageError
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.layout import Entry, FileLayout, Placed
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Leaf, Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.storage.strict_json import check_depth, skeleton

__all__ = ["DTYPES", "HEADER_LIMIT", "header", "laid_out", "layout", "read", "sniff"]

HEADER_LIMIT = 100_000_000
MAX_DIMS = 32
_METADATA = "__metadata__"

# The 22 dtypes of safetensors 0.8; a dense encoding bears the name of its dtype.
# fmt: off
DTYPES = frozenset({
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
    "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
})
# fmt: on

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:', re.DOTALL)


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """What the header says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ROW = msgspec.json.Decoder(_Row)
_STRINGS = msgspec.json.Decoder(dict[str, str])


def sniff(head: bytes) -> bool:
    """True where the first bytes of a file (9 suffice) can begin a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_LIMIT


def read(path: str, files: Files, reader: Reader, *, ties: bool = True) -> Model:
    """The tensors of one file, in the order of their bytes; `metadata` is the header's `__metadata__`.

    ties: behind them come the names that the metadata gives to tensors once more (name left out -> name kept), as
    safetensors.torch.save_model writes and load_model reads them; extras["safetensors"]["ties"] lists them. Raises
    SourceMissing, CorruptFile, LimitExceeded, UnsupportedError (a dtype that 0.8 does not have).
    """
    rows, metadata, start = _header(path, files)
    spans, end = _tiled(path, rows)
    tensors = {
        name: Tensor(name, Leaf(path, start + begin, tuple(row.shape), row.dtype), reader) for name, row, begin in spans
    }
    size = files.size(path)
    if start + end != size:
        raise CorruptFile(
            "the data section is shorter than its tensors" if start + end > size else "bytes follow the last tensor",
            code="data-size",
            path=path,
            found=f"{size} bytes",
            allowed=f"{start + end} bytes",
            hint="the download may be incomplete; compare the size with the hub's",
        )
    tied = {name: kept for name, kept in metadata.items() if ties and kept in tensors and name not in tensors}
    tensors |= {
        name: Tensor(name, tensors[kept].expr, reader) for name, kept in tied.items() if not _CONTROL.search(name)
    }
    extras = {"safetensors": {"ties": tied}} if tied else {}
    return Model("safetensors", path, tensors, metadata=metadata, extras=extras, files=files)


def header(path: str, files: Files) -> bytes:
    """The header's text of a file that `read` has accepted."""
    length = int.from_bytes(files.read(path, 0, 8), "little")
    return files.read(path, 8, length)


def laid_out(name: str, text: bytes) -> FileLayout:
    """The file that a header's text describes, tensors in the order of their bytes. Raises CorruptFile, LimitExceeded,
    UnsupportedError."""
    spans, end = _tiled(name, _parsed(name, text)[0])
    start = 8 + len(text)
    placed = tuple(
        Placed(tensor, row.dtype, tuple(row.shape), start + begin, row.data_offsets[1] - begin)
        for tensor, row, begin in spans
    )
    return FileLayout(name, start + end, len(text).to_bytes(8, "little") + text, placed)


def _tiled(path: str, rows: list[tuple[str, _Row]]) -> tuple[list[tuple[str, _Row, int]], int]:
    """(name, entry, first byte) in the order of the bytes, and where they end. Raises where they do not tile."""
    spans = []
    end = 0
    for name, row in sorted(rows, key=lambda item: item[1].data_offsets):
        begin, stop = _span(path, name, row)
        if begin != end:
            what, code = ("tensors overlap", "overlap") if begin < end else ("bytes that belong to no tensor", "hole")
            raise CorruptFile(f"{what} in the data section", code=code, path=path, place=name, found=begin, allowed=end)
        end = stop
        spans.append((name, row, begin))
    return spans, end


def layout(
    entries: Sequence[Entry], *, metadata: Mapping[str, str], shard_size: int | None = None, stem: str = "model"
) -> tuple[list[FileLayout], bytes | None]:
    """Where everything lies in one file, or in shards of at most `shard_size` tensor bytes (a larger one stands alone).

    Returns the files and, where there are several, the text of `<stem>.safetensors.index.json`; shards are called
    `<stem>-00001-of-0000N.safetensors`, a single file has no name. Tensors keep the given order; only in a file where
    that would misalign one, they are moved (stably) to descending element size, as the reference library does.
    Metadata goes into every shard.

    Raises UsageError (a name twice, control characters), UnsupportedError (an encoding that is no dtype),
    LimitExceeded.
    """
    _check_entries(entries, metadata)
    if "/" in stem or "\\" in stem or not stem:
        raise UsageError("a stem is part of a file name", code="stem", found=stem)
    shards = _shards(entries, shard_size)
    if len(shards) == 1:
        return [_file("", shards[0], metadata)], None
    names = [f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files = [_file(name, shard, metadata) for name, shard in zip(names, shards, strict=True)]
    weights = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
    total = sum(placed.size for file in files for placed in file.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
    return files, msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n"


def _header(path: str, files: Files) -> tuple[list[tuple[str, _Row]], dict[str, str], int]:
    """The header's entries, its metadata, and where the data section begins."""
    size = files.size(path)
    if size < 10:
        raise CorruptFile(
            "too short for a safetensors file",
            code="header-cut",
            path=path,
            found=f"{size} bytes",
            allowed="at least 10",
        )
    length = int.from_bytes(files.read(path, 0, 8), "little")
    if length > HEADER_LIMIT:
        raise LimitExceeded(
            "the header is too long",
            code="header-size",
            path=path,
            place="byte 0",
            found=length,
            allowed=f"at most {HEADER_LIMIT}",
        )
    if length > size - 8:
        raise CorruptFile(
            "the header runs past the end of the file",
            code="header-cut",
            path=path,
            place="byte 0",
            found=length,
            allowed=f"at most {size - 8}",
            hint="the download may be incomplete",
        )
    rows, metadata = _parsed(path, files.read(path, 8, length))
    return rows, metadata, 8 + length


def _parsed(path: str, text: bytes) -> tuple[list[tuple[str, _Row]], dict[str, str]]:
    """The entries of a header's text, and its metadata."""
    if text[:1] != b"{":
        raise CorruptFile(
            "the header does not begin with '{'", code="header-start", path=path, place="byte 8", found=text[:1]
        )
    marks = skeleton(text)
    check_depth(marks, path=path, place="header")
    try:
        rows, metadata = _entries(path, _TOP.decode(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFile(
            "the header is not valid JSON in UTF-8", code="json", path=path, place="header", found=str(error)
        ) from None
    members = len(rows) * 4 + (1 + len(metadata) if metadata is not None else 0)
    if marks.count(b":") != members:
        raise CorruptFile(
            "a key is given twice", code="duplicate-key", path=path, place="header", found=_repeated(text)
        )
    return rows, metadata or {}


def _entries(path: str, top: dict[str, msgspec.Raw]) -> tuple[list[tuple[str, _Row]], dict[str, str] | None]:
    rows = []
    metadata = None
    for name, raw in top.items():
        try:
            if name == _METADATA:
                metadata = _STRINGS.decode(raw)
            else:
                rows.append((name, _ROW.decode(raw)))
        except msgspec.ValidationError as error:
            allowed = (
                "strings by name"
                if name == _METADATA
                else "dtype, shape (integers) and data_offsets (two integers), nothing else"
            )
            raise CorruptFile(
                "an entry of the header is malformed",
                code="header-entry",
                path=path,
                place=name,
                found=str(error),
                allowed=allowed,
            ) from None
        if _CONTROL.search(name):
            raise CorruptFile(
                "a tensor name with control characters", code="name", path=path, place="header", found=name
            )
    return rows, metadata


def _repeated(text: bytes) -> str | None:
    """The first key found twice, for an error; a name that repeats a field's is not told from it."""
    seen = {b"dtype", b"shape", b"data_offsets"}
    for match in _KEY.finditer(text):
        if match[1] in seen - {b"dtype", b"shape", b"data_offsets"}:
            return match[1].decode()
        seen.add(match[1])
    return None


def _span(path: str, name: str, row: _Row) -> tuple[int, int]:
    """A row's offsets, once they are known to fit its dtype and shape."""
    if row.dtype not in DTYPES:
        raise UnsupportedError(
            "an unknown dtype", code="dtype", path=path, place=name, found=row.dtype, allowed=" ".join(sorted(DTYPES))
        )
    if len(row.shape) > MAX_DIMS:
        raise LimitExceeded(
            "too many dimensions",
            code="dimensions",
            path=path,
            place=name,
            found=len(row.shape),
            allowed=f"at most {MAX_DIMS}",
        )
    if any(n < 0 for n in row.shape) or prod(filter(None, row.shape)) >= 1 << 60:
        raise CorruptFile(
            "an impossible shape",
            code="shape",
            path=path,
            place=name,
            found=row.shape,
            allowed="sizes from 0 on, below 2^60 elements",
        )
    begin, stop = row.data_offsets
    size = _nbytes(ENCODINGS[row.dtype], row.shape)
    if size is None:
        raise CorruptFile(
            "a tensor ends inside a byte", code="sub-byte", path=path, place=name, found=f"{row.dtype} {row.shape}"
        )
    if not 0 <= begin <= stop or stop - begin != size:
        raise CorruptFile(
            "data_offsets do not fit the shape",
            code="span-size",
            path=path,
            place=name,
            found=f"{begin} to {stop}",
            allowed=f"{size} bytes for {row.dtype} {row.shape}",
        )
    return begin, stop


def _nbytes(encoding: Encoding, shape: Iterable[int]) -> int | None:
    """Bytes of a dense tensor; None where it would end inside a byte."""
    blocks, rest = divmod(prod(shape), encoding.block_elements)
    return None if rest else blocks * encoding.block_bytes


def _check_entries(entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    def refuse(message: str, code: str, name: object, found: object = None) -> NoReturn:
        raise UsageError(message, code=code, place=name, found=found)

    names = set()
    for entry in entries:
        if entry.encoding not in DTYPES:
            raise UnsupportedError(
                "safetensors has no dtype for this encoding",
                code="dtype",
                place=entry.name,
                found=entry.encoding,
                allowed=" ".join(sorted(DTYPES)),
                hint="quantized types live in GGUF, or unpacked into several tensors",
            )
        if entry.name in names:
            refuse("a tensor name is given twice", "duplicate-key", entry.name)
        if entry.name == _METADATA or _CONTROL.search(entry.name) or not _encodable(entry.name):
            refuse("not a tensor name", "name", entry.name)
        if any(n < 0 for n in entry.shape) or _nbytes(ENCODINGS[entry.encoding], entry.shape) is None:
            refuse("a shape that cannot be stored", "shape", entry.name, entry.shape)
        names.add(entry.name)
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or not _encodable(key + value):
            refuse("metadata of safetensors is text", "metadata", key, value)


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _shards(entries: Sequence[Entry], limit: int | None) -> list[list[Entry]]:
    if limit is not None and limit <= 0:
        raise UsageError("a shard size is positive", code="shard-size", found=limit)
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        size = _size(entry)
        if limit is not None and shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += size
    return shards


def _size(entry: Entry) -> int:
    size = _nbytes(ENCODINGS[entry.encoding], entry.shape)
    assert size is not None, "checked by _check_entries"
    return size


def _alignment(entry: Entry) -> int:
    row = ENCODINGS[entry.encoding]
    return row.block_bytes if row.block_elements == 1 else 1


def _file(name: str, entries: list[Entry], metadata: Mapping[str, str]) -> FileLayout:
    at = 0
    for entry in entries:
        if at % _alignment(entry):
            entries = sorted(entries, key=_alignment, reverse=True)
            break
        at += _size(entry)
    rows: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begins = []
    at = 0
    for entry in entries:
        begins.append(at)
        at += _size(entry)
        rows[entry.name] = {"dtype": entry.encoding, "shape": entry.shape, "data_offsets": (begins[-1], at)}
    text = msgspec.json.encode(rows)
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise LimitExceeded(
            "the header would be too long",
            code="header-size",
            found=len(text),
            allowed=f"at most {HEADER_LIMIT}",
            hint="write shards",
        )
    header = len(text).to_bytes(8, "little") + text
    placed = tuple(
        Placed(entry.name, entry.encoding, tuple(entry.shape), len(header) + begin, _size(entry))
        for entry, begin in zip(entries, begins, strict=True)
    )
    return FileLayout(name, len(header) + at, header, placed)
