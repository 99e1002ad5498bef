"""NumPy's element types: what a type string or a description says, as one of four records.

Source: NumPy's arrays.dtypes and array interface (typestr), numpy/lib/_format_impl.py (dtype_to_descr). Dense types
have an encoding; texts are code points; structures have fields; everything else (objects, dates, raw bytes) has a name
only.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from modelfmt.ir.encoding import ENCODINGS

__all__ = ["CLASSES", "DESCRIPTIONS", "Dtype", "Element", "Field", "Other", "Struct", "TextType", "described", "named"]

MAX_FIELDS = 1024
MAX_NESTED = 8
MAX_ITEM = 1 << 40

# fmt: off
_ENCODINGS = {
    "b1": "BOOL", "?": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16", "u4": "U32",
    "u8": "U64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}
DESCRIPTIONS = {
    "BOOL": "|b1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "U16": "<u2", "U32": "<u4",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8", "C128": "<c16",
}
"""Encoding -> the type string that NumPy writes for it."""
CLASSES = {
    "ml_dtypes.bfloat16": "BF16", "ml_dtypes.float8_e4m3fn": "F8_E4M3", "ml_dtypes.float8_e5m2": "F8_E5M2",
    "ml_dtypes.float8_e4m3fnuz": "F8_E4M3FNUZ", "ml_dtypes.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "ml_dtypes.float8_e8m0fnu": "F8_E8M0",
}
"""Scalar class -> encoding, for types that NumPy has from elsewhere."""
# fmt: on
_TYPE_STRING = re.compile(r"([<>|=]?)([?a-zA-Z])([0-9]{0,12})(\[[0-9a-zA-Z]{1,8}\])?")


class Dtype(msgspec.Struct, frozen=True):
    """An element type with an encoding, and whether it is big-endian."""

    encoding: str
    big: bool = False

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return ENCODINGS[self.encoding].block_bytes


class TextType(msgspec.Struct, frozen=True):
    """Text of a fixed width: code points of 4 bytes (unicode), or bytes."""

    width: int
    unicode: bool
    big: bool = False

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return self.width * (4 if self.unicode else 1)


class Field(msgspec.Struct, frozen=True):
    """A field of a structure. shape: of an array inside the structure, else ()."""

    name: str
    offset: int
    element: Element
    shape: tuple[int, ...] = ()


class Struct(msgspec.Struct, frozen=True):
    """A structure of `size` bytes."""

    fields: tuple[Field, ...]
    size: int


class Other(msgspec.Struct, frozen=True):
    """A type without an encoding. name: NumPy's. size: bytes of an element; None for objects."""

    name: str
    size: int | None


Element = Dtype | TextType | Struct | Other


def named(text: str, order: str = "") -> Element | None:
    """The type that a type string (`<f4`, `|S10`) says; None where it is no type string.

    order: a byte order that counts where the string has none.

    >>> named(">f4"), named("<U3")
    (Dtype(encoding='F32', big=True), TextType(width=3, unicode=True, big=False))
    """
    match = _TYPE_STRING.fullmatch(text)
    if match is None:
        return None
    big = (match[1] or order) == ">"
    kind, digits = match[2], match[3]
    name = kind + digits
    if name in _ENCODINGS and not match[4]:
        return Dtype(_ENCODINGS[name], big and ENCODINGS[_ENCODINGS[name]].block_bytes > 1)
    if kind in "USa" and int(digits or 0) < MAX_ITEM:
        return TextType(int(digits or 0), kind == "U", big)
    if kind == "O":
        return Other("object", None)
    if kind in "mMVfgcGiu" and digits and int(digits) < MAX_ITEM:
        return Other(name + (match[4] or ""), int(digits))
    return None


def described(descr: Any, depth: int = 0) -> Element | None:
    """The type that the `descr` of an `.npy` header says: a type string, or fields (name, descr[, shape]) in a row.

    None where it is no description.
    """
    if isinstance(descr, str):
        return named(descr)
    if not isinstance(descr, list) or depth > MAX_NESTED or len(descr) > MAX_FIELDS:
        return None
    fields: list[Field] = []
    offset = 0
    for row in descr:
        if not isinstance(row, tuple) or not 2 <= len(row) <= 3:
            return None
        name = row[0][1] if isinstance(row[0], tuple) and len(row[0]) == 2 else row[0]
        element = described(row[1], depth + 1)
        shape = row[2] if len(row) == 3 else ()
        shape = (shape,) if type(shape) is int else shape
        size = field_bytes(element, shape)
        if not isinstance(name, str) or element is None or size is None:
            return None
        if name:  # fields without a name are padding
            fields.append(Field(name, offset, element, shape))
        offset += size
    if len({field.name for field in fields}) != len(fields) or offset >= MAX_ITEM:
        return None
    return Struct(tuple(fields), offset)


def field_bytes(element: Element | None, shape: Any) -> int | None:
    """Bytes of a field; None where it has no fixed size or no proper shape."""
    if element is None or element.size is None or not isinstance(shape, tuple) or len(shape) > 32:
        return None
    size = element.size
    for n in shape:
        if type(n) is not int or not 0 <= n < MAX_ITEM:
            return None
        size *= n
        if size >= MAX_ITEM:
            return None
    return size
