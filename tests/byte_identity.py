"""Byte for byte llama.cpp's blocks: every type, kind of row, with and without importance, at every level of this CPU.

    python tests/byte_identity.py [--weights 1048576] [--types Q4_K,IQ1_S]

By hand, for the minutes that it takes; what pytest runs compares fewer weights in more ways. Each line compares as many
weights as asked for at each level, and prints in how many blocks a level's bytes differ from ggml_quantize_chunk's.
ggml ends the process where the sums of its lattice types overflow: those rows are counted apart, and there all levels
have to write the same. The last two kinds are read instead of written: the blocks of the heavy-tailed rows, and random
bytes, bit for bit as to_float reads them. The exit status is 1 if any block differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

import ggml
from quantizing import LARGEST, TYPES, Bytes, Floats, dequantize, levels, quantize

COLS = 4096
INTERNAL = ("Q8_1", "Q8_K")  # no importance, no to_float; tests/test_kernels_tables.py reads them in other ways
ABORTING = ("IQ1_", "IQ2_", "IQ3_")


def kinds(n_rows: int) -> Iterator[tuple[str, Floats]]:
    """Named rows [n_rows, COLS]."""
    rng = np.random.default_rng(71)
    shape, each = (n_rows, COLS), (n_rows, 1)
    yield "random", (rng.standard_normal(shape) * 0.03).astype(np.float32)
    yield "heavy-tailed", np.clip(rng.standard_t(2, shape) * 0.03, -LARGEST, LARGEST).astype(np.float32)
    yield "zero", np.broadcast_to(np.where(np.arange(n_rows) % 2, -0.0, 0.0)[:, None], shape).astype(np.float32)
    constants = rng.standard_normal(each) * 10.0 ** rng.uniform(-6, 6, each)
    yield "constant", np.broadcast_to(constants, shape).astype(np.float32)
    signs = rng.integers(0, 2, shape, dtype=np.uint32) << 31
    yield "denormal", (rng.integers(0, 2 ** rng.integers(1, 24, each), shape, dtype=np.uint32) | signs).view(np.float32)
    for name, least, most in (("large", 4, 17), ("huge", 17, 38.5)):
        x = rng.standard_normal(shape) * 10.0 ** rng.uniform(least, most, each)
        yield name, np.clip(x, -LARGEST, LARGEST).astype(np.float32)


def expected(type: str, x: Floats, weights: Floats | None) -> tuple[Bytes, Bytes]:
    """ggml's blocks of the rows of x, a row each, and for each row whether ggml answers at all."""
    _, type_id, elements, size, *_ = TYPES[type]
    answers = np.ones(len(x), bool)
    if type in INTERNAL:
        blocks: bytes | None = ggml.quantize_internal(type_id, x)
    elif type.startswith(ABORTING):
        blocks = ggml.quantize_or_abort(type_id, x, weights)
    else:
        blocks = ggml.quantize(type_id, x, weights)
    if blocks is not None:
        return np.frombuffer(blocks, np.uint8).reshape(len(x), -1), answers
    if len(x) == 1:
        return np.zeros((1, COLS // elements * size), np.uint8), ~answers
    halves = [expected(type, half, weights) for half in np.array_split(x, 2)]
    return np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])


def n_differing(type: str, found: Bytes, wanted: Bytes) -> int:
    return int((found != wanted).reshape(-1, TYPES[type][3]).any(axis=1).sum())


def written(type: str, x: Floats, weights: Floats | None) -> tuple[int, dict[str, int]]:
    """How many rows ggml does not answer for, and how many blocks differ at each level."""
    wanted, answers = expected(type, x, weights)
    wanted = wanted.copy()
    differing = {}
    for level in levels():
        found = quantize(type, x, weights).reshape(len(x), -1)
        if not differing:
            wanted[~answers] = found[~answers]
        differing[level] = n_differing(type, found, wanted)
    return int((~answers).sum()), differing


def read(type: str, blocks: Bytes) -> dict[str, int]:
    """How many blocks are not read as ggml reads them, at each level; NaN only has to be NaN."""
    wanted = ggml.dequantize(TYPES[type][1], blocks.tobytes())
    nan = np.isnan(wanted)
    differing = {}
    for level in levels():
        found = dequantize(type, blocks)
        wrong = np.where(nan, ~np.isnan(found), found.view(np.uint32) != wanted.view(np.uint32))
        differing[level] = int(wrong.reshape(-1, TYPES[type][2]).any(axis=1).sum())
    return differing


def lines(type: str, n_rows: int) -> Iterator[tuple[str, str, int, dict[str, int]]]:
    """What is compared of a type: importance, kind of row, rows ggml aborts on, differing blocks by level."""
    _, _, elements, size, _, _, needs_importance, *_ = TYPES[type]
    rng = np.random.default_rng(72)
    importance = rng.random(COLS, np.float32)
    for kind, x in kinds(n_rows):
        for weighted, weights in (("no", None), ("yes", importance)):
            if (weights is None and needs_importance) or (weights is not None and type in INTERNAL):
                continue
            yield (weighted, kind, *written(type, x, weights))
    if type in INTERNAL:
        return
    heavy = dict(kinds(n_rows))["heavy-tailed"]
    yield "", "heavy-tailed, read", 0, read(type, quantize(type, heavy, importance))
    random = rng.integers(0, 256, n_rows * COLS // elements * size, dtype=np.uint8)
    yield "", "random bytes, read", 0, read(type, random)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1 << 20, help="of every kind, at every level")
    parser.add_argument("--types", default="", help="comma-separated; default: all block types")
    given = parser.parse_args()
    wanted = [name for name in given.types.upper().split(",") if name]
    block_types = [name for name, row in TYPES.items() if row[2] > 1 and row[4]]
    if set(wanted) - set(block_types):
        parser.error(f"not a type: {', '.join(sorted(set(wanted) - set(block_types)))}")
    n_rows = -(-given.weights // COLS)
    level_names = list(levels())
    print(f"{n_rows * COLS} weights a line, {len(level_names)} levels; blocks that differ at each\n")
    print("| type | importance | rows | blocks | " + " | ".join(level_names) + " | rows ggml aborts on |")
    print("|" + " --- |" * (5 + len(level_names)))
    total, n_lines, began = 0, 0, time.monotonic()
    for name in wanted or block_types:
        for weighted, kind, aborted, differing in lines(name, n_rows):
            total, n_lines = total + sum(differing.values()), n_lines + 1
            counts = " | ".join(str(differing[level]) for level in level_names)
            n_blocks = n_rows * COLS // TYPES[name][2]
            print(f"| {name} | {weighted} | {kind} | {n_blocks} | {counts} | {aborted} |", flush=True)
    print(f"\n{n_lines} lines, {total} blocks differ, {time.monotonic() - began:.0f} s")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
