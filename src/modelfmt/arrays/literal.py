"""A literal of Python, as `.npy` headers have it: dict, list, tuple, text, integer, True, False, None; nothing else.

Source: numpy/lib/_format_impl.py (write_array_header_1_0: `repr` of a dict). A scanner of tokens and a stack; neither
`eval` nor `ast`. Nesting, tokens and the digits of an integer are bounded, and a key given twice is refused.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["LiteralError", "parse"]

MAX_DEPTH = 32
MAX_TOKENS = 200_000
MAX_DIGITS = 20

_TOKEN = re.compile(
    r"\s*(?:(?P<text>[bu]?'(?:[^'\\\n]|\\.)*'|[bu]?\"(?:[^\"\\\n]|\\.)*\")|(?P<number>-?[0-9]+)L?"
    r"|(?P<word>True|False|None)|(?P<mark>[{}\[\](),:]))"
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_WORDS = {"True": True, "False": False, "None": None}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class LiteralError(ValueError):
    """Not a literal of the kinds above; args[0] says why, args[1] is the offset."""


class _Frame:
    """A bracket that is open. comma: a value may come now; parts: its values, keys and values in turn."""

    __slots__ = ("comma", "opening", "parts")

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.parts: list[Any] = []
        self.comma = True


def parse(text: str) -> Any:
    """The value of a literal. Raises LiteralError.

    >>> parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }")
    {'descr': '<f4', 'fortran_order': False, 'shape': (3,)}
    """
    root = _Frame("")
    frames = [root]
    at = 0
    for _ in range(MAX_TOKENS):
        match = _TOKEN.match(text, at)
        if match is None:
            break
        begin, at = at, match.end()
        mark = match["mark"]
        if mark is None:
            _put(frames[-1], _value(match, begin), begin)
        elif mark in _CLOSING:
            if len(frames) > MAX_DEPTH:
                raise LiteralError("nested too deeply", begin)
            frames.append(_Frame(mark))
        elif mark in (",", ":"):
            _separate(frames[-1], mark, begin)
        else:
            frame = frames.pop()
            if not frames or _CLOSING.get(frame.opening) != mark:
                raise LiteralError("a bracket that does not fit", begin)
            _put(frames[-1], _closed(frame, begin), begin)
    if text[at:].strip() or len(frames) != 1 or len(root.parts) != 1:
        raise LiteralError("not one literal", at)
    return root.parts[0]


def _value(match: re.Match[str], at: int) -> Any:
    if match["word"] is not None:
        return _WORDS[match["word"]]
    if match["number"] is not None:
        if len(match["number"]) > MAX_DIGITS:
            raise LiteralError("an integer of too many digits", at)
        return int(match["number"])
    return _ESCAPE.sub(lambda found: _character(found, at), match["text"].lstrip("bu")[1:-1])


def _character(match: re.Match[str], at: int) -> str:
    code = match[1]
    if len(code) == 1:
        if code not in _ESCAPED:
            raise LiteralError("an unknown escape", at)
        return _ESCAPED[code]
    number = int(code[1:], 16)
    if number > 0x10FFFF:
        raise LiteralError("a character that does not exist", at)
    return chr(number)


def _put(frame: _Frame, value: Any, at: int) -> None:
    if not frame.comma:
        raise LiteralError("a separator is missing", at)
    frame.parts.append(value)
    frame.comma = False


def _separate(frame: _Frame, mark: str, at: int) -> None:
    after_key = frame.opening == "{" and len(frame.parts) % 2 == 1
    if frame.comma or not frame.opening or (mark == ":") != after_key:
        raise LiteralError("a separator out of place", at)
    frame.comma = True


def _closed(frame: _Frame, at: int) -> Any:
    parts = frame.parts
    if frame.opening == "[":
        return parts
    if frame.opening == "(":
        return tuple(parts) if frame.comma or len(parts) != 1 else parts[0]
    if len(parts) % 2 or (parts and not all(isinstance(key, str) for key in parts[::2])):
        raise LiteralError("keys that are no texts, or without a value", at)
    made = dict(zip(parts[::2], parts[1::2], strict=True))
    if len(made) * 2 != len(parts):
        raise LiteralError("a key is given twice", at)
    return made
