"""RWKV World: ids in llama.cpp's runtime beside the longest match that RWKV's own tokenizer takes; hostile lines.

tests/tokenizer_fuzz.py does the same with the real vocabulary and PyPI's `rwkv` and `pyrwkv-tokenizer`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_vocab import Vocab, write_vocab
from modelfmt.errors import ModelfmtError
from modelfmt.ir.tokenizer import Tokenizer
from modelfmt.tokenizers import gguf_metadata, read
from modelfmt.tokenizers.from_gguf import from_metadata
from modelfmt.tokenizers.rebuild import rebuild
from modelfmt.tokenizers.rwkv import NAME
from tokenizer_texts import TEXTS

BYTES = [bytes([byte]) for byte in range(256)]
WORDS = [text[at : at + size].encode() for text in TEXTS for at in range(0, len(text), 3) for size in (2, 3, 7)]
ODD = [b"\n\n", b"'", b'"', b"'\"", b"\\", b"\\n", b"\\x41", b"\xe4\xb8", b"\xff\xfe", b"\x7f\x00", b" \t\r\n"]
TOKENS = list(dict.fromkeys([*BYTES, *ODD, *WORDS]))


def line(token_id: int, token: bytes) -> str:
    """As RWKV's file has it: text where it is UTF-8."""
    try:
        return f"{token_id} {token.decode()!r} {len(token)}\n"
    except UnicodeDecodeError:
        return f"{token_id} {token!r} {len(token)}\n"


def vocabulary() -> bytes:
    return "".join(line(token_id, token) for token_id, token in enumerate(filter(None, TOKENS), 1)).encode()


def tokenizer(size: int = 2000) -> Tokenizer:
    tok = read({NAME: vocabulary()}, config={"vocab_size": size})
    assert tok is not None
    return tok


def longest(data: bytes) -> list[int]:
    """What rwkv_tokenizer.py does: the longest token comes next."""
    ids = {token: token_id for token_id, token in enumerate(filter(None, TOKENS), 1)}
    most, found = max(map(len, ids)), []
    while data:
        token = next(data[:size] for size in range(most, 0, -1) if data[:size] in ids)
        found.append(ids[token])
        data = data[len(token) :]
    return found


def test_ids_are_those_of_the_longest_match(tmp_path: Path) -> None:
    tok = tokenizer()
    assert (tok.model, tok.tokens[0], len(tok)) == ("rwkv", "<s>", 2000)
    assert tok.special == {"bos": 0, "eos": 0, "eot": TOKENS.index(b"\n\n") + 1}
    assert tok.notes == ()
    vocab = Vocab(write_vocab(tmp_path / "vocab.gguf", gguf_metadata(tok)))
    for text in (*TEXTS, "\x00\x7f'\"\\ \\n \\x41"):
        assert vocab.encode(text) == longest(text.encode()), text
    for token_id, token in enumerate(filter(None, TOKENS), 1):
        assert vocab.piece(token_id) == token
    assert vocab.ends(0)
    vocab.close()


def test_the_file_comes_back() -> None:
    tok = tokenizer()
    again = from_metadata({key: value for key, _, value in gguf_metadata(tok)})
    assert again is not None
    files = rebuild(again).files
    assert files == {NAME: vocabulary()}
    assert read(files, config={"vocab_size": 2000}) == tok


def test_lines_may_end_as_in_windows() -> None:
    assert read({NAME: vocabulary().replace(b"\n", b"\r\n")}, config={"vocab_size": 2000}) == tokenizer()


def test_bytes_without_a_token_are_noted() -> None:
    tok = read({NAME: b"1 'a' 1\n2 b'\\xff' 1\n"}, config={})
    assert tok is not None
    assert [note.code for note in tok.notes if note.lossy] == ["missing-bytes"]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (b"", "vocab-line"),
        (b"1 'a'\n", "vocab-line"),
        (b"1 'a' 2\n", "vocab-line"),
        (b"1 '' 0\n", "vocab-line"),
        (b"-1 'a' 1\n", "vocab-line"),
        (b"1 a 1\n", "vocab-line"),
        (b"1 __import__('os').system('id') 1\n", "vocab-line"),
        (b"1 'a' + 'b' 2\n", "vocab-line"),
        (b"1 'a' * 1000000000 9\n", "vocab-line"),
        (b"1 f'{1}' 1\n", "vocab-line"),
        (b"1 ('a') 1\n", "vocab-line"),
        (b"1 ['a'] 1\n", "vocab-line"),
        (b"1 '\\ud800' 3\n", "vocab-line"),
        (b"1 '\\q' 1\n", "vocab-line"),
        (b"1 b'\xc4\x80' 2\n", "vocab-line"),
        (b"1 '\\U00110000' 4\n", "vocab-line"),
        (b"1 'a' 1\n1 'b' 1\n", "duplicate-token"),
        (b"1 'a' 1\n2 b'a' 1\n", "duplicate-token"),
        (b"0 'a' 1\n", "duplicate-token"),
        (b"999999999 'a' 1\n", "vocab-size"),
        (b"1 'a' 1\n\n2 'b' 1\n", "vocab-line"),
        (b"1 '\xff' 1\n", "not-utf8"),
    ],
)
def test_hostile_lines_are_refused_and_nothing_is_evaluated(rows: bytes, code: str) -> None:
    with pytest.raises(ModelfmtError) as caught:
        read({NAME: rows}, config={})
    assert caught.value.code == code


def test_a_file_with_a_broken_escape_is_refused() -> None:
    keys = {key: value for key, _, value in gguf_metadata(tokenizer())}
    tokens = list(keys["tokenizer.ggml.tokens"])
    tokens[5] = "\\xz0"
    tok = from_metadata(keys | {"tokenizer.ggml.tokens": tokens})
    assert tok is not None
    with pytest.raises(ModelfmtError) as caught:
        rebuild(tok)
    assert caught.value.code == "vocab-line"
