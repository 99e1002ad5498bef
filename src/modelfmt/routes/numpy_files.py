"""Any model to NumPy's .npz, or its one tensor to .npy, in the dtype asked for."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import UsageError
from modelfmt.formats import module
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import Recipe
from modelfmt.routes.draft import Draft, Options, dense_tensors

__all__ = ["drafts"]


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (what the source has; quantized tensors become F32), F32, F16 or BF16."""
    if options.split_size is not None or options.metadata:
        raise UsageError(
            f".{options.target} has neither shards nor metadata",
            code=f"{options.target}-options",
            hint="choose .safetensors",
        )
    return [_draft(model, recipe, options.target) for recipe in wanted]


def _draft(model: Model, recipe: Recipe, target: str) -> Draft:
    chosen, losses = dense_tensors(model, recipe)
    layout = module(target).layout([Entry(name, row.encoding, row.expr.shape) for name, row in chosen.items()])

    def build(_: str) -> list[FileLayout]:
        return [layout]

    return Draft(recipe.label, chosen, build, losses)
