"""A tokenizer as data: what a runtime needs to turn text into token ids, whatever files it was read from.

The vocabulary is in id order; texts are in the form that the runtime of `model` compares (byte-level BPE in GPT-2's
byte alphabet, SentencePiece with U+2581 for spaces, WordPiece with U+2581 before word starts). Token types and their
numbers are ggml's. Reading lives in `modelfmt.tokenizers`; this file does no I/O and runs no tokenization.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec

__all__ = ["MODELS", "SPECIAL", "Note", "TokenType", "Tokenizer"]

MODELS = {
    "llama": "SentencePiece BPE: merges by score, byte fallback",
    "gpt2": "byte-level BPE: merges by rank, a pre-tokenizer named by `pre`",
    "bert": "WordPiece: longest match, U+2581 marks word starts",
    "t5": "SentencePiece Unigram: best path by score",
    "rwkv": "RWKV World: the longest token of bytes, as Python writes them",
    "gemma4": "BPE by rank on SentencePiece's texts, byte fallback",
}
"""The vocabulary kinds, by the name that GGUF gives them."""

SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot", "eom")
"""The roles a special token can have."""


class TokenType(IntEnum):
    """What a token is to the runtime; the numbers are those of ggml and of SentencePiece's protocol buffer."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Note(msgspec.Struct, frozen=True):
    """Something the reader decided or that the runtime will not reproduce.

    code: stable kebab-case. lossy: the tokens of some texts will differ from those of the original tokenizer.
    """

    code: str
    message: str
    lossy: bool = False


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """A vocabulary with everything around it.

    tokens, token_types and scores have one entry per id; merges are "left right" in rank order. A flag that is None was
    not decided by the files: the runtime's default holds. special maps a role of `SPECIAL` to an id below len(tokens),
    in the order in which it was found. chat_templates holds the named templates besides the default one.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None
    special: Mapping[str, int] = msgspec.field(default_factory=dict)
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_sep: bool | None = None
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool | None = None
    token_type_count: int | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None
    chat_template: str | None = None
    chat_templates: Mapping[str, str] = msgspec.field(default_factory=dict)
    precompiled_charsmap: bytes | None = None
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({self.model}, {self.pre}, {len(self)} tokens)"
