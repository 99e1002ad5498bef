"""What the fields of a message are, as tables."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["UNKNOWN", "Rule", "Schema"]

UNKNOWN = ""
"""The key under which `decode` keeps fields that the schema does not know."""


class Rule(msgspec.Struct, frozen=True):
    """How a field is read. kind: int, float, text, bytes, raw (a message kept as bytes), span (left in the file),
    record (as it stands, whatever its wire type), or the name of a schema. many: it may repeat, the value is a list;
    packed: numbers are written packed."""

    name: str
    kind: str
    many: bool = False
    packed: bool = False


class Schema(msgspec.Struct, frozen=True):
    """The fields of one kind of message by number; the others of a set of schemas by name."""

    name: str
    rules: Mapping[int, Rule]
    others: dict[str, Schema] = msgspec.field(default_factory=dict)
