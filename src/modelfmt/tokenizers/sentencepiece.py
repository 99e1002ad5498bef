"""SentencePiece models: the ModelProto in tokenizer.model, spiece.model or sentencepiece.bpe.model.

Source: google/sentencepiece, src/sentencepiece_model.proto. Only what decides the tokens of a text is read: pieces,
trainer_spec (model type, special ids) and normalizer_spec. Self-test data, denormalizer and training options are
skipped.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec.structs import replace

from ..errors import CorruptFile
from ..ir.tokenizer import TokenType
from ..storage import protobuf
from .files import MAX_TOKENS
from .vocabulary import byte_token

__all__ = ["BPE", "CHAR", "NAMES", "UNIGRAM", "WORD", "Piece", "SentencePieceModel", "read_model", "write_model"]

UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4
NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")


class Piece(msgspec.Struct, frozen=True):
    text: str
    score: float
    kind: TokenType


class SentencePieceModel(msgspec.Struct, frozen=True):
    """The fields that decide the tokens; the defaults are those of the protocol buffer definition."""

    pieces: tuple[Piece, ...] = ()
    model_type: int = UNIGRAM
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    treat_whitespace_as_suffix: bool = False
    normalizer: str = ""
    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True

    @property
    def byte_fallback(self) -> bool:
        return any(piece.kind == TokenType.BYTE for piece in self.pieces)


_TRAINER = {3: "model_type", 24: "treat_whitespace_as_suffix", 40: "unk_id", 41: "bos_id", 42: "eos_id", 43: "pad_id"}
_BYTE_FALLBACK = 35
_NORMALIZER = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}


def read_model(raw: bytes, path: str) -> SentencePieceModel:
    """The model in a SentencePiece file. Raises CorruptFile."""
    pieces: list[Piece] = []
    settings: dict[str, Any] = {}
    for number, value in protobuf.fields(raw, path=path):
        if number == 1:
            pieces.append(_piece(_message(value, path, f"piece {len(pieces)}"), path, len(pieces)))
            if len(pieces) > MAX_TOKENS:
                raise CorruptFile(
                    "too many pieces", code="vocab-size", path=path, found=len(pieces), allowed=MAX_TOKENS
                )
        elif number in (2, 3):
            place, names = ("trainer_spec", _TRAINER) if number == 2 else ("normalizer_spec", _NORMALIZER)
            for key, entry in protobuf.fields(_message(value, path, place), path=path):
                if key in names:
                    whole = protobuf.signed32(entry, path=path, place=f"{place}.{names[key]}")
                    settings[names[key]] = whole if number == 2 and key != 24 else bool(whole)
                elif number == 3 and key in (1, 2):
                    body = bytes(_message(entry, path, place))
                    settings |= (
                        {"normalizer": body.decode("utf-8", "replace")} if key == 1 else {"precompiled_charsmap": body}
                    )
    if not pieces:
        raise CorruptFile(
            "no pieces in the SentencePiece model", code="no-pieces", path=path, hint="is it a SentencePiece file?"
        )
    model = replace(SentencePieceModel(pieces=tuple(pieces)), **settings)
    check_charsmap(model.precompiled_charsmap, path)
    return model


def write_model(model: SentencePieceModel) -> bytes:
    """The model as a file that the sentencepiece library loads.

    >>> read_model(write_model(SentencePieceModel((Piece("<unk>", 0.0, TokenType.UNKNOWN),))), "x").pieces[0].text
    '<unk>'
    """
    rows: list[protobuf.Field] = []
    for piece in model.pieces:
        fields: list[protobuf.Field] = [(1, piece.text), (2, piece.score)]
        if piece.kind != TokenType.NORMAL:
            fields.append((3, int(piece.kind)))
        rows.append((1, protobuf.message(fields)))
    trainer: list[protobuf.Field] = [(number, getattr(model, name)) for number, name in _TRAINER.items()]
    trainer.append((_BYTE_FALLBACK, model.byte_fallback))
    normalizer: list[protobuf.Field] = [(1, model.normalizer), (2, model.precompiled_charsmap)]
    normalizer += [(number, getattr(model, name)) for number, name in _NORMALIZER.items()]
    return protobuf.message([*rows, (2, protobuf.message(sorted(trainer))), (3, protobuf.message(normalizer))])


def check_charsmap(charsmap: bytes, path: str) -> None:
    """A compiled normalizer: a trie of a given size, then replacement texts; llama.cpp refuses one that is cut off."""
    if not charsmap:
        return
    trie = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or trie % 4 or trie + 4 >= len(charsmap):
        raise CorruptFile(
            "the compiled normalizer is cut off",
            code="charsmap",
            path=path,
            found=trie,
            allowed=f"less than {len(charsmap) - 4}",
        )


def _piece(message: memoryview, path: str, index: int) -> Piece:
    text, score, kind = "", 0.0, TokenType.NORMAL
    place = f"piece {index}"
    for number, value in protobuf.fields(message, path=path):
        if number == 1:
            try:
                text = bytes(_message(value, path, place)).decode()
            except UnicodeDecodeError:
                raise CorruptFile("a piece is not UTF-8", code="not-utf8", path=path, place=place) from None
        elif number == 2:
            score = protobuf.float32(value, path=path, place=f"{place}.score")
        elif number == 3:
            whole = protobuf.signed32(value, path=path, place=f"{place}.type")
            if not 1 <= whole <= 6:
                raise CorruptFile(
                    "unknown type of piece", code="piece-type", path=path, place=place, found=whole, allowed="1 to 6"
                )
            kind = TokenType(whole)
    if not math.isfinite(score):
        raise CorruptFile(
            "a score is not a number", code="score", path=path, place=place, found=score, allowed="a finite float"
        )
    if kind == TokenType.BYTE and not byte_token(text, path=path, token_id=index):
        raise CorruptFile(
            "malformed byte token", code="byte-token", path=path, place=place, found=text, allowed="<0x00> to <0xFF>"
        )
    return Piece(text, score, kind)


def _message(value: int | memoryview, path: str, place: str) -> memoryview:
    if isinstance(value, int):
        raise CorruptFile(
            "a message field is a number", code="protobuf", path=path, place=place, found=value, allowed="bytes"
        )
    return value
