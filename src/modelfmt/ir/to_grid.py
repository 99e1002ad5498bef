"""Values quantized to a grid, each to the nearest code: what a scheme, or a runtime, makes of weights that are not
quantized yet.

The scale of a group is found first and rounded to the type that it will be stored in; codes are chosen for that scale.
`RULES` is a table: symmetric and asymmetric integers, integers under an offset, 8-bit floats, codebooks. The rows of
these grids are made by csrc/quant/grid_round.c, whose first lines name the sources. Not here: calibration (GPTQ, AWQ
and the like need text).
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from modelfmt.errors import ShapeError
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.op import Op, Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]

__all__ = ["RULES", "Nearest", "NestedCodes", "Rule", "nearest"]


class Rule(NamedTuple):
    """One way of rounding, as `mf_rounded` of csrc/grid.h says it.

    found: what the scale of a group is made of, "largest" magnitude, "farthest" value from zero, "range", "edge".
    codes: "even" or "away", integers, half way to which; "float", E4M3; "book", of a codebook. reach: what code is for
    what was found (0: the largest of the integers). divide: by the scale, or times its reciprocal. stored: what a scale
    becomes after its type, "E4M3", "power" of two or "power above". least: in place of a scale of nothing (None: the
    step from 1 to the next number of its type). floor: the smallest divisor. over: codes are for values times this.
    ties: of a codebook, "even", or "low" for the smaller magnitude. top: where floats and books end.
    """

    found: str
    codes: str
    reach: float = 0.0
    divide: bool = True
    stored: str = ""
    least: float | None = 0.0
    floor: float = 0.0
    over: float = 1.0
    ties: str = "even"
    top: float = 0.0


RULES = {
    "symmetric": Rule("largest", "even", least=None),
    "asymmetric": Rule("range", "even", least=None),
    "mlx": Rule("edge", "even", least=1e-7),
    "e4m3": Rule("largest", "float", 448.0, least=None, top=448.0),
    "nf4": Rule("largest", "book", 1.0, divide=False, floor=1e-38, top=1.0),
    "nf4-nested": Rule("largest", "book", 1.0, divide=False, floor=1e-38, top=1.0),
    "int8-rows": Rule("largest", "even", 1.0, divide=False, over=127.0),
    "mxfp8": Rule("largest", "float", 256.0, stored="power", least=2.0**-127, top=448.0),
    "nvfp4": Rule("largest", "book", 6.0, stored="E4M3", least=0.125, top=6.0),
    "mlx-mxfp4": Rule("largest", "book", 6.0, stored="power above", least=1.0, ties="low", top=6.0),
    "mlx-mxfp8": Rule("largest", "float", 448.0, stored="power above", least=1.0, top=448.0),
    "mlx-nvfp4": Rule("largest", "book", 6.0, stored="E4M3", ties="low", top=6.0),
    "ort-symmetric": Rule("farthest", "away", divide=False),
    "ort-asymmetric": Rule("range", "away", divide=False),
}
"""compressed-tensors' rules first, for AWQ, GPTQ and FP8, too; then those of MLX, bitsandbytes and ONNX Runtime."""


class Nearest(Op, frozen=True):
    """Rows of a grid made from dense values [.., rows, columns], each rounded to the nearest code.

    how: a row of RULES. size: columns that share a scale (the last may be fewer); rows: neighbouring rows that do
    (blocks, of a matrix alone). scale: the dense type that scales are stored in, or, where the rule has another, are
    computed in. whole: a scale of the whole, by which scales are multiplied before they are stored: the grid is that of
    values times it. group, records, first, width: as in Regrid and Coded.
    """

    input: Expression
    how: str
    table: str
    size: int
    scale: str
    group: int
    rows: int = 1
    whole: float = 1.0
    records: bool = False
    first: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if not self.shape or self.shape[-1] % self.group or self.size % self.group:
            raise ShapeError("rows are no whole groups", code="blocks", found=self.shape, allowed=self.group)

    @property
    def rule(self) -> Rule:
        """How values are rounded."""
        return RULES[self.how]

    @property
    def limit(self) -> int:
        """The largest code."""
        return grid.parse(grid.grid_name(self.table, 1, 1)).limit

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input.shape[:-1], self.width or self.input.shape[-1])

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]

    @property
    def zeros(self) -> tuple[float, float]:
        """The smallest and the largest zero that there can be; of offsets, which are no zeros, what no code reaches."""
        limit = float(self.limit)
        half = (limit + 1.0) / 2.0
        if self.rule.codes not in ("even", "away") or self.rule.found == "edge":
            return -1.0, limit + 1.0
        return (0.0, limit) if self.rule.found == "range" else (half, half)


class NestedCodes(Op, frozen=True):
    """Numbers as 8-bit codes of a table, under the largest magnitude of each block: bitsandbytes' scales of scales.

    The nearest codes, as its kernels for GPUs and its default one have them; its library for CPUs looks them up in
    steps of 2^-15, and is off by one for 0.2 % of them.

    input: F32 [n, 1]; offset is subtracted first. largest: not the codes, U8 [n, 1], but the magnitudes, F32 [n /
    block, 1].
    """

    input: Expression
    table: tuple[float, ...]
    block: int
    offset: float
    largest: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        n = self.input.shape[0]
        return (-(-n // self.block) if self.largest else n, 1)

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["F32" if self.largest else "U8"]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        n, block = self.input.shape[0], self.block
        first, last = (start, stop) if self.largest else (start // block, -(-stop // block))
        low, high = first * block, min(last * block, n)
        given = reader.values(self.input, low, high).reshape(-1) - np.float32(self.offset)
        largest = np.maximum.reduceat(np.abs(given), np.arange(0, len(given), block)) if len(given) else given
        if self.largest:
            found: Rows = largest.astype(np.float32).view(np.uint8).reshape(-1, 4)
            return found
        table = np.array(self.table, np.float32)
        inverse = np.repeat(np.float32(1) / np.maximum(largest, np.float32(1e-38)), block)[: len(given)]
        between = (table[:-1] + table[1:]) / 2
        codes: Rows = np.searchsorted(between, np.clip(given * inverse, -1, 1), side="left").astype(np.uint8)
        return codes[start - low : stop - low].reshape(-1, 1)


def nearest(input: Expression, how: str, table: str, size: int, scale: str, *, rows: int = 1) -> Nearest:
    """The expression for groups of `size` columns, which need not divide the row for blocks of floats."""
    return Nearest(input, how, table, size, scale, gcd(size, input.shape[-1]), rows)
