"""Any model to a PyTorch file: the same tensors in the dtype asked for, as a state dict that weights_only opens."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import UsageError
from modelfmt.formats import pytorch_layout
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import Recipe
from modelfmt.report import Note
from modelfmt.routes.draft import Draft, Options, dense_tensors, ties

__all__ = ["drafts"]


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (what the source has; quantized tensors become F32), F32, F16 or BF16."""
    if options.split_size is not None or options.metadata:
        raise UsageError(
            "a PyTorch file has neither shards nor metadata", code="pytorch-options", hint="choose .safetensors"
        )
    return [_draft(model, recipe) for recipe in wanted]


def _draft(model: Model, recipe: Recipe) -> Draft:
    chosen, losses = dense_tensors(model, recipe)
    tied = ties(chosen)
    entries = [Entry(name, row.encoding, row.expr.shape) for name, row in chosen.items() if name not in tied]
    layout = pytorch_layout.layout(entries, ties=tied)

    def build(_: str) -> list[FileLayout]:
        return [layout]

    notes = [Note(name, f"shares the storage of {kept}") for name, kept in tied.items()]
    if model.format == "gguf":
        notes.append(Note(model.path, "names are those of the source container"))
    return Draft(recipe.label, chosen, build, losses, notes)
