"""A GGUF file as the Hugging Face checkpoint that it was made from: tensors by the inverse of the architecture's table,
configuration, tokenizer.

Where the file carries what it lacks (`checkpoints.carried`), these are the original's bytes; otherwise everything is
made from the file's own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from modelfmt import grids
from modelfmt.checkpoints import huggingface
from modelfmt.checkpoints.general import SAMPLING
from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.formats.gguf_metadata import GgufArray
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Concat, Constant, Dequantize, Expression, Param, Reshape, Slice, geometry
from modelfmt.ir.tokenizer import Tokenizer
from modelfmt.quant.recipes import AUTO
from modelfmt.report import Loss, Note
from modelfmt.storage import strict_json

if TYPE_CHECKING:
    from modelfmt.archs.table import Architecture

__all__ = ["DTYPES", "Checkpoint", "GgufCheckpoint", "usual_type", "view"]

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Type -> the name that torch has for it, and config.json."""

_HALF = ("BF16", "F16")

_OWN_FACTS = frozenset(
    f"general.{key}" for key in ("architecture", "alignment", "file_type", "quantization_version", "type")
) | {f"general.sampling.{key}" for key, _, _ in SAMPLING}


class Checkpoint(msgspec.Struct):
    """The folder before a type is chosen. home: what the names of weights begin with. original: the types that tensors
    had. layouts: the weights' files then."""

    tensors: dict[str, Expression]
    files: dict[str, bytes]
    home: str = ""
    original: dict[str, str] = msgspec.field(default_factory=dict)
    layouts: tuple[FileLayout, ...] = ()
    losses: list[Loss] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)


def view(model: Model) -> tuple[dict[str, Expression], dict[str, bytes], list[Loss], list[Note]]:
    """A GGUF file as a checkpoint: its tensors, its small files (config.json at the top), what is lost, and what is to
    be said of it."""
    found = GgufCheckpoint(model).in_type(AUTO)
    files = {name.removeprefix(found.home): data for name, data in found.files.items()}
    return found.tensors, files, found.losses, found.notes


class GgufCheckpoint:
    """What a GGUF file says of the checkpoint that it was made from."""

    def __init__(self, model: Model) -> None:
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
        exprs = _with_scales({name: tensor.expr for name, tensor in model.tensors.items()})
        arch = self._architecture(exprs)
        self.unbound = unbind.to_huggingface(
            arch,
            tensors=exprs,
            metadata=self.metadata,
            config=self.config,
            names=dict.fromkeys(self.carried.placed),
        )
        self.tokenizer = self._tokenizer()

    def in_type(self, quant: str) -> Checkpoint:
        """The folder in one type."""
        tensors = self._tensors()
        placed = self.carried.placed
        original = {name: tensor.encoding for name, tensor in placed.items()}
        losses = [*self.losses]
        losses += [Loss("dropped", name, "the file does not hold it") for name in placed if name not in tensors]
        losses += self._approximated(tensors)
        usual = usual_type(tensors) if quant == AUTO else quant
        files = self._tokenizer_files(losses) | self._configuration_files(usual, kept=quant == AUTO)
        return Checkpoint(tensors, files, self.carried.home, original, self.carried.layouts, losses, self.notes)

    def _architecture(self, exprs: Mapping[str, Expression]) -> Architecture:
        """By config.json where it was carried, else by the keys, which also say what a language model alone is."""
        from modelfmt import archs

        if self.config is not None:
            hf_class, model_type = huggingface.architecture(self.config), huggingface.model_type(self.config)
            found = archs.find(hf_class=hf_class, model_type=model_type, config=self.config)
            if not found.within:
                return found
            self._leave_towers(found.within)
        return archs.of_gguf(self.metadata, exprs.keys())

    def _leave_towers(self, outer: str) -> None:
        """Forget what is of the model around the language model, which comes back alone, and say what that was."""
        from modelfmt.archs.multimodal import of_tower

        self.losses += [
            Loss("dropped", name, "the file holds the language model alone")
            for name in self.carried.placed
            if of_tower(name)
        ]
        self.notes.append(Note(self.config_name, f"that of the language model, not of {outer}: made anew"))
        files = {
            name: data
            for name, data in self.carried.files.items()
            if name != self.config_name and not name.endswith(".index.json")
        }
        self.carried = replace(self.carried, files=files, layouts=(), tensors={})
        self.config = None

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
        placed = self.carried.placed
        for name, data in self.carried.tensors.items():
            if name in placed:
                found[name] = _with_rows(name, data, placed[name].encoding, placed[name].shape, found.get(name))
        order = {name: index for index, name in enumerate(placed)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    def _approximated(self, tensors: Mapping[str, Expression]) -> list[Loss]:
        """The tensors that a division or a logarithm gives back. Of files that carry the original's header, which were
        compared when they were written: what was not the same, and what was rounded after that."""
        from modelfmt.ir.ops import ROUNDED, Leaf, NegativeLog, Scale, nodes

        placed = {name: tensor.encoding for name, tensor in self.carried.placed.items()}
        detail = "computed back from rounded values: the last bits may differ"
        found = []
        for name, expr in tensors.items():
            parts = nodes(expr)
            exact = all(node.encoding == "F32" for node in parts if isinstance(node, Leaf))
            computed = any(isinstance(node, Scale | NegativeLog) for node in parts)
            rounded = [node for node in parts if isinstance(node, ROUNDED)]
            # products in float32, divided again, are off by some 2^-23: a value of 16 bits comes out the same
            if exact and placed.get(name) in _HALF and rounded and all(isinstance(node, Scale) for node in rounded):
                continue
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
        hparams = self.unbound.hparams
        return pooling.decode(kind, hparams["n_embd"], hparams.get("dense", 0)) or {}

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


def _with_scales(tensors: Mapping[str, Expression]) -> dict[str, Expression]:
    """Tensors of NVFP4 with the scales that lie beside them, NAME.scale: one for the whole, or for each expert."""
    found = dict(tensors)
    for name, scale in tensors.items():
        weight = f"{name.removesuffix('.scale')}.weight"
        blocks = tensors.get(weight)
        if not name.endswith(".scale") or blocks is None or blocks.stored.name != "NVFP4" or len(blocks.shape) < 2:
            continue
        n = prod(scale.shape)
        if scale.stored.name != "F32" or n not in (1, prod(blocks.shape[:-2])):
            continue
        whole = Param(Reshape(scale, (n, 1)), rows=0 if n == 1 else blocks.shape[-2])
        found[weight] = msgspec.structs.replace(grids.regridded(blocks), whole=whole)
        del found[name]
    return found


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


def usual_type(tensors: Mapping[str, Expression]) -> str:
    """The dense type of most weights; where they are quantized, the 16-bit type beside them, else BF16."""
    counts = dict.fromkeys(DTYPES, 0)
    for expr in tensors.values():
        if expr.stored.name in counts and len(expr.shape) > 1:
            counts[expr.stored.name] += prod(expr.shape)
    if any(not expr.stored.dense for expr in tensors.values()):
        return "F16" if counts["F16"] > counts["BF16"] else "BF16"
    return max(counts, key=lambda name: counts[name]) if any(counts.values()) else "F32"
