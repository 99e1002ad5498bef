"""Arrays in bytes: a place, an element type, a shape and an order become a tensor, a table of columns, or texts.

Nothing is read. Columns of structures are views of bytes, so that a table of a million rows costs nothing until a
column is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from modelfmt.arrays.dtypes import Dtype, Element, Field, Struct, TextType
from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.ir.ops import Expression, Leaf, Reinterpret, Strided
from modelfmt.ir.record import Table, Texts
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.region import Region

__all__ = ["MAX_DIMS", "array", "check_shape", "dense"]

MAX_DIMS = 64
MAX_COLUMNS = 4096

Make = Callable[[Expression], Tensor]


def check_shape(shape: Any, size: int | None, region: Region, place: object) -> tuple[int, ...]:
    """A shape whose elements, of `size` bytes each, are all there is in the region. Raises CorruptFile."""
    proper = (
        isinstance(shape, tuple)
        and len(shape) <= MAX_DIMS
        and all(type(n) is int and 0 <= n < 1 << 60 for n in shape)
        and prod(filter(None, shape)) < 1 << 60
    )
    if not proper:
        raise CorruptFile(
            "an array without a proper shape",
            code="array-shape",
            path=region.path,
            place=place,
            found=str(shape)[:80],
            allowed=f"at most {MAX_DIMS} sizes from 0 on, below 2^60 elements",
        )
    if size is not None and prod(shape) * size != region.size:
        raise CorruptFile(
            "an array's data does not fit its shape",
            code="array-size",
            path=region.path,
            place=place,
            found=f"{region.size} bytes",
            allowed=f"{prod(shape) * size} bytes for {list(shape)}",
            hint="the download may be incomplete",
        )
    return tuple(shape)


def dense(region: Region, element: Dtype, shape: tuple[int, ...], *, fortran: bool) -> Expression:
    """The expression of an array whose shape is known to fit its region."""
    if not fortran or sum(n > 1 for n in shape) < 2 or not prod(shape):
        return Leaf(region.path, region.start, shape, element.encoding, element.big)
    flat = Leaf(region.path, region.start, (prod(shape), 1), element.encoding, element.big)
    return Strided(flat, 0, shape, _fortran(shape))


def array(region: Region, element: Element, shape: tuple[int, ...], make: Make, *, fortran: bool = False) -> Any:
    """A Tensor, Texts or Table over a region that the shape is known to fit; None for other types. make: an expression
    -> a tensor."""
    if isinstance(element, Dtype):
        return make(dense(region, element, shape, fortran=fortran))
    if isinstance(element, TextType | Struct):
        strides = _fortran(shape) if fortran else tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        place = _Place(region, element.size, shape, strides, make)
        if isinstance(element, TextType):
            return place.texts(Field("", 0, element))
        columns: dict[str, Any] = {}
        place.columns(element, 0, "", columns)
        return Table(shape, columns)
    return None


def _fortran(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[:axis]) for axis in range(len(shape)))


class _Place:
    """Elements of `size` bytes in a region, some of whose bytes are wanted. strides: of the array, in elements."""

    def __init__(self, region: Region, size: int, shape: tuple[int, ...], strides: tuple[int, ...], make: Make) -> None:
        self.region = region
        self.size = size
        self.shape = shape
        self.strides = strides
        self.make = make

    def columns(self, struct: Struct, offset: int, prefix: str, out: dict[str, Any]) -> None:
        """A column for each field, those of structures inside with their name before a dot."""
        for field in struct.fields:
            name = prefix + field.name
            if len(out) >= MAX_COLUMNS or name in out:
                raise LimitExceeded(
                    "a table of too many columns", code="table-columns", path=self.region.path, found=name[:80]
                )
            moved = Field(field.name, offset + field.offset, field.element, field.shape)
            if isinstance(field.element, Dtype):
                out[name] = self.make(self.bytes_of(moved, field.element.size, field.element))
            elif isinstance(field.element, TextType):
                out[name] = self.texts(moved)
            elif isinstance(field.element, Struct) and not field.shape:
                self.columns(field.element, moved.offset, name + ".", out)

    def texts(self, field: Field) -> Texts:
        """A column of texts: their code points."""
        element = field.element
        assert isinstance(element, TextType)
        code = Dtype("U32", element.big) if element.unicode else Dtype("U8")
        wide = Field(field.name, field.offset, code, (*field.shape, element.width))
        return Texts(self.make(self.bytes_of(wide, code.size, code)), element.unicode)

    def bytes_of(self, field: Field, item: int, element: Dtype) -> Expression:
        """The values of a field over all elements of the array."""
        shape = (*self.shape, *field.shape)
        if not prod(shape):
            return Leaf(self.region.path, self.region.start, shape, element.encoding)
        inner = tuple(prod(field.shape[axis + 1 :]) * item for axis in range(len(field.shape)))
        strides = (*(step * self.size for step in self.strides), *inner, 1)
        raw = Leaf(self.region.path, self.region.start, (self.region.size, 1), "U8")
        return Reinterpret(Strided(raw, field.offset, (*shape, item), strides), shape, element.encoding, element.big)
