"""`.skops`: scikit-learn's objects as a zip of a schema (JSON) and arrays (`.npy`, `.npz`), after skops.io.

Source: skops 0.16, skops/io/_general.py, _numpy.py, _scipy.py, _sklearn.py (get_state of each type). A node of the
schema names a class and a loader; no class is imported: nodes become the records, lists and tensors that the pickle of
the same object becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from typing import Any

from modelfmt.arrays.npy import read_header
from modelfmt.arrays.values import array
from modelfmt.errors import CorruptFile, ModelfmtError, UnsupportedError
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Leaf, Reader
from modelfmt.ir.record import Name, Objects, Pairs, Record, Texts
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region
from modelfmt.storage.strict_json import parse
from modelfmt.storage.zip_directory import Archive

__all__ = ["SCHEMA", "nodes", "read", "schema_of", "sniff_members"]

SCHEMA = "schema.json"
MAX_SCHEMA = 256 << 20
PROTOCOL = 2
_KEY_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": lambda text: text == "true"}


def sniff_members(names: Collection[str]) -> bool:
    """True where the members of a zip archive are those of skops."""
    return SCHEMA in names and all("/" not in name for name in names)


def schema_of(archive: Archive) -> dict[str, Any]:
    """The schema of an archive, checked for its outermost node. Raises CorruptFile, LimitExceeded, UnsupportedError."""
    path = archive.region.path
    found = parse(archive.data(SCHEMA, at_most=MAX_SCHEMA), path=path, place=SCHEMA, at_most=MAX_SCHEMA)
    if not isinstance(found, dict) or not isinstance(found.get("__loader__"), str):
        raise CorruptFile("no node at the root of the schema", code="skops-node", path=path, place=SCHEMA)
    protocol = found.get("protocol", 0)
    if type(protocol) is not int or not 0 <= protocol <= PROTOCOL:
        raise UnsupportedError(
            "an unknown protocol of skops", code="skops-protocol", path=path, found=protocol, allowed=f"0 to {PROTOCOL}"
        )
    return found


def nodes(schema: Any) -> list[dict[str, Any]]:
    """Every node of a schema, in the order of the file."""
    found, waiting = [], [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "__loader__" in value:
                found.append(value)
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
    return found


def read(path: str, files: Files, reader: Reader) -> Model:
    """The object as `content`, its arrays as tensors, by the names of `ir.record.walk`.

    extras["skops"]: version, protocol, types (every class and function that skops would import). Raises SourceMissing,
    CorruptFile, LimitExceeded, UnsupportedError.
    """
    archive = Archive(Region.whole(path, files))
    schema = schema_of(archive)
    types = dict.fromkeys(_type(node) for node in nodes(schema))
    own = {"version": schema.get("_skops_version"), "protocol": schema.get("protocol"), "types": list(types)}
    model = Model("skops", path, extras={"skops": own}, files=files)
    model.adopt(_Builder(archive, lambda expr: Tensor("", expr, reader)).value(schema))
    return model


def _type(node: dict[str, Any]) -> str:
    return f"{node.get('__module__')}.{node.get('__class__')}"


class _Builder:
    """Turns nodes into values. A node whose `__id__` was seen is the object that was made then, as skops has it."""

    def __init__(self, archive: Archive, make: Callable[[Expression], Tensor]) -> None:
        self.archive = archive
        self.make = make
        self._made: dict[int, Any] = {}

    def value(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node  # bounds of slices, names of functions
        if "__loader__" not in node:
            return {key: self.value(item) for key, item in node.items()}
        number = node.get("__id__")
        if type(number) is int and number in self._made:
            return self._made[number]
        loader = node["__loader__"]
        handler = _HANDLERS.get(loader) if isinstance(loader, str) else None
        made = (handler or _Builder.record)(self, node)
        if type(number) is int:
            self._made[number] = made
        return made

    def record(self, node: dict[str, Any]) -> Record:
        """An object: its attributes, and what it is called with."""
        record = Record(_type(node))
        if type(node.get("__id__")) is int:
            self._made[node["__id__"]] = record  # what holds itself finds itself
        reduced = node.get("__reduce__")
        if isinstance(reduced, dict):
            args = self.value(reduced.get("args"))
            record.args = args if isinstance(args, tuple) else (args,)
        for key in ("content", "attrs"):
            held = self.value(node.get(key))
            for part in held if _is_slots(held) else (held,):
                if isinstance(part, dict):
                    record.attributes |= {str(name): item for name, item in part.items()}
                elif part is not None and part != ():
                    record.attributes["state"] = part
        return record

    def constructed(self, node: dict[str, Any]) -> Record:
        args = self.value(node.get("content"))
        return Record(_type(node), args=args if isinstance(args, tuple) else (args,))

    def text(self, node: dict[str, Any]) -> Any:
        text = node.get("content")
        if not isinstance(text, str):
            raise self.corrupt("a JSON node without text", node)
        return parse(text.encode(errors="surrogatepass"), path=self.archive.region.path, non_finite=True)

    def items(self, node: dict[str, Any]) -> list[Any]:
        rows = node.get("content")
        if not isinstance(rows, list):
            raise self.corrupt("a list without items", node)
        return [self.value(row) for row in rows]

    def a_set(self, node: dict[str, Any]) -> Record:
        return Record("builtins.set", items=self.items(node))

    def a_dict(self, node: dict[str, Any]) -> Any:
        rows = node.get("content")
        kinds = node.get("key_types")
        types = kinds.get("content") if isinstance(kinds, dict) else None
        if not isinstance(rows, dict) or not isinstance(types, list) or len(types) != len(rows):
            raise self.corrupt("a dict without its keys' types", node)
        keys = [self.key(key, kind) for key, kind in zip(rows, types, strict=True)]
        values = [self.value(item) for item in rows.values()]
        if all(isinstance(key, str | bool) or (type(key) is int and abs(key) < 1 << 60) for key in keys):
            return dict(zip(keys, values, strict=True))
        return Pairs(zip(keys, values, strict=True))

    def key(self, text: str, kind: Any) -> Any:
        """A key in its type; JSON has texts only."""
        name = kind.get("__class__") if isinstance(kind, dict) else None
        make = _KEY_TYPES.get(name.rstrip("0123456789") if isinstance(name, str) else "")
        if make is None:
            return None if name == "NoneType" else text
        try:
            return make(text[:40])
        except ValueError:
            raise self.corrupt("a key that is not of its type", kind) from None

    def default_dict(self, node: dict[str, Any]) -> Any:
        held = node.get("content")
        return self.value(held.get("main")) if isinstance(held, dict) else self.record(node)

    def a_slice(self, node: dict[str, Any]) -> slice:
        held = node.get("content")
        bounds = [held.get(key) for key in ("start", "stop", "step")] if isinstance(held, dict) else [""]
        if not all(n is None or type(n) is int for n in bounds):
            raise self.corrupt("a slice without bounds", node)
        return slice(*bounds)

    def name(self, node: dict[str, Any]) -> Name:
        return Name(_type(node))

    def dtype(self, node: dict[str, Any]) -> Any:
        """A type, kept as an empty array of it."""
        made = self.value(node.get("content"))
        if isinstance(made, Tensor):
            return Name(made.encoding.numpy)
        return Name("str" if isinstance(made, Texts) else "object" if isinstance(made, Objects) else "?")

    def raw(self, node: dict[str, Any]) -> Texts:
        place = self.member(node)
        return Texts(self.make(Leaf(place.path, place.start, (place.size,), "U8")), unicode=False)

    def an_array(self, node: dict[str, Any]) -> Any:
        if node.get("type") == "json":
            return self.objects(node)
        made = self.npy(self.member(node), node)
        if node.get("__class__") == "ndarray" or not isinstance(made, Tensor | Texts) or prod(made.shape) != 1:
            return made
        if isinstance(made, Texts):
            return made.tolist()
        return made.numpy().reshape(-1)[0].item() if made.encoding.numpy else made  # a number of a NumPy type

    def npy(self, place: Region, node: dict[str, Any]) -> Any:
        header = read_header(place, str(node.get("file")))
        made = array(header.data, header.element, header.shape, self.make, fortran=header.fortran)
        if made is None:
            raise UnsupportedError(
                "an array of a type without an encoding",
                code="array-objects" if header.element.size is None else "array-dtype",
                path=self.archive.region.path,
                place=str(node.get("file")),
            )
        return made

    def objects(self, node: dict[str, Any]) -> Objects:
        """An array of objects, kept as nested lists."""
        shape = self.value(node.get("shape"))
        rows = self.items(node)
        proper = isinstance(shape, tuple) and 0 < len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        for _ in range(len(shape) - 1 if proper else 0):
            rows = [item for row in rows for item in (row if isinstance(row, list) else [row])]
        if not proper or prod(shape) != len(rows):
            raise self.corrupt("an array of objects that does not fit its shape", node)
        return Objects(shape, rows)

    def sparse(self, node: dict[str, Any]) -> Record:
        """A sparse matrix: an `.npz` inside."""
        inner = Archive(self.member(node))
        held = {name.removesuffix(".npy"): self.npy(inner.stream(name), node) for name in inner.members}
        return Record(_type(node), held)

    def member(self, node: dict[str, Any]) -> Region:
        name = node.get("file")
        if not isinstance(name, str) or name not in self.archive.members:
            raise self.corrupt("a member that is not there", node)
        return self.archive.stream(name)

    def cached(self, node: dict[str, Any]) -> Any:
        raise self.corrupt("a reference to an object that was not described", node)

    def corrupt(self, message: str, node: Any) -> ModelfmtError:
        kind = _type(node) if isinstance(node, dict) else str(node)[:80]
        return CorruptFile(message, code="skops-node", path=self.archive.region.path, place=SCHEMA, found=kind)


_HANDLERS: dict[str, Callable[[_Builder, dict[str, Any]], Any]] = {
    "JsonNode": _Builder.text,
    "DictNode": _Builder.a_dict,
    "DefaultDictNode": _Builder.default_dict,
    "ListNode": _Builder.items,
    "TupleNode": lambda builder, node: tuple(builder.items(node)),
    "SetNode": _Builder.a_set,
    "SliceNode": _Builder.a_slice,
    "TypeNode": _Builder.name,
    "FunctionNode": _Builder.name,
    "DTypeNode": _Builder.dtype,
    "BytesNode": _Builder.raw,
    "BytearrayNode": _Builder.raw,
    "NdArrayNode": _Builder.an_array,
    "SparseMatrixNode": _Builder.sparse,
    "ConstructorFromReduceNode": _Builder.constructed,
    "CachedNode": _Builder.cached,
}
"""Loader -> what its node becomes; every other loader makes an object with attributes."""


def _is_slots(held: Any) -> bool:
    return isinstance(held, tuple) and len(held) == 2 and all(part is None or isinstance(part, dict) for part in held)
