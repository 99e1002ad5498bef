"""Boxes of an array: which of them a range of positions is, and whether some make up the whole."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

__all__ = ["MAX_PARTS", "boxes", "misplaced"]

MAX_PARTS = 1 << 14
"""Boxes that one tensor may be cut into."""


def boxes(start: int, stop: int, sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The positions start..stop of an array of `sizes`, in row-major order, as (first index, size) of whole boxes.

    >>> list(boxes(1, 6, (3, 2)))
    [((0, 1), (1, 1)), ((1, 0), (2, 2))]
    """
    if start >= stop:
        return
    if not sizes:
        yield (), ()
        return
    inner = prod(sizes[1:])
    (first, before), (last, after) = divmod(start, inner), divmod(stop, inner)
    if before:
        end = min(inner, before + stop - start)
        yield from (((first, *at), (1, *size)) for at, size in boxes(before, end, sizes[1:]))
        first += 1
    if first < last:
        yield (first, *(0 for _ in sizes[1:])), (last - first, *sizes[1:])
    if after and last >= first:
        yield from (((last, *at), (1, *size)) for at, size in boxes(0, after, sizes[1:]))


def misplaced(shape: tuple[int, ...], parts: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> object:
    """What is wrong with boxes (offset, size) that are to make up an array without gap or overlap; None for nothing.

    >>> misplaced((4, 6), [((0, 0), (4, 2)), ((0, 2), (4, 4))])
    >>> misplaced((4, 6), [((0, 0), (4, 2)), ((0, 1), (4, 4))])
    'parts overlap at (0, 1)'
    """
    import numpy as np

    if len(parts) > MAX_PARTS:
        return f"{len(parts)} parts, more than {MAX_PARTS}"
    for offset, size in parts:
        inside = len(offset) == len(size) == len(shape) and min((*offset, *size), default=0) >= 0
        if not inside or any(o + n > whole for o, n, whole in zip(offset, size, shape, strict=True)):
            return f"a part of {size} at {offset}"
    ordered = sorted((part for part in parts if 0 not in part[1]), key=lambda part: part[0])
    low = np.array([offset for offset, _ in ordered], np.int64).reshape(len(ordered), len(shape))
    high = low + np.array([size for _, size in ordered], np.int64).reshape(low.shape)
    for i in range(len(ordered) if shape else 0):
        until = int(np.searchsorted(low[:, 0], high[i, 0]))
        meets = (np.maximum(low[i], low[i + 1 : until]) < np.minimum(high[i], high[i + 1 : until])).all(axis=1)
        if meets.any():
            return f"parts overlap at {ordered[i + 1 + int(meets.argmax())][0]}"
    held = sum(prod(size) for _, size in ordered)
    return None if held == prod(shape) else f"{held} of {prod(shape)} elements"
