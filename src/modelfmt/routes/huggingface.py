"""GGUF to a Hugging Face folder: the inverse of the architecture's table, configuration, tokenizer, safetensors.

Where the file carries what it lacks (`checkpoints.carried`), the folder has the original's bytes; otherwise everything
is made from the file's own keys. Tensors keep a dense type they have; quantized ones get the 16-bit type that the file
has beside them, else BF16, which has the range of float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modelfmt.checkpoints import modules
from modelfmt.checkpoints.from_gguf import DTYPES, Checkpoint, GgufCheckpoint, usual_type
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Integers
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing

__all__ = ["drafts"]

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (see above), F32, F16 or BF16.

    Raises UnsupportedError (a source that is not GGUF, an architecture without a table, tensors that are not those of
    the table), UsageError (a type that is not dense), CorruptFile.
    """
    if model.format != "gguf":
        raise UnsupportedError(
            "only a GGUF file or a checkpoint's folder becomes a Hugging Face folder",
            code="source-kind",
            path=model.path,
            found=model.format,
        )
    for recipe in wanted:
        if recipe.label not in (AUTO, *DTYPES) or recipe.own:
            raise UsageError(
                "a Hugging Face folder holds dense types only",
                code="quant-container",
                found=recipe.label,
                allowed="auto, " + ", ".join(DTYPES),
            )
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError(
            "options that mean nothing for a Hugging Face folder", code="option-unused", found=", ".join(unused)
        )
    source = GgufCheckpoint(model)
    return [_draft(source.in_type(recipe.label), recipe.label, options) for recipe in wanted]


def _draft(checkpoint: Checkpoint, quant: str, options: Options) -> Draft:
    usual = usual_type(checkpoint.tensors) if quant == AUTO else quant
    losses, notes = list(checkpoint.losses), list(checkpoint.notes)
    chosen: dict[str, DraftTensor] = {}
    for name, expr in checkpoint.tensors.items():
        source, target, reason = expr.stored, usual, "as asked"
        original = checkpoint.original.get(name)
        if source.dense and source.element.kind != "float":
            target, reason = source.name, "kept"
            if isinstance(expr, Integers) and original is not None:
                target, reason = original, "as in the original"
                expr = expr.input if original == expr.input.stored.name else expr
        elif original is not None and (quant == AUTO or original == target):
            target, reason = original, "as in the original"
        elif quant == AUTO:
            target, reason = (source.name, "kept") if source.dense else (usual, "the type beside it")
        chosen[name] = DraftTensor(expr, target, reason=reason)
        if not source.dense and target != "F32":
            losses.append(Loss("narrowed", name, f"values of {source.name} to {target}"))
        elif not reason.startswith("as in"):
            losses += narrowing(name, source.name, target)
    rounded = [name for name, expr in checkpoint.tensors.items() if _rounded(expr, checkpoint.original.get(name))]
    if rounded:
        detail = f"the file's types rounded {len(rounded)} tensors: their values are not the original's"
        notes.append(Note("weights", detail))
    entries = [Entry(name, tensor.encoding, tensor.expr.shape) for name, tensor in chosen.items()]
    build = _Build(entries, checkpoint, options)
    return Draft(quant, chosen, build, losses, notes, folder=True)


def _rounded(expr: Expression, original: str | None) -> bool:
    """Whether the file's type cannot hold what the original's could."""
    if original is None:
        return False
    return not expr.stored.dense or bool(narrowing("", original, expr.stored.name))


class _Build(msgspec.Struct, frozen=True):
    """Lays the folder out: the original's files where every tensor is as it was there, else new ones."""

    entries: list[Entry]
    checkpoint: Checkpoint
    options: Options

    def __call__(self, _: str) -> list[FileLayout]:
        weights = self._original() or self._new()
        small = [FileLayout(name, len(data), data, ()) for name, data in self.checkpoint.files.items()]
        return [*weights, *(layout for layout in small if not layout.name.endswith(".index.json"))]

    def _original(self) -> list[FileLayout]:
        wanted = {entry.name: entry for entry in self.entries}
        placed = {tensor.name: tensor for layout in self.checkpoint.layouts for tensor in layout.tensors}
        same = wanted.keys() == placed.keys() and all(
            (tensor.encoding, tensor.shape) == (wanted[name].encoding, wanted[name].shape)
            for name, tensor in placed.items()
        )
        if not same or self.options.split_size is not None:
            return []
        indices = {name: data for name, data in self.checkpoint.files.items() if name.endswith(".index.json")}
        return [*self.checkpoint.layouts, *(FileLayout(name, len(data), data, ()) for name, data in indices.items())]

    def _new(self) -> list[FileLayout]:
        from modelfmt.checkpoints.carried import SHARD_SIZE

        size, home = self.options.split_size or SHARD_SIZE, self.checkpoint.home
        own = [entry for entry in self.entries if "/" not in entry.name]
        others = modules.layouts([entry for entry in self.entries if "/" in entry.name])
        layouts, index = safetensors.layout(own, metadata={"format": "pt"}, shard_size=size, stem="model")
        if index is None:
            (whole,) = layouts
            return [FileLayout(f"{home}model.safetensors", whole.size, whole.header, whole.tensors), *others]
        layouts = [FileLayout(home + part.name, part.size, part.header, part.tensors) for part in layouts]
        return [*layouts, *others, FileLayout(f"{home}model.safetensors.index.json", len(index), index, ())]
