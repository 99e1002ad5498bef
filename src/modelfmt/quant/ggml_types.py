"""The tensor types of GGUF: number, block, and the type a row falls back to where it does not divide into blocks.

Source: enum ggml_type of ggml.h; tensor_type_fallback of llama.cpp's llama-quant.cpp (fallbacks). What a block holds is
said in modelfmt.ir.encoding, from where the sizes come.
"""

from __future__ import annotations

from difflib import get_close_matches

import msgspec

from modelfmt.errors import UsageError
from modelfmt.ir.encoding import ENCODINGS, Encoding

__all__ = ["GGML_TYPES", "GgmlType", "target_type"]


class GgmlType(msgspec.Struct, frozen=True):
    """One tensor type.

    id: its number in the file. fallback: the type for rows that do not divide into its blocks; where that does not fit
    either, or there is none, F16. target: weights are stored in it, so that it can be asked for.
    """

    name: str
    id: int
    fallback: str | None = None
    target: bool = True

    @property
    def encoding(self) -> Encoding:
        """The blocks in detail."""
        return ENCODINGS[self.name]

    @property
    def block_elements(self) -> int:
        """Elements of one block; 1 for a dense type."""
        return self.encoding.block_elements

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.encoding.block_bytes

    @property
    def quantized(self) -> bool:
        """True for blocks with scales, False for plain numbers."""
        return not self.encoding.dense

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element, scales included."""
        return self.encoding.bits_per_weight

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of a row of n_cols elements. Raises ShapeError where n_cols is no multiple of the block.

        >>> GGML_TYPES["Q6_K"].row_bytes(512)
        420
        """
        return self.encoding.row_bytes(n_cols)

    def fits(self, n_cols: int) -> bool:
        """True where rows of n_cols elements divide into blocks."""
        return n_cols % self.block_elements == 0

    def fitting(self, n_cols: int) -> str:
        """The type that rows of n_cols elements get when this one was wanted: itself, its fallback, or F16.

        >>> GGML_TYPES["Q4_K"].fitting(512), GGML_TYPES["Q4_K"].fitting(896), GGML_TYPES["Q4_K"].fitting(100)
        ('Q4_K', 'Q5_0', 'F16')
        """
        if self.fits(n_cols):
            return self.name
        return self.fallback if self.fallback is not None and GGML_TYPES[self.fallback].fits(n_cols) else "F16"


# fmt: off
GGML_TYPES: dict[str, GgmlType] = {
    row.name: row
    for row in (
        GgmlType("F32", 0),                GgmlType("F16", 1),                GgmlType("BF16", 30),
        GgmlType("F64", 28, target=False), GgmlType("I8", 24, target=False),  GgmlType("I16", 25, target=False),
        GgmlType("I32", 26, target=False), GgmlType("I64", 27, target=False),
        GgmlType("Q4_0", 2),               GgmlType("Q4_1", 3),               GgmlType("Q5_0", 6),
        GgmlType("Q5_1", 7),               GgmlType("Q8_0", 8),               GgmlType("Q8_1", 9, target=False),
        GgmlType("Q2_K", 10, "Q4_0"),      GgmlType("Q3_K", 11, "Q4_0"),      GgmlType("Q4_K", 12, "Q5_0"),
        GgmlType("Q5_K", 13, "Q5_1"),      GgmlType("Q6_K", 14, "Q8_0"),      GgmlType("Q8_K", 15, target=False),
        GgmlType("IQ2_XXS", 16, "IQ4_NL"), GgmlType("IQ2_XS", 17, "IQ4_NL"),  GgmlType("IQ2_S", 22, "IQ4_NL"),
        GgmlType("IQ3_XXS", 18, "IQ4_NL"), GgmlType("IQ3_S", 21, "IQ4_NL"),   GgmlType("IQ1_S", 19, "IQ4_NL"),
        GgmlType("IQ1_M", 29, "IQ4_NL"),   GgmlType("IQ4_NL", 20),            GgmlType("IQ4_XS", 23, "IQ4_NL"),
        GgmlType("TQ1_0", 34, "Q4_0"),     GgmlType("TQ2_0", 35, "Q4_0"),     GgmlType("MXFP4", 39),
        GgmlType("NVFP4", 40),             GgmlType("Q1_0", 41),              GgmlType("Q2_0", 42, "Q4_0"),
    )
}
"""Every tensor type by its name. Q8_1 and Q8_K are what activations are quantized to while computing, never weights."""
# fmt: on


def target_type(name: str, place: str = "") -> GgmlType:
    """The type called `name` in any case, for a tensor that is to be stored in it. place: where the name was given.

    Raises UsageError (unknown-tensor-type) with the closest names.

    >>> target_type("q6_k").id
    14
    """
    row = GGML_TYPES.get(name.strip().upper())
    if row is not None and row.target:
        return row
    known = [row.name for row in GGML_TYPES.values() if row.target]
    close = get_close_matches(name.strip().upper(), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else None
    raise UsageError(
        "no such tensor type",
        code="unknown-tensor-type",
        place=place or None,
        found=name,
        allowed=", ".join(known),
        hint=hint,
    )
