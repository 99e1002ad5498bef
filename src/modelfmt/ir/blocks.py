"""Blocks of quantized types taken apart: codes, scales and zero points as tensors of their own, as other runtimes have
them. value = (code - zero) * scale.

Codes are unsigned, 4 or 8 bits wide, in the order of their elements, the first in the lowest bits. Where a type has no
zero point of its own it is half the range, 8 or 128. Scales are exact in float32; zero points of types that store an
offset m are -m / scale, rounded once. Sources: ggml-common.h and ggml-quants.c of llama.cpp (October 2026); the
layout of com.microsoft.MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Levels = tuple[Floats, Floats | None]

__all__ = ["LAYOUTS", "BlockLayout"]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How a type comes apart. block: elements that share a scale. bits: of a code. zeros: it has zero points of its
    own. Of blocks uint8 [n, bytes], codes gives uint8 [n * sub-blocks, code bytes], levels the scales and zeros,
    float32 [n, sub-blocks] (zeros None where they are implied)."""

    block: int
    bits: int
    zeros: bool
    codes: Callable[[Bytes], Bytes]
    levels: Callable[[Bytes], Levels]

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of one block."""
        return self.block * self.bits // 8


def _half(blocks: Bytes, at: int) -> Floats:
    """A float16 of each block as float32 [n, 1]."""
    import numpy as np

    found: Floats = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)
    return found


def _scale(blocks: Bytes) -> Levels:
    return _half(blocks, 0), None


def _paired(packed: Bytes) -> Bytes:
    """Bytes whose low halves are elements in order, and whose high halves are those behind them, with neighbours in one
    byte: [n, m] -> [n, 2, m / 2]."""
    import numpy as np

    words = np.ascontiguousarray(packed).view(np.uint16)
    out = np.empty((len(words), 2, words.shape[1]), np.uint8)
    for place, shift in ((0, 0), (1, 4)):
        halves = (words >> np.uint16(shift)) & np.uint16(0x0F0F)
        out[:, place] = halves | halves >> np.uint16(4)  # the high byte falls away
    return out


def _q4_0_codes(blocks: Bytes) -> Bytes:
    return _paired(blocks[:, 2:]).reshape(-1, 16)


def _q4_1_codes(blocks: Bytes) -> Bytes:
    return _without_still(_paired(blocks[:, 4:]).reshape(-1, 16), _half(blocks, 0))


def _q4_1_levels(blocks: Bytes) -> Levels:
    return _offset(_half(blocks, 0), -_half(blocks, 2))


def _q5_0_codes(blocks: Bytes) -> Bytes:
    import numpy as np

    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, 2:6]), axis=-1, bitorder="little")
    low = np.concatenate([blocks[:, 6:] & 15, blocks[:, 6:] >> 4], axis=-1)
    codes: Bytes = (low | fifth << 4) + np.uint8(128 - 16)
    return codes


def _q8_0_codes(blocks: Bytes) -> Bytes:
    import numpy as np

    return (blocks[:, 2:] ^ np.uint8(128)).astype(np.uint8, copy=False)


def _q4_k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scales and what is subtracted, [n, 8]."""
    import numpy as np

    packed = blocks[:, 4:16]
    low, high, top = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (top & 15) | (low >> 6) << 4], axis=-1).astype(np.float32)
    offsets = np.concatenate([high & 63, (top >> 4) | (high >> 6) << 4], axis=-1).astype(np.float32)
    return _half(blocks, 0) * scales, _half(blocks, 2) * offsets


def _q4_k_codes(blocks: Bytes) -> Bytes:
    codes = _paired(blocks[:, 16:].reshape(-1, 32)).reshape(-1, 16)
    return _without_still(codes, _q4_k_scales(blocks)[0])


def _q4_k_levels(blocks: Bytes) -> Levels:
    return _offset(*_q4_k_scales(blocks))


def _q6_k_codes(blocks: Bytes) -> Bytes:
    import numpy as np

    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2)  # elements 0, 32, 64, 96 of each half
    twos = high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
    codes: Bytes = (nibbles | twos << 4) + np.uint8(128 - 32)
    return codes.reshape(-1, 16)


def _q6_k_levels(blocks: Bytes) -> Levels:
    import numpy as np

    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return _half(blocks, 208) * scales, None


def _q3_k_codes(blocks: Bytes) -> Bytes:
    import numpy as np

    shifts = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1)
    twos = blocks[:, 32:96].reshape(-1, 2, 1, 32) >> (2 * shifts) & 3  # [n, half, quarter, 32]
    bits = np.arange(8, dtype=np.uint8).reshape(1, 2, 4, 1)
    thirds = blocks[:, :32].reshape(-1, 1, 1, 32) >> bits & 1
    codes = ((twos | thirds << 2) + np.uint8(8 - 4)).reshape(-1, 16)
    return (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8, copy=False)


def _q3_k_levels(blocks: Bytes) -> Levels:
    import numpy as np

    packed, shifts = blocks[:, 96:108], np.arange(4, dtype=np.uint8).reshape(1, 4, 1) * 2
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=-1)
    high = (packed[:, None, 8:] >> shifts & 3).reshape(-1, 16)
    scales = (low | high << 4).astype(np.float32) - 32
    return _half(blocks, 108) * scales, None


_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _looked_up(packed: Bytes) -> Bytes:
    """Nibbles that are indices of a table of integers, in halves of 32, as these plus 128."""
    import numpy as np

    table = np.array(_IQ4_NL, np.int16) + 128
    halves = packed.reshape(-1, 16)
    codes: Bytes = table.astype(np.uint8)[np.concatenate([halves & 15, halves >> 4], axis=-1)]
    return codes


def _iq4_nl_codes(blocks: Bytes) -> Bytes:
    return _looked_up(blocks[:, 2:])


def _iq4_xs_codes(blocks: Bytes) -> Bytes:
    return _looked_up(blocks[:, 8:])


def _iq4_xs_levels(blocks: Bytes) -> Levels:
    import numpy as np

    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> (2 * np.arange(8, dtype=np.uint16)) & 3
    scales = (low | high << 4).astype(np.float32) - 32
    return _half(blocks, 0) * scales, None


def _offset(scales: Floats, subtracted: Floats) -> Levels:
    """Zero points from what is subtracted; a block without a scale gets one of 1, and codes of 0."""
    import numpy as np

    scales = np.where(scales == 0, np.float32(1), scales)
    return scales, subtracted / scales


def _without_still(codes: Bytes, scales: Floats) -> Bytes:
    """Codes, 0 where there is no scale."""
    still = scales.reshape(-1) == 0
    if still.any():
        codes[still] = 0
    return codes


LAYOUTS = {
    "Q4_0": BlockLayout(32, 4, False, _q4_0_codes, _scale),
    "Q4_1": BlockLayout(32, 4, True, _q4_1_codes, _q4_1_levels),
    "Q5_0": BlockLayout(32, 8, False, _q5_0_codes, _scale),
    "Q8_0": BlockLayout(32, 8, False, _q8_0_codes, _scale),
    "Q3_K": BlockLayout(16, 4, False, _q3_k_codes, _q3_k_levels),
    "Q4_K": BlockLayout(32, 4, True, _q4_k_codes, _q4_k_levels),
    "Q6_K": BlockLayout(16, 8, False, _q6_k_codes, _q6_k_levels),
    "IQ4_NL": BlockLayout(32, 8, False, _iq4_nl_codes, _scale),
    "IQ4_XS": BlockLayout(32, 8, False, _iq4_xs_codes, _iq4_xs_levels),
}
"""Types that come apart into what MatMulNBits and DequantizeLinear have."""
