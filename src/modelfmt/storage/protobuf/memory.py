"""Messages in memory without a schema: pairs of a field's number and its value."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from modelfmt.storage.protobuf.wire import VARINT, corrupt, field, signed64, written

__all__ = ["Field", "fields", "float32", "message", "signed32"]

Field = tuple[int, int | bool | float | str | bytes]
"""A field's number and its value, for writing."""


def fields(message: bytes | memoryview, *, path: str) -> Iterator[tuple[int, int | memoryview]]:
    """The (field number, value) pairs of a message in memory: an int for varints, a view of the bytes for all else.

    Raises CorruptFile, which names the byte of the message.

    >>> [(n, bytes(v) if isinstance(v, memoryview) else v) for n, v in fields(b"\\x08\\x96\\x01\\x12\\x01a", path="x")]
    [(1, 150), (2, b'a')]
    """
    view = memoryview(message)
    at = 0
    while at < len(view):
        number, wire, value, start, at = field(view, at, len(view), path=path)
        yield number, value if wire == VARINT else view[start:at]


def message(rows: Iterable[Field]) -> bytes:
    """A message of (field number, value) pairs: floats are 32 bits wide, other numbers varints.

    >>> message([(1, 150), (2, "a")]).hex()
    '089601120161'
    """
    kinds = {float: "float", int: "int", bool: "int", str: "text", bytes: "bytes"}
    return b"".join(written(number, kinds[type(value)], value) for number, value in rows)


def float32(value: int | memoryview, *, path: str, place: str) -> float:
    """The float32 in a fixed 32-bit field."""
    if isinstance(value, int) or len(value) != 4:
        raise corrupt(
            "a float field is not 4 bytes long", path, place, value if isinstance(value, int) else len(value), 4
        )
    return float(struct.unpack("<f", value)[0])


def signed32(value: int | memoryview, *, path: str, place: str) -> int:
    """The int32 in a varint field (negative numbers are written as 64-bit two's complement)."""
    if not isinstance(value, int):
        raise corrupt("an integer field is not a varint", path, place, "bytes", "varint")
    value = signed64(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise corrupt("an integer field is out of range", path, place, value, "an int32")
    return value
