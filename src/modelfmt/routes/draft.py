"""What every route produces: the files of a destination, and for each of their tensors where its values come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfmt.ir.layout import FileLayout
from modelfmt.ir.ops import Expression
from modelfmt.report import Loss, Note

__all__ = ["Draft", "DraftTensor", "Options", "narrowing"]


@dataclass(frozen=True)
class Options:
    """What the caller asked for, as far as routes care. Sizes are bytes; importance: an
    `Importance` or None. intermediate: the dense type that values pass through on their way from a checkpoint. carry:
    write keys for what the destination lacks of the source."""

    tensor_types: tuple[tuple[str, str], ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    importance: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pre: str | None = None
    split_size: int | None = None
    split_tensors: int | None = None
    alignment: int | None = None
    allow_requantize: bool = False
    intermediate: str = "auto"
    rounding: str = "ggml"
    carry: bool = True


@dataclass(frozen=True)
class DraftTensor:
    """One tensor of a draft: its source expression, and how it is encoded (see modelfmt.plans.Sink)."""

    expr: Expression
    encoding: str
    via: str | None = None
    importance: str | None = None
    reason: str = ""


@dataclass
class Draft:
    """One destination in one type. build: lays the files out once the name of the destination is known (its stem).

    folder: the destination is a folder, and every file has a name in it.
    """

    quant: str
    tensors: dict[str, DraftTensor]
    build: Callable[[str], list[FileLayout]]
    losses: list[Loss] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    folder: bool = False


_NARROWER = {
    ("F32", "F16"),
    ("F32", "BF16"),
    ("F64", "F32"),
    ("F64", "F16"),
    ("F64", "BF16"),
    ("BF16", "F16"),
    ("F16", "BF16"),
}


def narrowing(name: str, source: str, target: str) -> list[Loss]:
    """The loss, if any, of storing a tensor of one dense type in another."""
    if (source, target) in _NARROWER:
        return [Loss("narrowed", name, f"{source} to {target}")]
    return []
