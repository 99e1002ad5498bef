"""Words of texts, counted and weighted: CountVectorizer, TfidfVectorizer, TfidfTransformer.

ONNX has n-grams (TfIdfVectorizer) but no way to find words; ONNX Runtime's Tokenizer has. Letters of ASCII are made
lower case (StringNormalizer in the locale C, which is everywhere); capital letters beyond ASCII stay, and a note says
so. Source: scikit-learn 1.9, feature_extraction/text.py; ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.fields import MAX_WIDTH
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["TRANSFORMERS"]

_WORD = r"[\p{L}\p{N}_]"
_PATTERNS = {r"(?u)\b\w\w+\b": f"{_WORD}{_WORD}+", r"(?u)\b\w+\b": f"{_WORD}+"}
_PAD = "\x01"
MAX_NGRAM = 10


def _ngrams(e: Fields, low: int, high: int) -> tuple[list[str], list[int], list[int]]:
    """(words of all n-grams, where those of each length begin, the column of each), shortest first."""
    held = e.get("vocabulary_")
    if not isinstance(held, dict) or not 0 < len(held) <= MAX_WIDTH:
        raise e.corrupt("a vocabulary is wanted", "vocabulary_", held)
    rows = [(word.split(" "), place) for word, place in held.items() if isinstance(word, str) and type(place) is int]
    if sorted(place for _, place in rows) != list(range(len(held))):
        raise e.corrupt("each word has a column of its own", "vocabulary_", held)
    if any(not low <= len(words) <= high or not all(words) for words, _ in rows):
        raise e.corrupt("n-grams of another length", "vocabulary_", held, f"{low} to {high} words")
    rows.sort(key=lambda row: (len(row[0]), row[1]))
    begins = [sum(len(words) for words, _ in rows if len(words) < n) for n in range(1, high + 1)]
    return [word for words, _ in rows for word in words], begins, [place for _, place in rows]


def count_vectorizer(build: Build, e: Fields, x: Columns) -> Columns:
    """How often each word of the vocabulary is in a text."""
    if x.width != 1:
        raise e.corrupt("one column of texts is wanted", "vocabulary_", x.width)
    e.choice("analyzer", ("word",), "word")
    e.choice("input", ("content",), "content")
    for key in ("preprocessor", "tokenizer", "strip_accents"):
        if e.get(key) is not None:
            raise e.refused("texts are not treated in this way", key, e.get(key), (None,))
    pattern = _PATTERNS[e.choice("token_pattern", tuple(_PATTERNS), next(iter(_PATTERNS)))]
    ends = e.get("ngram_range", (1, 1))
    if not isinstance(ends, tuple | list) or len(ends) != 2 or not all(type(n) is int for n in ends):
        raise e.corrupt("a range is wanted", "ngram_range", ends)
    low, high = ends
    if not 1 <= low <= high <= MAX_NGRAM:
        raise e.corrupt("a range is wanted", "ngram_range", ends, f"1 to {MAX_NGRAM}")
    if high > 1 and e.get("stop_words") is not None:
        raise e.refused("n-grams without stop words are not made", "stop_words", e.get("stop_words"), (None,))
    words, begins, places = _ngrams(e, low, high)
    value = build.op("Reshape", x.texts(), [-1])
    if e.flag("lowercase", True):
        value = build.op("StringNormalizer", value, case_change_action="LOWER", is_case_sensitive=1, locale="C")
        build.note(e.place, "capital letters beyond ASCII are not made lower case")
    tokens = build.op(
        "Tokenizer", value, domain="com.microsoft", mark=0, mincharnum=1, pad_value=_PAD, tokenexp=pattern
    )
    last = build.op("Expand", np.asarray([[_PAD]], object), build.op("Concat", build.op("Shape", value), [1], axis=0))
    tokens = build.op("Concat", tokens, last, axis=1)  # a row is never empty
    counts = build.op(
        "TfIdfVectorizer",
        tokens,
        mode="TF",
        min_gram_length=low,
        max_gram_length=high,
        max_skip_count=0,
        ngram_counts=begins,
        ngram_indexes=places,
        pool_strings=words,
    )
    counts = build.cast(counts, "DOUBLE")
    if e.flag("binary", False):
        counts = build.op("Min", counts, 1.0)
    return Made(counts, len(places)).columns(build)


def tfidf_transformer(build: Build, e: Fields, x: Columns) -> Columns:
    """Counts times a weight for each word, then each row divided by its norm."""
    value = x.numbers()
    if e.flag("sublinear_tf", False):
        there = build.op("Greater", value, 0.0)
        logs = build.op("Add", build.op("Log", build.op("Where", there, value, 1.0)), 1.0)
        value = build.op("Where", there, logs, value)
    if e.flag("use_idf", True):
        value = build.op("Mul", value, _weights(e, x.width))
    norm = e.choice("norm", ("l1", "l2", None), "l2")
    if norm is not None:
        size = build.op("ReduceL1" if norm == "l1" else "ReduceSumSquare", value, [1], keepdims=1)
        size = size if norm == "l1" else build.op("Sqrt", size)
        value = build.op("Div", value, build.op("Where", build.op("Equal", size, 0.0), 1.0, size))
    return Made(value, x.width).columns(build)


def _weights(e: Fields, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Older releases keep them as a diagonal matrix."""
    if isinstance(e.get("_idf_diag"), Record):
        return e.of(e.inner("_idf_diag"), "_idf_diag").array("data", 1, width).reshape(-1)
    return e.array(e.first("idf_", "_idf"), width)


def tfidf_vectorizer(build: Build, e: Fields, x: Columns) -> Columns:
    """Counts, then weights."""
    counts = count_vectorizer(build, e, x)
    return build.transform(e.inner("_tfidf"), e.at("_tfidf"), counts)


TRANSFORMERS = {
    "CountVectorizer": count_vectorizer,
    "TfidfVectorizer": tfidf_vectorizer,
    "TfidfTransformer": tfidf_transformer,
}
