"""Protocol buffers: the wire format, and messages by tables of their fields.

Source: protobuf.dev/programming-guides/encoding. `records` walks a message that lies in a file without reading what it
steps over; `fields` walks one in memory; `decode` and `encode` follow a `Schema`. Every length is checked against the
bytes that are there, fields that a schema does not know are kept as they are, a field that may stand once and stands
twice is refused. Groups (wire types 3 and 4) are refused; no format here has them.
"""

from modelfmt.storage.protobuf.memory import Field, fields, float32, message, signed32
from modelfmt.storage.protobuf.reading import Record, Window, decode, records
from modelfmt.storage.protobuf.schema import UNKNOWN, Rule, Schema
from modelfmt.storage.protobuf.wire import BYTES, VARINT, signed64
from modelfmt.storage.protobuf.writing import Hole, Pieces, encode

__all__ = [
    "BYTES",
    "UNKNOWN",
    "VARINT",
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
]
