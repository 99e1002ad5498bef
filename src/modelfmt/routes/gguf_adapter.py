"""A LoRA adapter of PEFT to a GGUF adapter, by the architecture table of the model that it is for.

Source: llama.cpp, convert_lora_to_gguf.py (keys, names, orientation) and src/llama-adapter.cpp, whose scale is alpha /
rank, one alpha for the file. Pairs whose scale that is not have the rest of it in their second factor.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.archs.lowrank import Pair
from modelfmt.checkpoints.merged import base_of
from modelfmt.checkpoints.peft import Adapter
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import gguf
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Scale, Transpose, geometry, row_bytes
from modelfmt.ir.tensor import Tensor
from modelfmt.quant.recipes import AUTO, FILE_TYPES, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import DENSE_TYPES, Draft, DraftTensor, Options, narrowing

__all__ = ["drafts"]

_COMPARED = 1 << 22  # bytes
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_NOT_HERE = (
    "tensor_types",
    "output_tensor_type",
    "token_embedding_type",
    "pure",
    "importance",
    "pre",
    "split_size",
    "split_tensors",
)
_WITHOUT_EFFECT = (
    "position_embd.weight",
    "token_types.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
    "per_layer_model_proj.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
)
"""Tensors that llama.cpp's graphs use without looking for an adapter; a table has those of its own graph."""


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (the adapter's own types), F32, F16 or BF16.

    Raises UsageError (no base, options that mean nothing here, another type), UnsupportedError (lora-adapter: what a
    GGUF adapter cannot hold; adapter-unmatched and the like), CorruptFile.
    """
    if options.base is None:
        raise UsageError(
            "an adapter becomes a GGUF file only with the model that it is for",
            code="base-missing",
            path=model.path,
            hint="say --base FOLDER or --base MODEL.gguf (base=...); to merge it, convert the model with --adapter",
        )
    unused = [name for name in _NOT_HERE if getattr(options, name)]
    if unused:
        raise UsageError("options that mean nothing for an adapter", code="option-unused", found=", ".join(unused))
    adapter: Adapter = model.extras["peft"]
    pairs = _pairs(adapter, options.base)
    return [_draft(adapter, pairs, recipe, options) for recipe in wanted]


def _pairs(adapter: Adapter, base: Model) -> tuple[str, dict[str, Pair]]:
    """The name of the architecture, and the pairs by GGUF name."""
    table, names = base_of(base)
    whole = [*adapter.tokens, *(name for name in adapter.saved if not _is_copy(adapter.saved[name], name, base))]
    if whole:
        raise _impossible(adapter, whole[0], "whole tensors (modules_to_save)")
    changes = adapter.changes(names)
    if changes.vectors:
        raise _impossible(adapter, next(iter(changes.vectors)), "a bias (lora_bias)")
    pairs = table.to_gguf(changes).pairs
    tied = _OUTPUT not in base.tensors if base.format == "gguf" else _tied(base, table.scope)
    targets = table.targets
    for name, pair in pairs.items():
        if pair.magnitude is not None:
            raise _impossible(adapter, name, "lengths of rows (DoRA)")
        if name.endswith(_WITHOUT_EFFECT) or re.sub(r"^blk\.[0-9]+\.", "", name) in table.arch.unadapted:
            raise _impossible(adapter, name, "a tensor for which llama.cpp looks for no adapter")
        if name.endswith("_exps.weight") and f"{name.removesuffix('weight')}scale" in targets:
            raise _impossible(adapter, name, "experts with scales, which llama.cpp does not apply to adapters")
        if tied and name in (_EMBEDDING, _OUTPUT):
            raise _impossible(adapter, name, "one of two tied tensors, which the base has as one")
        if base.format == "gguf" and name not in base.tensors:
            raise _impossible(adapter, name, "a tensor that the base does not have")
    return table.arch.gguf, pairs


def _is_copy(tensor: Tensor, name: str, base: Model) -> bool:
    """Whether a whole tensor is the base's own: PEFT saves embeddings along with their factors."""
    twin = base.tensors.get(name)
    if twin is None or (twin.shape, twin.encoding) != (tensor.shape, tensor.encoding):
        return False
    n_rows = geometry(tensor.shape, tensor.encoding)[0]
    step = max(1, _COMPARED // max(row_bytes(tensor.expr), 1))
    cuts = [(row, min(row + step, n_rows)) for row in range(0, n_rows, step)]
    return all((tensor.rows(*cut) == twin.rows(*cut)).all() for cut in cuts)


def _tied(base: Model, scope: Mapping[str, Any]) -> bool:
    return bool(scope.get("tied")) and not any(name.endswith("lm_head.weight") for name in base.tensors)


def _impossible(adapter: Adapter, place: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"a GGUF adapter cannot hold this: {what}",
        code="lora-adapter",
        path=adapter.path,
        place=place,
        hint="merge the adapter into the model: convert MODEL DEST --adapter ADAPTER",
    )


def _draft(adapter: Adapter, found: tuple[str, dict[str, Pair]], recipe: Recipe, options: Options) -> Draft:
    quant = recipe.label
    if quant not in (AUTO, *DENSE_TYPES) or recipe.own:
        raise UsageError(
            "a GGUF adapter holds dense types only",
            code="quant-container",
            found=quant,
            allowed="auto, " + ", ".join(DENSE_TYPES),
        )
    architecture, pairs = found
    alpha = Counter(pair.scale * pair.rank for pair in pairs.values()).most_common(1)[0][0]
    tensors: dict[str, DraftTensor] = {}
    losses: list[Loss] = []
    folded = []
    for name, pair in pairs.items():
        a, b = (pair.b, Transpose(pair.a)) if name == _EMBEDDING else (pair.a, pair.b)
        factor = pair.scale * pair.rank / alpha if alpha else 1.0
        if factor != 1:
            b = Scale(b, factor)
            folded.append(name)
        for part, expr in (("lora_a", a), ("lora_b", b)):
            target = _type(expr, quant)
            tensors[f"{name}.{part}"] = DraftTensor(expr, target, reason="kept" if quant == AUTO else "as asked")
            losses += narrowing(f"{name}.{part}", expr.stored.name, target)
    notes = [Note("alpha", f"{alpha:g} for the file; the rest of the scale is in lora_b of {', '.join(folded)}")]
    metadata = _metadata(adapter, architecture, alpha, _usual(tensors), options)
    entries = [Entry(name, row.encoding, row.expr.shape) for name, row in tensors.items()]

    def build(stem: str) -> list[FileLayout]:
        return gguf.layout(entries, metadata=metadata, alignment=options.alignment or 32, stem=stem)

    return Draft(_usual(tensors) if quant == AUTO else quant, tensors, build, losses, notes if folded else [])


def _type(expr: Expression, quant: str) -> str:
    if quant != AUTO:
        return quant
    return expr.stored.name if expr.stored.name in DENSE_TYPES else "F32"


def _usual(tensors: Mapping[str, DraftTensor]) -> str:
    return Counter(row.encoding for row in tensors.values()).most_common(1)[0][0]


def _metadata(
    adapter: Adapter, architecture: str, alpha: float, quant: str, options: Options
) -> list[tuple[str, str, Any]]:
    """The keys of convert_lora_to_gguf.py, with the base's name where it is one of a hub."""
    rows: list[tuple[str, str, Any]] = [
        ("general.architecture", "STRING", architecture),
        ("general.type", "STRING", "adapter"),
        ("adapter.type", "STRING", "lora"),
    ]
    if adapter.options.base_name is not None:
        organization, name = adapter.options.base_name.split("/")
        rows += [
            ("general.base_model.count", "UINT32", 1),
            ("general.base_model.0.name", "STRING", name),
            ("general.base_model.0.organization", "STRING", organization),
            ("general.base_model.0.repo_url", "STRING", f"https://huggingface.co/{organization}/{name}"),
        ]
    rows.append(("adapter.lora.alpha", "FLOAT32", alpha))
    if adapter.options.alora is not None:
        rows.append(("adapter.alora.invocation_tokens", "ARRAY:UINT32", list(adapter.options.alora)))
    rows += [
        ("general.file_type", "UINT32", FILE_TYPES[quant].number),
        ("general.quantization_version", "UINT32", 2),
    ]
    given = options.metadata
    kept = [row for row in rows if row[0] not in given]
    return kept + [(key, _KINDS[type(value)], value) for key, value in given.items() if value is not None]


_KINDS: Mapping[type, str] = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
