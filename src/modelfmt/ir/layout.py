"""Where everything of an output file will lie: known from names, types and shapes alone, before a weight is read."""

from __future__ import annotations

import msgspec

__all__ = ["Checksum", "Entry", "FileLayout", "Placed"]


class Entry(msgspec.Struct, frozen=True):
    """A tensor to be written. shape: row-major. encoding: a name of `modelfmt.ir.encoding.ENCODINGS`."""

    name: str
    encoding: str
    shape: tuple[int, ...]


class Placed(msgspec.Struct, frozen=True):
    """A tensor with its place: `size` bytes at `offset` from the start of the file."""

    name: str
    encoding: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Checksum(msgspec.Struct, frozen=True):
    """The CRC-32 of `size` bytes at `offset`, which stands, little-endian, at each of `places` (outside tensors)."""

    offset: int
    size: int
    places: tuple[int, ...]


class FileLayout(msgspec.Struct, frozen=True):
    """One output file: `size` bytes that begin with `header`; bytes that belong to nothing are zero.

    name: the file's name where the format decides it (shards of a split), otherwise empty. patches: further bytes
    between and behind the tensors, with their offsets. checksums: what can only be known once the tensors are written.
    """

    name: str
    size: int
    header: bytes
    tensors: tuple[Placed, ...]
    patches: tuple[tuple[int, bytes], ...] = ()
    checksums: tuple[Checksum, ...] = ()
