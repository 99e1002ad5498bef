"""A model with LoRA adapters merged into it: the same tensors, those that an adapter changes as expressions over both.

Nothing is read or computed here: the sums are made tile by tile when a plan is run. A dense tensor keeps its type
(rounded once); a quantized one becomes float32, and whoever writes it says in which type. Where an adapter changes one
of two tensors that are tied, the other stays as it was, as in the model that was trained: they are tied no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from modelfmt import archs
from modelfmt.archs import lowrank
from modelfmt.archs.lowrank import Changes, Table
from modelfmt.checkpoints import carried, huggingface
from modelfmt.checkpoints.peft import Adapter, Base
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.ir.model import Model
from modelfmt.ir.ops import AddLowRank, Cast, Concat, Dequantize, Expression, Slice
from modelfmt.ir.tensor import Tensor
from modelfmt.storage import strict_json
from modelfmt.tiles import Evaluator

__all__ = ["base_of", "merge"]

_PREFIXES = (
    ("", ""),
    ("model.", ""),
    ("", "model."),
    ("model.", "model.language_model."),
    ("model.", "language_model.model."),
    ("model.language_model.", "language_model.model."),
    ("transformer.", ""),
    ("", "transformer."),
)
"""How a module of transformers is called -> how some checkpoints call it, where there is no table."""


def merge(model: Model, adapters: Sequence[tuple[Adapter, float]]) -> Model:
    """The model with every adapter added, times its weight, in this order. The files stay those of `model`.

    extras["merged"] has the types that changed tensors had, by name, where these were quantized.

    Raises UnsupportedError, CorruptFile (what `Adapter.changes` raises; lora-merge: an adapter that works in some
    places of a text only, or several that cannot be added up; lora-layout), UsageError (the model is an adapter).
    """
    if model.format == "peft":
        raise UsageError("an adapter is merged into a model, not into an adapter", code="adapter-base", path=model.path)
    _check(adapters)
    merging = _Merging.of_gguf(model) if model.format == "gguf" else _Merging.of_checkpoint(model)
    for adapter, weight in adapters:
        merging.add(adapter, weight)
    return merging.finished([adapter.path for adapter, _ in adapters])


def base_of(model: Model) -> tuple[Table, Base]:
    """The table of a model that an adapter is for, and its checkpoint's tensors by that table.

    Raises UnsupportedError (an architecture without a table, or no configuration).
    """
    config = _carried(model) if model.format == "gguf" else model.config
    if config:
        hf_class, model_type = huggingface.architecture(config), huggingface.model_type(config)
        arch = archs.find(hf_class=hf_class, model_type=model_type, config=config)
        table = lowrank.of_config(arch, config)
    elif model.format == "gguf":
        exprs = {name: tensor.expr for name, tensor in model.tensors.items()}
        table = lowrank.of_gguf(archs.of_gguf(model.metadata, exprs.keys()), exprs, _plain(model))
    else:
        raise UnsupportedError("the base model has no config.json", code="no-config", path=model.path)
    return table, Base(table.shapes, table.spelled, table.transposed)


def _check(adapters: Sequence[tuple[Adapter, float]]) -> None:
    for adapter, weight in adapters:
        alone = len(adapters) == 1 and weight == 1
        why = "it works only behind its invocation tokens" if adapter.options.alora else ""
        if not alone and adapter.options.dora:
            why = "the lengths of DoRA are for one adapter with its own weight"
        if not alone and weight != 1 and (adapter.saved or adapter.tokens):
            why = "whole tensors of an adapter have no weight"
        if why:
            raise UnsupportedError("the adapter cannot be merged", code="lora-merge", path=adapter.path, found=why)


class _Merging(msgspec.Struct):
    """A model on its way. exprs: its tensors. table: None where its architecture has none. ties: name -> name of the
    tensor that it is where it is left out. native: changes by the names of a checkpoint -> by those of this model."""

    model: Model
    exprs: dict[str, Expression]
    base: Base
    table: Table | None
    ties: dict[str, str]
    native: Callable[[Changes], Changes]

    @classmethod
    def of_gguf(cls, model: Model) -> _Merging:
        table, base = base_of(model)
        exprs = {name: tensor.expr for name, tensor in model.tensors.items()}
        return cls(model, exprs, base, table, {"output.weight": "token_embd.weight"}, table.to_gguf)

    @classmethod
    def of_checkpoint(cls, model: Model) -> _Merging:
        exprs = {name: tensor.expr for name, tensor in model.tensors.items()}
        table = _table(model)
        names = _Names(exprs, table)
        tied = {} if table is None else names.ties()
        shapes = {name: exprs[tied.get(name, name)].shape for name in (*exprs, *tied)}
        if table is None:
            return cls(model, exprs, Base(shapes, names.spelled, lambda _: None), None, {}, lambda changes: changes)
        apart = {name: shape for name, shape in table.shapes.items() if len(shape) == 3 and name not in shapes}
        spelled = _first(lambda name: name if name in tied else names.spelled(name), table.spelled)

        def transposed(name: str) -> bool:
            return table.transposed(table.spelled(name) or name)

        def native(changes: Changes) -> Changes:
            return _native(changes, {*exprs, *tied}, table, names)

        every = {**shapes, **apart}
        return cls(model, exprs, Base(every, _within(every, spelled), transposed), table, tied, native)

    def add(self, adapter: Adapter, weight: float) -> None:
        """Change the tensors that an adapter changes."""
        changes = self.native(adapter.changes(self.base, weight))
        missing = sorted(name for name in changes.names if name not in self.exprs and name not in self.ties)
        if missing:
            raise UnsupportedError(
                "the adapter is for tensors that the base model does not have",
                code="adapter-unmatched",
                path=adapter.path,
                found=", ".join(missing[:8]),
                unmatched=missing,
            )
        self._untie(changes)
        for name, expr in changes.replaced.items():  # first: PEFT saves embeddings along with their factors
            self.exprs[name] = _kept(expr, self.exprs[name])
        for name, pair in changes.pairs.items():
            self.exprs[name] = _kept(pair.added(self._sum(name)), self.exprs[name])
        for name, vector in changes.vectors.items():
            self.exprs[name] = _kept(vector.added(self._sum(name)), self.exprs[name])
        for name, (rows, values) in changes.rows.items():
            self.exprs[name] = _with_rows(self.exprs[name], rows, values)

    def _sum(self, name: str) -> Expression:
        """A tensor, before it is rounded where an adapter was added already."""
        expr = self.exprs[name]
        return expr.input if isinstance(expr, Cast) and isinstance(expr.input, AddLowRank) else expr

    def _untie(self, changes: Changes) -> None:
        """Give a tensor that is left out a place of its own, where it or the one that it is changes. Trained tokens
        change both."""
        for name, twin in self.ties.items():
            if name in self.exprs or not ({name, twin} & (changes.names - set(changes.rows))):
                continue
            self.exprs[name] = self.exprs[twin]

    def finished(self, paths: list[str]) -> Model:
        """The model with its new tensors."""
        untied = sorted(self.exprs.keys() - self.model.tensors.keys())
        reader = Evaluator(self.model.files)
        tensors = {name: Tensor(name, expr, reader) for name, expr in self.exprs.items()}
        notes = [*self.model.extras.get("notes", ()), *(f"merged with the adapter {path}" for path in paths)]
        notes += [f"{name} is no longer tied: the adapter changes it, or the tensor that it was" for name in untied]
        types = {name: self.model.tensors[self.ties.get(name, name) if name in untied else name] for name in self.exprs}
        quantized = {
            name: before.encoding.name
            for name, before in types.items()
            if not before.encoding.dense and self.exprs[name].stored.name != before.encoding.name
        }
        extras = {**self.model.extras, "notes": notes, "merged": quantized}
        model = replace(self.model, tensors=tensors, extras=extras)
        if model.format == "gguf":
            changed = bool(untied) or any(key.startswith("modelfmt.tensor.") for key in model.metadata)
            kept = {key: value for key, value in model.metadata.items() if not key.startswith("modelfmt.")}
            return replace(model, metadata=kept) if changed else model
        if untied:
            config = _untied(self.model.config)
            text = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
            return replace(model, config=config, assets=Changed(self.model.assets, {"config.json": text}))
        return model


class Changed(Mapping[str, bytes]):
    """Small files of which some are others."""

    def __init__(self, files: Mapping[str, bytes], changed: Mapping[str, bytes]) -> None:
        self._files = files
        self._changed = changed

    def __getitem__(self, name: str) -> bytes:
        return self._changed[name] if name in self._changed else self._files[name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class _Names:
    """The names of a checkpoint's tensors, from those that modules of transformers have."""

    def __init__(self, exprs: Mapping[str, Expression], table: Table | None) -> None:
        self.exprs = exprs
        self.table = table

    def spelled(self, name: str) -> str | None:
        """The tensor of a module's name, None where there is none."""
        if name in self.exprs:
            return name
        if self.table is None:
            moved = (theirs + name.removeprefix(ours) for ours, theirs in _PREFIXES if name.startswith(ours))
            return next((other for other in moved if other in self.exprs), None)
        ours = self.table.spelled(name)
        if ours is None:
            return None
        return next((other for other in self.table.alternatives(ours) if other in self.exprs), None)

    def ties(self) -> dict[str, str]:
        """Tensors that the checkpoint leaves out, since they are others -> those."""
        if self.table is None or not self.table.scope.get("tied"):
            return {}
        found = {name: self.spelled(twin) for name, twin in self.table.ties().items()}
        return {name: twin for name, twin in found.items() if twin is not None and self.spelled(name) is None}


def _table(model: Model) -> Table | None:
    """The table of a checkpoint's architecture, if there is one: a merge does without."""
    try:
        return base_of(model)[0]
    except UnsupportedError:
        return None


def _native(changes: Changes, there: set[str], table: Table, names: _Names) -> Changes:
    """Changes for a checkpoint that has each expert by itself, where the adapter has them all in one."""
    apart = {name: pair for name, pair in changes.pairs.items() if name not in there}
    if not apart:
        return changes
    kept = {name: pair for name, pair in changes.pairs.items() if name in there}
    return msgspec.structs.replace(changes, pairs=kept | table.split(Changes(pairs=apart), names.spelled))


def _first(*choices: Callable[[str], str | None]) -> Callable[[str], str | None]:
    return lambda name: next((found for choice in choices if (found := choice(name)) is not None), None)


def _within(shapes: Mapping[str, object], spelled: Callable[[str], str | None]) -> Callable[[str], str | None]:
    def found(name: str) -> str | None:
        place = spelled(name)
        return place if place in shapes else None

    return found


def _kept(expr: Expression, base: Expression) -> Expression:
    """In the type of the base where that is dense."""
    if not base.stored.dense or base.stored.name == expr.stored.name:
        return expr
    return Cast(expr, base.stored.name)


def _with_rows(base: Expression, rows: tuple[int, ...], values: Expression) -> Expression:
    """A matrix with other values in some rows, ascending."""
    stored = base.stored.name if base.stored.dense else "F32"
    whole = base if base.stored.dense else Dequantize(base)
    fresh = values if values.stored.name == stored else Cast(values, stored)
    parts: list[Expression] = []
    end = first = 0
    for at, row in enumerate(rows):
        if at + 1 < len(rows) and rows[at + 1] == row + 1:
            continue
        begin = rows[first]
        if begin > end:
            parts.append(Slice(whole, 0, end, begin))
        parts.append(Slice(fresh, 0, first, at + 1))
        end, first = row + 1, at + 1
    if end < base.shape[0]:
        parts.append(Slice(whole, 0, end, base.shape[0]))
    return Concat(tuple(parts)) if len(parts) > 1 else parts[0]


def _carried(model: Model) -> dict[str, Any] | None:
    """config.json of the checkpoint that a file was made from, where it carries that."""
    found = carried.read(model.metadata, model.extras["gguf"]["types"])
    name = f"{found.home}config.json"
    if name not in found.files or not found.same_architecture:
        return None
    config = strict_json.parse(found.files[name], path=name, non_finite=True)
    return config if isinstance(config, dict) else None


def _plain(model: Model) -> dict[str, Any]:
    """The keys of a file's architecture, arrays as lists."""
    own = f"{model.metadata.get('general.architecture')}."
    return {
        key: list(value) if key.startswith(own) and not isinstance(value, str) and hasattr(value, "raw") else value
        for key, value in model.metadata.items()
    }


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        key: {**value, "tie_word_embeddings": False}
        for key, value in config.items()
        if isinstance(value, dict) and "tie_word_embeddings" in value
    }
    return {**config, **nested, "tie_word_embeddings": False}
