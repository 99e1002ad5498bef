"""What every route produces: the files of a destination, and for each of their tensors where its values come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelfmt.errors import UsageError
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression
from modelfmt.ir.record import Record, Texts, walk
from modelfmt.ir.tensor import Tensor
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note

__all__ = ["DENSE_TYPES", "Draft", "DraftTensor", "Options", "dense_tensors", "narrowing", "stored_tensors", "ties"]

DENSE_TYPES = ("F32", "F16", "BF16")


class Options(msgspec.Struct, frozen=True):
    """What the caller asked for, as far as routes care. Sizes are bytes; importance: an
    `Importance` or None. intermediate: the dense type that values pass through on their way from a checkpoint. carry:
    write keys for what the destination lacks of the source. nextn: write the layers that predict further tokens. base:
    the model that an adapter is for. transcode: a policy of modelfmt.quant.transcode. target: the destination's format.
    external: where the constants of a graph go. folder: the destination is one. home: the folder that it is, or lies
    in. profile: which operators an ONNX graph may have.
    accuracy_level: what these may round what they multiply to."""

    tensor_types: tuple[tuple[str, str], ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    importance: Any = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    pre: str | None = None
    split_size: int | None = None
    split_tensors: int | None = None
    alignment: int | None = None
    allow_requantize: bool = False
    intermediate: str = "auto"
    rounding: str = "ggml"
    carry: bool = True
    nextn: bool = True
    base: Model | None = None
    transcode: str = "auto"
    target: str = ""
    external: str = "auto"
    folder: bool = False
    home: str = ""
    profile: str = "auto"
    accuracy_level: int = 0


class DraftTensor(msgspec.Struct, frozen=True):
    """One tensor of a draft: its source expression, and how it is encoded (see modelfmt.plans.Sink)."""

    expr: Expression
    encoding: str
    via: str | None = None
    importance: str | None = None
    reason: str = ""
    moved: str = ""
    bound: float | None = None


class Draft(msgspec.Struct):
    """One destination in one type. build: lays the files out once the name of the destination is known (its stem).

    folder: the destination is a folder, and every file has a name in it.
    """

    quant: str
    tensors: dict[str, DraftTensor]
    build: Callable[[str], list[FileLayout]]
    losses: list[Loss] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)
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


def dense_tensors(model: Model, recipe: Recipe) -> tuple[dict[str, DraftTensor], list[Loss]]:
    """Every tensor of a model for a container of dense types, and what that loses.

    recipe: "auto" (what the source has; quantized tensors become F32) or one of DENSE_TYPES, which only floating-point
    tensors follow. Raises UsageError.
    """
    quant = recipe.label
    if quant not in (AUTO, *DENSE_TYPES) or recipe.own:
        raise UsageError(
            "this container holds dense types only",
            code="quant-container",
            found=quant,
            allowed="auto, " + ", ".join(DENSE_TYPES),
            hint="choose a .gguf destination",
        )
    chosen: dict[str, DraftTensor] = {}
    losses: list[Loss] = []
    for tensor in stored_tensors(model, as_stored=quant == AUTO).values():
        source = tensor.encoding
        kept = source.dense and (quant == AUTO or source.element.kind != "float")
        target = source.name if kept else "F32" if quant == AUTO else quant
        chosen[tensor.name] = DraftTensor(tensor.expr, target, reason="as asked" if target != source.name else "kept")
        losses += narrowing(tensor.name, source.name, target)
    return chosen, losses + _objects(model)


def _objects(model: Model) -> list[Loss]:
    """What a container of tensors does not hold of a file of objects."""
    left = [value for _, value in walk(model.content, path=model.path) if isinstance(value, Record | Texts)]
    what = f"{len(left)} objects and arrays of text: classes, parameters, labels; only tensors are written"
    return [Loss("dropped", model.path, what)] if left else []


def stored_tensors(model: Model, *, as_stored: bool) -> Mapping[str, Tensor]:
    """The tensors of a model: of a quantized checkpoint those that its scheme means, or as they lie in the files.

    Raises what was wrong with the scheme, where its tensors are asked for.
    """
    found: Mapping[str, Any] = model.extras.get("quantization", {})
    if as_stored and "stored" in found:
        stored: Mapping[str, Tensor] = found["stored"]
        return stored
    if "error" in found and not as_stored:
        raise found["error"]
    return model.tensors


def ties(chosen: Mapping[str, DraftTensor]) -> dict[str, str]:
    """Of tensors that are the same bytes of the same file: the name of each but the first -> the name of the first."""
    first: dict[Expression, str] = {}
    tied = {}
    for name, row in chosen.items():
        if 0 in row.expr.shape:
            continue
        kept = first.setdefault(row.expr, name)
        if kept != name:
            tied[name] = kept
    return tied
