"""WordPiece ("bert"): from tokenizer.json or vocab.txt.

The runtime marks word starts instead of continuations: `##x` becomes `x` and all other texts get U+2581 in front,
control tokens excepted. It has BERT's own pre-tokenizer built in and reads two switches of the normalizer: lowercase
and strip_accents (by default the same as lowercase).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CorruptFile, UnsupportedError
from ..ir.tokenizer import Note, Tokenizer, TokenType
from .assemble import assemble
from .files import MAX_TOKENS, Files
from .hfjson import flatten, normalizer_steps, vocab_by_id
from .special import Added, added_tokens, named_special
from .vocabulary import WORD_START, Vocabulary

__all__ = ["PRE", "from_json", "from_vocab_txt"]

PRE = "bert-bge"
"""The name that llama.cpp's converter gives to BERT's pre-tokenizer; its runtime does not read it for WordPiece."""

_JSON = "tokenizer.json"
_PRE_TOKENIZERS: tuple[list[dict[str, Any]], ...] = ([], [{"type": "BertPreTokenizer"}])
_MARKS = Note(
    "accents",
    "with accents the runtime drops vowel signs (Hindi, Thai) and all but the first letter of Korean syllables",
    lossy=True,
)


def from_json(files: Files, config: Mapping[str, Any], size: int | None) -> Tokenizer:
    """A "bert" tokenizer from the WordPiece model in tokenizer.json."""
    model = files.json(_JSON)["model"]
    prefix = model.get("continuing_subword_prefix", "##")
    if prefix != "##":
        raise UnsupportedError(
            "WordPiece with another continuation mark", code="subword-mark", path=_JSON, found=prefix, allowed="##"
        )
    notes = []
    if flatten(files.json(_JSON).get("pre_tokenizer"), "pretokenizers", "pre_tokenizer") not in _PRE_TOKENIZERS:
        notes.append(Note("pre-tokenizer", "the runtime splits words as BERT does, the tokenizer differs", lossy=True))
    lowercase, strip_accents = False, None
    for step in normalizer_steps(files):
        kind = step["type"]
        if kind == "BertNormalizer":
            lowercase = bool(step.get("lowercase", True))
            strip_accents = step["strip_accents"] if isinstance(step.get("strip_accents"), bool) else strip_accents
            off = [key for key in ("clean_text", "handle_chinese_chars") if step.get(key) is False]
            notes += [Note("normalizer", f"the runtime always applies BERT's {key}", lossy=True) for key in off]
        elif kind == "Lowercase":
            lowercase = True
        elif kind == "StripAccents":
            strip_accents = True
        elif kind != "NFD":
            notes.append(Note("normalizer", f"the runtime does not apply the normalizer {kind}", lossy=True))
    return _build(
        files, config, vocab_by_id(files), size, lowercase=lowercase, strip_accents=strip_accents, notes=notes
    )


def from_vocab_txt(files: Files, config: Mapping[str, Any], size: int | None) -> Tokenizer:
    """A "bert" tokenizer from vocab.txt: one token a line, the line's number is the id."""
    text = files.text("vocab.txt") or ""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not lines or len(lines) > MAX_TOKENS:
        raise CorruptFile(
            "empty or too long", code="vocab-size", path="vocab.txt", found=len(lines), allowed=f"1 to {MAX_TOKENS}"
        )
    settings = files.json("tokenizer_config.json")
    lowercase = settings.get("do_lower_case") is not False
    strip = settings.get("strip_accents")
    by_id = {i: line.rstrip("\r") for i, line in enumerate(lines)}
    return _build(
        files, config, by_id, size, lowercase=lowercase, strip_accents=strip if isinstance(strip, bool) else None
    )


def _build(
    files: Files, config: Mapping[str, Any], by_id: Mapping[int, str], size: int | None, **fields: Any
) -> Tokenizer:
    added = {row.token_id: row for row in added_tokens(files)}
    ids = {text: i for i, text in by_id.items()}
    names = named_special(files) or ({} if added else _usual_names(ids))
    for text in names.values():
        if text in ids:
            added.setdefault(ids[text], Added(ids[text], text, special=True))
    vocabulary = Vocabulary(size or 1 + max([*by_id, *added]))
    for i, text in by_id.items():
        vocabulary.put(i, text[2:] if text.startswith("##") else WORD_START + text, TokenType.NORMAL)
    for row in added.values():
        vocabulary.add(row.token_id, row.text, special=row.special)
        if vocabulary.types[row.token_id : row.token_id + 1] == [TokenType.USER_DEFINED]:
            vocabulary.texts[row.token_id] = row.text
    defaults = {role: ids[text] for role, text in names.items() if text in ids}
    defaults |= {
        role: defaults[other]
        for role, other in (("bos", "cls"), ("eos", "sep"))
        if other in defaults and role not in defaults
    }
    strip_accents = fields.pop("strip_accents")
    if fields["lowercase"] if strip_accents is None else strip_accents:
        fields["notes"] = [*fields.get("notes", ()), _MARKS]
    if strip_accents == fields["lowercase"]:
        strip_accents = None  # the runtime's default
    fields.setdefault("token_type_count", 1)
    if isinstance(config.get("type_vocab_size"), int):
        del fields["token_type_count"]
    return assemble("bert", PRE, vocabulary, files, config, defaults=defaults, strip_accents=strip_accents, **fields)


def _usual_names(ids: Mapping[str, int]) -> dict[str, str]:
    roles = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    return {role: text for role, text in roles.items() if text in ids}
