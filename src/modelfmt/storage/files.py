"""Reading bytes at offsets: local files by `pread`, and buffers registered under a name.

A file that turns out shorter than it was when it was opened is an error, never a crash: nothing is mapped into memory.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

import msgspec

from modelfmt.errors import CorruptFile, SourceMissing

__all__ = ["Files", "Fingerprint", "Source"]


KEPT_SOURCES = 2
"""Attached sources that may hold memory at a time."""


class Fingerprint(msgspec.Struct, frozen=True):
    """What tells that a source file is still the one that was planned for."""

    size: int
    mtime_ns: int
    inode: int


class Source(Protocol):
    """Bytes that are made while they are read (a compressed stream)."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer from `offset` on; what is asked for lies inside. Safe to call from several threads."""

    def forget(self) -> None:
        """Give back the memory that only makes the next read faster."""


class Files:
    """A pool of sources opened for reading, safe to use from several threads."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, int]] = {}
        self._memory: dict[str, memoryview] = {}
        self._sources: dict[str, Source] = {}
        self._recent: dict[str, None] = {}
        self._lock = threading.Lock()

    def register(self, name: str, buffer: Any) -> str:
        """Make a buffer readable under a name; returns the name."""
        self._memory[name] = memoryview(buffer).cast("B")
        return name

    def attach(self, name: str, source: Source) -> str:
        """Make a source readable under a name; returns the name."""
        self._sources[name] = source
        return name

    def size(self, path: str) -> int:
        """Size of a source in bytes. Raises SourceMissing."""
        if path in self._sources:
            return self._sources[path].size
        if path in self._memory:
            return len(self._memory[path])
        return self._handle(path)[1]

    def fingerprint(self, path: str) -> Fingerprint:
        """Size, modification time and inode of an open source."""
        if path in self._sources:
            return Fingerprint(self._sources[path].size, 0, 0)
        if path in self._memory:
            return Fingerprint(len(self._memory[path]), 0, 0)
        status = os.fstat(self._handle(path)[0])
        return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on. Raises CorruptFile where the file ends before."""
        available = max(self.size(path) - offset, 0)
        if offset < 0 or size < 0 or size > available:
            raise _short(path, offset, size, available)
        buffer = bytearray(size)
        self.read_into(path, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        """Fill buffer from `offset` on. Raises CorruptFile where the file ends before."""
        wanted = len(buffer)
        if path in self._memory:
            source = self._memory[path][offset : offset + wanted]
            if len(source) < wanted:
                raise _short(path, offset, wanted, len(source))
            buffer[:] = source
            return
        if path in self._sources:
            found = self._sources[path]
            if offset < 0 or offset + wanted > found.size:
                raise _short(path, offset, wanted, max(0, found.size - offset))
            found.read_into(offset, buffer)
            self._used(path)
            return
        handle, _ = self._handle(path)
        done = 0
        while done < wanted:
            try:
                count = os.preadv(handle, [buffer[done:]], offset + done)
            except OSError as error:
                raise SourceMissing(
                    "reading failed", code="read-failed", path=path, place=f"byte {offset + done}", found=error.strerror
                ) from error
            if count == 0:
                raise _short(path, offset, wanted, done)
            done += count

    def handle(self, path: str) -> int | None:
        """The descriptor of a local file, for copies inside the kernel; None for a buffer."""
        return None if path in self._memory or path in self._sources else self._handle(path)[0]

    def close(self) -> None:
        """Close every descriptor; the pool can be used again and opens anew."""
        with self._lock:
            for handle, _ in self._open.values():
                os.close(handle)
            self._open.clear()

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()

    def _used(self, path: str) -> None:
        """Of the attached sources, only those that were read last keep their windows."""
        with self._lock:
            self._recent.pop(path, None)
            self._recent[path] = None
            if len(self._recent) <= KEPT_SOURCES:
                return
            oldest = next(iter(self._recent))
            del self._recent[oldest]
        self._sources[oldest].forget()

    def _handle(self, path: str) -> tuple[int, int]:
        found = self._open.get(path)
        if found is not None:
            return found
        with self._lock:
            if path not in self._open:
                self._open[path] = _open(path)
            return self._open[path]


def _open(path: str) -> tuple[int, int]:
    import stat

    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise SourceMissing(
            "cannot open the file", path=path, found=getattr(error, "strerror", None) or str(error)
        ) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise SourceMissing("not a regular file", code="not-a-file", path=path, found=stat.filemode(status.st_mode))
    return handle, status.st_size


def _short(path: str, offset: int, wanted: int, available: int) -> CorruptFile:
    return CorruptFile(
        "the file ends before the data it promises",
        code="file-short",
        path=path,
        place=f"byte {offset}",
        found=f"{available} bytes",
        allowed=f"{wanted} bytes",
        hint="the download may be incomplete, or the file was changed while it was read",
    )
