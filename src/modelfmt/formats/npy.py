"""NumPy's `.npy`: one array. Versions 1.0 to 3.0, both orders, both byte orders; written as NumPy writes it.

Source: NEP 1, numpy/lib/_format_impl.py. A structured array becomes a table, whose columns are tensors; texts stay
texts; arrays of objects (which are pickles) and types without an encoding are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.arrays.model import fill, written
from modelfmt.arrays.npy import MAGIC, header_bytes, read_header
from modelfmt.errors import UnsupportedError
from modelfmt.ir.layout import Entry, FileLayout, Placed
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Reader
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region

__all__ = ["layout", "read", "sniff"]

NAME = "array"


def sniff(head: bytes) -> bool:
    """True where the first bytes of a file begin an array of NumPy."""
    return head.startswith(MAGIC)


def read(path: str, files: Files, reader: Reader) -> Model:
    """The array, as the tensor "array"; columns of a table as "array.COLUMN". extras["npy"]: fortran_order.

    Raises SourceMissing, CorruptFile, LimitExceeded, UnsupportedError (objects, dates, raw bytes).
    """
    header = read_header(Region.whole(path, files))
    model = Model("npy", path, files=files, extras={"npy": {"fortran_order": header.fortran}})
    fill(model, {NAME: header}, reader)
    return model


def layout(entries: Sequence[Entry]) -> FileLayout:
    """Where everything lies in a file of one array. Raises UnsupportedError (more arrays, no type string)."""
    if len(entries) != 1:
        raise UnsupportedError(
            "an .npy file holds one array",
            code="npy-one",
            found=f"{len(entries)} tensors",
            allowed="1",
            hint="choose .npz",
        )
    entry = entries[0]
    size = written(entry)
    header = header_bytes(entry.encoding, entry.shape)
    placed = Placed(entry.name, entry.encoding, tuple(entry.shape), len(header), size)
    return FileLayout("", len(header) + size, header, (placed,))
