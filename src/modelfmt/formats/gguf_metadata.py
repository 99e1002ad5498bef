"""GGUF key-values: reading them front to back without decoding arrays, and writing them.

Source: the GGUF specification, versions 1 to 3, and ggml's gguf.cpp. Arrays stay bytes until an element is asked for: a
vocabulary of 150,000 strings is stepped over, not built. Arrays of arrays are refused, as ggml does.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, Any, overload

from modelfmt._kernels import skip_strings
from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError, UsageError
from modelfmt.formats.gguf_tables import VALUE_TYPES
from modelfmt.storage.files import Files

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cursor", "GgufArray", "encode_string", "encode_value", "read_value"]

HEADER_LIMIT = 1 << 28

# struct codes of the scalars; a bool is read as a byte so that 2 can be refused
_CODES = {
    "UINT8": "B",
    "INT8": "b",
    "UINT16": "H",
    "INT16": "h",
    "UINT32": "I",
    "INT32": "i",
    "FLOAT32": "f",
    "BOOL": "B",
    "UINT64": "Q",
    "INT64": "q",
    "FLOAT64": "d",
}
_SCALARS = {(name, big): Struct((">" if big else "<") + code) for name, code in _CODES.items() for big in (False, True)}
_FIRST_READ = 1 << 18
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Cursor:
    """Steps through the header of a file. What is held in memory grows with what is asked for, never beyond the file.

    width: bytes of a count or length (4 in version 1, else 8). big: byte order.
    """

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self.size = files.size(path)
        self.at = 0
        self.big = False
        self.width = 8
        self._files = files
        self.buffer = files.read(path, 0, min(self.size, _FIRST_READ))

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return self.size - self.at

    def take(self, size: int, what: str) -> bytes:
        """The next bytes."""
        self._need(self.at + size, what)
        self.at += size
        return self.buffer[self.at - size : self.at]

    def number(self, type_name: str, what: str) -> int:
        """The next number of an integer type."""
        row = _SCALARS[type_name, self.big]
        found: int = row.unpack(self.take(row.size, what))[0]
        return found

    def count(self, what: str, *, least: int) -> int:
        """A count of things of at least `least` bytes each: no count may promise more than the file holds."""
        place = self.at
        found = self.number("UINT64" if self.width == 8 else "UINT32", what)
        if found * least > self.left:
            raise CorruptFile(
                f"{what}: more than the file can hold",
                code="count",
                path=self.path,
                place=f"byte {place}",
                found=found,
                allowed=f"at most {self.left // least}",
            )
        return found

    def string(self, what: str, *, at_most: int | None = None) -> str:
        """The next string: its length, then UTF-8."""
        place = self.at
        size = self.count(what, least=1)
        if at_most is not None and size > at_most:
            raise LimitExceeded(
                f"{what} is too long",
                code="name-length",
                path=self.path,
                place=f"byte {place}",
                found=size,
                allowed=f"at most {at_most} bytes",
            )
        try:
            return self.take(size, what).decode()
        except UnicodeDecodeError as error:
            raise CorruptFile(
                f"{what} is not UTF-8", code="not-utf8", path=self.path, place=f"byte {place}", found=str(error)
            ) from None

    def name(self, what: str, *, at_most: int) -> str:
        """A string that names something: not empty, no control characters."""
        place = self.at
        found = self.string(what, at_most=at_most)
        if not found or _CONTROL.search(found):
            raise CorruptFile(
                f"{what} is empty or holds control characters",
                code="name",
                path=self.path,
                place=f"byte {place}",
                found=repr(found),
            )
        return found

    def strings(self, n: int, what: str) -> bytes:
        """The bytes of n strings, lengths included."""
        begin = at = self.at
        length, left = _SCALARS["UINT64" if self.width == 8 else "UINT32", self.big].unpack_from, n
        while True:
            done, at = skip_strings(self.buffer, at, left, self.width, self.big)
            left -= done
            if not left:
                break
            self._need(at + self.width, what)
            self._need(at + self.width + length(self.buffer, at)[0], what)
        self.at = at
        return self.buffer[begin:at]

    def _need(self, end: int, what: str) -> None:
        """Have the bytes up to `end` in the buffer."""
        if end <= len(self.buffer):
            return
        if end > self.size:
            raise CorruptFile(
                f"the file ends within {what}",
                code="header-cut",
                path=self.path,
                place=f"byte {self.at}",
                found=f"{self.size} bytes",
                allowed=f"at least {end}",
                hint="the download may be incomplete",
            )
        if end > HEADER_LIMIT:
            raise LimitExceeded(
                "the header is too long",
                code="header-size",
                path=self.path,
                place=f"byte {self.at}",
                found=end,
                allowed=f"at most {HEADER_LIMIT} bytes",
            )
        have = len(self.buffer)
        wanted = min(max(end, 4 * have), self.size, HEADER_LIMIT)
        self.buffer += self._files.read(self.path, have, wanted - have)


class GgufArray(Sequence[Any]):
    """An array as it stands in the file: `type` ("STRING", "INT32" ...) and `raw` bytes, decoded when asked for.

    >>> GgufArray.of("INT32", [1, -1])[1]
    -1
    """

    __slots__ = ("_begins", "_n", "big", "place", "raw", "type", "width")

    def __init__(
        self,
        type_name: str,
        n: int,
        raw: bytes,
        *,
        big: bool = False,
        width: int = 8,
        place: tuple[str, str] = ("", ""),
    ) -> None:
        self.type = type_name
        self.raw = raw
        self.big = big
        self.width = width
        self.place = place
        self._n = n
        self._begins: array[int] | None = None

    @classmethod
    def of(cls, type_name: str, values: Sequence[Any]) -> GgufArray:
        """An array of these values."""
        return cls(type_name, len(values), _encode_items("", type_name, values))

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        i = range(self._n)[index]
        if self.type == "STRING":
            begin = self._string_begins()[i]
            return self._decode(self.raw[begin + self.width : begin + self.width + self._size_at(begin)], i)
        row = _SCALARS[self.type, self.big]
        value = row.unpack_from(self.raw, i * row.size)[0]
        return bool(value) if self.type == "BOOL" else value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GgufArray):
            same_form = (self.type, self.big, self.width) == (other.type, other.big, other.width)
            return self.raw == other.raw if same_form else self.type == other.type and self.tolist() == other.tolist()
        return isinstance(other, list) and self.tolist() == other

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __repr__(self) -> str:
        return f"GgufArray({self.type}, {self._n})"

    def tolist(self) -> list[Any]:
        """Every element, as str, int, float or bool. Raises CorruptFile for a string that is not UTF-8."""
        if self.type == "STRING":
            try:
                return [item.decode() for item in self.items()]
            except UnicodeDecodeError:
                return [self._decode(item, i) for i, item in enumerate(self.items())]
        order = ">" if self.big else "<"
        values = list(Struct(f"{order}{self._n}{_CODES[self.type]}").unpack(self.raw))
        return [value != 0 for value in values] if self.type == "BOOL" else values

    def items(self) -> Iterator[bytes]:
        """The bytes of every string, whatever their encoding."""
        raw, width = self.raw, self.width
        unpack = self._length().unpack_from
        at = 0
        for _ in range(self._n):
            begin = at + width
            at = begin + unpack(raw, at)[0]
            yield raw[begin:at]

    def numpy(self) -> NDArray[Any]:
        """A numeric array as a read-only NumPy view of the bytes."""
        import numpy as np

        if self.type == "STRING":
            raise UsageError("strings have no numeric array", code="no-array-type", place=self.place[1])
        code = "?" if self.type == "BOOL" else _CODES[self.type]
        return np.frombuffer(self.raw, np.dtype(code).newbyteorder(">" if self.big else "<"))

    def little(self) -> bytes:
        """The elements as a version 3 little-endian file stores them."""
        if not self.big and (self.width == 8 or self.type != "STRING"):
            return self.raw
        if self.type == "STRING":
            return b"".join(len(item).to_bytes(8, "little") + item for item in self.items())
        return _encode_items(self.place[1], self.type, self.tolist())

    def _length(self) -> Struct:
        return _SCALARS["UINT64" if self.width == 8 else "UINT32", self.big]

    def _size_at(self, begin: int) -> int:
        found: int = self._length().unpack_from(self.raw, begin)[0]
        return found

    def _string_begins(self) -> array[int]:
        if self._begins is None:
            self._begins = array("Q", bytes(8 * self._n))
            skip_strings(self.raw, 0, self._n, self.width, self.big, self._begins)
        return self._begins

    def _decode(self, item: bytes, i: int) -> str:
        try:
            return item.decode()
        except UnicodeDecodeError:
            path, key = self.place
            raise CorruptFile(
                "a string is not UTF-8", code="not-utf8", path=path, place=f"{key}[{i}]", found=item[:40]
            ) from None


def read_value(cursor: Cursor, key: str) -> tuple[str, Any]:
    """The type name and the value that stand at the cursor: a plain value, or a GgufArray ("ARRAY:STRING" ...)."""
    type_name = _type(cursor, key)
    if type_name != "ARRAY":
        return type_name, _scalar(cursor, type_name, key)
    item = _type(cursor, key)
    if item == "ARRAY":
        raise UnsupportedError(
            "an array of arrays",
            code="nested-array",
            path=cursor.path,
            place=key,
            hint="no known program writes or reads these",
        )
    if item == "STRING":
        n = cursor.count(key, least=cursor.width)
        raw = cursor.strings(n, key)
    else:
        size = _SCALARS[item, cursor.big].size
        n = cursor.count(key, least=size)
        raw = cursor.take(n * size, key)
        if item == "BOOL" and raw.translate(None, b"\0\1"):
            raise _bad_bool(cursor, key)
    return f"ARRAY:{item}", GgufArray(item, n, raw, big=cursor.big, width=cursor.width, place=(cursor.path, key))


def encode_value(key: str, type_name: str, value: Any) -> bytes:
    """Type and value as a little-endian version 3 file stores them. Raises UsageError for a value that does not fit."""
    kind, _, item = type_name.partition(":")
    if (
        kind not in VALUE_TYPES
        or (kind == "ARRAY") != bool(item)
        or (item and (item not in VALUE_TYPES or item == "ARRAY"))
    ):
        raise UsageError(
            "no such metadata type",
            code="value-type",
            place=key,
            found=type_name,
            allowed=", ".join((*VALUE_TYPES, "ARRAY:STRING ...")),
        )
    head = VALUE_TYPES.index(kind).to_bytes(4, "little")
    if kind != "ARRAY":
        return head + _encode_items(key, kind, (value,))
    if isinstance(value, GgufArray) and value.type != item:
        raise _unfit(key, type_name, value)
    if isinstance(value, str) or not hasattr(value, "__len__") or (isinstance(value, bytes) and item != "UINT8"):
        raise _unfit(key, type_name, value)
    if isinstance(value, bytes):
        body = value
    else:
        body = value.little() if isinstance(value, GgufArray) else _encode_items(key, item, value)
    return head + VALUE_TYPES.index(item).to_bytes(4, "little") + len(value).to_bytes(8, "little") + body


def encode_string(text: str) -> bytes:
    """A string as a version 3 file stores it."""
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _encode_items(key: str, type_name: str, values: Sequence[Any]) -> bytes:
    is_bool = type_name == "BOOL"
    wrong: Callable[[Any], bool] = (
        (lambda value: not isinstance(value, bool)) if is_bool else (lambda value: isinstance(value, bool))
    )
    for value in values:
        if wrong(value):
            raise _unfit(key, type_name, value)
    try:
        if type_name == "STRING":
            return b"".join(map(encode_string, values))
        return Struct(f"<{len(values)}{_CODES[type_name]}").pack(*values)
    except (struct_error, OverflowError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise _unfit(key, type_name, next(iter(values)) if len(values) == 1 else str(error)) from None


def _unfit(key: str, type_name: str, value: object) -> UsageError:
    return UsageError(
        "a metadata value does not fit its type",
        code="value-range",
        place=key,
        found=repr(value)[:80],
        allowed=type_name,
    )


def _type(cursor: Cursor, key: str) -> str:
    found = cursor.number("UINT32", key)
    if found >= len(VALUE_TYPES):
        raise CorruptFile(
            "an unknown type of value",
            code="value-type",
            path=cursor.path,
            place=key,
            found=found,
            allowed=f"0 to {len(VALUE_TYPES) - 1}",
        )
    return VALUE_TYPES[found]


def _scalar(cursor: Cursor, type_name: str, key: str) -> Any:
    if type_name == "STRING":
        return cursor.string(key)
    row = _SCALARS[type_name, cursor.big]
    value = row.unpack(cursor.take(row.size, key))[0]
    if type_name != "BOOL":
        return value
    if value > 1:
        raise _bad_bool(cursor, key)
    return bool(value)


def _bad_bool(cursor: Cursor, key: str) -> CorruptFile:
    return CorruptFile("a boolean that is neither 0 nor 1", code="bool", path=cursor.path, place=key)
