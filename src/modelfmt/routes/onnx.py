"""To ONNX: an ONNX model as it is; from a checkpoint or a GGUF file the graph that its architecture's table describes.

A destination that ends in .onnx is that file; any other is a folder as optimum lays it out: model.onnx, or the graphs
of an encoder and a decoder, config.json, generation_config.json and the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from modelfmt.errors import UsageError
from modelfmt.formats import onnx
from modelfmt.ir.graph import ELEMENT_TYPES, GraphTensor, Program, walk_tensors
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Leaf
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Note
from modelfmt.routes.draft import Draft, DraftTensor, Options
from modelfmt.routes.graph_source import Checkpoint, blocks_asked, built, checkpoint_of, constants

__all__ = ["drafts"]

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")
IN_PLACE = "safetensors"
ACCURACY_LEVELS = (0, 4)
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
    if options.accuracy_level not in ACCURACY_LEVELS:
        raise UsageError(
            "no such accuracy level",
            code="accuracy-level",
            found=options.accuracy_level,
            allowed=", ".join(map(str, ACCURACY_LEVELS)),
        )
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
    return Draft(recipe.label, chosen, _Build({"": program}, options, {}), [], notes, folder=options.folder)


def _built(source: Checkpoint, recipe: Recipe, options: Options) -> Draft:
    """The graph of an architecture, with the checkpoint's weights."""
    from modelfmt.graphs.builder import Form

    label = recipe.label
    blocks = blocks_asked(recipe, options, what="ONNX", dense=_TYPES, blocks=_BLOCKS)
    usual = _usual(source.tensors) if label == AUTO or blocks else label
    form = Form(
        _TYPES[usual],
        as_stored=options.external == IN_PLACE,
        blocks=blocks,
        rounding=options.rounding,
        profile=options.profile,
        carried=label not in _TYPES,
        accuracy_level=options.accuracy_level,
    )
    made = built(source, form, folder=None if options.folder else "onnx")
    found = constants(_tensors(made.programs), usual, [*source.notes, *made.notes])
    files = {**source.files, **made.files} if options.folder else {}
    build_files = _Build(made.programs, options, files)
    return Draft(label, found.chosen, build_files, found.losses, found.notes, folder=options.folder)


def _tensors(programs: Mapping[str, Program]) -> Iterator[tuple[str, GraphTensor]]:
    """The constants of several programs, each with a key of its own."""
    for stem, program in programs.items():
        for key, tensor in walk_tensors(program):
            yield _key(programs, stem, key), tensor


def _key(programs: Mapping[str, Program], stem: str, key: str) -> str:
    return key if len(programs) == 1 else f"{stem}/{key}"


class _Build(msgspec.Struct, frozen=True):
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


def _usual(tensors: Mapping[str, Expression]) -> str:
    """F16 where most weights are, else F32: ONNX Runtime has no bfloat16 on a CPU."""
    from math import prod

    half = sum(prod(expr.shape) for expr in tensors.values() if expr.stored.name == "F16")
    return "F16" if 2 * half > sum(prod(expr.shape) for expr in tensors.values()) else "F32"
