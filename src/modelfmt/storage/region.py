"""A part of a file: an archive's member, a pickle inside a pickle, or the whole. Offsets count from its start."""

from __future__ import annotations

import msgspec

from modelfmt.errors import CorruptFile
from modelfmt.storage.files import Files

__all__ = ["Region"]


class Region(msgspec.Struct, frozen=True):
    """`size` bytes of the file `path` from `start` on."""

    files: Files
    path: str
    start: int
    size: int

    @classmethod
    def whole(cls, path: str, files: Files) -> Region:
        """All of a file. Raises SourceMissing."""
        return cls(files, path, 0, files.size(path))

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on. Raises CorruptFile where the region ends before."""
        self._check(offset, size)
        return self.files.read(self.path, self.start + offset, size)

    def part(self, offset: int, size: int) -> Region:
        """A region inside this one. Raises CorruptFile where it would reach past the end."""
        self._check(offset, size)
        return Region(self.files, self.path, self.start + offset, size)

    def _check(self, offset: int, size: int) -> None:
        if min(offset, size) < 0 or offset + size > self.size:
            raise CorruptFile(
                "the file ends before the data it promises",
                code="file-short",
                path=self.path,
                place=f"byte {self.start + offset}",
                found=f"{max(self.size - offset, 0)} bytes",
                allowed=f"{size} bytes",
                hint="the download may be incomplete",
            )
