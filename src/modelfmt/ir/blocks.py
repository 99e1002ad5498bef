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
    Parts = tuple[Bytes, Floats, Floats | None]

__all__ = ["LAYOUTS", "BlockLayout", "take_apart"]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How a type comes apart. block: elements that share a scale. bits: of a code. zeros: it has zero points of its
    own. parts: blocks uint8 [n, bytes] -> codes uint8 [n, elements], scales and zeros float32 [n, elements / block]."""

    block: int
    bits: int
    zeros: bool
    parts: Callable[[Bytes], Parts]

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of one block."""
        return self.block * self.bits // 8


def take_apart(name: str, blocks: Bytes) -> Parts:
    """Blocks uint8 [n, block bytes] of a type of LAYOUTS -> packed codes [n * sub-blocks, code bytes], scales and zeros
    [n * sub-blocks], zeros None where they are implied."""
    layout = LAYOUTS[name]
    codes, scales, zeros = layout.parts(blocks)
    codes = codes.reshape(-1, layout.block)
    if layout.bits == 4:
        pairs: Bytes = codes[:, 0::2] | (codes[:, 1::2] << 4).astype(codes.dtype)
        codes = pairs
    return codes, scales.reshape(-1), None if zeros is None else zeros.reshape(-1)


def _half(blocks: Bytes, at: int) -> Floats:
    """A float16 of each block as float32 [n, 1]."""
    import numpy as np

    found: Floats = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)
    return found


def _nibbles(packed: Bytes) -> Bytes:
    """The low halves of all bytes, then the high ones."""
    import numpy as np

    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q4_0(blocks: Bytes) -> Parts:
    return _nibbles(blocks[:, 2:]), _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> Parts:
    return _offset(_nibbles(blocks[:, 4:]), _half(blocks, 0), -_half(blocks, 2))


def _q5_0(blocks: Bytes) -> Parts:
    import numpy as np

    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, 2:6]), axis=-1, bitorder="little")
    codes = (_nibbles(blocks[:, 6:]) | fifth << 4) + np.uint8(128 - 16)
    return codes.astype(np.uint8, copy=False), _half(blocks, 0), None


def _q8_0(blocks: Bytes) -> Parts:
    import numpy as np

    return (blocks[:, 2:] ^ np.uint8(128)).astype(np.uint8), _half(blocks, 0), None


def _q4_k(blocks: Bytes) -> Parts:
    import numpy as np

    packed = blocks[:, 4:16]
    low, high, top = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (top & 15) | (low >> 6) << 4], axis=-1).astype(np.float32)
    offsets = np.concatenate([high & 63, (top >> 4) | (high >> 6) << 4], axis=-1).astype(np.float32)
    codes = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(-1, 8, 32)
    return _offset(codes, _half(blocks, 0) * scales, _half(blocks, 2) * offsets)


def _q6_k(blocks: Bytes) -> Parts:
    import numpy as np

    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2)  # elements 0, 32, 64, 96 of each half
    twos = high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
    codes = (nibbles | twos << 4).reshape(-1, 256)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return codes + np.uint8(128 - 32), _half(blocks, 208) * scales, None


def _offset(codes: Bytes, scales: Floats, subtracted: Floats) -> Parts:
    """Zero points from what is subtracted; a block without a scale has codes of 0 and a scale of 1."""
    import numpy as np

    still = scales == 0
    if still.any():
        codes = codes.reshape(*scales.shape, -1).copy()
        codes[still] = 0
        scales = np.where(still, np.float32(1), scales)
    return codes, scales, subtracted / scales


LAYOUTS = {
    "Q4_0": BlockLayout(32, 4, False, _q4_0),
    "Q4_1": BlockLayout(32, 4, True, _q4_1),
    "Q5_0": BlockLayout(32, 8, False, _q5_0),
    "Q8_0": BlockLayout(32, 8, False, _q8_0),
    "Q4_K": BlockLayout(32, 4, True, _q4_k),
    "Q6_K": BlockLayout(16, 8, False, _q6_k),
}
"""Types that come apart into what MatMulNBits and DequantizeLinear have."""
