"""A pickle's tree as values: records with attributes, lists, dicts, numbers, texts, tensors. No class is imported.

Every object of the tree becomes one value, however often it is named, so that what is shared stays shared. What has
a meaning: plain built-in types, the dictionaries of `collections`, NumPy's arrays, scalars and types. Everything else
is a Record: its type, its attributes (`__dict__` and slots, as BUILD sets them), what it is called with, its items.
"""

from __future__ import annotations

import codecs
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from modelfmt.arrays.dtypes import DESCRIPTIONS, Dtype, Element, Other, TextType
from modelfmt.arrays.values import Make, array
from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import Leaf
from modelfmt.ir.record import Name, Objects, Pairs, Record, Texts
from modelfmt.kernels import convert
from modelfmt.pickles.arrays import ARRAY_CALLS, SCALARS, Located, dtype, located, raw
from modelfmt.pickles.boosters import BOOSTERS
from modelfmt.pickles.joblib_arrays import BESIDE, beside
from modelfmt.pickles.tree import DICT_CLASSES, class_name, content, pairs, sequence, text
from modelfmt.pickles.values import Blob, Call, Dict, Global, OutOfBand, Persistent, Set
from modelfmt.storage.region import Region

__all__ = ["Builder"]

_FORMS = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U64": "Q", "U32": "I",
    "U16": "H", "U8": "B", "BOOL": "?",
}  # fmt: skip
MAX_TUPLES = 50
"""Tuples in tuples; other containers may nest as deeply as they like."""
_BUILTIN = ("builtins.", "__builtin__.")
_PLAIN = (type(None), bool, int, float, str, bytes)


class Builder:
    """Turns values of a tree into values of the IR. path: of the file; make: an expression -> a tensor."""

    def __init__(self, region: Region, path: str, make: Make) -> None:
        self.region = region
        self.path = path
        self.make = make
        self._made: dict[int, Any] = {}
        self._elements: dict[int, Element | None] = {}
        self._waiting: deque[Callable[[], None]] = deque()

    def build(self, root: Any) -> Any:
        """The value of a tree. Raises CorruptFile, LimitExceeded, UnsupportedError, SourceMissing (arrays beside)."""
        value = self.value(root)
        while self._waiting:
            self._waiting.popleft()()
        return value

    def value(self, tree: Any, depth: int = 0) -> Any:
        """The value of a part of the tree; what containers hold is put in later."""
        if isinstance(tree, _PLAIN):
            return tree
        if isinstance(tree, Global):
            return Name(str(tree))
        key = id(tree)
        if key in self._made:
            return self._made[key]
        if isinstance(tree, tuple):
            if depth > MAX_TUPLES:
                raise LimitExceeded(
                    "tuples are nested too deeply", code="tree-size", path=self.path, allowed=f"at most {MAX_TUPLES}"
                )
            made: Any = tuple(self.value(item, depth + 1) for item in tree)
            self._made[key] = made
            return made
        return self._container(tree)

    def _container(self, tree: Any) -> Any:
        if isinstance(tree, list):
            rows: list[Any] = []
            return self._later(tree, rows, lambda: rows.extend(map(self.value, tree)))
        if isinstance(tree, Dict):
            return self._dict(tree, tree.pairs)
        if isinstance(tree, Set):
            return self._set(tree, tree.items, frozen=tree.frozen)
        if isinstance(tree, Blob):
            return self._keep(tree, self._bytes(tree.region))
        if isinstance(tree, Call):
            return self._call(tree)
        if isinstance(tree, Persistent):
            record = Record("pickle.persistent_id", offset=tree.offset)
            return self._later(tree, record, lambda: _give(record, (self.value(tree.id),)))
        assert isinstance(tree, OutOfBand)
        return self._keep(tree, Record("pickle.PickleBuffer", offset=tree.offset))

    def _keep(self, tree: Any, made: Any) -> Any:
        self._made[id(tree)] = made
        return made

    def _later(self, tree: Any, made: Any, fill: Callable[[], None]) -> Any:
        """Note what was made, before it is filled: what holds itself finds itself."""
        self._made[id(tree)] = made
        self._waiting.append(fill)
        return made

    def _dict(self, tree: Any, rows: list[Any]) -> Any:
        keys, values = rows[::2], rows[1::2]
        if all(_hashable(key) for key in keys):
            made: dict[Any, Any] = {}
            return self._later(tree, made, lambda: made.update(zip(keys, map(self.value, values), strict=True)))
        listed = Pairs()
        return self._later(tree, listed, lambda: listed.extend(self._pairs(rows)))

    def _pairs(self, rows: list[Any]) -> Pairs:
        return Pairs((self.value(key), self.value(item)) for key, item in zip(rows[::2], rows[1::2], strict=True))

    def _set(self, tree: Any, items: Any, *, frozen: bool) -> Record:
        record = Record("builtins.frozenset" if frozen else "builtins.set", items=[])
        return self._later(tree, record, lambda: _items(record, [self.value(item) for item in items]))  # type: ignore[no-any-return]

    def _bytes(self, region: Region) -> Texts:
        """Bytes that are too long to be held, as they lie in the file."""
        return Texts(self.make(Leaf(region.path, region.start, (region.size,), "U8")), unicode=False)

    def _call(self, call: Call) -> Any:
        name = call.name
        if name in ARRAY_CALLS or name in BESIDE:
            found = located(call, self.region) if name in ARRAY_CALLS else beside(call, self.region, self.path)
            if found is not None:
                return self._array(call, found)
        if name in SCALARS:
            return self._keep(call, self._scalar(call))
        if name == "numpy.dtype":
            return self._keep(call, Name(_type_name(call)))
        kind = class_name(call)
        if kind in DICT_CLASSES and not call.states and (rows := pairs(call)) is not None:
            return self._dict(call, rows)
        if kind.startswith(_BUILTIN) and call.opcode == "REDUCE" and not call.states:
            return self._builtin(call, kind.partition(".")[2])
        if name == "_codecs.encode" and (place := content(call, self.region)) is not None:
            return self._keep(call, place.read(0, place.size) if place.size <= 1 << 20 else self._bytes(place))
        return self._record(call, kind)

    def _builtin(self, call: Call, name: str) -> Any:
        """Built-in types that protocol 2 makes by calling them."""
        args = call.args if isinstance(call.args, tuple) else ()
        if name in ("set", "frozenset", "list") and len(args) == 1 and isinstance(args[0], list | tuple | Set):
            rows = sequence(args[0]) or []
            if name == "list":
                made: list[Any] = []
                return self._later(call, made, lambda: made.extend(map(self.value, [*rows, *(call.items or ())])))
            return self._set(call, rows, frozen=name == "frozenset")
        numbers = all(arg is None or type(arg) in (int, float) for arg in args)
        if name == "slice" and len(args) == 3 and numbers:
            return self._keep(call, slice(*args))
        if name in ("range", "xrange") and len(args) == 3 and all(type(arg) is int for arg in args) and args[2]:
            return self._keep(call, range(*args))
        if name == "complex" and len(args) == 2 and all(type(arg) is float for arg in args):
            return self._keep(call, complex(*args))
        if name in ("bytearray", "bytes") and (place := content(call, self.region)) is not None:
            return self._keep(call, self._bytes(place))
        return self._record(call, f"builtins.{name}")

    def _array(self, call: Call, found: Located) -> Any:
        if found.element.size is not None:
            made = array(found.data, found.element, found.shape, self.make, fortran=found.fortran)
            return self._keep(call, made if made is not None else _unread(call, found))
        rows = found.data
        if isinstance(rows, Call) and rows.name in ARRAY_CALLS:  # joblib: the array is pickled once more
            return self._keep(call, self.value(rows))
        if not isinstance(rows, list) or len(rows) != _count(found.shape):
            raise CorruptFile(
                "an array of objects that does not fit its shape",
                code="array-size",
                path=self.path,
                place=f"byte {call.offset}",
                found=len(rows) if isinstance(rows, list) else type(rows).__name__,
                allowed=_count(found.shape),
            )
        objects = Objects(found.shape)
        order = _order(found.shape) if found.fortran else range(len(rows))
        return self._later(call, objects, lambda: objects.items.extend(self.value(rows[i]) for i in order))

    def _scalar(self, call: Call) -> Any:
        """A number, text or boolean of a NumPy type, as Python's own."""
        args = call.args if isinstance(call.args, tuple) else ()
        element = self._element(args[0]) if args else None
        if len(args) == 2 and element is not None and element.size is None:
            return self.value(args[1])
        if len(args) != 2 or not isinstance(element, Dtype | TextType) or element.size > 1 << 20:
            return Record("numpy.generic", {"dtype": Name(_type_name(args[0]) if args else "?")}, offset=call.offset)
        data = raw(args[1], self.region, element.size)
        if isinstance(element, TextType):
            if not element.unicode:
                return data.rstrip(b"\0")
            codec = "utf-32-be" if element.big else "utf-32-le"
            return codecs.decode(data, codec, "replace").rstrip("\0")
        form = _FORMS.get(element.encoding)
        if form is not None:
            return struct.unpack((">" if element.big else "<") + form, data)[0]
        import numpy as np

        if element.encoding not in DESCRIPTIONS:
            out = np.empty((1, 1), np.float32)
            convert(element.encoding, np.frombuffer(data, np.uint8), "F32", out, 1, 1)
            return float(out[0, 0])
        kind = np.dtype(ENCODINGS[element.encoding].numpy).newbyteorder(">" if element.big else "<")
        return np.frombuffer(data, kind)[0].item()

    def _element(self, tree: Any) -> Element | None:
        """The type that a tree describes; pickles name one object for all numbers of a type."""
        key = id(tree)
        if key not in self._elements:
            self._elements[key] = dtype(tree)
        return self._elements[key]

    def _record(self, call: Call, kind: str) -> Record:
        record = Record(kind, offset=call.offset)
        return self._later(call, record, lambda: self._fill(call, record))  # type: ignore[no-any-return]

    def _fill(self, call: Call, record: Record) -> None:
        maker = call.name in ("copyreg._reconstructor", "copy_reg._reconstructor")
        if isinstance(call.args, tuple) and not maker:
            record.args = tuple(self.value(item) for item in call.args)
        if call.kwargs is not None:
            record.attributes["kwargs"] = self.value(call.kwargs)
        for state in call.states:
            for part in state if isinstance(state, tuple) and len(state) == 2 and _slots(state) else (state,):
                self._attributes(record, part)
        if call.items is not None:
            record.items = [self.value(item) for item in call.items]
        if call.pairs is not None:
            record.pairs = self._pairs(call.pairs)
        if record.type in BOOSTERS:
            BOOSTERS[record.type](record, self.region, self.make)

    def _attributes(self, record: Record, state: Any) -> None:
        if state is None:
            return
        rows = pairs(state)
        if rows is None:
            record.attributes["state"] = self.value(state)
            return
        for key, item in zip(rows[::2], rows[1::2], strict=True):
            name = text(key)
            record.attributes[name if name is not None else str(key)[:80]] = self.value(item)


def _slots(state: tuple[Any, ...]) -> bool:
    """True for the pair of __dict__ and slots."""
    return all(part is None or isinstance(part, Dict) for part in state)


def _give(record: Record, args: tuple[Any, ...]) -> None:
    record.args = args


def _items(record: Record, items: list[Any]) -> None:
    record.items = items


def _hashable(key: Any) -> bool:
    """Keys whose hashes a file cannot make collide."""
    return key is None or isinstance(key, str | bool) or (type(key) is int and abs(key) < 1 << 60)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _order(shape: tuple[int, ...]) -> list[int]:
    """Positions in Fortran's order of the elements in row-major order."""
    import numpy as np

    order: list[int] = np.arange(_count(shape)).reshape(shape[::-1]).T.reshape(-1).tolist()
    return order


def _type_name(value: Any) -> str:
    """NumPy's name for a type that a call describes."""
    element = dtype(value)
    if isinstance(element, Dtype):
        return ENCODINGS[element.encoding].numpy
    if isinstance(element, TextType):
        return f"{'str' if element.unicode else 'bytes'}{element.width or ''}"
    return element.name if isinstance(element, Other) else "structure" if element is not None else "?"


def _unread(call: Call, found: Located) -> Record:
    """An array whose type has no encoding (dates, raw bytes): its type and shape."""
    name = found.element.name if isinstance(found.element, Other) else "?"
    return Record("numpy.ndarray", {"dtype": Name(name), "shape": found.shape}, offset=call.offset)
