"""To ONNX: an ONNX model as it is; from a checkpoint or a GGUF file the graph that its architecture's table describes.

A destination that ends in .onnx is that file; any other is a folder as optimum lays it out: model.onnx, config.json,
generation_config.json and the tokenizer's files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfmt.errors import UsageError
from modelfmt.formats import onnx
from modelfmt.ir.graph import ELEMENT_TYPES, Program, walk_tensors
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Encoded, Expression, Leaf, Numbers, Packed, Regrid, nodes, source_label
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing
from modelfmt.routes.graph_source import Checkpoint, checkpoint_of

__all__ = ["drafts"]

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")
IN_PLACE = "safetensors"
_TYPES = {"F32": "FLOAT", "F16": "FLOAT16"}
_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q6_K")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (F16 where most weights are, else F32), F32 or F16.

    Raises UnsupportedError (a source or an architecture without a graph), UsageError (options that mean nothing here).
    """
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError("options that mean nothing for ONNX", code="option-unused", found=", ".join(unused))
    from modelfmt.graphs.build import GENAI, PROFILES

    if options.profile not in PROFILES:
        raise UsageError("no such profile", code="profile", found=options.profile, allowed=", ".join(PROFILES))
    if model.program is not None:
        return [_kept(model, model.program, recipe, options) for recipe in wanted]
    if options.profile == GENAI and not options.folder:
        raise UsageError(
            "onnxruntime-genai loads a folder",
            code="profile-folder",
            found=options.profile,
            hint="name a folder, and say --to onnx; --profile ort makes a file",
        )
    source = checkpoint_of(model)
    return [_built(source, recipe, options) for recipe in wanted]


def _kept(model: Model, program: Program, recipe: Recipe, options: Options) -> Draft:
    """A model that has a graph: the same graph."""
    if recipe.label != AUTO or recipe.own:
        raise UsageError(
            "the types of a graph that is there are kept", code="quant-container", found=recipe.label, allowed=AUTO
        )
    chosen = {
        key: DraftTensor(tensor.data, tensor.data.stored.name, reason="kept")
        for key, tensor in walk_tensors(program)
        if tensor.data is not None
    }
    notes = [Note(model.path, str(note)) for note in model.extras.get("notes", ())]
    return Draft(recipe.label, chosen, _Build(program, options, {}), [], notes, folder=options.folder)


def _built(source: Checkpoint, recipe: Recipe, options: Options) -> Draft:
    """The graph of an architecture, with the checkpoint's weights."""
    from modelfmt.graphs import build
    from modelfmt.graphs.builder import Form

    label = recipe.label
    if label not in (AUTO, *_TYPES, *_BLOCKS) or recipe.own:
        raise UsageError(
            "an ONNX graph of these types is not built",
            code="quant-container",
            found=label,
            allowed="auto, " + ", ".join((*_TYPES, *_BLOCKS)),
        )
    blocks = label if label in _BLOCKS else None
    usual = _usual(source.tensors) if label == AUTO or blocks else label
    form = Form(
        _TYPES[usual],
        as_stored=options.external == IN_PLACE,
        blocks=blocks,
        rounding=options.rounding,
        profile=options.profile,
        carried=label not in _TYPES,
    )
    made = build.from_checkpoint(
        architecture=source.architecture,
        config=source.config,
        tensors=source.tensors,
        assets=source.files,
        form=form,
    )
    said = [*source.notes, *made.notes]
    losses = [one for one in said if isinstance(one, Loss)]
    chosen: dict[str, DraftTensor] = {}
    for key, tensor in walk_tensors(made.program):
        assert tensor.data is not None
        stored, target = tensor.data.stored, ELEMENT_TYPES[tensor.type].encoding
        if stored.name == "U8" and tensor.type in ("INT4", "INT8"):
            target = "U8"  # codes, whose bytes stay
        chosen[key] = DraftTensor(tensor.data, target, reason=_reason(tensor.data, target))
        losses += _losses(key, tensor.data, stored.name, target)
    files = {**source.files, **made.files} if options.folder else {}
    notes = [one for one in said if isinstance(one, Note)]
    widened = Counter(row.expr.stored.name for row in chosen.values() if not row.expr.stored.dense)
    notes += [
        Note(kind, f"{n} weights in blocks that ONNX has no operator for become {usual}") for kind, n in widened.items()
    ]
    return Draft(label, chosen, _Build(made.program, options, files), losses, notes, folder=options.folder)


def _reason(expr: Expression, target: str) -> str:
    """Why a constant is what it is; of a part of a quantized matrix, which, and of what."""
    part = _part(expr)
    if part:
        made = next((node for node in nodes(expr) if isinstance(node, Encoded)), None)
        return f"{part}, quantized to {made.encoding}" if made else f"{part}, {_of(expr)}"
    return "kept" if expr.stored.name == target else "the graph's type"


def _part(expr: Expression) -> str:
    return "codes" if isinstance(expr, Packed) else f"{expr.what}s" if isinstance(expr, Numbers) else ""


def _of(expr: Expression) -> str:
    blocks = next((node.input.stored.name for node in nodes(expr) if isinstance(node, Regrid)), "")
    return f"blocks of {blocks}" if blocks else source_label(expr)


def _losses(key: str, expr: Expression, source: str, target: str) -> list[Loss]:
    part = _part(expr)
    made = next((node for node in nodes(expr) if part and isinstance(node, Encoded)), None)
    if part == "codes" and made is not None:
        detail = f"{made.input.stored.name} to {made.encoding}"
        return [Loss("quantized", key.removesuffix("_codes").removesuffix("_quantized"), detail)]
    return [] if part == "scales" and target == "F16" and _exact_in_half(expr) else narrowing(key, source, target)


def _exact_in_half(expr: Expression) -> bool:
    """Whether a type has float16 scales, and nothing else that scales are made of."""
    for node in nodes(expr):
        if isinstance(node, Regrid):
            return [level.dtype for level in node.input.stored.levels] == ["F16"]
    return False


@dataclass(frozen=True)
class _Build:
    """Lays out the model, what lies beside it and, in a folder, the small files."""

    program: Program
    options: Options
    files: Mapping[str, bytes]

    def __call__(self, stem: str) -> list[FileLayout]:
        stem = "model" if self.options.folder else stem
        in_place = self.options.external == IN_PLACE
        whole, *beside = onnx.layout(
            self.program,
            stem=stem,
            external="auto" if in_place else self.options.external,
            shard_size=self.options.split_size,
            alignment=self.options.alignment,
            elsewhere=_elsewhere(self.program, Path(self.options.home)) if in_place else {},
        )
        if self.options.folder:
            whole = msgspec.structs.replace(whole, name="model.onnx")
        small = [FileLayout(name, len(data), data, ()) for name, data in self.files.items()]
        return [whole, *beside, *small]


def _elsewhere(program: Program, home: Path) -> dict[str, onnx.Elsewhere]:
    """The constants that lie, byte for byte, in a safetensors file of the folder. Raises UsageError without any."""
    found = {}
    for key, tensor in walk_tensors(program):
        leaf = tensor.data
        if not isinstance(leaf, Leaf) or leaf.big or leaf.encoding != ELEMENT_TYPES[tensor.type].encoding:
            continue
        file = Path(leaf.file)
        if file.suffix == ".safetensors" and file.resolve().parent == home.resolve():
            found[key] = onnx.Elsewhere(file.name, leaf.offset)
    if not found:
        raise UsageError(
            "no weight lies in a safetensors file beside the model",
            code="external",
            path=home,
            allowed="a destination in the folder of the checkpoint",
            hint="an ONNX model may only name files beside it",
        )
    return found


def _usual(tensors: Mapping[str, Expression]) -> str:
    """F16 where most weights are, else F32: ONNX Runtime has no bfloat16 on a CPU."""
    from math import prod

    half = sum(prod(expr.shape) for expr in tensors.values() if expr.stored.name == "F16")
    return "F16" if 2 * half > sum(prod(expr.shape) for expr in tensors.values()) else "F32"
