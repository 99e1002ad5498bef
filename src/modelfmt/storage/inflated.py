"""Compressed streams that are inflated while they are read: zlib, gzip, bzip2, xz, lzma, lz4, deflated members of zips.

Nothing is held but a window: a reader that goes forward, as the executor does, inflates once and in bounded memory,
whatever the stream becomes; one that goes back beyond the window starts again. What a stream may become is bounded by
its own size. Sources: RFC 1950 to 1952, the formats of bzip2 and xz, LZ4's frame format 1.6.4 (storage.lz4).
"""

from __future__ import annotations

import bz2
import lzma
import threading
import zlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError
from modelfmt.storage.lz4 import Lz4Decoder
from modelfmt.storage.region import Region

__all__ = ["CODECS", "Inflated", "codec_of", "inflated"]

WINDOW = 64 << 20
"""Bytes that stay in memory behind the reader."""
GRANTED = 64 << 20
RATIO = 256
"""A stream of n bytes may become GRANTED + RATIO * n bytes."""
_CHUNK = 1 << 20
_INPUT = 1 << 16


class Decoder(Protocol):
    """What zlib, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool:
        """True once the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """Input behind the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Output of at most max_length bytes; input that is not used yet is kept."""


class _Zlib:
    """zlib's decoder, which hands input back, as one that keeps it."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


CODECS: dict[str, tuple[tuple[bytes, ...], Callable[[], Decoder]]] = {
    "gzip": ((b"\x1f\x8b\x08",), lambda: _Zlib(31)),
    "zlib": ((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), lambda: _Zlib(15)),
    "bz2": ((b"BZh",), bz2.BZ2Decompressor),
    "xz": ((b"\xfd7zXZ\0",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)),
    "lzma": ((b"\x5d\0\0",), lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20)),
    "lz4": ((b"\x04\x22\x4d\x18",), Lz4Decoder),
    "deflate": ((), lambda: _Zlib(-15)),
}
"""Compression -> first bytes, and a new decoder."""
_MANY = frozenset({"gzip", "bz2", "xz", "lz4"})
"""Compressions whose streams may follow one another."""


def codec_of(head: bytes) -> str | None:
    """The compression that the first bytes of a file speak of."""
    return next((name for name, (magics, _) in CODECS.items() if magics and head.startswith(magics)), None)


def inflated(region: Region, codec: str, name: str) -> Region:
    """A whole compressed stream as a region, once it has been gone through to learn its size.

    name: what it is registered under. Raises CorruptFile, LimitExceeded.
    """
    source = Inflated(region, codec)
    source.measure()
    files = region.files
    return Region.whole(files.attach(name, source), files)


class Inflated:
    """A compressed stream as a source of `Files`. size: of what it becomes; known beforehand, or after `measure`.

    crc: the CRC-32 that the whole must have, compared whenever the end is reached.
    """

    def __init__(self, region: Region, codec: str, *, size: int | None = None, crc: int | None = None) -> None:
        self.region = region
        self.codec = codec
        self.limit = GRANTED + RATIO * region.size if size is None else size
        self.size = size or 0
        self._known = size is not None
        self._crc = crc
        self._lock = threading.Lock()
        self._restart()

    def measure(self) -> None:
        """Go through the stream once. Raises CorruptFile, LimitExceeded."""
        with self._lock:
            while self._step():
                pass
            self.size, self._known = self._at, True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer from `offset` on. Raises CorruptFile where the stream is damaged."""
        with self._lock:
            if offset < self._at - self._held:
                self._restart()
            done = 0
            while done < len(buffer):
                while self._at <= offset + done:
                    if not self._step():
                        raise self._corrupt("a compressed stream ends before its data", f"{self._at} bytes")
                done += self._copy(offset + done, buffer[done:])
            while offset + done == self.size and self._step():
                pass  # size and checksum are looked at behind the last byte

    def forget(self) -> None:
        """Give the window back, unless another thread is reading."""
        if self._lock.acquire(blocking=False):
            try:
                self._restart()
            finally:
                self._lock.release()

    def _copy(self, offset: int, buffer: memoryview) -> int:
        """What the window has from `offset` on."""
        begin, done = self._at - self._held, 0
        for chunk in self._chunks:
            first = offset + done - begin
            if 0 <= first < len(chunk):
                piece = memoryview(chunk)[first : first + len(buffer) - done]
                buffer[done : done + len(piece)] = piece
                done += len(piece)
                if done == len(buffer):
                    break
            begin += len(chunk)
        return done

    def _restart(self) -> None:
        self._decoder = CODECS[self.codec][1]()
        self._next = 0
        self._at = 0
        self._held = 0
        self._chunks: deque[bytes] = deque()
        self._sum = 0
        self._spare = b""
        self._ended = False

    def _step(self) -> bool:
        """Inflate another chunk into the window; False at the end of the stream."""
        chunk = b""
        while not chunk and not self._ended:
            chunk = self._decoded()
        if not chunk:
            return False
        self._at += len(chunk)
        if self._at > self.limit:
            raise LimitExceeded(
                "a compressed stream becomes too long",
                code="inflated-size",
                path=self.region.path,
                place=f"byte {self.region.start}",
                found=f"more than {self.limit} bytes",
                allowed=f"{GRANTED} bytes and {RATIO} for each compressed one" if not self._known else self.limit,
            )
        self._sum = zlib.crc32(chunk, self._sum) if self._crc is not None else 0
        self._chunks.append(chunk)
        self._held += len(chunk)
        while self._held - len(self._chunks[0]) > WINDOW:
            self._held -= len(self._chunks.popleft())
        return True

    def _decoded(self) -> bytes:
        """Some output; none where the decoder wants more input, and at the end."""
        if self._decoder.eof:
            self._finish()
            return b""
        data = self._spare or self._input()
        self._spare = b""
        try:
            chunk = self._decoder.decompress(data, _CHUNK)
        except ModelfmtError:
            raise
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
            raise self._corrupt("a compressed stream is damaged", str(error)) from None
        if not chunk and not data and not self._decoder.eof:
            raise self._corrupt("a compressed stream is cut off", f"{self.region.size} bytes")
        return chunk

    def _input(self) -> bytes:
        size = min(_INPUT, self.region.size - self._next)
        data = self.region.read(self._next, size)
        self._next += size
        return data

    def _finish(self) -> None:
        """The end of a stream: another one may follow; anything else may not."""
        rest = self._decoder.unused_data or (self._input() if self._next < self.region.size else b"")
        if rest and self.codec in _MANY and rest.startswith(CODECS[self.codec][0]):
            self._decoder, self._spare = CODECS[self.codec][1](), rest
            return
        if rest:
            raise self._corrupt("bytes follow a compressed stream", rest[:16], "data-size")
        if self._known and self._at != self.size:
            raise self._corrupt("a member inflates to another size", self._at, "zip-inflate")
        if self._crc is not None and self._sum != self._crc:
            raise self._corrupt("the checksum does not fit the data", self.codec, "zip-crc")
        self._ended = True

    def _corrupt(self, message: str, found: object, code: str = "inflate") -> CorruptFile:
        return CorruptFile(
            message,
            code=code,
            path=self.region.path,
            place=f"byte {self.region.start + self._next}",
            found=found,
            hint="the download may be incomplete",
        )
