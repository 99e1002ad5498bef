"""A Hugging Face folder to another: its tensors in the type asked for, and its small files. For merged adapters above
all; also to change the type or the size of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Note
from modelfmt.routes.draft import Draft, Options, dense_tensors, ties
from modelfmt.storage import strict_json

__all__ = ["drafts"]

SHARD_SIZE = 5 * 10**9
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (the types that are there), F32, F16 or BF16.

    Raises UsageError (another type, options that mean nothing here), UnsupportedError (modules with weights behind the
    model).
    """
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError(
            "options that mean nothing for a Hugging Face folder", code="option-unused", found=", ".join(unused)
        )
    if model.extras["huggingface"]["modules"]:
        raise UnsupportedError(
            "the folder of several modules cannot be written again", code="source-kind", path=model.path
        )
    return [_draft(model, recipe, options) for recipe in wanted]


def _draft(model: Model, recipe: Recipe, options: Options) -> Draft:
    chosen, losses = dense_tensors(model, recipe)
    tied = ties(chosen)
    entries = [Entry(name, row.encoding, row.expr.shape) for name, row in chosen.items() if name not in tied]
    small = _small(model, recipe.label)
    notes = [Note("checkpoint", str(note)) for note in model.extras.get("notes", ())]
    notes += [Note(name, f"is {kept} in the source: written once") for name, kept in tied.items()]

    def build(_: str) -> list[FileLayout]:
        size = options.split_size or SHARD_SIZE
        layouts, index = safetensors.layout(entries, metadata={"format": "pt"} | tied, shard_size=size, stem="model")
        if index is None:
            (whole,) = layouts
            layouts = [FileLayout("model.safetensors", whole.size, whole.header, whole.tensors)]
        else:
            layouts = [*layouts, FileLayout("model.safetensors.index.json", len(index), index, ())]
        return [*layouts, *small]

    return Draft(recipe.label, chosen, build, losses, notes, folder=True)


def _small(model: Model, quant: str) -> list[FileLayout]:
    files = {name: model.assets[name] for name in model.assets}
    if quant != AUTO and "config.json" in files:
        files["config.json"] = _retyped(files["config.json"], quant)
    return [FileLayout(name, len(data), data, ()) for name, data in files.items()]


def _retyped(text: bytes, quant: str) -> bytes:
    """config.json with another type of the weights."""
    import json

    config: Mapping[str, Any] = strict_json.parse(text, path="config.json", non_finite=True)
    stated = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    changed = {**config, **dict.fromkeys(stated, _DTYPES[quant])}
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode() if changed != config else text
