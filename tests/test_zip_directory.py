"""Zip archives beside zipfile: what it writes is read alike, and what could be read in two ways is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile_pickles
from modelfmt.errors import ModelfmtError
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import Archive

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda name: "\\" not in name
)


def archive(data: bytes) -> Archive:
    files = Files()
    return Archive(Region.whole(files.register("memory", data), files))


@given(
    st.dictionaries(NAMES, st.binary(max_size=300), max_size=6),
    st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
)
def test_what_zipfile_writes(members: dict[str, bytes], method: int) -> None:
    found = archive(hostile_pickles.zipped(members, method))
    assert {name: found.data(name) for name in found.members} == members
    for name, data in members.items():
        place = found.place(name)
        assert place.read(0, place.size) == data


def test_zip64_as_zipfile_writes_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target, target.open("x", "w", force_zip64=True) as member:
        member.write(b"hello")
    found = archive((tmp_path / "a.zip").read_bytes())
    assert found.data("x") == b"hello"


def test_data_descriptors_are_read(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as raw:
        raw.seek = lambda *_: (_ for _ in ()).throw(OSError())  # type: ignore[method-assign]  # zipfile then streams
        raw.tell = lambda: (_ for _ in ()).throw(OSError())  # type: ignore[method-assign]
        with zipfile.ZipFile(raw, "w") as target:
            target.writestr("a", b"12345")
            target.writestr("b", b"678")
    found = archive((tmp_path / "a.zip").read_bytes())
    assert (found.data("a"), found.data("b")) == (b"12345", b"678")


def test_a_flipped_byte_is_noticed() -> None:
    data = hostile_pickles.zipped({"a": b"hello world"}).replace(b"hello", b"hellp")
    with pytest.raises(ModelfmtError) as caught:
        archive(data).data("a")
    assert caught.value.code == "zip-crc"
    with pytest.raises(ModelfmtError):
        archive(data).check("a")


@pytest.mark.parametrize("extra", [b"x", bytes(22), b"PK\5\6"])
def test_bytes_around_an_archive_are_refused(extra: bytes) -> None:
    good = hostile_pickles.zipped({"a": b"1"})
    for data in (extra + good, good + extra):
        with pytest.raises(ModelfmtError):
            archive(data)


def test_every_mutation_is_refused_or_read_alike() -> None:
    """Whatever byte changes: a member that is still there has the content it had, or its checksum fails."""
    members = {"a": b"hello", "b/c": b"world" * 3}
    good = hostile_pickles.zipped(members)
    for place in range(len(good)):
        for value in (0, 1, 0x7F, 0xFF, good[place] ^ 0x80):
            broken = bytearray(good)
            broken[place] = value
            try:
                found = archive(bytes(broken))
                contents = {name: found.data(name) for name in found.members}
            except ModelfmtError:
                continue
            assert set(contents.values()) == set(members.values())
