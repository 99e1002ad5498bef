"""Lays out a .pt or .bin that torch.load(weights_only=True) opens: the zip form, every storage as it is, aligned to 64.

Source: torch/serialization.py (_save) and caffe2/serialize/inline_container.cc of torch 2.13 (file format version 3);
PKWARE's APPNOTE 6.3. Storages come in the order of the tensors; tensors that share one (ties) name it twice. Checksums
are filled in once the data is there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats.pytorch_types import TORCH_NAMES
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry, FileLayout, Placed
from modelfmt.storage.zip_writer import ALIGNMENT, ZipWriter

__all__ = ["layout", "state_dict"]

ROOT = "archive"


def layout(entries: Sequence[Entry], *, ties: Mapping[str, str] | None = None) -> FileLayout:
    """Where everything lies in one file. ties: further names for tensors of `entries`.

    Raises UsageError (a name twice), UnsupportedError (an encoding that torch has no dtype for).
    """
    ties = ties or {}
    _check(entries, ties)
    small = {"data.pkl": state_dict(entries, ties), ".format_version": b"1", ".storage_alignment": b"%d" % ALIGNMENT}
    writer = ZipWriter(ROOT + "/")
    for name, data in (small | {"byteorder": b"little"}).items():
        writer.small(name, data)
    placed = []
    for key, entry in enumerate(entries):
        row = ENCODINGS[entry.encoding]
        size = prod(entry.shape) // row.block_elements * row.block_bytes
        placed.append(Placed(entry.name, entry.encoding, tuple(entry.shape), writer.large(f"data/{key}", size), size))
    writer.small("version", b"3\n")
    return writer.finish(tuple(placed))


def _check(entries: Sequence[Entry], ties: Mapping[str, str]) -> None:
    names: set[str] = set()
    for entry in entries:
        if entry.encoding not in TORCH_NAMES:
            raise UnsupportedError(
                "PyTorch has no dtype for this encoding",
                code="dtype",
                place=entry.name,
                found=entry.encoding,
                allowed=" ".join(TORCH_NAMES),
            )
        if entry.encoding == "F4" and (not entry.shape or entry.shape[-1] % 2):
            raise UnsupportedError(
                "rows of whole bytes are needed", code="sub-byte", place=entry.name, found=entry.shape
            )
        if entry.name in names:
            raise UsageError("a tensor name is given twice", code="duplicate-key", place=entry.name)
        names.add(entry.name)
    for name, kept in ties.items():
        if name in names or kept not in names:
            raise UsageError("a tie to a tensor that is not there", code="tie", place=name, found=kept)


def state_dict(entries: Sequence[Entry], ties: Mapping[str, str]) -> bytes:
    """The pickle (protocol 2) of an OrderedDict of tensors, each over the storage of its number."""
    pickle = _Pickle()
    pickle.name("collections", "OrderedDict")
    pickle.add(b")R(")
    number = {entry.name: key for key, entry in enumerate(entries)}
    for name in (*number, *ties):
        pickle.text(name)
        key = number[ties.get(name, name)]
        _tensor(pickle, entries[key], key)
    pickle.add(b"u.")
    return bytes(pickle.data)


def _tensor(pickle: _Pickle, entry: Entry, key: int) -> None:
    """_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()); _v3 adds the dtype to an untyped storage."""
    dtype, storage = TORCH_NAMES[entry.encoding]
    row = ENCODINGS[entry.encoding]
    shape = list(entry.shape)
    if entry.encoding == "F4":
        shape[-1] //= 2
    units = prod(shape)
    pickle.name("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
    pickle.add(b"((")
    pickle.text("storage")
    pickle.name(*(("torch", storage) if storage else ("torch.storage", "UntypedStorage")))
    pickle.text(str(key))
    pickle.text("cpu")
    pickle.integer(units if storage else units * row.block_bytes)
    pickle.add(b"tQK\0(")
    for size in shape:
        pickle.integer(size)
    pickle.add(b"t(")
    for axis in range(len(shape)):
        pickle.integer(max(1, prod(max(1, size) for size in shape[axis + 1 :])))
    pickle.add(b"t\x89")
    pickle.name("collections", "OrderedDict")
    pickle.add(b")R")
    if not storage:
        pickle.name("torch", dtype)
    pickle.add(b"tR")


class _Pickle:
    """Opcodes of protocol 2, written in order; names and short texts that come again are taken from the memo."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")
        self.memo: dict[object, int] = {}

    def add(self, opcodes: bytes) -> None:
        self.data += opcodes

    def name(self, module: str, name: str) -> None:
        self._known((module, name), f"c{module}\n{name}\n".encode())

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._known(value, b"X" + struct.pack("<I", len(raw)) + raw)

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.data += b"K" + bytes([value])
        elif value < 1 << 31:
            self.data += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.data += b"\x8a" + bytes([len(raw)]) + raw

    def _known(self, key: object, opcodes: bytes) -> None:
        if key in self.memo:
            self.data += b"j" + struct.pack("<I", self.memo[key])
            return
        self.memo[key] = len(self.memo)
        self.data += opcodes + b"r" + struct.pack("<I", self.memo[key])
