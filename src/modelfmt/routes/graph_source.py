"""What a graph is built from: the tensors and small files of a checkpoint or of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt.checkpoints import from_gguf
from modelfmt.errors import UnsupportedError
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression
from modelfmt.report import Loss, Note
from modelfmt.storage import strict_json

__all__ = ["Checkpoint", "checkpoint_of"]

_LEFT_OUT = (".safetensors.index.json", ".bin.index.json")


@dataclass
class Checkpoint:
    """Tensors and small files, and what is to be said of them."""

    architecture: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Expression]
    files: Mapping[str, bytes]
    notes: list[Note | Loss] = field(default_factory=list)


def checkpoint_of(model: Model) -> Checkpoint:
    """A Hugging Face folder or a GGUF file as that. Raises UnsupportedError, CorruptFile."""
    if model.format == "gguf":
        tensors, files, losses, notes = from_gguf.view(model)
        config = strict_json.parse(files["config.json"], path="config.json", non_finite=True)
        classes = config.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else None
        return Checkpoint(first, config, tensors, files, [*losses, *notes])
    if not model.config:
        raise UnsupportedError(
            "neither a graph nor an architecture in this source",
            code="source-kind",
            path=model.path,
            found=model.format,
            allowed="an ONNX model, a Hugging Face folder, a GGUF file",
        )
    tensors = {name: tensor.expr for name, tensor in model.tensors.items()}
    files = {name: data for name, data in model.assets.items() if not name.endswith(_LEFT_OUT)}
    said: list[Note | Loss] = [Note("checkpoint", str(note)) for note in model.extras.get("notes", ())]
    return Checkpoint(model.architecture, model.config, tensors, files, said)
