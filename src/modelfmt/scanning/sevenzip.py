"""The members of a 7z archive, enough to look into them: copied, LZMA, LZMA2 (also behind a branch filter), deflate,
bzip2.

Source: 7-Zip's DOC/7zFormat.txt. Every count and length is checked against the header; what is not understood (other
chains, encryption, several volumes) is an UnsupportedError, and the archive is then not looked into.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.storage.region import Region

__all__ = ["MAGIC", "members"]

MAGIC = b"7z\xbc\xaf\x27\x1c"
MAX_HEADER = 16 << 20
MAX_COUNT = 65_536
MAX_OUTPUT = 256 << 20
_START = 32
(_END, _HEADER, _PROPERTIES, _STREAMS, _FILES, _PACK, _UNPACK, _SUBSTREAMS, _SIZE, _CRC, _FOLDER, _UNPACK_SIZE, _COUNTS,
 _EMPTY, _NAMES, _ENCODED) = (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 23)  # fmt: skip


@dataclass
class _Folder:
    """coder, properties: what its bytes are packed with; branch: a filter for machine code was applied before. at,
    packed: where its input lies; size: of its output; parts: sizes of the files."""

    coder: bytes
    properties: bytes
    branch: bool = False
    at: int = 0
    packed: int = 0
    size: int = 0
    parts: list[int] | None = None


def members(region: Region) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file. Raises CorruptFile, LimitExceeded, UnsupportedError."""
    head = region.read(0, _START)
    offset, size = (int.from_bytes(head[at : at + 8], "little") for at in (12, 20))
    reader = _Reader(region, _read(region, _START + offset, size, MAX_HEADER))
    kind = reader.byte()
    for _ in range(4):
        if kind != _ENCODED:
            break
        folders = reader.streams()
        if len(folders) != 1:
            raise reader.corrupt("an encoded header of several parts")
        reader = _Reader(region, _decoded(region, folders[0], MAX_HEADER))
        kind = reader.byte()
    if kind != _HEADER:
        raise reader.corrupt("no header")
    folders, names = reader.header()
    at = 0
    for folder in folders:
        data = _decoded(region, folder, MAX_OUTPUT)
        begin = 0
        for part in folder.parts if folder.parts is not None else [folder.size]:
            yield (names[at] if at < len(names) else f"#{at}"), data[begin : begin + part]
            begin += part
            at += 1


def _read(region: Region, at: int, size: int, at_most: int) -> bytes:
    if size > at_most:
        raise LimitExceeded("a part of a 7z archive is too long", code="7z-size", path=region.path, found=size)
    return region.read(at, size)


def _raw(folder: _Folder, last: dict[str, int]) -> Any:
    filters = [{"id": lzma.FILTER_X86}, last] if folder.branch else [last]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def _lzma(folder: _Folder) -> Any:
    if len(folder.properties) != 5 or folder.properties[0] >= 225:
        raise ValueError("properties that are none")
    pair, lc = divmod(folder.properties[0], 9)
    pb, lp = divmod(pair, 5)
    size = min(int.from_bytes(folder.properties[1:], "little"), MAX_OUTPUT)
    return _raw(folder, {"id": lzma.FILTER_LZMA1, "dict_size": max(size, 4096), "lc": lc, "lp": lp, "pb": pb})


def _lzma2(folder: _Folder) -> Any:
    bits = folder.properties[0] if folder.properties else 0
    if bits > 32:
        raise ValueError("a dictionary that is too large")
    return _raw(folder, {"id": lzma.FILTER_LZMA2, "dict_size": (2 | bits & 1) << (bits // 2 + 11)})


_CODERS: dict[bytes, Callable[[_Folder], Any] | None] = {
    b"\0": None,
    b"\x03\x01\x01": _lzma,
    b"\x21": _lzma2,
    b"\x04\x01\x08": lambda _: zlib.decompressobj(-15),
    b"\x04\x02\x02": lambda _: bz2.BZ2Decompressor(),
}
"""Id of a coder -> its decoder; None: copied."""
_BRANCHES = frozenset({b"\x03\x03\x01\x03", b"\x04"})
_FILTERED = frozenset({b"\x03\x01\x01", b"\x21"})


def _decoded(region: Region, folder: _Folder, at_most: int) -> bytes:
    if folder.coder not in _CODERS:
        raise UnsupportedError(
            "a coder of 7z that is not read", code="7z-coder", path=region.path, found=folder.coder.hex()
        )
    if folder.size > at_most:
        raise LimitExceeded("a part of a 7z archive is too long", code="7z-size", path=region.path, found=folder.size)
    raw = _read(region, _START + folder.at, folder.packed, MAX_OUTPUT)
    make = _CODERS[folder.coder]
    if make is None:
        return raw
    try:
        data: bytes = make(folder).decompress(raw, folder.size)
    except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, MemoryError) as error:
        raise CorruptFile(
            "a part of a 7z archive is damaged", code="7z-damaged", path=region.path, found=str(error)
        ) from None
    return data


class _Reader:
    """A header in memory, and how far it has been read."""

    def __init__(self, region: Region, data: bytes) -> None:
        self.region = region
        self.data = data
        self.at = 0

    def corrupt(self, message: str) -> CorruptFile:
        return CorruptFile(f"a broken 7z header: {message}", code="7z-header", path=self.region.path, place=self.at)

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise self.corrupt("it is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """As many bytes follow as the first has leading ones; its other bits are the highest."""
        first = self.byte()
        extra = 0
        while extra < 8 and first & 0x80 >> extra:
            extra += 1
        low = int.from_bytes(self.take(extra), "little")
        return low | (first & (0x7F >> extra)) << 8 * extra if extra < 8 else low

    def count(self) -> int:
        found = self.number()
        if found > MAX_COUNT:
            raise self.corrupt("a count that is too large")
        return found

    def bits(self, count: int) -> list[bool]:
        raw = self.take(-(-count // 8))
        return [bool(raw[i // 8] & 0x80 >> i % 8) for i in range(count)]

    def digests(self, count: int) -> None:
        defined = count if self.byte() else sum(self.bits(count))
        self.take(4 * defined)

    def header(self) -> tuple[list[_Folder], list[str]]:
        folders: list[_Folder] = []
        names: list[str] = []
        while (kind := self.byte()) != _END:
            if kind == _STREAMS:
                folders = self.streams()
            elif kind == _FILES:
                names = self.files()
            else:
                raise self.corrupt(f"an unknown part {kind}")
        return folders, names

    def streams(self) -> list[_Folder]:
        base, sizes, folders = 0, [0], []
        while (kind := self.byte()) != _END:
            if kind == _PACK:
                base, sizes = self.pack()
            elif kind == _UNPACK:
                folders = self.folders()
            elif kind == _SUBSTREAMS:
                self.substreams(folders)
            else:
                raise self.corrupt(f"an unknown part {kind}")
        if len(sizes) < len(folders):
            raise self.corrupt("folders without their input")
        for folder, size in zip(folders, sizes, strict=False):
            folder.at, folder.packed = base, size
            base += size
        return folders

    def pack(self) -> tuple[int, list[int]]:
        base, count, sizes = self.number(), self.count(), []
        while (kind := self.byte()) != _END:
            if kind == _SIZE:
                sizes = [self.number() for _ in range(count)]
            elif kind == _CRC:
                self.digests(count)
            else:
                raise self.corrupt(f"an unknown part {kind}")
        return base, sizes

    def folders(self) -> list[_Folder]:
        found: list[_Folder] = []
        while (kind := self.byte()) != _END:
            if kind == _FOLDER:
                count = self.count()
                if self.byte():
                    raise self.corrupt("folders that lie elsewhere")
                found = [self.folder() for _ in range(count)]
            elif kind == _UNPACK_SIZE:
                for folder in found:
                    folder.size = max(self.number() for _ in range(2 if folder.branch else 1))
            elif kind == _CRC:
                self.digests(len(found))
            else:
                raise self.corrupt(f"an unknown part {kind}")
        return found

    def folder(self) -> _Folder:
        coders = [self.coder() for _ in range(self.count())]
        for _ in coders[1:]:
            self.number(), self.number()  # which output is which input: two coders have one way
        others = [coder for coder in coders if coder[0] not in _BRANCHES]
        if len(others) != 1 or len(coders) > 2 or (len(coders) == 2 and others[0][0] not in _FILTERED):
            raise UnsupportedError("a chain of filters in a 7z archive", code="7z-coder", path=self.region.path)
        return _Folder(*others[0], branch=len(coders) == 2)

    def coder(self) -> tuple[bytes, bytes]:
        flags = self.byte()
        coder = self.take(flags & 15)
        if flags & 0xD0:
            raise UnsupportedError("a coder of several streams", code="7z-coder", path=self.region.path)
        return coder, self.take(self.number()) if flags & 0x20 else b""

    def substreams(self, folders: list[_Folder]) -> None:
        counts = [1] * len(folders)
        kind = self.byte()
        if kind == _COUNTS:
            counts = [self.count() for _ in folders]
            kind = self.byte()
        if sum(counts) > MAX_COUNT:
            raise self.corrupt("too many files")
        for folder, count in zip(folders, counts, strict=True):
            sizes = [self.number() for _ in range(count - 1)] if kind == _SIZE else []
            folder.parts = [*sizes, folder.size - sum(sizes)] if count else []
        if kind == _SIZE:
            kind = self.byte()
        while kind != _END:
            if kind != _CRC:
                raise self.corrupt(f"an unknown part {kind}")
            self.digests(sum(counts))
            kind = self.byte()

    def files(self) -> list[str]:
        """Names of the files that have content, in the order of their contents."""
        count = self.count()
        names: list[str] = []
        empty = [False] * count
        while (kind := self.byte()) != _END:
            inner = _Reader(self.region, self.take(self.number()))
            if kind == _NAMES and not inner.byte():
                names = inner.data[1:].decode("utf-16-le", "replace").split("\0")[:count]
            elif kind == _EMPTY:
                empty = inner.bits(count)
        return [name for name, is_empty in zip(names, empty, strict=False) if not is_empty]
