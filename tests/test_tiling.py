"""Jobs of codes that move: the same rows wherever a job begins, and no more memory than the plan says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from modelfmt import grids, tiling
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Concat, Expression, Leaf, Packed, Param, RopePermute, geometry, row_bytes
from modelfmt.storage import buffers
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

GROUP = 128


def four_bits(folder: Path, n_rows: int, n_cols: int, lay: str) -> Coded:
    """Codes under scales of one half to two: rows of words, or AWQ's columns of them."""
    rng = np.random.default_rng(n_rows)
    crosses = lay == "columns"
    codes, scales = (n_cols, n_rows // 8) if crosses else (n_rows, n_cols // 8), (n_rows, n_cols // GROUP)
    rng.integers(0, 1 << 32, codes, np.uint32).tofile(folder / "codes")
    (2.0 ** rng.integers(-1, 2, scales)).astype(np.float16).tofile(folder / "scales")
    packing = Packing(4, "columns", "awq") if crosses else Packing(4)
    scale = Param(Leaf(str(folder / "scales"), 0, scales, "F16"), group=GROUP)
    leaf = Leaf(str(folder / "codes"), 0, codes, "I32")
    return Coded(leaf, packing, (n_rows, n_cols), "U4", GROUP, (scale,), 8.0)


@pytest.mark.parametrize("lay", ["rows", "columns"])
@pytest.mark.parametrize(("heads", "target"), [(40, "F32"), (200, "F32"), (40, "Q8_0")])
def test_a_job_may_begin_with_any_head(tmp_path: Path, lay: str, heads: int, target: str) -> None:
    """Also where heads do not end with words of eight rows."""
    source = RopePermute(four_bits(tmp_path, 4000, 512, lay), heads)
    moved = grids.blocks_of(source, target)
    assert moved is not None
    reader = Evaluator(Files())
    values = reader.values(source.input, 0, 4000).reshape(heads, 2, -1, 512).swapaxes(1, 2).reshape(4000, 512)
    for start in (0, source.head_rows, 17 * source.head_rows):
        slabs = [slab.copy() for slab in grids.slabs(moved, start, 4000, reader)]
        found = grids.doubles(np.concatenate(slabs), target, 512)
        assert np.array_equal(found, values[start:])


@pytest.mark.parametrize(
    ("lay", "n_rows", "n_cols", "heads", "target"),
    [
        ("columns", 1024, 8192, 0, "Q5_0"),
        ("columns", 1024, 16384, 0, "F32"),
        ("columns", 4000, 2048, 20, "Q8_0"),
        ("rows", 3200, 8192, 32, "F32"),
        ("rows", 512, 32768, 0, "F16"),
    ],
)
def test_slabs_are_no_larger_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lay: str, n_rows: int, n_cols: int, heads: int, target: str
) -> None:
    coded = four_bits(tmp_path, n_rows, n_cols, lay)
    source = RopePermute(coded, heads) if heads else coded
    moved = grids.blocks_of(source, target)
    assert moved is not None
    n = min(tiling.rows(source, moved, tiling.ELEMENTS, measured=False), n_rows)
    written = ENCODINGS[target].row_bytes(n_cols)
    monkeypatch.setattr(buffers, "KEPT", 0)
    reader = Evaluator(Files())
    tracemalloc.start()
    for slab in grids.slabs(moved, 0, n, reader):
        assert slab.shape[1] == written
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < tiling.held(source, moved, n, written)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("lay", ["columns", "words"])
def test_words_across_are_no_larger_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lay: str, joined: bool
) -> None:
    """joined: what has to be made as rows of a grid first."""
    coded = four_bits(tmp_path, 1024, 2048, "rows")
    source: Expression = Concat((coded, coded)) if joined else coded
    expr = Packed(source, Packing(4, "columns", "awq") if lay == "columns" else Packing(4, "words"), "I32")
    n = min(tiling.rows(expr, None, tiling.ELEMENTS, measured=False), geometry(expr.shape, expr.stored)[0])
    monkeypatch.setattr(buffers, "KEPT", 0)
    reader = Evaluator(Files())
    tracemalloc.start()
    reader.rows(expr, 0, n)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < tiling.held(expr, None, n, row_bytes(expr))
