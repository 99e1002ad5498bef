"""To ONNX: an ONNX model as it is; from a checkpoint or a GGUF file the graph that its architecture's table describes.

A destination that ends in .onnx is that file; any other is a folder as optimum lays it out: model.onnx, or the graphs
of an encoder and a decoder, config.json, generation_config.json and the tokenizer's files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelfmt.checkpoints import from_gguf
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import onnx
from modelfmt.ir.graph import ELEMENT_TYPES, GraphTensor, Program, walk_tensors
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import BlockPart, Expression, FlipBits, Leaf
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing
from modelfmt.storage import strict_json

__all__ = ["drafts"]

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")
IN_PLACE, STANDARD = "safetensors", "onnx-standard"
PROFILES = ("auto", STANDARD)
_TYPES = {"F32": "FLOAT", "F16": "FLOAT16"}
_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q6_K")
_EXACT_IN_HALF = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL")
_LEFT_OUT = (".safetensors.index.json", ".bin.index.json")


@dataclass
class _Checkpoint:
    """What a graph is built from: tensors and small files, and what is to be said of them."""

    architecture: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Expression]
    files: Mapping[str, bytes]
    notes: list[Note | Loss] = field(default_factory=list)


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (F16 where most weights are, else F32), F32 or F16.

    Raises UnsupportedError (a source or an architecture without a graph), UsageError (options that mean nothing here).
    """
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError("options that mean nothing for ONNX", code="option-unused", found=", ".join(unused))
    if options.profile not in PROFILES:
        raise UsageError("no such profile", code="profile", found=options.profile, allowed=", ".join(PROFILES))
    if model.program is not None:
        return [_kept(model, model.program, recipe, options) for recipe in wanted]
    checkpoint = _checkpoint(model)
    return [_built(checkpoint, recipe, options) for recipe in wanted]


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
    return Draft(recipe.label, chosen, _Build({"": program}, options, {}), [], notes, folder=options.folder)


def _built(checkpoint: _Checkpoint, recipe: Recipe, options: Options) -> Draft:
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
    usual = _usual(checkpoint.tensors) if label == AUTO or blocks else label
    form = Form(
        _TYPES[usual],
        as_stored=options.external == IN_PLACE,
        blocks=blocks,
        rounding=options.rounding,
        standard=options.profile == STANDARD,
        carried=label not in _TYPES,
    )
    made = build.from_checkpoint(
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        assets=checkpoint.files,
        form=form,
    )
    if len(made.programs) > 1 and not options.folder:
        raise UsageError(
            "this model is more than one graph",
            code="several-graphs",
            found=", ".join(made.programs),
            allowed="a folder",
            hint="name a folder, and say --to onnx",
        )
    said = [*checkpoint.notes, *made.notes]
    losses = [one for one in said if isinstance(one, Loss)]
    chosen: dict[str, DraftTensor] = {}
    for key, tensor in _tensors(made.programs):
        assert tensor.data is not None
        source, target = tensor.data.stored, ELEMENT_TYPES[tensor.type].encoding
        if source.name == "U8" and tensor.type in ("INT4", "INT8"):
            target = "U8"  # codes, whose bytes stay
        chosen[key] = DraftTensor(tensor.data, target, reason=_reason(tensor.data, target))
        losses += _losses(tensor.name, tensor.data, source.name, target)
    files = checkpoint.files if options.folder else {}
    notes = [one for one in said if isinstance(one, Note)]
    widened = Counter(row.expr.stored.name for row in chosen.values() if not row.expr.stored.dense)
    notes += [
        Note(kind, f"{n} weights in blocks that ONNX has no operator for become {usual}") for kind, n in widened.items()
    ]
    losses = list(dict.fromkeys(losses))  # a weight that two graphs have loses once
    return Draft(label, chosen, _Build(made.programs, options, files), losses, notes, folder=options.folder)


def _reason(expr: Expression, target: str) -> str:
    if isinstance(expr, FlipBits):
        expr = expr.input
    if isinstance(expr, BlockPart):
        how = "quantized to" if expr.input.stored.dense else "blocks of"
        return f"{expr.part}, {how} {expr.encoding}"
    return "kept" if expr.stored.name == target else "the graph's type"


def _losses(key: str, expr: Expression, source: str, target: str) -> list[Loss]:
    if isinstance(expr, FlipBits):
        expr = expr.input
    if not isinstance(expr, BlockPart):
        return narrowing(key, source, target)
    if expr.part == "codes" and expr.input.stored.dense:
        return [
            Loss(
                "quantized",
                key.removesuffix("_codes").removesuffix("_quantized"),
                f"{expr.input.stored.name} to {expr.encoding}",
            )
        ]
    return [] if expr.encoding in _EXACT_IN_HALF else narrowing(key, source, target)


def _tensors(programs: Mapping[str, Program]) -> Iterator[tuple[str, GraphTensor]]:
    """The constants of several programs, each with a key of its own."""
    for stem, program in programs.items():
        for key, tensor in walk_tensors(program):
            yield _key(programs, stem, key), tensor


def _key(programs: Mapping[str, Program], stem: str, key: str) -> str:
    return key if len(programs) == 1 else f"{stem}/{key}"


@dataclass(frozen=True)
class _Build:
    """Lays out the models by their stems, what lies beside them and, in a folder, the small files. Of a weight that
    several of them have, those files hold one copy."""

    programs: Mapping[str, Program]
    options: Options
    files: Mapping[str, bytes]

    def __call__(self, stem: str) -> list[FileLayout]:
        found: list[FileLayout] = []
        places: dict[tuple[int, str], onnx.Elsewhere] = {}
        for own, program in self.programs.items():
            found += self.model(own, program, (own or "model") if self.options.folder else stem, places)
        return found + [FileLayout(name, len(data), data, ()) for name, data in self.files.items()]

    def model(
        self, own: str, program: Program, stem: str, places: dict[tuple[int, str], onnx.Elsewhere]
    ) -> list[FileLayout]:
        """One model and what lies beside it. places: of constants that lie beside those before it; added to."""
        in_place = self.options.external == IN_PLACE
        tensors = {key: (id(tensor.data), tensor.type) for key, tensor in walk_tensors(program)}
        shared = {key: places[identity] for key, identity in tensors.items() if identity in places}
        whole, *beside = onnx.layout(
            program,
            stem=stem,
            external="auto" if in_place else self.options.external,
            shard_size=self.options.split_size,
            alignment=self.options.alignment,
            elsewhere=_elsewhere(program, Path(self.options.home)) if in_place else shared,
        )
        for layout in beside:
            for row in layout.tensors:
                places[tensors[row.name]] = onnx.Elsewhere(layout.name, row.offset)
        name = f"{stem}.onnx" if self.options.folder else ""
        return [self.named(own, layout, layout.name or name) for layout in (whole, *beside)]

    def named(self, own: str, layout: FileLayout, name: str) -> FileLayout:
        """A layout whose tensors have the keys of the draft."""
        rows = tuple(msgspec.structs.replace(row, name=_key(self.programs, own, row.name)) for row in layout.tensors)
        return msgspec.structs.replace(layout, name=name, tensors=rows)


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


def _checkpoint(model: Model) -> _Checkpoint:
    if model.format == "gguf":
        tensors, files, losses, notes = from_gguf.view(model)
        config = strict_json.parse(files["config.json"], path="config.json", non_finite=True)
        classes = config.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else None
        return _Checkpoint(first, config, tensors, files, [*losses, *notes])
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
    return _Checkpoint(model.architecture, model.config, tensors, files, said)


def _usual(tensors: Mapping[str, Expression]) -> str:
    """F16 where most weights are, else F32: ONNX Runtime has no bfloat16 on a CPU."""
    from math import prod

    half = sum(prod(expr.shape) for expr in tensors.values() if expr.stored.name == "F16")
    return "F16" if 2 * half > sum(prod(expr.shape) for expr in tensors.values()) else "F32"
