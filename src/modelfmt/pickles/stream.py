"""A pickle's bytes in order, through a window: what is long stays in the file."""

from __future__ import annotations

from modelfmt.errors import CorruptFile
from modelfmt.storage.region import Region

__all__ = ["Stream"]

WINDOW = 1 << 16
LINE_LIMIT = 1 << 20


class Stream:
    """Bytes of a region from `at` on. `buffer[pos]` is the next byte; `refill()` where the window is used up."""

    __slots__ = ("_next", "buffer", "pos", "region")

    def __init__(self, region: Region, at: int = 0) -> None:
        self.region = region
        self.buffer = b""
        self.pos = 0
        self._next = at

    @property
    def at(self) -> int:
        """Offset of the next byte in the region."""
        return self._next - len(self.buffer) + self.pos

    @property
    def left(self) -> int:
        """Bytes up to the end of the region."""
        return self.region.size - self.at

    def refill(self) -> None:
        """Read another window. Raises CorruptFile at the end of the region."""
        if self._next >= self.region.size:
            raise self.short(1)
        self.buffer = self.region.read(self._next, min(WINDOW, self.region.size - self._next))
        self.pos = 0
        self._next += len(self.buffer)

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises CorruptFile where the region ends before, without allocating them."""
        end = self.pos + size
        if end <= len(self.buffer):
            data = self.buffer[self.pos : end]
            self.pos = end
            return data
        if size > self.left:
            raise self.short(size)
        data = self.region.read(self.at, size)
        self.seek(self.at + size)
        return data

    def skip(self, size: int) -> Region:
        """The next `size` bytes as a region, unread."""
        if size > self.left:
            raise self.short(size)
        part = self.region.part(self.at, size)
        self.seek(self.at + size)
        return part

    def line(self) -> bytes:
        """Up to the next newline, without it."""
        end = self.buffer.find(b"\n", self.pos)
        if end < 0:
            begin = self.at
            text = self.region.read(begin, min(LINE_LIMIT, self.left))
            length = text.find(b"\n")
            if length < 0:
                raise self.short(len(text) + 1)
            self.seek(begin + length + 1)
            return text[:length]
        data = self.buffer[self.pos : end]
        self.pos = end + 1
        return data

    def seek(self, at: int) -> None:
        """Go on at an offset of the region."""
        self._next, self.buffer, self.pos = at, b"", 0

    def short(self, wanted: int) -> CorruptFile:
        """The error for a pickle that ends too early."""
        return CorruptFile(
            "the pickle is cut off",
            code="pickle-cut",
            path=self.region.path,
            place=f"byte {self.region.start + self.at}",
            found=f"{self.left} bytes",
            allowed=f"at least {wanted}",
            hint="the download may be incomplete",
        )
