"""A checkpoint's weights by the role that the architecture's table gives them, in the layout of a Hugging Face model.

The roles are the GGUF names of the table. What the table does for llama.cpp alone is undone: rows of queries and keys
are in halves again, inverse operations next to each other fall away, so that most weights are bytes of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from modelfmt import archs
from modelfmt.archs import bind
from modelfmt.archs.specs import Permute
from modelfmt.archs.table import Architecture
from modelfmt.archs.values import flat
from modelfmt.errors import UnsupportedError
from modelfmt.ir.ops import AddConstant, Expression, Reshape, RopePermute, Transpose
from modelfmt.report import Loss, Note

__all__ = ["Weight", "Weights", "bound", "replace_input", "simplified"]


_COMPUTED = frozenset(
    {
        "n_head*head_size != n_embd",
        "n_layer != 46 and query_scale != head_size",
        "n_layer == 46 and query_scale != n_embd/n_head",
        "n_layer != 62 and query_scale != head_size",
        "n_layer == 62 and query_scale != n_embd/n_head",
        "not attention_cap",
        "not output_cap",
        "not sliding_window",
        "not sliding_window and n_layer == 64",
        "rope_theta != rope_theta_local",
        "sliding_window and n_layer != 64",
        "tied",
    }
)
"""Conditions of tables that llama.cpp's graphs do not allow for, and ours do."""


class Weight(msgspec.Struct, frozen=True):
    """A weight: its name in the checkpoint (the first of those that it is made of), and how it is made."""

    name: str
    expr: Expression


class Weights(msgspec.Struct):
    """What a graph is built from. params: the table's, by name. config: of the language model. keys: the metadata of
    the GGUF file that it would be, without the architecture's name. windows: for each layer, how near a token must be
    to be seen, itself counted, None for all.
    """

    arch: Architecture
    params: dict[str, Any]
    config: Mapping[str, Any]
    keys: dict[str, Any]
    tensors: dict[str, Weight]
    windows: list[int | None]
    interleaved: bool = False
    losses: list[Loss] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)

    @property
    def kind(self) -> str:
        """The model type of the architecture."""
        return (self.arch.model_type or (self.arch.writes or ("", self.arch.gguf))[1:])[0]

    def __getitem__(self, role: str) -> Weight:
        if role not in self.tensors:
            raise UnsupportedError(
                "the graph needs a weight that the architecture's table does not have",
                code="no-graph",
                place=role,
                found=self.arch.gguf,
            )
        return self.tensors[role]

    def __contains__(self, role: str) -> bool:
        return role in self.tensors


def bound(
    *,
    architecture: str | None,
    config: Mapping[str, Any],
    tensors: Mapping[str, Expression],
    assets: Mapping[str, bytes],
) -> Weights:
    """The weights of a checkpoint. Raises UnsupportedError (architecture, tensors), CorruptFile."""
    if not config:
        raise UnsupportedError(
            "there is no config.json beside these tensors",
            code="no-config",
            hint="a graph needs the architecture's configuration: open the checkpoint folder",
        )
    kind = config.get("model_type")
    model_type = kind if isinstance(kind, str) else None
    arch = archs.of_graph(hf_class=architecture, model_type=model_type, config=config)
    arch = replace(arch, nextn=None)  # graphs have no layers that predict further tokens: losses by name
    computed = _COMPUTED if any(row.tied_to for row in arch.rows) else _COMPUTED - {"tied"}
    found = bind.to_gguf(arch, tensors=tensors, config=config, assets=assets, computed=computed)
    arch = found.architecture
    prefix = f"{arch.gguf}."
    flattened = config if arch.towers else flat(config)
    weights, named = {}, set()
    for tensor in found.tensors:
        name = tensor.source_names[0] if tensor.source_names else tensor.name
        if name in named:  # another part of the same tensor
            name = f"{name}.{tensor.name.split('.')[-2]}"
        named.add(name)
        weights[tensor.name] = Weight(name, simplified(_halves(tensor.expr)))
    expressed = {rule.detail for rule in arch.loses}  # what llama.cpp's graphs do otherwise, ours do as the original
    notes = [note for note in found.notes if note.detail not in expressed]
    return Weights(
        arch,
        found.hparams,
        flattened,
        {key.removeprefix(prefix): value for key, _, value in found.metadata},
        weights,
        _windows(arch, flattened, found.hparams),
        _interleaved(arch),
        [note for note in notes if isinstance(note, Loss)],
        [note for note in notes if isinstance(note, Note)],
    )


def _interleaved(arch: Architecture) -> bool:
    """Whether the checkpoint itself has pairs next to each other: its table does not make them so."""
    permuted = any(isinstance(spec, Permute) for row in arch.rows for spec in row.ops)
    return arch.rope is not None and arch.rope.style == "norm" and not permuted


def _halves(expr: Expression) -> Expression:
    """Without the order of rows that llama.cpp's interleaved graphs want."""
    if isinstance(expr, RopePermute) and not expr.inverse:
        return expr.input
    if isinstance(expr, RopePermute | Reshape | AddConstant):
        return replace_input(expr, _halves(expr.input))
    return expr


def replace_input(expr: Any, inner: Expression) -> Expression:
    """The same operation on another input."""
    import msgspec

    made: Expression = msgspec.structs.replace(expr, input=inner)
    return made


def simplified(expr: Expression) -> Expression:
    """The same values with less to do: an operation right behind its inverse falls away."""
    if not isinstance(expr, RopePermute | AddConstant | Transpose | Reshape):
        return expr
    inner = simplified(expr.input)
    match expr, inner:
        case RopePermute(heads=n, inverse=way), RopePermute(heads=m, inverse=other) if n == m and way != other:
            return inner.input
        case AddConstant(value=a), AddConstant(value=b) if a == -b:
            return inner.input
        case Transpose(), Transpose():
            return inner.input
    return inner if isinstance(expr, Reshape) and inner.shape == expr.shape else replace_input(expr, inner)


_SLIDES = {"qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "smollm3"}
"""Model types whose window counts only where use_sliding_window says so."""


def _windows(arch: Architecture, config: Mapping[str, Any], params: Mapping[str, Any]) -> list[int | None]:
    """How near a token must be to be seen, in each layer."""
    n_layer = params["n_layer"]
    usual, name = (arch.window.size, arch.window.config) if arch.window else (params.get("sliding_window"), "")
    size = config.get(name or "sliding_window", usual)
    flagged = not _SLIDES.isdisjoint(arch.model_type)
    used = config.get("use_sliding_window", False) if flagged else True
    if not used or not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        return [None] * n_layer
    if arch.graph.get("block") == "encoder":
        size = size // 2 + 1  # half of it lies on each side
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layer:
        return [size if kind == "sliding_attention" else None for kind in kinds]
    if arch.window is not None:
        period, shift = arch.window.period, not arch.window.full_first
        return [size if (layer + shift) % period else None for layer in range(n_layer)]
    first = params.get("max_window_layers") if flagged else 0
    return [size if layer >= (first or 0) else None for layer in range(n_layer)]
