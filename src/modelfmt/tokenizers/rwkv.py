"""The vocabulary of RWKV World ("rwkv"): lines of an id, a literal of Python (text or bytes) and its length in bytes.

The longest token that the text begins with comes next. GGUF has each token as Python writes bytes, without the quotes;
id 0, which the file lacks, ends a text. Sources: BlinkDL/RWKV-LM, rwkv_vocab_v20230424.txt and rwkv_tokenizer.py;
llama.cpp, conversion/base.py (_set_vocab_rwkv_world) and src/llama-vocab.cpp (llm_tokenizer_rwkv). Literals are parsed,
not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..arrays.literal import LiteralError, parse
from ..errors import CorruptFile, LimitExceeded
from ..ir.tokenizer import Note, Tokenizer, TokenType
from .assemble import assemble
from .files import MAX_TOKENS, Files
from .vocabulary import Vocabulary

__all__ = ["NAME", "find", "from_text", "text"]

NAME = "rwkv_vocab_v20230424.txt"
_LINE = re.compile(r"([0-9]{1,9}) (b?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")) ([0-9]{1,9})\r?")
_END = "<s>"
_UNESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def find(files: Files) -> str | None:
    """The name of the vocabulary file, where there is one."""
    return next((name for name in files.names() if fnmatchcase(name, "rwkv_vocab*.txt")), None)


def from_text(files: Files, config: Mapping[str, Any], size: int | None, name: str) -> Tokenizer:
    """The tokenizer of a vocabulary file. Raises CorruptFile (a line of another form, a length that is not that of the
    token, an id or a token twice), LimitExceeded."""
    tokens: dict[int, bytes] = {}
    owners: dict[bytes, int] = {}
    for number, line in enumerate((files.text(name) or "").removesuffix("\n").split("\n"), 1):
        token_id, token = _row(line, name, number)
        if token_id in tokens or token_id == 0 or token in owners:
            raise CorruptFile(
                "an id or a token is given twice" if token_id else "id 0 is the end of a text, and has no line",
                code="duplicate-token",
                path=name,
                place=f"line {number}",
                found=line.strip(),
            )
        if token_id >= MAX_TOKENS:
            raise LimitExceeded(
                "the vocabulary is too large",
                code="vocab-size",
                path=name,
                place=f"line {number}",
                found=token_id,
                allowed=f"below {MAX_TOKENS}",
            )
        tokens[token_id] = token
        owners[token] = token_id
    vocabulary = Vocabulary(size or max(tokens) + 1)
    vocabulary.put(0, _END, TokenType.CONTROL)
    for token_id, token in tokens.items():
        vocabulary.put(token_id, _escaped(token), TokenType.NORMAL)
    known = {"bos": 0, "eos": 0} | ({"eot": owners[b"\n\n"]} if b"\n\n" in owners else {})
    missing = [byte for byte in range(256) if bytes([byte]) not in owners]
    notes = [Note("missing-bytes", f"no token for {len(missing)} bytes", lossy=True)] if missing else []
    return assemble("rwkv", "", vocabulary, files, config, defaults=known, notes=notes)


def text(tok: Tokenizer) -> bytes:
    """The vocabulary file of a tokenizer: the inverse of `from_text`. Raises CorruptFile (an escape that is none)."""
    return "".join(_lines(tok)).encode()


def _lines(tok: Tokenizer) -> Iterator[str]:
    for token_id, (token, kind) in enumerate(zip(tok.tokens, tok.token_types, strict=True)):
        if kind == TokenType.NORMAL:
            raw = _raw(token, token_id)
            try:
                literal = repr(raw.decode())
            except UnicodeDecodeError:
                literal = repr(raw)
            yield f"{token_id} {literal} {len(raw)}\n"


def _row(line: str, name: str, number: int) -> tuple[int, bytes]:
    match = _LINE.fullmatch(line)
    try:
        token = None if match is None else _bytes(match[2])
    except (LiteralError, UnicodeEncodeError):
        token = None
    if match is None or not token or len(token) != int(match[3]):
        raise CorruptFile(
            "not an id, a literal and its length",
            code="vocab-line",
            path=name,
            place=f"line {number}",
            found=line[:80],
            allowed="such as 100 'c' 1",
        )
    return int(match[1]), token


def _bytes(literal: str) -> bytes:
    found = parse(literal)
    return found.encode("latin-1" if literal.startswith("b") else "utf-8")  # type: ignore[no-any-return]


def _escaped(token: bytes) -> str:
    return repr(token)[2:-1]


def _raw(token: str, token_id: int) -> bytes:
    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code == b"x":
            place = f"tokenizer.ggml.tokens[{token_id}]"
            raise CorruptFile("an escape that is none", code="vocab-line", path="metadata", place=place)
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED.get(code, code)

    return _UNESCAPE.sub(byte, token.encode())
