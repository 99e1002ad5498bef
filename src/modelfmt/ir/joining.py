"""A tensor from the boxes that it was cut into: rows one after another where that is all, else boxes by their place."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import ShapeError
from modelfmt.ir.boxes import misplaced
from modelfmt.ir.ops import Concat, Constant, Expression, Leaf, Reshape, Tiled

__all__ = ["Piece", "joined"]

Piece = tuple[tuple[int, ...], Expression]
"""The index of its first element in the whole, and what it holds."""


def joined(shape: tuple[int, ...], pieces: Sequence[Piece], encoding: str) -> Expression:
    """One expression from boxes of a tensor. A box that is there twice (replicas) counts once, the first.

    encoding: what all must have. Raises ShapeError: boxes of another encoding, gaps, overlaps, boxes outside.

    >>> top, bottom = Leaf("a", 0, (2, 3), "F32"), Leaf("b", 0, (1, 3), "F32")
    >>> joined((3, 3), [((2, 0), bottom), ((0, 0), top)], "F32").shape
    (3, 3)
    """
    held: dict[tuple[object, object], Piece] = {}
    for offset, expr in pieces:
        if expr.stored.name != encoding:
            raise ShapeError("a part in another encoding", code="tiles", found=expr.stored.name, allowed=encoding)
        if 0 not in expr.shape:
            held.setdefault((offset, expr.shape), (offset, expr))
    kept = sorted(held.values(), key=lambda piece: piece[0])
    if (fault := misplaced(shape, [(offset, expr.shape) for offset, expr in kept])) is not None:
        raise ShapeError("parts do not make up the tensor", code="tiles", found=fault, allowed=shape)
    if 0 in shape:
        return Constant(b"", shape, encoding)
    parts = tuple(expr for _, expr in kept)
    if len(parts) == 1:
        return parts[0]
    if len(shape) == 1:
        return Reshape(Concat(tuple(_column(part) for part in parts)), shape)
    if all(part.shape[1:] == shape[1:] for part in parts):
        return Concat(parts)
    return Tiled(shape, parts, tuple(offset for offset, _ in kept))


def _column(part: Expression) -> Expression:
    """A vector as a matrix of one column, so that it has as many rows as elements."""
    if isinstance(part, Leaf):
        return Leaf(part.file, part.offset, (*part.shape, 1), part.encoding, part.big)
    return Reshape(part, (*part.shape, 1))
