"""What is in a model file, from its headers alone: `modelfmt.inspect`, `modelfmt.formats`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt import sources
from modelfmt.formats import FORMATS, FormatInfo

if TYPE_CHECKING:
    from modelfmt.sources import Source

__all__ = ["ModelInfo", "TensorInfo", "formats", "inspect"]

_SHOWN_ELEMENTS = 8


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor. shape: row-major. size: stored bytes."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    size: int


class ModelInfo(msgspec.Struct, frozen=True):
    """A model's headers. metadata: long arrays are shortened to their first elements and a count."""

    path: str
    format: str
    architecture: str | None
    n_params: int
    size: int
    encodings: dict[str, int]
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    notes: tuple[str, ...] = ()
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
        )


def formats() -> tuple[FormatInfo, ...]:
    """Every container and folder convention that modelfmt knows."""
    folder = FormatInfo(
        "huggingface", (), b"", False, "a Hugging Face checkpoint folder: config.json, *.safetensors, tokenizer"
    )
    distributed = FormatInfo(
        "torch_dcp", (), b"", False, "torch.distributed.checkpoint: .metadata and .distcp, of any number of ranks"
    )
    ranks = FormatInfo("torch_ranks", (), b"", False, "a PyTorch file of every rank (DTensor, ShardedTensor)")
    zero = FormatInfo("deepspeed", (), b"", False, "a ZeRO checkpoint's float32 weights, from the files of all ranks")
    return (folder, distributed, ranks, zero, *FORMATS.values())


def _shown(value: Any) -> Any:
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or isinstance(value, Mapping):
        return value
    first = list(value[:_SHOWN_ELEMENTS])
    return first if len(value) <= _SHOWN_ELEMENTS else {"length": len(value), "first": first}
