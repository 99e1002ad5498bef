"""SentencePiece BPE ("llama"): from a SentencePiece model, or from a byte-fallback BPE in tokenizer.json.

The runtime merges the pair of neighbours whose joined text has the highest score. A SentencePiece model holds the
scores; tokenizer.json holds merges instead, whose order gives them: score = -(rank of the first merge that makes the
token). llama.cpp's converter writes -1000 for every token there, which merges from left to right whatever the merges
say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.tokenizer import Note, Tokenizer, TokenType
from .assemble import assemble
from .files import Files
from .hfjson import flatten, merge_pairs, normalizer_steps, vocab_by_id
from .sentencepiece import SentencePieceModel
from .special import added_tokens
from .vocabulary import WORD_START, Vocabulary, byte_token, first_ids

__all__ = ["from_merges", "from_model"]

_JSON = "tokenizer.json"
# Gemma 4's markers that are shown in text, as chat parsers read them there. Source: llama.cpp, conversion/gemma.py.
_VISIBLE = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)


def from_model(files: Files, config: Mapping[str, Any], model: SentencePieceModel, size: int | None) -> Tokenizer:
    """A "llama" tokenizer from a SentencePiece model."""
    vocabulary = Vocabulary(size or len(model.pieces))
    for i, piece in enumerate(model.pieces):
        text = piece.text.replace("\u2581", " ") if piece.kind == TokenType.USER_DEFINED else piece.text
        vocabulary.put(i, text, piece.kind, piece.score)
    for row in added_tokens(files):
        if not _is_unknown(model, row.token_id, row.text):
            vocabulary.add(row.token_id, row.text, special=row.special)
    notes = []
    if model.precompiled_charsmap:
        notes.append(Note("normalizer", f"the runtime does not apply the normalizer {model.normalizer!r}", lossy=True))
    if model.remove_extra_whitespaces:
        notes.append(
            Note("extra-whitespace", "the runtime keeps repeated spaces, which the tokenizer removes", lossy=True)
        )
    prefix = files.json("tokenizer_config.json").get("add_prefix_space")
    if not isinstance(prefix, bool):  # None: the runtime's default is to add one
        prefix = False if _is_gemma(config) or not model.add_dummy_prefix else None
    defaults = {"bos": model.bos_id, "eos": model.eos_id}
    return assemble(
        "llama",
        "default",
        vocabulary,
        files,
        config,
        scores=True,
        defaults=defaults,
        notes=notes,
        add_space_prefix=prefix,
    )


def from_merges(files: Files, config: Mapping[str, Any], size: int | None, *, by_rank: bool = False) -> Tokenizer:
    """A "llama" tokenizer from a byte-fallback BPE in tokenizer.json; by_rank: a "gemma4" one, with its merges."""
    by_id = vocab_by_id(files)
    merges = merge_pairs(files)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    last = -float(len(merges) + 1)
    added = added_tokens(files)
    own = {row.token_id for row in added}
    vocabulary = Vocabulary(size or 1 + max(max(by_id, default=-1), max(own, default=-1)))
    unknown = files.json(_JSON)["model"].get("unk_token")
    for token_id, text in by_id.items():
        if byte_token(text, path=_JSON, token_id=token_id):
            vocabulary.put(token_id, text, TokenType.BYTE)
        elif text == unknown:
            vocabulary.put(token_id, text, TokenType.UNKNOWN)
        else:
            vocabulary.put(token_id, text, TokenType.NORMAL, -float(ranks[text]) if text in ranks else last)
    for row in added:
        if row.text != unknown:
            vocabulary.add(row.token_id, row.text, special=row.special)
    prefix, notes = _space_prefix(files)
    if by_rank:
        return _ranked(files, config, vocabulary, merges, prefix, notes)
    notes += _closure_notes({text: i for i, text in by_id.items() if i not in own}, merges)
    fields: dict[str, Any] = {"scores": True, "notes": notes, "add_space_prefix": prefix}
    return assemble("llama", "default", vocabulary, files, config, **fields)


def _ranked(
    files: Files,
    config: Mapping[str, Any],
    vocabulary: Vocabulary,
    merges: list[tuple[str, str]],
    prefix: bool | None,
    notes: list[Note],
) -> Tokenizer:
    for i, text in enumerate(vocabulary.texts):
        if text in _VISIBLE:
            vocabulary.types[i] = TokenType.USER_DEFINED
    if prefix is not False:
        message = "the runtime does not put a space before the text, the tokenizer does"
        notes.append(Note("prefix-space", message, lossy=True))
    joined = tuple(f"{left} {right}" for left, right in merges if " " not in left + right)
    return assemble("gemma4", "gemma4", vocabulary, files, config, merges=joined, notes=notes, add_space_prefix=False)


def _is_gemma(config: Mapping[str, Any]) -> bool:
    """Gemma's tokenizer class never puts a space before the text, whatever its model file says."""
    return str(config.get("model_type")).startswith("gemma")


def _is_unknown(model: SentencePieceModel, token_id: int, text: str) -> bool:
    """Whether an added token is the model's own unknown token, which must stay of that type."""
    return (
        token_id < len(model.pieces)
        and model.pieces[token_id].kind == TokenType.UNKNOWN
        and model.pieces[token_id].text == text
    )


def _closure_notes(vocab: Mapping[str, int], merges: list[tuple[str, str]]) -> list[Note]:
    """The runtime merges any neighbours whose joined text is a token; the tokenizer only those that it lists.

    Both agree if every split of a token into two tokens is listed, as in all tokenizers made from SentencePiece models.
    """
    listed = set(merges)
    unlisted = [
        token_id
        for text, token_id in vocab.items()
        if not (text.startswith("<0x") and text.endswith(">"))
        and any(
            (text[:i], text[i:]) not in listed for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab
        )
    ]
    if not unlisted:
        return []
    message = (
        f"{len(unlisted)} tokens can be made by merges that the tokenizer does not list (ids {first_ids(unlisted)})"
    )
    return [Note("merges-by-score", message, lossy=True)]


def _space_prefix(files: Files) -> tuple[bool | None, list[Note]]:
    """Whether a space is put before the text, and notes on normalizers that the runtime does not have."""
    prefix: bool | None = False
    notes = []
    for step in normalizer_steps(files):
        if step == {"type": "Prepend", "prepend": "\u2581"}:
            prefix = None
        elif step != {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
            notes.append(
                Note("normalizer", f"the runtime does not apply the normalizer {step.get('type')}", lossy=True)
            )
    for step in flatten(files.json(_JSON).get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            prefix = False if scheme == "never" else None
            notes += _metaspace_notes(files, scheme, split=step.get("split") is not False)
        elif not _splits_words(step):
            message = f"the runtime does not apply the pre-tokenizer {step['type']}"
            notes.append(Note("pre-tokenizer", message, lossy=True))
    stated = files.json("tokenizer_config.json").get("add_prefix_space")
    return (stated if isinstance(stated, bool) else prefix), notes


def _metaspace_notes(files: Files, scheme: Any, *, split: bool) -> list[Note]:
    """What Metaspace does otherwise than the runtime: it spares texts that begin with a space, with "first" also what
    follows a special token, and where it splits, no token reaches over a space."""
    notes = []
    if scheme != "never":
        where = "before texts that begin with one" + (" and after special tokens" if scheme == "first" else "")
        notes.append(Note("prefix-space", f"the runtime puts a space {where}, the tokenizer does not", lossy=True))
    across = sum(WORD_START in text[1:] for text in vocab_by_id(files).values()) if split else 0
    if across:
        message = f"the runtime also makes the {across} tokens that reach over a space, the tokenizer splits there"
        notes.append(Note("pre-tokenizer", message, lossy=True))
    return notes


def _splits_words(step: Mapping[str, Any]) -> bool:
    """A split at spaces joined to what precedes (Gemma): no effect once the normalizer has replaced all spaces."""
    return step["type"] == "Split" and step.get("pattern") == {"String": " "}
