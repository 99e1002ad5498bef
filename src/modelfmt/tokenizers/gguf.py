"""A tokenizer as GGUF metadata: keys, types and values in the order in which llama.cpp's converter writes them.

Source: ggml's docs/gguf.md and what the runtime reads (src/llama-vocab.cpp); types are those that it insists on.
`seperator` is misspelled in the format itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..ir.tokenizer import Tokenizer

__all__ = ["FIELDS", "IDS", "gguf_metadata"]

Entry = tuple[str, str, Any]

IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
"""Key by role. cls has none: the runtime takes bos for it."""

FIELDS = {
    "model": ("model", "STRING"),
    "pre": ("pre", "STRING"),
    "tokens": ("tokens", "ARRAY:STRING"),
    "scores": ("scores", "ARRAY:FLOAT32"),
    "token_types": ("token_type", "ARRAY:INT32"),
    "merges": ("merges", "ARRAY:STRING"),
    "token_type_count": ("token_type_count", "UINT32"),
    "add_bos": ("add_bos_token", "BOOL"),
    "add_eos": ("add_eos_token", "BOOL"),
    "add_sep": ("add_sep_token", "BOOL"),
    "add_space_prefix": ("add_space_prefix", "BOOL"),
    "remove_extra_whitespaces": ("remove_extra_whitespaces", "BOOL"),
    "precompiled_charsmap": ("precompiled_charsmap", "ARRAY:UINT8"),
    "lowercase": ("normalizer.lowercase", "BOOL"),
    "strip_accents": ("normalizer.strip_accents", "BOOL"),
}
"""Attribute of Tokenizer -> (key after `tokenizer.ggml.`, GGUF type)."""

_TAIL = ("special", "add_bos", "add_eos", "add_sep", "chat", "lowercase", "strip_accents")
_ORDER = {
    "llama": (
        "model",
        "pre",
        "tokens",
        "scores",
        "token_types",
        "merges",
        *_TAIL,
        "add_space_prefix",
        "token_type_count",
    ),
    "gpt2": ("model", "pre", "tokens", "token_types", "merges", *_TAIL, "token_type_count"),
    "gemma4": ("model", "tokens", "token_types", "merges", *_TAIL, "add_space_prefix"),
    "rwkv": ("model", "tokens", "token_types", *_TAIL),
    "bert": ("token_type_count", "model", "pre", "tokens", "token_types", *_TAIL),
    "t5": (
        *("model", "pre", "tokens", "scores", "token_types", "add_space_prefix", "token_type_count"),
        *("remove_extra_whitespaces", "precompiled_charsmap", *_TAIL),
    ),
}


def gguf_metadata(tok: Tokenizer) -> list[Entry]:
    """[(key, GGUF type, value)].

    Types are STRING, UINT32, BOOL or ARRAY:<element type>; an ARRAY:UINT8 value is bytes, other arrays are lists.
    """
    return list(_entries(tok))


def _entries(tok: Tokenizer) -> Iterator[Entry]:
    for name in _ORDER.get(tok.model, _ORDER["gpt2"]):
        if name == "special":
            for role, token_id in tok.special.items():
                if role in IDS:
                    yield f"tokenizer.ggml.{IDS[role]}", "UINT32", token_id
        elif name == "chat":
            yield from _chat(tok)
        else:
            key, kind = FIELDS[name]
            value = getattr(tok, name)
            if value is not None:
                yield f"tokenizer.ggml.{key}", kind, list(value) if isinstance(value, tuple) else value


def _chat(tok: Tokenizer) -> Iterator[Entry]:
    for name, template in tok.chat_templates.items():
        yield f"tokenizer.chat_template.{name}", "STRING", template
    if tok.chat_templates:
        yield "tokenizer.chat_templates", "ARRAY:STRING", list(tok.chat_templates)
    if tok.chat_template is not None:
        yield "tokenizer.chat_template", "STRING", tok.chat_template
