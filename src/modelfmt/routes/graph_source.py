"""What a graph is built from, the tensors and small files of a checkpoint or of a GGUF file; and its constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt.checkpoints import from_gguf, huggingface
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.grids import half_scales
from modelfmt.ir import grid
from modelfmt.ir.graph import ELEMENT_TYPES, GraphTensor
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Encoded, Expression, Nearest, Numbers, Packed, Regrid, nodes, source_label
from modelfmt.quant import integers
from modelfmt.quant.integers import Integers
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import DraftTensor, Options, narrowing
from modelfmt.storage import strict_json

if TYPE_CHECKING:
    from modelfmt.graphs.build import Made
    from modelfmt.graphs.builder import Form

__all__ = ["Checkpoint", "Constants", "blocks_asked", "built", "checkpoint_of", "constants"]

_INTEGERS = "int4, uint4, int8, uint8 (:16 to :256)"
_CODES = ("INT4", "INT8", "UINT4")
_LEFT_OUT = (".safetensors.index.json", ".bin.index.json")


class Checkpoint(msgspec.Struct):
    """Tensors and small files, and what is to be said of them."""

    architecture: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Expression]
    files: Mapping[str, bytes]
    notes: list[Note | Loss] = msgspec.field(default_factory=list)


def checkpoint_of(model: Model) -> Checkpoint:
    """A Hugging Face folder or a GGUF file as that. Raises UnsupportedError, CorruptFile."""
    if model.format == "gguf":
        tensors, files, losses, notes = from_gguf.view(model)
        config = strict_json.parse(files["config.json"], path="config.json", non_finite=True)
        return Checkpoint(huggingface.architecture(config), config, tensors, files, [*losses, *notes])
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


def blocks_asked(
    recipe: Recipe, options: Options, *, what: str, dense: Iterable[str], blocks: Sequence[str]
) -> str | Integers | None:
    """What the matrices of a graph are to be quantized to, None where nothing is. dense, blocks: the types that such a
    graph is built of. Raises UsageError."""
    label, whole = recipe.label, integers.parse(recipe.label)
    if (label not in (AUTO, *dense, *blocks) and whole is None) or recipe.own:
        raise UsageError(
            f"an {what} graph of these types is not built",
            code="quant-container",
            found=label,
            allowed=", ".join((AUTO, *dense, *blocks, _INTEGERS)),
        )
    if whole is not None and options.rounding != "ggml":
        raise UsageError("integers are rounded to nearest", code="rounding", found=options.rounding, allowed="ggml")
    return label if label in blocks else whole


def built(source: Checkpoint, form: Form, *, folder: str | None = None) -> Made:
    """The programs of a checkpoint. folder: where several of them go is a folder, which that option makes; None where
    any number is welcome. Raises UnsupportedError, UsageError, CorruptFile."""
    from modelfmt.graphs import build

    made = build.from_checkpoint(
        architecture=source.architecture,
        config=source.config,
        tensors=source.tensors,
        assets=source.files,
        form=form,
    )
    if len(made.programs) > 1 and folder is not None:
        raise UsageError(
            "this model is more than one graph",
            code="several-graphs",
            found=", ".join(made.programs),
            allowed="a folder",
            hint=f"name a folder, and say --to {folder}",
        )
    return made


class Constants(msgspec.Struct):
    """The constants of a graph, as they are written, and what is to be said of them."""

    chosen: dict[str, DraftTensor] = msgspec.field(default_factory=dict)
    losses: list[Loss] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)


def constants(tensors: Iterable[tuple[str, GraphTensor]], usual: str, said: Sequence[Note | Loss]) -> Constants:
    """The constants of a graph that was built. usual: the type of those that are dense. said: so far."""
    found = Constants(
        losses=[one for one in said if isinstance(one, Loss)], notes=[one for one in said if isinstance(one, Note)]
    )
    for key, tensor in tensors:
        assert tensor.data is not None
        stored, target = tensor.data.stored, ELEMENT_TYPES[tensor.type].encoding
        if stored.name == "U8" and tensor.type in _CODES:
            target = "U8"  # codes, whose bytes stay
        found.chosen[key] = DraftTensor(tensor.data, target, reason=_reason(tensor.data, target))
        found.losses += _losses(tensor.name, tensor.data, stored.name, target)
    widened = Counter(row.expr.stored.name for row in found.chosen.values() if not row.expr.stored.dense)
    found.notes += [
        Note(kind, f"{n} weights in blocks that have no operator become {usual}") for kind, n in widened.items()
    ]
    found.losses = list(dict.fromkeys(found.losses))  # a weight that two graphs have loses once
    return found


def _reason(expr: Expression, target: str) -> str:
    """Why a constant is what it is; of a part of a quantized matrix, which, and of what."""
    part = _part(expr)
    if part:
        made = _quantized(expr)
        return f"{part}, quantized to {made[1]}" if made else f"{part}, {_of(expr)}"
    return "kept" if expr.stored.name == target else "the graph's type"


def _quantized(expr: Expression) -> tuple[Expression, str] | None:
    """The dense values that a constant is quantized from, and the type; None where nothing is."""
    for node in nodes(expr):
        if isinstance(node, Encoded):
            return node.input, node.encoding
        if isinstance(node, Nearest):
            return node.input, str(Integers(grid.INTEGERS[node.table], node.size, node.rule.found != "range"))
    return None


def _part(expr: Expression) -> str:
    """Which part of a quantized matrix an expression is, also where its rows were moved."""
    found = next((node for node in nodes(expr) if isinstance(node, Packed | Numbers)), None)
    return "" if found is None else "codes" if isinstance(found, Packed) else f"{found.what}s"


def _of(expr: Expression) -> str:
    blocks = next((node.input.stored.name for node in nodes(expr) if isinstance(node, Regrid)), "")
    return f"blocks of {blocks}" if blocks else source_label(expr)


def _losses(key: str, expr: Expression, source: str, target: str) -> list[Loss]:
    part = _part(expr)
    made = _quantized(expr) if part else None
    if part == "codes" and made is not None:
        detail = f"{made[0].stored.name} to {made[1]}"
        return [Loss("quantized", key.removesuffix("_codes").removesuffix("_quantized"), detail)]
    if any(isinstance(node, Nearest) for node in nodes(expr)):
        return []  # made for this type of scales
    return [] if part == "scales" and target == "F16" and half_scales(expr) else narrowing(key, source, target)
