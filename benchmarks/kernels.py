"""Our kernels against ggml's, one thread each, in the same run: how many times faster, at every level of this CPU.

    python benchmarks/kernels.py                 the tables of docs/benchmarks.md, one each: quantize,
    python benchmarks/kernels.py --importance    quantize with importance weights,
    python benchmarks/kernels.py --dequantize    dequantize
    [--types Q4_K,Q8_0] [--rounds 7] [--source BF16] [--rows 16]

Each round times ggml once and every level of ours once on the same 4 Mi Gaussian weights, or what ggml does in a
second, all into one buffer that was written before, and in turn another first, so that all find the caches alike; with
--source BF16 both widen to float32 first, ours a piece at a time. Times are those that the thread had a CPU. Printed
are the medians over the rounds, of the ratio to the same round's ggml and of ours in millions of weights per second,
and, for what is limited by memory, the share of the speed of a copy of as many bytes as are read and written, timed
just before. With --rows 16 all stays in the cache and is repeated: what the arithmetic alone takes. ggml is the shared
library of the xllamacpp package.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

import modelfmt
from modelfmt import _kernels

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import ggml

ROWS, COLS = 1024, 4096
PROBE = 16  # rows that tell how fast ggml is
NO_PEER = ("Q8_1", "Q8_K")  # activations: ggml_quantize_chunk does not make them, and nothing reads Q8_1
LEVELS = {"v4": "AVX-512", "v3": "AVX2", "neon": "NEON"}


def timed(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of one call: what this thread waits for others, on a shared machine, is not ours."""
    began = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - began) / times


class Pair(NamedTuple):
    """The same work done by us and by ggml, and the bytes that it reads and writes."""

    ours: Callable[[], object]
    ggml: Callable[[], object]
    moved: int


def encoding(name: str, rows: int, source: str, weighted: bool) -> Pair:
    """Values of the source type to blocks."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, COLS), np.float32) * np.float32(0.02)
    weights = rng.random(COLS, np.float32) if weighted else None
    importance = None if weights is None else weights.ctypes.data
    number, lib = _ids()[name], ggml.library()
    out = np.frombuffer(bytearray(ggml.quantize(number, x[:1], weights)) * rows, np.uint8).reshape(rows, -1)
    narrow = x if source == "F32" else x.astype(ml_dtypes.bfloat16)

    def peer() -> None:
        if narrow is not x:  # as llama-quantize does: all to float32 first
            lib.ggml_bf16_to_fp32_row(ctypes.c_void_p(narrow.ctypes.data), ctypes.c_void_p(x.ctypes.data), x_size)
        lib.ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, rows, COLS, importance)

    x_size = ctypes.c_int64(x.size)
    kind = _ids()[source]
    ours = partial(_kernels.convert, kind, narrow.view(np.uint8), number, out, rows, COLS, weights)
    return Pair(ours, peer, narrow.nbytes + out.nbytes)


def decoding(name: str, rows: int) -> Pair:
    """Blocks to float32 values."""
    number = _ids()[name]
    x = np.random.default_rng(0).standard_normal((rows, COLS), np.float32)
    row = ggml.quantize(number, x[:PROBE], np.ones(COLS, np.float32))
    blocks = np.frombuffer(row * -(-rows // PROBE), np.uint8)[: len(row) // PROBE * rows].reshape(rows, -1)
    to_float = ggml.traits(number).to_float
    return Pair(
        lambda: _kernels.convert(number, blocks, 0, x, rows, COLS),
        lambda: to_float(blocks.ctypes.data, x.ctypes.data, x.size),
        blocks.nbytes + x.nbytes,
    )


def copying(moved: int) -> Callable[[], object]:
    """Copies half as many bytes: they are read, and written."""
    source, copy = np.ones(moved // 2, np.uint8), np.ones(moved // 2, np.uint8)
    return lambda: np.copyto(copy, source)


def measured(make: Callable[[int], Pair], levels: list[str], rounds: int, at_once: int) -> list[str]:
    """The cells of one row of the table."""
    probe = make(PROBE)
    probe.ggml()
    budget = max(PROBE, min(ROWS, int(PROBE / timed(probe.ggml))))
    rows = min(at_once, budget)
    times, pair = budget // rows, make(rows)
    copy = copying(pair.moved)
    copied = statistics.median(timed(copy, times) for _ in range(rounds + 1))  # not in between: it empties the caches
    pair.ours()
    pair.ggml()
    seconds: dict[str, list[float]] = {name: [] for name in ("ggml", *levels)}
    for k in range(rounds):
        order = [*seconds][k % len(seconds) :] + [*seconds][: k % len(seconds)]
        for name in order:
            if name != "ggml":
                _kernels.set_isa(name)
            seconds[name].append(timed(pair.ggml if name == "ggml" else pair.ours, times))
    _kernels.set_isa(levels[0])
    peer = seconds["ggml"]
    ratios = [statistics.median(a / b for a, b in zip(peer, seconds[level], strict=True)) for level in levels]
    share = copied / statistics.median(seconds[levels[0]])
    ggml_speed, speed = (rows * COLS / statistics.median(times) / 1e6 for times in (peer, seconds[levels[0]]))
    return [f"{ggml_speed:.1f}", *(f"{ratio:.1f}x" for ratio in ratios), f"{speed:.0f}", f"{share:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--importance", action="store_true", help="with importance weights")
    parser.add_argument("--source", choices=["F32", "BF16"], default="F32")
    parser.add_argument("--dequantize", action="store_true")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of {COLS} weights, in one call")
    given = parser.parse_args()
    wanted = [name for name in given.types.upper().split(",") if name]
    levels = _kernels.isa_levels()
    names = [LEVELS.get(level, level) for level in levels]
    copy = copying(1 << 26)
    print(f"copy: {(1 << 26) / min(timed(copy) for _ in range(9)) / 1e9:.1f} GB/s read and written at best\n")
    print(f"| type | ggml, M/s | {' | '.join(names)} | ours ({names[0]}), M/s | of copy |")
    print("|" + " --- |" * (len(names) + 4))
    for row in modelfmt.types():
        if row.block_elements == 1 or row.name in NO_PEER or (wanted and row.name not in wanted):
            continue
        if not given.dequantize and row.needs_importance and not given.importance:
            continue
        make = (
            partial(decoding, row.name)
            if given.dequantize
            else partial(encoding, row.name, source=given.source, weighted=given.importance)
        )
        print(f"| {row.name} | {' | '.join(measured(make, levels, given.rounds, given.rows))} |", flush=True)


def _ids() -> dict[str, int]:
    return {row[0]: row[1] for row in _kernels.types()}


if __name__ == "__main__":
    main()
