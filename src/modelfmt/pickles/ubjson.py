"""Universal Binary JSON, draft 12, as XGBoost writes it: objects, arrays, typed arrays as tensors, texts, numbers.

Source: ubjson.org (type reference, container types), XGBoost's src/common/json.cc (UBJReader, UBJWriter). Typed arrays
stay where they lie (big-endian). Nesting and the number of values are bounded; lengths are checked by the stream.
"""

from __future__ import annotations

import struct
from typing import Any

from modelfmt.arrays.values import Make
from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import Leaf
from modelfmt.pickles.stream import Stream
from modelfmt.storage.region import Region

__all__ = ["parse"]

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
MAX_TEXT = 64 << 20

_NUMBERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_ARRAYS = {b"i": "I8", b"U": "U8", b"I": "I16", b"l": "I32", b"L": "I64", b"d": "F32", b"D": "F64"}
_WORDS = {b"T": True, b"F": False, b"Z": None}


def parse(region: Region, make: Make) -> Any:
    """The value that a region holds, all of it. Raises CorruptFile, LimitExceeded."""
    reader = _Reader(region, make)
    value = reader.value(reader.marker(), 0)
    if reader.stream.left:
        raise reader.corrupt("bytes follow the value")
    return value


class _Reader:
    def __init__(self, region: Region, make: Make) -> None:
        self.stream = Stream(region)
        self.make = make
        self.count = 0

    def corrupt(self, message: str, found: object = None) -> CorruptFile:
        region = self.stream.region
        place = f"byte {region.start + self.stream.at}"
        return CorruptFile(message, code="ubjson", path=region.path, place=place, found=found)

    def marker(self) -> bytes:
        """The next marker; no-ops do not count."""
        found = self.stream.take(1)
        while found == b"N":
            found = self.stream.take(1)
        return found

    def value(self, marker: bytes, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            raise LimitExceeded(
                "a value of UBJSON is nested too deeply, or has too many parts",
                code="ubjson-size",
                path=self.stream.region.path,
                allowed=f"{MAX_DEPTH} levels, {MAX_VALUES} values",
            )
        if marker in _NUMBERS:
            return self.number(marker)
        if marker in _WORDS:
            return _WORDS[marker]
        if marker == b"S":
            return self.text()
        if marker == b"C":
            return self.stream.take(1).decode("latin-1")
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.object(depth)
        raise self.corrupt("a marker that is none", marker)

    def number(self, marker: bytes) -> Any:
        form = _NUMBERS[marker]
        return struct.unpack(form, self.stream.take(struct.calcsize(form)))[0]

    def length(self) -> int:
        """A length: an integer with its marker."""
        marker = self.stream.take(1)
        found = self.number(marker) if marker in _NUMBERS and marker not in b"dD" else -1
        if found < 0 or found > self.stream.region.size:
            raise self.corrupt("a length that is none", found)
        return int(found)

    def text(self) -> str:
        size = self.length()
        if size > MAX_TEXT:
            raise self.corrupt("a text that is too long", size)
        data = self.stream.take(size)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.corrupt("a text that is not UTF-8", data[:20]) from None

    def head(self) -> tuple[bytes | None, int | None, bytes]:
        """Type and count of a container where it says them, and the next marker where it does not."""
        marker = self.marker()
        kind = None
        if marker == b"$":
            kind = self.stream.take(1)
            marker = self.stream.take(1)
            if marker != b"#":
                raise self.corrupt("a typed container without a count", marker)
        if marker == b"#":
            return kind, self.length(), b""
        return kind, None, marker

    def array(self, depth: int) -> Any:
        kind, count, marker = self.head()
        if kind is not None:
            if kind not in _ARRAYS or count is None:
                raise self.corrupt("an array of a type that is no number", kind)
            encoding = _ARRAYS[kind]
            place = self.stream.skip(count * ENCODINGS[encoding].block_bytes)
            return self.make(Leaf(place.path, place.start, (count,), encoding, ENCODINGS[encoding].block_bytes > 1))
        items: list[Any] = []
        if count is not None:
            for _ in range(count):
                items.append(self.value(self.marker(), depth + 1))
            return items
        while marker != b"]":
            items.append(self.value(marker, depth + 1))
            marker = self.marker()
        return items

    def object(self, depth: int) -> dict[str, Any]:
        kind, count, marker = self.head()
        if kind is not None:
            raise self.corrupt("a typed object", kind)
        found: dict[str, Any] = {}
        left = count
        while left is None or left > 0:
            if left is None:
                if marker == b"}":
                    break
                self.stream.seek(self.stream.at - 1)
            key = self.text()
            if key in found:
                raise self.corrupt("a key is given twice", key[:80])
            found[key] = self.value(self.marker(), depth + 1)
            if left is None:
                marker = self.marker()
            else:
                left -= 1
        return found
