"""What the conventions of quantized checkpoints share: parts of modules, checked, as expressions of grids.

A convention is a file that has `read(parts)`: it takes the tensors of each quantized module out of `parts` and puts one
tensor in their place. What no convention takes stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import gcd, prod
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Leaf, Param, Reader, Reshape, geometry
from modelfmt.report import Note

__all__ = ["FLOATS", "Parts", "block_of", "floats", "group_index", "matching", "scale_of", "viewed"]

FLOATS = ("F16", "BF16", "F32")
SMALL = 1 << 22
"""Bytes that are read while a checkpoint is opened, of one tensor: group indices, states, scalars."""


class Parts(msgspec.Struct):
    """The tensors of a checkpoint while conventions are taken out of them.

    settings: the quantization section of the configuration. metadata: what the headers of the files say. made: what was
    put in the place of parts, by the name of the first of them.
    """

    path: str
    tensors: dict[str, Expression]
    settings: Mapping[str, Any]
    reader: Reader
    config: Mapping[str, Any] = msgspec.field(default_factory=dict)
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    notes: list[Note] = msgspec.field(default_factory=list)
    made: dict[str, tuple[str, Expression]] = msgspec.field(default_factory=dict)
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.order = tuple(self.tensors)

    def modules(self, suffix: str) -> Iterator[str]:
        """Names of the modules that have a tensor of this name, `model.layers.0.mlp.up_proj` .."""
        end = f".{suffix}"
        for name in list(self.tensors):
            if name.endswith(end) and name in self.tensors:
                yield name.removesuffix(end)

    def get(self, module: str, part: str, *encodings: str) -> Expression | None:
        """A part of a module; None where there is none. Raises UnsupportedError (quant-dtype)."""
        found = self.tensors.get(f"{module}.{part}")
        if found is not None and encodings and found.stored.name not in encodings:
            raise UnsupportedError(
                "a part of a quantized tensor has another type than its scheme says",
                code="quant-dtype",
                path=self.path,
                place=f"{module}.{part}",
                found=found.stored.name,
                allowed=", ".join(encodings),
            )
        return found

    def need(self, module: str, part: str, *encodings: str) -> Expression:
        """A part that has to be there. Raises CorruptFile (quant-part)."""
        found = self.get(module, part, *encodings)
        if found is None:
            raise CorruptFile(
                "a quantized tensor lacks a part",
                code="quant-part",
                path=self.path,
                place=f"{module}.{part}",
                hint="the checkpoint is incomplete, or of another scheme than config.json says",
            )
        return found

    def shape(self, place: str, expr: Expression, *allowed: tuple[int, ...]) -> None:
        """Raise CorruptFile (quant-shape) where a part has none of these shapes."""
        if expr.shape not in allowed:
            raise CorruptFile(
                "a part of a quantized tensor has another shape than its scheme implies",
                code="quant-shape",
                path=self.path,
                place=place,
                found=list(expr.shape),
                allowed=" or ".join(str(list(shape)) for shape in allowed),
            )

    def put(self, name: str, expr: Expression, *taken: str) -> None:
        """One tensor in the place of the parts `taken`."""
        names = [part for part in taken if self.tensors.pop(part, None) is not None]
        self.made[names[0]] = name, expr

    def whole(self) -> dict[str, Expression]:
        """Every tensor, in the order of the checkpoint. Raises CorruptFile (quant-part) where two have one name."""
        found: dict[str, Expression] = {}
        for place in self.order:
            name, expr = self.made.get(place) or (place, self.tensors.get(place))
            if expr is None:  # taken, or dropped
                continue
            if name in found:
                raise CorruptFile(
                    "a weight is there twice, quantized and as it is", code="quant-part", path=self.path, place=name
                )
            found[name] = expr
        return found

    def drop(self, module: str, *parts: str) -> None:
        """Parts that say how activations are quantized, or nothing that a weight needs."""
        for part in parts:
            if self.tensors.pop(f"{module}.{part}", None) is not None:
                self.notes.append(Note(f"{module}.{part}", "left out: it belongs to activations, not to weights"))

    def array(self, expr: Expression, place: str) -> Any:
        """A small tensor's values, now. Raises CorruptFile (quant-part) where it is large."""
        n_rows, n_cols = geometry(expr.shape, expr.stored)
        if n_rows * n_cols * expr.stored.block_bytes > SMALL:
            raise CorruptFile(
                "a part of a quantized tensor is too large", code="quant-part", path=self.path, place=place
            )
        rows = self.reader.rows(expr, 0, n_rows).reshape(-1)
        return rows.view(ENCODINGS[expr.stored.name].numpy)

    def integer(self, key: str, default: int | None = None, *, allowed: tuple[int, ...] = ()) -> int:
        """A number of the settings. Raises UnsupportedError (quant-config)."""
        found = self.settings.get(key)
        found = default if found is None else found
        if not isinstance(found, int) or isinstance(found, bool) or (allowed and found not in allowed):
            raise self.refused(key, found, ", ".join(map(str, allowed)) or "a number")
        return found

    def refused(self, key: str, found: object, allowed: object) -> UnsupportedError:
        """The error for a setting that is not supported."""
        return UnsupportedError(
            "the quantization of this checkpoint has a setting that is not supported",
            code="quant-config",
            path=self.path,
            place=f"quantization_config.{key}",
            found=found,
            allowed=allowed,
        )


def viewed(expr: Expression, encoding: str, shape: tuple[int, ...], parts: Parts, place: str) -> Expression:
    """The same bytes as another dense type and shape. Raises CorruptFile (quant-shape)."""
    inner = expr
    while isinstance(inner, Reshape):
        inner = inner.input
    old = prod(expr.shape) * expr.stored.block_bytes
    if not isinstance(inner, Leaf) or prod(shape) * ENCODINGS[encoding].block_bytes != old:
        raise CorruptFile(
            "a part of a quantized tensor has another size than its scheme implies",
            code="quant-shape",
            path=parts.path,
            place=place,
            found=list(expr.shape),
            allowed=f"{list(shape)} of {encoding}",
        )
    return msgspec.structs.replace(inner, encoding=encoding, shape=shape)


def scale_of(
    parts: Parts, place: str, scale: Expression, shape: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[Param, int]:
    """A scale for the whole, for each row, for groups of a row or for blocks; and the columns that share one.

    shape: of the weight, [rows, columns]. block: (rows, columns) of a block, or None.
    """
    if len(shape) < 2:
        raise parts.refused(place, list(shape), "the scale of a matrix")
    *outer, n_rows, n_cols = shape
    if prod(scale.shape) == 1:
        return Param(Reshape(scale, (1, 1)), rows=0), n_cols
    if scale.shape in ((n_rows,), (n_rows, 1)) and not outer:
        return Param(Reshape(scale, (n_rows, 1))), n_cols
    if block is not None:
        high, wide = block
        parts.shape(place, scale, (*outer, -(-n_rows // high), -(-n_cols // wide)))
        if outer and n_rows % high:
            raise parts.refused("weight_block_size", list(block), f"rows that divide {n_rows}, in stacked tensors")
        return Param(scale, rows=high, group=wide), gcd(wide, n_cols)
    if len(scale.shape) == len(shape) and scale.shape[:-1] == shape[:-1] and n_cols % max(scale.shape[-1], 1) == 0:
        group = n_cols // scale.shape[-1]
        return Param(scale, group=group), group
    raise CorruptFile(
        "a scale has another shape than its weight implies",
        code="quant-shape",
        path=parts.path,
        place=place,
        found=list(scale.shape),
        allowed=f"one for all of {list(shape)}, one for each row, or one for each group",
    )


def block_of(found: object) -> tuple[int, int] | None:
    """(rows, columns) of a block, as a configuration says; None where it says nothing of the kind."""
    if isinstance(found, list) and len(found) == 2 and all(isinstance(n, int) and n > 0 for n in found):
        return found[0], found[1]
    return None


def group_index(parts: Parts, place: str, index: Expression, n_groups: int, group: int) -> Expression | None:
    """The group of each column, I32 [1, columns]; None where they are in order, or all -1 (none is meant).

    Raises CorruptFile (group-index) where there is no such group.
    """
    import numpy as np

    found = parts.array(index, place)
    if np.array_equal(found, np.arange(len(found)) // group) or (found == -1).all():
        return None
    if found.min() < 0 or found.max() >= n_groups:
        raise CorruptFile(
            "g_idx names a group that is not there",
            code="group-index",
            path=parts.path,
            place=place,
            found=int(found.min() if found.min() < 0 else found.max()),
            allowed=f"0 to {n_groups - 1}",
        )
    return Reshape(index, (1, len(found)))


def floats(
    parts: Parts, module: str, name: str, weight: Expression, params: tuple[Param, ...], group: int, label: str
) -> Coded:
    """A weight of 8-bit floats under scales."""
    table = {"F8_E4M3": "E4M3", "F8_E5M2": "E5M2"}.get(weight.stored.name)
    if table is None:
        raise parts.refused(f"{module}.{name}", weight.stored.name, "F8_E4M3, F8_E5M2")
    return Coded(weight, Packing(8), weight.shape, table, group, params, label=label)


def matching(pattern: str, name: str) -> bool:
    """Whether a target of a configuration means a module: "re:" and an expression, or a name or its end."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    return name == pattern or name.endswith(f".{pattern}")


Convention = Callable[[Parts], None]
