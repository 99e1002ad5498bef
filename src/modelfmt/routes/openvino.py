"""To OpenVINO: from a checkpoint or a GGUF file the graph that its architecture's table describes.

A destination that ends in .xml is that file, with its constants in a .bin beside it; any other is a folder as
optimum-intel lays it out: openvino_model.xml and .bin (openvino_encoder_model and openvino_decoder_model of an encoder
and a decoder), config.json, generation_config.json and the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from modelfmt.errors import UsageError
from modelfmt.formats import openvino
from modelfmt.ir.graph import Graph
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import Recipe
from modelfmt.routes.draft import Draft, Options
from modelfmt.routes.graph_source import Checkpoint, blocks_asked, built, checkpoint_of, constants

__all__ = ["drafts"]

_STEMS = {
    "model": "openvino_model",
    "encoder_model": "openvino_encoder_model",
    "decoder_model_merged": "openvino_decoder_model",
}
"""Stem of a graph's files as optimum's ONNX has them -> as optimum-intel does."""
_NOT_HERE = {
    name: getattr(Options(), name)
    for name in (
        *("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre"),
        *("split_size", "split_tensors", "external", "profile", "accuracy_level"),
    )
}
"""Options that mean nothing here -> what they are when nobody gives them."""
_TYPES = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16"}
_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q6_K")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (each weight as it is), F32, F16, BF16 or a type of blocks.

    Raises UnsupportedError (a source or an architecture without a graph), UsageError (options that mean nothing here).
    """
    unused = [name for name, usual in _NOT_HERE.items() if getattr(options, name) != usual]
    if unused:
        raise UsageError("options that mean nothing for OpenVINO", code="option-unused", found=", ".join(unused))
    source = checkpoint_of(model)
    return [_draft(source, recipe, options) for recipe in wanted]


def _draft(source: Checkpoint, recipe: Recipe, options: Options) -> Draft:
    from modelfmt.graphs import openvino as lowering
    from modelfmt.graphs.builder import Form

    label = recipe.label
    blocks = blocks_asked(recipe, options, what="OpenVINO", dense=_TYPES, blocks=_BLOCKS)
    form = Form(
        as_stored=label not in _TYPES,
        weight_type=_TYPES.get(label),
        blocks=blocks,
        rounding=options.rounding,
        profile=lowering.PROFILE,
        carried=label not in _TYPES,
    )
    made = built(source, form, folder=None if options.folder else "openvino")
    graphs = {stem: program.graph for stem, program in made.programs.items()}
    tensors = ((_key(graphs, stem, name), one) for stem, graph in graphs.items() for name, one in graph.tensors.items())
    found = constants(tensors, "F32", [*source.notes, *made.notes])
    build_files = _Build(graphs, options, source.files if options.folder else {})
    return Draft(label, found.chosen, build_files, found.losses, found.notes, folder=options.folder)


def _key(graphs: Mapping[str, Graph], stem: str, name: str) -> str:
    """The name of a constant among those of all graphs."""
    return name if len(graphs) == 1 else f"{stem}/{name}"


class _Build(msgspec.Struct, frozen=True):
    """Lays out the graphs, their constants and, in a folder, the small files."""

    graphs: Mapping[str, Graph]
    options: Options
    files: Mapping[str, bytes]

    def __call__(self, stem: str) -> list[FileLayout]:
        found: list[FileLayout] = []
        for own, graph in self.graphs.items():
            named = _STEMS[own] if self.options.folder else stem
            whole, data = openvino.layout(graph, stem=named, alignment=self.options.alignment)
            placed = [msgspec.structs.replace(one, name=_key(self.graphs, own, one.name)) for one in data.tensors]
            whole = msgspec.structs.replace(whole, name=f"{named}.xml" if self.options.folder else "")
            found += [whole, msgspec.structs.replace(data, tensors=tuple(placed))]
        return [*found, *(FileLayout(name, len(one), one, ()) for name, one in self.files.items())]
