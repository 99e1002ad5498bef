"""GGUF to a Hugging Face folder: the inverse of the architecture's table, configuration, tokenizer, safetensors.

Where the file carries what it lacks (`checkpoints.carried`), the folder has the original's bytes; otherwise everything
is made from the file's own keys. Tensors keep a dense type they have; quantized ones get the 16-bit type that the file
has beside them, else BF16, which has the range of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from modelfmt.checkpoints.general import SAMPLING
from modelfmt.errors import CorruptFile, UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.formats.gguf_metadata import GgufArray
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Concat, Constant, Dequantize, Expression, Slice, geometry
from modelfmt.ir.tokenizer import Tokenizer
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing
from modelfmt.storage import strict_json

__all__ = ["drafts", "opened", "view"]

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Type -> the name that torch has for it, and config.json."""

_NOT_HERE = ("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "importance", "metadata", "pre")
_OWN_FACTS = frozenset(
    f"general.{key}" for key in ("architecture", "alignment", "file_type", "quantization_version", "type")
) | {f"general.sampling.{key}" for key, _, _ in SAMPLING}


@dataclass
class _Checkpoint:
    """The folder before a type is chosen. home: what the names of weights begin with. original: the types that tensors
    had. layouts: the weights' files then."""

    tensors: dict[str, Expression]
    files: dict[str, bytes]
    home: str = ""
    original: dict[str, str] = field(default_factory=dict)
    layouts: tuple[FileLayout, ...] = ()
    losses: list[Loss] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (see above), F32, F16 or BF16.

    Raises UnsupportedError (a source that is not GGUF, an architecture without a table, tensors that are not those of
    the table), UsageError (a type that is not dense), CorruptFile.
    """
    if model.format != "gguf":
        raise UnsupportedError(
            "only a GGUF file becomes a Hugging Face folder", code="source-kind", path=model.path, found=model.format
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
    reader = _Reader(model)
    return [_draft(reader.checkpoint(recipe.label), recipe.label, options) for recipe in wanted]


def opened(model: Model) -> _Checkpoint:
    """The tensors of a GGUF file by their names in a checkpoint, and the folder's other files: for other routes."""
    return _Reader(model).checkpoint(AUTO)


def view(model: Model) -> tuple[dict[str, Expression], dict[str, bytes], list[Note | Loss]]:
    """A GGUF file as a checkpoint: its tensors, its small files (config.json at the top), what is to be said of it."""
    found = opened(model)
    home = found.home
    files = {name.removeprefix(home) if name.startswith(home) else name: data for name, data in found.files.items()}
    return found.tensors, files, [*found.losses, *found.notes]


def _draft(checkpoint: _Checkpoint, quant: str, options: Options) -> Draft:
    usual = _usual_type(checkpoint.tensors) if quant == AUTO else quant
    losses, notes = list(checkpoint.losses), list(checkpoint.notes)
    chosen: dict[str, DraftTensor] = {}
    for name, expr in checkpoint.tensors.items():
        source, target, reason = expr.stored, usual, "as asked"
        original = checkpoint.original.get(name)
        if source.dense and source.element.kind != "float":
            target, reason = source.name, "kept"
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


@dataclass(frozen=True)
class _Build:
    """Lays the folder out: the original's files where every tensor is as it was there, else new ones."""

    entries: list[Entry]
    checkpoint: _Checkpoint
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
        layouts, index = safetensors.layout(self.entries, metadata={"format": "pt"}, shard_size=size, stem="model")
        if index is None:
            (whole,) = layouts
            return [FileLayout(f"{home}model.safetensors", whole.size, whole.header, whole.tensors)]
        layouts = [FileLayout(home + part.name, part.size, part.header, part.tensors) for part in layouts]
        return [*layouts, FileLayout(f"{home}model.safetensors.index.json", len(index), index, ())]


class _Reader:
    """What a GGUF file says of the checkpoint that it was made from."""

    def __init__(self, model: Model) -> None:
        from modelfmt import archs
        from modelfmt.archs import unbind
        from modelfmt.checkpoints import carried

        self.model = model
        own = f"{model.metadata.get('general.architecture')}."
        self.metadata = {
            key: list(value) if key.startswith(own) and isinstance(value, GgufArray) else value
            for key, value in model.metadata.items()
        }
        self.carried = carried.read(model.metadata, model.extras["gguf"]["types"])
        self.notes: list[Note] = []
        self.losses: list[Loss] = []
        self.config_name = f"{self.carried.home}config.json"
        self.config = self._carried_config()
        exprs = {name: tensor.expr for name, tensor in model.tensors.items()}
        names = [tensor.name for layout in self.carried.layouts for tensor in layout.tensors]
        if self.config is None:
            arch = archs.of_gguf(self.metadata, exprs.keys())
        else:
            classes, kind = self.config.get("architectures"), self.config.get("model_type")
            first = classes[0] if isinstance(classes, list) and classes else None
            arch = archs.find(hf_class=_name(first), model_type=_name(kind))
        self.unbound = unbind.to_huggingface(
            arch, tensors=exprs, metadata=self.metadata, config=self.config, names=dict.fromkeys(names)
        )
        self.tokenizer = self._tokenizer()

    def checkpoint(self, quant: str) -> _Checkpoint:
        """The folder in one type."""
        tensors = self._tensors()
        placed = {tensor.name: tensor for layout in self.carried.layouts for tensor in layout.tensors}
        original = {name: tensor.encoding for name, tensor in placed.items()}
        losses = [*self.losses]
        losses += [Loss("dropped", name, "the file does not hold it") for name in placed if name not in tensors]
        losses += self._approximated(tensors)
        usual = _usual_type(tensors) if quant == AUTO else quant
        files = self._tokenizer_files(losses) | self._configuration_files(usual, kept=quant == AUTO)
        return _Checkpoint(tensors, files, self.carried.home, original, self.carried.layouts, losses, self.notes)

    def _carried_config(self) -> dict[str, Any] | None:
        if self.config_name not in self.carried.files:
            return None
        if not self.carried.same_architecture:
            detail = "the keys of the architecture were changed since config.json was written beside them: made anew"
            self.notes.append(Note(self.config_name, detail))
            return None
        found = strict_json.parse(self.carried.files[self.config_name], path=self.config_name, non_finite=True)
        if not isinstance(found, dict):
            raise CorruptFile("not a JSON object", code="json", path=self.config_name, found=type(found).__name__)
        return found

    def _tensors(self) -> dict[str, Expression]:
        """Tensors by name, with the rows that were carried because they cannot be computed."""
        found = {tensor.name: tensor.expr for tensor in self.unbound.tensors}
        placed = {tensor.name: tensor for layout in self.carried.layouts for tensor in layout.tensors}
        for name, data in self.carried.tensors.items():
            if name in placed:
                found[name] = _with_rows(name, data, placed[name].encoding, placed[name].shape, found.get(name))
        order = {name: index for index, name in enumerate(placed)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    def _approximated(self, tensors: Mapping[str, Expression]) -> list[Loss]:
        """The tensors that a division or a logarithm gives back. Of files that carry the original's header, which were
        compared when they were written: what was not the same, and what was rounded after that."""
        from modelfmt.ir.ops import Leaf, NegativeLog, Scale, nodes

        detail = "computed back from rounded values: the last bits may differ"
        found = []
        for name, expr in tensors.items():
            parts = nodes(expr)
            exact = all(node.encoding == "F32" for node in parts if isinstance(node, Leaf))
            computed = any(isinstance(node, Scale | NegativeLog) for node in parts)
            if name in self.carried.approximated or (computed and not (exact and self.carried.layouts)):
                found.append(Loss("approximated", name, detail))
        return found

    def _tokenizer(self) -> Tokenizer | None:
        from modelfmt.tokenizers.from_gguf import from_metadata

        try:
            return from_metadata(self.model.metadata)
        except UnsupportedError as error:
            self.losses.append(Loss("dropped", "tokenizer", str(error)))
            return None

    def _tokenizer_files(self, losses: list[Loss]) -> dict[str, bytes]:
        from modelfmt.checkpoints import carried
        from modelfmt.tokenizers import rebuild

        files = {name: data for name, data in self.carried.files.items() if carried.of_tokenizer(name)}
        if self.carried.layouts and self.carried.same_tokenizer:
            return files
        if files and not self.carried.same_tokenizer:
            detail = "the keys of the tokenizer were changed since its files were written beside them: made anew"
            self.notes.append(Note("tokenizer", detail))
        if self.tokenizer is None:
            return {}
        try:
            made = rebuild.rebuild(self.tokenizer, context_length=self.unbound.hparams.get("n_ctx"))
        except UnsupportedError as error:
            losses.append(Loss("dropped", "tokenizer", str(error)))
            return {}
        losses += [Loss("approximated", "tokenizer", note.message) for note in made.notes if note.lossy]
        self.notes += [Note("tokenizer", note.message) for note in made.notes if not note.lossy]
        alone = files if self.carried.same_tokenizer else {}  # tokenizer.json, as the specification of GGUF has it
        return made.files | alone

    def _configuration_files(self, dtype: str, *, kept: bool) -> dict[str, bytes]:
        from modelfmt.checkpoints import carried
        from modelfmt.tokenizers.rebuild import pretty

        others = {name: data for name, data in self.carried.files.items() if not carried.of_tokenizer(name)}
        if self.config is not None:
            if not kept:
                stated = [key for key in ("dtype", "torch_dtype") if key in self.config] or ["dtype"]
                changed = self.config | dict.fromkeys(stated, DTYPES[dtype])
                if changed != self.config:
                    others[self.config_name] = pretty(changed)
            return others
        made = {self.config_name: self._configuration(dtype)} | self._generation() | self._pooling()
        facts = [key for key in self.model.metadata if key.startswith("general.") and key not in _OWN_FACTS]
        if facts:
            self.notes.append(Note("general", f"no file of the folder holds {', '.join(facts)}"))
        return {name: data for name, data in others.items() if name not in made} | {
            name: pretty(value) for name, value in made.items() if value
        }

    def _configuration(self, dtype: str) -> dict[str, Any]:
        from modelfmt.archs import configuration

        return configuration.configuration(
            self.unbound,
            metadata=self.metadata,
            factors={name: self._values(expr) for name, expr in self.unbound.constants.items()},
            special=self._special(),
            dtype=DTYPES[dtype],
        )

    def _generation(self) -> dict[str, Any]:
        """generation_config.json: every token that ends a text, and how to sample."""
        from modelfmt.archs.values import shortest

        if self.unbound.architecture.graph.get("block") == "encoder":
            return {}
        ids = self._special()
        ends = [ids[role] for role in ("eos", "eot", "eom") if role in ids]
        found: dict[str, Any] = {f"{role}_token_id": ids[role] for role in ("bos", "pad") if role in ids}
        if ends:
            found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        for key, name, _ in SAMPLING:
            value = self.model.metadata.get(f"general.sampling.{key}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name] = shortest(value) if isinstance(value, float) else value
        return {"generation_config.json": found}

    def _pooling(self) -> dict[str, Any]:
        from modelfmt.archs import pooling

        kind = self.model.metadata.get(f"{self.unbound.architecture.gguf}.pooling_type")
        if not self.unbound.architecture.pooled or not isinstance(kind, int):
            return {}
        return pooling.decode(kind, self.unbound.hparams["n_embd"]) or {}

    def _special(self) -> Mapping[str, int]:
        from modelfmt.tokenizers.rebuild import named_ids

        return {} if self.tokenizer is None else named_ids(self.tokenizer)

    def _values(self, expr: Expression) -> list[float]:
        from modelfmt.tiles import Evaluator

        n_rows, n_cols = geometry(expr.shape, expr.stored)
        if n_rows * n_cols > 1 << 16:
            raise CorruptFile(
                "a table of rope factors is too long", code="tensor-shape", path=self.model.path, found=list(expr.shape)
            )
        return [float(value) for value in Evaluator(self.model.files).values(expr, 0, n_rows).reshape(-1)]


def _name(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _with_rows(name: str, data: bytes, encoding: str, shape: tuple[int, ...], rest: Expression | None) -> Expression:
    """A tensor whose first rows are these bytes."""
    stored = ENCODINGS[encoding]
    n_rows, n_cols = geometry(shape, stored)
    kept, over = divmod(len(data), stored.row_bytes(n_cols) or 1)
    if over or kept > n_rows or (kept < n_rows and (rest is None or rest.shape != shape or len(shape) != 2)):
        raise CorruptFile(
            "carried bytes that do not fit their tensor", code="carried-tensor", place=name, found=len(data)
        )
    if kept == n_rows or rest is None:
        return Constant(data, shape, encoding)
    first: Expression = Constant(data, (kept, *shape[1:]), encoding)
    parts: tuple[Expression, ...] = (first, Slice(rest, 0, kept, n_rows))
    if rest.stored.name != encoding:
        parts = tuple(part if part.stored.name == "F32" else Dequantize(part) for part in parts)
    return Concat(parts)


def _usual_type(tensors: Mapping[str, Expression]) -> str:
    """The dense type of most weights; where they are quantized, the 16-bit type beside them, else BF16."""
    counts = dict.fromkeys(DTYPES, 0)
    for expr in tensors.values():
        if expr.stored.name in counts and len(expr.shape) > 1:
            counts[expr.stored.name] += prod(expr.shape)
    if any(not expr.stored.dense for expr in tensors.values()):
        return "F16" if counts["F16"] > counts["BF16"] else "BF16"
    return max(counts, key=lambda name: counts[name]) if any(counts.values()) else "F32"
