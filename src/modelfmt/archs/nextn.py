"""Layers behind the last one, each of which predicts a further token (MTP): how many there are, and what that changes.

config.json counts its layers without them, GGUF with them (block_count), and says how many they are in
nextn_predict_layers; lists with an entry per layer have one for each of them. The rows of such a layer are those of a
layer and those of the table's `Nextn`. Source: llama.cpp src/llama-model.cpp, conversion/{glm,qwen,deepseek}.py
(November 2026).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from modelfmt.archs.slots import Slot, slots_of, spellings
from modelfmt.archs.table import Architecture, Row
from modelfmt.archs.terms import Scope
from modelfmt.archs.values import bad_value, integer

__all__ = ["COUNT", "count", "of_file", "slots", "widened"]

COUNT = "n_nextn"
_LAYER, _LAYERS, _KEY = "model.layers.{i}.", "block_count", "nextn_predict_layers"


def slots(arch: Architecture, scope: Scope) -> Iterator[list[Slot]]:
    """The slots of all tensors of an architecture, these layers included. scope: `widened`."""
    yield from slots_of(arch.rows, scope)
    if arch.nextn is None:
        return
    own = [row for row in arch.rows if "{i}" in row.target and row.layers == "n_layer"]
    for number in range(scope[COUNT]):
        rows = (replace(row, source=_sources(arch.nextn.prefix, row, number)) for row in (*own, *arch.nextn.rows))
        yield from slots_of(tuple(rows), scope, (scope["n_layer"] + number,))


def _sources(prefix: str, row: Row, number: int) -> tuple[str, ...]:
    return tuple(source.replace(_LAYER, prefix).replace("{k}", str(number)) for source in row.sources)


def count(arch: Architecture, n_layer: int, names: Container[str]) -> int:
    """How many a checkpoint has, whatever its configuration says: transformers leaves them out where it saves."""
    found = 0
    while arch.nextn is not None:
        (first,) = _sources(arch.nextn.prefix, arch.nextn.rows[0], found)
        name = first.replace("{i}", str(n_layer + found))
        if not any(spelled in names for spelled, _ in spellings(arch, name)):
            break
        found += 1
        if name == arch.nextn.rows[0].source:  # a name without a number: there is one at most
            break
    return found


def widened(arch: Architecture, scope: Scope) -> dict[str, Any]:
    """The params with an entry for each of these layers where there is one for each layer."""
    found, n_layer = dict(scope), scope["n_layer"]
    if arch.nextn is not None and scope.get(COUNT):
        for name, value in scope.items():
            if isinstance(value, list) and len(value) == n_layer:
                found[name] = value + [arch.nextn.entries.get(name, value[-1])] * scope[COUNT]
    return found


def of_file(arch: Architecture, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The metadata of a file as it were without these layers, and their number. Raises CorruptFile."""
    layers, key = f"{arch.gguf}.{_LAYERS}", f"{arch.gguf}.{_KEY}"
    if arch.nextn is None or not metadata.get(key):
        return dict(metadata), 0
    n_all = integer(metadata.get(layers), layers, path="metadata")
    found = integer(metadata[key], key, path="metadata")
    if found >= n_all:
        raise bad_value(key, found, f"less than {layers}, which is {n_all}", path="metadata")
    kept = {name: value[:-found] if _per_layer(arch, name, value, n_all) else value for name, value in metadata.items()}
    return kept | {layers: n_all - found}, found


def _per_layer(arch: Architecture, name: str, value: Any, n_all: int) -> bool:
    return name.startswith(f"{arch.gguf}.") and isinstance(value, list) and len(value) == n_all
