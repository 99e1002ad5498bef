"""Tokenizers: read from the small files of a checkpoint folder, and written as GGUF metadata.

    read(files, config=...)   -> ir.tokenizer.Tokenizer, or None where no tokenizer file is there
    gguf_metadata(tokenizer)  -> [(key, GGUF type, value)]
    pre.identify(json)        -> the runtime's name of a pre-tokenizer

No model code, no `transformers`, no rendering of templates. One file per kind: `spm`, `bpe`,
`ranks`, `wordpiece`, `unigram`, `rwkv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedError, UsageError
from ..ir.tokenizer import MODELS, Tokenizer
from . import bpe, hfjson, ranks, rwkv, sentencepiece, spm, unigram, wordpiece
from .files import Files, check_vocab_size
from .gguf import gguf_metadata

__all__ = ["gguf_metadata", "read"]

_JSON = "tokenizer.json"
_FAIRSEQ = ("xlm-roberta", "xlm_roberta", "camembert", "xlmroberta", "nomic-bert-moe")


def read(
    files: Mapping[str, bytes],
    *,
    config: Mapping[str, Any],
    architecture_hint: str | None = None,
    pre: str | None = None,
    vocab_size: int | None = None,
    model: str | None = None,
) -> Tokenizer | None:
    """The tokenizer in a folder's files.

    files: contents by name (subfolders with `/`). config: parsed config.json, or its text part. architecture_hint:
    model type or class, where config does not say. pre: the pre-tokenizer name to write instead of the one found.
    vocab_size: rows of the embedding, where the caller knows them better than config. model: a kind of
    `ir.tokenizer.MODELS` to insist on. Returns None where there is no tokenizer file at all. Raises CorruptFile,
    LimitExceeded, UnsupportedError, UsageError.

    >>> read({}, config={}) is None
    True
    """
    if model is not None and model not in MODELS:
        raise UsageError("unknown kind of tokenizer", code="tokenizer-model", found=model, allowed=", ".join(MODELS))
    held = Files(files)
    size = _size(config, vocab_size)
    name, ranked = held.first(*sentencepiece.NAMES), ranks.find(held)
    if name is not None and name != ranked and not (name == "sentencepiece.bpe.model" and _JSON in held):
        tok = _from_sentencepiece(held, config, size, name, model, f"{architecture_hint} {config.get('model_type')}")
    elif (world := rwkv.find(held)) is not None:
        name = world
        tok = rwkv.from_text(held, config, size, world)
    elif _JSON in held:
        tok = _from_json(held, config, size, pre, model)
    elif "vocab.json" in held and "merges.txt" in held:
        tok = bpe.from_vocab_json(held, config, size, pre=pre)
    elif "vocab.txt" in held:
        tok = wordpiece.from_vocab_txt(held, config, size)
    elif ranked is not None:
        name = ranked
        tok = ranks.from_tiktoken(held, config, size, ranked, pre=pre)
    elif ranks.TEKKEN in held:
        name = ranks.TEKKEN
        tok = ranks.from_tekken(held, config, size, pre=pre)
    else:
        return None
    if model not in (None, tok.model):
        raise UnsupportedError(
            "these tokenizer files are of another kind",
            code="tokenizer-kind",
            path=name,
            found=tok.model,
            allowed=model,
        )
    return tok


def _size(config: Mapping[str, Any], vocab_size: int | None) -> int | None:
    if vocab_size is not None:
        return check_vocab_size(vocab_size, path="the embedding", place="rows")
    for key in ("vocab_size_per_layer_input", "vocab_size"):
        if config.get(key) is not None:
            return check_vocab_size(config[key], place=key)
    return None


def _from_sentencepiece(
    files: Files, config: Mapping[str, Any], size: int | None, name: str, model: str | None, architecture: str
) -> Tokenizer:
    parsed = sentencepiece.read_model(files.bytes(name) or b"", name)
    if parsed.model_type not in (sentencepiece.BPE, sentencepiece.UNIGRAM):
        raise UnsupportedError(
            "SentencePiece model of a kind that GGUF cannot express",
            code="sentencepiece-kind",
            path=name,
            place="trainer_spec.model_type",
            found={sentencepiece.WORD: "word", sentencepiece.CHAR: "char"}.get(parsed.model_type, parsed.model_type),
            allowed="BPE or Unigram",
        )
    is_unigram = parsed.model_type == sentencepiece.UNIGRAM
    if model == "t5" or (model is None and is_unigram and not parsed.byte_fallback):
        fairseq = name == "sentencepiece.bpe.model" and any(word in architecture.lower() for word in _FAIRSEQ)
        return unigram.from_model(files, config, parsed, size, fairseq=fairseq)
    return spm.from_model(files, config, parsed, size)


def _from_json(
    files: Files, config: Mapping[str, Any], size: int | None, pre: str | None, model: str | None
) -> Tokenizer:
    kind = hfjson.model_type(files)
    if kind == "WordPiece":
        return wordpiece.from_json(files, config, size)
    if kind == "Unigram":
        return unigram.from_json(files, config, size)
    if kind == "BPE":
        if files.json(_JSON)["model"].get("byte_fallback"):
            by_rank = model == "gemma4" or (model is None and str(config.get("model_type")).startswith("gemma4"))
            return spm.from_merges(files, config, size, by_rank=by_rank)
        return bpe.from_json(files, config, size, pre=pre)
    raise UnsupportedError(
        "a tokenizer of a kind that GGUF cannot express",
        code="tokenizer-kind",
        path=_JSON,
        place="model.type",
        found=kind,
        allowed="BPE, Unigram, WordPiece",
    )
