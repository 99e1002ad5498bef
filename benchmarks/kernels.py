"""Our kernels against ggml's, one thread each, in the same run: how many times faster, at every level of this CPU.

    python benchmarks/kernels.py [--types Q4_K,Q8_0] [--rounds 7] [--importance] [--dequantize]

Each round times ggml once and every level of ours once on the same 4 Mi Gaussian float32 weights; printed are the
median over the rounds of the ratio to the same round's ggml, ours in millions of weights per second, and, for what is
limited by memory, the share of the speed at which this machine copies the same bytes. ggml is the shared library of the
xllamacpp package.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import modelfmt
from modelfmt import _kernels

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import ggml

ROWS, COLS = 1024, 4096
NO_PEER = ("Q8_1", "Q8_K")  # activations: ggml_quantize_chunk does not make them


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def works(
    name: str, number: int, weighted: bool, decode: bool
) -> tuple[Callable[[], object], Callable[[], object], int]:
    """(ours, ggml's, bytes that each moves) for one type."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, COLS), np.float32) * np.float32(0.02)
    weights = rng.random(COLS, np.float32) if weighted else None
    blocks = np.frombuffer(ggml.quantize(number, x, weights), np.uint8).reshape(ROWS, -1)
    moved = x.nbytes + blocks.nbytes
    if decode:
        values = np.empty_like(x)
        raw = blocks.tobytes()
        return (lambda: modelfmt.dequantize(blocks, name, out=values)), (lambda: ggml.dequantize(number, raw)), moved
    out = np.empty_like(blocks)
    return (
        (lambda: modelfmt.quantize(x, name, weights=weights, out=out)),
        (lambda: ggml.quantize(number, x, weights)),
        moved,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--importance", action="store_true", help="with importance weights")
    parser.add_argument("--dequantize", action="store_true")
    given = parser.parse_args()
    wanted = [name for name in given.types.upper().split(",") if name]
    levels = _kernels.isa_levels()
    source, copy = np.ones(1 << 23, np.float32), np.empty(1 << 23, np.float32)
    copying = 2 * source.nbytes / statistics.median(timed(lambda: np.copyto(copy, source)) for _ in range(9))
    print(f"copy: {copying / 1e9:.1f} GB/s read and written; medians of {given.rounds} rounds, one thread")
    header = "".join(f"{level + ' / ggml':>14}{'M/s':>8}" for level in levels)
    print(f"{'type':8}{'ggml M/s':>10}{header}{'of copy':>9}")
    for row in modelfmt.types():
        if (
            row.block_elements == 1
            or row.name in NO_PEER
            or (wanted and row.name not in wanted)
            or not (row.can_dequantize if given.dequantize else row.can_quantize)
        ):
            continue
        weighted = given.importance or row.needs_importance
        ours, theirs, moved = works(row.name, _ids()[row.name], weighted, given.dequantize)
        ours()
        peer: list[float] = []
        own: dict[str, list[float]] = {level: [] for level in levels}
        for _ in range(given.rounds):
            peer.append(timed(theirs))
            for level in levels:
                _kernels.set_isa(level)
                own[level].append(timed(ours))
        _kernels.set_isa(levels[0])
        cells = ""
        for level in levels:
            ratio = statistics.median(a / b for a, b in zip(peer, own[level], strict=True))
            cells += f"{ratio:13.1f}x{ROWS * COLS / statistics.median(own[level]) / 1e6:8.0f}"
        share = moved / statistics.median(own[levels[0]]) / copying
        print(f"{row.name:8}{ROWS * COLS / statistics.median(peer) / 1e6:10.1f}{cells}{share:9.0%}", flush=True)


def _ids() -> dict[str, int]:
    return {row[0]: row[1] for row in _kernels.types()}


if __name__ == "__main__":
    main()
