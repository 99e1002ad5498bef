"""Products of low rank and lengths of rows, at every level this CPU runs: against float64, and bit for bit against a
loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelfmt import _kernels as kernels

Array = NDArray[Any]
SIZES = [(1, 1, 1), (3, 5, 2), (4, 16, 4), (7, 33, 3), (9, 300, 17), (5, 1030, 40), (6, 64, 0), (0, 8, 2), (130, 7, 64)]


def factors(n_rows: int, n_cols: int, rank: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(n_rows * 7 + n_cols)
    shapes = ((rank, n_cols), (n_rows, rank), (n_rows, n_cols))
    a, b, sums = (random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return a, b, sums


@pytest.mark.parametrize("size", SIZES)
def test_each_element_is_summed_in_the_order_of_the_rank(level: str, size: tuple[int, int, int]) -> None:
    a, b, sums = factors(*size)
    expected = sums.copy()
    for k in range(size[2]):
        expected += b[:, k, None] * a[k]
    kernels.add_product(a, b, sums, *size)
    assert sums.tobytes() == expected.tobytes()


def test_cuts_do_not_matter(level: str) -> None:
    a, b, start = factors(21, 157, 24)
    whole = start.copy()
    kernels.add_product(a, b, whole, 21, 157, 24)
    pieces = start.copy()
    for row in range(0, 21, 5):
        for k in range(0, 24, 7):
            part = pieces[row : row + 5]
            kernels.add_product(a[k : k + 7], b[row : row + 5, k : k + 7].copy(), part, *part.shape, len(a[k : k + 7]))
    assert pieces.tobytes() == whole.tobytes()
    columns = start[:, 3:40].copy()
    kernels.add_product(a[:, 3:40].copy(), b, columns, 21, 37, 24)
    assert columns.tobytes() == whole[:, 3:40].tobytes()


@pytest.mark.parametrize("n_cols", [0, 1, 15, 16, 17, 1000])
def test_lengths_are_those_of_float64(level: str, n_cols: int) -> None:
    x = np.random.default_rng(n_cols).standard_normal((5, n_cols), dtype=np.float32)
    found = np.full(5, -1, np.float32)
    kernels.row_lengths(x, found, 5, n_cols)
    np.testing.assert_allclose(found, np.linalg.norm(x.astype(np.float64), axis=1), rtol=1e-7)


def test_levels_give_the_same_lengths() -> None:
    x = np.random.default_rng(2).standard_normal((64, 999), dtype=np.float32) * 1e3
    found = set()
    for name in kernels.isa_levels():
        before = kernels.isa()
        kernels.set_isa(name)
        lengths = np.empty(64, np.float32)
        kernels.row_lengths(x, lengths, 64, 999)
        kernels.set_isa(before)
        found.add(lengths.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("change", ["a", "b", "sums", "negative", "huge", "overlap", "unaligned"])
def test_lengths_of_buffers_are_checked(change: str) -> None:
    a, b, sums = factors(4, 8, 2)
    buffers: dict[str, Any] = {"a": a, "b": b, "sums": sums}
    sizes = (4, 8, 2)
    if change in buffers:
        buffers[change] = buffers[change][:-1]
    elif change == "negative":
        sizes = (4, -8, 2)
    elif change == "huge":
        sizes = (2**62, 2**62, 2)
    elif change == "overlap":
        buffers["a"] = buffers["sums"][:2]
    else:
        buffers["a"] = np.zeros(65, np.uint8)[1:]
    with pytest.raises(ValueError, match=r"bytes|negative|overlap|aligned"):
        kernels.add_product(*buffers.values(), *sizes)
