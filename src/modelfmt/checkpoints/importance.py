"""Opens and writes importance matrices, in llama.cpp's GGUF form and its legacy .dat form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import gguf, imatrix_dat
from modelfmt.ir.layout import Entry
from modelfmt.quant.imatrix import Importance, from_dat, from_gguf, merge
from modelfmt.storage.files import Files
from modelfmt.storage.outputs import write_pieces
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FORMS", "form", "read", "write"]

FORMS = {".gguf": "gguf", ".dat": "dat"}
"""What a name ends in -> the form that is written under it."""


def read(path: str, files: Files) -> Importance:
    """The importance matrix in a file; values are read when they are asked for, while `files` is open.

    Raises SourceMissing, CorruptFile, UnsupportedError.
    """
    head = files.read(path, 0, min(files.size(path), 64))
    if gguf.sniff(head):
        model = gguf.read(path, files, Evaluator(files))
        if model.metadata.get("general.type") != "imatrix":
            raise UnsupportedError(
                "this GGUF is no importance matrix",
                code="not-imatrix",
                path=path,
                found=model.metadata.get("general.type"),
                allowed="imatrix",
            )
        return from_gguf(model.metadata, model.tensors, path)
    dat = imatrix_dat.open_dat(path, files)
    return from_dat(dat.entries, dat.chunk_count, dat.dataset, path)


def form(path: str) -> str:
    """The form that a file of this name gets. Raises UsageError."""
    found = FORMS.get(PurePath(path).suffix.lower())
    if found is None:
        raise UsageError(
            "cannot tell the form of the importance matrix from its name",
            code="imatrix-form",
            found=path,
            allowed="a name that ends in .gguf or .dat",
        )
    return found


def write(importance: Importance, path: str, *, overwrite: bool = False) -> None:
    """Write an importance matrix, as llama-imatrix does, in the form that the name says; one entry is held at a time.

    Raises UsageError (imatrix-form, chunk-size), DestinationExists, NoSpace, OutputError; CorruptFile (values).
    """
    pieces = {"gguf": _gguf, "dat": _dat}[form(path)]
    write_pieces(path, pieces(importance), token="imatrix", overwrite=overwrite)


def _gguf(importance: Importance) -> Iterator[bytes]:
    if importance.legacy:
        importance = merge([importance])
    names = sorted(importance.entries, key=str.encode)
    parts = []
    for name in names:
        n_mat, n_cols = importance.entries.shapes[name]
        # ggml does not store trailing dimensions of one
        parts.append(Entry(f"{name}.in_sum2", "F32", (n_mat, n_cols) if n_mat > 1 else (n_cols,)))
        parts.append(Entry(f"{name}.counts", "F32", (n_mat, 1) if n_mat > 1 else (1,)))
    (layout,) = gguf.layout(parts, metadata=importance.gguf_metadata())
    yield layout.header
    places = iter(layout.tensors)
    at = len(layout.header)
    for name in names:
        entry = importance.entries[name]
        for values in (entry.in_sum2, entry.counts):
            place = next(places)
            yield bytes(place.offset - at) + _little(values)
            at = place.offset + place.size
    yield bytes(layout.size - at)


def _dat(importance: Importance) -> Iterator[bytes]:
    used = [name for name in sorted(importance.entries, key=str.encode) if importance.dat_entry(name) is not None]
    if importance.legacy:
        used = list(importance.entries)
    rows = ((name, *found) for name in used if (found := importance.dat_entry(name)) is not None)
    dataset = importance.datasets[0] if importance.datasets else None
    yield from imatrix_dat.pieces(rows, len(used), chunk_count=importance.chunk_count, dataset=dataset)


def _little(values: NDArray[np.float32]) -> bytes:
    import numpy as np

    return np.ascontiguousarray(values, "<f4").tobytes()
