"""Messages from mappings by a schema, as bytes and holes for what is written later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from modelfmt.storage.protobuf.schema import UNKNOWN, Rule, Schema
from modelfmt.storage.protobuf.wire import BYTES, key, packed, varint_bytes, written

__all__ = ["Hole", "Pieces", "encode"]


class Hole(NamedTuple):
    """Bytes of a message that are written later: their number, and a key that says what they are."""

    size: int
    key: Any


class Pieces(msgspec.Struct):
    """A message under construction: bytes and holes, and how long they are together."""

    parts: list[bytes | Hole] = msgspec.field(default_factory=list)
    size: int = 0

    def add(self, part: bytes | Hole) -> None:
        """Append bytes or a hole."""
        if part:
            self.parts.append(part)
            self.size += part.size if isinstance(part, Hole) else len(part)

    def nest(self, number: int, inner: Pieces) -> None:
        """Append a field that holds a message."""
        self.add(key(number, BYTES) + varint_bytes(inner.size))
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
                data = packed(rule.kind, value)
                small += key(number, BYTES) + varint_bytes(len(data)) + data
            continue
        for one in value if rule.many else (value,):
            if rule.kind in _WRITTEN:
                small += written(number, rule.kind, one)
                continue
            inner = _inner(schema, rule, one)
            if len(inner.parts) == 1 and isinstance(inner.parts[0], bytes) and len(inner.parts[0]) < 4096:
                small += key(number, BYTES) + varint_bytes(inner.size) + inner.parts[0]
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
