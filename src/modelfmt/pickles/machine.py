"""The pickle machine: follows the opcodes of protocols 0 to 5 and builds the tree that they describe.

Source: the opcode list of CPython's pickle.py and pickletools.py, PEP 3154, PEP 574. Nothing is imported, called,
looked up or hashed: a global is a record of its name, a call a record of its arguments. Time and memory are bounded by
budgets that follow the size of the pickle. Not here: what a name means, where a persistent id points.
"""

from __future__ import annotations

from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError
from modelfmt.pickles.stream import Stream
from modelfmt.pickles.values import Call, Dict, Global, Persistent
from modelfmt.storage.region import Region

__all__ = ["Machine", "Pickle", "load"]

MAX_OPCODES = 20_000_000
MEMORY_BASE = 64 << 20
MEMORY_PER_BYTE = 32
MEMORY_LIMIT = 1 << 30
"""Bytes of Python objects that one pickle may become: MEMORY_BASE and MEMORY_PER_BYTE for each of its bytes, at most
MEMORY_LIMIT."""
MAX_MARKS = 100_000
MAX_DEPTH = 8
"""Pickles inside pickles."""
SLOT_BYTES = 16
CHECK_EVERY = 1024


class Pickle(msgspec.Struct):
    """What one pickle describes. end: offset behind its STOP. globals_, calls, persistents: everything an unpickler
    would import, call and ask its caller for, in the order of the file. inner: pickles that stood inside it. damage:
    why it ends early, where it does."""

    root: Any = None
    end: int = 0
    protocol: int = 0
    globals_: list[Global] = msgspec.field(default_factory=list)
    calls: list[Call] = msgspec.field(default_factory=list)
    persistents: list[Persistent] = msgspec.field(default_factory=list)
    inner: int = 0
    damage: ModelfmtError | None = None


class _Stop(Exception):
    """The STOP opcode; args[0] is the value."""


class Machine:
    """The state between two opcodes. The opcodes themselves are functions over it (modelfmt.pickles.opcodes)."""

    __slots__ = ("allowance", "depth", "marks", "memo", "on_build", "opcode_at", "result", "stack", "stream")

    def __init__(self, region: Region, at: int, on_build: Any = None, depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise LimitExceeded("pickles are nested too deeply", code="pickle-nested", path=region.path)
        self.stream = Stream(region, at)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.result = Pickle()
        self.opcode_at = at
        self.on_build = on_build
        self.depth = depth
        self.allowance = min(MEMORY_LIMIT, MEMORY_BASE + MEMORY_PER_BYTE * (region.size - at))

    def run(self) -> Pickle:
        """Follow the opcodes up to STOP. Raises CorruptFile, LimitExceeded, UnsupportedError."""
        from modelfmt.pickles.opcodes import HANDLERS

        stream = self.stream
        try:
            for _ in range(0, MAX_OPCODES, CHECK_EVERY):
                for _ in range(CHECK_EVERY):
                    pos = stream.pos
                    if pos == len(stream.buffer):
                        stream.refill()
                        pos = 0
                    stream.pos = pos + 1
                    HANDLERS[stream.buffer[pos]](self)
                self.spend(SLOT_BYTES * CHECK_EVERY)
        except _Stop as stop:
            self.result.root = stop.args[0]
            self.result.end = stream.at
            return self.result
        except IndexError as error:
            raise self.corrupt("an opcode finds too little on the stack", "pickle-stack") from error
        raise self._limit("too many opcodes", "pickle-opcodes", MAX_OPCODES)

    def spend(self, size: int) -> None:
        """Count bytes of memory. Raises LimitExceeded where the pickle becomes too large."""
        self.allowance -= size
        if self.allowance < 0:
            raise self._limit("the pickle describes more than its size allows", "pickle-memory", MEMORY_LIMIT)

    def popmark(self) -> list[Any]:
        """What lies above the last mark; the stack below it is the stack again."""
        items = self.stack
        if not self.marks:
            raise self.corrupt("an opcode looks for a mark that is not there", "pickle-mark")
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise self._limit("too many marks", "pickle-marks", MAX_MARKS)
        self.allowance -= 64
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, index: int) -> None:
        if index > self.stream.region.size:  # an unpickler's memo is an array
            raise self._limit(
                "a memo entry of a number that no pickle of this size needs", "pickle-memo", self.stream.region.size
            )
        self.allowance -= 100
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.corrupt("an opcode asks for a memo entry that was never made", "pickle-memo", found=index)
        self.stack.append(self.memo[index])

    def name(self, module: str, name: str, *, computed: bool = False) -> Global:
        """A global, entered into the record."""
        self.spend(200 + len(module) + len(name))
        found = Global(module, name, self.place, computed=computed)
        self.result.globals_.append(found)
        return found

    def call(self, function: Any, args: Any, opcode: str, kwargs: Any = None) -> Call:
        """A call, entered into the record."""
        self.allowance -= 250
        made = Call(function, args, self.place, opcode, kwargs)
        self.result.calls.append(made)
        return made

    def persistent(self, id: Any) -> Persistent:
        """A reference to something outside, entered into the record."""
        self.allowance -= 150
        made = Persistent(id, self.place)
        self.result.persistents.append(made)
        return made

    def build(self, state: Any) -> None:
        """BUILD: only what was made by a call has attributes; a state for a name is a change to a class."""
        self.allowance -= 100
        target = self.stack[-1]
        if isinstance(target, Global | Persistent):
            target = self.stack[-1] = self.call(target, (), "BUILD")
        elif not isinstance(target, Call):
            raise self.corrupt("an opcode sets attributes of something that has none", "pickle-build")
        self.spend(8 * len(target.states))
        target.states = (*target.states, state)
        if self.on_build is not None:
            self.on_build(self, target)

    def extend(self, items: list[Any]) -> None:
        """APPEND and its kin, on a list or on what a call made."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif isinstance(target, Call):
            if target.items is None:
                target.items = []
            target.items.extend(items)
        else:
            raise self.corrupt("an opcode appends to something that is no list", "pickle-append")

    def assign(self, pairs: list[Any]) -> None:
        """SETITEM and its kin, on a dict or on what a call made."""
        if len(pairs) % 2:
            raise self.corrupt("keys and values do not pair up", "pickle-pairs", found=len(pairs))
        target = self.stack[-1]
        if isinstance(target, Dict):
            target.pairs.extend(pairs)
        elif isinstance(target, Call):
            if target.pairs is None:
                target.pairs = []
            target.pairs.extend(pairs)
        else:
            raise self.corrupt("an opcode sets an item of something that is no dict", "pickle-setitem")

    @property
    def place(self) -> int:
        """Offset in the file of the opcode (or of the end of its short argument) that is being followed."""
        return self.stream.region.start + self.stream.at

    def corrupt(self, message: str, code: str, **facts: Any) -> CorruptFile:
        """An error at the place reached."""
        return CorruptFile(message, code=code, path=self.stream.region.path, place=f"byte {self.place}", **facts)

    def _limit(self, message: str, code: str, allowed: int) -> LimitExceeded:
        return LimitExceeded(
            message, code=code, path=self.stream.region.path, place=f"byte {self.place}", allowed=f"at most {allowed}"
        )


def load(region: Region, at: int = 0, *, on_build: Any = None, damaged: bool = False, depth: int = 0) -> Pickle:
    """The pickle that begins at offset `at` of a region.

    on_build: called with the machine and a Call after each BUILD (joblib puts array bytes there, for which it moves the
    stream). depth: of pickles around this one. damaged: what was read up to the damage is returned with it, instead of
    an error. Raises CorruptFile, LimitExceeded, UnsupportedError.

    >>> from modelfmt.storage.files import Files
    >>> files = Files()
    >>> whole = Region.whole(files.register("p", b"cos\\nsystem\\n(S'ls'\\ntR."), files)
    >>> load(whole).calls
    [Call(os.system, byte 20)]
    """
    machine = Machine(region, at, on_build, depth)
    try:
        return machine.run()
    except ModelfmtError as error:
        if not damaged:
            raise
        machine.result.damage = error
        machine.result.end = machine.stream.at
        return machine.result
