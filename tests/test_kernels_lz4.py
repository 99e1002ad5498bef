"""Blocks of LZ4 and XXH32: against a decoder written here, published values, and damaged blocks in buffers of exact
size (which the sanitized build watches)."""

from __future__ import annotations

import random

import pytest

from modelfmt import _kernels

# XXH32, seed 0: the values of xxHash's own sanity check and its specification
KNOWN = {b"": 0x02CC5D05, b"a": 0x550D7456, b"abc": 0x32D153FF, b"Nobody inspects the spammish repetition": 0xE2293B2F}


@pytest.mark.parametrize("data", KNOWN)
def test_known_hashes(data: bytes) -> None:
    assert _kernels.xxh32(data) == KNOWN[data]


def test_a_hash_in_pieces() -> None:
    source = random.Random(1)
    data = source.randbytes(1000)
    for _ in range(200):
        state = bytearray(_kernels.XXH32_STATE)
        at = 0
        end = source.randrange(1000)
        while at < end:
            step = source.randrange(0, 40)
            _kernels.xxh32_add(state, data[at : min(end, at + step)])
            at += step
        assert _kernels.xxh32(b"", state) == _kernels.xxh32(data[:end])
    for bad in (bytearray(3), bytearray(b"\xff" * _kernels.XXH32_STATE)):
        with pytest.raises(ValueError, match="state"):
            _kernels.xxh32(b"x", bad)


def reference(block: bytes, history: bytes, limit: int) -> bytes | None:
    """The block format, read byte by byte; None where it is damaged."""
    out, at = bytearray(history), 0

    def length(nibble: int) -> int:
        nonlocal at
        while nibble >= 15:
            byte = block[at]
            at += 1
            nibble += byte
            if byte != 255:
                break
        return nibble

    try:
        while at < len(block):
            token = block[at]
            at += 1
            n = length(token >> 4)
            if at + n > len(block):
                return None
            out += block[at : at + n]
            at += n
            if at == len(block):
                break
            distance = block[at] | block[at + 1] << 8
            at += 2
            n = length(token & 15) + 4
            if not 0 < distance <= len(out) or len(out) + n - len(history) > limit:
                return None
            for _ in range(n):
                out.append(out[-distance])
    except IndexError:
        return None
    return None if len(out) - len(history) > limit else bytes(out[len(history) :])


def block_of(source: random.Random, reach: int) -> bytes:
    """A block of random sequences, mostly proper."""
    block, made = bytearray(), reach
    for _ in range(source.randrange(1, 8)):
        literals, match = source.choice((0, 1, 5, 14, 15, 16, 40, 270)), source.choice((4, 5, 18, 19, 20, 300))
        block.append(min(literals, 15) << 4 | min(match - 4, 15))
        if literals >= 15:
            block += b"\xff" * ((literals - 15) // 255) + bytes([(literals - 15) % 255])
        block += source.randbytes(literals)
        made += literals
        distance = source.randrange(1, min(65535, max(2, made + (source.random() < 0.05))))
        block += distance.to_bytes(2, "little")
        if match - 4 >= 15:
            block += b"\xff" * ((match - 19) // 255) + bytes([(match - 19) % 255])
        made += match
    return bytes(block) + bytes([0x50]) + b"final"


def test_blocks_against_the_reference() -> None:
    source = random.Random(2)
    good = bad = 0
    for _ in range(6000):
        history = source.randbytes(source.choice((0, 1, 7, 500)))
        block = bytearray(block_of(source, len(history)))
        for _ in range(source.choice((0, 0, 1, 2))):
            block[source.randrange(len(block))] = source.randrange(256)
        if source.random() < 0.2:
            del block[source.randrange(len(block)) :]
        limit = source.choice((0, 10, 100, 3000))
        wanted = reference(bytes(block), history, limit)
        out = bytearray(limit)
        if wanted is None:
            bad += 1
            with pytest.raises(ValueError, match="damaged"):
                _kernels.lz4_block(bytes(block), history, out)
        else:
            good += 1
            made = _kernels.lz4_block(bytes(block), history, out)
            assert bytes(out[:made]) == wanted
    assert good > 500 and bad > 500


def test_lengths_without_end() -> None:
    for block in (b"\xf0" + b"\xff" * 100_000, b"\x1f\0\1\0" + b"\xff" * 100_000, b"\x10", b"\x0f\0\0"):
        with pytest.raises(ValueError, match="damaged"):
            _kernels.lz4_block(block, b"", bytearray(1000))
    assert _kernels.lz4_block(b"", b"", bytearray(0)) == 0
    same = bytearray(100)
    with pytest.raises(ValueError, match="overlap"):
        _kernels.lz4_block(same, b"", same)
