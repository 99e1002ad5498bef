"""What the readers make of single facts: templates, special tokens, added tokens, sizes, kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError, UsageError
from modelfmt.ir.tokenizer import Tokenizer, TokenType
from modelfmt.tokenizers import gguf_metadata, read
from tokenizer_texts import load

VOCAB = {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<|im_end|>": 5}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def added(token_id: int, content: str, special: bool = True) -> dict[str, Any]:
    return {"id": token_id, "content": content, "special": special}


def bpe(**changed: Any) -> dict[str, Any]:
    return {
        "added_tokens": [added(3, "<s>"), added(4, "</s>"), added(5, "<|im_end|>", False)],
        "pre_tokenizer": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": VOCAB, "merges": ["a b"]},
    } | changed


def read_json(tokenizer: dict[str, Any], config: dict[str, Any] | None = None, /, **settings: Any) -> Tokenizer:
    extra = settings.pop("files", {})
    files = {"tokenizer.json": json.dumps(tokenizer).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    tok = read({**files, **extra}, config=config or {})
    assert tok is not None
    return tok


def keys(tok: Tokenizer) -> dict[str, Any]:
    return {key: value for key, _, value in gguf_metadata(tok)}


def template(*single: str, pair: tuple[str, ...] = ()) -> dict[str, Any]:
    def pieces(texts: tuple[str, ...]) -> list[dict[str, Any]]:
        return [{"Sequence" if text in "AB" else "SpecialToken": {"id": text}} for text in texts]

    return {"type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair)}


def test_no_tokenizer_files_is_none_and_not_an_error() -> None:
    assert read({"config.json": b"{}"}, config={}) is None


def test_kinds_that_gguf_lacks_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="WordLevel"):
        read_json(bpe(model={"type": "WordLevel", "vocab": VOCAB}))
    with pytest.raises(UnsupportedError, match="end_of_word_suffix"):
        read_json(bpe(model={"type": "BPE", "vocab": VOCAB, "merges": [], "end_of_word_suffix": "</w>"}))
    with pytest.raises(UsageError):
        read({}, config={}, model="sentencepiece")
    with pytest.raises(UnsupportedError, match="another kind"):
        read({"tokenizer.json": json.dumps(bpe()).encode()}, config={}, model="bert")


def test_holes_are_padding_and_ids_beyond_the_rows_are_a_named_loss() -> None:
    tok = read_json(bpe(), {"vocab_size": 8})
    assert tok.tokens[6:] == ("[PAD6]", "[PAD7]") and set(tok.token_types[6:]) == {TokenType.UNUSED}
    tok = read_json(bpe(), {"vocab_size": 5})
    assert len(tok) == 5 and [(note.code, note.lossy) for note in tok.notes] == [("token-out-of-range", True)]


def test_rows_of_the_embedding_win_over_config() -> None:
    files = {"tokenizer.json": json.dumps(bpe()).encode()}
    tok = read(files, config={"vocab_size": 8}, vocab_size=16)
    assert tok is not None and len(tok) == 16


@pytest.mark.parametrize("size", [10**12, -1, "8", 2.5, True])
def test_senseless_sizes_are_refused(size: Any) -> None:
    with pytest.raises((CorruptFile, LimitExceeded)):
        read_json(bpe(), {"vocab_size": size})


def test_added_tokens_that_look_special_are_control() -> None:
    tok = read_json(bpe(added_tokens=[added(3, "<s>"), added(5, "<|im_end|>", False), added(6, "\u2581x", False)]))
    assert tok.token_types[3] == tok.token_types[5] == TokenType.CONTROL
    assert (tok.tokens[6], tok.token_types[6]) == (" x", TokenType.USER_DEFINED)


def test_tokenizer_config_says_more_of_added_tokens() -> None:
    decoder = {"6": {"content": "<x>", "special": True}, "0": {"content": "a", "special": False}}
    tok = read_json(bpe(), added_tokens_decoder=decoder)
    assert (tok.tokens[6], tok.token_types[6]) == ("<x>", TokenType.CONTROL)
    assert tok.token_types[0] == TokenType.USER_DEFINED


def test_merges_of_both_spellings_and_with_spaces() -> None:
    model = {"type": "BPE", "vocab": VOCAB, "merges": [["a", "b"], ["a ", "b"]]}
    assert read_json(bpe(model=model)).merges == ("a b", "a\u0120 b")
    for bad in ("ab", "a b c", ["a"], ["a", 1], ["", "b"], 7):
        with pytest.raises(CorruptFile):
            read_json(bpe(model=model | {"merges": [bad]}))


def test_vocab_json_needs_a_class_that_tells_the_pre_tokenizer() -> None:
    files = {"vocab.json": json.dumps(VOCAB).encode(), "merges.txt": b"#version: 0.2\na b\n"}
    with pytest.raises(UnsupportedError) as caught:
        read(files, config={})
    assert caught.value.code == "unknown-pre-tokenizer" and "--pre" in str(caught.value)
    tok = read({**files, "tokenizer_config.json": b'{"tokenizer_class": "GPT2TokenizerFast"}'}, config={})
    assert tok is not None and (tok.pre, tok.merges) == ("gpt-2", ("a b",))
    tok = read(files, config={}, pre="qwen2")
    assert tok is not None and tok.pre == "qwen2"


def test_bos_is_added_only_where_a_template_says_so() -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    assert read_json(bpe(), **names).add_bos is False
    tok = read_json(bpe(post_processor=template("<s>", "A")), **names)
    assert (tok.add_bos, tok.add_eos, tok.special["bos"]) == (True, None, 3)
    tok = read_json(bpe(post_processor=template("<s>", "A", "</s>", pair=("<s>", "A", "</s>", "B", "</s>"))), **names)
    assert (tok.add_bos, tok.add_eos, tok.add_sep) == (True, True, False)
    sequence = {"type": "Sequence", "processors": [BYTE_LEVEL, template("<s>", "A")]}
    assert read_json(bpe(post_processor=sequence), **names).add_bos is True
    assert read_json(bpe(post_processor=template("<s>", "A")), add_bos_token=False, **names).add_bos is False


def test_roberta_adds_all_three_and_names_cls_and_sep() -> None:
    processor = {"type": "RobertaProcessing", "cls": ["<s>", 3], "sep": ["</s>", 4]}
    tok = read_json(bpe(post_processor=processor), {"type_vocab_size": 1})
    assert (tok.add_bos, tok.add_eos, tok.add_sep) == (True, True, True)
    assert tok.special == {"bos": 3, "eos": 4, "sep": 4, "cls": 3}
    assert list(keys(tok))[-1] == "tokenizer.ggml.token_type_count"


def test_a_template_that_ends_in_another_token_than_eos() -> None:
    """As Qwen3-Embedding: what is appended becomes eos, what was eos ends a turn."""
    tok = read_json(bpe(post_processor=template("A", "</s>")), eos_token="<|im_end|>")
    assert (tok.special["eos"], tok.special["eot"], tok.add_eos) == (4, 5, True)


def test_templates_beyond_gguf_are_a_named_loss() -> None:
    tok = read_json(bpe(post_processor=template("<s>", "<|im_end|>", "A")), bos_token="<s>")
    assert [(note.code, note.lossy) for note in tok.notes] == [("template-not-expressible", True)]


def test_further_end_tokens_get_the_keys_that_are_left() -> None:
    config = {"eos_token_id": [4, 0], "vocab_size": 6}
    generation = json.dumps({"eos_token_id": [4, 5, 1, 2]}).encode()
    tok = read_json(bpe(), config, files={"generation_config.json": generation})
    assert (tok.special["eos"], tok.special["eot"], tok.special["eom"]) == (4, 0, 1)  # 5 is known by its text
    assert [(note.code, note.lossy) for note in tok.notes] == [("eos-dropped", True)]


def test_token_to_add_without_an_id_is_switched_off() -> None:
    tok = read_json(bpe(), add_eos_token=True)
    assert tok.add_eos is False and [note.code for note in tok.notes] == ["add-without-token"]


def test_chat_templates_by_source() -> None:
    jinja = {"chat_template.jinja": b"file", "additional_chat_templates/tool use.jinja": b"tools"}
    tok = read_json(bpe(), files=jinja)
    assert (tok.chat_template, dict(tok.chat_templates)) == ("file", {"tool_use": "tools"})
    assert keys(tok)["tokenizer.chat_template.tool_use"] == "tools"
    assert keys(tok)["tokenizer.chat_templates"] == ["tool_use"]
    assert read_json(bpe(), files=jinja, chat_template="own").chat_template == "own"
    assert read_json(bpe(), files={"chat_template.json": b'{"chat_template": "json"}'}).chat_template == "json"
    listed = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
    tok = read_json(bpe(), chat_template=listed)
    assert (tok.chat_template, dict(tok.chat_templates)) == ("d", {"rag": "r"})
    with pytest.raises(CorruptFile):
        read_json(bpe(), chat_template=[*listed, {"name": "rag", "template": "again"}])
    with pytest.raises(CorruptFile):
        read_json(bpe(), chat_template=5)


def test_prefix_space_and_normalizers_are_named_losses() -> None:
    tok = read_json(bpe(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}, normalizer={"type": "NFKC"}))
    assert [(note.code, note.lossy) for note in tok.notes] == [("normalizer", True), ("prefix-space", True)]


def test_what_added_tokens_ask_for_beyond_gguf_is_a_named_loss() -> None:
    rows = [added(3, "<s>"), added(4, "</s>") | {"rstrip": True}, added(5, "<|im_end|>", False) | {"single_word": True}]
    tok = read_json(bpe(added_tokens=rows))
    assert [note.code for note in tok.notes if note.lossy] == ["added-token-spaces", "added-token-words"]
    assert "'</s>'" in tok.notes[0].message and "'<|im_end|>'" in tok.notes[1].message
    decoder = {"4": {"content": "</s>", "special": True, "rstrip": False}}
    assert [note.code for note in read_json(bpe(added_tokens=rows), added_tokens_decoder=decoder).notes] == [
        "added-token-words"
    ]


def test_what_a_template_puts_first_is_bos() -> None:
    """BigBird names a bos as well; the runtime puts bos first."""
    tok = read_json(bpe(post_processor=template("<|im_end|>", "A")), bos_token="<s>", cls_token="<|im_end|>")
    assert (tok.special["bos"], tok.special["cls"], tok.add_bos, tok.notes) == (5, 5, True, ())


def test_unigram_says_which_token_is_unknown_whatever_is_named_so() -> None:
    vocab = [["<unk>", 0.0], ["</s>", 0.0], ["\u2581a", -1.5], ["b", -2]]
    tok = read_json(
        {"model": {"type": "Unigram", "unk_id": 1, "vocab": vocab}, "added_tokens": [added(0, "<unk>")]},
        unk_token="<unk>",
    )
    assert tok.special["unk"] == 1 and tok.token_types[:2] == (TokenType.CONTROL, TokenType.UNKNOWN)


def test_white_space_that_unigram_splits_at_is_a_named_loss() -> None:
    steps = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace"}]}
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["\u2581a", -1.5]]}
    tok = read_json({"model": model, "pre_tokenizer": steps})
    assert [(note.code, note.lossy) for note in tok.notes] == [("pre-tokenizer", True)]
    tok = read_json({"model": model, "normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}})
    assert [(note.code, note.lossy) for note in tok.notes] == [("extra-whitespace", True)]


def test_unigram_in_tokenizer_json() -> None:
    model = {"type": "Unigram", "unk_id": 1, "vocab": [["<pad>", 0], ["<unk>", 0.0], ["\u2581a", -1.5], ["b", -2]]}
    steps = [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "prepend_scheme": "never"}]
    tok = read_json({"model": model, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}})
    assert (tok.model, tok.scores) == ("t5", (0.0, 0.0, -1.5, -2.0))
    assert tok.token_types[1] == TokenType.UNKNOWN and tok.special == {"unk": 1}
    assert (tok.add_space_prefix, tok.remove_extra_whitespaces) == (False, True)
    with pytest.raises(CorruptFile):
        read_json({"model": model | {"vocab": [["a", "b"]]}})
    with pytest.raises(CorruptFile):
        read_json({"model": model | {"unk_id": 4}})


def test_wordpiece_normalizer_and_marks() -> None:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "##b": 6}
    special = [added(i, text) for text, i in list(vocab.items())[:5]]
    model = {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##"}
    both = {"type": "BertNormalizer", "lowercase": True, "strip_accents": False}
    tok = read_json({"added_tokens": special, "normalizer": both, "model": model})
    assert tok.tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2581a", "b")
    assert (tok.lowercase, tok.strip_accents, tok.token_type_count) == (True, False, 1)
    assert read_json({"added_tokens": special, "model": model}).lowercase is False
    with pytest.raises(UnsupportedError):
        read_json({"model": model | {"continuing_subword_prefix": "@@"}})


def test_vocab_txt_finds_its_special_tokens() -> None:
    tok = read({"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\r\n"}, config={"type_vocab_size": 2})
    assert tok is not None and tok.tokens[5:] == ("\u2581a", "b") and tok.token_type_count == 2
    assert tok.special == {"unk": 1, "sep": 3, "pad": 0, "cls": 2, "mask": 4, "bos": 2, "eos": 3}
    assert tok.token_types[:5] == (3, 3, 3, 3, 3)


def test_xlm_roberta_ids_are_shifted(golden: Path) -> None:
    raw = (golden / "checkpoints" / "t5" / "spiece.model").read_bytes()
    tok = read({"sentencepiece.bpe.model": raw}, config={"model_type": "xlm-roberta", "type_vocab_size": 1})
    plain = read({"spiece.model": raw}, config={})
    assert tok is not None and plain is not None
    assert tok.tokens[:4] == ("<s>", "<pad>", "</s>", "<unk>") and tok.tokens[-1] == "<mask>"
    assert tok.tokens[4:-1] == plain.tokens[3:]
    assert {role: tok.special[role] for role in ("bos", "eos", "pad", "unk")} == {
        "bos": 0,
        "eos": 2,
        "pad": 1,
        "unk": 3,
    }
    assert tok.precompiled_charsmap == plain.precompiled_charsmap


def test_arrays_of_metadata_have_one_entry_an_id(golden: Path) -> None:
    for name in ("bert", "qwen2", "gemma2", "t5"):
        files, config = load(golden / "checkpoints" / name)
        tok = read(files, config=config)
        assert tok is not None
        found = keys(tok)
        assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == len(tok)
        assert tok.scores is None or len(tok.scores) == len(tok)
