"""Pre-tokenizers by structure: the table against llama.cpp's runtime and against `tokenizers`, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from llama_vocab import Refused, Vocab, write_vocab
from modelfmt.errors import LimitExceeded, ModelfmtError, UnsupportedError, UsageError
from modelfmt.tokenizers import gguf_metadata, read
from modelfmt.tokenizers.pre import check_name, identify, names
from modelfmt.tokenizers.pretable import DIFFERENCES, FORMS, NAMES, SPLITS, Name
from modelfmt.tokenizers.regexform import canonical
from tokenizer_texts import TEXTS, load

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def tokenizer_json(*steps: dict[str, Any], **model: Any) -> dict[str, Any]:
    closing = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, closing]},
        "model": {"type": "BPE", **model},
    }


def with_name(golden: Path, path: Path, name: str) -> Vocab:
    """GPT-2's golden vocabulary under another pre-tokenizer name."""
    files, config = load(golden / "checkpoints" / "gpt2")
    tok = read(files, config=config)
    assert tok is not None
    entries = [(key, kind, name if key.endswith(".pre") else value) for key, kind, value in gguf_metadata(tok)]
    return Vocab(write_vocab(path / "name.gguf", entries))


@pytest.mark.parametrize("name", names())
def test_runtime_knows_the_name(golden: Path, tmp_path: Path, name: str) -> None:
    with_name(golden, tmp_path, name).close()


def test_runtime_refuses_other_names(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unknown pre-tokenizer type: 'llama4-bpe'"):
        with_name(golden, tmp_path, "llama4-bpe")


def test_names_are_unique_and_every_split_has_one() -> None:
    assert len(set(names())) == len(names()) >= 92
    assert {row.split for row in NAMES} == set(SPLITS)
    assert FORMS.keys() | DIFFERENCES.keys() <= SPLITS.keys()


def trained(form: tuple[str, ...]) -> tokenizers.Tokenizer:
    """A byte-level BPE whose merges show where these steps split the test texts."""
    steps: list[Any] = []
    for step in form:
        if step.startswith("<punctuation:"):
            steps.append(tokenizers.pre_tokenizers.Punctuation(step[13:-1].lower()))
        else:
            steps.append(tokenizers.pre_tokenizers.Split(tokenizers.Regex(step), "isolated"))
    steps.append(tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=["<|endoftext|>"],
    )
    model.train_from_iterator(TEXTS * 3, trainer)
    return model


# afmoe's first expression is a mark for code in the runtime; the raw-text splits need a vocabulary of their own kind.
CHECKED = [
    (name, form)
    for name, expressions in SPLITS.items()
    for form in (expressions, *FORMS.get(name, ()))
    if name not in ("afmoe", "lines", "whitespace")
]


@pytest.mark.parametrize(("name", "form"), CHECKED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CHECKED)])
def test_runtime_splits_as_the_structure_says(tmp_path: Path, name: str, form: tuple[str, ...]) -> None:
    original = trained(form)
    raw = original.to_str()
    first = next(row.name for row in NAMES if row.split == name)
    assert identify(json.loads(raw)) == first
    tok = read({"tokenizer.json": raw.encode()}, config={})
    assert tok is not None and tok.pre == first
    vocab = Vocab(write_vocab(tmp_path / "vocab.gguf", gguf_metadata(tok)))
    same = all(vocab.encode(text) == original.encode(text).ids for text in TEXTS)
    vocab.close()
    assert same == (name not in DIFFERENCES)
    assert [note.lossy for note in tok.notes] == [True] * (name in DIFFERENCES)


def test_the_exact_name_for_the_split_of_gpt_4o(tmp_path: Path) -> None:
    original = trained(SPLITS["gpt-4o"])
    tok = read({"tokenizer.json": original.to_str().encode()}, config={}, pre="granite-embed-multi-97m")
    assert tok is not None
    vocab = Vocab(write_vocab(tmp_path / "vocab.gguf", gguf_metadata(tok)))
    assert all(vocab.encode(text) == original.encode(text).ids for text in TEXTS)


@pytest.mark.parametrize("row", [row for row in NAMES if not row.raw_utf8], ids=lambda row: row.name)
def test_runtime_ignores_merges_under_the_names_that_say_so(golden: Path, tmp_path: Path, row: Name) -> None:
    """A token that no merge makes is used for the whole word only where merges are ignored."""
    files, config = load(golden / "checkpoints" / "gpt2")
    tok = read(files, config=config)
    assert tok is not None
    tokens = list(tok.tokens)
    unmade = next(i for i, text in enumerate(tokens) if i > 300 and text not in ("<|endoftext|>",))
    tokens[unmade] = "zqxj"
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.pre": row.name}
    entries = [(key, kind, changed.get(key, value)) for key, kind, value in gguf_metadata(tok)]
    vocab = Vocab(write_vocab(tmp_path / "vocab.gguf", entries))
    assert (vocab.encode("zqxj") == [unmade]) == row.ignore_merges
    vocab.close()


SPELLINGS = [
    LLAMA3,
    LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"),
    LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"),
    LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"),
    LLAMA3.replace("]?", "]?+").replace("]+[", "]++["),
    LLAMA3.removesuffix(r"|\s+"),
    f"(?:{LLAMA3})",
]


@pytest.mark.parametrize("pattern", SPELLINGS)
@pytest.mark.parametrize(("behavior", "invert"), [("Isolated", False), ("Removed", True)])
def test_spelling_does_not_matter(pattern: str, behavior: str, invert: bool) -> None:
    assert identify(tokenizer_json(split(pattern, behavior, invert))) == "llama-bpe"


@pytest.mark.parametrize(
    "pattern",
    [
        r"\p{N}{1,3}+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]",
        r"[*+]+",
        r"\++",
        r"\p{N}+",
        "(a)|(b)",
        "\\",
        "[",
        "(?:",
    ],
)
def test_canonical_form_is_stable(pattern: str) -> None:
    once = canonical(pattern)
    assert canonical(once) == once


def test_plus_signs_in_classes_and_of_properties_stay() -> None:
    assert canonical(r"[*+]\p{N}+") == r"[*+]\p{N}+"
    assert canonical(r"\p{N}++") == r"\p{N}+"


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([{"type": "ByteLevel"}], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}], "starcoder"),
        ([split(LLAMA3.replace("{1,3}", ""))], "qwen2"),
        ([split(LLAMA3.replace("{1,3}", "{1}"))], "qwen2"),
    ],
)
def test_structures(steps: list[dict[str, Any]], name: str) -> None:
    assert identify(tokenizer_json(*steps)) == name


def test_ignore_merges_decides_where_it_matters() -> None:
    merges = [["a", "b"]]
    for flag, vocab, name in (
        (False, {"a": 0, "b": 1, "ab": 2}, "llama-bpe"),
        (True, {"a": 0, "b": 1, "ab": 2}, "llama-bpe"),
        (True, {"a": 0, "b": 1, "ba": 2}, "llama-bpe"),
        (False, {"a": 0, "b": 1, "ba": 2}, "dbrx"),
    ):
        found = tokenizer_json(split(LLAMA3), ignore_merges=flag, vocab=vocab, merges=merges)
        assert identify(found) == name


def test_unknown_structure_names_the_nearest_and_offers_pre() -> None:
    with pytest.raises(UnsupportedError) as caught:
        identify(tokenizer_json(split(LLAMA3.replace("{1,3}", "{1,5}"))))
    error = caught.value
    assert error.code == "unknown-pre-tokenizer"
    assert error.context["nearest"] == "llama-bpe"
    assert "--pre llama-bpe" in str(error)


@pytest.mark.parametrize("steps", [[], [{"type": "Metaspace"}], [{"type": "Whitespace"}], [split("a", "Removed")]])
def test_other_structures_are_refused(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(UnsupportedError, match="no pre-tokenizer like this"):
        identify(tokenizer_json(*steps))


def test_pre_by_hand_is_used_and_noted_and_checked(golden: Path) -> None:
    files, config = load(golden / "checkpoints" / "gpt2")
    tok = read(files, config=config, pre="qwen2")
    assert tok is not None and tok.pre == "qwen2" and [note.code for note in tok.notes] == ["pre-tokenizer"]
    with pytest.raises(UsageError, match="qwen2"):
        read(files, config=config, pre="qwen-2")
    check_name("gpt-2")


@pytest.mark.parametrize(
    "steps",
    [
        [split("a" * 20000)],
        [{"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 100}],
        [{"type": 5}],
        ["ByteLevel"],
        [{"type": "Sequence"}],
    ],
)
def test_hostile_structures_are_refused(steps: list[Any]) -> None:
    with pytest.raises(ModelfmtError):
        identify(tokenizer_json(*steps))


def test_deep_sequences_are_refused() -> None:
    nested: dict[str, Any] = {"type": "ByteLevel"}
    for _ in range(500):
        nested = {"type": "Sequence", "pretokenizers": [nested]}
    with pytest.raises(LimitExceeded):
        identify({"pre_tokenizer": nested, "model": {}})
