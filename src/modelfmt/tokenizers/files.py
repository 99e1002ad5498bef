"""The tokenizer files of one folder, held in memory and not trusted.

JSON is decoded by msgspec (no duplicate work, no lone surrogates, no NaN) and every value is checked for its type
before it is used. All failures are CorruptFile or LimitExceeded with the file's name and the place in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import CorruptFile, LimitExceeded

__all__ = ["MAX_TOKENS", "Files", "check_vocab_size", "integer", "mapping", "sequence", "string"]

MAX_TOKENS = 1 << 22
"""The largest vocabulary that is accepted; the largest known ones have 0.3 million entries."""


class Files:
    """Tokenizer files by name, decoded once.

    >>> Files({"config.json": b'{"a": 1}'}).json("config.json")
    {'a': 1}
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._decoded: dict[str, dict[str, Any]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        return sorted(self._files)

    def bytes(self, name: str) -> bytes | None:
        return self._files.get(name)

    def first(self, *names: str) -> str | None:
        """The first of these names that is there."""
        return next((name for name in names if name in self._files), None)

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty where there is no such file. Treat it as read-only: it is shared."""
        if name not in self._decoded:
            raw = self._files.get(name)
            self._decoded[name] = {} if raw is None else mapping(_decode(raw, name), path=name, place="top level")
        return self._decoded[name]

    def replaced(self, name: str, value: dict[str, Any]) -> Files:
        """The same files, with another object for one of JSON."""
        files = Files({**self._files, name: b""})
        files._decoded = {**self._decoded, name: value}
        return files

    def text(self, name: str) -> str | None:
        """A UTF-8 text file (a byte order mark is dropped); None where there is no such file."""
        raw = self._files.get(name)
        if raw is None:
            return None
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorruptFile(
                "not UTF-8",
                code="not-utf8",
                path=name,
                place=f"byte {error.start}",
                found=raw[error.start],
                allowed="UTF-8 text",
            ) from None


def mapping(value: Any, *, path: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong_type(value, "an object", path, place)
    return value


def sequence(value: Any, *, path: str, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong_type(value, "a list", path, place)
    return value


def string(value: Any, *, path: str, place: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "a string", path, place)
    return value


def integer(value: Any, *, path: str, place: str, below: int = MAX_TOKENS) -> int:
    """A whole number in [0, below)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, "a whole number", path, place)
    if not 0 <= value < below:
        raise CorruptFile(
            "a number is out of range",
            code="id-range",
            path=path,
            place=place,
            found=value,
            allowed=f"0 to {below - 1}",
        )
    return value


def check_vocab_size(value: Any, *, path: str = "config.json", place: str = "vocab_size") -> int:
    """A vocabulary size; LimitExceeded beyond MAX_TOKENS, so that a claim alone cannot fill the memory."""
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_TOKENS:
        raise LimitExceeded(
            "the vocabulary is too large",
            code="vocab-size",
            path=path,
            place=place,
            found=value,
            allowed=f"at most {MAX_TOKENS}",
        )
    return integer(value, path=path, place=place, below=MAX_TOKENS + 1)


def _decode(raw: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise LimitExceeded(
            "JSON nested too deeply", code="json-depth", path=name, hint="no tokenizer file is nested so deeply"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise CorruptFile(f"not valid JSON: {error}", code="bad-json", path=name) from None


def _wrong_type(value: Any, allowed: str, path: str, place: str) -> CorruptFile:
    return CorruptFile(
        "wrong type in JSON", code="json-type", path=path, place=place, found=type(value).__name__, allowed=allowed
    )
