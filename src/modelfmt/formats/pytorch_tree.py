"""Names for the tensors in a checkpoint's tree, and which of them are the model.

The rules, in this order:
1. A tensor is named by the keys, indices and attribute names that lead to it, joined by dots.
2. Objects of unknown classes are looked into; in a module (what has _parameters, _buffers and _modules) these three,
   and only these, count, and are left out of the names: a pickled model gives its state dict.
3. Where the root holds an entry called state_dict, model_state_dict, model ... (WRAPPERS, the first that has tensors),
   the model is what lies below it, and the same again inside; the tensors beside it (optimizer states, averages) are
   left out, and said so.
A root that is itself a tensor is called "tensor".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded
from modelfmt.formats.pytorch_tensors import Tensors
from modelfmt.ir.ops import Expression
from modelfmt.pickles.tree import class_name, entries, pairs, text
from modelfmt.pickles.values import Call, Dict, Persistent, Set

__all__ = ["WRAPPERS", "Found", "find"]

# fmt: off
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "model_state", "ema", "params_ema", "params", "net", "network",
    "generator", "weights",
)
# fmt: on
MAX_DEPTH = 1000
MAX_VISITS = 16
"""How often a container may be named, on average: shared modules are, billions of laughs are not."""
_ROOT_NAME = "tensor"
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


class Found(msgspec.Struct):
    """tensors: by name. prefix: the entry that was taken for the model ("" for the whole). left_out: top-level entries
    with tensors beside it, and how many each has. values: plain entries of the root."""

    tensors: dict[str, Expression] = msgspec.field(default_factory=dict)
    prefix: str = ""
    left_out: dict[str, int] = msgspec.field(default_factory=dict)
    values: dict[str, Any] = msgspec.field(default_factory=dict)


def find(root: Any, tensors: Tensors) -> Found:
    """Every tensor of the model in the tree. Raises CorruptFile (a name twice), LimitExceeded, what Tensors raises."""
    search = _Search(tensors)
    search.mark(root)
    found = Found()
    found.values = {
        key: value
        for key, value in (entries(root) or {}).items()
        if value is None or isinstance(value, str | int | float | bool)
    }
    node = root
    prefix: list[str] = []
    for _ in range(4):
        below = dict(search.children(node))
        wrapper = next((name for name in WRAPPERS if name in below and search.holds(below[name])), None)
        if wrapper is None:
            break
        for name, value in below.items():
            if name != wrapper and (count := search.count(value)):
                found.left_out[".".join([*prefix, name])] = count
        node, prefix = below[wrapper], [*prefix, wrapper]
    found.prefix = ".".join(prefix)
    for name, expr in search.named(node):
        if name in found.tensors:
            raise CorruptFile("two tensors have one name", code="duplicate-key", path=tensors.region.path, place=name)
        found.tensors[name] = expr
    return found


class _Search:
    """Walks the tree without recursion; a branch without tensors is entered once."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self._holds: dict[int, bool] = {}
        self._entered: set[int] = set()
        self._children: dict[int, list[tuple[str, Any]]] = {}

    def holds(self, value: Any) -> bool:
        """True for a container (not a tensor) with a tensor somewhere in it."""
        return self._holds.get(id(value), False)

    def children(self, value: Any) -> list[tuple[str, Any]]:
        """Names and values directly below, of those that can hold tensors."""
        key = id(value)
        if key not in self._children:
            self._children[key] = [(name, item) for name, item in _below(value) if _branch(item)]
        return self._children[key]

    def mark(self, root: Any) -> None:
        """Find out which containers hold tensors: each is looked at once, children before parents.

        Raises LimitExceeded.
        """
        waiting: list[tuple[Any, bool]] = [(root, False)]
        entered = self._entered
        depth = 0
        while waiting:
            value, done = waiting.pop()
            if done:
                depth -= 1
                self._holds[id(value)] = any(
                    self.holds(item) or self.tensors.tensor(item) is not None for _, item in self.children(value)
                )
            elif _branch(value) and id(value) not in entered:
                entered.add(id(value))
                if self.tensors.tensor(value) is None:
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise self._limit(f"{MAX_DEPTH} levels")
                    waiting.append((value, True))
                    waiting += [(item, False) for _, item in self.children(value)]

    def count(self, value: Any) -> int:
        """Tensors in a value, each object once."""
        seen: set[int] = set()
        waiting, total = [value], 0
        while waiting:
            item = waiting.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if self.tensors.tensor(item) is not None:
                total += 1
            elif self.holds(item):
                waiting += [inner for _, inner in self.children(item)]
        return total

    def named(self, root: Any) -> Iterator[tuple[str, Expression]]:
        """Every tensor below root with its name, in the order of the file. Raises LimitExceeded for trees that name
        their branches too often."""
        if (single := self.tensors.tensor(root)) is not None:
            yield _ROOT_NAME, single
            return
        waiting = [iter(self.children(root))] if self.holds(root) else []
        path: list[str] = []
        open_ids = [id(root)]
        count, limit = 0, 1000 + MAX_VISITS * len(self._entered)
        while waiting:
            name, value = next(waiting[-1], (None, None))
            if name is None:
                waiting.pop()
                open_ids.pop()
                del path[-1:]
                continue
            count += 1
            if count > limit:
                raise self._limit(f"{limit} names")
            expr = self.tensors.tensor(value)
            if expr is not None:
                yield ".".join(part for part in (*path, name) if part) or _ROOT_NAME, expr
            elif self.holds(value) and id(value) not in open_ids:
                waiting.append(iter(self.children(value)))
                open_ids.append(id(value))
                path.append(name)

    def _limit(self, allowed: str) -> LimitExceeded:
        return LimitExceeded(
            "the tree is nested too deeply, or names its tensors too often",
            code="tree-size",
            path=self.tensors.region.path,
            allowed=f"at most {allowed}",
        )


def _branch(value: Any) -> bool:
    return isinstance(value, list | tuple | Set | Dict | Call | Persistent)


def _below(value: Any) -> list[tuple[str, Any]]:
    found = pairs(value)
    if found is not None:
        last = {_key(key): item for key, item in zip(found[::2], found[1::2], strict=True)}
        return list(last.items())
    if isinstance(value, Set):
        value = value.items
    if isinstance(value, list | tuple):
        return [(str(index), item) for index, item in enumerate(value)]
    return _attributes(value) if isinstance(value, Call) else []


def _attributes(call: Call) -> list[tuple[str, Any]]:
    """What an object of an unknown class holds: its attributes, else its items, else what it was made from."""
    held: dict[str, Any] = {}
    for state in call.states:
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            held |= entries(part) or {}
    if all(part in held for part in _MODULE_PARTS):
        skipped = {text(name) for name in _items(held.get("_non_persistent_buffers_set"))}
        buffers = entries(held["_buffers"]) or {}
        return [
            *(entries(held["_parameters"]) or {}).items(),
            *((name, value) for name, value in buffers.items() if name not in skipped),
            *(entries(held["_modules"]) or {}).items(),
        ]
    for key, value in zip((call.pairs or [])[::2], (call.pairs or [])[1::2], strict=True):
        held[_key(key)] = value
    held |= {str(index): value for index, value in enumerate(call.items or [])}
    if held:
        return list(held.items())
    return [(str(index), value) for index, value in enumerate(call.args if isinstance(call.args, tuple) else ())]


def _items(value: Any) -> list[Any]:
    if isinstance(value, Set):
        return value.items
    if isinstance(value, Call) and class_name(value).endswith(".set") and isinstance(value.args, tuple) and value.args:
        inner = value.args[0]
        return list(inner) if isinstance(inner, list | tuple) else []
    return []


def _key(key: Any) -> str:
    """A dict's key as part of a name."""
    if isinstance(key, str | bytes):
        return text(key) or ""
    if isinstance(key, tuple) and not any(isinstance(part, tuple) for part in key):
        return ".".join(_key(part) for part in key[:8])
    return str(key) if isinstance(key, int | float | bool) or key is None else f"<{type(key).__name__.lower()}>"
