"""The tokenizer files of a Hugging Face folder, made from a vocabulary: tokenizer.json and what lies beside it.

tokenizer.json follows what the tokenizers library writes (Tokenizer.to_str), and for each kind the structure that
transformers' own converters give it (convert_slow_tokenizer.py). GGUF says less than those files did: normalizers of
byte-level BPE, added tokens that strip the spaces around them and templates beyond "bos first, eos last" are not in it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import UnsupportedError
from ..ir.tokenizer import Note, Tokenizer, TokenType
from . import rwkv
from .pretable import GPT2, NAMES, SPLITS
from .sentencepiece import BPE, UNIGRAM, Piece, SentencePieceModel, write_model
from .vocabulary import WORD_START

__all__ = ["Rebuilt", "named_ids", "rebuild"]

Json = dict[str, Any]

_SPECIAL_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Those that tokenizer_config.json has names for."""


class _Runtime(msgspec.Struct, frozen=True):
    """What llama.cpp takes for granted where a file does not say it. Source: src/llama-vocab.cpp, October 2026."""

    ids: Mapping[str, int] = msgspec.field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False


_SENTENCEPIECE = {"llama": "tokenizer.model", "t5": "spiece.model"}
"""The kinds that a SentencePiece model says exactly, and what its file is called."""

_RUNTIME = {
    "llama": _Runtime({"bos": 1, "eos": 2, "unk": 0}, add_bos=True),
    "gpt2": _Runtime(),
    "bert": _Runtime({"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103}, add_bos=True),
    "t5": _Runtime({"eos": 1, "unk": 2, "pad": 0}, add_eos=True),
    "rwkv": _Runtime({"bos": 0, "eos": 0}),
    "gemma4": _Runtime({"bos": 2, "eos": 1, "unk": 3, "pad": 0}, add_bos=True),
}


class Rebuilt(msgspec.Struct, frozen=True):
    """Files by name, and what they do otherwise than the tokenizer that was read."""

    files: dict[str, bytes]
    notes: tuple[Note, ...] = ()


def rebuild(tok: Tokenizer, *, context_length: int | None = None) -> Rebuilt:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat templates.

    context_length: the longest input of the model, in tokens. Raises UnsupportedError for a pre-tokenizer that no
    regular expression says, or that is not known.
    """
    if tok.model == "rwkv":
        return Rebuilt({rwkv.NAME: rwkv.text(tok)} | _templates(tok, notes := list(tok.notes)), tuple(notes))
    kind = _KINDS[tok.model](tok)
    notes = list(tok.notes)
    parts: Json = {"version": "1.0", "truncation": None, "padding": None}
    parts |= {"added_tokens": _added(tok), "normalizer": kind.normalizer, "pre_tokenizer": kind.pre_tokenizer}
    parts |= {"post_processor": _post_processor(tok), "decoder": kind.decoder, "model": kind.model}
    repeated = len(tok.tokens) - len(set(tok.tokens))
    if repeated:
        message = f"{repeated} tokens repeat another's text; tokenizer.json can give a text one id only"
        notes.append(Note("duplicate-token", message, lossy=True))
    names = {f"{role}_token": tok.tokens[token_id] for role, token_id in named_ids(tok).items() if role in _ROLES}
    settings: Json = {**names, "clean_up_tokenization_spaces": False}
    flags = {"add_bos_token": tok.add_bos, "add_eos_token": tok.add_eos}
    settings |= {name: flag for name, flag in flags.items() if flag is not None}
    if context_length:
        settings["model_max_length"] = context_length
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    files = {
        "tokenizer.json": pretty(parts),
        "tokenizer_config.json": pretty(settings),
        "special_tokens_map.json": pretty(names),
    }
    if tok.model in _SENTENCEPIECE and tok.scores is not None:
        files[_SENTENCEPIECE[tok.model]] = write_model(_model(tok))
    return Rebuilt(files | _templates(tok, notes), tuple(notes))


def _templates(tok: Tokenizer, notes: list[Note]) -> dict[str, bytes]:
    """The files of the chat templates; those that can have none are noted."""
    files = {} if tok.chat_template is None else {"chat_template.jinja": tok.chat_template.encode()}
    for name, template in tok.chat_templates.items():
        if not name.isascii() or not name.replace("_", "").isalnum():
            notes.append(Note("chat-template", f"the chat template {name!r} has no name for a file", lossy=True))
        else:
            files[f"additional_chat_templates/{name}.jinja"] = template.encode()
    return files


def named_ids(tok: Tokenizer) -> dict[str, int]:
    """The id of each special token, by the roles of a Hugging Face folder: BERT's first and last have their own."""
    ids = _special_ids(tok)
    if tok.model != "bert":
        return ids
    own = {"cls": ids.get("cls", ids.get("bos")), "sep": ids.get("sep", ids.get("eos")), **ids}
    return {role: token_id for role, token_id in own.items() if role not in ("bos", "eos") and token_id is not None}


def _special_ids(tok: Tokenizer) -> dict[str, int]:
    """The id of each special token, with those that the runtime takes for granted."""
    implied = {role: token_id for role, token_id in _RUNTIME[tok.model].ids.items() if token_id < len(tok)}
    if "unk" in implied and TokenType.UNKNOWN in tok.token_types:
        implied["unk"] = tok.token_types.index(TokenType.UNKNOWN)
    return {**implied, **tok.special}


def pretty(value: Any) -> bytes:
    """JSON as transformers writes it: two spaces for each level, text as it is."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


class _Kind(msgspec.Struct, frozen=True):
    """The parts of tokenizer.json that differ between kinds."""

    model: Json
    decoder: Json
    normalizer: Json | None = None
    pre_tokenizer: Json | None = None


def _byte_level(tok: Tokenizer) -> _Kind:
    row = next((row for row in NAMES if row.name == tok.pre), None)
    if row is None or row.raw_utf8 or any("AFMoE" in step for step in SPLITS[row.split]):
        what = "is not known" if row is None else "has no form in tokenizer.json that modelfmt can write"
        raise UnsupportedError(
            f"the pre-tokenizer {what}",
            code="unknown-pre-tokenizer",
            path="metadata",
            place="tokenizer.ggml.pre",
            found=tok.pre,
        )
    steps = SPLITS[row.split]
    ours = _byte_level_step(use_regex=steps == (GPT2,))
    if steps != (GPT2,):
        splits = [_typed("Split", pattern={"Regex": step}, behavior="Isolated", invert=False) for step in steps]
        ours = _typed("Sequence", pretokenizers=[*splits, ours])
    model = _bpe(tok, (tok.merges or ()), ignore_merges=row.ignore_merges)
    return _Kind(model, _typed("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True), None, ours)


def _sentencepiece(tok: Tokenizer) -> _Kind:
    """BPE with byte fallback on texts whose spaces are U+2581; merges are made from the scores."""
    prefix = tok.add_space_prefix is not False
    spaces = _typed("Replace", pattern={"String": " "}, content=WORD_START)
    normalizers = [_typed("Prepend", prepend=WORD_START), spaces] if prefix else [spaces]
    model = _bpe(tok, merges_by_score(tok), unknown=True)
    return _Kind(model, _fallback_decoder(prefix), _typed("Sequence", normalizers=normalizers))


def _ranked(tok: Tokenizer) -> _Kind:
    """The same with its own merges (Gemma 4)."""
    spaces = _typed("Replace", pattern={"String": " "}, content=WORD_START)
    split = _typed("Split", pattern={"String": " "}, behavior="MergedWithPrevious", invert=False)
    return _Kind(_bpe(tok, tok.merges or (), unknown=True), _fallback_decoder(False), spaces, split)


def _wordpiece(tok: Tokenizer) -> _Kind:
    vocab: dict[str, int] = {}
    for token_id, text in enumerate(tok.tokens):
        if tok.token_types[token_id] == TokenType.NORMAL:
            text = text[1:] if text.startswith(WORD_START) else f"##{text}"
        vocab.setdefault(text, token_id)
    lowercase = tok.lowercase is not False
    normalizer = _typed("BertNormalizer", clean_text=True, handle_chinese_chars=True)
    normalizer |= {"strip_accents": tok.strip_accents, "lowercase": lowercase}
    unknown = tok.tokens[_special_ids(tok)["unk"]] if "unk" in _special_ids(tok) else "[UNK]"
    model = _typed("WordPiece", unk_token=unknown, continuing_subword_prefix="##", max_input_chars_per_word=100)
    model["vocab"] = vocab
    decoder = _typed("WordPiece", prefix="##", cleanup=True)
    return _Kind(model, decoder, normalizer, _typed("BertPreTokenizer"))


def _unigram(tok: Tokenizer) -> _Kind:
    prefix = tok.add_space_prefix is not False
    normalizers: list[Json] = []
    if tok.precompiled_charsmap:
        charsmap = base64.b64encode(tok.precompiled_charsmap).decode()
        normalizers.append(_typed("Precompiled", precompiled_charsmap=charsmap))
    if tok.remove_extra_whitespaces:
        for pattern, content in ((r"\A +| +\z", ""), (" {2,}", " ")):  # Strip would take line ends as well
            normalizers.append(_typed("Replace", pattern={"Regex": pattern}, content=content))
    spaces = {"replacement": WORD_START, "prepend_scheme": "always" if prefix else "never", "split": True}
    model = _typed("Unigram", unk_id=_special_ids(tok).get("unk"), vocab=_pieces(tok), byte_fallback=False)
    return _Kind(
        model,
        _typed("Metaspace", **spaces),
        _typed("Sequence", normalizers=normalizers) if normalizers else None,
        _typed("Metaspace", **spaces),
    )


_KINDS: dict[str, Callable[[Tokenizer], _Kind]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "gemma4": _ranked,
    "bert": _wordpiece,
    "t5": _unigram,
}


def merges_by_score(tok: Tokenizer) -> list[str]:
    """Every way to make a token from two others, best score first, as transformers' SentencePiece converter lists them.

    SentencePiece merges the neighbours whose joined text has the best score; ranks say the same, but for two ways to
    make one token that overlap in a text.
    """
    scores = tok.scores or (0.0,) * len(tok)
    normal = {text: i for i, text in enumerate(tok.tokens) if tok.token_types[i] == TokenType.NORMAL}
    found = []
    for text, token_id in normal.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in normal and right in normal:
                found.append((-scores[token_id], -at, token_id, f"{left} {right}"))
    found.sort()
    return [pair for *_, pair in found]


def _model(tok: Tokenizer) -> SentencePieceModel:
    """The SentencePiece model. It has one unknown piece, no text twice and none that is empty."""
    ids = _special_ids(tok)
    unknown = ids.get("unk", 0)
    pieces = []
    for token_id, text in enumerate(tok.tokens):
        kind = TokenType(tok.token_types[token_id])
        if token_id == unknown:
            kind = TokenType.UNKNOWN
        elif kind == TokenType.UNKNOWN:
            kind = TokenType.CONTROL
        elif kind == TokenType.USER_DEFINED:
            text = text.replace(" ", WORD_START)
        pieces.append(Piece(text, tok.scores[token_id] if tok.scores else 0.0, kind))
    unigram = tok.model == "t5"
    return SentencePieceModel(
        tuple(pieces),
        UNIGRAM if unigram else BPE,
        unknown,
        ids.get("bos", -1),
        ids.get("eos", -1),
        ids.get("pad", -1),
        normalizer="user_defined" if tok.precompiled_charsmap else "identity",
        precompiled_charsmap=tok.precompiled_charsmap or b"",
        add_dummy_prefix=tok.add_space_prefix is not False,
        remove_extra_whitespaces=bool(tok.remove_extra_whitespaces),
    )


def _bpe(tok: Tokenizer, merges: Any, *, unknown: bool = False, ignore_merges: bool = False) -> Json:
    vocab: dict[str, int] = {}
    for token_id, text in enumerate(tok.tokens):
        if tok.token_types[token_id] != TokenType.UNUSED:
            vocab.setdefault(text, token_id)
    unk = _special_ids(tok).get("unk") if unknown else None
    return _typed(
        "BPE",
        dropout=None,
        unk_token=None if unk is None else tok.tokens[unk],
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=unknown,
        byte_fallback=unknown,
        ignore_merges=ignore_merges,
        vocab=vocab,
        merges=list(merges),
    )


def _pieces(tok: Tokenizer) -> list[tuple[str, float]]:
    """The list of a Unigram model: ids are places in it. Added tokens behind the last piece are not in it.

    The worst score decides what an unknown character costs, so that what is no piece must not have a worse one.
    """
    scores = tok.scores or (0.0,) * len(tok)
    types = tok.token_types
    worst = min((scores[i] for i in range(len(tok)) if types[i] == TokenType.NORMAL), default=0.0)
    apart = (TokenType.CONTROL, TokenType.USER_DEFINED)
    end = 1 + max((i for i in range(len(tok)) if types[i] not in (*apart, TokenType.UNUSED)), default=-1)
    last = 1 + max((i for i in range(len(tok)) if types[i] in apart), default=-1)
    end = 1 + max((i for i in range(end, last) if types[i] == TokenType.UNUSED), default=end - 1)
    return [(tok.tokens[i], max(scores[i], worst)) for i in range(end)]


def _added(tok: Tokenizer) -> list[Json]:
    """Tokens that are found in the text as they stand."""
    rows = []
    for token_id, text in enumerate(tok.tokens):
        kind = tok.token_types[token_id]
        special = kind in _SPECIAL_TYPES
        if special or kind == TokenType.USER_DEFINED:
            row: Json = {"id": token_id, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
            rows.append({**row, "normalized": not special and tok.model == "gpt2", "special": special})
    return rows


def _post_processor(tok: Tokenizer) -> Json | None:
    """bos first, eos last, a separator between two texts; what byte-level BPE has where nothing is added."""
    ids, runtime = _special_ids(tok), _RUNTIME[tok.model]
    named = next((row for row in NAMES if row.name == tok.pre), None) if tok.model == "gpt2" else None
    add_bos = tok.add_bos if tok.add_bos is not None else runtime.add_bos or bool(named and named.add_bos)
    add_eos = tok.add_eos if tok.add_eos is not None else runtime.add_eos
    is_bert = tok.model == "bert"
    first = _ids(ids.get("bos", ids.get("cls"))) if add_bos or is_bert else []
    last = _ids(ids.get("sep", ids.get("eos"))) if is_bert else _ids(ids.get("eos")) if add_eos else []
    plain = _typed("ByteLevel", add_prefix_space=True, trim_offsets=False, use_regex=True)
    if not first and not last:
        return plain if tok.model == "gpt2" else _template(tok, [], [], [])
    between = last if is_bert else [*last, *first]
    if tok.add_sep and not is_bert:
        between = [*last, *_ids(ids.get("sep", ids.get("eos")))]
    template = _template(tok, first, between, last)
    return _typed("Sequence", processors=[plain, template]) if tok.model == "gpt2" else template


def _ids(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]


def _template(tok: Tokenizer, first: list[int], between: list[int], last: list[int]) -> Json:
    def token(token_id: int, text: int) -> Json:
        return {"SpecialToken": {"id": tok.tokens[token_id], "type_id": text}}

    second = 1 if tok.model == "bert" or not first else 0
    sequence = [{"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", second))]
    head, tail = [token(i, 0) for i in first], [token(i, 0) for i in last]
    pair = [*head, sequence[0], *(token(i, 0) for i in between), sequence[1], *(token(i, second) for i in last)]
    used = {tok.tokens[i]: i for i in (*first, *between, *last)}
    tokens = {text: {"id": text, "ids": [i], "tokens": [text]} for text, i in used.items()}
    return _typed("TemplateProcessing", single=[*head, sequence[0], *tail], pair=pair, special_tokens=tokens)


def _byte_level_step(*, use_regex: bool) -> Json:
    return _typed("ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=use_regex)


def _fallback_decoder(prefix: bool) -> Json:
    steps = [_typed("Replace", pattern={"String": WORD_START}, content=" "), _typed("ByteFallback"), _typed("Fuse")]
    if prefix:
        steps.append(_typed("Strip", content=" ", start=1, stop=0))
    return _typed("Sequence", decoders=steps)


def _typed(kind: str, **fields: Any) -> Json:
    return {"type": kind, **fields}
