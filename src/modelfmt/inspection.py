"""What is in a model file, from its headers alone: `modelfmt.inspect`, `modelfmt.formats`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt import sources
from modelfmt.formats import FORMATS, FormatInfo
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.sources import Source

__all__ = ["ModelInfo", "RecordInfo", "TensorInfo", "formats", "inspect"]

_SHOWN_ELEMENTS = 8
_SHOWN_TEXT = 60


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor. shape: row-major. size: stored bytes."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    size: int


class RecordInfo(msgspec.Struct, frozen=True):
    """One estimator or transformer. name: in the file, "" for the whole. params: its parameters, shortened. fitted:
    names of what it has learned."""

    name: str
    type: str
    version: str | None
    params: dict[str, str]
    fitted: tuple[str, ...]


class ModelInfo(msgspec.Struct, frozen=True):
    """A model's headers. metadata: long arrays are shortened to their first elements and a count. estimators: of files
    that hold objects."""

    path: str
    format: str
    architecture: str | None
    n_params: int
    size: int
    encodings: dict[str, int]
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    notes: tuple[str, ...] = ()
    estimators: tuple[RecordInfo, ...] = ()
    schema: str = "modelfmt.inspect/1"

    def to_json(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self)


def inspect(source: Source, *, tensors: bool = True) -> ModelInfo:
    """The headers of a model: format, architecture, sizes, metadata and (unless tensors=False) every tensor.

    Raises SourceMissing, UnsupportedError, CorruptFile.

    >>> import numpy as np
    >>> inspect({"w": np.ones((2, 3), "f4")}).encodings
    {'F32': 1}
    """
    with sources.open(source) as model:
        rows = tuple(TensorInfo(t.name, t.shape, t.encoding.name, t.nbytes) for t in model.tensors.values())
        metadata = {key: _shown(value) for key, value in (model.metadata or model.config).items()}
        notes = tuple(str(note) for note in model.extras.get("notes", ()))
        return ModelInfo(
            path=model.path,
            format=model.format,
            architecture=model.architecture,
            n_params=model.n_params,
            size=sum(row.size for row in rows),
            encodings=dict(Counter(row.encoding for row in rows).most_common()),
            metadata=metadata,
            tensors=rows if tensors else (),
            notes=notes,
            estimators=tuple(_estimator(name, record) for name, record in model.estimators.items()),
        )


def formats() -> tuple[FormatInfo, ...]:
    """Every container and folder convention that modelfmt knows."""
    folder = FormatInfo(
        "huggingface", (), b"", False, "a Hugging Face checkpoint folder: config.json, *.safetensors, tokenizer"
    )
    return (folder, *FORMATS.values())


def _estimator(name: str, record: Record) -> RecordInfo:
    params = {key: _brief(value) for key, value in record.params.items()}
    return RecordInfo(name, record.type, record.version, params, tuple(record.fitted))


def _brief(value: Any) -> str:
    """A parameter in a few characters."""
    if isinstance(value, Record):
        return f"{value.name}(..)"
    if isinstance(value, list | tuple | dict) and len(value) > _SHOWN_ELEMENTS:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."


def _shown(value: Any) -> Any:
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or isinstance(value, Mapping):
        return value
    first = list(value[:_SHOWN_ELEMENTS])
    return first if len(value) <= _SHOWN_ELEMENTS else {"length": len(value), "first": first}
