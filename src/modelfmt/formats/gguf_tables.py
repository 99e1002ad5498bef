"""GGUF's numbers: types of tensors and of values by their id, limits, and the sizes that follow from them.

Source: ggml.h (enum ggml_type), the GGUF specification, ggml's gguf.cpp for the limits.
"""

from __future__ import annotations

from math import prod

from modelfmt.ir.encoding import ENCODINGS

__all__ = [
    "ALIGNMENTS",
    "DEFAULT_ALIGNMENT",
    "MAGIC",
    "MAX_DIMS",
    "MAX_KEY",
    "MAX_NAME",
    "REMOVED_TYPES",
    "SPLIT_KEYS",
    "TENSOR_TYPES",
    "VALUE_TYPES",
    "nbytes",
    "padded",
]

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
ALIGNMENTS = tuple(1 << power for power in range(3, 21))
MAX_DIMS = 4
MAX_NAME = 64
MAX_KEY = 65_535
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")

# fmt: off
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}
"""Encodings by their number in the file."""
REMOVED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}
VALUE_TYPES = (
    "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "ARRAY",
    "UINT64", "INT64", "FLOAT64",
)
"""Types of metadata by their number in the file."""
# fmt: on


def nbytes(encoding: str, shape: tuple[int, ...]) -> int:
    """Stored bytes of a tensor whose rows are whole blocks."""
    row = ENCODINGS[encoding]
    return prod(shape) // row.block_elements * row.block_bytes


def padded(size: int, alignment: int) -> int:
    """The next multiple of the alignment.

    >>> padded(33, 32)
    64
    """
    return -(-size // alignment) * alignment
