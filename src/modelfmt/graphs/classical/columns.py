"""What an estimator is given: columns of the graph's input, or of a matrix that nodes have made.

A column of the input is numbers or texts as the estimator that asks for it has been fitted on; what was asked for
decides which inputs the graph has (`Inputs.declare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.ir.graph import Node, Value

if TYPE_CHECKING:
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["BATCH", "Columns", "Inputs", "Made"]

BATCH = "batch"
SINGLE = "X"


class Columns(msgspec.Struct, eq=False):
    """Some columns [N, width] of a source, in an order of their own."""

    build: Build
    source: Inputs | Made
    indices: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.indices)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, where they are columns of the input and these have names."""
        own = self.source.names
        return tuple(own[index] for index in self.indices) if own else ()

    @property
    def kind(self) -> str:
        """DOUBLE or STRING: what they are, or, of the input, what they have been used as so far."""
        if isinstance(self.source, Made):
            return self.source.kind
        kinds = {self.source.kinds.get(index) for index in self.indices}
        return "STRING" if kinds == {"STRING"} else "DOUBLE"

    def numbers(self) -> str:
        """The columns as a DOUBLE matrix. Raises UnsupportedError (they are texts)."""
        return self.source.matrix(self.build, self.indices, "DOUBLE")

    def texts(self) -> str:
        """The columns as a STRING matrix. Raises UnsupportedError (they are numbers)."""
        return self.source.matrix(self.build, self.indices, "STRING")

    def take(self, indices: Sequence[int]) -> Columns:
        """Some of the columns; indices lie within the width."""
        return Columns(self.build, self.source, tuple(self.indices[index] for index in indices))


class Made(msgspec.Struct, eq=False):
    """A matrix [N, width] that nodes have made, of one type of elements."""

    name: str
    width: int
    kind: str = "DOUBLE"
    names: tuple[str, ...] = ()

    def columns(self, build: Build) -> Columns:
        """All of its columns."""
        return Columns(build, self, tuple(range(self.width)))

    def matrix(self, build: Build, indices: tuple[int, ...], kind: str) -> str:
        """The value that holds some columns. Raises UnsupportedError."""
        if kind != self.kind:
            raise _two_types(build, self.kind, kind)
        if indices == tuple(range(self.width)):
            return self.name
        return build.op("Gather", self.name, list(indices), axis=1)


class Inputs(msgspec.Struct, eq=False):
    """The graph's own columns. names: of the columns the estimator was fitted on, where they had any.
    apart: each is an input of its own."""

    width: int
    names: tuple[str, ...] = ()
    kinds: dict[int, str] = msgspec.field(default_factory=dict)
    apart: bool = False
    asked: dict[tuple[tuple[int, ...], str], str] = msgspec.field(default_factory=dict)

    def columns(self, build: Build) -> Columns:
        """All of them."""
        return Columns(build, self, tuple(range(self.width)))

    def matrix(self, build: Build, indices: tuple[int, ...], kind: str) -> str:
        """The value that will hold some columns, once `declare` has made it. Raises UnsupportedError."""
        for index in indices:
            if self.kinds.setdefault(index, kind) != kind:
                raise _two_types(build, self.kinds[index], kind, self.label(index))
        return self.asked.setdefault((indices, kind), f"columns_{len(self.asked)}")

    def label(self, index: int) -> str:
        """The name of a column: scikit-learn's own where it has none."""
        return self.names[index] if self.names else f"x{index}"

    def declare(self, build: Build, type: str) -> None:
        """Make the graph's inputs, and before all other nodes those that take columns from them.

        Columns of one type are one input, X [batch, width]; else each that is used is an input [batch, 1] of its own:
        also where some are dropped (`apart`), whatever they hold. type: of
        numbers, DOUBLE or FLOAT.
        """
        later, build.graph.nodes = build.graph.nodes, []
        kinds = set(self.kinds.values()) or {"DOUBLE"}
        single = len(kinds) == 1 and not self.apart
        made: dict[tuple[int, ...], str] = {}
        if single:
            whole = tuple(range(self.width))
            made[whole] = self._input(build, SINGLE, self.width, kinds.pop(), type)
        else:
            for index, kind in sorted(self.kinds.items()):
                made[index,] = self._input(build, self.label(index), 1, kind, type)
        for (indices, _), name in self.asked.items():
            if indices in made:
                node = Node("Identity", [made[indices]], [name], name=name)
            elif single:
                node = Node(
                    "Gather", [made[whole], build.operand(list(indices))], [name], build.attributes(axis=1), name=name
                )
            else:
                parts = [made[index,] for index in indices]
                node = Node("Concat", parts, [name], build.attributes(axis=1), name=name)
            build.graph.nodes.append(node)
        build.graph.nodes += later

    def _input(self, build: Build, name: str, width: int, kind: str, type: str) -> str:
        own = type if kind == "DOUBLE" else kind
        build.graph.inputs.append(Value(name, own, (BATCH, width)))
        return build.cast(name, kind) if own != kind else name


def _two_types(build: Build, found: str, wanted: str, place: str | None = None) -> UnsupportedError:
    return UnsupportedError(
        "columns are used both as numbers and as texts",
        code="estimator-columns",
        path=build.path,
        place=place,
        found=found,
        allowed=wanted,
    )
