"""Checkpoints that do not exist: the tensors that a table asks for, as places in a file that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfmt.archs import hparams
from modelfmt.archs.slots import slots_of
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import holds
from modelfmt.archs.values import flat
from modelfmt.ir.ops import Expression, Leaf


def headers(arch: Architecture, config: Mapping[str, Any]) -> dict[str, Expression]:
    """Tensors of the shapes that a table asks for: the first layout and spelling of each, no tied ones, no optional."""
    scope = {"n_expert": 0} | hparams.read(arch, flat(config))
    for condition, other in arch.variants:
        if any(holds(condition, scope, layer) for layer in range(scope["n_layer"])):
            return headers(other, config)
    found: dict[str, Expression] = {}
    for slots in slots_of(arch.rows, scope):
        slot = slots[0]
        if slot.required and not (slot.row.tied_to and scope["tied"]):
            stored = "I64" if slot.row.keep == "I32" else "BF16"
            names = slot.names(slot.row.sources[0], scope)
            for name, shape in zip(names, slot.source_shapes(scope), strict=True):
                found[name] = Leaf("weights", len(found) << 32, shape, stored)
    for row in arch.lists:
        found[row.named(scope)] = Leaf("weights", len(found) << 32, row.shape(scope), "I64")
    return found
