"""ONNX's TensorProto: where the elements of a constant lie, in the file or beside it. None of a large one is read.

Source: onnx.proto of ONNX 1.23, docs/ExternalData.md. A file beside the model is looked for in the folder that the
model was opened in, then in the one where it really lies (a Hugging Face cache has links in the first, the bytes
elsewhere); its name may lead out of neither (modelfmt.storage.paths).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, SourceMissing, UnsafePath, UnsupportedError
from modelfmt.ir.graph import ELEMENT_TYPES, GraphTensor, stored_as
from modelfmt.ir.ops import Constant, Expression, Leaf
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained
from modelfmt.storage.protobuf import BYTES, UNKNOWN, Record, Window, signed64

__all__ = ["INLINE", "Tensors", "properties"]

INLINE = 1024
"""Bytes up to which a constant is kept in memory, and always written into the model itself."""

MAX_DIMS = 64
MAX_ELEMENTS = 1 << 60
_IN_MEMORY = "_ORT_MEM_ADDR_"
_EXTERNAL = 1

# the field of typed elements -> (the types that may be there, bytes of a fixed-width number, 0 for varints)
_TYPED = {
    "float_data": (("FLOAT", "COMPLEX64"), 4),
    "double_data": (("DOUBLE", "COMPLEX128"), 8),
    "int64_data": (("INT64",), 0),
    "uint64_data": (("UINT32", "UINT64"), 0),
    "int32_data": (
        tuple(name for name, row in ELEMENT_TYPES.items() if 0 < row.bits <= 32 and name not in ("FLOAT", "UINT32")),
        0,
    ),
}
_BY_NUMBER = {row.number: row.name for row in ELEMENT_TYPES.values()}


class _Beside(msgspec.Struct):
    """A file of external data: its path, and the ranges that are named."""

    path: str
    ranges: dict[tuple[int, int], str] = msgspec.field(default_factory=dict)


class Tensors:
    """Makes the constants of one model. path: of the model, as it was opened."""

    def __init__(self, path: str, files: Files, window: Window) -> None:
        self.path = path
        self.files = files
        self.window = window
        self.beside: dict[str, _Beside] = {}
        self.notes: list[str] = []

    def tensor(self, message: Mapping[str, Any], place: str) -> GraphTensor:
        """The constant of a TensorProto. Raises CorruptFile, UnsafePath, LimitExceeded, UnsupportedError."""
        name = message.get("name", "")
        place = name or place
        kind, shape = self._type(message, place), self._shape(message.get("dims", []), place)
        if "segment" in message:
            raise UnsupportedError("a constant in segments", code="segment", path=self.path, place=place)
        found = GraphTensor(name, kind, shape, None)
        found.doc = message.get("doc_string")
        found.properties = properties(message)
        found.unknown = message.get(UNKNOWN, b"")
        held = [key for key in ("raw_data", "string_data", *_TYPED) if message.get(key)]
        if message.get("data_location", 0) == _EXTERNAL:
            if held or kind == "STRING":
                raise self._bad("a constant both in the file and beside it", place, [*held, "external"], "one of them")
            found.data = self._external(message.get("external_data", []), kind, shape, place)
        elif kind == "STRING":
            found.texts = self._texts(message, held, prod(shape), place)
        else:
            found.data = self._inside(message, held, found, place)
        return found

    def check_overlaps(self) -> None:
        """Raise where two constants share a part of their bytes, but not all."""
        for beside in self.beside.values():
            end, last = 0, ""
            for (start, stop), name in sorted(beside.ranges.items()):
                if start < end and stop > start:
                    raise CorruptFile(
                        "two constants overlap in the file beside the model",
                        code="overlap",
                        path=beside.path,
                        place=name,
                        found=f"begins at {start}",
                        allowed=f"from {end} on, where {last} ends",
                    )
                end, last = max(end, stop), name if stop > end else last

    def _type(self, message: Mapping[str, Any], place: str) -> str:
        number = message.get("data_type", 0)
        if number not in _BY_NUMBER:
            raise UnsupportedError(
                "an unknown element type", code="dtype", path=self.path, place=place, found=number, allowed="1 to 28"
            )
        return _BY_NUMBER[number]

    def _shape(self, dims: Sequence[int], place: str) -> tuple[int, ...]:
        if len(dims) > MAX_DIMS:
            raise LimitExceeded(
                "too many dimensions",
                code="dimensions",
                path=self.path,
                place=place,
                found=len(dims),
                allowed=f"at most {MAX_DIMS}",
            )
        if any(n < 0 for n in dims) or prod(n for n in dims if n) >= MAX_ELEMENTS:
            raise self._bad("an impossible shape", place, list(dims[:8]), "sizes from 0 on, below 2^60 elements")
        return tuple(dims)

    def _inside(self, message: Mapping[str, Any], held: list[str], tensor: GraphTensor, place: str) -> Expression:
        if len(held) > 1:
            raise self._bad("the elements of a constant stand twice", place, held, "one field")
        size = tensor.nbytes
        if "raw_data" in message and held in ([], ["raw_data"]):
            start, stop = message["raw_data"]
            return self._span(tensor, place, start, stop)
        if not held:
            if size:
                raise self._bad("a constant without its elements", place, "0 bytes", f"{size} bytes", code="span-size")
            return Constant(b"", *stored_as(tensor.type, tensor.shape))
        kinds, width = _TYPED.get(held[0], ((), 0))
        if tensor.type not in kinds:
            raise self._bad(f"elements of {tensor.type} cannot stand in {held[0]}", place, held[0], ", ".join(kinds))
        rows: list[Record] = message[held[0]]
        if width and len(rows) == 1 and rows[0].wire == BYTES:
            return self._span(tensor, place, rows[0].start, rows[0].stop)
        data = self._fixed(rows, width, place) if width else self._varints(rows, tensor, place)
        if len(data) != size:
            raise self._bad("not as many elements as the shape says", place, len(data), size, code="span-size")
        return Constant(data, *stored_as(tensor.type, tensor.shape))

    def _span(self, tensor: GraphTensor, place: str, start: int, stop: int) -> Expression:
        shape, encoding = stored_as(tensor.type, tensor.shape)
        if stop - start != tensor.nbytes:
            message = "the bytes of a constant do not fit its shape"
            allowed = f"{tensor.nbytes} bytes for {tensor.type} {list(tensor.shape[:8])}"
            raise self._bad(message, place, stop - start, allowed, code="span-size")
        if stop - start <= INLINE:
            return Constant(self.window.read(start, stop), shape, encoding)
        region = self.window.region
        return Leaf(region.path, region.start + start, shape, encoding)

    def _fixed(self, rows: Sequence[Record], width: int, place: str) -> bytes:
        pieces = []
        for row in rows:
            if (row.stop - row.start) % width or row.wire == 0:
                raise self._bad("numbers of another width", place, row.stop - row.start, f"a multiple of {width}")
            pieces.append(self.window.read(row.start, row.stop))
        return b"".join(pieces)

    def _varints(self, rows: Sequence[Record], tensor: GraphTensor, place: str) -> bytes:
        bits = ELEMENT_TYPES[tensor.type].bits
        values: list[int] = []
        for row in rows:
            if row.wire == 0:
                values.append(row.value)
                continue
            if row.wire != BYTES:
                raise self._bad("integers are no varints", place, f"wire type {row.wire}", "0 or 2")
            data, at = self.window.read(row.start, row.stop), 0
            while at < len(data):
                value, at = self.window.varint(data, at, len(data), row.start)
                values.append(value)
        if bits == 6:
            return _packed(values, 6)
        width = max(bits, 8)
        low, high = -(1 << (width - 1)), 1 << width
        if any(not low <= signed64(value) < high and not (width == 64) for value in values):
            raise self._bad("a number that its type cannot hold", place, tensor.type, f"{width} bits")
        mask = (1 << width) - 1
        code = {8: "B", 16: "H", 32: "I", 64: "Q"}[width]
        return struct.pack(f"<{len(values)}{code}", *(value & mask for value in values))

    def _texts(self, message: Mapping[str, Any], held: list[str], n_elements: int, place: str) -> tuple[bytes, ...]:
        texts = tuple(message.get("string_data", ()))
        if held not in ([], ["string_data"]) or len(texts) != n_elements:
            raise self._bad("not as many texts as the shape says", place, len(texts), n_elements, code="span-size")
        return texts

    def _external(self, pairs: Sequence[Mapping[str, str]], kind: str, shape: tuple[int, ...], place: str) -> Leaf:
        entries = self._entries(pairs, place)
        beside = self._file(entries["location"], place)
        size = self.files.size(beside.path)
        needed = -(-prod(shape) * ELEMENT_TYPES[kind].bits // 8)
        offset = self._number(entries, "offset", 0, place)
        length = self._number(entries, "length", needed, place)
        if length != needed:
            raise self._bad("the length of external data does not fit the shape", place, length, needed, "span-size")
        if offset + needed > size:
            raise CorruptFile(
                "external data runs past the end of its file",
                code="span-past-end",
                path=beside.path,
                place=place,
                found=offset + needed,
                allowed=f"at most {size}",
                hint="the download may be incomplete",
            )
        if "checksum" in entries:
            self._verify(beside, entries["checksum"], place)
        beside.ranges.setdefault((offset, offset + needed), place)
        stored, encoding = stored_as(kind, shape)
        return Leaf(beside.path, offset, stored, encoding)

    def _entries(self, pairs: Sequence[Mapping[str, str]], place: str) -> dict[str, str]:
        entries: dict[str, str] = {}
        for pair in pairs:
            key, value = pair.get("key", ""), pair.get("value", "")
            if key in entries:
                raise self._bad("a key of external data stands twice", place, key, "once")
            if key == "basepath":
                raise UnsafePath("external data with a folder of its own", path=self.path, place=place, found=value)
            if key not in ("location", "offset", "length", "checksum"):
                self.notes.append(f"{place}: the key {key!r} of its external data means nothing and is left out")
            entries[key] = value
        if not entries.get("location"):
            raise self._bad("external data without a location", place, None, "a file beside the model")
        return entries

    def _number(self, entries: Mapping[str, str], key: str, default: int, place: str) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise self._bad(f"not a number of bytes in external data's {key}", place, text, "0 to 10^18")
        return int(text)

    def _file(self, location: str, place: str) -> _Beside:
        if location in self.beside:
            return self.beside[location]
        if _IN_MEMORY in location:
            raise UnsafePath(
                "external data that points into the memory of a process",
                code="in-memory",
                path=self.path,
                place=place,
                found=location,
                allowed="a file beside the model",
                hint="ONNX Runtime uses such locations inside itself; in a file they are an attack or a mistake",
            )
        if not os.path.exists(self.path):  # noqa: PTH110  a buffer in memory has no path
            raise SourceMissing("external data of a model in memory", path=self.path, place=place, found=location)
        path = self._resolved(location, place)
        if os.stat(path).st_nlink > 1:  # noqa: PTH116
            self.notes.append(f"{location} has hard links: another name may change it")
        self.beside[location] = _Beside(path)
        return self.beside[location]

    def _resolved(self, location: str, place: str) -> str:
        own = Path(self.path)
        folders = dict.fromkeys((own.parent, own.resolve().parent))
        for folder in folders:
            path = contained(folder, location, named_in=f"{self.path}: {place}")
            if path.exists():
                return str(path)
        raise SourceMissing(
            "the file with a constant's elements is missing",
            code="external-missing",
            path=self.path,
            place=place,
            found=location,
            hint="it lies beside the model and has to be downloaded with it",
        )

    def _verify(self, beside: _Beside, checksum: str, place: str) -> None:
        digest, size, at = hashlib.sha1(usedforsecurity=False), self.files.size(beside.path), 0
        while at < size:
            piece = self.files.read(beside.path, at, min(1 << 20, size - at))
            digest.update(piece)
            at += len(piece)
        if digest.hexdigest() != checksum.lower():
            raise CorruptFile(
                "the file beside the model is not the one that was written",
                code="checksum",
                path=beside.path,
                place=place,
                found=digest.hexdigest(),
                allowed=checksum,
                hint="download it again",
            )

    def _bad(self, message: str, place: str, found: object, allowed: object, code: str = "tensor") -> CorruptFile:
        return CorruptFile(message, code=code, path=self.path, place=place, found=found, allowed=allowed)


def properties(message: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The metadata_props of a message."""
    return tuple((pair.get("key", ""), pair.get("value", "")) for pair in message.get("metadata_props", ()))


def _packed(values: Sequence[int], bits: int) -> bytes:
    """Codes of a few bits as one stream, the first in the lowest bits."""
    out = bytearray()
    for first in range(0, len(values), 8):  # eight codes fill whole bytes
        group = values[first : first + 8]
        whole = sum((value & (1 << bits) - 1) << (index * bits) for index, value in enumerate(group))
        out += whole.to_bytes(-(-len(group) * bits // 8), "little")
    return bytes(out)
