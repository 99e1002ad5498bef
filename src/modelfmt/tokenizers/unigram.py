"""SentencePiece Unigram ("t5"): from a SentencePiece model or from tokenizer.json.

Unlike BPE, the runtime searches the best path by score and applies the compiled normalizer (precompiled_charsmap), so
both must be carried. It has no byte fallback: an unknown character is the unknown token.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..errors import CorruptFile
from ..ir.tokenizer import Note, Tokenizer, TokenType
from .assemble import assemble
from .files import Files, integer, mapping, sequence, string
from .hfjson import flatten, normalizer_steps
from .sentencepiece import SentencePieceModel, check_charsmap
from .special import added_tokens
from .vocabulary import Vocabulary

__all__ = ["from_json", "from_model"]

_JSON = "tokenizer.json"
_RUNTIME_UNKNOWN = 2
# fairseq's order before SentencePiece's own (XLM-R, CamemBERT). Source: transformers, XLMRobertaTokenizer.
_FAIRSEQ_HEAD = ("<s>", "<pad>", "</s>", "<unk>")


def from_model(
    files: Files, config: Mapping[str, Any], model: SentencePieceModel, size: int | None, *, fairseq: bool = False
) -> Tokenizer:
    """A "t5" tokenizer from a SentencePiece model. fairseq: ids are shifted as XLM-R's are."""
    rows = [(piece.text, piece.score, piece.kind) for piece in model.pieces]
    unknown = model.unk_id
    if fairseq:
        head = [(text, 0.0, TokenType.UNKNOWN if text == "<unk>" else TokenType.CONTROL) for text in _FAIRSEQ_HEAD]
        rows, unknown = [*head, *rows[3:], ("<mask>", 0.0, TokenType.CONTROL)], 3
    vocabulary = Vocabulary(size or len(rows))
    for i, (text, score, kind) in enumerate(rows):
        vocabulary.put(i, text, kind, score)
    for row in added_tokens(files):
        if row.token_id >= len(rows) or rows[row.token_id][0] != row.text:
            vocabulary.add(row.token_id, row.text, special=row.special)
    defaults = {"bos": 0, "eos": 2, "pad": 1, "unk": 3} if fairseq else {"bos": model.bos_id, "eos": model.eos_id}
    if unknown != _RUNTIME_UNKNOWN:
        defaults["unk"] = unknown
    return assemble(
        "t5",
        "default",
        vocabulary,
        files,
        config,
        scores=True,
        defaults=defaults,
        notes=_byte_notes(model.byte_fallback),
        add_space_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
        precompiled_charsmap=model.precompiled_charsmap or None,
    )


def from_json(files: Files, config: Mapping[str, Any], size: int | None) -> Tokenizer:
    """A "t5" tokenizer from the Unigram model in tokenizer.json."""
    model = mapping(files.json(_JSON).get("model"), path=_JSON, place="model")
    rows = sequence(model.get("vocab"), path=_JSON, place="model.vocab")
    added = added_tokens(files)
    vocabulary = Vocabulary(size or max(len(rows), 1 + max((row.token_id for row in added), default=-1)))
    for i, row in enumerate(rows):
        pair = sequence(row, path=_JSON, place=f"model.vocab[{i}]")
        score = pair[1] if len(pair) == 2 else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise CorruptFile(
                "a score is not a number", code="score", path=_JSON, place=f"model.vocab[{i}]", found=score
            )
        vocabulary.put(i, string(pair[0], path=_JSON, place=f"model.vocab[{i}]"), TokenType.NORMAL, float(score))
    unknown = model.get("unk_id")
    unknown = None if unknown is None else integer(unknown, path=_JSON, place="model.unk_id", below=max(len(rows), 1))
    for row in added:
        if row.token_id != unknown:
            vocabulary.add(row.token_id, row.text, special=row.special)
    if unknown is not None and unknown < len(vocabulary.types):
        vocabulary.types[unknown] = TokenType.UNKNOWN
    charsmap, remove, notes = _normalizers(files)
    tok = assemble(
        "t5",
        "default",
        vocabulary,
        files,
        config,
        scores=True,
        defaults={} if unknown in (None, _RUNTIME_UNKNOWN) else {"unk": unknown},
        notes=notes + _byte_notes(bool(model.get("byte_fallback"))),
        add_space_prefix=_space_prefix(files),
        remove_extra_whitespaces=remove,
        precompiled_charsmap=charsmap,
    )
    if unknown is not None and tok.special.get("unk", unknown) != unknown:  # what is named unk is another token
        tok = replace(tok, special={**tok.special, "unk": unknown})
    return tok


def _normalizers(files: Files) -> tuple[bytes | None, bool, list[Note]]:
    """(compiled normalizer, whether repeated spaces are removed, notes on normalizers that the runtime lacks)."""
    charsmap: bytes | None = None
    before = flatten(files.json(_JSON).get("pre_tokenizer"), "pretokenizers", "pre_tokenizer")
    remove = any(step["type"] == "WhitespaceSplit" for step in before)
    notes = []
    for step in normalizer_steps(files):
        kind = step["type"]
        if kind == "Precompiled":
            text = string(step.get("precompiled_charsmap") or "", path=_JSON, place="normalizer.precompiled_charsmap")
            try:
                charsmap = base64.b64decode(text, validate=True) or None
            except (binascii.Error, ValueError):
                raise CorruptFile(
                    "the compiled normalizer is not base64", code="charsmap", path=_JSON, place="normalizer"
                ) from None
            check_charsmap(charsmap or b"", _JSON)
        elif kind == "Replace" and step.get("pattern") == {"Regex": " {2,}"}:
            remove = True
        elif kind == "Strip":
            if step.get("strip_right") is False:
                notes.append(Note("extra-whitespace", "the runtime removes spaces at the end of a text", lossy=True))
        else:
            notes.append(Note("normalizer", f"the runtime does not apply the normalizer {kind}", lossy=True))
    if remove and charsmap is None and any(step["type"] == "WhitespaceSplit" for step in before):
        message = "the runtime knows no white space but the space, without a compiled normalizer that makes it one"
        notes.append(Note("pre-tokenizer", message, lossy=True))
    return charsmap, remove, notes


def _space_prefix(files: Files) -> bool:
    for step in flatten(files.json(_JSON).get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        if step["type"] == "Metaspace":
            return bool(
                step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
            )
    return False


def _byte_notes(byte_fallback: bool) -> list[Note]:
    message = "the runtime has no byte fallback for Unigram; characters outside the vocabulary become the unknown token"
    return [Note("byte-fallback", message, lossy=True)] if byte_fallback else []
