"""Layouts turned into files, and files opened by one reader: what the tests of the containers share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Leaf
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator


def payload(entries: Iterable[Entry], sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Bytes for every entry, the same at every run."""
    source = random.Random(7)
    return {entry.name: source.randbytes(sizes[entry.name]) for entry in entries}


def image(layout: FileLayout, data: Mapping[str, bytes]) -> bytes:
    """The file that a layout describes."""
    held = bytearray(layout.size)
    held[: len(layout.header)] = layout.header
    for placed in layout.tensors:
        assert len(data[placed.name]) == placed.size
        assert placed.offset >= len(layout.header)
        held[placed.offset : placed.offset + placed.size] = data[placed.name]
    assert len(held) == layout.size, "a tensor reached past the end of its file"
    return bytes(held)


def sizes(layouts: Iterable[FileLayout]) -> dict[str, int]:
    return {placed.name: placed.size for layout in layouts for placed in layout.tensors}


def opened(read: Callable[..., Model], path: Path | str) -> Model:
    files = Files()
    return read(str(path), files, Evaluator(files))


def opened_bytes(read: Callable[..., Model], data: bytes) -> Model:
    """A file that exists in memory only, called "memory"."""
    files = Files()
    files.register("memory", data)
    return read("memory", files, Evaluator(files))


def contents(model: Model) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Encoding, shape and stored bytes of every tensor."""
    return {
        name: (tensor.encoding.name, tensor.shape, tensor.numpy(dequantize=False).tobytes())
        for name, tensor in model.items()
    }


def check_spans(model: Model) -> None:
    """Every tensor lies inside its file."""
    for tensor in model.values():
        assert isinstance(tensor.expr, Leaf)
        assert tensor.expr.offset >= 0
        assert tensor.expr.offset + tensor.nbytes <= model.files.size(tensor.expr.file)
