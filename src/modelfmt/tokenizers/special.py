"""Special tokens: which id plays which role, and which of them the runtime adds to every text.

Sources: tokenizer_config.json and special_tokens_map.json name the tokens, tokenizer.json's post-processor says which
are added, config.json and generation_config.json give ids. The rules are those of llama.cpp's gguf-py (SpecialVocab),
except that an id outside the vocabulary is left out with a note: llama.cpp refuses to load a file that adds such a
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..ir.tokenizer import SPECIAL, Note, TokenType
from .files import Files, integer, mapping, sequence, string

__all__ = ["Added", "Special", "added_tokens", "flag_notes", "named_special", "read_special"]

_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"

# Texts that the runtime takes for the end of generation by itself. Source: llama.cpp, src/llama-vocab.cpp.
END_TEXTS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
        *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~["),
    )
)


class Added(msgspec.Struct, frozen=True):
    """One added token: in the vocabulary by its text, not by merges. strips: takes the spaces around it along. whole:
    is found between words only."""

    token_id: int
    text: str
    special: bool
    strips: bool = False
    whole: bool = False

    @classmethod
    def of(cls, token_id: int, text: str, row: Mapping[str, Any]) -> Added:
        """From a row of tokenizer.json or of added_tokens_decoder."""
        strips = bool(row.get("lstrip") or row.get("rstrip"))
        return cls(token_id, text, bool(row.get("special")), strips, bool(row.get("single_word")))


class Special(msgspec.Struct):
    """Roles and flags as found; `adds` maps bos, eos and sep to whether the runtime adds them."""

    ids: dict[str, int] = msgspec.field(default_factory=dict)
    adds: dict[str, bool] = msgspec.field(default_factory=dict)
    names: dict[str, str] = msgspec.field(default_factory=dict)
    notes: list[Note] = msgspec.field(default_factory=list)


def added_tokens(files: Files) -> list[Added]:
    """The added tokens of tokenizer.json, then those of tokenizer_config.json and added_tokens.json that say more.

    A later row for the same id replaces an earlier one (transformers does the same).
    """
    rows: dict[int, Added] = {}
    for i, value in enumerate(
        sequence(files.json(_TOKENIZER).get("added_tokens") or [], path=_TOKENIZER, place="added_tokens")
    ):
        place = f"added_tokens[{i}]"
        row = mapping(value, path=_TOKENIZER, place=place)
        token_id = integer(row.get("id"), path=_TOKENIZER, place=f"{place}.id")
        text = string(row.get("content"), path=_TOKENIZER, place=f"{place}.content")
        rows[token_id] = Added.of(token_id, text, row)
    for text, value in files.json("added_tokens.json").items():
        token_id = integer(value, path="added_tokens.json", place=text)
        rows.setdefault(token_id, Added(token_id, text, False))
    decoder = mapping(files.json(_CONFIG).get("added_tokens_decoder") or {}, path=_CONFIG, place="added_tokens_decoder")
    for key, value in decoder.items():
        place = f"added_tokens_decoder.{key}"
        row = mapping(value, path=_CONFIG, place=place)
        token_id = integer(
            int(key) if key.isascii() and key.isdigit() and len(key) < 12 else key, path=_CONFIG, place=place
        )
        text = string(row.get("content"), path=_CONFIG, place=f"{place}.content")
        rows[token_id] = Added.of(token_id, text, row)
    return [rows[token_id] for token_id in sorted(rows)]


def flag_notes(files: Files, *, spaces: bool) -> list[Note]:
    """What added tokens say that GGUF has no place for. spaces: whether they count in this kind of vocabulary."""
    added, notes = added_tokens(files), []
    strips = [row.text for row in added if row.strips and spaces]
    if strips:
        message = f"the runtime keeps the spaces around {_few(strips)}, unless it knows the model's name"
        notes.append(Note("added-token-spaces", message, lossy=True))
    whole = [row.text for row in added if row.whole]
    if whole:
        notes.append(Note("added-token-words", f"the runtime finds {_few(whole)} within words, too", lossy=True))
    return notes


def _few(found: list[str]) -> str:
    return ", ".join(map(repr, found[:3])) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def named_special(files: Files) -> dict[str, str]:
    """The token texts by role, from tokenizer_config.json, filled up from special_tokens_map.json."""
    names: dict[str, str] = {}
    for source in (_CONFIG, "special_tokens_map.json"):
        for role in SPECIAL:
            entry = files.json(source).get(f"{role}_token")
            entry = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(entry, str) and entry:
                names.setdefault(role, entry)
    return names


def read_special(
    files: Files,
    config: Mapping[str, Any],
    texts: Mapping[str, int],
    types: list[int],
    defaults: Mapping[str, int] | None = None,
) -> Special:
    """Roles, ids and flags.

    texts: id by text of the finished vocabulary. types: token type by id. defaults: ids for roles that no file gives.
    """
    found = Special(names=named_special(files))
    _fall_back(found.names, "bos", "cls")
    _fall_back(found.names, "eos", "sep")
    _post_processor(files, found)
    for role in ("bos", "eos", "sep"):
        flag = files.json(_CONFIG).get(f"add_{role}_token")
        if isinstance(flag, bool):
            found.adds[role] = flag
    in_tokenizer_json = {row.text: row.token_id for row in added_tokens(files)} if _TOKENIZER in files else {}
    for role in SPECIAL:
        _set(found, role, in_tokenizer_json.get(found.names.get(role, "")), len(types))
    nested = config.get("text_config")
    for role in SPECIAL:
        token_id = config.get(f"{role}_token_id")
        if token_id is None and isinstance(nested, dict):
            token_id = nested.get(f"{role}_token_id")
        _set(found, role, token_id, len(types))
    for role in ("bos", "eos", "sep", "pad", "mask"):  # the files name the token but nothing gives its id
        token_id = texts.get(found.names.get(role, ""))
        if token_id is not None and types[token_id] == TokenType.CONTROL:
            _set(found, role, token_id, len(types))
    _further_ends(files, config, found, {i: text for text, i in texts.items()})
    for role, token_id in (defaults or {}).items():
        _set(found, role, token_id, len(types))
    for role, adds in found.adds.items():
        if adds and role not in found.ids:  # llama.cpp refuses to load such a file
            message = f"the tokenizer adds a {role} token but names none in its vocabulary; it will not be added"
            found.notes.append(Note("add-without-token", message, lossy=True))
            found.adds[role] = False
    return found


def _fall_back(names: dict[str, str], role: str, other: str) -> None:
    if role not in names and other in names:
        names[role] = names[other]


def _set(found: Special, role: str, token_id: Any, n_tokens: int) -> None:
    if role in found.ids or isinstance(token_id, bool) or not isinstance(token_id, int):
        return
    if 0 <= token_id < n_tokens:
        found.ids[role] = token_id
    elif token_id >= 0:
        message = f"{role}_token_id {token_id} is outside the vocabulary of {n_tokens} tokens and left out"
        found.notes.append(Note("special-out-of-range", message))


def _further_ends(files: Files, config: Mapping[str, Any], found: Special, texts: Mapping[int, str]) -> None:
    """End tokens beyond the one that GGUF's eos key holds: the runtime knows most by text, two more have keys."""
    listed: list[int] = []
    for value in (config.get("eos_token_id"), files.json("generation_config.json").get("eos_token_id")):
        for token_id in value if isinstance(value, list) else [value]:
            if (
                isinstance(token_id, int)
                and not isinstance(token_id, bool)
                and token_id in texts
                and token_id not in listed
            ):
                listed.append(token_id)
    if "eos" not in found.ids and listed:
        found.ids["eos"] = listed[0]
    for token_id in listed:
        if token_id in found.ids.values() or texts[token_id] in END_TEXTS:
            continue
        free = next((role for role in ("eot", "eom") if role not in found.ids), None)
        if free:
            found.ids[free] = token_id
        else:
            found.notes.append(
                Note("eos-dropped", f"GGUF has no key left for the end token {texts[token_id]!r}", lossy=True)
            )


def _post_processor(files: Files, found: Special) -> None:
    """Set flags (and missing names) from tokenizer.json's post-processor."""
    if _TOKENIZER not in files:
        return
    value = files.json(_TOKENIZER).get("post_processor")
    if value is None:
        return
    processor = mapping(value, path=_TOKENIZER, place="post_processor")
    rows = sequence(processor.get("processors", [processor]), path=_TOKENIZER, place="post_processor.processors")
    for i, row in enumerate(rows):
        place = f"post_processor.processors[{i}]"
        step = mapping(row, path=_TOKENIZER, place=place)
        kind = step.get("type")
        if kind == "ByteLevel":
            found.adds |= {"bos": False, "eos": False}
        elif kind in ("RobertaProcessing", "BertProcessing"):
            found.adds |= {"bos": True, "eos": True} | ({"sep": True} if kind == "RobertaProcessing" else {})
            for role in ("cls", "sep"):
                pair = step.get(role)
                if isinstance(pair, list) and pair and isinstance(pair[0], str):
                    found.names.setdefault(role, pair[0])
            _fall_back(found.names, "bos", "cls")
            _fall_back(found.names, "eos", "sep")
        elif kind == "TemplateProcessing":
            _template(step, found, place)


def _template(step: dict[str, Any], found: Special, place: str) -> None:
    """TemplateProcessing: GGUF can say "bos first", "eos last" and "separator between a pair", no more."""
    single, pair = (_pieces(step.get(key), f"{place}.{key}") for key in ("single", "pair"))
    first = single[0][1] if len(single) > 1 and single[0][0] == "SpecialToken" else None
    last = single[-1][1] if len(single) > 1 and single[-1][0] == "SpecialToken" else None
    names = found.names
    if first:
        if first == names.get("cls"):  # the runtime puts bos first
            names["bos"] = first
        found.adds["bos"] = first == names.setdefault("bos", first)
    if last:
        if names.setdefault("eos", last) != last:  # the runtime appends eos: what was eos ends a turn
            names["eot" if "eot" not in names else "eom"] = names["eos"]
            names["eos"] = last
        found.adds["eos"] = True
    middle = single[1 if first else 0 : -1 if last else None]
    if any(kind == "SpecialToken" for kind, _ in middle) or (first and not found.adds["bos"]):
        found.notes.append(
            Note("template-not-expressible", f"GGUF cannot express {place}: {_show(single)}", lossy=True)
        )
    pair = pair[1 if first and pair and pair[0] == ("SpecialToken", first) else 0 :]
    pair = pair[: -1 if last and pair and pair[-1] == ("SpecialToken", last) else None]
    if len(pair) < 3 or pair[0] != ("Sequence", "A") or pair[-1] != ("Sequence", "B"):
        return
    between = [name for kind, name in pair[1:-1] if kind == "SpecialToken"]
    separators = (names.get("sep"), names.get("eos"))
    found.adds["sep"] = bool(between) and (
        (between[0] in separators and not last) or (len(between) == 2 and between[1] in separators)
    )
    if found.adds["sep"] and "eos" in names:
        names.setdefault("sep", names["eos"])


def _pieces(value: Any, place: str) -> list[tuple[str, str]]:
    """[("SpecialToken", text) or ("Sequence", "A" or "B")]."""
    pieces: list[tuple[str, str]] = []
    for i, row in enumerate(sequence(value if value is not None else [], path=_TOKENIZER, place=place)):
        item = mapping(row, path=_TOKENIZER, place=f"{place}[{i}]")
        for kind in ("SpecialToken", "Sequence"):
            if kind in item:
                body = mapping(item[kind], path=_TOKENIZER, place=f"{place}[{i}].{kind}")
                pieces.append((kind, string(body.get("id"), path=_TOKENIZER, place=f"{place}[{i}].{kind}.id")))
    return pieces


def _show(pieces: list[tuple[str, str]]) -> str:
    return " ".join(f"${name}" if kind == "Sequence" else name for kind, name in pieces)
