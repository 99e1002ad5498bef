"""Checkpoints of four ranks, made by torch itself: `python tests/distributed_checkpoints.py FOLDER`.

Four processes over gloo hold shards of one state dict (a mesh of 2 x 2, FSDP2 over tensor parallelism, ShardedTensor,
the first FSDP) and save them in every form there is; `whole.pt` has the same tensors in one piece.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed._shard import _shard_tensor
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

WORLD = 4
DTYPES = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64)
PLACEMENTS: dict[str, tuple[tuple[int, ...], tuple[Placement, ...]]] = {
    "rows": ((12, 10), (Shard(0), Replicate())),
    "columns": ((12, 10), (Replicate(), Shard(1))),
    "both": ((12, 10), (Shard(0), Shard(1))),
    "twice": ((16, 3), (Shard(0), Shard(0))),
    "uneven": ((7, 5), (Shard(0), Shard(1))),
    "few": ((3, 4), (Shard(0), Shard(0))),
    "vector": ((13,), (Shard(0), Replicate())),
    "middle": ((4, 6, 5), (Shard(1), Shard(0))),
    "copied": ((5, 4), (Replicate(), Replicate())),
}


def whole() -> dict[str, torch.Tensor]:
    """Every tensor in one piece; the same on every rank."""
    torch.manual_seed(7)
    found = {name: torch.randn(shape) for name, (shape, _) in PLACEMENTS.items()}
    found |= {str(dtype).removeprefix("torch."): (torch.randn(8, 6) * 3).to(dtype) for dtype in DTYPES}
    return found | {"plain": torch.randn(6, 2), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up = torch.nn.Linear(8, 16)
        self.down = torch.nn.Linear(16, 8)


def work(rank: int, folder: Path) -> None:
    """What one rank does."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    full = whole()

    def spread(name: str, placements: tuple[Placement, ...]) -> DTensor:
        return distribute_tensor(full[name], mesh, placements)

    state: dict[str, Any] = {name: spread(name, placed) for name, (_, placed) in PLACEMENTS.items()}
    state |= {name: spread(name, (Shard(0), Shard(1))) for name in (str(d).removeprefix("torch.") for d in DTYPES)}
    state |= {name: full[name] for name in ("plain", "scalar", "empty")}
    for step in (plain_forms, frameworks):
        step(rank, folder, mesh, state)
        dist.barrier()
    if rank == 0:
        torch.save(full, folder / "whole.pt")
        torch.save(Net().state_dict(), folder / "net.pt")
    dist.barrier()
    dist.destroy_process_group()


def plain_forms(rank: int, folder: Path, mesh: Any, state: dict[str, Any]) -> None:
    """Distributed checkpoints in every way of writing them, and a file of each rank."""
    nested = {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": state["rows"]}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "step": 12,
        "rng": [torch.arange(5), {"more": torch.ones(2)}],
    }
    dcp.save(nested, checkpoint_id=folder / "nested")
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / "threads", thread_count=2))
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / "files", single_file_per_rank=False))
    safe = {name: value for name, value in state.items() if name not in ("bool", "complex64", "scalar")}
    dcp.save(safe, storage_writer=HuggingFaceStorageWriter(str(folder / "boxes"), save_distributed=True))
    (folder / "ranks").mkdir(exist_ok=True)
    torch.save({"model": state, "step": 12}, folder / "ranks" / f"model_world_size_{WORLD}_rank_{rank}.pt")
    torch.save({"lr": 0.1}, folder / "ranks" / f"extra_state_world_size_{WORLD}_rank_{rank}.pt")
    torch.save({"w": state["copied"]}, folder / f"copied_{rank}.pt")


def frameworks(rank: int, folder: Path, mesh: Any, state: dict[str, Any]) -> None:
    """FSDP2 over tensor parallelism, ShardedTensor, and the first FSDP's three kinds of state dict."""
    net = parallelize_module(Net(), mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(net, mesh=mesh["data"])
    (folder / "fsdp2").mkdir(exist_ok=True)
    torch.save(net.state_dict(), folder / "fsdp2" / f"pytorch_model_rank{rank}.bin")
    dcp.save({"model": get_model_state_dict(net)}, checkpoint_id=folder / "accelerate" / "pytorch_model_fsdp_0")
    (folder / "old").mkdir(exist_ok=True)
    row = state["uneven"].full_tensor()
    placed = ChunkShardingSpec(dim=0, placements=[f"rank:{i}/cpu" for i in range(WORLD)])
    torch.save({"w": _shard_tensor(row.clone(), placed)}, folder / "old" / f"model_rank_{rank}.pt")
    old = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))
    for kind, name in ((StateDictType.LOCAL_STATE_DICT, "flat"), (StateDictType.SHARDED_STATE_DICT, "fsdp1")):
        (folder / name).mkdir(exist_ok=True)
        with FullyShardedDataParallel.state_dict_type(old, kind):
            torch.save(old.state_dict(), folder / name / f"pytorch_model_rank{rank}.bin")


def make(folder: Path, task: Callable[[int, Path], None] = work) -> None:
    """Run the ranks. They are forked before torch has done any work, which saves importing it in each."""
    torch.multiprocessing.start_processes(task, (folder,), nprocs=WORLD, start_method="fork")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    make(Path(sys.argv[1]))
