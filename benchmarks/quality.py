"""What each file type costs in quality: a real, trained model on text that it has not seen, computed by llama.cpp.

    python benchmarks/quality.py [--types Q4_K_M,IQ4_XS] [--rounding ggml best] [--windows 24] [--orders 4]

The model is lm/tinyshakespeare-5M of the shared data (MODELFMT_TEST_DATA, or ../shared/data beside the checkout), its
importance matrix comes from its training-sample.txt (benchmarks/importance.py). heldout.txt is read in windows of 256
tokens, the model's own length, spread over the text; the predictions after the first 64 tokens of each count. KL is the
Kullback-Leibler divergence (in nats, over the whole vocabulary) from the predictions of the F32 file, which holds the
checkpoint's bfloat16 values exactly. "Same top-1": how often both find the same token most likely.

How far a small model is thrown off by one rounding of its weights is partly luck. So the same model is measured in
several orders of its features (benchmarks/reorder.py), where other weights share a block. Behind each mean stands its
standard error, from the spread between windows and that between orders.

A file type stands a second time, with the importance matrix, where that changes its bytes; those that need one stand
with it only. llama.cpp rounds activations too, so that no quantized file is at 0.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import exp, floor, hypot, log10, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import modelfmt
from modelfmt.quant.recipes import FILE_TYPES

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import importance
import reorder
from llama import Network, Session
from llama_vocab import Vocab

ROOT = Path(__file__).parent.parent
WINDOW, WARM_UP = 256, 64

Floats = NDArray[np.float64]


class Text(NamedTuple):
    """Windows of tokens, [n, WINDOW], and the token after each, [n, WINDOW]."""

    tokens: NDArray[np.int64]
    following: NDArray[np.int64]


class Quality(NamedTuple):
    """Means over the counted predictions of each window, float64 [windows] or [orders, windows].

    surprise: minus the log-probability of the right token. divergence: from the reference. same: share of predictions
    where both find the same token most likely.
    """

    surprise: Floats
    divergence: Floats
    same: Floats


class File(NamedTuple):
    """A converted model. size: in bytes. bits: of a weight. digest: of its tensors' bytes."""

    path: Path
    size: int
    bits: float
    digest: str


Made = dict[str, dict[str, File]]
"""By rounding and row of the table."""


def log_probabilities(logits: NDArray[np.float32]) -> Floats:
    """Natural logarithms of the softmax over the last axis."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def windows(path: Path, text: str, most: int | None = None) -> Text:
    """A text by the tokenizer of a GGUF file, cut into windows, of which so many are taken at equal distances; what is
    left at the end is not used."""
    vocab = Vocab(path)
    ids = np.array(vocab.encode(text))
    vocab.close()
    count = (len(ids) - 1) // WINDOW
    taken = np.linspace(0, count, min(count, most or count), endpoint=False).astype(int)
    return Text(*(ids[shift : shift + count * WINDOW].reshape(count, WINDOW)[taken] for shift in (0, 1)))


def predictions(path: Path, tokens: Iterable[Sequence[int]], warm_up: int = WARM_UP) -> Iterator[Floats]:
    """For each window, float64 [WINDOW - warm_up, vocabulary]: log-probabilities of the next token, by llama.cpp."""
    with Network(path) as network, Session(network, n_ctx=WINDOW) as session:
        for window in tokens:
            yield log_probabilities(session.run(window, warm_up))


def compare(found: Iterable[Floats], reference: Iterable[Floats], following: NDArray[np.int64]) -> Quality:
    """Predictions [predicted, vocabulary] against the reference's, window by window."""
    rows = []
    for ours, theirs, right in zip(found, reference, following, strict=True):
        right = right[len(right) - len(ours) :]
        surprise = -ours[np.arange(len(right)), right].mean()
        divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=-1).mean()
        rows.append((surprise, divergence, (ours.argmax(axis=-1) == theirs.argmax(axis=-1)).mean()))
    return Quality(*np.array(rows).T)


def mean(values: Floats) -> tuple[float, float]:
    """(mean, its standard error) of values [windows] or [orders, windows]: every order has met the same windows, every
    window the same orders, so that both spreads count."""
    values = np.atleast_2d(values)
    ways = [values.mean(axis=axis) for axis in (0, 1)]
    return float(values.mean()), hypot(*(one.std(ddof=1) / sqrt(len(one)) for one in ways if len(one) > 1))


def perplexity(quality: Quality) -> tuple[float, float]:
    """(perplexity, its standard error)."""
    value, error = mean(quality.surprise)
    return exp(value), exp(value) * error


def removed(one: Quality, other: Quality) -> tuple[float, float]:
    """(share of the divergence of `one` that `other` does not have, its standard error).

    That of a ratio of means over the same windows and orders: what both find hard cancels out.
    """
    ratio = other.divergence.mean() / one.divergence.mean()
    return float(1 - ratio), mean(other.divergence - ratio * one.divergence)[1] / float(one.divergence.mean())


def converted(model: Path, folder: Path, types: Sequence[str], **options: Any) -> dict[str, File]:
    """The model as files of these types, made in one pass."""
    folder.mkdir()
    found = {}
    modelfmt.convert(model, folder / "{type}.gguf", quant=list(types), **options)
    for name in types:
        path = folder / f"{name}.gguf"
        with modelfmt.open(path) as made:
            data = hashlib.sha256()
            for tensor in made.values():
                data.update(tensor.numpy(dequantize=False))
            found[name] = File(path, path.stat().st_size, made.nbytes * 8 / made.n_params, data.hexdigest())
    return found


def variants(model: Path, folder: Path, types: Sequence[str], rounding: str, matrix: Path) -> dict[str, File]:
    """Every row of the table: type, and "type, importance" where the matrix changes the bytes."""
    options = {} if rounding == "ggml" else {"rounding": rounding}
    free = [name for name in types if not FILE_TYPES[name].needs_importance]
    plain = converted(model, folder / rounding, free, **options) if free else {}
    weighted = converted(model, folder / f"{rounding}-importance", types, imatrix=matrix, **options)
    found = {}
    for name in types:
        if name in plain:
            found[name] = plain[name]
        if name not in plain or plain[name].digest != weighted[name].digest:
            found[f"{name}, importance"] = weighted[name]
    return found


def measured(value: float, error: float) -> str:
    """Both with as many decimals as show two digits of the error, five at most.

    >>> measured(1.95123, 0.0754), measured(33.7, 2.1)
    ('1.951 ± 0.075', '33.7 ± 2.1')
    """
    decimals = min(max(0, 1 - floor(log10(error))), 5) if error else 0
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def one_order(model: Path, folder: Path, given: argparse.Namespace, reference: list[Floats]) -> tuple[Made, Any]:
    """Every file of the model, and its quality by rounding and row. reference: filled by the first order, whose
    predictions all others share."""
    matrix = folder / "importance.gguf"
    importance.compute(model, given.model / "training-sample.txt", matrix, most=128)
    full = converted(model, folder / "full", ["F32"])["F32"].path
    text = windows(full, (given.model / "heldout.txt").read_text(), given.windows)
    if not reference:
        reference += predictions(full, text.tokens)
    made = {name: variants(model, folder, given.types.split(","), name, matrix) for name in given.rounding}
    paths = {file.digest: file.path for files in made.values() for file in files.values()}

    def work(path: Path) -> Quality:
        return compare(predictions(path, text.tokens), reference, text.following)

    with ThreadPoolExecutor(given.workers) as pool:
        found = dict(zip(paths, pool.map(work, paths.values()), strict=True))
    return made, {name: {row: found[file.digest] for row, file in files.items()} for name, files in made.items()}


def table(made: Made, found: dict[str, dict[str, Quality]]) -> Iterator[str]:
    """Lines of Markdown, from the files of one order and the quality over all."""
    first, *others = made
    titles = ["perplexity", "KL, 10⁻³ nats", "same top-1"]
    heads = ["file type", "MB", "bits per weight"]
    heads += [f"{title}, {name}" if others else title for name in made for title in titles]
    heads += ["KL removed"] if others else []
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row, file in made[first].items():
        cells = [row, f"{file.size / 1e6:.2f}", f"{file.bits:.2f}"]
        for name in made:
            quality = found[name][row]
            value, error = mean(quality.divergence)
            cells += ["{:.2f} ± {:.2f}".format(*perplexity(quality)), measured(value * 1e3, error * 1e3)]
            cells.append(f"{quality.same.mean():.1%}")
        for name in others:
            same = made[name][row].digest == file.digest
            share = removed(found[first][row], found[name][row])
            cells.append("same bytes" if same else "{:z.1%} ± {:.1%}".format(*share))
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    data = Path(os.environ.get("MODELFMT_TEST_DATA") or ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=data / "lm" / "tinyshakespeare-5M")
    parser.add_argument("--types", default=",".join(FILE_TYPES))
    parser.add_argument("--rounding", nargs="+", choices=["ggml", "best"], default=["ggml", "best"])
    parser.add_argument("--windows", type=int, default=24, help="of the text (it has 96)")
    parser.add_argument("--orders", type=int, default=4, help="of the features; the first is the model's own")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="models at work at once")
    given = parser.parse_args()
    reference: list[Floats] = []
    orders = []
    for seed in range(given.orders):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = reorder.reorder(given.model, folder / "model", seed) if seed else given.model
            orders.append(one_order(model, folder, given, reference))
    made = orders[0][0]
    found = {
        name: {row: Quality(*map(np.stack, zip(*(one[1][name][row] for one in orders), strict=True))) for row in rows}
        for name, rows in made.items()
    }
    print(f"{len(reference)} windows of {WINDOW - WARM_UP} predictions, {given.orders} orders of the features\n")
    print("\n".join(table(made, found)))


if __name__ == "__main__":
    main()
