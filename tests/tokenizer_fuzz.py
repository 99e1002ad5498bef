"""Texts that no one would think of: words, scripts, digits, runs, spaces and a tokenizer's own tokens, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from tokenizer_texts import TEXTS

N_TEXTS = 10_000
_SCRIPTS = (
    *((0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A), (0x904, 0x939)),
    *((0x93E, 0x94D), (0xE01, 0xE3A), (0x1780, 0x17B3), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FA5)),
    *((0xAC00, 0xD7A3), (0x1F600, 0x1F64F)),
)
_WORDS = tuple(word for text in TEXTS for word in text.split(" "))
_SPACES = (" ", "  ", "\n", "\t", "\n\n", "   ", " \n", "\r\n")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFG"


@cache
def texts(own: tuple[str, ...] = (), count: int = N_TEXTS, seed: int = 0) -> tuple[str, ...]:
    """`count` texts, the same every time. own: tokens that are found in a text as they stand."""
    rng = random.Random(seed)
    found = list(TEXTS)
    while len(found) < count:
        pieces = [_piece(rng, own) for _ in range(rng.randint(1, 8))]
        found.append(rng.choice(("", " ")).join(pieces))
    return tuple(found)


def _piece(rng: random.Random, own: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(_WORDS)
    if kind < 0.6:
        first, last = rng.choice(_SCRIPTS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))
    if kind < 0.7:
        return str(rng.randint(0, 10 ** rng.randint(1, 9)))
    if kind < 0.8:
        return rng.choice(_SPACES)
    if kind < 0.87:
        return rng.choice("abcxyz.!-=_~a ") * rng.randint(2, 9)
    if kind < 0.92 and own:
        return rng.choice(own)
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, 10)))
