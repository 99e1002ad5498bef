"""llama.cpp's legacy importance matrix (.dat): per tensor, the mean square of every input column, times a count.

Little-endian, no magic: i32 number of entries; for each i32 name length, name, i32 calls, i32 number of values, f32
values; then, in newer files, i32 number of chunks and, in most of them, i32 length and name of the text it was
computed from. Values are `mean of squares * calls`; matrices of experts lie one after another, uncounted.
Source: common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp of llama.cpp. The GGUF form is read by the GGUF format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, UsageError
from modelfmt.storage.files import Files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DatImatrix", "DatValues", "open_dat", "pieces", "read_dat", "write_dat"]

MAX_NAME = 1 << 12
MAX_DATASET = 1 << 16
_LEAST_ENTRY = 4 + 1 + 4 + 4 + 4
_INT32_MAX = (1 << 31) - 1


class DatValues(msgspec.Struct, frozen=True):
    """The values of one entry, float32 [n_values], read when asked for (`np.asarray`)."""

    files: Files
    path: str
    offset: int
    shape: tuple[int]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        import numpy as np

        data = self.files.read(self.path, self.offset, 4 * self.shape[0])
        return np.frombuffer(data, "<f4").astype(dtype or np.float32)


class DatImatrix(msgspec.Struct, frozen=True):
    """What a .dat file holds. entries: name -> (values float32 [n_values], calls). chunk_count: None in older files."""

    entries: Mapping[str, tuple[Any, int]]
    chunk_count: int | None = None
    dataset: str | None = None


class _Cursor:
    def __init__(self, files: Files, name: str, path: str | None) -> None:
        self.files, self.name, self.path, self.at = files, name, path, 0
        self.size = files.size(name)

    @property
    def left(self) -> int:
        return self.size - self.at

    def skip(self, size: int, what: str) -> int:
        """Move on; the place where the bytes begin."""
        if size > self.left:
            raise CorruptFile(
                f"the file ends in {what}",
                code="cut-off",
                path=self.path,
                place=f"byte {self.at}",
                found=f"{self.left} bytes",
                allowed=f"{size} bytes",
                hint="the download may be incomplete",
            )
        self.at += size
        return self.at - size

    def take(self, size: int, what: str) -> bytes:
        return self.files.read(self.name, self.skip(size, what), size)

    def number(self, what: str, *, least: int, at_most: int = _INT32_MAX) -> int:
        place = f"byte {self.at}"
        value = int.from_bytes(self.take(4, what), "little", signed=True)
        if value < least:
            raise CorruptFile(
                f"{what} is too small", code="count", path=self.path, place=place, found=value, allowed=least
            )
        if value > at_most:
            raise LimitExceeded(f"{what} is too large", path=self.path, place=place, found=value, allowed=at_most)
        return value

    def text(self, size: int, what: str) -> str:
        place = f"byte {self.at}"
        raw = self.take(size, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise CorruptFile(f"{what} is no text", code="bad-text", path=self.path, place=place, found=raw[:64])
        return text


def read_dat(data: bytes | memoryview, path: str | None = None) -> DatImatrix:
    """Read the bytes of a .dat file. path: for error messages.

    Raises CorruptFile (cut off, counts, names, a name twice, bytes left over), LimitExceeded (lengths of names).

    >>> import numpy as np
    >>> written = write_dat({"blk.0.attn_q.weight": (np.ones(4, "f4"), 2)}, chunk_count=2, dataset="wiki.txt")
    >>> found = read_dat(written)
    >>> found.entries["blk.0.attn_q.weight"][0].tolist(), found.chunk_count, found.dataset
    ([1.0, 1.0, 1.0, 1.0], 2, 'wiki.txt')
    """
    import numpy as np

    files = Files()
    found = _read(_Cursor(files, files.register("<dat>", data), path))
    entries = {name: (np.asarray(values), calls) for name, (values, calls) in found.entries.items()}
    return DatImatrix(entries, found.chunk_count, found.dataset)


def open_dat(path: str, files: Files) -> DatImatrix:
    """The same of a file; values are read when asked for."""
    return _read(_Cursor(files, path, path))


def _read(cursor: _Cursor) -> DatImatrix:
    path = cursor.path
    n_entries = cursor.number("the number of entries", least=1)
    if n_entries > cursor.left // _LEAST_ENTRY:
        raise CorruptFile(
            "more entries than the file has room for",
            code="count",
            path=path,
            place="byte 0",
            found=n_entries,
            allowed=f"at most {cursor.left // _LEAST_ENTRY}",
            hint="it may be no importance matrix",
        )
    entries: dict[str, tuple[DatValues, int]] = {}
    for _ in range(n_entries):
        name = cursor.text(cursor.number("the length of a name", least=1, at_most=MAX_NAME), "a name")
        if name in entries:
            raise CorruptFile("an entry is there twice", code="duplicate-entry", path=path, place=name)
        calls = cursor.number(f"the calls of {name}", least=-_INT32_MAX - 1)
        n_values = cursor.number(f"the number of values of {name}", least=1)
        offset = cursor.skip(4 * n_values, f"the values of {name}")
        entries[name] = (DatValues(cursor.files, cursor.name, offset, (n_values,)), calls)
    chunk_count = dataset = None
    if cursor.left:
        chunk_count = cursor.number("the number of chunks", least=-_INT32_MAX - 1)
    if cursor.left:
        size = cursor.number("the length of the dataset's name", least=0, at_most=MAX_DATASET)
        dataset = cursor.text(size, "the dataset's name") or None
    if cursor.left:
        raise CorruptFile(
            "bytes after the end",
            code="bytes-left-over",
            path=path,
            place=f"byte {cursor.at}",
            found=f"{cursor.left} bytes",
        )
    return DatImatrix(entries, chunk_count, dataset)


def write_dat(
    entries: Mapping[str, tuple[NDArray[np.float32], int]],
    *,
    chunk_count: int | None = None,
    dataset: str | None = None,
) -> bytes:
    """The bytes of a .dat file, entries in the order given.

    entries: name -> (mean of squares * calls, float32 of any shape, calls). A dataset is written after a chunk count
    only. Raises UsageError (no entries, a name that does not fit, a number beyond 32 bits).
    """
    rows = ((name, values, calls) for name, (values, calls) in entries.items())
    return b"".join(pieces(rows, len(entries), chunk_count=chunk_count, dataset=dataset))


def pieces(
    entries: Iterable[tuple[str, NDArray[np.float32], int]],
    n_entries: int,
    *,
    chunk_count: int | None = None,
    dataset: str | None = None,
) -> Iterator[bytes]:
    """The same piece by piece, of n_entries entries (name, values, calls) that are taken one after another."""
    import numpy as np

    if not n_entries:
        raise UsageError("an importance matrix without entries", code="no-entries")
    yield _int32(n_entries, "the number of entries")
    for name, values, calls in entries:
        raw = name.encode()
        if not 0 < len(raw) <= MAX_NAME or b"\0" in raw:
            raise UsageError("not a name for an entry", code="bad-name", found=name, allowed=f"1 to {MAX_NAME} bytes")
        stored = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        yield _int32(len(raw), "a name's length") + raw
        yield _int32(calls, "calls") + _int32(stored.size, "the number of values") + stored.tobytes()
    if chunk_count is not None:
        raw = (dataset or "").encode()
        yield _int32(chunk_count, "the number of chunks")
        yield _int32(len(raw), "the length of the dataset's name") + raw


def _int32(value: int, what: str) -> bytes:
    try:
        return int(value).to_bytes(4, "little", signed=True)
    except OverflowError:
        raise UsageError(f"{what} does not fit into 32 bits", code="too-large", found=value) from None
