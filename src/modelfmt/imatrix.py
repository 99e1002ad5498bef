"""Importance matrices as files: `modelfmt.imatrix.read`, `inspect`, `merge`, `check`.

Both of llama.cpp's forms are read, GGUF and the legacy .dat, and written. What they mean is in modelfmt.quant.imatrix.
Computing one is not done here.

>>> import modelfmt, numpy as np, tempfile
>>> folder = tempfile.TemporaryDirectory()
>>> from modelfmt.formats.imatrix_dat import write_dat
>>> with open(f"{folder.name}/a.dat", "wb") as file:
...     _ = file.write(write_dat({"blk.0.attn_q.weight": (np.ones(4, "f4"), 2)}, chunk_count=2, dataset="wiki.txt"))
>>> modelfmt.imatrix.merge([f"{folder.name}/a.dat"], f"{folder.name}/a.gguf").entries[0].least_tokens
1024
>>> folder.cleanup()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modelfmt import sources
from modelfmt.checkpoints import importance as files_of
from modelfmt.errors import CorruptFile, UsageError
from modelfmt.ir.model import Model
from modelfmt.quant import coverage
from modelfmt.quant import imatrix as matrices
from modelfmt.quant.coverage import Finding
from modelfmt.quant.imatrix import Importance
from modelfmt.storage.files import Files

__all__ = ["Coverage", "EntryInfo", "Finding", "ImatrixInfo", "check", "inspect", "merge", "read"]

PathLike = str | os.PathLike[str]


class EntryInfo(msgspec.Struct, frozen=True):
    """One entry. width: columns. experts: matrices, 1 where the tensor is one (a .dat file does not tell them apart).

    least_tokens, most_tokens: how many tokens (in a .dat file: calls) the least and the most used expert saw. unseen:
    experts that saw none. problem: why its values cannot be used; the counts are then not known.
    """

    name: str
    width: int
    experts: int
    least_tokens: int | None
    most_tokens: int | None
    unseen: int | None
    problem: str | None = None


class ImatrixInfo(msgspec.Struct, frozen=True):
    """What an importance matrix holds. form: "gguf" or "dat". chunk_size: tokens of a chunk, 0 where not known."""

    path: str
    form: str
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    entries: tuple[EntryInfo, ...]
    schema: str = "modelfmt.imatrix/1"


class Coverage(msgspec.Struct, frozen=True):
    """How an importance matrix fits a model. tensors: those that can be quantized; covered: how many have an entry of
    their size."""

    path: str
    model: str
    tensors: int
    covered: int
    findings: tuple[Finding, ...]
    schema: str = "modelfmt.imatrix_check/1"


@contextmanager
def read(path: PathLike) -> Iterator[Importance]:
    """An importance matrix, open while the `with` block lasts; its entries are read when they are asked for.

    Raises SourceMissing, CorruptFile, UnsupportedError.
    """
    files = Files()
    try:
        yield files_of.read(os.fspath(path), files)
    finally:
        files.close()


def inspect(path: PathLike) -> ImatrixInfo:
    """Entries, widths, experts, counts and datasets of an importance matrix; values that are NaN, infinite or negative
    are a `problem` of their entry.

    Raises SourceMissing, CorruptFile, UnsupportedError.
    """
    with read(path) as found:
        rows = tuple(_entry_info(found, name) for name in found.entries)
        form = "dat" if found.legacy else "gguf"
        return ImatrixInfo(os.fspath(path), form, found.datasets, found.chunk_count, found.chunk_size, rows)


def merge(paths: Sequence[PathLike], out: PathLike, *, chunk_size: int = 512, overwrite: bool = False) -> ImatrixInfo:
    """Add importance matrices of one model and write the result, in the form that its name says (.gguf, .dat).

    One path alone converts between the forms. chunk_size: tokens of a chunk, where .dat files, which do not say, meet
    the GGUF form. One entry is held in memory at a time. Returns what `inspect` finds in the result. Raises UsageError
    (importance-shape: matrices of different models; imatrix-form), CorruptFile, DestinationExists, OutputError.
    """
    target = os.fspath(out)
    form = files_of.form(target)
    if chunk_size <= 0:
        raise UsageError("a chunk has at least one token", code="chunk-size", found=chunk_size)
    files = Files()
    try:
        parts = [files_of.read(os.fspath(path), files) for path in paths]
        legacy = len(parts) == 1 and parts[0].legacy and form == "dat"
        files_of.write(parts[0] if legacy else matrices.merge(parts, chunk_size), target, overwrite=overwrite)
    finally:
        files.close()
    return inspect(target)


def check(path: PathLike, model: PathLike | Model) -> Coverage:
    """Compare an importance matrix with the GGUF tensors that a conversion of the model gives.

    model: a checkpoint folder or a GGUF file. Findings: tensors without an entry, entries of no tensor, sizes that do
    not fit, values that are NaN, infinite or negative, experts that no token reached. Raises SourceMissing,
    CorruptFile, UnsupportedError (the architecture).
    """
    from modelfmt.routes import gguf

    opened = sources.open(model if isinstance(model, Model) else Path(model).absolute())
    try:
        shapes, quantizable = gguf.quantizable(opened)
        with read(path) as found:
            findings = coverage.missing(found, quantizable) + coverage.examine(found, shapes)
            covered = sum(name in found and found.fits(name, shapes[name]) for name in quantizable)
        return Coverage(os.fspath(path), opened.path, len(quantizable), covered, tuple(findings))
    finally:
        if opened is not model:
            opened.close()


def _entry_info(found: Importance, name: str) -> EntryInfo:
    experts, width = found.entries.shapes[name]
    try:
        counts = found.entries[name].counts
    except CorruptFile as error:
        return EntryInfo(name, width, experts, None, None, None, f"{error.message} ({error.place}: {error.found})")
    return EntryInfo(name, width, experts, int(counts.min()), int(counts.max()), int((counts <= 0).sum()))
