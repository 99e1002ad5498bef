"""Archives one after another in one file, as the files of torch.distributed.checkpoint have them."""

from __future__ import annotations

from collections.abc import Iterator

from modelfmt.errors import ModelfmtError
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import Archive

__all__ = ["archives"]

MAX_FALSE = 64
"""Places that look like an end and are none; in the bytes of weights one is not to be expected."""
_END = b"PK\5\6"
_END_BYTES = 22
_BLOCK = 1 << 20


def archives(region: Region) -> list[Region]:
    """Where each archive lies, of a file that is nothing but complete archives; [] for any other file."""
    found: list[Region] = []
    at = false = 0
    for end in _ends(region):
        part = region.part(at, end - at)
        try:
            if Archive(part).comment:
                return []
        except ModelfmtError:
            false += 1
            if false > MAX_FALSE:
                return []
            continue
        found.append(part)
        at = end
    return found if at == region.size else []


def _ends(region: Region) -> Iterator[int]:
    """Offsets behind everything that looks like the end record of an archive without a comment."""
    for block in range(0, region.size, _BLOCK):
        data = region.read(block, min(_BLOCK + _END_BYTES - 1, region.size - block))
        at = data.find(_END)
        while 0 <= at < _BLOCK:
            if data[at + 20 : at + 22] == b"\0\0":
                yield block + at + _END_BYTES
            at = data.find(_END, at + 1)
