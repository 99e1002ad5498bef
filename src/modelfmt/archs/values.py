"""Numbers and words from config.json, checked before use; every error names the file and the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any

from modelfmt.errors import CorruptFile, UnsupportedError

__all__ = [
    "CONFIG",
    "bad_value",
    "boolean",
    "flat",
    "integer",
    "language",
    "number",
    "numbers",
    "record",
    "refused",
    "shortest",
    "text",
]

CONFIG = "config.json"

_FLOAT32 = Struct("<f")
_OF_ALL = ("architectures", "model_type", "vocab_size", "dtype", "torch_dtype", "tie_word_embeddings", "vision_config")
_SECTIONS = (("thinker_config",), ("text_config", "llm_config", "language_config"))


def flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the language model: its section, where there is one, and of the outer one special tokens and
    what else is of the whole. Not its sizes: they may be those of a tower.

    Embeddings are tied where either says so: transformers 5 writes the default of its class into both, and ties by the
    outer one.

    >>> flat({"model_type": "gemma3", "text_config": {"hidden_size": 8}})["hidden_size"]
    8
    """
    found = config
    for outer, inner in _sections(config):
        tied = {"tie_word_embeddings": True} if outer.get("tie_word_embeddings") is True else {}
        kept = {key: value for key, value in found.items() if key in _OF_ALL or key.endswith("_token_id")}
        found = {**kept, **inner, **tied}
    return found


def language(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the language model alone; {} of a configuration that has none.

    >>> language({"thinker_config": {"text_config": {"hidden_size": 8}}})
    {'hidden_size': 8}
    """
    sections = [inner for _, inner in _sections(config)]
    return sections[-1] if sections else {}


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Sections inside each other, each with what it lies in: the innermost is that of the language model."""
    for names in _SECTIONS:
        name = next((name for name in names if config.get(name) is not None), None)
        if name is not None:
            inner = record(config[name], name)
            yield config, inner
            config = inner


def bad_value(key: str, found: object, allowed: str, *, path: str = CONFIG) -> CorruptFile:
    """The error for a value that its key cannot have."""
    return CorruptFile(
        "this key cannot have such a value", code="config-value", path=path, place=key, found=found, allowed=allowed
    )


def refused(key: str, found: object, detail: str, *, allowed: object = None, path: str = CONFIG) -> UnsupportedError:
    """The error for a value that is valid, but that the destination cannot express."""
    return UnsupportedError(detail, code="config-unsupported", path=path, place=key, found=found, allowed=allowed)


def integer(value: object, key: str, low: int = 1, high: int = 2**31 - 1, *, path: str = CONFIG) -> int:
    """An integer within bounds; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad_value(key, value, f"an integer from {low} to {high}", path=path)
    return value


def number(value: object, key: str, path: str = CONFIG) -> float:
    """A positive number that float32 can hold, and whose products and quotients it can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 <= value <= 1e30:
        raise bad_value(key, value, "a number from 1e-30 to 1e30", path=path)
    return float(value)


def shortest(value: float) -> float:
    """The number with the fewest digits that is this one in float32.

    >>> shortest(9.999999974752427e-07)
    1e-06
    """
    packed = _FLOAT32.pack(value)
    return next(found for digits in range(1, 18) if _FLOAT32.pack(found := float(f"{value:.{digits}g}")) == packed)


def numbers(value: object, key: str, count: int) -> list[float]:
    """A list of `count` positive numbers."""
    if not isinstance(value, list) or len(value) != count:
        raise bad_value(key, len(value) if isinstance(value, list) else value, f"a list of {count} numbers")
    return [number(entry, f"{key}[{index}]") for index, entry in enumerate(value)]


def boolean(value: object, key: str, path: str = CONFIG) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise bad_value(key, value, "true or false", path=path)
    return value


def text(value: object, key: str, path: str = CONFIG) -> str:
    """A string."""
    if not isinstance(value, str):
        raise bad_value(key, value, "a string", path=path)
    return value


def record(value: object, key: str, *, path: str = CONFIG) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise bad_value(key, value, "an object", path=path)
    return value
