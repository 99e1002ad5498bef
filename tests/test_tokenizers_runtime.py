"""Token ids from llama.cpp's runtime on our metadata, against `tokenizers` and `sentencepiece` on the originals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from llama_vocab import Refused, Vocab, write_vocab
from modelfmt.ir.tokenizer import Tokenizer
from modelfmt.tokenizers import gguf_metadata, read
from tokenizer_texts import TEXTS, load

NAMES = sorted(path.stem for path in (Path(__file__).parent / "data" / "golden" / "gguf").glob("*.json"))
Encode = Callable[[str], list[int]]


def by_tokenizers(raw: bytes) -> Encode:
    original = tokenizers.Tokenizer.from_str(raw.decode())
    original.no_truncation()
    original.no_padding()
    return lambda text: list(original.encode(text, add_special_tokens=False).ids)


WITHOUT_PREFIX = b"\x1a\x02\x18\x00"  # a further normalizer_spec message: add_dummy_prefix = false
"""Appended to a SentencePiece model; fields of a repeated message are merged."""


def by_sentencepiece(raw: bytes) -> Encode:
    original = sentencepiece.SentencePieceProcessor(model_proto=raw)
    return lambda text: list(original.encode(text))


def original_of(files: dict[str, bytes], name: str) -> Encode:
    if "tokenizer.json" in files:
        return by_tokenizers(files["tokenizer.json"])
    raw = files.get("tokenizer.model") or files["spiece.model"]
    return by_sentencepiece(raw + WITHOUT_PREFIX if name.startswith("gemma") else raw)


def runtime(tok: Tokenizer | None, folder: Path, **changed: Any) -> Vocab:
    assert tok is not None
    entries = [(key, kind, changed.get(key.rpartition(".")[2], value)) for key, kind, value in gguf_metadata(tok)]
    return Vocab(write_vocab(folder / "vocab.gguf", entries))


def differing(vocab: Vocab, encode: Encode) -> list[str]:
    return [text for text in TEXTS if vocab.encode(text) != encode(text)]


@pytest.mark.parametrize("name", NAMES)
def test_runtime_gives_the_ids_of_the_original(golden: Path, name: str, tmp_path: Path) -> None:
    files, config = load(golden / "checkpoints" / name)
    vocab = runtime(read(files, config=config), tmp_path)
    assert differing(vocab, original_of(files, name)) == []


REAL = {
    "tokenizers/microsoft+onnxruntime-extensions/test/data/phi-2": "gpt2",
    "tokenizers/microsoft+onnxruntime-extensions/test/data/phi-3": "llama",
    "tokenizers/microsoft+onnxruntime-extensions/test/data/tokenizer/t5-small": "t5",
    "tokenizers/microsoft+onnxruntime-extensions/test/data/tokenizer/whisper.tiny": "gpt2",
    "lm/tinyshakespeare-5M": "gpt2",
    "lm/stories260K": "llama",
}


@pytest.mark.parametrize("folder", REAL)
def test_real_tokenizers(shared_data: Path, folder: str, tmp_path: Path) -> None:
    files, config = load(shared_data / folder)
    tok = read(files, config=config)
    assert tok is not None and tok.model == REAL[folder]
    assert differing(runtime(tok, tmp_path), original_of(files, folder)) == []


@pytest.mark.parametrize(
    "path",
    [
        "tokenizers/google+sentencepiece/python/test/test_model.model",
        "tokenizers/mistralai+mistral-common/src/mistral_common/data/tokenizer.model.v1",
        "tokenizers/mistralai+mistral-common/src/mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
    ],
)
def test_real_sentencepiece_models(shared_data: Path, path: str, tmp_path: Path) -> None:
    raw = (shared_data / path).read_bytes()
    vocab = runtime(read({"tokenizer.model": raw}, config={}), tmp_path)
    assert differing(vocab, by_sentencepiece(raw)) == []


def test_nfc_normalizer_is_a_named_loss(shared_data: Path, tmp_path: Path) -> None:
    raw = (shared_data / "tokenizers/BlinkDL+ChatRWKV/20B_tokenizer.json").read_bytes()
    tok = read({"tokenizer.json": raw}, config={})
    assert tok is not None and [note.code for note in tok.notes if note.lossy] == ["normalizer"]
    vocab, encode = runtime(tok, tmp_path), by_tokenizers(raw)
    assert differing(vocab, encode) == []
    assert vocab.encode("e\u0301") != encode("e\u0301")


def test_cased_wordpiece_stays_cased(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "tokenizers/microsoft+onnxruntime-extensions/test/data/bert_basic_cased_vocab.txt"
    original = tokenizers.BertWordPieceTokenizer(str(path), lowercase=False)
    files = {"vocab.txt": path.read_bytes(), "tokenizer_config.json": b'{"do_lower_case": false}'}
    tok = read(files, config={"type_vocab_size": 2})
    assert tok is not None and tok.lowercase is False
    assert differing(runtime(tok, tmp_path), lambda text: original.encode(text, add_special_tokens=False).ids) == []


def test_special_tokens_are_added_as_the_original_adds_them(golden: Path, tmp_path: Path) -> None:
    for name in ("bert", "llama3-big", "qwen2"):
        files, config = load(golden / "checkpoints" / name)
        original = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        vocab = runtime(read(files, config=config), tmp_path)
        assert vocab.encode("Hello world", special=True) == original.encode("Hello world").ids


def byte_fallback_json(raw: bytes) -> bytes:
    """A SentencePiece BPE as the byte-fallback BPE that transformers makes of it."""
    model = sentencepiece.SentencePieceProcessor(model_proto=raw)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    plain = [piece for i, piece in enumerate(pieces) if not model.is_byte(i) and not model.is_control(i)]
    merges = [
        [piece[:i], piece[i:]]
        for piece in sorted(plain, key=lambda piece: -model.get_score(vocab[piece]))
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]
    steps = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    special = [{"id": i, "content": pieces[i], "special": True, "normalized": False} for i in range(3)]
    rest = {"single_word": False, "lstrip": False, "rstrip": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [row | rest for row in special],
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "model": {"type": "BPE", "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
            | {"vocab": vocab, "merges": merges},
        }
    ).encode()


def test_byte_fallback_bpe_gets_scores_from_its_merges(golden: Path, tmp_path: Path) -> None:
    raw = byte_fallback_json((golden / "checkpoints" / "llama-spm" / "tokenizer.model").read_bytes())
    tok = read({"tokenizer.json": raw}, config={})
    assert tok is not None and tok.scores is not None and (tok.model, tok.notes) == ("llama", ())
    assert differing(runtime(tok, tmp_path), by_tokenizers(raw)) == []
    flat = runtime(tok, tmp_path, scores=[-1000.0] * len(tok))  # what llama.cpp's converter writes
    assert differing(flat, by_tokenizers(raw)) != []


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    ("step", "codes"),
    [
        (METASPACE, ["prefix-space"]),  # what LlamaTokenizer of transformers 5 saves
        ({"type": "Sequence", "pretokenizers": [METASPACE]}, ["prefix-space"]),  # TokenizersBackend, for Mistral
        (METASPACE | {"prepend_scheme": "always", "split": True}, ["prefix-space"]),
        (METASPACE | {"prepend_scheme": "never"}, []),
        ({"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}, ["prefix-space"]),  # older releases
    ],
)
def test_metaspace_puts_a_space_before_the_text(
    golden: Path, tmp_path: Path, step: dict[str, Any], codes: list[str]
) -> None:
    changed = json.loads(byte_fallback_json((golden / "checkpoints" / "llama-spm" / "tokenizer.model").read_bytes()))
    changed["normalizer"] = None
    changed["pre_tokenizer"] = step
    raw = json.dumps(changed).encode()
    tok = read({"tokenizer.json": raw}, config={})
    assert tok is not None and [note.code for note in tok.notes if note.lossy] == codes
    vocab, encode = runtime(tok, tmp_path), by_tokenizers(raw)
    after_space = {text for text in TEXTS if text.startswith(" ")}
    assert set(differing(vocab, encode)) == (after_space if codes else set())
    if codes:  # a space comes back with the scheme that spares such texts
        assert all(vocab.encode(text[1:]) == encode(text) for text in after_space)


def test_words_that_metaspace_splits_are_a_named_loss(golden: Path, tmp_path: Path) -> None:
    changed = json.loads(byte_fallback_json((golden / "checkpoints" / "llama-spm" / "tokenizer.model").read_bytes()))
    vocab = changed["model"]["vocab"]
    spare = next(text for text in vocab if len(text) > 3)
    vocab["a\u2581"] = vocab.pop(spare)
    merges = [pair for pair in changed["model"]["merges"] if "".join(pair) != spare and spare not in pair]
    changed["model"]["merges"] = [["a", "\u2581"], *merges]
    changed |= {"normalizer": None, "pre_tokenizer": METASPACE | {"split": True}}
    raw = json.dumps(changed).encode()
    tok = read({"tokenizer.json": raw}, config={})
    assert tok is not None and "reach over a space" in " ".join(note.message for note in tok.notes if note.lossy)
    assert runtime(tok, tmp_path).encode("a a") != by_tokenizers(raw)("a a")


def test_gemma4_keeps_the_merges(golden: Path, tmp_path: Path) -> None:
    raw = byte_fallback_json((golden / "checkpoints" / "llama-spm" / "tokenizer.model").read_bytes())
    changed = json.loads(raw)
    del changed["normalizer"]["normalizers"][0]  # no space before the text
    del changed["model"]["merges"][10:40]  # merging by score would still make these
    raw = json.dumps(changed).encode()
    files = {"tokenizer.json": raw, "tokenizer_config.json": b'{"bos_token": "<s>", "add_bos_token": true}'}
    tok = read(files, config={"model_type": "gemma4_text"})
    assert tok is not None and (tok.model, tok.notes) == ("gemma4", ())
    assert differing(runtime(tok, tmp_path), by_tokenizers(raw)) == []
    by_score = read(files, config={}, model="llama")
    assert by_score is not None and [note.code for note in by_score.notes] == ["merges-by-score"]
    assert differing(runtime(by_score, tmp_path), by_tokenizers(raw)) != []


def test_user_defined_pieces_are_found_in_text(golden: Path, tmp_path: Path) -> None:
    """llama.cpp's converter calls them normal, and its runtime then takes them apart."""
    files, config = load(golden / "checkpoints" / "gemma2")
    tok = read(files, config=config)
    assert tok is not None
    encode = by_sentencepiece(files["tokenizer.model"] + WITHOUT_PREFIX)
    text = "<start_of_turn>user"
    assert runtime(tok, tmp_path).encode(text) == encode(text)
    as_normal = [1 if kind == 4 else kind for kind in tok.token_types]
    assert runtime(tok, tmp_path, token_type=as_normal).encode(text) != encode(text)


def test_id_outside_the_vocabulary_is_left_out(golden: Path, tmp_path: Path) -> None:
    """The runtime disables such an id; newer versions refuse the file, as it also says to add that token."""
    files, config = load(golden / "checkpoints" / "modernbert")
    tok = read(files, config=config)
    assert tok is not None and {note.code for note in tok.notes} == {"special-out-of-range"}
    assert "bad special token" not in runtime(tok, tmp_path).log
    theirs = [("tokenizer.ggml.seperator_token_id", "UINT32", 50282), ("tokenizer.ggml.add_sep_token", "BOOL", True)]
    try:
        log = Vocab(write_vocab(tmp_path / "theirs.gguf", [*gguf_metadata(tok), *theirs])).log
    except Refused as refused:
        log = str(refused)
    assert "bad special token" in log


def test_repeated_texts_would_stop_the_runtime(golden: Path, tmp_path: Path) -> None:
    files, config = load(golden / "checkpoints" / "gpt2")
    added = {"id": 512, "content": "\u2581", "special": False}, {"id": 513, "content": " ", "special": False}
    changed = json.loads(files["tokenizer.json"])
    changed["added_tokens"] += added
    tok = read({**files, "tokenizer.json": json.dumps(changed).encode()}, config=config | {"vocab_size": 514})
    assert tok is not None and [note.code for note in tok.notes] == ["duplicate-token"]
    assert len(set(tok.tokens)) == len(tok) == 514
    assert len(runtime(tok, tmp_path)) == 514
    repeated = [
        (key, kind, [*tok.tokens[:512], " ", " "] if key.endswith(".tokens") else value)
        for key, kind, value in gguf_metadata(tok)
    ]
    path = write_vocab(tmp_path / "repeated.gguf", repeated)
    code = f"from pathlib import Path; from llama_vocab import Vocab; Vocab(Path({str(path)!r}))"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=False)
    assert child.returncode != 0  # some versions raise, others abort the whole process


@pytest.mark.parametrize("path", ["gpt-2", "llama-bpe", "qwen2", "falcon", "starcoder", "deepseek-coder"])
def test_names_of_llama_cpps_own_vocabularies_split_as_they_do(shared_data: Path, path: str) -> None:
    """The runtime gives its published ids; that the harness itself is right."""
    vocab = Vocab(shared_data / "vocab" / f"ggml-vocab-{path}.gguf")
    texts = (shared_data / "vocab" / f"ggml-vocab-{path}.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")
    lines = (shared_data / "vocab" / f"ggml-vocab-{path}.gguf.out").read_text().split("\n")
    assert [vocab.encode(text) for text in texts] == [[int(i) for i in line.split()] for line in lines[: len(texts)]]
    vocab.close()
