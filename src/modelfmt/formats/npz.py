"""NumPy's `.npz`: a zip of `.npy` members, stored or deflated. Written stored, with data aligned to 64 bytes.

Source: numpy/lib/_npyio_impl.py (savez, NpzFile). A stored member's array is a byte range of the file; a deflated one
is inflated while it is read, in bounded memory. Arrays of objects are refused by name, like in `npy`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from modelfmt.arrays.model import fill, written
from modelfmt.arrays.npy import header_bytes, read_header
from modelfmt.errors import UsageError
from modelfmt.ir.layout import Entry, FileLayout, Placed
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Reader
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import Archive
from modelfmt.storage.zip_writer import ZipWriter

__all__ = ["layout", "read", "sniff_members"]

_SUFFIX = ".npy"


def sniff_members(names: Collection[str]) -> bool:
    """True where the members of a zip archive are arrays of NumPy."""
    return bool(names) and all(name.endswith(_SUFFIX) for name in names)


def read(path: str, files: Files, reader: Reader) -> Model:
    """The arrays by their names, in the order of the archive; columns of tables as "NAME.COLUMN".

    extras["npz"]: compressed (names of deflated members). extras["notes"]: members that are no arrays. Raises
    SourceMissing, CorruptFile, LimitExceeded, UnsupportedError (objects, dates, raw bytes).
    """
    archive = Archive(Region.whole(path, files))
    arrays = [name for name in archive.members if name.endswith(_SUFFIX)]
    headers = {name.removesuffix(_SUFFIX): read_header(archive.stream(name), name) for name in arrays}
    own = {"compressed": [name for name in arrays if not archive.members[name].stored]}
    notes = [f"left out: {name} is no array" for name in archive.members if not name.endswith(_SUFFIX)]
    model = Model("npz", path, files=files, extras={"npz": own, "notes": notes})
    fill(model, headers, reader)
    return model


def layout(entries: Sequence[Entry]) -> FileLayout:
    """Where everything lies in one file.

    Raises UnsupportedError (no type string), UsageError (a name twice, or one that leads out of a folder).
    """
    writer = ZipWriter()
    placed = []
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise UsageError("a tensor name is given twice", code="duplicate-key", place=entry.name)
        if not _proper(entry.name):
            raise UsageError("not a name for a member of an archive", code="name", place=entry.name)
        names.add(entry.name)
        size = written(entry)
        begin = writer.large(entry.name + _SUFFIX, size, header_bytes(entry.encoding, entry.shape))
        placed.append(Placed(entry.name, entry.encoding, tuple(entry.shape), begin, size))
    return writer.finish(tuple(placed))


def _proper(name: str) -> bool:
    return (
        0 < len(name.encode(errors="surrogatepass")) < 60_000
        and not name.startswith(("/", "\\"))
        and ".." not in name.replace("\\", "/").split("/")
        and all(c >= " " and not "\ud800" <= c <= "\udfff" for c in name)
    )
