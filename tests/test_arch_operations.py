"""The operations of the tables: exact inverses, orders of heads, quantized rows."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

from modelfmt.archs.specs import (
    Add,
    Behind,
    Grouped,
    Heads,
    Indices,
    NegExp,
    Padded,
    Part,
    Permute,
    Reshaped,
    Scaled,
    Sharded,
    Stacked,
    Tiled,
    Transposed,
    Ungrouped,
    backward,
    before,
    forward,
    joined,
    reassembled,
    sources_of,
)
from modelfmt.errors import BadValue
from modelfmt.ir.ops import Leaf
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (Permute("heads"), (16, 3)),
        (Permute("heads"), (16,)),
        (Add(1.0), (5,)),
        (Transposed(), (4, 6)),
        (Transposed(), (6,)),
        (Stacked("heads"), (3, 5)),
        (Sharded("2*3", "heads"), (3, 5)),
        (Heads("heads"), (6, 5)),
        (Reshaped(("1", "5"), ("5",)), (1, 5)),
        (Padded("3", "7"), (3, 5)),
        (Ungrouped("heads"), (18, 5)),
        (Ungrouped("heads", "heads"), (24, 5)),
        (Ungrouped("heads", "heads"), (24,)),
        (Permute("heads", "4"), (12, 3)),
        (Permute("heads", "4"), (12,)),
        (Permute("heads", "4", halves=True), (12, 3)),
        (NegExp(), (5, 3)),
        (Scaled("heads", -0.5), (4, 3)),
        (Scaled("heads", sections=(("1", "heads"), ("3", "heads"))), (4, 3)),
        (Reshaped(("4", "1", "3"), ("4", "3")), (4, 1, 3)),
        (Tiled("heads", "3"), (12, 5)),
        (Tiled("heads", "3"), (6,)),
        (Tiled("heads", "3", before="2"), (14, 5)),
        (Tiled("heads", "3", axis=1), (5, 12)),
    ],
)
def test_operations_have_exact_inverses(spec: Any, shape: tuple[int, ...]) -> None:
    files = Files()
    reader = Evaluator(files)
    count = 2 if isinstance(spec, Stacked | Sharded) else 1
    values = [np.linspace(0, 1, prod(shape), dtype=np.float32).round(3) + index for index in range(count)]
    files.register("w", b"".join(part.tobytes() for part in values))
    parts = tuple(Leaf("w", index * 4 * prod(shape), shape, "F32") for index in range(count))
    scope = {"heads": 2}
    there = forward(spec, parts, scope, 0)
    if len(shape) > 1:
        assert before(spec, there.shape, scope) == shape
    back = backward(spec, there, scope, 0)
    assert [part.shape for part in back] == [shape] * count
    for part, value in zip(back, values, strict=True):
        read = reader.values(part, 0, prod(shape[:-1]))
        computed = isinstance(spec, Add | NegExp | Scaled)
        np.testing.assert_allclose(read.reshape(-1), value, atol=2e-7 if computed else 0)


@pytest.mark.parametrize("width", ["I32", "I64"])
def test_indices_are_numbers_of_32_bits_in_the_file_that_nothing_exceeds(width: str) -> None:
    files, values = Files(), np.array([[0, 3], [2, 1]])
    files.register("w", values.astype(width.replace("I", "int")).tobytes())
    leaf, reader = Leaf("w", 0, (2, 2), width), Evaluator(files)
    there = forward(Indices("count"), (leaf,), {"count": 4}, 0)
    assert reader.rows(there, 0, 2).tobytes() == values.astype("<i4").tobytes()
    (back,) = backward(Indices("count"), there, {"count": 4}, 0)
    assert reader.rows(back, 1, 2).tobytes() == values[1:].astype("<i8").tobytes()
    with pytest.raises(BadValue, match="no index") as caught:
        reader.rows(forward(Indices("count"), (leaf,), {"count": 3}, 0), 0, 2)
    assert caught.value.found == 3 and (caught.value.context["row"], caught.value.context["column"]) == (0, 1)
    with pytest.raises(BadValue, match="not whole numbers"):
        forward(Indices("count"), (Leaf("w", 0, (2, 2), "F32"),), {"count": 4}, 0)


def test_queries_keys_and_values_of_groups_are_sorted() -> None:
    files = Files()
    files.register("w", np.arange(16, dtype=np.float32).tobytes())
    there = forward(Ungrouped("groups", "2"), (Leaf("w", 0, (8, 2), "F32"),), {"groups": 2}, 0)
    rows = Evaluator(files).values(there, 0, 8)[:, 0] / 2
    assert rows.tolist() == [0, 1, 4, 5, 2, 6, 3, 7]


@pytest.mark.parametrize(
    ("spec", "shape", "order"),
    [
        (Tiled("groups", "3"), (6, 1), [0, 3, 1, 4, 2, 5]),
        (Tiled("groups", "2", before="1"), (9, 1), [0, 1, 2, 5, 6, 3, 4, 7, 8]),
        (Tiled("groups", "2", axis=1), (2, 4), [0, 2, 1, 3, 4, 6, 5, 7]),
        (Permute("groups", "4"), (12, 1), [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]),
        (Permute("groups", halves=True), (12, 1), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]),
        (Grouped("groups", ("1", "2"), 0, 1), (6, 1), [0, 3]),
        (Grouped("groups", ("1", "2"), 1, 2), (6, 1), [1, 2, 4, 5]),
        (Grouped("groups", ("1", "2"), 0, 2), (6, 1), [0, 3, 1, 2, 4, 5]),
    ],
)
def test_heads_are_sorted(spec: Any, shape: tuple[int, int], order: list[int]) -> None:
    files = Files()
    files.register("w", np.arange(prod(shape), dtype=np.float32).tobytes())
    there = forward(spec, (Leaf("w", 0, shape, "F32"),), {"groups": 2}, 0)
    assert Evaluator(files).values(there, 0, there.shape[0]).reshape(-1).tolist() == order


def test_groups_are_put_together_again() -> None:
    files = Files()
    values = np.arange(2 * 7 * 3, dtype=np.float32)
    files.register("w", values.tobytes())
    whole, scope, sizes = Leaf("w", 0, (14, 3), "F32"), {"groups": 2}, ("1", "2", "4")
    specs = [Grouped("groups", sizes, 0, 2), Grouped("groups", sizes, 2, 3)]
    parts = {spec.start: (spec, forward(spec, (whole,), scope, 0)) for spec in specs}
    assert {before(spec, (part.shape[0] // 2, 3), scope) for spec, part in parts.values()} == {(14, 3)}
    again = reassembled(parts, scope, 0)
    np.testing.assert_array_equal(Evaluator(files).values(again, 0, 14).reshape(-1), values)


def test_tiles_are_made_of_quantized_rows() -> None:
    files = Files()
    blocks = np.random.default_rng(1).integers(0, 256, (6, 34), np.uint8)
    files.register("w", blocks.tobytes())
    there = forward(Tiled("groups", "3"), (Leaf("w", 0, (6, 32), "Q8_0"),), {"groups": 2}, 0)
    np.testing.assert_array_equal(Evaluator(files).rows(there, 1, 5), blocks[[3, 1, 4, 2]])


def test_rows_that_no_position_uses_come_back_as_zeros() -> None:
    files = Files()
    reader = Evaluator(files)
    files.register("w", np.arange(10, dtype=np.float32).tobytes())
    whole, scope = Leaf("w", 0, (5, 2), "F32"), {"pad": 1}
    there = forward(Behind("pad + 1"), (whole,), scope, 0)
    assert there.shape == (3, 2) and before(Behind("pad + 1"), there.shape, scope) == (5, 2)
    assert reader.values(there, 0, 3).tolist() == [[4, 5], [6, 7], [8, 9]]
    (back,) = backward(Behind("pad + 1"), there, scope, 0)
    assert reader.values(back, 0, 5).tolist() == [[0, 0], [0, 0], [4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("of", "every", "axis"),
    [(2, False, 0), (2, False, 1), (2, False, 2), (2, True, 0), (2, True, 1), (2, True, 2), (("1", "rest"), False, 1)],
)
def test_parts_are_put_together_again(of: Any, every: bool, axis: int) -> None:
    files = Files()
    values = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    files.register("w", values.tobytes())
    whole, scope, reader = Leaf("w", 0, values.shape, "F32"), {"rest": 5}, Evaluator(files)
    specs = [Part(index, of=of, axis=axis, every=every) for index in range(2)]
    parts = tuple(forward(spec, (whole,), scope, 0) for spec in specs)
    axes = np.moveaxis(values, axis, 0)
    expected = (axes[::2], axes[1::2]) if every else np.split(axes, [1 if of == ("1", "rest") else len(axes) // 2])
    for part, value in zip(parts, expected, strict=True):
        read = reader.values(part, 0, prod(part.shape[:-1])).reshape(part.shape)
        np.testing.assert_array_equal(read, np.moveaxis(value, 0, axis))
    assert {before(spec, part.shape, scope) for spec, part in zip(specs, parts, strict=True)} == {values.shape}
    again = joined(parts, axis, every=every)
    np.testing.assert_array_equal(reader.values(again, 0, 24).reshape(values.shape), values)


@pytest.mark.parametrize(("rows", "parts"), [(1280, 512), (9, 4), (9, 3), (8, 8), (1, 1), (7, 512)])
def test_shards_are_those_that_torch_makes_and_come_back(rows: int, parts: int) -> None:
    import torch

    values = np.arange(2 * rows, dtype=np.float32)
    chunks = [tuple(chunk.shape) for chunk in torch.chunk(torch.tensor(values).reshape(rows, 2), parts)]
    spec, scope = Sharded("rows", "parts"), {"rows": rows, "parts": parts}
    assert sources_of(spec, (rows, 2), scope) == chunks
    files = Files()
    files.register("w", values.tobytes())
    starts = np.cumsum([0] + [8 * size for size, _ in chunks])
    shards = tuple(Leaf("w", int(at), shape, "F32") for at, shape in zip(starts, chunks, strict=False))
    whole = forward(spec, shards, scope, 0)
    reader = Evaluator(files)
    assert (reader.values(whole, 0, rows).reshape(-1) == values).all()
    back = backward(spec, whole, scope, 0)
    assert [part.shape for part in back] == chunks
    made = [reader.values(part, 0, part.shape[0]).reshape(-1) for part in back]
    assert (np.concatenate(made) == values).all()
