"""The members of a zip archive, from its central directory, each checked against its own header.

Source: PKWARE's APPNOTE 6.3 (4.3.6 to 4.3.16, 4.5.3). Stricter than zipfile: an archive that two readers could read in
two ways is refused (names given twice, headers that disagree, members that overlap, bytes before the first member or
behind the directory). Stored and deflated members; no encryption, no spanning of disks.
"""

from __future__ import annotations

import struct
import zlib
from typing import NoReturn

import msgspec
from msgspec.structs import replace

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.storage.inflated import Inflated
from modelfmt.storage.region import Region

__all__ = ["Archive", "Member"]

MAX_MEMBERS = 1_000_000
MAX_DIRECTORY = 256 << 20
INFLATED_LIMIT = 256 << 20
"""Bytes that one deflated member may become in memory."""
MAX_DEFLATION = 1100
"""More than deflate can shrink anything: 258 bytes in two bits."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENCRYPTED = 0x0041  # traditional and strong encryption
_DESCRIPTOR = 0x0008
_STORED, _DEFLATED = 0, 8
_MAX_COMMENT = 65535
_CHUNK = 1 << 20


class Member(msgspec.Struct, frozen=True):
    """One file of an archive. offset: where its bytes begin; stored_size: how many; size: once inflated."""

    name: str
    method: int
    flags: int
    crc: int
    stored_size: int
    size: int
    header_offset: int
    offset: int = 0

    @property
    def stored(self) -> bool:
        """True where the bytes lie in the archive as they are."""
        return self.method == _STORED


class Archive:
    """A zip archive in a region of a file.

    members: by name, in the order of the directory. comment: what follows the directory.
    """

    def __init__(self, region: Region) -> None:
        """Read the directory. Raises CorruptFile, LimitExceeded, UnsupportedError."""
        self.region = region
        count, size, offset, end, self.comment = _find_end(region)
        self.members: dict[str, Member] = {}
        for member, raw_name in _directory(region, count, size, offset):
            if member.name in self.members:
                _refuse(region, "a name is given twice", "zip-duplicate", member.header_offset, member.name)
            self.members[member.name] = _located(region, member, raw_name)
        _check_spans(region, list(self.members.values()), offset, size, end)

    def data(self, name: str, *, at_most: int = INFLATED_LIMIT) -> bytes:
        """The content of a member in memory, its checksum verified (a checksum of 0 counts as none, as torch writes).

        Raises CorruptFile, LimitExceeded.
        """
        member = self.members[name]
        if member.size > at_most:
            raise LimitExceeded(
                "a member of the archive is too long",
                code="zip-member-size",
                path=self.region.path,
                place=name,
                found=member.size,
                allowed=f"at most {at_most} bytes",
            )
        raw = self.region.read(member.offset, member.stored_size)
        if not member.stored:
            raw = _inflate(raw, member, self.region)
        if member.crc and zlib.crc32(raw) != member.crc:
            _refuse(self.region, "the checksum does not fit the data", "zip-crc", member.offset, name)
        return raw

    def check(self, name: str) -> None:
        """Read a stored member through and compare its checksum. Raises CorruptFile."""
        member = self.members[name]
        found = 0
        for at in range(0, member.stored_size, _CHUNK):
            found = zlib.crc32(self.region.read(member.offset + at, min(_CHUNK, member.stored_size - at)), found)
        if member.crc and found != member.crc:
            _refuse(self.region, "the checksum does not fit the data", "zip-crc", member.offset, name)

    def place(self, name: str) -> Region:
        """Where the content of a member lies; a deflated one is inflated into memory first."""
        member = self.members[name]
        if member.stored:
            return self.region.part(member.offset, member.size)
        files = self.region.files
        key = f"{self.region.path}!/{name}"
        return Region.whole(files.register(key, self.data(name)), files)

    def stream(self, name: str) -> Region:
        """Where the content of a member lies; a deflated one is inflated while it is read, and its size and checksum
        are verified when its end is reached. Raises CorruptFile (a size that no stream of this length has)."""
        member = self.members[name]
        if member.stored or member.size <= _CHUNK:
            return self.place(name)
        if member.size > MAX_DEFLATION * member.stored_size:
            _refuse(self.region, "a member inflates to another size", "zip-inflate", member.offset, name)
        files = self.region.files
        raw = self.region.part(member.offset, member.stored_size)
        source = Inflated(raw, "deflate", size=member.size, crc=member.crc or None)
        return Region.whole(files.attach(f"{self.region.path}!/{name}", source), files)


def _find_end(region: Region) -> tuple[int, int, int, int, bytes]:
    """Members, size and offset of the directory, where its end record begins, and the comment."""
    tail_at = max(0, region.size - _END.size - _MAX_COMMENT)
    tail = region.read(tail_at, region.size - tail_at)
    found = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    while found >= 0 and found + _END.size + int.from_bytes(tail[found + 20 : found + 22], "little") != len(tail):
        found = tail.rfind(b"PK\5\6", 0, found + 3)
    if found < 0:
        _refuse(region, "no zip directory at the end of the file", "zip-end", region.size, None)
    _, disk, directory_disk, here, count, size, offset, length = _END.unpack_from(tail, found)
    end = tail_at + found
    comment = tail[len(tail) - length :] if length else b""
    if 0xFFFF in (here, count) or 0xFFFFFFFF in (size, offset) or _has_locator(region, end):
        count, size, offset, end = _find_end64(region, end)
    elif disk or directory_disk or here != count:
        _refuse(region, "an archive over several disks", "zip-disks", end, disk)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise LimitExceeded(
            "the zip directory is too large",
            code="zip-directory",
            path=region.path,
            found=f"{count} members, {size} bytes",
            allowed=f"{MAX_MEMBERS} members, {MAX_DIRECTORY} bytes",
        )
    if offset + size != end or count * _CENTRAL.size > size:
        _refuse(region, "the zip directory is not where its end says", "zip-directory", end, f"{offset} + {size}")
    return count, size, offset, end, comment


def _has_locator(region: Region, end: int) -> bool:
    return end >= _LOCATOR.size and region.read(end - _LOCATOR.size, 4) == b"PK\6\7"


def _find_end64(region: Region, end: int) -> tuple[int, int, int, int]:
    at = end - _LOCATOR.size
    if at < 0 or not _has_locator(region, end):
        _refuse(region, "the zip64 locator is missing", "zip-end", end, None)
    _, disk, offset64, disks = _LOCATOR.unpack(region.read(at, _LOCATOR.size))
    if offset64 + _END64.size != at or disk or disks > 1:
        _refuse(region, "the zip64 end record is not where its locator says", "zip-end", at, offset64)
    record = _END64.unpack(region.read(offset64, _END64.size))
    if record[0] != b"PK\6\6" or record[1] != _END64.size - 12 or record[6] != record[7]:
        _refuse(region, "a broken zip64 end record", "zip-end", offset64, record[0])
    return record[7], record[8], record[9], offset64


def _directory(region: Region, count: int, size: int, offset: int) -> list[tuple[Member, bytes]]:
    """The entries of the directory, with their names as they are stored."""
    text = region.read(offset, size)
    members = []
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > size or text[at : at + 4] != b"PK\1\2":
            _refuse(region, "a broken entry of the zip directory", "zip-directory", offset + at, text[at : at + 4])
        row = _CENTRAL.unpack_from(text, at)
        flags, method, crc, stored, plain = row[3], row[4], row[7], row[8], row[9]
        name_size, extra_size, comment_size, header = row[10], row[11], row[12], row[16]
        behind = at + _CENTRAL.size
        end = behind + name_size + extra_size + comment_size
        if end > size:
            _refuse(region, "an entry runs past the end of the zip directory", "zip-directory", offset + at, end)
        extra = text[behind + name_size : behind + name_size + extra_size]
        plain, stored, header = _zip64(region, extra, (plain, stored, header), offset + at)
        raw_name = text[behind : behind + name_size]
        name = _decoded(region, raw_name, offset + at)
        members.append((Member(name, method, flags, crc, stored, plain, header), raw_name))
        at = end
    if at != size:
        _refuse(region, "bytes behind the last entry of the zip directory", "zip-directory", offset + at, size - at)
    return members


def _zip64(region: Region, extra: bytes, values: tuple[int, int, int], place: int) -> tuple[int, int, int]:
    """Size, stored size and offset, with those that stand in the zip64 extra field."""
    if 0xFFFFFFFF not in values:
        return values
    wide = [value == 0xFFFFFFFF for value in values]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1 and 8 * sum(wide) <= length <= len(extra) - at - 4:
            break
        at += 4 + length
    else:
        _refuse(region, "the zip64 sizes of a member are missing", "zip-directory", place, values)
    numbers = iter(struct.unpack_from(f"<{sum(wide)}Q", extra, at + 4))
    plain, stored, header = (next(numbers) if w else value for w, value in zip(wide, values, strict=True))
    return plain, stored, header


def _decoded(region: Region, raw: bytes, place: int) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    if not name or "\0" in name:
        _refuse(region, "a member without a proper name", "zip-name", place, raw[:80])
    return name


def _located(region: Region, member: Member, raw_name: bytes) -> Member:
    """The member with the offset of its bytes, once its own header says the same as the directory."""
    at = member.header_offset
    raw = region.read(at, _LOCAL.size + len(raw_name))
    row = _LOCAL.unpack_from(raw)
    if row[0] != b"PK\3\4":
        _refuse(region, "a member without its header", "zip-header", at, row[0])
    if member.flags & _ENCRYPTED or row[2] & _ENCRYPTED:
        raise UnsupportedError(
            "a member of the archive is marked as encrypted", code="zip-encrypted", path=region.path, place=member.name
        )
    if member.method not in (_STORED, _DEFLATED):
        raise UnsupportedError(
            "a method of compression that modelfmt does not read",
            code="zip-method",
            path=region.path,
            place=member.name,
            found=member.method,
            allowed="stored or deflated",
        )
    name = raw[_LOCAL.size :]
    sizes = (row[6], row[7], row[8])
    known = not row[2] & _DESCRIPTOR and 0xFFFFFFFF not in sizes
    if row[9] != len(name) or name != raw_name or row[3] != member.method or (known and sizes != _sizes(member)):
        _refuse(region, "a member's header and the directory disagree", "zip-header", at, name)
    if member.stored and member.size != member.stored_size:
        _refuse(region, "a stored member of two sizes", "zip-header", at, member.size)
    offset = at + _LOCAL.size + row[9] + row[10]
    region.part(offset, member.stored_size)
    return replace(member, offset=offset)


def _sizes(member: Member) -> tuple[int, int, int]:
    return member.crc, member.stored_size, member.size


def _check_spans(region: Region, members: list[Member], directory: int, size: int, end: int) -> None:
    """Members follow one another from the first byte up to the directory, and nothing lies before them."""
    at = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < at:
            _refuse(region, "members of the archive overlap", "zip-overlap", member.header_offset, member.name)
        if at == 0 and member.header_offset:
            _refuse(region, "bytes before the archive", "zip-prefix", 0, f"{member.header_offset} bytes")
        at = member.offset + member.stored_size
    if at > directory or directory + size > end:
        _refuse(region, "members of the archive overlap its directory", "zip-overlap", at, directory)


def _inflate(raw: bytes, member: Member, region: Region) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(raw, member.size + 1)
    except zlib.error as error:
        _refuse(region, "a member cannot be inflated", "zip-inflate", member.offset, str(error))
    if len(data) != member.size or not inflater.eof:
        _refuse(region, "a member inflates to another size", "zip-inflate", member.offset, member.name)
    return data


def _refuse(region: Region, message: str, code: str, offset: int, found: object) -> NoReturn:
    raise CorruptFile(message, code=code, path=region.path, place=f"byte {region.start + offset}", found=found)
