"""What a pickle describes, as data.

None, bool, int, float, str, bytes, list and tuple stand for themselves. Dicts and sets are kept as the lists they were
made from, so that no key of a file is ever hashed. Everything that an unpickler would import, call or look up is one of
the inert records below. They compare by identity: a hostile tree cannot be walked by accident.
"""

from __future__ import annotations

from typing import Any

from modelfmt.storage.region import Region

__all__ = ["Blob", "Call", "Dict", "Global", "OutOfBand", "Persistent", "Set"]


class Global:
    """A name that an unpickler would import. computed: the name is the result of a call, so that nobody knows it."""

    __slots__ = ("computed", "module", "name", "offset")

    def __init__(self, module: str, name: str, offset: int, *, computed: bool = False) -> None:
        self.module = module
        self.name = name
        self.offset = offset
        self.computed = computed

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"Global({self.module}.{self.name})"


class Call:
    """A call that an unpickler would make, and what it would then do to the result.

    function: what is called, mostly a Global. opcode: REDUCE, NEWOBJ, NEWOBJ_EX, OBJ or INST. states: arguments of
    BUILD, in order. items: of APPEND and APPENDS; pairs: keys and values in turn, of SETITEM and SETITEMS.
    """

    __slots__ = ("args", "function", "items", "kwargs", "offset", "opcode", "pairs", "states")

    def __init__(self, function: Any, args: Any, offset: int, opcode: str, kwargs: Any = None) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.offset = offset
        self.opcode = opcode
        self.states: tuple[Any, ...] = ()
        self.items: list[Any] | None = None
        self.pairs: list[Any] | None = None

    @property
    def name(self) -> str:
        """The dotted name of what is called; "?" where it is no name at all."""
        return str(self.function) if isinstance(self.function, Global) else "?"

    def __repr__(self) -> str:
        return f"Call({self.name}, byte {self.offset})"


class Dict:
    """A dict. pairs: keys and values in turn; where a key comes twice, the later value counts."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs


class Set:
    """A set or frozenset. items: as they came, twice where they came twice."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Any], *, frozen: bool) -> None:
        self.items = items
        self.frozen = frozen


class Persistent:
    """A reference to something outside the pickle (in PyTorch files: a storage)."""

    __slots__ = ("id", "offset")

    def __init__(self, id: Any, offset: int) -> None:
        self.id = id
        self.offset = offset


class Blob:
    """A long bytes object, left where it lies in the file."""

    __slots__ = ("region",)

    def __init__(self, region: Region) -> None:
        self.region = region

    def __len__(self) -> int:
        return self.region.size


class OutOfBand:
    """A buffer that protocol 5 keeps outside the pickle; a file has none."""

    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset
