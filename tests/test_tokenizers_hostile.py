"""Broken and hostile tokenizer files: only modelfmt's own errors come out, and soon."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError
from modelfmt.storage.protobuf import fields
from modelfmt.tokenizers import gguf_metadata, read

DATA = Path(__file__).parent / "data" / "golden" / "checkpoints"
FOLDERS = {
    "llama-spm": ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    "qwen2": ("tokenizer.json", "tokenizer_config.json"),
    "bert": ("tokenizer.json", "vocab.txt", "tokenizer_config.json"),
}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def refused(files: dict[str, bytes], config: dict[str, Any] | None = None) -> str:
    with pytest.raises(ModelfmtError) as caught:
        read(files, config=config or {})
    assert caught.value.path is not None
    return caught.value.code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "no-pieces"),
        (b"\x0a", "protobuf"),
        (b"\x0a\x05abc", "protobuf"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "protobuf"),
        (b"\x0a" + b"\xff" * 11, "protobuf"),
        (b"\x00\x00", "protobuf"),
        (b"\x0b", "protobuf"),
        (b"\x08\x01", "protobuf"),
        (field(1, b"\x12\x03abc"), "protobuf"),
        (field(1, field(1, b"\xff")), "not-utf8"),
        (piece(b"a", kind=9), "piece-type"),
        (piece(b"a", float("nan")), "score"),
        (piece(b"a", float("inf")), "score"),
        (piece(b"<0xG1>", kind=6), "byte-token"),
        (piece(b"<0x1>", kind=6), "byte-token"),
        (piece(b"a", kind=6), "byte-token"),
        (piece(b"a") + field(3, field(2, b"\xff\xff\xff\x7f")), "charsmap"),
        (piece(b"a") + field(3, field(2, b"\x00")), "charsmap"),
        (piece(b"a") + field(2, b"\x18\x04"), "sentencepiece-kind"),
    ],
)
def test_broken_sentencepiece_models(raw: bytes, code: str) -> None:
    assert refused({"tokenizer.model": raw}) == code


def test_a_model_cut_off_at_every_byte_is_read_or_refused() -> None:
    raw = (DATA / "llama-spm" / "tokenizer.model").read_bytes()
    whole = read({"tokenizer.model": raw}, config={})
    assert whole is not None
    for size in [*range(400), *range(400, len(raw), 37)]:
        with contextlib.suppress(CorruptFile):
            tok = read({"tokenizer.model": raw[:size]}, config={})
            assert tok is not None and len(tok) <= len(whole)


@given(st.binary(max_size=200))
def test_protobuf_reader_raises_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(CorruptFile):
        for _, value in fields(raw, path="x"):
            assert isinstance(value, int) or len(value) <= len(raw)


@pytest.mark.parametrize("folder", FOLDERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes_raise_nothing_else(folder: str, data: st.DataObject) -> None:
    files = {name: (DATA / folder / name).read_bytes() for name in FOLDERS[folder]}
    name = data.draw(st.sampled_from(sorted(files)))
    raw = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelfmtError):
        tok = read({**files, name: bytes(raw)}, config={})
        assert tok is None or gguf_metadata(tok)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    *(
        (("tokenizer.json"), key)
        for key in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model", "decoder")
    ),
    *(
        ("tokenizer.json", f"model.{key}")
        for key in ("type", "vocab", "merges", "unk_token", "byte_fallback", "unk_id", "ignore_merges")
    ),
    *(
        ("tokenizer.json", f"{key}.0")
        for key in ("added_tokens", "post_processor.single", "pre_tokenizer.pretokenizers")
    ),
    *(
        ("tokenizer_config.json", key)
        for key in ("bos_token", "eos_token", "chat_template", "added_tokens_decoder", "tokenizer_class")
    ),
    *(
        ("config.json", key)
        for key in ("vocab_size", "eos_token_id", "bos_token_id", "text_config", "type_vocab_size", "model_type")
    ),
    ("generation_config.json", "eos_token_id"),
    ("added_tokens.json", "x"),
    ("special_tokens_map.json", "unk_token"),
]


@pytest.mark.parametrize("folder", ["qwen2", "llama3-big", "bert"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_other_json_in_any_place_raises_nothing_else(folder: str, data: st.DataObject) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "config.json")
    parsed = {name: json.loads((DATA / folder / name).read_text()) for name in names}
    parsed |= {"generation_config.json": {}, "added_tokens.json": {}, "special_tokens_map.json": {}}
    name, place = data.draw(st.sampled_from(PLACES))
    target: Any = parsed[name]
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    for step in path:
        target = target.get(step) if isinstance(target, dict) else None
    value = data.draw(JSON)
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list) and target:
        target[0] = value
    files = {name: json.dumps(value).encode() for name, value in parsed.items() if name != "config.json"}
    with contextlib.suppress(ModelfmtError):
        tok = read(files, config=parsed["config.json"])
        assert tok is not None and gguf_metadata(tok)
        assert all(0 <= token_id < len(tok) for token_id in tok.special.values())
        assert len(set(tok.tokens)) == len(tok.tokens) and all(tok.tokens)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deeply_nested_json_is_refused(opening: bytes) -> None:
    assert refused({"tokenizer.json": opening * 200_000}) == "json-depth"


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"model": {"vocab": {"\\ud800": 0}}}', b"null"]
)
def test_malformed_json_is_refused(raw: bytes) -> None:
    assert refused({"tokenizer.json": raw}) in ("bad-json", "json-type")


def test_text_that_is_not_utf8_is_refused() -> None:
    assert refused({"vocab.txt": b"a\n\xff\n"}) == "not-utf8"


def test_a_claimed_size_does_not_fill_the_memory() -> None:
    with pytest.raises(LimitExceeded) as caught:
        read({"vocab.txt": b"a\n"}, config={"vocab_size": 10**9})
    assert caught.value.code == "vocab-size"


@pytest.mark.parametrize("token_id", [-1, 2**22, 2**64, 1.5, "1", None, True])
def test_ids_out_of_range_are_refused(token_id: Any) -> None:
    model = {"type": "BPE", "vocab": {"a": token_id}, "merges": []}
    raw = json.dumps({"model": model, "pre_tokenizer": {"type": "ByteLevel"}}).encode()
    assert refused({"tokenizer.json": raw}) in ("id-range", "json-type")


def test_two_texts_of_one_id_and_malformed_byte_tokens_are_refused() -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [], "byte_fallback": True}
    assert refused({"tokenizer.json": json.dumps({"model": model}).encode()}) == "duplicate-id"
    model["vocab"] = {"<0xZZ>": 0}
    assert refused({"tokenizer.json": json.dumps({"model": model}).encode()}) == "byte-token"
