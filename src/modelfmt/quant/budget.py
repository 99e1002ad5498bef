"""Spends a number of bytes on tensors so that the errors that are left sum up to as little as possible.

Each tensor has options, a size and an error each. Of these only the lower convex hull is worth having; along it the
steps of all tensors are taken in the order of what a byte gains, which is the Lagrangian's solution for every budget
that it meets exactly (Everett 1963; Shoham and Gersho 1988). What is left of the budget is then spent on whichever
single change still fits and gains most. Sizes are whole numbers and ties go by order: the outcome is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

__all__ = ["Option", "spend"]


class Option(msgspec.Struct, frozen=True):
    """One way to store a tensor. size: bytes. error: what the sum over all tensors is made of."""

    name: str
    size: int
    error: float


def spend(tensors: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option for each tensor, within the budget.

    The smallest options must fit: the caller checks that.

    >>> both = [Option("small", 1, 8.0), Option("large", 3, 1.0)]
    >>> [option.name for option in spend([both, [Option("small", 1, 4.0), Option("large", 3, 1.0)]], 5)]
    ['large', 'small']
    """
    hulls = [_hull(options) for options in tensors]
    steps = [
        ((now.error - then.error) / (then.size - now.size), tensor, at)
        for tensor, hull in enumerate(hulls)
        for at, (now, then) in enumerate(pairwise(hull))
    ]
    chosen = [0] * len(hulls)
    left = budget - sum(hull[0].size for hull in hulls)
    for _, tensor, at in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        more = hulls[tensor][at + 1].size - hulls[tensor][at].size
        if chosen[tensor] == at and more <= left:
            chosen[tensor], left = at + 1, left - more
    return _filled(tensors, [hull[at] for hull, at in zip(hulls, chosen, strict=True)], left)


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, by size: each step gains less for a byte than the one before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.size, option.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain(smaller: Option, larger: Option) -> float:
    return (smaller.error - larger.error) / (larger.size - smaller.size)


def _filled(tensors: Sequence[Sequence[Option]], chosen: list[Option], left: int) -> list[Option]:
    """The choice with the rest of the budget spent, options inside the hull included."""
    while True:
        found = [
            (now.error - option.error, -at, option)
            for at, (options, now) in enumerate(zip(tensors, chosen, strict=True))
            for option in options
            if now.size < option.size <= now.size + left and option.error < now.error
        ]
        if not found:
            return chosen
        _, at, option = max(found, key=lambda row: (row[0], row[1], -row[2].size))
        left -= option.size - chosen[-at].size
        chosen[-at] = option
