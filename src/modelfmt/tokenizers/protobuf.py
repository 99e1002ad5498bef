"""Protocol buffer messages, as far as a SentencePiece model needs them.

Source: the wire format of protobuf.dev/programming-guides/encoding. Every length is checked against the bytes that are
there. Groups (wire types 3 and 4) are refused; SentencePiece has none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ..errors import CorruptFile

__all__ = ["Field", "fields", "float32", "message", "signed32"]

Field = tuple[int, int | bool | float | str | bytes]
"""A field's number and its value, for writing."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


def fields(message: bytes | memoryview, *, path: str, base: int = 0) -> Iterator[tuple[int, int | memoryview]]:
    """The (field number, value) pairs of one message: an int for varints, a view of the bytes for all else.

    base is the message's own offset in the file, for the place named by an error. Raises CorruptFile.

    >>> [(n, bytes(v) if isinstance(v, memoryview) else v) for n, v in fields(b"\\x08\\x96\\x01\\x12\\x01a", path="x")]
    [(1, 150), (2, b'a')]
    """
    view = memoryview(message)
    at = 0
    while at < len(view):
        start = at
        key, at = _varint(view, at, path, base)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _corrupt("field number 0 in a protocol buffer", path, base + start, number, "1 and up")
        if wire == VARINT:
            value, at = _varint(view, at, path, base)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _varint(view, at, path, base)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise _corrupt("unknown wire type in a protocol buffer", path, base + start, wire, "0, 1, 2 or 5")
        if size > len(view) - at:
            raise _corrupt(
                "a field runs past the end of its message", path, base + start, size, f"at most {len(view) - at}"
            )
        yield number, view[at : at + size]
        at += size


def message(rows: Iterable[Field]) -> bytes:
    """A message of (field number, value) pairs: floats are 32 bits wide, other numbers varints.

    >>> message([(1, 150), (2, "a")]).hex()
    '089601120161'
    """
    out = bytearray()
    for number, value in rows:
        if isinstance(value, float):
            out += _varint_bytes(number << 3 | FIXED32) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += _varint_bytes(number << 3 | VARINT) + _varint_bytes(value & (1 << 64) - 1)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint_bytes(number << 3 | BYTES) + _varint_bytes(len(data)) + data
    return bytes(out)


def float32(value: int | memoryview, *, path: str, place: str) -> float:
    """The float32 in a fixed 32-bit field."""
    if isinstance(value, int) or len(value) != 4:
        raise _corrupt(
            "a float field is not 4 bytes long", path, place, value if isinstance(value, int) else len(value), 4
        )
    return float(struct.unpack("<f", value)[0])


def signed32(value: int | memoryview, *, path: str, place: str) -> int:
    """The int32 in a varint field (negative numbers are written as 64-bit two's complement)."""
    if not isinstance(value, int):
        raise _corrupt("an integer field is not a varint", path, place, "bytes", "varint")
    value = value - (1 << 64) if value >= 1 << 63 else value
    if not -(1 << 31) <= value < 1 << 31:
        raise _corrupt("an integer field is out of range", path, place, value, "an int32")
    return value


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(view: memoryview, at: int, path: str, base: int) -> tuple[int, int]:
    value = shift = 0
    for i in range(at, min(at + 10, len(view))):
        value |= (view[i] & 0x7F) << shift
        if view[i] < 0x80:
            if value >> 64:
                break
            return value, i + 1
        shift += 7
    raise _corrupt("a varint is cut off or longer than 64 bits", path, base + at, None, "at most 10 bytes")


def _corrupt(message: str, path: str, place: object, found: object, allowed: object) -> CorruptFile:
    return CorruptFile(message, code="protobuf", path=path, place=place, found=found, allowed=allowed)
