"""The modules of a sentence-transformers folder behind the first, as far as they have weights: Dense.

Their tensors go by FOLDER/NAME, as `linear.weight` of the file in `2_Dense` is `2_Dense/linear.weight`; other tensors
have no slash in their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression

__all__ = ["headers", "is_module", "laid_out", "layouts", "tensors"]

_FILE = "model.safetensors"


def tensors(model: Model) -> dict[str, Expression]:
    """The tensors of all modules of a Hugging Face folder."""
    rows = model.extras.get("huggingface", {}).get("modules", ())
    return {f"{row['path']}/{name}": tensor.expr for row in rows for name, tensor in row["tensors"].items()}


def headers(model: Model, root: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The files in `root` that hold some of these tensors, and the text of each header; safetensors only."""
    for folder in dict.fromkeys(name.partition("/")[0] for name in names if "/" in name):
        if (root / folder / _FILE).is_file():
            yield f"{folder}/{_FILE}", safetensors.header(str(root / folder / _FILE), model.files)


def is_module(name: str) -> bool:
    """Whether a file of weights is that of a module."""
    folder, _, file = name.partition("/")
    return file == _FILE and folder.endswith("_Dense")


def laid_out(name: str, text: bytes) -> FileLayout:
    """The file of a module that a header's text describes. Raises what `safetensors.laid_out` does."""
    return _within(safetensors.laid_out(name, text), name.partition("/")[0])


def layouts(entries: Sequence[Entry]) -> list[FileLayout]:
    """New files for the tensors of modules."""
    made = []
    for folder in dict.fromkeys(entry.name.partition("/")[0] for entry in entries):
        own = [
            msgspec.structs.replace(row, name=row.name.partition("/")[2])
            for row in entries
            if row.name.startswith(f"{folder}/")
        ]
        (whole,), _ = safetensors.layout(own, metadata={"format": "pt"})
        made.append(_within(msgspec.structs.replace(whole, name=f"{folder}/{_FILE}"), folder))
    return made


def _within(layout: FileLayout, folder: str) -> FileLayout:
    placed = tuple(msgspec.structs.replace(tensor, name=f"{folder}/{tensor.name}") for tensor in layout.tensors)
    return msgspec.structs.replace(layout, tensors=placed)
