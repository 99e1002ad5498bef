"""Byte-level BPE ("gpt2"): from tokenizer.json, or from vocab.json with merges.txt.

Texts are in GPT-2's alphabet, one character a byte; added tokens are plain text. Merges are "left right" in rank
order. The runtime knows pre-tokenizers by name only: `pre` finds the name from the structure of tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import CorruptFile, UnsupportedError
from ..ir.tokenizer import Note, Tokenizer, TokenType
from . import pre as pretokenizers
from .assemble import assemble
from .files import Files, integer
from .hfjson import flatten, merge_pairs, normalizer_steps, refuse_subword_marks, vocab_by_id
from .special import Added, added_tokens, named_special
from .vocabulary import Vocabulary

__all__ = ["from_json", "from_parts", "from_vocab_json"]

_JSON = "tokenizer.json"
# Pre-tokenizers that a tokenizer class implies where there is no tokenizer.json to read one from.
_BY_CLASS = {
    "GPT2Tokenizer": "gpt-2",
    "GPTNeoXTokenizer": "gpt-2",
    "RobertaTokenizer": "roberta-bpe",
    "CodeGenTokenizer": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
}


def from_json(files: Files, config: Mapping[str, Any], size: int | None, *, pre: str | None) -> Tokenizer:
    """A "gpt2" tokenizer from the byte-level BPE in tokenizer.json. pre: the name to use instead of the one found."""
    refuse_subword_marks(files)
    merges = merge_pairs(files)
    if pre is None:
        pre, notes = pretokenizers.choose(files.json(_JSON), merges)
    else:
        notes = [Note("pre-tokenizer", f"the pre-tokenizer name {pre!r} was given by hand")]
        pretokenizers.check_name(pre)
    for step in normalizer_steps(files):
        notes.append(Note("normalizer", f"the runtime does not apply the normalizer {step['type']}", lossy=True))
    for step in flatten(files.json(_JSON).get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            notes.append(
                Note("prefix-space", "the runtime does not put a space before the text, the tokenizer does", lossy=True)
            )
    return from_parts(files, config, size, vocab_by_id(files), merges, pre, notes)


def from_vocab_json(files: Files, config: Mapping[str, Any], size: int | None, *, pre: str | None) -> Tokenizer:
    """A "gpt2" tokenizer from vocab.json and merges.txt, whose pre-tokenizer only the tokenizer's class tells."""
    kind = files.json("tokenizer_config.json").get("tokenizer_class")
    kind = kind.removesuffix("Fast") if isinstance(kind, str) else None
    name = pre or _BY_CLASS.get(kind or "")
    if name is None:
        raise UnsupportedError(
            "vocab.json does not say how text is split before merging",
            code="unknown-pre-tokenizer",
            path="tokenizer_config.json",
            place="tokenizer_class",
            found=kind,
            allowed=", ".join(_BY_CLASS),
            hint="give the name with --pre NAME, or add the tokenizer.json of the model",
        )
    pretokenizers.check_name(name)
    by_id: dict[int, str] = {}
    for text, value in files.json("vocab.json").items():
        by_id[integer(value, path="vocab.json", place=repr(text))] = text
    return from_parts(
        files, config, size, dict(sorted(by_id.items())), _merges_txt(files.text("merges.txt") or ""), name, []
    )


def from_parts(
    files: Files,
    config: Mapping[str, Any],
    size: int | None,
    by_id: Mapping[int, str],
    merges: Iterable[tuple[str, str]],
    pre: str,
    notes: list[Note],
) -> Tokenizer:
    """A "gpt2" tokenizer from texts by id and merges, both in GPT-2's alphabet; added and special tokens are read from
    the files."""
    added = {row.token_id: row for row in added_tokens(files)}
    ids = {text: i for i, text in by_id.items()}
    known = {row.text for row in added.values()}
    for role, text in named_special(files).items():  # transformers makes every named special token an added one
        if text in ids and text not in known and role != "unk":
            added[ids[text]] = Added(ids[text], text, special=True)
    vocabulary = Vocabulary(size or 1 + max([*by_id, *added], default=-1))
    for i, text in by_id.items():
        vocabulary.put(i, text, TokenType.NORMAL)
    for row in added.values():
        vocabulary.add(row.token_id, row.text, special=row.special)
    joined = tuple(f"{_escaped(left)} {_escaped(right)}" for left, right in merges)
    return assemble("gpt2", pre, vocabulary, files, config, merges=joined, notes=notes, add_nothing=True)


def _escaped(part: str) -> str:
    """A merge's part with its spaces in GPT-2's alphabet, so that one space separates the two."""
    return part.replace(" ", "\u0120")


def _merges_txt(text: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        row = line.rstrip("\r")
        if not row.strip() or (number == 1 and row.startswith("#version")):
            continue
        parts = row.split(" ")
        if len(parts) != 2 or not all(parts):
            raise CorruptFile(
                "a merge is not a pair of texts",
                code="bad-merge",
                path="merges.txt",
                place=f"line {number}",
                found=row,
                allowed="two texts",
            )
        pairs.append((parts[0], parts[1]))
    return pairs
