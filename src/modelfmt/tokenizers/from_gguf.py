"""A tokenizer from GGUF metadata: the inverse of `gguf`, by the same tables, with every length and id checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CorruptFile, LimitExceeded, UnsupportedError
from ..ir.tokenizer import MODELS, Note, Tokenizer, TokenType
from .files import MAX_TOKENS
from .gguf import FIELDS, IDS

__all__ = ["from_metadata"]

_PATH = "metadata"
_PREFIX = "tokenizer.ggml."
_NONE = ("none", "no_vocab")
_LISTS = {"tokens": str, "merges": str, "token_types": int, "scores": float}
_SCALARS = {"STRING": str, "BOOL": bool, "UINT32": int}
_READ_IDS = {**IDS, "cls": "cls_token_id"}


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that a GGUF file's `tokenizer.*` keys describe; None where it has none.

    Raises CorruptFile (a wrong type, length or id), LimitExceeded, UnsupportedError (a kind that only the runtime has).

    >>> from_metadata({"general.architecture": "llama"}) is None
    True
    """
    model = metadata.get(f"{_PREFIX}model")
    if model is None or model in _NONE:
        return None
    if model not in MODELS:
        raise UnsupportedError(
            "a tokenizer of a kind that tokenizer.json cannot express",
            code="tokenizer-kind",
            path=_PATH,
            place=f"{_PREFIX}model",
            found=model,
            allowed=", ".join(MODELS),
        )
    found: dict[str, Any] = {}
    for name, (key, kind) in FIELDS.items():
        value = metadata.get(_PREFIX + key)
        if value is not None:
            found[name] = _checked(name, kind, value, _PREFIX + key)
    if "tokens" not in found:
        raise CorruptFile("a key is missing", code="metadata-missing", path=_PATH, place=f"{_PREFIX}tokens")
    n_tokens = len(found["tokens"])
    for name in ("token_types", "scores"):
        if name in found and len(found[name]) != n_tokens:
            raise CorruptFile(
                "not one entry for each token",
                code="vocab-size",
                path=_PATH,
                place=_PREFIX + FIELDS[name][0],
                found=len(found[name]),
                allowed=n_tokens,
            )
    found.setdefault("pre", "default")
    found.setdefault("token_types", (int(TokenType.NORMAL),) * n_tokens)
    special, notes = _special(metadata, n_tokens)
    named = {
        key.removeprefix("tokenizer.chat_template."): _scalar(value, str, key)
        for key, value in metadata.items()
        if key.startswith("tokenizer.chat_template.")
    }
    template = metadata.get("tokenizer.chat_template")
    if template is not None:
        template = _scalar(template, str, "tokenizer.chat_template")
    return Tokenizer(special=special, chat_template=template, chat_templates=named, notes=tuple(notes), **found)


def _special(metadata: Mapping[str, Any], n_tokens: int) -> tuple[dict[str, int], list[Note]]:
    special, notes = {}, []
    for role, key in _READ_IDS.items():
        value = metadata.get(_PREFIX + key)
        if value is None:
            continue
        if _scalar(value, int, _PREFIX + key) < n_tokens:
            special[role] = value
        else:
            message = f"{key} {value} is outside the vocabulary of {n_tokens} tokens and left out"
            notes.append(Note("special-out-of-range", message))
    return special, notes


def _checked(name: str, kind: str, value: Any, key: str) -> Any:
    if name == "precompiled_charsmap":
        return bytes(entry & 255 for entry in _array(value, int, key, at_most=1 << 26))
    if name in _LISTS:
        return tuple(_array(value, _LISTS[name], key, at_most=2 * MAX_TOKENS))
    return _scalar(value, _SCALARS[kind], key)


def _array(value: Any, kind: type, key: str, at_most: int) -> list[Any]:
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise _wrong(key, value, f"an array of {kind.__name__}")
    if len(value) > at_most:
        raise LimitExceeded(
            "the vocabulary is too large", code="vocab-size", path=_PATH, place=key, found=len(value), allowed=at_most
        )
    entries = list(value)
    for entry in entries:
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise _wrong(key, entry, f"an array of {kind.__name__}")
    return entries


def _scalar(value: Any, kind: type, key: str) -> Any:
    if type(value) is not kind or (type(value) is int and value < 0):
        raise _wrong(key, value, kind.__name__)
    return value


def _wrong(key: str, found: Any, allowed: str) -> CorruptFile:
    return CorruptFile(
        "wrong type of metadata",
        code="metadata-type",
        path=_PATH,
        place=key,
        found=type(found).__name__,
        allowed=allowed,
    )
