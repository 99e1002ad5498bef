"""Naming the pre-tokenizer of a byte-level BPE from the structure of tokenizer.json.

llama.cpp's converter encodes a test string with transformers and looks the hash of the ids up, so that every new
vocabulary is unknown although its pre-tokenizer is not. Here the pre-tokenizer's own definition is brought into one
form (a list of regular expressions in one spelling) and looked up in `pretable`. What is not there is refused, with
the nearest name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import LimitExceeded, UnsupportedError, UsageError
from ..ir.tokenizer import Note
from .hfjson import flatten
from .pretable import DIFFERENCES, FORMS, GPT2, NAMES, SPLITS, Name
from .regexform import canonical

__all__ = ["check_name", "choose", "identify", "ignores_merges", "names", "nearest", "steps"]

_PATH = "tokenizer.json"
_MAX_PATTERN = 16384
_COMPARED = 600  # characters of a pattern that count when the nearest is sought


def names() -> tuple[str, ...]:
    """Every pre-tokenizer name that the runtime accepts.

    >>> "llama-bpe" in names()
    True
    """
    return tuple(row.name for row in NAMES)


def check_name(name: str) -> None:
    """UsageError where the runtime does not know this name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), 3, 0.4)
        raise UsageError(
            "unknown pre-tokenizer name",
            code="pre-tokenizer-name",
            found=name,
            allowed=", ".join(close or names()),
            hint=f"names that llama.cpp knows: {', '.join(names())}",
        )


def identify(tokenizer_json: Mapping[str, Any]) -> str:
    """The runtime's name for the pre-tokenizer of a parsed tokenizer.json.

    Raises UnsupportedError (code unknown-pre-tokenizer), naming the nearest; CorruptFile, LimitExceeded.

    >>> identify({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "model": {"type": "BPE"}})
    'gpt-2'
    """
    model = tokenizer_json.get("model")
    listed = model.get("merges") if isinstance(model, dict) else None
    merges = [tuple(row.split(" ", 1)) if isinstance(row, str) else tuple(row) for row in listed or []]
    return choose(tokenizer_json, merges)[0]


def ignores_merges(name: str) -> bool:
    """Whether the runtime, under this name, takes a whole word that is a token as it is.

    >>> ignores_merges("llama-bpe"), ignores_merges("qwen2")
    (True, False)
    """
    return next(row.ignore_merges for row in NAMES if row.name == name)


def choose(
    tokenizer_json: Mapping[str, Any], merges: Iterable[Sequence[str]], *, path: str = _PATH
) -> tuple[str, list[Note]]:
    """The name, and what the runtime will do differently under it. path: the file that errors name."""
    found = steps(tokenizer_json)
    split = _TABLE.get(found)
    if split is None:
        raise _unknown(found, path)
    rows = [row for row in NAMES if row.split == split]
    notes = [Note("pre-tokenizer", DIFFERENCES[split], lossy=True)] if split in DIFFERENCES else []
    model = tokenizer_json.get("model")
    model = model if isinstance(model, dict) else {}
    wanted = bool(model.get("ignore_merges"))
    if rows[0].ignore_merges == wanted:
        return rows[0].name, notes
    by_merges_only = _not_made_by_merges(model.get("vocab"), tokenizer_json.get("added_tokens"), merges)
    if not by_merges_only:  # a word that is a token is always reached by merges: the flag changes nothing
        return rows[0].name, notes
    fitting = [row for row in rows if row.ignore_merges == wanted]
    if fitting:
        return fitting[0].name, []
    does = "applies merges to" if wanted else "never splits"
    message = f"under {rows[0].name!r} the runtime {does} words that are tokens, the tokenizer does not"
    notes.append(Note("ignore-merges", f"{message}; {by_merges_only} tokens are not made by merges", lossy=True))
    return rows[0].name, notes


def steps(tokenizer_json: Mapping[str, Any]) -> tuple[str, ...]:
    """The pre-tokenizer as regular expressions in one spelling, one a step; other steps as `<name:behavior>`."""
    result: list[str] = []
    for step in flatten(tokenizer_json.get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        kind = step["type"]
        if kind == "ByteLevel":
            result += [canonical(GPT2)] if step.get("use_regex", True) else []
        elif kind == "Digits":
            result.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "Punctuation":
            result.append(f"<punctuation:{step.get('behavior', 'Isolated')}>")
        elif kind == "Split":
            result.append(_split(step))
        else:
            result.append(f"<{kind}>")
    return tuple(result)


def nearest(found: Sequence[str]) -> Name:
    """The first name of the split whose definition looks most like these steps."""
    text = "\0".join(step[:_COMPARED] for step in found)

    def likeness(item: tuple[tuple[str, ...], str]) -> float:
        return difflib.SequenceMatcher(
            None, text, "\0".join(step[:_COMPARED] for step in item[0]), autojunk=False
        ).ratio()

    split = max(_TABLE.items(), key=likeness)[1]
    return next(row for row in NAMES if row.split == split)


def _split(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    pattern = pattern if isinstance(pattern, dict) else {}
    literal, regex = pattern.get("String"), pattern.get("Regex")
    text = regex if isinstance(regex, str) else re.escape(literal) if isinstance(literal, str) else ""
    if len(text) > _MAX_PATTERN:
        raise LimitExceeded(
            "a pre-tokenizer's pattern is too long",
            code="pattern-length",
            path=_PATH,
            place="pre_tokenizer",
            found=len(text),
            allowed=_MAX_PATTERN,
        )
    behavior, invert = step.get("behavior", "Isolated"), bool(step.get("invert"))
    # These patterns match all of a text, so keeping only the matches is the same as isolating them.
    isolated = (behavior, invert) in (("Isolated", False), ("Isolated", True), ("Removed", True))
    return canonical(text) if isolated else f"<{behavior}{':invert' if invert else ''}>{canonical(text)}"


def _not_made_by_merges(vocab: Any, added: Any, merges: Iterable[Sequence[str]]) -> int:
    """How many ordinary tokens of several bytes no merge makes."""
    if not isinstance(vocab, dict):
        return 0
    made = {"".join(pair) for pair in merges}
    rows = added if isinstance(added, list) else []
    apart = {row["content"] for row in rows if isinstance(row, dict) and isinstance(row.get("content"), str)}
    return sum(1 for text in vocab if len(text) > 1 and text not in made and text not in apart)


def _unknown(found: tuple[str, ...], path: str) -> UnsupportedError:
    near = nearest(found).name
    shown = " then ".join(step if len(step) < 200 else step[:200] + "..." for step in found) or "no pre-tokenizer"
    return UnsupportedError(
        "llama.cpp has no pre-tokenizer like this one",
        code="unknown-pre-tokenizer",
        path=path,
        place="pre_tokenizer",
        found=shown,
        allowed=f"one of {len(names())} known ones; the nearest is {near!r}",
        hint=f"--pre {near} converts with the nearest, --pre NAME with another; texts may then be split differently",
        nearest=near,
    )


def _table() -> dict[tuple[str, ...], str]:
    table: dict[tuple[str, ...], str] = {}
    for split, expressions in SPLITS.items():
        for form in (expressions, *FORMS.get(split, ())):
            table.setdefault(
                tuple(step if step[0] == "<" and ":" in step and step[-1] == ">" else canonical(step) for step in form),
                split,
            )
    return table


_TABLE = _table()
