"""The header of an `.npy` array: read, checked, written.

Source: numpy/lib/_format_impl.py and the format's description (NEP 1), versions 1.0, 2.0 and 3.0. The header is a
literal, read by `literal`; it has exactly the keys descr, fortran_order and shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modelfmt.arrays.dtypes import DESCRIPTIONS, Element, described
from modelfmt.arrays.literal import LiteralError, parse
from modelfmt.arrays.values import check_shape
from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.storage.region import Region

__all__ = ["MAGIC", "Header", "header_bytes", "read_header"]

MAGIC = b"\x93NUMPY"
HEADER_LIMIT = 1 << 20
ALIGNMENT = 64
_VERSIONS = {(1, 0): (2, "latin-1"), (2, 0): (4, "latin-1"), (3, 0): (4, "utf-8")}
"""Version -> bytes of the header's length, and its characters."""
_KEYS = {"descr", "fortran_order", "shape"}


class Header(msgspec.Struct, frozen=True):
    """What a header says. data: where the elements lie, of exactly the size that shape and type ask for, unless these
    are objects (then a pickle lies there)."""

    element: Element
    shape: tuple[int, ...]
    fortran: bool
    data: Region


def read_header(region: Region, place: object = None) -> Header:
    """The header of an array that is all of a region. place: its name in an archive, for errors.

    Raises CorruptFile, LimitExceeded, UnsupportedError (another version).
    """
    head = region.read(0, min(region.size, 12))
    if head[:6] != MAGIC or len(head) < 10:
        raise _corrupt("no header of NumPy", "npy-magic", region, place, head[:6])
    version = (head[6], head[7])
    if version not in _VERSIONS:
        raise UnsupportedError(
            "an unknown version of NumPy's array format",
            code="npy-version",
            path=region.path,
            place=place,
            found="{}.{}".format(*version),
            allowed="1.0, 2.0, 3.0",
        )
    width, codec = _VERSIONS[version]
    length = int.from_bytes(head[8 : 8 + width], "little")
    if length > HEADER_LIMIT:
        raise LimitExceeded(
            "the header of an array is too long",
            code="header-size",
            path=region.path,
            place=place,
            found=length,
            allowed=f"at most {HEADER_LIMIT}",
        )
    raw = region.read(8 + width, length)
    try:
        found = parse(raw.decode(codec))
    except (LiteralError, UnicodeDecodeError) as error:
        raise _corrupt("the header of an array is no literal", "npy-header", region, place, str(error)) from None
    if not isinstance(found, dict) or set(found) != _KEYS or type(found["fortran_order"]) is not bool:
        raise _corrupt("the header of an array has other keys", "npy-header", region, place, raw[:80])
    element = described(found["descr"])
    if element is None:
        raise _corrupt("an element type that is none", "npy-descr", region, place, str(found["descr"])[:80])
    begin = 8 + width + length
    data = region.part(begin, region.size - begin)
    shape = check_shape(found["shape"], element.size, data, place)
    return Header(element, shape, found["fortran_order"], data)


def header_bytes(encoding: str, shape: Sequence[int]) -> bytes:
    """The header that NumPy writes for an array in row-major order: version 1.0, padded to 64 bytes.

    >>> header_bytes("F32", (2, 3))[10:60]
    b"{'descr': '<f4', 'fortran_order': False, 'shape': "
    """
    sizes = "".join(f"{n}, " for n in shape[:-1]) + (f"{shape[-1]}" if shape else "") + ("," if len(shape) == 1 else "")
    text = f"{{'descr': '{DESCRIPTIONS[encoding]}', 'fortran_order': False, 'shape': ({sizes}), }}"
    # NumPy leaves room for the first size to grow in place
    text += " " * max(0, 21 - len(str(shape[0]))) if shape else ""
    padding = -(10 + len(text) + 1) % ALIGNMENT
    raw = text.encode("latin-1") + b" " * padding + b"\n"
    return MAGIC + b"\1\0" + len(raw).to_bytes(2, "little") + raw


def _corrupt(message: str, code: str, region: Region, place: object, found: object) -> CorruptFile:
    return CorruptFile(message, code=code, path=region.path, place=place, found=found)
