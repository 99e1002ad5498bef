"""Frames of LZ4, as joblib writes them: header, blocks (stored or compressed, linked or not), checksums.

Source: LZ4's frame format 1.6.4 and block format. Blocks are decoded in C (csrc/lz4.c), which checks every length;
checksums are xxHash32. A frame that needs a dictionary is refused.
"""

from __future__ import annotations

from modelfmt import _kernels

__all__ = ["Lz4Decoder"]

_MAGIC = b"\x04\x22\x4d\x18"
_HISTORY = 1 << 16
_BLOCK_SIZES = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 4 << 20}


class Lz4Decoder:
    """A decoder of one frame, with the interface of bz2's and lzma's. Raises ValueError where the frame is damaged."""

    def __init__(self) -> None:
        self.eof = False
        self.unused_data = b""
        self._input = bytearray()
        self._output = b""
        self._given = 0
        self._flags: int | None = None
        self._block = 0
        self._history = b""
        self._size: int | None = None
        self._made = 0
        self._hash = bytearray(_kernels.XXH32_STATE)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Output of at most max_length bytes; b"" where more input is needed, and at the end."""
        self._input += data
        while self._given == len(self._output) and not self.eof and self._next():
            pass
        chunk = self._output[self._given : self._given + max_length]
        self._given += len(chunk)
        return chunk

    def _next(self) -> bool:
        """Decode the header, or a block; False where the input does not hold it."""
        if self._flags is None:
            return self._header()
        if len(self._input) < 4:
            return False
        word = int.from_bytes(self._input[:4], "little")
        if word == 0:
            return self._end()
        length, stored = word & 0x7FFFFFFF, bool(word >> 31)
        if length > self._block:
            raise ValueError("a block is longer than the frame allows")
        whole = 4 + length + (4 if self._flags & 0x10 else 0)
        if len(self._input) < whole:
            return False
        raw = bytes(self._input[4 : 4 + length])
        if self._flags & 0x10 and _kernels.xxh32(raw) != int.from_bytes(self._input[4 + length : whole], "little"):
            raise ValueError("a block has a wrong checksum")
        del self._input[:whole]
        history = b"" if self._flags & 0x20 else self._history
        block = raw if stored else self._inflated(raw, history)
        self._made += len(block)
        if self._flags & 0x04:
            _kernels.xxh32_add(self._hash, block)
        if not self._flags & 0x20:
            self._history = (self._history + block)[-_HISTORY:] if len(block) < _HISTORY else block[-_HISTORY:]
        self._output, self._given = block, 0
        return not block

    def _inflated(self, raw: bytes, history: bytes) -> bytes:
        out = bytearray(self._block)
        made = _kernels.lz4_block(raw, history, out)
        return bytes(memoryview(out)[:made])

    def _header(self) -> bool:
        if len(self._input) < 7:
            return False
        flags, sizes = self._input[4], self._input[5]
        if bytes(self._input[:4]) != _MAGIC or flags >> 6 != 1 or flags & 0x03 or sizes & 0x8F:
            raise ValueError("not a frame of LZ4, or one with a dictionary")
        length = 7 + (8 if flags & 0x08 else 0)
        if len(self._input) < length:
            return False
        if _kernels.xxh32(bytes(self._input[4 : length - 1])) >> 8 & 0xFF != self._input[length - 1]:
            raise ValueError("the header has a wrong checksum")
        if sizes >> 4 not in _BLOCK_SIZES:
            raise ValueError("an unknown size of blocks")
        self._block = _BLOCK_SIZES[sizes >> 4]
        self._size = int.from_bytes(self._input[6:14], "little") if flags & 0x08 else None
        del self._input[:length]
        self._flags = flags
        return True

    def _end(self) -> bool:
        assert self._flags is not None
        whole = 8 if self._flags & 0x04 else 4
        if len(self._input) < whole:
            return False
        if self._flags & 0x04 and _kernels.xxh32(b"", self._hash) != int.from_bytes(self._input[4:8], "little"):
            raise ValueError("the content has a wrong checksum")
        if self._size is not None and self._size != self._made:
            raise ValueError("the frame has another size than its header says")
        del self._input[:whole]
        self.eof, self.unused_data = True, bytes(self._input)
        return False
