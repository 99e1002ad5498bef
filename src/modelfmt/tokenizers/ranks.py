"""Byte strings with ranks ("gpt2"): tiktoken's files (lines of base64 and rank) and Mistral's tekken.json.

Neither lists merges: tiktoken joins the two neighbours whose joined bytes have the lowest rank. As merges that is every
way to cut a token into two others, in the order of the token's rank, as transformers' own conversion has it. A tiktoken
file has no regular expression and no special tokens; both are in the Python code that comes with it, which is not run:
`_KINDS` knows them by the class of the tokenizer or the type of the model. tekken.json has both.

Sources: openai/tiktoken, load.py and src/lib.rs; mistral-common, tokens/tokenizers/tekken.py; the tokenization files of
Qwen, GLM-4, Kimi and Hunyuan.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CorruptFile, LimitExceeded, UnsupportedError
from ..ir.tokenizer import Note, Tokenizer
from . import bpe
from . import pre as pretokenizers
from .files import MAX_TOKENS, Files, integer, mapping, sequence, string

__all__ = ["TEKKEN", "find", "from_tekken", "from_tiktoken"]

TEKKEN = "tekken.json"
_CONFIG = "tokenizer_config.json"
_RANKS = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,9}\r?\n")
_MOST_WORK = 1 << 30  # sum of the squares of the tokens' lengths; 0.02e9 for the largest known vocabulary

Ranks = dict[bytes, int]


class _Kind(NamedTuple):
    """pre: the runtime's name. special: texts that follow the ranks, in the order of their ids. named: by role."""

    pre: str
    special: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()


_QWEN = _Kind(
    "qwen2",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
    (("eos", "<|endoftext|>"), ("pad", "<|endoftext|>")),
)
_KIMI, _GLM, _HUNYUAN = _Kind("kimi-k2"), _Kind("chatglm-bpe"), _Kind("hunyuan")
_KINDS = {
    "QWenTokenizer": _QWEN,
    "qwen": _QWEN,
    "TikTokenTokenizer": _KIMI,
    "kimi_k2": _KIMI,
    "ChatGLM4Tokenizer": _GLM,
    "chatglm": _GLM,
    "HYTokenizer": _HUNYUAN,
    "hunyuan_v1_moe": _HUNYUAN,
    "hunyuan_v1_dense": _HUNYUAN,
    "llama": _Kind("llama-bpe", named=(("bos", "<|begin_of_text|>"), ("eos", "<|end_of_text|>"))),
}
"""By tokenizer_class of tokenizer_config.json, or by model_type of config.json."""

_OLD_TEKKEN = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""The special tokens of a tekken.json that does not list them."""


def find(files: Files) -> str | None:
    """The name of a tiktoken file among these."""
    for name in files.names():
        if name.endswith(".tiktoken") or (name.endswith(".model") and _RANKS.match((files.bytes(name) or b"")[:8192])):
            return name
    return None


def from_tiktoken(
    files: Files, config: Mapping[str, Any], size: int | None, name: str, *, pre: str | None
) -> Tokenizer:
    """A "gpt2" tokenizer from a tiktoken file. pre: the pre-tokenizer's name, instead of the one that is known for the
    tokenizer's class."""
    kind = _kind(files, config, name, pre)
    ranks = dict(_tiktoken(files.bytes(name) or b"", name))
    after = 1 + max(ranks.values(), default=-1)
    decoder: dict[str, Any] = {
        str(after + i): {"content": text, "special": True} for i, text in enumerate(kind.special)
    }
    known = files.json(_CONFIG)
    decoder |= mapping(known.get("added_tokens_decoder") or {}, path=_CONFIG, place="added_tokens_decoder")
    named = {f"{role}_token": text for role, text in kind.named}
    return _build(
        files.replaced(_CONFIG, named | known | {"added_tokens_decoder": decoder}),
        config,
        size,
        ranks,
        name,
        kind.pre,
        [],
    )


def from_tekken(files: Files, config: Mapping[str, Any], size: int | None, *, pre: str | None) -> Tokenizer:
    """A "gpt2" tokenizer from tekken.json: special tokens first, then the byte strings that the vocabulary has room
    for."""
    tekken = files.json(TEKKEN)
    settings = mapping(tekken.get("config"), path=TEKKEN, place="config")
    n_special = integer(settings.get("default_num_special_tokens"), path=TEKKEN, place="default_num_special_tokens")
    n_tokens = integer(settings.get("default_vocab_size"), path=TEKKEN, place="default_vocab_size")
    if n_special > n_tokens:
        raise CorruptFile(
            "more special tokens than tokens",
            code="special-count",
            path=TEKKEN,
            place="config.default_num_special_tokens",
            found=n_special,
            allowed=n_tokens,
        )
    ranks = {token: n_special + rank for token, rank in _tekken(tekken, n_tokens - n_special)}
    decoder = {str(i): {"content": text, "special": True} for i, text in enumerate(_tekken_special(tekken, n_special))}
    texts = {row["content"] for row in decoder.values()}
    roles = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
    named: dict[str, Any] = {f"{role}_token": text for role, text in roles.items() if text in texts}
    named |= {"add_bos_token": "<s>" in texts, "add_eos_token": False, "added_tokens_decoder": decoder}
    notes: list[Note] = []
    if pre is None:
        pattern = string(settings.get("pattern"), path=TEKKEN, place="config.pattern")
        step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        form = {"pre_tokenizer": step, "model": {"type": "BPE", "ignore_merges": True}}
        pre, notes = pretokenizers.choose(form, [], path=TEKKEN)
    settings_of_folder = {key: value for key, value in files.json(_CONFIG).items() if key == "chat_template"}
    return _build(files.replaced(_CONFIG, settings_of_folder | named), config, size, ranks, TEKKEN, pre, notes)


def _build(
    files: Files, config: Mapping[str, Any], size: int | None, ranks: Ranks, name: str, pre: str, notes: list[Note]
) -> Tokenizer:
    pretokenizers.check_name(pre)
    by_id = {rank: token.decode("latin-1").translate(_ALPHABET) for token, rank in ranks.items()}
    if len(by_id) < len(ranks):
        raise CorruptFile("two tokens have one rank", code="duplicate-id", path=name, found=len(ranks) - len(by_id))
    merges = list(_merges(ranks, name))
    made = len({left + right for left, right in merges})
    alone = sum(len(token) > 1 for token in ranks) - made
    if alone and not pretokenizers.ignores_merges(pre):
        message = f"{alone} tokens are not made by merges; under {pre!r} the runtime never finds them"
        notes = [*notes, Note("ignore-merges", message, lossy=True)]
    texts = [
        (left.decode("latin-1").translate(_ALPHABET), right.decode("latin-1").translate(_ALPHABET))
        for left, right in merges
    ]
    return bpe.from_parts(files, config, size, dict(sorted(by_id.items())), texts, pre, notes)


def _merges(ranks: Ranks, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Every cut of every token into two tokens, by the token's rank, then by those of the two."""
    work = sum(len(token) ** 2 for token in ranks)
    if work > _MOST_WORK:
        raise LimitExceeded(
            "tokens too long to be cut in every way",
            code="token-length",
            path=name,
            place="sum of the squares of the lengths",
            found=work,
            allowed=_MOST_WORK,
        )
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        yield from sorted(
            (cut for cut in cuts if cut[0] in ranks and cut[1] in ranks), key=lambda cut: (ranks[cut[0]], ranks[cut[1]])
        )


def _kind(files: Files, config: Mapping[str, Any], name: str, pre: str | None) -> _Kind:
    found = [files.json(_CONFIG).get("tokenizer_class"), config.get("model_type")]
    kind = next((_KINDS[key] for key in found if isinstance(key, str) and key in _KINDS), None)
    if pre is not None:
        return (kind or _Kind(pre))._replace(pre=pre)
    if kind is None:
        raise UnsupportedError(
            "a tiktoken file does not say how text is split before merging",
            code="unknown-pre-tokenizer",
            path=name,
            place="tokenizer_class, model_type",
            found=", ".join(str(key) for key in found),
            allowed=", ".join(_KINDS),
            hint="give the name with --pre NAME, or add the tokenizer.json of the model",
        )
    return kind


def _tiktoken(raw: bytes, name: str) -> Iterator[tuple[bytes, int]]:
    taken: set[bytes] = set()
    for number, line in enumerate(raw.splitlines(), 1):
        if not line:
            continue
        if number > MAX_TOKENS:
            raise LimitExceeded("too many tokens", code="vocab-size", path=name, found=number, allowed=MAX_TOKENS)
        coded, _, rank = line.partition(b" ")
        token = _decoded(coded, name, f"line {number}")
        if not rank.isdigit() or len(rank) > 9 or token in taken:
            raise CorruptFile(
                "not a token and its rank" if token not in taken else "a token stands twice",
                code="bad-rank",
                path=name,
                place=f"line {number}",
                found=line[:80].decode("ascii", "replace"),
                allowed="base64 of the token's bytes, a space, a whole number",
            )
        taken.add(token)
        yield token, integer(int(rank), path=name, place=f"line {number}")


def _tekken(tekken: Mapping[str, Any], n_most: int) -> Iterator[tuple[bytes, int]]:
    taken: set[bytes] = set()
    rows = sequence(tekken.get("vocab"), path=TEKKEN, place="vocab")
    if len(rows) < n_most:
        raise CorruptFile(
            "fewer tokens than the vocabulary has",
            code="vocab-size",
            path=TEKKEN,
            place="vocab",
            found=len(rows),
            allowed=f"at least {n_most}",
        )
    for i, value in enumerate(rows[:n_most]):
        row = mapping(value, path=TEKKEN, place=f"vocab[{i}]")
        coded = string(row.get("token_bytes"), path=TEKKEN, place=f"vocab[{i}].token_bytes")
        token = _decoded(coded.encode(), TEKKEN, f"vocab[{i}].token_bytes")
        if row.get("rank") != i or token in taken:
            raise CorruptFile(
                "ranks are not those of the order, or a token stands twice",
                code="bad-rank",
                path=TEKKEN,
                place=f"vocab[{i}]",
                found=row.get("rank"),
                allowed=i,
            )
        taken.add(token)
        yield token, i


def _tekken_special(tekken: Mapping[str, Any], count: int) -> list[str]:
    texts = [*_OLD_TEKKEN[:count], *(f"<SPECIAL_{i}>" for i in range(len(_OLD_TEKKEN), count))]
    if tekken.get("special_tokens") is None:
        return texts
    texts = [f"<SPECIAL_{i}>" for i in range(count)]
    for i, value in enumerate(sequence(tekken["special_tokens"], path=TEKKEN, place="special_tokens")):
        place = f"special_tokens[{i}]"
        row = mapping(value, path=TEKKEN, place=place)
        rank = integer(row.get("rank"), path=TEKKEN, place=f"{place}.rank", below=max(count, 1))
        texts[rank] = string(row.get("token_str"), path=TEKKEN, place=f"{place}.token_str")
    return texts


def _decoded(coded: bytes, name: str, place: str) -> bytes:
    try:
        token = binascii.a2b_base64(coded, strict_mode=True)
    except (binascii.Error, ValueError):
        token = b""
    if not token:
        raise CorruptFile(
            "not the base64 of a token",
            code="bad-base64",
            path=name,
            place=place,
            found=coded[:80].decode("ascii", "replace"),
            allowed="base64 of one byte or more",
        )
    return token


def _alphabet() -> dict[int, int]:
    """GPT-2's character for each byte: itself where it is visible, else the next from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in visible)
    return {byte: 0x100 + i for i, byte in enumerate(others)}


_ALPHABET = _alphabet()
