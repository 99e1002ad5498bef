"""Tensors of which a file holds a part: DTensor, and the ShardedTensor of before.

Source: torch/distributed/tensor (DTensor.__reduce_ex__ through Tensor, _dtensor_spec.py, _utils.py:
_compute_local_shape_and_global_offset, placement_types.py), torch/distributed/_shard/sharded_tensor of torch 2.13; the
meshes of 2.1 to 2.9. A mesh says which place of it the file was written at, the placements which box of the tensor lies
there. Not here: finding the files of the other ranks (checkpoints.torch_ranks).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.formats.pytorch_types import DTYPES
from modelfmt.ir.joining import Piece
from modelfmt.pickles.tree import attributes, class_name, entries, integers
from modelfmt.pickles.values import Call, Global

if TYPE_CHECKING:
    from modelfmt.formats.pytorch_tensors import Tensors

__all__ = ["DCP_NAMES", "SHARDED_TENSORS", "SHARD_NAMES", "Sharded", "sharded"]

WRAPPER = "torch._utils._rebuild_wrapper_subclass"
_TENSOR_MODULES = ("torch.distributed.tensor", "torch.distributed._tensor")
_SHARD = "torch.distributed._shard"

# fmt: off
_DTENSORS = frozenset({
    f"{module}{name}" for module in _TENSOR_MODULES for name in (".DTensor", ".api.DTensor", "._api.DTensor")
})
SHARDED_TENSORS = frozenset({f"{_SHARD}.sharded_tensor.api.ShardedTensor", f"{_SHARD}.sharded_tensor.ShardedTensor"})
_PLACEMENTS = {
    f"{module}.placement_types.{name}": name
    for module in _TENSOR_MODULES for name in ("Shard", "_StridedShard", "Replicate", "Partial", "_Partial")
}
SHARD_NAMES = frozenset({
    WRAPPER, "torch.distributed.device_mesh.DeviceMesh", "torch.distributed._tensor.device_mesh.DeviceMesh",
    "torch.distributed._mesh_layout._MeshLayout", "torch.distributed._mesh_layout._FlatLayout",
    "torch.distributed.remote_device._remote_device", f"{_SHARD}.metadata.ShardMetadata",
    f"{_SHARD}.sharded_tensor.shard.Shard", f"{_SHARD}.sharded_tensor.metadata.ShardedTensorMetadata",
    f"{_SHARD}.sharded_tensor.metadata.TensorProperties", f"{_SHARD}.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
    f"{_SHARD}.sharding_spec.chunk_sharding_spec.ChunkShardingSpec",
    f"{_SHARD}.sharding_spec.api.EnumerableShardingSpec",
    *(f"{module}.{name}" for module in _TENSOR_MODULES for name in (
        "_dtensor_spec.DTensorSpec", "_dtensor_spec.TensorMeta", "_dtensor_spec.ShardOrderEntry",
        "placement_types.DTensorSpec", "placement_types.TensorMeta")),
}) | _DTENSORS | SHARDED_TENSORS | frozenset(_PLACEMENTS)
"""Every name that has a meaning here; each is a record of data."""
_CHECKPOINT = ("torch.distributed.checkpoint", f"{_SHARD}.checkpoint")
DCP_NAMES = frozenset({
    f"{module}.{name}" for module in _CHECKPOINT for name in (
        "metadata.Metadata", "metadata.TensorStorageMetadata", "metadata.BytesStorageMetadata",
        "metadata.ChunkStorageMetadata", "metadata.TensorProperties", "metadata._MEM_FORMAT_ENCODING",
        "metadata.MetadataIndex", "metadata.StorageMeta", "filesystem._StorageInfo")
})
"""The names in the .metadata of a distributed checkpoint (checkpoints.torch_dcp)."""
# fmt: on


class Sharded(msgspec.Struct, frozen=True):
    """A tensor of `shape` in `encoding`, and the boxes of it that one file holds. at: the byte where it stands."""

    shape: tuple[int, ...]
    encoding: str
    pieces: tuple[Piece, ...]
    at: int


def sharded(tensors: Tensors, call: Call, args: tuple[Any, ...], depth: int) -> Sharded | None:
    """What `_rebuild_from_type_v2(_rebuild_wrapper_subclass, class, (class, dtype, size, ..), state)` describes.

    None for other subclasses. Raises CorruptFile (boxes outside, states that say too little), UnsupportedError (partial
    sums, orders of sharding that are not known).
    """
    kind = str(args[1])
    inner = args[2] if isinstance(args[2], tuple) else ()
    if len(args) < 4 or len(inner) < 3 or kind not in _DTENSORS | SHARDED_TENSORS:
        return None
    place = _Place(tensors, call, kind)
    shape = integers(inner[2])
    dtype = str(inner[1]).removeprefix("torch.") if isinstance(inner[1], Global) else ""
    if shape is None or min(shape, default=0) < 0 or dtype not in DTYPES or prod(filter(None, shape)) >= 1 << 60:
        place.broken("a shard of no proper tensor", shape)
    if DTYPES[dtype].packed != 1 or DTYPES[dtype].codes or not DTYPES[dtype].supported:
        place.unsupported(f"shards of {dtype}")
    find = _dtensor if kind in _DTENSORS else _shards
    pieces = find(place, args[3], shape, depth)
    for offset, expr in pieces:
        if len(offset) != len(shape) or any(o + n > m for o, n, m in zip(offset, expr.shape, shape, strict=True)):
            place.broken("a shard outside its tensor", (offset, expr.shape))
    return Sharded(shape, DTYPES[dtype].encoding, tuple(pieces), call.offset)


class _Place(msgspec.Struct, frozen=True):
    """Where errors belong."""

    tensors: Tensors
    call: Call
    kind: str

    def broken(self, message: str, found: object) -> NoReturn:
        raise CorruptFile(
            message,
            code="tensor-shard",
            path=self.tensors.region.path,
            place=f"byte {self.call.offset}",
            found=str(found)[:200],
        )

    def unsupported(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"{what} cannot be expressed",
            code="tensor-shard",
            path=self.tensors.region.path,
            place=f"byte {self.call.offset}",
            hint="save a full state dict, or a distributed checkpoint (torch.distributed.checkpoint)",
        )


# --- DTensor


def _dtensor(place: _Place, state: Any, shape: tuple[int, ...], depth: int) -> list[Piece]:
    """State: _local_tensor and _spec (mesh, placements), or (None, the same) where the class has slots."""
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1]
    held = entries(state) or {}
    spec = attributes(held.get("_spec"))
    local = place.tensors.tensor(held.get("_local_tensor"), depth + 1)
    if local is None or "mesh" not in spec:
        place.broken("a DTensor without its local tensor and its mesh", sorted(held))
    sizes, own = _mesh(place, attributes(spec["mesh"]))
    rows = spec.get("placements")
    placements = [_placement(place, row) for row in rows] if isinstance(rows, list | tuple) else []
    if len(placements) != len(sizes):
        place.broken("as many placements as axes of the mesh are needed", len(placements))
    if any(not -1 <= axis < len(shape) or (axis < 0 and kind != "Replicate") for kind, axis, _ in placements):
        place.broken("a shard along an axis that the tensor does not have", placements)
    offset, size = list((0,) * len(shape)), list(shape)
    for axis in range(len(shape)):
        for dim in _order(place, spec, placements, sizes, axis):
            chunk = -(-size[axis] // sizes[dim])
            begin = min(own[dim] * chunk, size[axis])
            offset[axis], size[axis] = offset[axis] + begin, min(chunk, size[axis] - begin)
    if local.shape != tuple(size):
        place.broken(f"a local tensor of another shape than its placements say ({tuple(size)})", local.shape)
    return [(tuple(offset), local)]


def _placement(place: _Place, row: Any) -> tuple[str, int, int]:
    """(kind, axis of the tensor, split factor); Replicate has the axis -1."""
    kind = _PLACEMENTS.get(class_name(row), "") if isinstance(row, Call) else ""
    held = attributes(row)
    if kind == "Replicate":
        return kind, -1, 1
    axis, factor = held.get("dim"), held.get("split_factor", 1)
    if isinstance(row, Call) and not held and isinstance(row.args, tuple) and row.args:
        axis, factor = row.args[0], dict(enumerate(row.args)).get(1, 1)
    if kind not in ("Shard", "_StridedShard") or type(axis) is not int or type(factor) is not int:
        place.unsupported(f"a tensor placed as {class_name(row) if isinstance(row, Call) else row}")
    return kind, axis, factor


def _order(
    place: _Place, spec: dict[str, Any], placements: list[tuple[str, int, int]], sizes: tuple[int, ...], axis: int
) -> list[int]:
    """The axes of the mesh that cut one axis of the tensor, in the order in which they cut it."""
    cut = [dim for dim, (_, which, _) in enumerate(placements) if which == axis]
    rows = spec.get("shard_order")
    for row in rows if isinstance(rows, list | tuple) and spec.get("use_strided_shard_as_shard_order") is False else ():
        entry = row.args if isinstance(row, Call) and isinstance(row.args, tuple) else row
        dims = integers(entry[1]) if isinstance(entry, tuple) and len(entry) == 2 and entry[0] == axis else None
        if dims is not None and sorted(dims) == cut:
            return list(dims)
    order: list[int] = []
    for dim in reversed(cut):  # a strided shard was cut after `factor` pieces to its right
        kind, _, factor = placements[dim]
        before = 0 if kind == "Shard" else next((i for i in range(len(order) + 1)
                                                 if prod(sizes[j] for j in order[:i]) == factor), -1)  # fmt: skip
        if before < 0:
            place.unsupported("a strided shard of this order")
        order.insert(before, dim)
    return order


def _mesh(place: _Place, mesh: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size of each axis of a mesh, and where in it the writer was."""
    layout = attributes(mesh.get("_layout"))
    axes = layout.get("axes")
    if isinstance(axes, list | tuple):
        shapes = [integers(attributes(row).get("shape")) for row in axes]
        sizes = tuple(prod(row) for row in shapes if row is not None)
    elif "shape" in layout:
        found = layout["shape"]
        sizes = integers((found,) if isinstance(found, int) else found) or ()
    else:
        expr = place.tensors.tensor(mesh.get("mesh"), 1)
        sizes = expr.shape if expr is not None else ()
    own = integers(mesh.get("_coordinate_on_dim"))
    if own is None or not sizes or len(own) != len(sizes) or not all(0 <= i < n for i, n in zip(own, sizes)):  # noqa: B905  the lengths are compared first
        place.broken("a mesh that does not say where in it this file belongs", (sizes, own))
    return sizes, own


# --- ShardedTensor


def _shards(place: _Place, state: Any, shape: tuple[int, ...], depth: int) -> list[Piece]:
    """State: (local shards, metadata, process group, sharding spec, init_rrefs)."""
    rows = state[0] if isinstance(state, tuple) and state and isinstance(state[0], list | tuple) else None
    if rows is None:
        place.broken("a ShardedTensor without a list of shards", type(state).__name__)
    pieces = []
    for row in rows:
        held = attributes(row)
        metadata = attributes(held.get("metadata"))
        offset, size = integers(metadata.get("shard_offsets")), integers(metadata.get("shard_sizes"))
        local = place.tensors.tensor(held.get("tensor"), depth + 1)
        if local is None or offset is None or min(offset, default=0) < 0 or size != local.shape:
            place.broken("a shard whose metadata does not fit", (offset, size))
        if len(offset) != len(shape):
            place.broken("a shard of another number of axes", offset)
        pieces.append((offset, local))
    return pieces
