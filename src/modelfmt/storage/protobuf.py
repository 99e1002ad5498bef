"""Protocol buffers: the wire format, and messages by tables of their fields.

Source: protobuf.dev/programming-guides/encoding. `records` walks a message that lies in a file without reading what it
steps over; `fields` walks one in memory; `decode` and `Writer` follow a `Schema`. Every length is checked against the
bytes that are there, fields that a schema does not know are kept as they are, a field that may stand once and stands
twice is refused. Groups (wire types 3 and 4) are refused; no format here has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.storage.region import Region

__all__ = [
    "Field",
    "Hole",
    "Pieces",
    "Record",
    "Rule",
    "Schema",
    "Window",
    "decode",
    "encode",
    "fields",
    "float32",
    "message",
    "records",
    "signed32",
    "signed64",
    "varint",
]

Field = tuple[int, int | bool | float | str | bytes]
"""A field's number and its value, for writing."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
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

    def corrupt(self, message: str, place: int, found: object, allowed: object) -> CorruptFile:
        """The error for what stands at a place."""
        return _corrupt(message, self.region.path, f"byte {self.region.start + place}", found, allowed)


def records(window: Window, start: int, stop: int) -> Iterator[Record]:
    """The fields of the message at start..stop, in the order of the file. Nothing that a field holds is read."""
    at = start
    while at < stop:
        begin = at
        data, base = window.at(at, min(20, stop - at))
        end = stop - base
        key, place = varint(data, at - base, end, window, base)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise window.corrupt("not a field number", begin, number, "1 to 2^29 - 1")
        value = 0
        if wire == VARINT:
            value, place = varint(data, place, end, window, base)
            size = 0
        elif wire == BYTES:
            size, place = varint(data, place, end, window, base)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise window.corrupt("unknown wire type in a protocol buffer", begin, wire, "0, 1, 2 or 5")
        at = base + place + size
        if at > stop:
            raise window.corrupt("a field runs past the end of its message", begin, size, f"at most {end - place}")
        yield Record(number, wire, value, base + place, at, begin)


def varint(data: bytes | memoryview, at: int, end: int, window: Window | None = None, base: int = 0) -> tuple[int, int]:
    """A varint and where it ends; it may reach up to `end`. Raises CorruptFile."""
    value = shift = 0
    for i in range(at, min(at + 10, end, len(data))):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, i + 1
        shift += 7
    if window is None:
        raise _corrupt("a varint is cut off or longer than 64 bits", None, base + at, None, "at most 10 bytes")
    raise window.corrupt("a varint is cut off or longer than 64 bits", base + at, None, "at most 10 bytes")


@dataclass(frozen=True, slots=True)
class Rule:
    """How a field is read. kind: int, float, text, bytes, raw (a message kept as bytes), span (left in the file),
    record (as it stands, whatever its wire type), or the name of a schema. many: it may repeat, the value is a list;
    packed: numbers are written packed."""

    name: str
    kind: str
    many: bool = False
    packed: bool = False


@dataclass(frozen=True)
class Schema:
    """The fields of one kind of message by number; the others of a set of schemas by name."""

    name: str
    rules: Mapping[int, Rule]
    others: dict[str, Schema] = field(default_factory=dict, repr=False)


UNKNOWN = ""
"""The key under which `decode` keeps fields that the schema does not know."""


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
        value, at = varint(data, at, len(data), window, record.start)
        values.append(signed64(value))
    return values


class Hole(NamedTuple):
    """Bytes of a message that are written later: their number, and a key that says what they are."""

    size: int
    key: Any


@dataclass
class Pieces:
    """A message under construction: bytes and holes, and how long they are together."""

    parts: list[bytes | Hole] = field(default_factory=list)
    size: int = 0

    def add(self, part: bytes | Hole) -> None:
        """Append bytes or a hole."""
        if part:
            self.parts.append(part)
            self.size += part.size if isinstance(part, Hole) else len(part)

    def nest(self, number: int, inner: Pieces) -> None:
        """Append a field that holds a message."""
        self.add(_key(number, BYTES) + _varint_bytes(inner.size))
        self.parts += inner.parts
        self.size += inner.size


def encode(schema: Schema, values: Mapping[str, Any]) -> Pieces:
    """A message from a mapping as `decode` gives it; fields in the order of their numbers, unknown ones last.

    None and absent fields are left out. A value of a field of kind span is a Hole or bytes, one of a message a mapping
    or Pieces.

    >>> schema = Schema("Pair", {1: Rule("key", "text"), 2: Rule("value", "int")})
    >>> b"".join(encode(schema, {"value": 150, "key": "a"}).parts).hex()
    '0a0161109601'
    """
    out = Pieces()
    small = bytearray()
    for number in sorted(schema.rules):
        rule = schema.rules[number]
        value = values.get(rule.name)
        if value is None:
            continue
        if rule.packed:
            if value:
                data = _packed(rule.kind, value)
                small += _key(number, BYTES) + _varint_bytes(len(data)) + data
            continue
        for one in value if rule.many else (value,):
            if rule.kind in _WRITTEN:
                small += _written(number, rule.kind, one)
                continue
            inner = _inner(schema, rule, one)
            if len(inner.parts) == 1 and isinstance(inner.parts[0], bytes) and len(inner.parts[0]) < 4096:
                small += _key(number, BYTES) + _varint_bytes(inner.size) + inner.parts[0]
                continue
            out.add(bytes(small))
            small.clear()
            out.nest(number, inner)
    out.add(bytes(small) + values.get(UNKNOWN, b""))
    return out


_WRITTEN = ("int", "float", "text", "bytes", "raw")


def _inner(schema: Schema, rule: Rule, value: Any) -> Pieces:
    if isinstance(value, Pieces):
        return value
    if rule.kind == "span":
        inner = Pieces()
        inner.add(value)
        return inner
    return encode(schema.others[rule.kind], value)


def _written(number: int, kind: str, value: Any) -> bytes:
    if kind == "int":
        return _key(number, VARINT) + _varint_bytes(value & (1 << 64) - 1)
    if kind == "float":
        return _key(number, FIXED32) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _key(number, BYTES) + _varint_bytes(len(data)) + data


def _packed(kind: str, values: Iterable[Any]) -> bytes:
    if kind == "float":
        numbers = list(values)
        return struct.pack(f"<{len(numbers)}f", *numbers)
    return b"".join(_varint_bytes(value & (1 << 64) - 1) for value in values)


def fields(message: bytes | memoryview, *, path: str, base: int = 0) -> Iterator[tuple[int, int | memoryview]]:
    """The (field number, value) pairs of a message in memory: an int for varints, a view of the bytes for all else.

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
    kinds = {float: "float", int: "int", bool: "int", str: "text", bytes: "bytes"}
    return b"".join(_written(number, kinds[type(value)], value) for number, value in rows)


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
    value = signed64(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise _corrupt("an integer field is out of range", path, place, value, "an int32")
    return value


def signed64(value: int) -> int:
    """The int64 of a varint: two's complement.

    >>> signed64(2**64 - 1)
    -1
    """
    return value - (1 << 64) if value >= 1 << 63 else value


def _key(number: int, wire: int) -> bytes:
    return _varint_bytes(number << 3 | wire)


def _varint_bytes(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(view: memoryview, at: int, path: str, base: int) -> tuple[int, int]:
    try:
        return varint(view, at, len(view))
    except CorruptFile as error:
        raise _corrupt(error.message, path, base + at, None, error.allowed) from None


def _corrupt(message: str, path: str | None, place: object, found: object, allowed: object) -> CorruptFile:
    return CorruptFile(message, code="protobuf", path=path, place=place, found=found, allowed=allowed)
