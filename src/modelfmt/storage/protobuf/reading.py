"""Messages that lie in a file: their fields as they stand, and by a schema as mappings."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.storage.protobuf.schema import UNKNOWN, Rule, Schema
from modelfmt.storage.protobuf.wire import BYTES, FIXED32, VARINT, corrupt, field, signed64, varint
from modelfmt.storage.region import Region

__all__ = ["Record", "Window", "decode", "records"]

_READ_AHEAD = 1 << 18
MAX_DEPTH = 100
MAX_MESSAGES, MAX_RECORDS = 1 << 21, 1 << 25
MAX_TEXT = 1 << 26
"""Longest string, and most bytes of unknown fields, that a message in a file may have."""


class Record(NamedTuple):
    """A field as it stands: number, wire type, value (of a varint), where its bytes begin and end, where it begins."""

    number: int
    wire: int
    value: int
    start: int
    stop: int
    begin: int


class Window:
    """A region of a file, read ahead: small neighbouring pieces cost no call each."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.size = region.size
        self.n_messages = self.n_records = 0
        self._base = 0
        self._data = b""

    def at(self, place: int, least: int) -> tuple[bytes, int]:
        """Bytes that hold at least `least` bytes from `place` on (fewer at the end), and where they begin."""
        wanted = min(place + least, self.size)
        if not self._base <= place <= wanted <= self._base + len(self._data):
            self._base = place
            self._data = self.region.read(place, min(max(least, _READ_AHEAD), self.size - place))
        return self._data, self._base

    def read(self, start: int, stop: int) -> bytes:
        """The bytes start..stop."""
        if stop - start > MAX_TEXT:
            raise LimitExceeded(
                "a piece of a message is too long",
                code="protobuf-size",
                path=self.region.path,
                place=f"byte {self.region.start + start}",
                found=stop - start,
                allowed=f"at most {MAX_TEXT}",
            )
        data, base = self.at(start, stop - start)
        return data[start - base : stop - base]

    def varint(self, data: bytes, at: int, end: int, base: int) -> tuple[int, int]:
        """A varint of data, which begins at base, and where in data it ends."""
        return varint(data, at, end, path=self.region.path, base=self.region.start + base)

    def corrupt(self, message: str, place: int, found: object, allowed: object) -> CorruptFile:
        """The error for what stands at a place."""
        return corrupt(message, self.region.path, f"byte {self.region.start + place}", found, allowed)


def records(window: Window, start: int, stop: int) -> Iterator[Record]:
    """The fields of the message at start..stop, in the order of the file. Nothing that a field holds is read."""
    at, region = start, window.region
    while at < stop:
        begin = at
        data, base = window.at(at, min(20, stop - at))
        number, wire, value, first, last = field(
            data, at - base, stop - base, path=region.path, base=region.start + base
        )
        at = base + last
        yield Record(number, wire, value, base + first, at, begin)


def decode(schema: Schema, window: Window, start: int, stop: int, *, depth: int = 0) -> dict[str, Any]:
    """The message at start..stop as a mapping: absent fields are absent, repeated ones lists, messages mappings.

    Raises CorruptFile (wire format, a field twice, text that is not UTF-8), LimitExceeded (nesting, size).
    """
    if depth > MAX_DEPTH:
        raise LimitExceeded(
            "messages nest too deep",
            code="depth",
            path=window.region.path,
            place=f"byte {window.region.start + start}",
            found=depth,
            allowed=f"at most {MAX_DEPTH}",
        )
    found: dict[str, Any] = {}
    unknown = bytearray()
    window.n_messages += 1
    for record in records(window, start, stop):
        window.n_records += 1
        if window.n_messages > MAX_MESSAGES or window.n_records > MAX_RECORDS:
            raise LimitExceeded(
                "too many messages and fields",
                code="protobuf-count",
                path=window.region.path,
                place=f"byte {window.region.start + record.begin}",
                found=f"{window.n_messages} messages, {window.n_records} fields",
                allowed=f"{MAX_MESSAGES} and {MAX_RECORDS}",
            )
        rule = schema.rules.get(record.number)
        if rule is None:
            unknown += window.read(record.begin, record.stop)
            if len(unknown) > MAX_TEXT:
                raise LimitExceeded("too many unknown fields", code="protobuf-size", path=window.region.path)
        elif rule.many:
            found.setdefault(rule.name, []).extend(_values(schema, rule, window, record, depth))
        elif rule.name in found:
            raise window.corrupt(f"the field {schema.name}.{rule.name} stands twice", record.begin, None, "once")
        else:
            found[rule.name] = _value(schema, rule, window, record, depth)
    return found | {UNKNOWN: bytes(unknown)} if unknown else found


def _value(schema: Schema, rule: Rule, window: Window, record: Record, depth: int) -> Any:
    kind = rule.kind
    if kind == "record":
        return record
    wire = VARINT if kind == "int" else FIXED32 if kind == "float" else BYTES
    if record.wire != wire:
        what = f"{schema.name}.{rule.name} has another wire type"
        raise window.corrupt(what, record.begin, record.wire, wire)
    if kind == "int":
        return signed64(record.value)
    if kind == "span":
        return (record.start, record.stop)
    if kind not in _PLAIN:
        return decode(schema.others[kind], window, record.start, record.stop, depth=depth + 1)
    data = window.read(record.start, record.stop)
    if kind == "float":
        return struct.unpack("<f", data)[0]
    if kind != "text":
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise window.corrupt(f"{schema.name}.{rule.name} is not UTF-8", record.start, data[:40], "UTF-8") from None


_PLAIN = ("float", "text", "bytes", "raw")


def _values(schema: Schema, rule: Rule, window: Window, record: Record, depth: int) -> list[Any]:
    """The values of one record of a repeated field: several where numbers are packed."""
    if record.wire != BYTES or rule.kind not in ("int", "float"):
        return [_value(schema, rule, window, record, depth)]
    data = window.read(record.start, record.stop)
    if rule.kind == "float":
        if len(data) % 4:
            raise window.corrupt("packed floats end inside a number", record.begin, len(data), "a multiple of 4")
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    values, at = [], 0
    while at < len(data):
        value, at = window.varint(data, at, len(data), record.start)
        values.append(signed64(value))
    return values
