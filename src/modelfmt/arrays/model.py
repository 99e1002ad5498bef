"""What `.npy` and `.npz` have in common: headers become a model, entries are checked before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from modelfmt.arrays.dtypes import DESCRIPTIONS, Other
from modelfmt.arrays.npy import Header
from modelfmt.arrays.values import array
from modelfmt.errors import UnsupportedError
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Reader
from modelfmt.ir.tensor import Tensor

__all__ = ["fill", "written"]


_REFUSED = {
    True: ("an array of objects", "array-objects", "what is stored there is a pickle: modelfmt scan shows it"),
    False: ("an array of a type without an encoding", "array-dtype", None),
}
"""Whether elements are objects -> message, code, hint."""


def fill(model: Model, headers: Mapping[str, Header], reader: Reader) -> None:
    """Give a model the arrays of some headers by name: tensors, and `content` where there are texts or tables.

    Raises UnsupportedError (objects, dates, raw bytes).
    """

    def make(expr: Expression) -> Tensor:
        return Tensor("", expr, reader)

    content = {}
    for name, header in headers.items():
        if isinstance(header.element, Other):
            message, code, hint = _REFUSED[header.element.size is None]
            raise UnsupportedError(
                message,
                code=code,
                path=model.path,
                place=name,
                found=header.element.name,
                allowed="numbers, booleans, texts, and structures of these",
                hint=hint,
            )
        content[name] = array(header.data, header.element, header.shape, make, fortran=header.fortran)
    model.adopt(content)


def written(entry: Entry) -> int:
    """Bytes of an entry. Raises UnsupportedError where NumPy has no type string for it."""
    if entry.encoding not in DESCRIPTIONS:
        raise UnsupportedError(
            "NumPy's files have no type for this encoding",
            code="dtype",
            place=entry.name,
            found=entry.encoding,
            allowed=" ".join(DESCRIPTIONS),
            hint="--quant F32 widens 16-bit and 8-bit floats",
        )
    return prod(entry.shape) * ENCODINGS[entry.encoding].block_bytes
