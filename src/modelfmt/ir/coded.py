"""Operations on quantized tensors: codes with parameters of their own, and what is made of them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import msgspec

from modelfmt.errors import ShapeError
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.moves import Reshape
from modelfmt.ir.op import Computed, Op, Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.ops import Expression

    Rows = NDArray[np.uint8]

__all__ = [
    "Blocks",
    "Coded",
    "Fields",
    "Nested",
    "Numbers",
    "Packed",
    "Param",
    "Regrid",
    "Uniform",
    "Widened",
]


class Param(msgspec.Struct, frozen=True):
    """A number for each group of a coded tensor: a scale, a zero or an offset, and how it lies.

    input: [rows, groups] values of any dense type; turned: [groups, rows]. rows: neighbouring rows that share a number
    (0: all); group: neighbouring columns (0: all), or with flat: neighbouring elements of the whole in row-major order.
    bits: integers of so many bits, packed in 32-bit words along the rows ("rows") or the groups ("groups"); order: of
    nibbles, "awq"; padded: as many as are whole in each word; add: a number added to each word before (GPTQ's zeros);
    plus: one added to each value; divide: by the number.
    """

    input: Expression
    turned: bool = False
    rows: int = 1
    group: int = 0
    flat: bool = False
    bits: int = 0
    along: str = ""
    order: str = "low"
    padded: bool = False
    add: int = 0
    plus: float = 0.0
    divide: bool = False


class Coded(Op, frozen=True):
    """A quantized tensor whose codes and parameters are tensors of their own: rows of a grid (modelfmt.ir.grid).

    codes: words as `packing` says, of the whole tensor. shape: logical, [.., rows, columns]. table: what codes stand
    for. group: columns that share a record, a divisor of every parameter's. value = product(scales) * (code - zero) +
    offset. zero: a number or a Param. index: the group of each column where they are not in order (GPTQ's g_idx);
    sorted: the columns are put in the order of their groups. first: the column of `codes` that this begins with.
    records: no codes, for what asks about scales alone. label: for people.
    """

    codes: Expression
    packing: grid.Packing
    shape: tuple[int, ...]
    table: str
    group: int
    scales: tuple[Param, ...]
    zero: float | Param = 0.0
    offset: Param | None = None
    index: Expression | None = None
    sorted: bool = False
    first: int = 0
    whole: int = 0
    records: bool = False
    label: str = ""

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]

    @property
    def inputs(self) -> tuple[Expression, ...]:
        own = (*self.scales, self.zero, self.offset)
        params = tuple(param.input for param in own if isinstance(param, Param))
        return (self.codes, *params, *(() if self.index is None else (self.index,)))

    @property
    def n_cols(self) -> int:
        """Columns of the codes as stored, of which this may be a window."""
        return self.whole or self.shape[-1]


class Regrid(Op, frozen=True):
    """Blocks of a GGUF type as rows of a grid. group: that of the type. whole: a scale of the whole, or of so many
    rows, beside the blocks."""

    input: Expression
    table: str
    group: int
    records: bool = False
    first: int = 0
    width: int = 0
    whole: Param | None = None

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return (self.input,) if self.whole is None else (self.input, self.whole.input)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input.shape[:-1], self.width or self.input.shape[-1])

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[grid.grid_name("-" if self.records else self.table, self.group, self.shape[-1])]


class Uniform(Op, frozen=True):
    """A grid under scales and zeros alone, value = scale * (code - zero): offsets become zeros, which are then no whole
    numbers."""

    input: Expression


class Blocks(Op, frozen=True):
    """A grid moved into blocks of a GGUF type, where all codes fit, or into values of a dense one: what a sink makes,
    made before rows are moved."""

    input: Coded | Regrid
    encoding: str

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]


class Packed(Op, frozen=True):
    """The codes of a grid, packed in words of `encoding`. rezero: codes become code - zero + rezero (-1: as they are).

    Rows of words: [.., rows, columns * bits / word]; words: [columns * bits / 32, rows]; columns: [columns, rows * bits
    / 32].
    """

    input: Expression
    packing: grid.Packing
    encoding: str
    rezero: int = -1

    def __post_init__(self) -> None:
        shape, bits, word = self.input.shape, self.packing.bits, self.stored.block_bytes * 8
        across = shape[-2] if self.packing.lay == "columns" else shape[-1]
        if across * bits % word or (self.packing.lay != "rows" and len(shape) != 2):
            raise ShapeError(
                "codes do not fill whole words", code="packing", found=shape, allowed=f"a multiple of {word // bits}"
            )

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]

    @property
    def shape(self) -> tuple[int, ...]:
        *outer, n_rows, n_cols = self.input.shape
        per_word = self.packing.bits / (self.stored.block_bytes * 8)
        if self.packing.lay == "rows":
            return (*outer, n_rows, int(n_cols * per_word))
        if self.packing.lay == "words":
            return (int(n_cols * per_word), n_rows)
        return (n_cols, int(n_rows * per_word))


class Numbers(Op, frozen=True):
    """The scales, zeros or offsets of a grid of records, in a dense encoding.

    what: scale; exponent (of a scale that is a power of two, plus 127); zero; offset (of
    codes whose zero is none, or `rezero`). bits: zeros packed in 32-bit words along the rows or groups (see Param).
    rows, group: of how many neighbours one is taken. shape: as laid out; turned: [groups, rows]. zero: whole, offsets
    included, unless it is written as a float.
    """

    input: Expression
    what: str
    encoding: str
    shape: tuple[int, ...]
    turned: bool = False
    rows: int = 1
    group: int = 0
    bits: int = 0
    along: str = ""
    order: str = "low"
    rezero: float = 0.0

    @property
    def stored(self) -> Encoding:
        return ENCODINGS[self.encoding]


class Nested(Computed, frozen=True):
    """Scales that are codes themselves (bitsandbytes): table[code] * scales[i // block] + offset, each step rounded to
    float32. input: U8 [.., n]."""

    input: Expression
    scales: Expression
    table: tuple[float, ...]
    block: int
    offset: float

    @property
    def inputs(self) -> tuple[Expression, ...]:
        return (self.input, self.scales)

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        codes = reader.rows(self.input, start, stop)
        n_cols = codes.shape[1]
        blocks = np.arange(start * n_cols, stop * n_cols) // self.block
        first, last = (int(blocks[0]), int(blocks[-1]) + 1) if len(blocks) else (0, 0)
        scales = reader.values(Reshape(self.scales, (prod(self.scales.shape), 1)), first, last).reshape(-1)
        table = np.array(self.table, np.float32)
        found = table[codes.reshape(-1)] * scales[blocks - first] + np.float32(self.offset)
        made: Rows = found.reshape(codes.shape).view(np.uint8)
        return made


class Widened(Op, frozen=True):
    """Rows of a grid whose table has multiples of one number, as integers of more bits: codes[i] is what code i
    becomes, zero that of nothing, and scales are taken times `factor`, a power of two."""

    input: Expression
    table: str
    codes: tuple[int, ...]
    zero: float
    factor: float

    @property
    def stored(self) -> Encoding:
        own = grid.parse(self.input.stored.name)
        return ENCODINGS[grid.grid_name("-" if own.table == "-" else self.table, own.group, own.n_cols)]

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        own = grid.parse(self.input.stored.name)
        rows = reader.rows(self.input, start, stop)
        head = own.head_bytes
        records = np.ascontiguousarray(rows[:, :head]).view(np.float64).reshape(len(rows), -1, 3)
        records = records * np.array([self.factor, 1.0, 0.0]) + np.array([0.0, 0.0, self.zero])
        codes = np.array(self.codes, np.uint8)[rows[:, head:]]
        made: Rows = np.concatenate([records.reshape(len(rows), -1).view(np.uint8), codes], axis=1)
        return made


class Fields(Op, frozen=True):
    """Codes in bytes of their own, U8, from words of a dense integer type: of each word the fields of `bits` bits that
    begin at `shifts`, one after another along the row. order: field i of each run of so many is column order[i] of it.
    flip: bits exchanged in each, the sign bit for two's complement.
    """

    input: Expression
    bits: int
    shifts: tuple[int, ...]
    order: tuple[int, ...] = ()
    flip: int = 0

    def __post_init__(self) -> None:
        row = self.input.stored
        wide = row.block_bytes * 8
        if (
            row.element.kind != "int"
            or row.block_elements != 1
            or not all(0 <= shift <= wide - self.bits for shift in self.shifts)
        ):
            raise ShapeError("these are no words with such fields", code="packing", found=row.name)
        if self.order and (sorted(self.order) != list(range(len(self.order))) or self.shape[-1] % len(self.order)):
            raise ShapeError("columns that do not fall into runs", code="packing", found=self.shape)

    @property
    def stored(self) -> Encoding:
        return ENCODINGS["U8"]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input.shape[:-1], self.input.shape[-1] * len(self.shifts))

    def tile(self, start: int, stop: int, reader: Reader) -> Rows:
        import numpy as np

        rows = np.ascontiguousarray(reader.rows(self.input, start, stop))
        words = rows.view(f"u{self.input.stored.block_bytes}")
        mask = words.dtype.type((1 << self.bits) - 1)
        found = np.stack([(words >> words.dtype.type(shift)) & mask for shift in self.shifts], axis=-1).astype(np.uint8)
        found ^= np.uint8(self.flip)
        if self.order:
            found = found.reshape(len(rows), -1, len(self.order))[..., np.argsort(self.order)]
        codes: Rows = np.ascontiguousarray(found.reshape(len(rows), -1))
        return codes
