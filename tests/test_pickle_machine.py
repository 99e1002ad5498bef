"""The pickle machine beside Python's own unpickler on data of our own, and what it does at the edges."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfmt.errors import ModelfmtError
from modelfmt.pickles.machine import MEMORY_LIMIT, load
from modelfmt.pickles.opcodes import BLOB_BYTES
from modelfmt.pickles.tree import content, walk
from modelfmt.pickles.values import Blob, Call, Dict, Global, Set
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region


def region(data: bytes) -> Region:
    files = Files()
    return Region.whole(files.register("memory", data), files)


def plain(value: Any) -> Any:
    """A tree of plain data as Python values."""
    if isinstance(value, Dict):
        return {plain(key): plain(item) for key, item in zip(value.pairs[::2], value.pairs[1::2], strict=True)}
    if isinstance(value, Set):
        return (frozenset if value.frozen else set)(plain(item) for item in value.items)
    if isinstance(value, Blob):
        return value.region.read(0, len(value))
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, Call):
        return plain_call(value)
    return value


def plain_call(call: Call) -> Any:
    """What protocols 0 to 3 write for bytes, sets and bytearrays."""
    if call.name == "_codecs.encode":
        place = content(call, region(b""))
        assert place is not None
        return place.read(0, place.size)
    kinds = {
        "builtins.bytes": bytes,
        "builtins.set": set,
        "builtins.frozenset": frozenset,
        "builtins.bytearray": bytearray,
    }
    kinds |= {name.replace("builtins", "__builtin__"): kind for name, kind in kinds.items()}
    return kinds[call.name](*(plain(argument) for argument in call.args))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=40)
    | st.binary(min_size=BLOB_BYTES, max_size=BLOB_BYTES + 40)
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text()) | st.booleans() | st.binary(max_size=8)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=30,
)


@given(DATA, st.integers(0, 5))
def test_plain_data_is_what_python_pickled(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = load(region(data + b"more"))
    assert found.end == len(data)
    assert plain(found.root) == value
    assert repr(plain(found.root)) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple)


@given(DATA, st.integers(0, 5))
def test_a_pickle_that_is_cut_is_an_error(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    for end in {0, 1, len(data) // 2, len(data) - 1} - {len(data)}:
        with pytest.raises(ModelfmtError):
            load(region(data[:end]))


@given(st.binary(max_size=200))
def test_noise_is_an_error_or_a_tree(data: bytes) -> None:
    found = load(region(b"\x80\x04" + data), damaged=True)
    assert found.end <= len(data) + 2
    assert found.damage is None or (found.damage.path and found.damage.place)


@pytest.mark.parametrize(
    "line",
    [b"S'a\\x41\\'\\n\\101\\\\'\n", b"V\\u0041\\\\u0041\\U0001f600\xe9\n", b"I0x1f\n", b"I-0\n", b"I01\n",
     b"I00\n", b"L-12L\n", b"L12\n", b"F-1.5e3\n", b"Finf\n", b"F.5\n", b"G\x3f\xf0\0\0\0\0\0\0", b"J\xff\xff\xff\xff",
     b"M\xff\xff",
     b"\x8a\0", b"\x8a\1\x80", b"\x8a\3\xff\xff\0", b"T\3\0\0\0abc", b"U\2ab", b"(I1\nI2\nl", b"(I1\nI2\nd",
     b"(lp1\nI5\nag1\n", b"]\x94K\1ah\0", b"(K\1K\2t", b"NN\x86", b"N2\x86", b"(K\0K\x010K\2t", b"((K\1l1K\3"],
)  # fmt: skip
def test_old_opcodes_mean_what_they_mean_to_python(line: bytes) -> None:
    """Pickles without names; Python's own unpickler is the judge."""
    assert plain(load(region(line + b".")).root) == pickle.loads(line + b".")


def test_shared_and_cyclic_values_stay_one() -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    root = load(region(pickle.dumps([inner, inner], 4))).root
    assert root[0] is root[1] and root[0][1] is root[0]
    assert len(list(walk(root))) < 10


def test_names_and_calls_are_on_record_with_their_places() -> None:
    found = load(region(b"cos\nsystem\n(S'ls'\ntR(cbuiltins\nlist\nI1\nt."))
    assert [str(name) for name in found.globals_] == ["os.system", "builtins.list"]
    assert [(call.name, call.args, call.opcode) for call in found.calls] == [("os.system", ("ls",), "REDUCE")]
    assert found.globals_[0].offset == 11


def test_damage_keeps_what_came_before() -> None:
    found = load(region(b"cos\nsystem\n(S'ls'\ntR\xff"), damaged=True)
    assert found.damage is not None and found.damage.code == "pickle-opcode"
    assert [call.name for call in found.calls] == ["os.system"]


def test_build_on_a_name_is_a_call() -> None:
    found = load(region(b"ctorch.nn\nModule\n}b."))
    assert isinstance(found.root, Call) and found.root.opcode == "BUILD" and isinstance(found.root.function, Global)


def test_long_bytes_stay_in_the_file() -> None:
    data = pickle.dumps(bytes(range(256)) * 100, 4)
    root = load(region(data)).root
    assert isinstance(root, Blob) and root.region.read(256, 256) == bytes(range(256))


def test_a_pickle_across_windows_of_the_file() -> None:
    value = {f"name {i}": (i, "x" * (i % 300), [i / 3]) for i in range(20_000)}
    for protocol in (0, 2, 4):
        assert plain(load(region(pickle.dumps(value, protocol))).root) == value


def test_the_budget_is_bounded() -> None:
    from modelfmt.pickles.machine import Machine

    assert Machine(region(bytes(10)), 0).allowance < 65 << 20
    huge = Region(Files(), "x", 0, 1 << 40)
    assert Machine(huge, 0).allowance == MEMORY_LIMIT


@pytest.mark.parametrize("tuples", [1, 5])
def test_extensions_and_outside_buffers_are_inert(tuples: int) -> None:
    found = load(region(b"\x80\x05\x82\7\x97\x98" + b"\x86" + b"\x85" * tuples + b"."))
    assert [str(name) for name in found.globals_] == ["copyreg extension.7"]
