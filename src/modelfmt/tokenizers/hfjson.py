"""tokenizer.json, as the tokenizers library writes it: vocabulary, merges, normalizers and pre-tokenizers, checked.

Source: huggingface/tokenizers, bindings of Tokenizer.to_str. Nothing is executed: a regular expression is only a text
here.
"""

from __future__ import annotations

from typing import Any

from ..errors import CorruptFile, LimitExceeded, UnsupportedError
from .files import Files, integer, mapping, sequence, string

__all__ = ["flatten", "merge_pairs", "model_type", "normalizer_steps", "vocab_by_id"]

_PATH = "tokenizer.json"
_MAX_STEPS = 64


def model_type(files: Files) -> str:
    """BPE, WordPiece, Unigram or WordLevel; old files that do not say are told by their fields."""
    model = mapping(files.json(_PATH).get("model"), path=_PATH, place="model")
    kind = model.get("type")
    if isinstance(kind, str):
        return kind
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def vocab_by_id(files: Files) -> dict[int, str]:
    """Token text by id, in id order, of a BPE or WordPiece model."""
    model = mapping(files.json(_PATH).get("model"), path=_PATH, place="model")
    vocab = mapping(model.get("vocab"), path=_PATH, place="model.vocab")
    by_id: dict[int, str] = {}
    for text, value in vocab.items():
        token_id = integer(value, path=_PATH, place=f"model.vocab[{text!r}]")
        if token_id in by_id:
            raise CorruptFile(
                "two tokens have one id",
                code="duplicate-id",
                path=_PATH,
                place=f"model.vocab[{text!r}]",
                found=token_id,
            )
        by_id[token_id] = text
    return dict(sorted(by_id.items()))


def merge_pairs(files: Files) -> list[tuple[str, str]]:
    """The merges as (left, right), from both spellings: "left right" and ["left", "right"]."""
    model = mapping(files.json(_PATH).get("model"), path=_PATH, place="model")
    pairs: list[tuple[str, str]] = []
    for i, row in enumerate(sequence(model.get("merges") or [], path=_PATH, place="model.merges")):
        parts = row.split(" ") if isinstance(row, str) else sequence(row, path=_PATH, place=f"model.merges[{i}]")
        if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise CorruptFile(
                "a merge is not a pair of texts",
                code="bad-merge",
                path=_PATH,
                place=f"model.merges[{i}]",
                found=row,
                allowed="two texts",
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def normalizer_steps(files: Files) -> list[dict[str, Any]]:
    """The normalizers one after another, sequences dissolved."""
    return flatten(files.json(_PATH).get("normalizer"), "normalizers", "normalizer")


def flatten(value: Any, children: str, place: str) -> list[dict[str, Any]]:
    """A component and, where it is a Sequence, its parts; at most 64."""
    steps: list[dict[str, Any]] = []
    queue = [value]
    seen = 0
    while queue:
        seen += 1
        if seen > _MAX_STEPS:
            raise LimitExceeded(
                "too many parts in a sequence", code="sequence-length", path=_PATH, place=place, allowed=_MAX_STEPS
            )
        step = queue.pop(0)
        if step is None:
            continue
        step = mapping(step, path=_PATH, place=place)
        if step.get("type") == "Sequence":
            queue = sequence(step.get(children), path=_PATH, place=f"{place}.{children}") + queue
        else:
            string(step.get("type"), path=_PATH, place=f"{place}.type")
            steps.append(step)
    return steps


def refuse_subword_marks(files: Files) -> None:
    """BPE with word-end or continuation marks (CLIP and others) has no runtime in GGUF."""
    model = mapping(files.json(_PATH).get("model"), path=_PATH, place="model")
    for key in ("end_of_word_suffix", "continuing_subword_prefix"):
        if model.get(key):
            raise UnsupportedError(
                f"a BPE tokenizer with {key} cannot be expressed",
                code="subword-mark",
                path=_PATH,
                place=f"model.{key}",
                found=model[key],
            )
