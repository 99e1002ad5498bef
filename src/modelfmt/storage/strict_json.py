"""JSON from untrusted files: bounded size and depth, no repeated keys, no error but CorruptFile and LimitExceeded.

Source: RFC 8259. Not for huge documents: values are built as ordinary Python objects.
"""

from __future__ import annotations

import re
from typing import Any

from modelfmt.errors import CorruptFile, LimitExceeded

__all__ = ["MAX_DEPTH", "check_depth", "parse", "skeleton"]

MAX_DEPTH = 64

_STRUCTURE = b'"{}[]:'
_REST = bytes(set(range(256)) - set(_STRUCTURE))
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(text: bytes, *, path: object, place: object = None, at_most: int = 64 << 20, non_finite: bool = False) -> Any:
    """The value of a JSON text. non_finite: NaN and Infinity are numbers (Python writes them into configurations).

    Raises LimitExceeded (size, depth), CorruptFile (not UTF-8, not JSON, a key given twice, a lone surrogate).

    >>> parse(b'{"a": [1, 2]}', path="x.json")
    {'a': [1, 2]}
    """
    import json

    if len(text) > at_most:
        raise LimitExceeded(
            "the JSON text is too long",
            code="json-size",
            path=path,
            place=place,
            found=len(text),
            allowed=f"at most {at_most} bytes",
        )
    marks = skeleton(text)
    check_depth(marks, path=path, place=place)
    _check_density(marks, len(text), path=path, place=place)

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _repeated(pairs, path, place)
        return found

    def constant(word: str) -> float:
        if not non_finite:
            raise CorruptFile("a number that is not finite", code="json-constant", path=path, place=place, found=word)
        return float(word)

    try:
        value = json.loads(text.decode(), object_pairs_hook=members, parse_constant=constant)
        if _LONE_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptFile("not valid JSON in UTF-8", code="json", path=path, place=place, found=str(error)) from None
    return value


def skeleton(text: bytes) -> bytes:
    """The brackets, braces and colons of a JSON text, without those inside its strings.

    >>> skeleton(b'{"a{": [1, {"b": 2}]}')
    b'{:[{:}]}'
    """
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = text.translate(None, _REST).replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2])


def check_depth(marks: bytes, *, path: object, place: object = None) -> None:
    """Raise LimitExceeded where a skeleton nests deeper than MAX_DEPTH; linear time, no recursion."""
    marks = marks.replace(b":", b"")
    for _ in range(MAX_DEPTH):
        shorter = marks.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(marks):
            break
        marks = shorter
    if marks.count(b"[") + marks.count(b"{") > MAX_DEPTH or b"[]" in marks or b"{}" in marks:
        raise LimitExceeded(
            "JSON nested too deep", code="json-depth", path=path, place=place, allowed=f"{MAX_DEPTH} levels"
        )


def _check_density(marks: bytes, size: int, *, path: object, place: object) -> None:
    """Raise where a text is hardly more than brackets: each empty list of three bytes would cost sixty in memory."""
    found, allowed = marks.count(b"[") + marks.count(b"{"), 4096 + size // 10
    if found > allowed:
        raise LimitExceeded(
            "too many lists and objects for the length of the JSON text",
            code="json-density",
            path=path,
            place=place,
            found=found,
            allowed=f"at most {allowed}",
        )


def _repeated(pairs: list[tuple[str, Any]], path: object, place: object) -> CorruptFile:
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return CorruptFile(
        "a key is given twice",
        code="duplicate-key",
        path=path,
        place=place,
        found=twice,
        hint="programs disagree on which of the two counts; the file cannot be trusted",
    )
