"""What is in a model file, from its headers alone, and what there is: `inspect`, `formats`, `architectures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt import sources
from modelfmt.formats import FORMATS, FormatInfo
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.ir.model import Model
    from modelfmt.sources import Source

__all__ = [
    "ArchitectureInfo",
    "ModelInfo",
    "RecordInfo",
    "TensorInfo",
    "architectures",
    "formats",
    "inspect",
]

_SHOWN_ELEMENTS = 8
_SHOWN_TEXT, _SHOWN_BEGINNING = 1 << 16, 80
_BRIEF_TEXT = 60


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
    """A model's headers. metadata: long arrays and texts (beyond 64 Ki) are shortened to their beginning and a count.
    estimators: of files that hold objects."""

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
        rows = tuple(TensorInfo(t.name, t.shape, t.kind, t.nbytes) for t in model.tensors.values())
        metadata = {key: _shown(value) for key, value in (model.metadata or model.config).items()}
        notes = tuple(str(note) for note in (*model.extras.get("notes", ()), *_becomes(model)))
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
        "huggingface", (), b"", True, "a Hugging Face checkpoint folder: config.json, *.safetensors, tokenizer"
    )
    distributed = FormatInfo(
        "torch_dcp", (), b"", False, "torch.distributed.checkpoint: .metadata and .distcp, of any number of ranks"
    )
    ranks = FormatInfo("torch_ranks", (), b"", False, "a PyTorch file of every rank (DTensor, ShardedTensor)")
    zero = FormatInfo("deepspeed", (), b"", False, "a ZeRO checkpoint's float32 weights, from the files of all ranks")
    adapter = FormatInfo("peft", (), b"", False, "a LoRA adapter: adapter_config.json, adapter_model.safetensors")
    return (folder, adapter, distributed, ranks, zero, *FORMATS.values())


class ArchitectureInfo(msgspec.Struct, frozen=True):
    """One architecture. gguf: its name there. classes, model_types: of config.json. rope: kinds of scaling. file: of
    its table. checked: how it was (`modelfmt.archs.checked`). back: the class that a file without carried keys becomes.
    """

    gguf: str
    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    rope: tuple[str, ...]
    file: str
    checked: tuple[str, ...]
    back: str


def architectures() -> tuple[ArchitectureInfo, ...]:
    """Every architecture that becomes GGUF, and comes back, by its GGUF name.

    >>> [row.classes for row in architectures() if row.gguf == "qwen3"]
    [('Qwen3ForCausalLM', 'Qwen3Model')]
    """
    from modelfmt import archs
    from modelfmt.archs.checked import CHECKED

    own = {*archs.GGUF.values(), *(other.table for others in archs.GGUF_OTHERS.values() for other in others)}
    found = []
    for place in archs.places():
        arch = archs.load(place)
        if not arch.hf:
            continue  # only inside other models
        back = arch if place in own else archs.find(gguf=arch.gguf)
        found.append(
            ArchitectureInfo(
                arch.gguf,
                arch.hf,
                arch.model_type,
                arch.rope.kinds if arch.rope else (),
                f"{place.partition('.')[0]}.py",
                CHECKED.get(place, ()),
                (back.writes or back.hf)[0],
            )
        )
    return tuple(sorted(found, key=lambda row: (row.gguf, row.classes)))


def _becomes(model: Model) -> list[str]:
    """What an estimator can be converted to."""
    if not isinstance(model.content, Record):
        return []
    from modelfmt.graphs.classical.table import covered

    return ["to .onnx it becomes a graph that predicts"] if covered(model.content) else []


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
    return text if len(text) <= _BRIEF_TEXT else f"{text[:_BRIEF_TEXT]}..."


def _shown(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _SHOWN_TEXT:
        return {"length": len(value), "first": value[:_SHOWN_BEGINNING]}
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or isinstance(value, Mapping):
        return value
    first = list(value[:_SHOWN_ELEMENTS])
    return first if len(value) <= _SHOWN_ELEMENTS else {"length": len(value), "first": first}
