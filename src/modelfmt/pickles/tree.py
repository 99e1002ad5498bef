"""Small questions to the tree of a pickle: its texts, its pairs, its bytes, its integers.

Every function gives None (or nothing) where the tree holds something else; what that means is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelfmt.errors import LimitExceeded
from modelfmt.pickles.values import Blob, Call, Dict, Global, Persistent, Set
from modelfmt.storage.region import Region

__all__ = ["DICT_CLASSES", "attributes", "class_name", "content", "entries", "integers", "pairs", "sequence", "text"]

DICT_CLASSES = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "builtins.dict",
        "__builtin__.dict",
    }
)
_ENCODE = "_codecs.encode"
_BYTES = frozenset(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "bytes"))
_COPIED_LIMIT = 64 << 20


def text(value: Any) -> str | None:
    """A str; bytes (a str of Python 2) as Latin-1."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def class_name(call: Call) -> str:
    """The dotted name of what a call makes an instance of; "?" where it is no name.

    copyreg's _reconstructor names the class in its arguments, PyTorch's old files in a persistent id.
    """
    function = call.function
    if isinstance(function, Persistent) and isinstance(function.id, tuple) and len(function.id) > 1:
        function = function.id[1]
    name = str(function) if isinstance(function, Global) else "?"
    if name in ("copyreg._reconstructor", "copy_reg._reconstructor") and isinstance(call.args, tuple) and call.args:
        return str(call.args[0]) if isinstance(call.args[0], Global) else "?"
    return name


def pairs(value: Any) -> list[Any] | None:
    """Keys and values in turn of a dict, or of an instance of a dict's subclass that is known."""
    if isinstance(value, Dict):
        return value.pairs
    if not isinstance(value, Call) or class_name(value) not in DICT_CLASSES:
        return None
    found = []
    for argument in value.args if isinstance(value.args, tuple) else ():
        if isinstance(argument, Dict):
            found += argument.pairs
        for row in argument if isinstance(argument, list | tuple) else ():
            if isinstance(row, list | tuple) and len(row) == 2:
                found += row
    return found + (value.pairs or []) if found else value.pairs or []


def entries(value: Any) -> dict[str, Any] | None:
    """A dict by its textual keys; the others are left out."""
    found = pairs(value)
    if found is None:
        return None
    named = {}
    for key, item in zip(found[::2], found[1::2], strict=True):
        name = text(key)
        if name is not None:
            named[name] = item
    return named


def attributes(value: Any) -> dict[str, Any]:
    """What BUILD set on an object: states that are a dict, or (dict or None, dict) where its class has slots."""
    held: dict[str, Any] = {}
    for state in value.states if isinstance(value, Call) else ():
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            held |= entries(part) or {}
    return held


def sequence(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """The items of a list, tuple, set, or of a call that makes one of its first argument (torch.Size)."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Set):
        return value.items
    if isinstance(value, Call) and isinstance(value.args, tuple) and len(value.args) == 1:
        inner = value.args[0]
        if value.name in ("torch.Size", "torch.LongStorage") and isinstance(inner, list | tuple):
            return inner
    return None


def integers(value: Any) -> tuple[int, ...] | None:
    """A sequence of integers (not booleans), or None."""
    found = sequence(value)
    if found is None or len(found) > 64 or not all(type(item) is int for item in found):
        return None
    return tuple(found)


def content(value: Any, region: Region) -> Region | None:
    """Where the bytes of a bytes object lie: in the file, or registered in memory under the name of `region`'s file.

    Also the text that protocol 2 encodes (`_codecs.encode(text, "latin1")`) and a str of Python 2.
    """
    if isinstance(value, Blob):
        return value.region
    if isinstance(value, Call) and value.name == _ENCODE and isinstance(value.args, tuple) and len(value.args) == 2:
        source, codec = value.args
        if not isinstance(source, str) or codec not in ("latin1", "latin-1"):
            return None
        try:
            data = source.encode("latin-1")
        except UnicodeEncodeError:
            return None
        return _registered(data, region, value.offset)
    if isinstance(value, Call) and value.name in _BYTES and isinstance(value.args, tuple) and len(value.args) <= 2:
        if not value.args:  # protocol 2: bytes()
            return _registered(b"", region, value.offset)
        if len(value.args) == 2:  # protocol 2: a text and its encoding
            return content(Call(Global("_codecs", "encode", 0), value.args, value.offset, "REDUCE"), region)
        inner = value.args[0]
        return content(inner, region) if not isinstance(inner, Call) or inner.name == _ENCODE else None
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return _registered(value, region, id(value)) if isinstance(value, bytes) else None


def _registered(data: bytes, region: Region, number: int) -> Region:
    if len(data) > _COPIED_LIMIT:
        raise LimitExceeded(
            "an array that is stored as text is too long",
            code="array-text",
            path=region.path,
            found=f"{len(data)} bytes",
            allowed=f"at most {_COPIED_LIMIT}",
        )
    return Region.whole(region.files.register(f"{region.path}#{number}", data), region.files)


def walk(root: Any) -> Iterator[Any]:
    """Every value that can be reached, each container once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        yield value
        inner = _inner(value)
        if inner and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(inner)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Dict):
        return value.pairs
    if isinstance(value, Set):
        return value.items
    if isinstance(value, Persistent):
        return [value.id]
    if isinstance(value, Call):
        return [value.function, value.args, value.kwargs, *value.states, *(value.items or ()), *(value.pairs or ())]
    return []
