"""A vocabulary while it is being built: texts, types and scores by id, with padding, added tokens and unique texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import CorruptFile
from ..ir.tokenizer import Note, TokenType

__all__ = ["ADDED_SCORE", "PADDING_SCORE", "WORD_START", "Vocabulary", "looks_special"]

WORD_START = "\u2581"
PADDING_SCORE = -10000.0
ADDED_SCORE = -1000.0

# Texts that models mark as ordinary added tokens although they control generation.
# Source: llama.cpp, conversion/base.py, does_token_look_special (command-r, deepseek-coder, gemma).
_CONTROL_TEXTS = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_CONTROL_SHAPES = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_STRENGTH = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN, TokenType.BYTE, TokenType.NORMAL)


class Vocabulary:
    """Token texts, types and scores for ids 0 .. size-1; what nothing fills is `[PADi]`, unused.

    An id beyond the size has no embedding row: it is left out and noted, as the model can never produce or read it.
    """

    def __init__(self, size: int) -> None:
        self.texts: list[str | None] = [None] * size
        self.types: list[int] = [TokenType.UNUSED] * size
        self.scores: list[float] = [PADDING_SCORE] * size
        self.notes: list[Note] = []
        self._beyond: list[str] = []

    def put(self, token_id: int, text: str, kind: TokenType, score: float = 0.0) -> None:
        if token_id >= len(self.texts):
            self._beyond.append(text)
            return
        self.texts[token_id] = text
        self.types[token_id] = kind
        self.scores[token_id] = score

    def add(self, token_id: int, text: str, *, special: bool) -> None:
        """An added token, over what the base vocabulary says of its id."""
        if special or looks_special(text):
            self.put(token_id, text, TokenType.CONTROL, ADDED_SCORE)
        else:  # the runtime looks for these in the raw text, before spaces are escaped
            self.put(token_id, text.replace(WORD_START, " "), TokenType.USER_DEFINED, ADDED_SCORE)

    def text_to_id(self) -> dict[str, int]:
        return {text: i for i, text in enumerate(self.texts) if text is not None}

    def finish(self) -> tuple[str, ...]:
        """The texts, all different and none empty: llama.cpp refuses a vocabulary with two equal ones."""
        owners: dict[str, int] = {}
        repeated: list[int] = []
        for i, text in enumerate(self.texts):
            if not text:
                continue
            if text in owners and self._rank(i) < self._rank(owners[text]):
                owners[text], i = i, owners[text]
            if owners.setdefault(text, i) != i:
                repeated.append(i)
        for i in repeated:
            self.texts[i] = None
            self.types[i] = TokenType.UNUSED
        taken = set(owners)
        texts = tuple(text or _free(f"[PAD{i}]", taken) for i, text in enumerate(self.texts))
        if repeated:
            shown = ", ".join(str(i) for i in sorted(repeated)[:8])
            self.notes.append(
                Note(
                    "duplicate-token", f"{len(repeated)} tokens repeat another's text and are padding now: ids {shown}"
                )
            )
        if self._beyond:
            shown = ", ".join(repr(text) for text in self._beyond[:8])
            message = f"{len(self._beyond)} tokens lie beyond the {len(texts)} rows of the vocabulary: {shown}"
            self.notes.append(Note("token-out-of-range", message, lossy=True))
        return texts

    def _rank(self, token_id: int) -> int:
        kind = self.types[token_id]
        return _STRENGTH.index(TokenType(kind)) if kind in _STRENGTH else len(_STRENGTH)


def looks_special(text: str) -> bool:
    """Whether a token controls generation by its text alone.

    >>> looks_special("<|end|>"), looks_special("word")
    (True, False)
    """
    return text in _CONTROL_TEXTS or any(text.startswith(a) and text.endswith(b) for a, b in _CONTROL_SHAPES)


def byte_token(text: str, *, path: str, token_id: int) -> bool:
    """Whether a text is a byte-fallback token; a malformed one is refused, as the runtime would read a wrong byte."""
    if not (text.startswith("<0x") and text.endswith(">")):
        return False
    if _BYTE.fullmatch(text):
        return True
    raise CorruptFile(
        "malformed byte token",
        code="byte-token",
        path=path,
        place=f"id {token_id}",
        found=text,
        allowed="<0x00> to <0xFF>",
    )


def first_ids(ids: Iterable[int]) -> str:
    """The first few of many ids, for a message."""
    listed = sorted(ids)
    return ", ".join(str(i) for i in listed[:8]) + (" ..." if len(listed) > 8 else "")


def _free(text: str, taken: set[str]) -> str:
    while text in taken:
        text = f"[{text}]"
    taken.add(text)
    return text
