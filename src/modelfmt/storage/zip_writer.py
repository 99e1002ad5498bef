"""Lays a zip archive out: stored members, their contents aligned to 64 bytes, zip64 where needed.

Source: PKWARE's APPNOTE 6.3; the padding is what caffe2/serialize/inline_container.cc writes. Contents that come later
are places in the layout; their checksums are filled in once the data is there.
"""

from __future__ import annotations

import struct
import zlib

from modelfmt.ir.layout import Checksum, FileLayout, Placed

__all__ = ["ALIGNMENT", "ZipWriter"]

ALIGNMENT = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_UTF8 = 0x0800
_DATE = 0x21  # 1 January 1980, the earliest there is
_WIDE = 0xFFFFFFFF


class ZipWriter:
    """A zip archive as it grows: bytes with their offsets, members for the directory, checksums still to come."""

    def __init__(self, prefix: str = "") -> None:
        """prefix: of every member's name."""
        self.prefix = prefix
        self.at = 0
        self.pieces: list[tuple[int, bytearray]] = []
        self.members: list[tuple[bytes, int, int, int]] = []  # name, crc, size, offset
        self.later: list[tuple[int, int, int, int]] = []  # member, data offset, size, place in its local header

    def small(self, name: str, data: bytes) -> None:
        """A member whose content is known."""
        self._header(name, zlib.crc32(data), len(data))
        self._put(data)

    def large(self, name: str, size: int, head: bytes = b"") -> int:
        """A member whose content comes later, behind a head that is known; returns where what comes later lies."""
        header = self.at
        whole = len(head) + size
        self._header(name, 0 if size else zlib.crc32(head), whole)
        begin = self.at
        if head:
            self._put(head)
        if size:
            self.later.append((len(self.members) - 1, begin, whole, header + 14))
        self.at += size
        return begin + len(head)

    def _put(self, data: bytes) -> None:
        if self.pieces and self.pieces[-1][0] + len(self.pieces[-1][1]) == self.at:
            self.pieces[-1][1].extend(data)
        else:
            self.pieces.append((self.at, bytearray(data)))
        self.at += len(data)

    def _header(self, name: str, crc: int, size: int) -> None:
        """A local header, padded so that the data behind it is aligned."""
        raw = f"{self.prefix}{name}".encode()
        wide = size >= _WIDE
        extra = struct.pack("<2H2Q", 1, 16, size, size) if wide else b""
        unpadded = self.at + _LOCAL.size + len(raw) + len(extra) + 4
        padding = -unpadded % ALIGNMENT
        extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
        short = _WIDE if wide else size
        self.members.append((raw, crc, size, self.at))
        version = 45 if wide else 20
        self._put(_LOCAL.pack(b"PK\3\4", version, _UTF8, 0, 0, _DATE, crc, short, short, len(raw), len(extra)))
        self._put(raw + extra)

    def finish(self, placed: tuple[Placed, ...]) -> FileLayout:
        """The directory, and the whole as a layout."""
        start = self.at
        places = []
        for raw, crc, size, offset in self.members:
            numbers = [size, size] if size >= _WIDE else []
            numbers += [offset] if offset >= _WIDE else []
            extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
            places.append(self.at + 16)
            version = 45 if numbers else 20
            row = (version, version, _UTF8, 0, 0, _DATE, crc, min(size, _WIDE), min(size, _WIDE), len(raw), len(extra))
            self._put(_CENTRAL.pack(b"PK\1\2", *row, 0, 0, 0, 0, min(offset, _WIDE)) + raw + extra)
        self._end(start, self.at - start)
        checksums = tuple(Checksum(begin, size, (local, places[i])) for i, begin, size, local in self.later)
        (_, header), *rest = ((at, bytes(data)) for at, data in self.pieces)
        return FileLayout("", self.at, header, placed, tuple(rest), checksums)

    def _end(self, start: int, size: int) -> None:
        count = len(self.members)
        if count >= 0xFFFF or start >= _WIDE or size >= _WIDE:
            end = self.at
            self._put(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
            self._put(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        short = min(count, 0xFFFF)
        self._put(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, short, short, min(size, _WIDE), min(start, _WIDE), 0))
