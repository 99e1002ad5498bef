"""Any model to safetensors: the same tensors in the dtype asked for, single or sharded. Names stay as they are.

Bytes cannot be shared in safetensors. Of tensors that are one in the source, the first is written, and the header's
metadata has the name of each other one and the name that was kept, as safetensors.torch.save_model does.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import Recipe
from modelfmt.report import Note
from modelfmt.routes.draft import Draft, Options, dense_tensors, ties

__all__ = ["drafts"]


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (what the source has; quantized tensors become F32), F32, F16 or BF16."""
    return [_draft(model, recipe, options) for recipe in wanted]


def _draft(model: Model, recipe: Recipe, options: Options) -> Draft:
    chosen, losses = dense_tensors(model, recipe)
    tied = ties(chosen)
    entries = [Entry(name, row.encoding, row.expr.shape) for name, row in chosen.items() if name not in tied]
    metadata = {"format": "pt"} | tied | {key: str(value) for key, value in options.metadata.items()}

    def build(stem: str) -> list[FileLayout]:
        layouts, index = safetensors.layout(entries, metadata=metadata, shard_size=options.split_size, stem=stem)
        if index is not None:
            layouts = [*layouts, FileLayout(f"{stem}.safetensors.index.json", len(index), index, ())]
        return layouts

    notes = [Note(model.path, "names are those of the source container")] if model.format == "gguf" else []
    notes += [
        Note(name, f"is {kept} in the source: written once, the name is in the metadata") for name, kept in tied.items()
    ]
    return Draft(recipe.label, chosen, build, losses, notes)
