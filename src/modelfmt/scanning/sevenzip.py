"""What lies in a 7z archive, for looking at: names and contents, decompressed with Python's lzma, bz2 and zlib.

Source: 7zFormat.txt and Methods.txt of the LZMA SDK 24. Read: headers plain and packed, folders of one chain of Copy,
LZMA, LZMA2, Delta, BCJ (x86), Deflate and BZip2, solid or not. Not read: encryption, PPMd, BCJ2, archives in several
volumes; sums of contents are not checked, since an unpickler's archive reader need not either.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import INFLATED_LIMIT

__all__ = ["MAGIC", "members"]

MAGIC = b"7z\xbc\xaf\x27\x1c"
HEADER_LIMIT = 16 << 20
MAX_ITEMS = 4096
_START = 32
# ids of the header's parts
_END, _HEADER, _STREAMS, _FILES, _PACK, _UNPACK, _SUBSTREAMS = 0, 1, 4, 5, 6, 7, 8
_SIZE, _CRC, _FOLDER, _UNPACK_SIZE, _COUNT, _EMPTY, _NAMES, _PACKED_HEADER = 9, 10, 11, 12, 13, 14, 17, 23


class _Folder(msgspec.Struct):
    """A chain of coders, the first decodes what was packed. streams: sizes of the files in it."""

    coders: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    sizes: list[int] = msgspec.field(default_factory=list)
    has_crc: bool = False
    streams: list[int] = msgspec.field(default_factory=list)


class _Streams(msgspec.Struct):
    """Where packed streams lie, behind the start header, and the folders that they are."""

    offset: int = 0
    packed: list[int] = msgspec.field(default_factory=list)
    folders: list[_Folder] = msgspec.field(default_factory=list)


def members(region: Region) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that is not empty. Raises CorruptFile, LimitExceeded, UnsupportedError."""
    start = region.read(0, _START)
    offset, size = int.from_bytes(start[12:20], "little"), int.from_bytes(start[20:28], "little")
    if size > HEADER_LIMIT:
        raise LimitExceeded("the header is too long", code="7z-header", path=region.path, found=size)
    header = _Bytes(region.read(_START + offset, size) if size else b"\1\0", region)
    kind = header.byte()
    for _ in range(4):
        if kind != _PACKED_HEADER:
            break
        streams = _streams(header)
        if len(streams.folders) != 1:
            header.broken("a header in several folders")
        header = _Bytes(_unpacked(region, streams, 0, HEADER_LIMIT), region)
        kind = header.byte()
    if kind != _HEADER:
        header.broken("no header")
    streams, names = _contents(header)
    number = total = 0
    for index, folder in enumerate(streams.folders):
        data = _unpacked(region, streams, index, INFLATED_LIMIT)
        total += len(data)
        if total > INFLATED_LIMIT:
            raise LimitExceeded("the archive is too long to be looked at", code="7z-size", path=region.path)
        at = 0
        for size in folder.streams:
            yield names[number] if number < len(names) else f"file {number}", data[at : at + size]
            at += size
            number += 1


class _Bytes:
    """A cursor over a header; every number is checked against what is left."""

    def __init__(self, data: bytes, region: Region) -> None:
        self.data = data
        self.at = 0
        self.region = region

    def broken(self, message: str, found: object = None) -> Any:
        raise CorruptFile(
            f"a damaged 7z archive: {message}", code="7z-header", path=self.region.path, place=f"header byte {self.at}",
            found=found,
        )  # fmt: skip

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            self.broken("the header ends early", size)
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """A number whose first byte says how many follow."""
        first, mask, value = self.byte(), 0x80, 0
        for index in range(8):
            if not first & mask:
                return value | (first & (mask - 1)) << (8 * index)
            value |= self.byte() << (8 * index)
            mask >>= 1
        return value

    def count(self) -> int:
        found = self.number()
        if found > MAX_ITEMS:
            raise LimitExceeded("too many parts", code="7z-count", path=self.region.path, found=found)
        return found

    def bits(self, count: int) -> list[bool]:
        data = self.take(-(-count // 8))
        return [bool(data[i // 8] & 0x80 >> i % 8) for i in range(count)]

    def defined(self, count: int) -> list[bool]:
        return [True] * count if self.byte() else self.bits(count)

    def skip_sums(self, count: int) -> list[bool]:
        known = self.defined(count)
        self.take(4 * sum(known))
        return known

    def expect(self, kind: int) -> None:
        if (found := self.byte()) != kind:
            self.broken(f"part {kind} is missing", found)


def _contents(header: _Bytes) -> tuple[_Streams, list[str]]:
    streams, names, kind = _Streams(), [], header.byte()
    if kind == 2:
        header.broken("archive properties")
    if kind == _STREAMS:
        streams, kind = _streams(header), header.byte()
    if kind == _FILES:
        count, empty = header.count(), []
        while (kind := header.number()) != _END:
            part = _Bytes(header.take(header.number()), header.region)
            if kind == _EMPTY:
                empty = part.bits(count)
            elif kind == _NAMES and part.byte() == 0:
                names = part.data[1:].decode("utf-16-le", "replace").split("\0")[:count]
        names = [name for i, name in enumerate(names) if not (i < len(empty) and empty[i])]
    return streams, names


def _streams(header: _Bytes) -> _Streams:
    """PackInfo, UnpackInfo and SubStreamsInfo."""
    found, kind = _Streams(), header.byte()
    if kind == _PACK:
        found.offset, count = header.number(), header.count()
        while (kind := header.byte()) != _END:
            if kind == _SIZE:
                found.packed = [header.number() for _ in range(count)]
            elif kind == _CRC:
                header.skip_sums(count)
            else:
                header.broken("an unknown part", kind)
        kind = header.byte()
    if kind == _UNPACK:
        header.expect(_FOLDER)
        count = header.count()
        if header.byte():
            header.broken("folders in another stream")
        found.folders = [_folder(header) for _ in range(count)]
        header.expect(_UNPACK_SIZE)
        for folder in found.folders:
            folder.sizes = [header.number() for _ in folder.coders]
            folder.streams = folder.sizes[-1:]
        while (kind := header.byte()) != _END:
            if kind != _CRC:
                header.broken("an unknown part", kind)
            for folder, known in zip(found.folders, header.skip_sums(count), strict=True):
                folder.has_crc = known
        kind = header.byte()
    if kind == _SUBSTREAMS:
        _substreams(header, found.folders)
        kind = header.byte()
    if kind != _END:
        header.broken("an unknown part", kind)
    return found


def _folder(header: _Bytes) -> _Folder:
    """Coders with one input and one output each; they are bound in the reverse order of decoding."""
    count = header.count()
    coders = []
    for _ in range(count):
        flags = header.byte()
        method = header.take(flags & 15)
        if flags & 0x10:
            raise UnsupportedError("a 7z coder of several streams", code="7z-method", path=header.region.path)
        coders.append((method, header.take(header.count()) if flags & 0x20 else b""))
    binds = [(header.number(), header.number()) for _ in range(count - 1)]
    into = {out: inside for inside, out in binds}
    order: list[int] = []
    at = next((i for i in range(count) if i not in dict(binds)), 0)
    while len(order) < count and at not in order and 0 <= at < count:
        order.append(at)
        at = into.get(at, -1)
    if len(order) != count:
        header.broken("coders that are no chain", binds)
    return _Folder([coders[i] for i in order])


def _substreams(header: _Bytes, folders: list[_Folder]) -> None:
    counts, kind = [1] * len(folders), header.byte()
    if kind == _COUNT:
        counts, kind = [header.count() for _ in folders], header.byte()
    sizes = [[header.number() for _ in range(n - 1)] if kind == _SIZE else [] for n in counts]
    if kind == _SIZE:
        kind = header.byte()
    for folder, n, told in zip(folders, counts, sizes, strict=True):
        rest = (folder.sizes[-1] if folder.sizes else 0) - sum(told)
        if rest < 0 or (n > 1 and len(told) != n - 1):
            header.broken("files that are larger than their folder", told)
        folder.streams = [*told, rest] if n else []
    while kind != _END:
        if kind != _CRC:
            header.broken("an unknown part", kind)
        header.skip_sums(sum(n for f, n in zip(folders, counts, strict=True) if not (n == 1 and f.has_crc)))
        kind = header.byte()


# --- coders


def _unpacked(region: Region, streams: _Streams, index: int, limit: int) -> bytes:
    """The content of a folder, decoded."""
    folder = streams.folders[index]
    if index >= len(streams.packed) or not folder.sizes:
        raise CorruptFile("a damaged 7z archive: a folder without a stream", code="7z-header", path=region.path)
    if max(folder.sizes) > limit:
        raise LimitExceeded("the archive is too long to be looked at", code="7z-size", path=region.path)
    data = region.read(_START + streams.offset + sum(streams.packed[:index]), streams.packed[index])
    chain: list[dict[str, Any]] = []
    size = folder.sizes[-1]
    for method, properties in folder.coders:
        step = _filter(region, method, properties)
        if step is not None:
            chain.insert(0, step)
            continue
        if method not in (b"\0", b"\4\1\x08", b"\4\2\2") or chain:
            raise UnsupportedError(
                "a 7z archive that is encrypted or packed in an unusual way",
                code="7z-method",
                path=region.path,
                found=method.hex(),
            )
        try:
            if method == b"\4\1\x08":
                data = zlib.decompressobj(-15).decompress(data, limit)
            elif method == b"\4\2\2":
                data = bz2.BZ2Decompressor().decompress(data, limit)
        except (OSError, zlib.error) as error:
            raise CorruptFile("a damaged 7z archive", code="7z-data", path=region.path, found=str(error)) from None
    if not chain:
        return data[:size]
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain).decompress(data, size)
    except (lzma.LZMAError, ValueError, EOFError) as error:
        raise CorruptFile("a damaged 7z archive", code="7z-data", path=region.path, found=str(error)) from None


def _filter(region: Region, method: bytes, properties: bytes) -> dict[str, Any] | None:
    """A coder as a filter of lzma; None for others."""
    if method == b"\3\1\1" and len(properties) == 5 and properties[0] < 225:
        first, memory = properties[0], int.from_bytes(properties[1:], "little")
        kind = {"id": lzma.FILTER_LZMA1, "lc": first % 9, "lp": first // 9 % 5, "pb": first // 45}
    elif method == b"\x21" and len(properties) == 1 and properties[0] <= 40:
        memory = (2 | properties[0] & 1) << (properties[0] // 2 + 11)
        kind = {"id": lzma.FILTER_LZMA2}
    elif method in (b"\3\3\1\3", b"\4"):
        return {"id": lzma.FILTER_X86}
    elif method == b"\3" and len(properties) == 1:
        return {"id": lzma.FILTER_DELTA, "dist": properties[0] + 1}
    else:
        return None
    if memory > INFLATED_LIMIT:
        raise LimitExceeded("a dictionary that is too large", code="7z-size", path=region.path, found=memory)
    return kind | {"dict_size": max(memory, 4096)}
