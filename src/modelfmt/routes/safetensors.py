"""Any model to safetensors: the same tensors in the dtype asked for, single or sharded. Names stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing

__all__ = ["drafts"]

DTYPES = ("F32", "F16", "BF16")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (what the source has; quantized tensors become F32), F32, F16 or BF16."""
    return [_draft(model, recipe, options) for recipe in wanted]


def _draft(model: Model, recipe: Recipe, options: Options) -> Draft:
    quant = recipe.label
    if quant not in (AUTO, *DTYPES) or recipe.own:
        raise UsageError(
            "safetensors holds dense types only",
            code="quant-container",
            found=quant,
            allowed="auto, " + ", ".join(DTYPES),
            hint="choose a .gguf destination",
        )
    chosen: dict[str, DraftTensor] = {}
    losses: list[Loss] = []
    for tensor in model.tensors.values():
        source = tensor.encoding
        target = (
            source.name
            if source.dense and (quant == "auto" or source.element.kind != "float")
            else "F32"
            if quant == "auto"
            else quant
        )
        chosen[tensor.name] = DraftTensor(tensor.expr, target, reason="as asked" if target != source.name else "kept")
        losses += narrowing(tensor.name, source.name, target)
    entries = [Entry(name, draft.encoding, draft.expr.shape) for name, draft in chosen.items()]
    metadata = {"format": "pt"} | {key: str(value) for key, value in options.metadata.items()}

    def build(stem: str) -> list[FileLayout]:
        layouts, index = safetensors.layout(entries, metadata=metadata, shard_size=options.split_size, stem=stem)
        if index is not None:
            layouts = [*layouts, FileLayout(f"{stem}.safetensors.index.json", len(index), index, ())]
        return layouts

    notes = [Note(model.path, "names are those of the source container")] if model.format == "gguf" else []
    return Draft(quant, chosen, build, losses, notes)
