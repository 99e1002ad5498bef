"""Distributed checkpoints and files of ranks, written by four real ranks: equal to the whole tensors, bit for bit."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import hostile_pickles
import modelfmt
from modelfmt.errors import CorruptFile, ModelfmtError, ShapeError, SourceMissing, UnsafePath, UnsupportedError
from modelfmt.ir.joining import joined
from modelfmt.ir.ops import Concat, Leaf, Tiled
from test_pytorch import leaves, raw

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    script = Path(__file__).with_name("distributed_checkpoints.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def whole(made: Path, name: str = "whole.pt") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(made / name, weights_only=True)
    return found


def check(path: Path, wanted: dict[str, torch.Tensor]) -> modelfmt.ir.model.Model:
    with modelfmt.open(path) as model:
        assert sorted(model) == sorted(wanted)
        for name, tensor in wanted.items():
            assert model[name].shape == tuple(tensor.shape), name
            assert model[name].numpy(dequantize=False).tobytes() == raw(tensor), name
    return model


@pytest.mark.parametrize("name", ["nested", "threads", "files"])
def test_a_distributed_checkpoint_is_the_whole_model(name: str, made: Path) -> None:
    model = check(made / name, whole(made))
    assert isinstance(model["rows"].expr, Concat)
    assert isinstance(model["columns"].expr, Tiled)
    if name == "nested":
        assert model.metadata == {"step": 12}
        own = model.extras["torch_dcp"]
        assert (own["prefix"], own["version"]) == ("model", "1.0.0")
        assert own["left_out"] == {"optimizer": 1, "rng": 2}


@pytest.mark.parametrize("name", ["nested", "threads", "files", "accelerate/pytorch_model_fsdp_0"])
def test_torch_reads_the_same(name: str, made: Path, tmp_path: Path) -> None:
    """torch's own way of making one file of a distributed checkpoint."""
    dcp_to_torch_save(made / name, tmp_path / "f.pt")
    loaded = torch.load(tmp_path / "f.pt", weights_only=True)
    wanted = dict(leaves(loaded.get("model", loaded)))
    check(made / name, wanted)


@pytest.mark.parametrize("name", [".metadata", "__1_0.distcp"])
def test_a_file_of_it_opens_the_whole(name: str, made: Path) -> None:
    assert len(check(made / "nested" / name, whole(made))) == len(whole(made))


def test_files_of_ranks_are_one_model(made: Path) -> None:
    for path in (made / "ranks", made / "ranks" / "model_world_size_4_rank_2.pt"):
        model = check(path, whole(made))
        assert model.metadata == {"step": 12}
        assert len(model.extras["torch_ranks"]["files"]) == 4


@pytest.mark.parametrize("name", ["fsdp2", "fsdp1", "accelerate"])
def test_what_frameworks_write(name: str, made: Path) -> None:
    """FSDP2 over tensor parallelism (strided shards), the first FSDP's sharded state dict, accelerate's folder."""
    check(made / name, whole(made, "net.pt"))


def test_sharded_tensors(made: Path) -> None:
    check(made / "old", {"w": whole(made)["uneven"]})


def test_a_rank_with_everything_opens_alone(made: Path) -> None:
    check(made / "copied_3.pt", {"w": whole(made)["copied"]})


def test_flat_parameters_are_refused_by_name(made: Path) -> None:
    with pytest.raises(UnsupportedError, match="flat") as caught:
        modelfmt.open(made / "flat")
    assert caught.value.code == "flat-parameter" and "flat_param" in str(caught.value.place)


def test_boxes_in_safetensors(made: Path) -> None:
    wanted = {k: v for k, v in whole(made).items() if k not in ("bool", "complex64", "scalar")}
    check(made / "boxes", wanted)


def test_it_converts_as_the_whole_does(made: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in whole(made).items() if tensor.dtype != torch.complex64}
    torch.save(tensors, tmp_path / "f.pt")
    del tensors
    for source, target in ((tmp_path / "f.pt", "a"), (made / "threads", "b"), (made / "ranks", "c")):
        modelfmt.convert(source, tmp_path / f"{target}.safetensors")
    from safetensors.torch import load_file

    wanted = whole(made)
    for target in ("b", "c"):
        found = load_file(tmp_path / f"{target}.safetensors")
        assert {k: raw(v) for k, v in found.items()} == {k: raw(v) for k, v in wanted.items()}


def test_a_plan_of_boxes_is_data(made: Path, tmp_path: Path) -> None:
    import msgspec

    from modelfmt.plans import Plan

    plan = modelfmt.plan(made / "nested", tmp_path / "a.safetensors")
    again = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert again.hash == plan.hash
    modelfmt.run(again)
    assert len(modelfmt.open(tmp_path / "a.safetensors")) == len(whole(made))


def test_a_folder_with_a_configuration_becomes_gguf(golden: Path, tmp_path: Path) -> None:
    """A Hugging Face folder whose weights are a distributed checkpoint: the same GGUF as from safetensors."""
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import load_file

    from test_convert_golden import tensors_of

    source = golden / "checkpoints" / "qwen3"
    folder = tmp_path / "qwen3"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights: dict[str, Any] = {}
    for path in source.glob("*.safetensors"):
        weights |= load_file(path)
    dcp.save({"model": weights}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
    modelfmt.convert(source, tmp_path / "a.gguf")
    modelfmt.convert(folder, tmp_path / "b.gguf")
    assert tensors_of(tmp_path / "a.gguf") == tensors_of(tmp_path / "b.gguf")


def test_every_rank_for_itself(tmp_path: Path) -> None:
    """`use_collectives=False`: each rank has its own metadata, and a name may be in several."""
    import torch.distributed.checkpoint as dcp

    dcp.save({"a": torch.arange(6.0)}, checkpoint_id=tmp_path / "x", no_dist=True)
    (tmp_path / "x" / ".metadata").rename(tmp_path / "x" / "__0.metadata")
    check(tmp_path / "x", {"a": torch.arange(6.0)})


OLD_NAMES = {
    b"torch.distributed.checkpoint.metadata": b"torch.distributed._shard.checkpoint.metadata",
    b"torch.distributed.checkpoint.filesystem": b"torch.distributed._shard.checkpoint.filesystem",
}


def test_metadata_of_old_versions(tmp_path: Path) -> None:
    """torch 1.13: other modules, no planner data, no version, no storage meta."""
    import io
    import pickletools

    import torch.distributed.checkpoint as dcp

    dcp.save({"a": torch.arange(6.0), "b": torch.ones(2, 3)}, checkpoint_id=tmp_path / "x", no_dist=True)
    metadata = pickle.loads((tmp_path / "x" / ".metadata").read_bytes())  # our own file, of this test
    metadata.planner_data = None
    for name in ("storage_meta", "version"):
        del metadata.__dict__[name]
    held = io.BytesIO()
    pickle.Pickler(held, 2).dump(metadata)
    data = held.getvalue()
    assert "GLOBAL" in {row[0].name for row in pickletools.genops(data)}
    for new, old in OLD_NAMES.items():
        data = data.replace(b"c" + new + b"\n", b"c" + old + b"\n")
    assert b"_shard.checkpoint" in data
    (tmp_path / "x" / ".metadata").write_bytes(data)
    check(tmp_path / "x", {"a": torch.arange(6.0), "b": torch.ones(2, 3)})


# --- what is refused


def copied(made: Path, name: str, tmp_path: Path) -> Path:
    shutil.copytree(made / name, tmp_path / "x")
    return tmp_path / "x"


def test_a_missing_file_is_named(made: Path, tmp_path: Path) -> None:
    folder = copied(made, "nested", tmp_path)
    (folder / "__2_0.distcp").unlink()
    with pytest.raises(SourceMissing, match="__2_0"):
        modelfmt.open(folder)
    folder = tmp_path / "y"
    shutil.copytree(made / "ranks", folder)
    (folder / "model_world_size_4_rank_1.pt").unlink()
    with pytest.raises(SourceMissing, match="rank 1"):
        modelfmt.open(folder)
    with pytest.raises(SourceMissing, match="rank 1"):
        modelfmt.open(folder / "model_world_size_4_rank_2.pt")
    (tmp_path / "alone.pt").write_bytes((folder / "model_world_size_4_rank_2.pt").read_bytes())
    with pytest.raises(UnsupportedError, match="only a part"):
        modelfmt.open(tmp_path / "alone.pt")


def test_chunks_without_their_metadata_say_so(made: Path, tmp_path: Path) -> None:
    folder = copied(made, "nested", tmp_path)
    (folder / ".metadata").unlink()
    for path in (folder, folder / "__0_0.distcp"):
        with pytest.raises(SourceMissing) as caught:
            modelfmt.open(path)
        assert caught.value.allowed == ".metadata"


def test_a_box_that_is_missing_or_there_twice(made: Path, tmp_path: Path) -> None:
    folder = copied(made, "boxes", tmp_path)
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CorruptFile) as caught:
        modelfmt.open(folder)
    assert caught.value.code == "dcp-chunks"
    folder = tmp_path / "y"
    shutil.copytree(made / "fsdp2", folder)
    shutil.copy(folder / "pytorch_model_rank0.bin", folder / "pytorch_model_rank1.bin")
    with pytest.raises(CorruptFile) as caught:
        modelfmt.open(folder)
    assert caught.value.code == "rank-tensor"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"__0_0.distcp", b"__1_0.distcp"),
        (b"\x8c\x07float32", b"\x8c\x07float64"),
        (b"relative_path", b"relative_pith"),
        (b"__0_0.distcp", b"../0.distcps"),
        (b"__0_0.distcp", b"/etc/passwd\0"),
        (b"state_dict_metadata", b"state_dict_metadatb"),
        (b"Metadata\x94", b"Metadatb\x94"),
    ],
)
def test_metadata_that_lies(old: bytes, new: bytes, made: Path, tmp_path: Path) -> None:
    folder = copied(made, "nested", tmp_path)
    data = (folder / ".metadata").read_bytes()
    assert old in data and len(old) == len(new)
    (folder / ".metadata").write_bytes(data.replace(old, new))
    with pytest.raises((CorruptFile, UnsafePath)) as caught:
        modelfmt.open(folder)
    assert caught.value.path


def test_damaged_metadata_is_an_error_of_ours(made: Path, tmp_path: Path) -> None:
    folder = copied(made, "threads", tmp_path)
    data = (folder / ".metadata").read_bytes()
    random = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 2):
            broken[at] = random.integers(256)
        (folder / ".metadata").write_bytes(broken[: random.integers(1, len(data) + 1)] if at % 3 == 0 else broken)
        with contextlib.suppress(ModelfmtError):
            modelfmt.open(folder).close()


@pytest.mark.parametrize("payload", ["root", "dtype", "size", "place"])
def test_hostile_metadata_is_refused_or_inert(payload: str, made: Path, tmp_path: Path) -> None:
    folder = copied(made, "nested", tmp_path)
    data = (folder / ".metadata").read_bytes()
    stacked = hostile_pickles.stacked("os.system") + hostile_pickles.text("touch /tmp/modelfmt-was-here") + b"\x85R"
    inside = pickle.loads(data)  # our own file, of this test
    if payload == "dtype":
        inside.state_dict_metadata["model.rows"].properties = Payload()
    elif payload == "size":
        inside.state_dict_metadata["model.rows"].size = Payload()
    elif payload == "place":
        inside.storage_data[Payload()] = Payload()
    (folder / ".metadata").write_bytes(stacked + b"." if payload == "root" else pickle.dumps(inside))
    with pytest.raises((CorruptFile, UnsupportedError)):
        modelfmt.open(folder)
    assert modelfmt.scan(folder / ".metadata").verdict == "dangerous"
    assert not Path("/tmp/modelfmt-was-here").exists()


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/modelfmt-was-here",)


def test_plain_files_of_ranks_are_refused(tmp_path: Path) -> None:
    for rank in range(2):
        torch.save({"w": torch.full((2,), float(rank))}, tmp_path / f"mp_rank_0{rank}.pt")
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.open(tmp_path)
    assert caught.value.code == "rank-plain"
    assert list(modelfmt.open(tmp_path / "mp_rank_00.pt")) == ["w"]


def test_scanning_them_is_safe(made: Path) -> None:
    for name in ("nested", "ranks", "fsdp2", "accelerate", "old", "fsdp1"):
        found = {row.path: row.findings for row in modelfmt.scan(made / name).files if row.verdict != "safe"}
        assert found == {}


# --- the operation


def test_boxes_of_any_shape_in_any_range(tmp_path: Path) -> None:
    data = np.arange(6 * 5 * 7, dtype="<f4").reshape(6, 5, 7)
    cuts = [
        ((0, 0, 0), (2, 5, 7)), ((2, 0, 0), (4, 3, 2)), ((2, 0, 2), (4, 3, 5)), ((2, 3, 0), (1, 2, 7)),
        ((3, 3, 0), (3, 2, 3)), ((3, 3, 3), (3, 2, 4)),
    ]  # fmt: skip
    pieces, at, stored = [], 0, b""
    for offset, size in cuts:
        box = np.ascontiguousarray(data[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))])
        pieces.append((offset, Leaf(str(tmp_path / "f"), at, size, "F32")))
        stored += box.tobytes()
        at = len(stored)
    (tmp_path / "f").write_bytes(stored)
    expr = joined(data.shape, pieces[::-1], "F32")
    assert isinstance(expr, Tiled)
    from modelfmt.storage.files import Files
    from modelfmt.tiles import Evaluator

    reader = Evaluator(Files())
    rows = data.reshape(30, 7)
    for start in range(31):
        for stop in range(start, 31):
            assert reader.rows(expr, start, stop).tobytes() == rows[start:stop].tobytes(), (start, stop)


@pytest.mark.parametrize(
    "boxes",
    [
        [((0, 0), (2, 3))],
        [((0, 0), (2, 3)), ((1, 0), (3, 3))],
        [((0, 0), (5, 3))],
        [((0, 0), (4, 3)), ((0, 0), (4, 2))],
        [((0, 0), (4, 2)), ((0, 2), (4, 2))],
        [((0, -1), (4, 4))],
        [((0,), (4,))],
        [],
    ],
)
def test_boxes_that_do_not_make_up_a_tensor(boxes: list[Any]) -> None:
    pieces = [(offset, Leaf("f", 0, size, "F32")) for offset, size in boxes]
    with pytest.raises(ShapeError):
        joined((4, 3), pieces, "F32")
    with pytest.raises(ShapeError):
        Tiled((4, 3), tuple(expr for _, expr in pieces), tuple(offset for offset, _ in pieces))


def test_an_ordered_dict_keeps_its_order(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    state = OrderedDict((name, torch.ones(2)) for name in ("z", "a", "m"))
    dcp.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    assert list(modelfmt.open(tmp_path / "x")) == ["z", "a", "m"]


# --- DeepSpeed


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training steps of DeepSpeed 0.19.8 on two ranks (bfloat16, two parameter groups, a layer that is not trained,
    a buffer), in each stage of ZeRO; expected.safetensors is what its zero_to_fp32.py made of them, in float32."""
    folder = tmp_path_factory.mktemp("zero")
    with tarfile.open(Path(__file__).with_name("zero.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    for stage in (1, 2, 3):
        (folder / f"stage{stage}" / "expected.safetensors").rename(folder / f"{stage}.safetensors")
    return folder


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_checkpoints_are_what_deepspeed_makes_of_them(stage: int, zero: Path) -> None:
    from safetensors.numpy import load_file

    wanted = load_file(zero / f"{stage}.safetensors")
    for path in (zero / f"stage{stage}", zero / f"stage{stage}" / "global_step2"):
        with modelfmt.open(path) as model:
            assert model.extras["deepspeed"]["stage"] == stage
            assert set(wanted) <= set(model)
            assert all("frozen" in name for name in set(model) - set(wanted))
            for name, array in wanted.items():
                assert model[name].numpy().astype("f4").tobytes() == array.tobytes(), name
                assert (model[name].encoding.name == "F32") == ("frozen" not in name), name


def test_a_part_of_a_zero_checkpoint_is_refused(zero: Path, tmp_path: Path) -> None:
    for name in (
        "stage2/global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "stage3/global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt",
    ):
        with pytest.raises(UnsupportedError) as caught:
            modelfmt.open(zero / name)
        assert caught.value.code == "zero-part"
    assert "emb.weight" in modelfmt.open(zero / "stage2/global_step2/mp_rank_00_model_states.pt")
    shutil.copytree(zero / "stage3" / "global_step2", tmp_path / "x")
    (tmp_path / "x" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(SourceMissing) as missing:
        modelfmt.open(tmp_path / "x")
    assert missing.value.code == "zero-missing"
    shutil.copytree(zero / "stage2" / "global_step2", tmp_path / "y")
    shutil.copy(zero / "stage3/global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt", tmp_path / "y")
    (tmp_path / "y" / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(ModelfmtError):
        modelfmt.open(tmp_path / "y")
    for text in ("../y", "x/../y", "/etc", ".", "2026-11-29 12:00"):
        (tmp_path / "latest").write_text(text)
        with pytest.raises(UnsupportedError, match="no checkpoint"):
            modelfmt.open(tmp_path)


def test_other_weights_come_first(made: Path, tmp_path: Path) -> None:
    """A folder that has weights of its own is read as before, whatever training left beside them."""
    torch.save({"own": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    for name in ("fsdp2/pytorch_model_rank0.bin", "fsdp2/pytorch_model_rank1.bin", "nested/.metadata"):
        shutil.copy(made / name, tmp_path)
    (tmp_path / "latest").write_text("3")
    assert list(modelfmt.open(tmp_path)) == ["own"]
