"""Lays out a .pt or .bin that torch.load(weights_only=True) opens: the zip form, every storage as it is, aligned to 64.

Source: torch/serialization.py (_save) and caffe2/serialize/inline_container.cc of torch 2.13 (file format version 3);
PKWARE's APPNOTE 6.3. Storages come in the order of the tensors; tensors that share one (ties) name it twice. Checksums
are filled in once the data is there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from math import prod

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats.pytorch_types import TORCH_NAMES
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Checksum, Entry, FileLayout, Placed

__all__ = ["layout", "state_dict"]

ROOT = "archive"
ALIGNMENT = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_UTF8 = 0x0800
_DATE = 0x21  # 1 January 1980, the earliest there is
_WIDE = 0xFFFFFFFF


def layout(entries: Sequence[Entry], *, ties: Mapping[str, str] | None = None) -> FileLayout:
    """Where everything lies in one file. ties: further names for tensors of `entries`.

    Raises UsageError (a name twice), UnsupportedError (an encoding that torch has no dtype for).
    """
    ties = ties or {}
    _check(entries, ties)
    small = {"data.pkl": state_dict(entries, ties), ".format_version": b"1", ".storage_alignment": b"%d" % ALIGNMENT}
    writer = _Writer()
    for name, data in (small | {"byteorder": b"little"}).items():
        writer.small(name, data)
    placed = []
    for key, entry in enumerate(entries):
        row = ENCODINGS[entry.encoding]
        size = prod(entry.shape) // row.block_elements * row.block_bytes
        placed.append(Placed(entry.name, entry.encoding, tuple(entry.shape), writer.large(f"data/{key}", size), size))
    writer.small("version", b"3\n")
    return writer.finish(tuple(placed))


def _check(entries: Sequence[Entry], ties: Mapping[str, str]) -> None:
    names: set[str] = set()
    for entry in entries:
        if entry.encoding not in TORCH_NAMES:
            raise UnsupportedError(
                "PyTorch has no dtype for this encoding",
                code="dtype",
                place=entry.name,
                found=entry.encoding,
                allowed=" ".join(TORCH_NAMES),
            )
        if entry.encoding == "F4" and (not entry.shape or entry.shape[-1] % 2):
            raise UnsupportedError(
                "rows of whole bytes are needed", code="sub-byte", place=entry.name, found=entry.shape
            )
        if entry.name in names:
            raise UsageError("a tensor name is given twice", code="duplicate-key", place=entry.name)
        names.add(entry.name)
    for name, kept in ties.items():
        if name in names or kept not in names:
            raise UsageError("a tie to a tensor that is not there", code="tie", place=name, found=kept)


class _Writer:
    """A zip archive as it grows: bytes with their offsets, members for the directory, checksums still to come."""

    def __init__(self) -> None:
        self.at = 0
        self.pieces: list[tuple[int, bytearray]] = []
        self.members: list[tuple[bytes, int, int, int]] = []  # name, crc, size, offset
        self.later: list[tuple[int, int, int, int]] = []  # member, data offset, size, place in its local header

    def small(self, name: str, data: bytes) -> None:
        """A member whose content is known."""
        self._header(name, zlib.crc32(data), len(data))
        self._put(data)

    def large(self, name: str, size: int) -> int:
        """A member whose content comes later; returns where it lies."""
        header = self.at
        self._header(name, 0, size)
        begin = self.at
        if size:
            self.later.append((len(self.members) - 1, begin, size, header + 14))
        self.at += size
        return begin

    def _put(self, data: bytes) -> None:
        if self.pieces and self.pieces[-1][0] + len(self.pieces[-1][1]) == self.at:
            self.pieces[-1][1].extend(data)
        else:
            self.pieces.append((self.at, bytearray(data)))
        self.at += len(data)

    def _header(self, name: str, crc: int, size: int) -> None:
        """A local header, padded so that the data behind it is aligned."""
        raw = f"{ROOT}/{name}".encode()
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


def state_dict(entries: Sequence[Entry], ties: Mapping[str, str]) -> bytes:
    """The pickle (protocol 2) of an OrderedDict of tensors, each over the storage of its number."""
    pickle = _Pickle()
    pickle.name("collections", "OrderedDict")
    pickle.add(b")R(")
    number = {entry.name: key for key, entry in enumerate(entries)}
    for name in (*number, *ties):
        pickle.text(name)
        key = number[ties.get(name, name)]
        _tensor(pickle, entries[key], key)
    pickle.add(b"u.")
    return bytes(pickle.data)


def _tensor(pickle: _Pickle, entry: Entry, key: int) -> None:
    """_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()); _v3 adds the dtype to an untyped storage."""
    dtype, storage = TORCH_NAMES[entry.encoding]
    row = ENCODINGS[entry.encoding]
    shape = list(entry.shape)
    if entry.encoding == "F4":
        shape[-1] //= 2
    units = prod(shape)
    pickle.name("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
    pickle.add(b"((")
    pickle.text("storage")
    pickle.name(*(("torch", storage) if storage else ("torch.storage", "UntypedStorage")))
    pickle.text(str(key))
    pickle.text("cpu")
    pickle.integer(units if storage else units * row.block_bytes)
    pickle.add(b"tQK\0(")
    for size in shape:
        pickle.integer(size)
    pickle.add(b"t(")
    for axis in range(len(shape)):
        pickle.integer(max(1, prod(max(1, size) for size in shape[axis + 1 :])))
    pickle.add(b"t\x89")
    pickle.name("collections", "OrderedDict")
    pickle.add(b")R")
    if not storage:
        pickle.name("torch", dtype)
    pickle.add(b"tR")


class _Pickle:
    """Opcodes of protocol 2, written in order; names and short texts that come again are taken from the memo."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")
        self.memo: dict[object, int] = {}

    def add(self, opcodes: bytes) -> None:
        self.data += opcodes

    def name(self, module: str, name: str) -> None:
        self._known((module, name), f"c{module}\n{name}\n".encode())

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._known(value, b"X" + struct.pack("<I", len(raw)) + raw)

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.data += b"K" + bytes([value])
        elif value < 1 << 31:
            self.data += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.data += b"\x8a" + bytes([len(raw)]) + raw

    def _known(self, key: object, opcodes: bytes) -> None:
        if key in self.memo:
            self.data += b"j" + struct.pack("<I", self.memo[key])
            return
        self.memo[key] = len(self.memo)
        self.data += opcodes + b"r" + struct.pack("<I", self.memo[key])
