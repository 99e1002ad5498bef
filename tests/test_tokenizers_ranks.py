"""tiktoken's files and tekken.json: ids beside those of `tiktoken` itself, in llama.cpp's runtime; what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llama_vocab import Vocab, write_vocab
from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError, UnsupportedError
from modelfmt.ir.tokenizer import Tokenizer
from modelfmt.tokenizers import gguf_metadata, read
from modelfmt.tokenizers.pretable import DIFFERENCES, NAMES, SPLITS
from modelfmt.tokenizers.regexform import canonical
from tokenizer_texts import TEXTS

SPLIT = {row.name: row.split for row in NAMES}
ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def trained(pattern: str, vocab_size: int = 1200) -> dict[bytes, int]:
    """Ranks of a byte-level BPE trained on the test texts, split by a regular expression."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=1, show_progress=False, initial_alphabet=ALPHABET
    )
    model.train_from_iterator(TEXTS, trainer)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return {bytes(letters[c] for c in text): rank for text, rank in model.get_vocab().items()}


def tiktoken_file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())


def tekken_file(ranks: dict[bytes, int], pattern: str, special: list[str], **changed: Any) -> bytes:
    rows = sorted(ranks.items(), key=lambda item: item[1])
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None} for token, rank in rows]
    settings = {
        "pattern": pattern,
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) + len(special) - 100,
        "default_num_special_tokens": len(special),
        "version": "v7",
    }
    listed = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)]
    return json.dumps({"config": settings, "vocab": vocab, "special_tokens": listed} | changed).encode()


def runtime(tok: Tokenizer, folder: Path) -> Vocab:
    return Vocab(write_vocab(folder / "vocab.gguf", gguf_metadata(tok)))


def exact(name: str, text: str) -> bool:
    """Whether the runtime splits as the tokenizer does; where it does not, at combining marks, the docs say so."""
    return SPLIT[name] not in DIFFERENCES or not any(ord(c) > 0x2FF for c in text)


CLASSES = [
    ("qwen.tiktoken", {"tokenizer_class": "QWenTokenizer"}, {}, "qwen2"),
    ("tiktoken.model", {"tokenizer_class": "TikTokenTokenizer"}, {}, "kimi-k2"),
    ("tokenizer.model", {"tokenizer_class": "ChatGLM4Tokenizer"}, {}, "chatglm-bpe"),
    ("hy.tiktoken", {"tokenizer_class": "HYTokenizer"}, {}, "hunyuan"),
    ("tokenizer.model", {}, {"model_type": "llama"}, "llama-bpe"),
]


@pytest.mark.parametrize(("name", "settings", "config", "pre"), CLASSES)
def test_ids_are_those_of_tiktoken(
    tmp_path: Path, name: str, settings: dict[str, Any], config: dict[str, Any], pre: str
) -> None:
    (pattern,) = SPLITS[SPLIT[pre]]
    ranks = trained(pattern)
    oracle = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    decoder = {str(len(ranks) + 300): {"content": "<|user|>", "special": True}}
    whole = settings | {"added_tokens_decoder": decoder}
    files = {name: tiktoken_file(ranks), "tokenizer_config.json": json.dumps(whole).encode()}
    tok = read(files, config=config)
    assert tok is not None
    assert (tok.model, tok.pre, tok.tokens[len(ranks) + 300]) == ("gpt2", pre, "<|user|>")
    vocab = runtime(tok, tmp_path)
    compared = [text for text in TEXTS if exact(pre, text)]
    assert len(compared) >= 10
    for text in compared:
        assert vocab.encode(text) == oracle.encode(text), (pre, text)
    for token, rank in ranks.items():
        assert vocab.piece(rank) == token
    vocab.close()


def test_special_tokens_of_qwen_follow_the_ranks() -> None:
    ranks = trained(SPLITS["qwen2"][0], 300)
    files = {"qwen.tiktoken": tiktoken_file(ranks), "tokenizer_config.json": b'{"tokenizer_class": "QWenTokenizer"}'}
    tok = read(files, config={"vocab_size": 600})
    assert tok is not None
    n = len(ranks)
    assert tok.tokens[n : n + 4] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>")
    assert (len(tok), tok.special["eos"], tok.tokens[n + 207]) == (600, n, "<|extra_204|>")


@pytest.mark.parametrize("listed", [True, False])
def test_ids_are_those_of_tekken(tmp_path: Path, listed: bool) -> None:
    pattern = SPLITS["tekken"][0]
    ranks = trained(pattern)
    special = [*("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), *(f"<SPECIAL_{i}>" for i in range(5, 40))]
    raw = tekken_file(ranks, pattern, special, **({} if listed else {"special_tokens": None}))
    tok = read({"tekken.json": raw}, config={})
    assert tok is not None
    kept = {token: rank for token, rank in ranks.items() if rank < len(ranks) - 100}
    oracle = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=kept, special_tokens={})
    assert (tok.pre, len(tok), tok.add_bos) == ("tekken", len(kept) + 40, True)
    assert tok.tokens[3] == "[INST]"
    assert tok.tokens[39] == "<SPECIAL_39>"
    assert (tok.special["bos"], tok.special["eos"]) == (1, 2)
    vocab = runtime(tok, tmp_path)
    for text in TEXTS:
        if exact("tekken", text):
            assert vocab.encode(text) == [40 + i for i in oracle.encode(text)], text
    assert vocab.encode("a[INST]b", parse=True)[1] == 3
    vocab.close()


def test_merges_are_every_cut_into_two_tokens_by_rank() -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    files = {"x.tiktoken": tiktoken_file(ranks)}
    tok = read(files, config={"model_type": "qwen"})
    assert tok is not None
    assert tok.merges == ("a b", "b c", "a bc", "ab c")


def test_tokenizer_json_goes_first(golden: Path) -> None:
    raw = (golden / "checkpoints" / "gpt2" / "tokenizer.json").read_bytes()
    tok = read({"tokenizer.json": raw, "x.tiktoken": b"AA== 0\n", "tekken.json": b"{}"}, config={})
    assert tok is not None
    assert tok.pre == "gpt-2"


RANKS = {bytes([b]): b for b in range(256)}
LINES = tiktoken_file(RANKS)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (LINES + b"YWI= x\n", "bad-rank"),
        (LINES + b"YWI=\n", "bad-rank"),
        (LINES + b"YWI= 1 2\n", "bad-rank"),
        (LINES + b"YWI= 99999999999\n", "bad-rank"),
        (LINES + b"YWI= 9999999\n", "id-range"),
        (LINES + b"YWI 300\n", "bad-base64"),
        (LINES + b" 300\n", "bad-base64"),
        (LINES + b"AA== 300\n", "bad-rank"),
        (LINES + b"YWI= 5\n", "duplicate-id"),
        (LINES + base64.b64encode(bytes(40000)) + b" 300\n", "token-length"),
    ],
)
def test_bad_tiktoken_files_are_refused(raw: bytes, code: str) -> None:
    with pytest.raises((CorruptFile, LimitExceeded)) as caught:
        read({"x.tiktoken": raw}, config={"model_type": "qwen"})
    assert caught.value.code == code
    assert "x.tiktoken" in str(caught.value)


def test_an_unknown_class_is_refused_and_can_be_named() -> None:
    with pytest.raises(UnsupportedError) as caught:
        read({"x.tiktoken": LINES}, config={"model_type": "other"})
    assert caught.value.code == "unknown-pre-tokenizer"
    tok = read({"x.tiktoken": LINES}, config={}, pre="qwen2")
    assert tok is not None
    assert tok.pre == "qwen2"


def test_bad_tekken_files_are_refused() -> None:
    pattern = SPLITS["tekken"][0]
    good = json.loads(tekken_file(trained(pattern, 400), pattern, ["<unk>", "<s>", "</s>"]))
    changes: list[tuple[str, Any]] = [
        ("vocab", []),
        ("vocab", good["vocab"][::-1]),
        ("vocab", [{**row, "token_bytes": "AA=="} for row in good["vocab"]]),
        ("vocab", [{"rank": i} for i in range(400)]),
        ("config", None),
        ("config", good["config"] | {"default_num_special_tokens": 10_000}),
        ("config", good["config"] | {"default_vocab_size": 1 << 40}),
        ("config", good["config"] | {"default_vocab_size": -1}),
        ("config", good["config"] | {"pattern": r"\w+|\s+"}),
        ("special_tokens", [{"rank": 3, "token_str": "x"}]),
        ("special_tokens", [{"rank": 1}]),
    ]
    for key, value in changes:
        with pytest.raises(ModelfmtError) as caught:
            read({"tekken.json": json.dumps(good | {key: value}).encode()}, config={})
        assert "tekken.json" in str(caught.value), (key, str(value)[:80])


def test_patterns_of_the_table_are_what_the_files_say() -> None:
    """The table's expressions are in one spelling with those that the files' own code has."""
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert canonical(SPLITS["qwen2"][0]) == canonical(qwen)
    assert canonical(SPLITS["llama3"][0]) == canonical(qwen.replace(r"\p{N}|", r"\p{N}{1,3}|"))
