"""joblib's arrays: raw bytes that stand in the middle of a pickle, behind the object that describes them.

Source: joblib/numpy_pickle.py (NumpyArrayWrapper.write_array) of joblib 0.9 to 1.6. After BUILD come, where the object
has numpy_array_alignment_bytes, one byte with the length of the padding, the padding, and the array; for arrays of
objects, a pickle. `follow_array` is what Machine calls after each BUILD: it leaves the bytes (or what the pickle holds)
as a second state of the call. Older versions kept each array in a file beside the pickle (`beside`).
"""

from __future__ import annotations

import os
from math import prod
from typing import Any

from modelfmt.arrays.npy import read_header
from modelfmt.arrays.values import check_shape
from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.pickles.arrays import JOBLIB_WRAPPERS, Located, dtype
from modelfmt.pickles.machine import Machine, load
from modelfmt.pickles.tree import entries, integers, text
from modelfmt.pickles.values import Blob, Call
from modelfmt.storage.inflated import Inflated
from modelfmt.storage.paths import contained
from modelfmt.storage.region import Region

__all__ = ["BESIDE", "OLD_ZLIB", "beside", "follow_array", "old_zlib"]

_ALIGNMENT = "numpy_array_alignment_bytes"
_MAX_INNER = 64
OLD_ZLIB = b"ZF"
"""The first bytes of what joblib before 0.10 compressed."""
_DIGITS = 19
_PACKAGES = ("joblib", "sklearn.externals.joblib")
_MODULES = ("numpy_pickle", "numpy_pickle_compat")
BESIDE = frozenset(
    f"{package}.{module}.{name}"
    for package in _PACKAGES
    for module in _MODULES
    for name in ("NDArrayWrapper", "ZNDArrayWrapper")
)
"""Objects that name the file of an array."""


def follow_array(machine: Machine, call: Call) -> None:
    """Move the machine past the bytes that belong to an array; a pickle in their place is followed and recorded."""
    if call.name not in JOBLIB_WRAPPERS or len(call.states) != 1:
        return
    state = entries(call.states[0]) or {}
    shape, element = integers(state.get("shape")), dtype(state.get("dtype"))
    stream = machine.stream
    if shape is None or min(shape, default=0) < 0:
        raise machine.corrupt("an array without a shape", "array-shape")
    if element is None:
        raise machine.corrupt("an array of a type that is none", "array-dtype")
    if element.size is None:
        call.states = (*call.states, _objects(machine))
        return
    if state.get(_ALIGNMENT) is not None:
        stream.skip(stream.take(1)[0])
    call.states = (*call.states, Blob(stream.skip(prod(shape) * element.size)))


def _objects(machine: Machine) -> Any:
    """The value of the pickle that stands here; what it names and calls is recorded with the rest."""
    stream, result = machine.stream, machine.result
    result.inner += 1
    if result.inner > _MAX_INNER:
        raise LimitExceeded(
            "too many pickles inside a pickle",
            code="pickle-nested",
            path=stream.region.path,
            place=f"byte {machine.place}",
            allowed=f"at most {_MAX_INNER}",
        )
    inner = load(stream.region, stream.at, on_build=follow_array, depth=machine.depth + 1, damaged=True)
    result.globals_ += inner.globals_
    result.calls += inner.calls
    result.persistents += inner.persistents
    machine.spend(100 * len(inner.calls))
    if inner.damage is not None:
        raise inner.damage
    stream.seek(inner.end)
    return inner.root


def old_zlib(region: Region, name: str) -> Region:
    """What joblib before 0.10 compressed: "ZF", the size in 19 hexadecimal digits, a zlib stream.

    name: what the content is registered under. Raises CorruptFile.
    """
    head = region.read(0, min(region.size, 2 + _DIGITS)).removeprefix(OLD_ZLIB)
    try:
        size = int(head.split(b"L")[0].strip(), 16)
    except ValueError:
        raise CorruptFile("no size before a zlib stream", code="joblib-size", path=region.path, found=head) from None
    begin = 2 + _DIGITS
    begin += region.read(begin, min(1, region.size - begin)) == b" "  # joblib before 0.8.5 in Python 2
    body = region.part(begin, region.size - begin)
    if not 0 <= size <= 1100 * body.size:
        raise CorruptFile("a size that no zlib stream has", code="joblib-size", path=region.path, found=size)
    files = region.files
    return Region.whole(files.attach(name, Inflated(body, "zlib", size=size)), files)


def beside(call: Call, region: Region, path: str) -> Located | None:
    """The array in the file that a call of BESIDE names. path: of the pickle's file.

    Raises UnsafePath (a name that leads out of the folder), SourceMissing, CorruptFile.
    """
    state = entries(call.states[-1]) if call.states else None
    name = text((state or {}).get("filename"))
    if state is None or name is None:
        return None
    place = contained(os.path.dirname(path) or ".", name, named_in=path)  # noqa: PTH120  a path stays as it was given
    whole = Region.whole(str(place), region.files)
    if not call.name.endswith("ZNDArrayWrapper"):
        header = read_header(whole)
        return Located(header.element, header.shape, header.fortran, header.data)
    rows = state.get("state")
    if not isinstance(rows, tuple) or len(rows) < 4:
        return None
    element, shape = dtype(rows[2]), integers(rows[1])
    if element is None or shape is None or element.size is None:
        raise UnsupportedError("an array without an encoding in a file beside", code="array-dtype", path=whole.path)
    data = old_zlib(whole, f"{whole.path}#inflated")
    return Located(element, check_shape(shape, element.size, data, name), rows[3] is True, data)
