"""To ONNX: an ONNX model as it is, its constants inside it or beside it."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import onnx
from modelfmt.ir.graph import walk_tensors
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Note
from modelfmt.routes.draft import Draft, DraftTensor, Options

__all__ = ["drafts"]

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe.

    Raises UnsupportedError (a source without a graph), UsageError (options that mean nothing here).
    """
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError("options that mean nothing for ONNX", code="option-unused", found=", ".join(unused))
    return [_kept(model, recipe, options) for recipe in wanted]


def _kept(model: Model, recipe: Recipe, options: Options) -> Draft:
    """A model that has a graph: the same graph."""
    program = model.program
    if program is None:
        raise UnsupportedError("no graph in this source", code="source-kind", path=model.path, found=model.format)
    if recipe.label != AUTO or recipe.own:
        raise UsageError(
            "the types of a graph that is there are kept", code="quant-container", found=recipe.label, allowed=AUTO
        )

    def build(stem: str) -> list[FileLayout]:
        return onnx.layout(
            program,
            stem=stem,
            external=options.external,
            shard_size=options.split_size,
            alignment=options.alignment,
        )

    chosen = {
        key: DraftTensor(tensor.data, tensor.data.stored.name, reason="kept")
        for key, tensor in walk_tensors(program)
        if tensor.data is not None
    }
    notes = [Note(model.path, str(note)) for note in model.extras.get("notes", ())]
    return Draft(recipe.label, chosen, build, [], notes)
