"""Names of integer types: weights rounded to the nearest integer under a scale for each block of a row.

int4, int8: symmetric, the zero is the middle of the range. uint4, uint8: each block has a zero of its own. A block has
32 columns where the name does not say: int4:128.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Integers", "parse"]

BLOCKS = (16, 32, 64, 128, 256)
_NAME = re.compile(rf"(u?)int([48])(?:[:-]({'|'.join(map(str, BLOCKS))}))?", re.IGNORECASE)


class Integers(NamedTuple):
    """bits: of a code. block: columns that share a scale. symmetric: without zeros of their own."""

    bits: int
    block: int = 32
    symmetric: bool = True

    def __str__(self) -> str:
        """The name, as it may stand in that of a file."""
        return f"{'' if self.symmetric else 'u'}int{self.bits}-{self.block}"

    def within(self, n_cols: int) -> Integers | None:
        """The same in the largest block, at most this one, that divides a row; None where none does."""
        block = next((block for block in reversed(BLOCKS) if block <= self.block and n_cols % block == 0), None)
        return None if block is None else self._replace(block=block)


def parse(name: str) -> Integers | None:
    """The type of a name; None where it is none.

    >>> str(parse("int4")), parse("uint8:128"), parse("Q4_0")
    ('int4-32', Integers(bits=8, block=128, symmetric=False), None)
    """
    found = _NAME.fullmatch(name.strip())
    return None if found is None else Integers(int(found[2]), int(found[3] or 32), not found[1])
