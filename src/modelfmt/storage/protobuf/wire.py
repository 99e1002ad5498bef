"""The wire format: wire types, varints, keys, and fields as they are written."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from modelfmt.errors import CorruptFile

__all__ = [
    "BYTES",
    "FIXED",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "corrupt",
    "field",
    "key",
    "packed",
    "signed64",
    "varint",
    "varint_bytes",
    "written",
]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
"""Bytes of the wire types of one size."""


def varint(data: bytes | memoryview, at: int, end: int, *, path: str | None = None, base: int = 0) -> tuple[int, int]:
    """A varint and where it ends; it may reach up to `end`. base: where data begins in the file. Raises CorruptFile."""
    if at < end and at < len(data) and data[at] < 0x80:  # as most are
        return data[at], at + 1
    value = shift = 0
    for i in range(at, min(at + 10, end, len(data))):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, i + 1
        shift += 7
    raise corrupt("a varint is cut off or longer than 64 bits", path, f"byte {base + at}", None, "at most 10 bytes")


def field(
    data: bytes | memoryview, at: int, end: int, *, path: str | None = None, base: int = 0
) -> tuple[int, int, int, int, int]:
    """The field at a place of a message that ends at `end`: number, wire type, value of a varint, where its bytes begin
    and end. data need not hold these. base: where data begins in the file. Raises CorruptFile."""
    key, start = varint(data, at, end, path=path, base=base)
    number, wire = key >> 3, key & 7
    if not 0 < number < 1 << 29:
        raise corrupt("not a field number", path, f"byte {base + at}", number, "1 to 2^29 - 1")
    value = size = 0
    if wire == VARINT:
        value, start = varint(data, start, end, path=path, base=base)
    elif wire == BYTES:
        size, start = varint(data, start, end, path=path, base=base)
    elif wire in FIXED:
        size = FIXED[wire]
    else:
        raise corrupt("unknown wire type in a protocol buffer", path, f"byte {base + at}", wire, "0, 1, 2 or 5")
    if size > end - start:
        what = "a field runs past the end of its message"
        raise corrupt(what, path, f"byte {base + at}", size, f"at most {end - start}")
    return number, wire, value, start, start + size


def signed64(value: int) -> int:
    """The int64 of a varint: two's complement.

    >>> signed64(2**64 - 1)
    -1
    """
    return value - (1 << 64) if value >= 1 << 63 else value


def key(number: int, wire: int) -> bytes:
    return varint_bytes(number << 3 | wire)


def varint_bytes(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def written(number: int, kind: str, value: Any) -> bytes:
    if kind == "int":
        return key(number, VARINT) + varint_bytes(value & (1 << 64) - 1)
    if kind == "float":
        return key(number, FIXED32) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return key(number, BYTES) + varint_bytes(len(data)) + data


def packed(kind: str, values: Iterable[Any]) -> bytes:
    if kind == "float":
        numbers = list(values)
        return struct.pack(f"<{len(numbers)}f", *numbers)
    return b"".join(varint_bytes(value & (1 << 64) - 1) for value in values)


def corrupt(message: str, path: str | None, place: object, found: object, allowed: object) -> CorruptFile:
    return CorruptFile(message, code="protobuf", path=path, place=place, found=found, allowed=allowed)
