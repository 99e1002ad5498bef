"""Our kernels against ggml's, one thread each, in the same run: how many times faster, at every level of this CPU.

    python benchmarks/kernels.py [--types Q4_K,Q8_0] [--rounds 7] [--importance] [--source BF16] [--dequantize]

Each round times ggml once and every level of ours once on the same 4 Mi Gaussian weights, all into one buffer that was
written before, so that all find the caches alike; with --source BF16 both widen to float32 first, ours a piece at a
time. Printed are the median over the rounds of the ratio to the same round's ggml, ours in millions of weights per
second, and, for what is limited by memory, the share of the speed at which this machine copies the same bytes. ggml is
the shared library of the xllamacpp package.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
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


class Pair(NamedTuple):
    """The same work done by us and by ggml, and the bytes that it reads and writes."""

    ours: Callable[[], object]
    ggml: Callable[[], object]
    moved: int


def encoding(name: str, source: str, weighted: bool) -> Pair:
    """Values of the source type to blocks."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, COLS), np.float32) * np.float32(0.02)
    weights = rng.random(COLS, np.float32) if weighted else None
    importance = None if weights is None else weights.ctypes.data
    number, lib = _ids()[name], ggml.library()
    out = np.frombuffer(bytearray(ggml.quantize(number, x[:1], weights)) * ROWS, np.uint8).reshape(ROWS, -1)
    narrow = x if source == "F32" else x.astype(ml_dtypes.bfloat16)

    def peer() -> None:
        if narrow is not x:  # as llama-quantize does: all to float32 first
            lib.ggml_bf16_to_fp32_row(ctypes.c_void_p(narrow.ctypes.data), ctypes.c_void_p(x.ctypes.data), x_size)
        lib.ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, ROWS, COLS, importance)

    x_size = ctypes.c_int64(x.size)
    return Pair(lambda: modelfmt.quantize(narrow, name, weights=weights, out=out), peer, narrow.nbytes + out.nbytes)


def decoding(name: str) -> Pair:
    """Blocks to float32 values."""
    number = _ids()[name]
    x = np.random.default_rng(0).standard_normal((ROWS, COLS), np.float32)
    weights = np.ones(COLS, np.float32)
    blocks = np.frombuffer(ggml.quantize(number, x, weights), np.uint8).reshape(ROWS, -1)
    to_float = ggml.traits(number).to_float
    return Pair(
        lambda: modelfmt.dequantize(blocks, name, out=x),
        lambda: to_float(blocks.ctypes.data, x.ctypes.data, x.size),
        blocks.nbytes + x.nbytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--importance", action="store_true", help="with importance weights")
    parser.add_argument("--source", choices=["F32", "BF16"], default="F32")
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
        pair = decoding(row.name) if given.dequantize else encoding(row.name, given.source, weighted)
        pair.ours()
        pair.ggml()
        peer: list[float] = []
        own: dict[str, list[float]] = {level: [] for level in levels}
        for _ in range(given.rounds):
            peer.append(timed(pair.ggml))
            for level in levels:
                _kernels.set_isa(level)
                own[level].append(timed(pair.ours))
        _kernels.set_isa(levels[0])
        cells = ""
        for level in levels:
            ratio = statistics.median(a / b for a, b in zip(peer, own[level], strict=True))
            cells += f"{ratio:13.1f}x{ROWS * COLS / statistics.median(own[level]) / 1e6:8.0f}"
        share = pair.moved / statistics.median(own[levels[0]]) / copying
        print(f"{row.name:8}{ROWS * COLS / statistics.median(peer) / 1e6:10.1f}{cells}{share:9.0%}", flush=True)


def _ids() -> dict[str, int]:
    return {row[0]: row[1] for row in _kernels.types()}


if __name__ == "__main__":
    main()
