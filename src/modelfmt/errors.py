"""Every error that modelfmt raises.

    ModelfmtError                 the root; nothing else leaves the library
     +- UsageError                the call itself is wrong (an option, a type name)           exit 2
     +- SourceMissing             a path that cannot be read                                  exit 3
     +- CorruptFile               the bytes contradict their own format                       exit 4
     |   +- UnsafePath            a name in a file that leads out of its folder               exit 4
     +- LimitExceeded             a count, size or depth beyond what is accepted              exit 4
     +- UnsupportedError          well-formed, but not something modelfmt can express         exit 5
     +- DestinationExists         the destination is there and overwrite was not asked for    exit 6
     +- NoSpace                   the disk is full or too small                               exit 6
     +- OutputError               writing failed for another reason                           exit 6
     +- LossyError                a loss that the caller did not allow                        exit 7
     +- ArrayError                an array given to quantize or dequantize
         +- ShapeError            its shape does not fit the type                             exit 2
         +- BadValue              NaN or infinity where a quantizer needs a number            exit 4

Each error says what is wrong, where (file and place), what was found, what is allowed, and what to do. The parts are
attributes; `code` is stable kebab-case and meant for programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "ArrayError",
    "BadValue",
    "CorruptFile",
    "DestinationExists",
    "LimitExceeded",
    "LossyError",
    "ModelfmtError",
    "NoSpace",
    "OutputError",
    "ShapeError",
    "SourceMissing",
    "UnsafePath",
    "UnsupportedError",
    "UsageError",
]


class ModelfmtError(Exception):
    """The root of the tree.

    message: one sentence, no trailing full stop. code: stable identifier, kebab-case. path: the file. place: where in
    it (a byte offset, a key, a tensor name). found, allowed: the offending value and what would have been accepted.
    hint: what the reader can do about it. Further keywords are kept in `context`.

    >>> str(CorruptFile("the header is cut off", code="header-cut", path="a.gguf", found=12, allowed="24 bytes"))
    'a.gguf: the header is cut off (found 12, allowed 24 bytes) [header-cut]'
    """

    exit_code = 70
    default_code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        path: object = None,
        place: object = None,
        found: object = None,
        allowed: object = None,
        hint: str | None = None,
        **context: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.path = None if path is None else str(path)
        self.place = place
        self.found = found
        self.allowed = allowed
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        where = ": ".join(printable(str(part)) for part in (self.path, self.place) if part is not None)
        facts = [f"{word} {printable(str(value))}" for word, value in self._facts() if value is not None]
        text = printable(self.message) + (f" ({', '.join(facts)})" if facts else "")
        text = f"{where}: {text}" if where else text
        text = f"{text} [{self.code}]"
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, for `--json`: code, message and every part that is known."""
        parts = {
            "path": self.path,
            "place": self.place,
            "found": self.found,
            "allowed": self.allowed,
            "hint": self.hint,
        }
        parts |= self.context
        known = {key: _plain(value) for key, value in parts.items() if value is not None}
        return {"code": self.code, "message": self.message, **known}

    def _facts(self) -> tuple[tuple[str, object], ...]:
        return (("found", self.found), ("allowed", self.allowed))


class UsageError(ModelfmtError):
    """The call itself is wrong: an unknown type name, options that exclude each other."""

    exit_code = 2
    default_code = "usage"


class SourceMissing(ModelfmtError):
    """A source path does not exist or cannot be read."""

    exit_code = 3
    default_code = "source-missing"


class CorruptFile(ModelfmtError):
    """The bytes of a file contradict its format."""

    exit_code = 4
    default_code = "corrupt"


class UnsafePath(CorruptFile):
    """A file names another file outside the folder that it may speak of."""

    default_code = "unsafe-path"


class LimitExceeded(ModelfmtError):
    """A count, a size or a nesting depth beyond what modelfmt accepts from a file."""

    exit_code = 4
    default_code = "limit"


class UnsupportedError(ModelfmtError):
    """Well-formed input that modelfmt cannot express in the destination; `context["missing"]` lists what is missing."""

    exit_code = 5
    default_code = "unsupported"


class DestinationExists(ModelfmtError):
    """The destination is there already."""

    exit_code = 6
    default_code = "destination-exists"


class NoSpace(ModelfmtError):
    """The destination's disk is full, or too small for what is planned."""

    exit_code = 6
    default_code = "no-space"


class OutputError(ModelfmtError):
    """Writing the destination failed."""

    exit_code = 6
    default_code = "output"


class LossyError(ModelfmtError):
    """The conversion would lose something and the caller did not allow that."""

    exit_code = 7
    default_code = "lossy"


class ArrayError(ModelfmtError):
    """An array that does not fit what is asked of it."""

    exit_code = 2
    default_code = "array"


class ShapeError(ArrayError):
    """The shape of an array does not fit the block of the type."""

    default_code = "shape"


class BadValue(ArrayError):
    """NaN or infinity where a quantizer needs a finite number; `context` has row and column."""

    exit_code = 4
    default_code = "bad-value"

    @classmethod
    @contextmanager
    def of(cls, tensor: str) -> Iterator[None]:
        """Errors of this kind that do not say where they are get the name of a tensor.

        >>> with BadValue.of("blk.0.ffn_up.weight"):
        ...     raise BadValue("a scale that is not finite", found="NaN")
        Traceback (most recent call last):
        modelfmt.errors.BadValue: blk.0.ffn_up.weight: a scale that is not finite (found NaN) [bad-value]
        """
        try:
            yield
        except cls as error:
            error.path = error.path or tensor
            raise


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float) else str(value)


def printable(text: str) -> str:
    """Text from a file, safe on a terminal: control characters are escaped.

    >>> printable("a\\x1b[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
