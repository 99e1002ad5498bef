"""What a file holds beside tensors: objects with attributes (estimators), texts, tables, arrays of objects; plain data.

A pickled scikit-learn pipeline becomes a `Record` whose attributes are numbers, texts, lists, dicts, tensors and
further records, as they stand in the file; no class is imported. `walk` gives everything below a value its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.ir.tensor import Tensor

__all__ = ["Name", "Objects", "Pairs", "Record", "Table", "Texts", "walk"]

MAX_DEPTH = 1000
MAX_NAME = 2048
MAX_NAMED = 5_000_000


class Name(str):
    """The dotted name of a class or function that a file refers to (`dtype=numpy.float64`)."""

    __slots__ = ()


class Pairs(list[tuple[Any, Any]]):
    """A dict whose keys are not all text or small integers, as (key, value)."""

    __slots__ = ()


class Record(msgspec.Struct, eq=False):
    """An object as the file describes it.

    type: dotted name of its class (or of the function that makes it). attributes: in the order of the file. args: what
    the class is called with, where it is. items, pairs: of subclasses of list and dict. offset: where the file says so.
    """

    type: str
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)
    args: tuple[Any, ...] = ()
    items: list[Any] | None = None
    pairs: Pairs | None = None
    offset: int = 0

    @property
    def name(self) -> str:
        """The last part of the type."""
        return self.type.rpartition(".")[2]

    @property
    def package(self) -> str:
        """The first part of the type."""
        return self.type.partition(".")[0]

    @property
    def version(self) -> str | None:
        """The version of scikit-learn that wrote an estimator, where it says so."""
        found = self.attributes.get("_sklearn_version")
        return found if isinstance(found, str) else None

    @property
    def params(self) -> dict[str, Any]:
        """Attributes with a public name that does not end in an underscore: an estimator's parameters, and what its
        base classes keep under such names."""
        return {k: v for k, v in self.attributes.items() if not k.startswith("_") and not k.endswith("_")}

    @property
    def fitted(self) -> dict[str, Any]:
        """Attributes with a public name that ends in an underscore: what an estimator has learned."""
        return {k: v for k, v in self.attributes.items() if not k.startswith("_") and k.endswith("_")}

    @property
    def is_estimator(self) -> bool:
        """True for what scikit-learn, or a library of its kind, calls an estimator or a transformer."""
        learned = any(k.endswith("_") and not k.startswith("_") for k in self.attributes)
        known = "_sklearn_version" in self.attributes or "_Booster" in self.attributes
        return known or (learned and self.name[:1].isupper())

    @property
    def steps(self) -> list[tuple[str, Any]]:
        """(name, record) of a Pipeline's steps, a ColumnTransformer's or FeatureUnion's transformers, a voter's
        estimators; fitted ones where there are any. A step may be a text ("passthrough", "drop")."""
        for key in _STEPS:
            rows = self.attributes.get(key)
            if isinstance(rows, list) and rows and all(_is_step(row) for row in rows):
                return [(row[0], row[1]) for row in rows]
        return []

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attributes.get(name, default)

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def __contains__(self, name: object) -> bool:
        return name in self.attributes

    def __repr__(self) -> str:
        return f"Record({self.type}, {len(self.attributes)} attributes)"


_STEPS = ("steps", "transformers_", "transformer_list", "transformers", "estimators")


class Texts(msgspec.Struct, eq=False):
    """An array of texts or bytes, decoded when asked for. codes: U32 (texts) or U8 (bytes), [*shape, width]."""

    codes: Tensor
    unicode: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of texts."""
        return self.codes.shape[:-1]

    def tolist(self) -> Any:
        """Nested lists of str (or bytes); for shape () the text itself. Raises CorruptFile."""
        import numpy as np

        codes = self.codes.numpy()
        width = codes.shape[-1]
        if self.unicode and codes.size and int(codes.max()) > 0x10FFFF:
            raise CorruptFile("a character that does not exist", code="text", place=self.codes.name)
        if not width or not codes.size:
            return np.full(self.shape, "" if self.unicode else b"").tolist()
        if not self.unicode and not self.shape:
            return codes.tobytes()
        return np.ascontiguousarray(codes).view(f"{'U' if self.unicode else 'S'}{width}").reshape(self.shape).tolist()

    def __repr__(self) -> str:
        return f"Texts({list(self.shape)}, up to {self.codes.shape[-1]} {'characters' if self.unicode else 'bytes'})"


class Table(msgspec.Struct, eq=False):
    """An array of structures, by column. columns: tensors (or texts) of the table's shape, nested fields as `a.b`."""

    shape: tuple[int, ...]
    columns: dict[str, Any] = msgspec.field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"Table({list(self.shape)}, {', '.join(self.columns)})"


class Objects(msgspec.Struct, eq=False):
    """An array of objects. items: in row-major order."""

    shape: tuple[int, ...]
    items: list[Any] = msgspec.field(default_factory=list)

    def __repr__(self) -> str:
        return f"Objects({list(self.shape)})"


def _is_step(row: Any) -> bool:
    return isinstance(row, tuple) and len(row) in (2, 3) and isinstance(row[0], str)


def walk(root: Any, *, path: object = None) -> Iterator[tuple[str, Any]]:
    """(name, value) of every Record, Tensor, Texts, Table and Objects below a value, itself first.

    Names are the attributes, keys and indices that lead to a value, joined by dots; a step (name, value) of a list is
    called after its index and its name (`steps.0.scaler.mean_`). A container that is reached by several ways is entered
    by the first. path: of the file, for errors. Raises LimitExceeded.
    """
    seen: set[int] = set()
    waiting: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter([("", root)]))]
    count = 0
    while waiting:
        prefix, children = waiting[-1]
        row = next(children, None)
        if row is None:
            waiting.pop()
            continue
        name = f"{prefix}.{row[0]}" if prefix and row[0] else prefix or row[0]
        value = row[1]
        count += 1
        if isinstance(value, Record | Tensor | Texts | Table | Objects):
            yield name, value
        if not isinstance(value, _CONTAINERS) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(waiting) > MAX_DEPTH or len(name) > MAX_NAME or count > MAX_NAMED:
            raise LimitExceeded(
                "the tree is nested too deeply, or names too much",
                code="tree-size",
                path=path,
                found=f"{len(waiting)} levels, a name of {len(name)} characters",
                allowed=f"{MAX_DEPTH} levels, {MAX_NAME} characters",
            )
        waiting.append((name, children_of(value)))


_CONTAINERS = (Record, Table, Objects, dict, list, tuple)


def children_of(value: Any) -> Iterator[tuple[str, Any]]:
    """(part of a name, value) of what a container holds."""
    if isinstance(value, Record):
        yield from value.attributes.items()
        yield from ((f"args.{index}", item) for index, item in enumerate(value.args))
        yield from _listed(value.items or ())
        yield from _listed(value.pairs or ())
    elif isinstance(value, Table):
        yield from value.columns.items()
    elif isinstance(value, dict):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, Pairs):
        yield from ((str(key) if isinstance(key, str | int | float) else str(i), v) for i, (key, v) in enumerate(value))
    else:
        yield from _listed(value.items if isinstance(value, Objects) else value)


def _listed(rows: Any) -> Iterator[tuple[str, Any]]:
    for index, item in enumerate(rows):
        if isinstance(item, tuple) and isinstance(rows, list) and _is_step(item):
            yield from ((f"{index}.{item[0]}" + (f".{n}" if n else ""), part) for n, part in enumerate(item[1:]))
        else:
            yield str(index), item
