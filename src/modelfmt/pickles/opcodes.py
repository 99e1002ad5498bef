"""The 68 opcodes of pickle protocols 0 to 5, one row each.

Source: CPython's pickletools.opcodes (names, numbers, arguments) and the unpickler of pickle.py (what each does).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.pickles.values import Blob, Call, Dict, Global, OutOfBand, Set

if TYPE_CHECKING:
    from modelfmt.pickles.machine import Machine

__all__ = ["HANDLERS", "OPCODES"]

BLOB_BYTES = 1024
"""Bytes objects from this length on stay in the file."""
MAX_LONG_BYTES = 4096
MAX_DIGITS = 4000
EXTENSIONS = "copyreg extension"
"""The module of a name that only the extension registry of the writing process knew."""

_ESCAPES = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\n": b""}
_ESCAPED |= {c: c for c in (b"\\", b"'", b'"')}
_RAW_UNICODE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_BOOLEANS = {b"00": False, b"01": True}
_INTEGER = re.compile(rb"\s*[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|[0-9_]+)\s*")
_DECIMAL = re.compile(
    rb"\s*[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan|Infinity)\s*", re.IGNORECASE
)

_Handler = Callable[["Machine"], None]


def _unpack(form: str) -> Callable[[Machine], Any]:
    unpacker = struct.Struct(form)
    size, unpack = unpacker.size, unpacker.unpack
    return lambda machine: unpack(machine.stream.take(size))[0]


_u1, _u2, _i4, _u4, _u8, _f8 = (_unpack(form) for form in ("<B", "<H", "<i", "<I", "<Q", ">d"))


def _pushes(value: Any) -> _Handler:
    return lambda machine: machine.stack.append(value)


def _number(read: Callable[[Machine], Any]) -> _Handler:
    return lambda machine: machine.stack.append(read(machine))


def _int_line(machine: Machine) -> None:
    text = machine.stream.line()
    machine.stack.append(_BOOLEANS[text] if text in _BOOLEANS else _integer(machine, text))


def _long_line(machine: Machine) -> None:
    machine.stack.append(_integer(machine, machine.stream.line().removesuffix(b"L")))


def _integer(machine: Machine, text: bytes) -> int:
    if len(text) > MAX_DIGITS or not _INTEGER.fullmatch(text):
        raise machine.corrupt("not an integer", "pickle-number", found=text[:40])
    try:
        return int(text, 0)
    except ValueError:
        raise machine.corrupt("not an integer", "pickle-number", found=text[:40]) from None


def _float_line(machine: Machine) -> None:
    text = machine.stream.line()
    if len(text) > MAX_DIGITS or not _DECIMAL.fullmatch(text):
        raise machine.corrupt("not a number", "pickle-number", found=text[:40])
    machine.stack.append(float(text))


def _long(size: Callable[[Machine], Any]) -> _Handler:
    def handler(machine: Machine) -> None:
        length = size(machine)
        if not 0 <= length <= MAX_LONG_BYTES:
            raise machine.corrupt("an integer is too long", "pickle-number", found=f"{length} bytes")
        machine.allowance -= length
        machine.stack.append(int.from_bytes(machine.stream.take(length), "little", signed=True))

    return handler


def _text(size: Callable[[Machine], Any]) -> _Handler:
    def handler(machine: Machine) -> None:
        length = size(machine)
        machine.allowance -= 64 + 4 * min(length, machine.stream.left)
        if machine.allowance < 0:
            machine.spend(0)
        data = machine.stream.take(length)
        try:
            machine.stack.append(data.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise machine.corrupt("a text that is not UTF-8", "pickle-text", found=data[:20]) from None

    return handler


def _old_text(data: bytes) -> str | bytes:
    """A str of Python 2: text where it can be, else the bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _old_string(size: Callable[[Machine], Any]) -> _Handler:
    def handler(machine: Machine) -> None:
        length = size(machine)
        if length < 0:
            raise machine.corrupt("a length below zero", "pickle-length", found=length)
        machine.spend(64 + 2 * min(length, machine.stream.left))
        machine.stack.append(_old_text(machine.stream.take(length)))

    return handler


def _string_line(machine: Machine) -> None:
    text = machine.stream.line().rstrip()
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise machine.corrupt("a string without quotes", "pickle-text", found=text[:40])
    machine.spend(64 + len(text))
    machine.stack.append(_old_text(_ESCAPES.sub(_unescaped, text[1:-1])))


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] == b"x" and len(code) == 3:
        return bytes((int(code[1:], 16),))
    if code.isdigit() and not code.strip(b"01234567"):
        return bytes((int(code, 8) & 255,))
    return _ESCAPED.get(code, match[0])


def _unicode_line(machine: Machine) -> None:
    text = machine.stream.line().decode("latin-1")
    machine.spend(64 + 4 * len(text))
    try:
        machine.stack.append(_RAW_UNICODE.sub(_raw_character, text))
    except (ValueError, OverflowError):
        raise machine.corrupt("a character that does not exist", "pickle-text", found=text[:40]) from None


def _raw_character(match: re.Match[str]) -> str:
    return chr(int(match[1][1:], 16)) if len(match[1]) > 1 else match[0]


def _bytes(size: Callable[[Machine], Any]) -> _Handler:
    def handler(machine: Machine) -> None:
        length = size(machine)
        machine.allowance -= 64
        if length >= BLOB_BYTES:
            machine.stack.append(Blob(machine.stream.skip(length)))
        else:
            machine.allowance -= length
            machine.stack.append(machine.stream.take(length))

    return handler


def _tuple(count: int) -> _Handler:
    def handler(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise IndexError
        machine.allowance -= 80
        stack[-count:] = [tuple(stack[-count:])]

    return handler


def _marked_tuple(machine: Machine) -> None:
    items = machine.popmark()
    machine.allowance -= 64
    machine.stack.append(tuple(items))


def _empty_tuple(machine: Machine) -> None:
    machine.stack.append(())


def _empty_list(machine: Machine) -> None:
    machine.allowance -= 100
    machine.stack.append([])


def _marked_list(machine: Machine) -> None:
    items = machine.popmark()
    machine.allowance -= 100
    machine.stack.append(items)


def _empty_dict(machine: Machine) -> None:
    machine.allowance -= 150
    machine.stack.append(Dict([]))


def _marked_dict(machine: Machine) -> None:
    pairs = machine.popmark()
    machine.allowance -= 150
    machine.stack.append(Dict([]))
    machine.assign(pairs)


def _empty_set(machine: Machine) -> None:
    machine.allowance -= 150
    machine.stack.append(Set([], frozen=False))


def _frozen_set(machine: Machine) -> None:
    items = machine.popmark()
    machine.allowance -= 150
    machine.stack.append(Set(items, frozen=True))


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    machine.extend([value])


def _appends(machine: Machine) -> None:
    items = machine.popmark()
    machine.extend(items)


def _additems(machine: Machine) -> None:
    items = machine.popmark()
    target = machine.stack[-1]
    if isinstance(target, Set) and not target.frozen:
        target.items.extend(items)
    elif isinstance(target, Call):
        machine.extend(items)
    else:
        raise machine.corrupt("an opcode adds to something that is no set", "pickle-append")


def _setitem(machine: Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    machine.assign([key, value])


def _setitems(machine: Machine) -> None:
    pairs = machine.popmark()
    machine.assign(pairs)


def _mark(machine: Machine) -> None:
    machine.mark()


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.popmark()


def _pop_mark(machine: Machine) -> None:
    machine.popmark()


def _dup(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _put(index: Callable[[Machine], int]) -> _Handler:
    return lambda machine: machine.remember(index(machine))


def _get(index: Callable[[Machine], int]) -> _Handler:
    return lambda machine: machine.recall(index(machine))


def _index_line(machine: Machine) -> int:
    index = _integer(machine, machine.stream.line())
    if not 0 <= index < 1 << 32:
        raise machine.corrupt("a memo index out of range", "pickle-memo", found=index)
    return index


def _memoize(machine: Machine) -> None:
    machine.remember(len(machine.memo))


def _global(machine: Machine) -> None:
    module, name = _names(machine)
    machine.stack.append(machine.name(module, name))


def _names(machine: Machine) -> tuple[str, str]:
    lines = machine.stream.line(), machine.stream.line()
    try:
        return lines[0].decode(), lines[1].decode()
    except UnicodeDecodeError:
        raise machine.corrupt("a name that is not UTF-8", "pickle-text", found=lines) from None


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if isinstance(module, str) and isinstance(name, str):
        machine.stack.append(machine.name(module, name))
    elif isinstance(module, str | Call | Global) and isinstance(name, str | Call | Global):
        parts = (value if isinstance(value, str) else "?" for value in (module, name))
        machine.stack.append(machine.name(*parts, computed=True))
    else:
        raise machine.corrupt("a name that is no text", "pickle-global", found=type(name).__name__)


def _extension(code: Callable[[Machine], int]) -> _Handler:
    return lambda machine: machine.stack.append(machine.name(EXTENSIONS, str(code(machine))))


def _reduce(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "REDUCE")


def _newobj(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "NEWOBJ")


def _newobj_ex(machine: Machine) -> None:
    kwargs, args = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "NEWOBJ_EX", kwargs)


def _obj(machine: Machine) -> None:
    items = machine.popmark()
    machine.stack.append(machine.call(items.pop(0), tuple(items), "OBJ"))


def _inst(machine: Machine) -> None:
    module, name = _names(machine)
    items = machine.popmark()
    machine.stack.append(machine.call(machine.name(module, name), tuple(items), "INST"))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    machine.build(state)


def _persistent_line(machine: Machine) -> None:
    text = machine.stream.line()
    machine.spend(len(text))
    machine.stack.append(machine.persistent(_old_text(text)))


def _persistent(machine: Machine) -> None:
    machine.stack[-1] = machine.persistent(machine.stack[-1])


def _proto(machine: Machine) -> None:
    protocol = _u1(machine)
    if protocol > 5:
        raise UnsupportedError(
            "an unknown pickle protocol",
            code="pickle-protocol",
            path=machine.stream.region.path,
            place=f"byte {machine.place}",
            found=protocol,
            allowed="0 to 5",
        )
    machine.result.protocol = protocol


def _frame(machine: Machine) -> None:
    length = _u8(machine)
    if length > machine.stream.left:
        raise machine.stream.short(length)


def _next_buffer(machine: Machine) -> None:
    machine.allowance -= 64
    machine.stack.append(OutOfBand(machine.place))


def _readonly_buffer(machine: Machine) -> None:
    machine.stack[-1] = machine.stack[-1]  # the buffer stays what it is; an empty stack is an error


def _stop(machine: Machine) -> None:
    from modelfmt.pickles.machine import _Stop

    raise _Stop(machine.stack.pop())


# fmt: off
OPCODES: dict[int, tuple[str, _Handler]] = {
    0x28: ("MARK", _mark),                            0x2e: ("STOP", _stop),
    0x30: ("POP", _pop),                              0x31: ("POP_MARK", _pop_mark),
    0x32: ("DUP", _dup),                              0x46: ("FLOAT", _float_line),
    0x49: ("INT", _int_line),                         0x4a: ("BININT", _number(_i4)),
    0x4b: ("BININT1", _number(_u1)),                  0x4c: ("LONG", _long_line),
    0x4d: ("BININT2", _number(_u2)),                  0x4e: ("NONE", _pushes(None)),
    0x50: ("PERSID", _persistent_line),               0x51: ("BINPERSID", _persistent),
    0x52: ("REDUCE", _reduce),                        0x53: ("STRING", _string_line),
    0x54: ("BINSTRING", _old_string(_i4)),            0x55: ("SHORT_BINSTRING", _old_string(_u1)),
    0x56: ("UNICODE", _unicode_line),                 0x58: ("BINUNICODE", _text(_u4)),
    0x61: ("APPEND", _append),                        0x62: ("BUILD", _build),
    0x63: ("GLOBAL", _global),                        0x64: ("DICT", _marked_dict),
    0x7d: ("EMPTY_DICT", _empty_dict),                0x65: ("APPENDS", _appends),
    0x67: ("GET", _get(_index_line)),                 0x68: ("BINGET", _get(_u1)),
    0x69: ("INST", _inst),                            0x6a: ("LONG_BINGET", _get(_u4)),
    0x6c: ("LIST", _marked_list),                     0x5d: ("EMPTY_LIST", _empty_list),
    0x6f: ("OBJ", _obj),                              0x70: ("PUT", _put(_index_line)),
    0x71: ("BINPUT", _put(_u1)),                      0x72: ("LONG_BINPUT", _put(_u4)),
    0x73: ("SETITEM", _setitem),                      0x74: ("TUPLE", _marked_tuple),
    0x29: ("EMPTY_TUPLE", _empty_tuple),              0x75: ("SETITEMS", _setitems),
    0x47: ("BINFLOAT", _number(_f8)),
    # protocol 2
    0x80: ("PROTO", _proto),                          0x81: ("NEWOBJ", _newobj),
    0x82: ("EXT1", _extension(_u1)),                  0x83: ("EXT2", _extension(_u2)),
    0x84: ("EXT4", _extension(_i4)),                  0x85: ("TUPLE1", _tuple(1)),
    0x86: ("TUPLE2", _tuple(2)),                      0x87: ("TUPLE3", _tuple(3)),
    0x88: ("NEWTRUE", _pushes(True)),                 0x89: ("NEWFALSE", _pushes(False)),
    0x8a: ("LONG1", _long(_u1)),                      0x8b: ("LONG4", _long(_i4)),
    # protocol 3
    0x42: ("BINBYTES", _bytes(_u4)),                  0x43: ("SHORT_BINBYTES", _bytes(_u1)),
    # protocol 4
    0x8c: ("SHORT_BINUNICODE", _text(_u1)),           0x8d: ("BINUNICODE8", _text(_u8)),
    0x8e: ("BINBYTES8", _bytes(_u8)),                 0x8f: ("EMPTY_SET", _empty_set),
    0x90: ("ADDITEMS", _additems),                    0x91: ("FROZENSET", _frozen_set),
    0x92: ("NEWOBJ_EX", _newobj_ex),                  0x93: ("STACK_GLOBAL", _stack_global),
    0x94: ("MEMOIZE", _memoize),                      0x95: ("FRAME", _frame),
    # protocol 5
    0x96: ("BYTEARRAY8", _bytes(_u8)),                0x97: ("NEXT_BUFFER", _next_buffer),
    0x98: ("READONLY_BUFFER", _readonly_buffer),
}
# fmt: on


def _unknown(machine: Machine) -> None:
    raise machine.corrupt("a byte that is no opcode", "pickle-opcode")


HANDLERS: list[_Handler] = [OPCODES[code][1] if code in OPCODES else _unknown for code in range(256)]
