"""What is written as .pt and .bin: torch.load(weights_only=True) opens it, mapped or not; zipfile finds it whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import modelfmt
import on_disk
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import pytorch, pytorch_layout
from modelfmt.ir.layout import Entry
from test_pytorch import DTYPES, filled, raw, views

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support")


def test_torch_opens_what_we_write(tmp_path: Path) -> None:
    value = {name: filled(dtype, 3, 8) for name, dtype in DTYPES.items()}
    value |= views() | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "ünï": torch.ones(2)}
    value |= {"tied": value["F32"]}
    torch.save(value, tmp_path / "f.pt")
    modelfmt.convert(tmp_path / "f.pt", tmp_path / "g.bin", threads=2)
    with zipfile.ZipFile(tmp_path / "g.bin") as archive:
        assert archive.testzip() is None
        offsets = [info.header_offset for info in archive.infolist()]
        assert offsets == sorted(offsets)
    for mmap in (False, True):
        found = torch.load(tmp_path / "g.bin", weights_only=True, mmap=mmap)
        assert set(found) == set(value)
        for name, tensor in value.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
            assert raw(found[name]) == raw(tensor), name
        assert found["tied"].data_ptr() == found["F32"].data_ptr()


def test_storages_are_aligned(tmp_path: Path) -> None:
    modelfmt.convert({"a": np.ones(3, "f4"), "b": np.ones(5, "u1"), "c": np.ones(7, "f8")}, tmp_path / "g.pt")
    with modelfmt.open(tmp_path / "g.pt") as model:
        assert [tensor.expr.offset % 64 for tensor in model.values()] == [0, 0, 0]


@pytest.mark.parametrize("quant", ["F16", "BF16", "F32"])
def test_dtypes_on_request(quant: str, tmp_path: Path) -> None:
    value = {"w": np.random.default_rng(1).normal(size=(4, 8)).astype("f4"), "n": np.arange(3)}
    modelfmt.convert(value, tmp_path / "g.pt", quant=quant)
    found = torch.load(tmp_path / "g.pt", weights_only=True)
    assert torch.equal(found["w"], torch.from_numpy(value["w"]).to(DTYPES[quant]))
    assert torch.equal(found["n"], torch.arange(3))


def test_parts_make_the_same_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    value = {f"w{i}": rng.normal(size=(300, 1000)).astype("f4") for i in range(6)}
    torch.save({name: torch.from_numpy(array) for name, array in value.items()}, tmp_path / "f.pt")
    modelfmt.convert(tmp_path / "f.pt", tmp_path / "whole.bin")
    plan = modelfmt.plan(tmp_path / "f.pt", tmp_path / "parts.bin")
    plan = type(plan).from_bytes(plan.to_bytes())
    for part in range(3):
        modelfmt.run(plan, part=(part, 3))
    modelfmt.finalize(plan)
    assert (tmp_path / "parts.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


def test_large_sizes_are_written_wide() -> None:
    """Members and archives beyond 4 GiB, and more than 65,535 members, in zip64; only the layout is made."""
    entries = [Entry("a", "F32", (1 << 31,)), Entry("b", "F32", (4,))]
    layout = pytorch_layout.layout(entries)
    assert layout.size > 8 << 30
    tail = dict(layout.patches)[max(dict(layout.patches))]
    assert b"PK\6\6" in tail and b"PK\6\7" in tail
    many = pytorch_layout.layout([Entry(str(i), "U8", (1,)) for i in range(70_000)])
    data = bytearray(many.size)
    for at, piece in ((0, many.header), *many.patches):
        data[at : at + len(piece)] = piece
    assert len(on_disk.opened_bytes(pytorch.read, bytes(data))) == 70_000


def test_a_wide_member_is_read(tmp_path: Path) -> None:
    """A sparse file of 5 GiB with a second tensor behind it, laid out by us, opened by torch and by us."""
    entries = [Entry("a", "U8", (5 << 30,)), Entry("b", "F32", (4,))]
    layout = pytorch_layout.layout(entries)
    with (tmp_path / "f.pt").open("wb") as file:
        file.truncate(layout.size)
        for at, piece in ((0, layout.header), *layout.patches):
            file.seek(at)
            file.write(piece)
        file.seek(layout.tensors[1].offset)
        file.write(np.arange(4, dtype="f4").tobytes())
    with modelfmt.open(tmp_path / "f.pt") as model:
        assert model["a"].shape == (5 << 30,) and model["b"].numpy().tolist() == [0, 1, 2, 3]
    found = torch.load(tmp_path / "f.pt", weights_only=True, mmap=True)
    assert found["a"].shape == (5 << 30,) and found["b"].tolist() == [0, 1, 2, 3]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        pytorch_layout.layout([Entry("a", "Q4_0", (32,))])
    with pytest.raises(UsageError):
        pytorch_layout.layout([Entry("a", "F32", (2,)), Entry("a", "F32", (2,))])
    with pytest.raises(UsageError):
        modelfmt.convert({"a": np.ones(3, "f4")}, tmp_path / "g.pt", split_size="1M")
    with pytest.raises(UsageError):
        modelfmt.convert({"a": np.ones(3, "f4")}, tmp_path / "g.pt", quant="Q4_0")
