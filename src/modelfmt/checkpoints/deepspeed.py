"""DeepSpeed checkpoints whose weights ZeRO has cut up: the float32 master weights of every rank, put together.

Source: deepspeed/utils/zero_to_fp32.py of DeepSpeed 0.9 to 0.18. A folder `global_step..` (named by `latest` in the
folder around it) has one file of model states, and an optimizer file of each data-parallel rank. In stages 1 and 2 each
rank holds a piece of one long vector per parameter group, in which the parameters follow one another; in stage 3 each
rank holds its piece of every parameter. Buffers, and what is not trained, come as they are stored. Not read: tensor and
pipeline parallelism (several mp_rank), expert files, BF16_Optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from modelfmt.errors import CorruptFile, SourceMissing, UnsupportedError
from modelfmt.formats.pytorch import strangers
from modelfmt.formats.pytorch_forms import Checkpoint, open_checkpoint
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Concat, Constant, Expression, Leaf, Reader, Reshape
from modelfmt.ir.tensor import Tensor
from modelfmt.pickles.machine import Pickle
from modelfmt.pickles.tree import entries, integers, sequence, text
from modelfmt.pickles.values import Call
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained
from modelfmt.storage.region import Region

__all__ = ["folder_of", "read"]

_OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt")
_TAG = re.compile(r"\w[\w.-]*", re.ASCII)
_MODELS = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
_GROUPS = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}


def folder_of(folder: Path) -> Path | None:
    """The folder with the files of a ZeRO checkpoint: the one given, or the one that `latest` in it names."""
    latest = folder / "latest"
    if latest.is_file() and latest.stat().st_size < 256:
        name = latest.read_bytes().decode("latin-1").strip()
        if _TAG.fullmatch(name) and (folder / name).is_dir() and _optimizer_files(folder / name):
            return contained(folder, name, named_in=latest)
    return folder if _optimizer_files(folder) else None


def _optimizer_files(folder: Path) -> list[tuple[int, int, str]]:
    """(rank, rank of tensor parallelism, name), sorted."""
    matches = [_OPTIMIZER.fullmatch(entry.name) for entry in folder.iterdir()]
    return sorted((int(match[1]), int(match[2]), match[0]) for match in matches if match)


def read(path: str, files: Files, reader: Reader) -> Model:
    """The float32 weights of a ZeRO checkpoint, by their names in the model, and its buffers.

    path: the folder, or the one around it. extras["deepspeed"]: stage, ranks, version. Raises SourceMissing (files),
    CorruptFile (vectors that do not fit the parameters), UnsupportedError (what is not read, parameters without
    values).
    """
    folder = folder_of(Path(path))
    if folder is None:
        raise SourceMissing(
            "no ZeRO checkpoint", code="zero-missing", path=path, allowed="zero_pp_rank_*_optim_states.pt"
        )
    zero = _Zero(folder, files)
    found = zero.tensors()
    own = {"stage": zero.stage, "ranks": len(zero.groups), "version": text(zero.model.get("ds_version"))}
    notes = [
        "weights are the optimizer's float32 copies; what is not trained is as stored",
        *strangers(zero.pickles),
    ]
    tensors = {name: Tensor(name, expr, reader) for name, expr in found.items()}
    return Model("deepspeed", path, tensors, extras={"deepspeed": own, "notes": notes}, files=files)


class _Zero:
    """The opened files. groups: of each rank, the vectors of each parameter group."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self.files = files
        self.pickles: list[Pickle] = []
        rows = _optimizer_files(folder)
        if any(mp for _, mp, _ in rows) or any("expert" in entry.name for entry in folder.iterdir()):
            self._unsupported("a ZeRO checkpoint of tensor-parallel ranks or experts", rows[-1][2])
        name = next((name for name in _MODELS if (folder / name).is_file()), None)
        if name is None:
            raise SourceMissing("no file of model states", code="zero-missing", path=folder, allowed=_MODELS[0])
        self.states = self._open(name)
        self.model = entries(self.states.root) or {}
        self.stage = 0
        self.groups: list[list[Leaf]] = []
        for number, (rank, _, name) in enumerate(rows):
            self._add_rank(name, number, rank, len(rows))

    def _open(self, name: str) -> Checkpoint:
        path = contained(self.folder, name, named_in=self.folder)
        checkpoint = open_checkpoint(Region.whole(str(path), self.files))
        self.pickles += checkpoint.pickles
        return checkpoint

    def _add_rank(self, name: str, number: int, rank: int, n_files: int) -> None:
        checkpoint = self._open(name)
        state = entries((entries(checkpoint.root) or {}).get("optimizer_state_dict")) or {}
        stage, count = _plain(state.get("zero_stage")), state.get("partition_count")
        counts = [count] if isinstance(count, int) else list(integers(count) or ())
        if stage not in _GROUPS or type(stage) is not int or not counts:
            self._unsupported("an optimizer's state without a stage of ZeRO", name)
        if number != rank or max(counts) != n_files or (self.stage and stage != self.stage):
            raise SourceMissing(
                "the optimizer files of some ranks are missing",
                code="zero-missing",
                path=self.folder,
                place=name,
                found=f"{n_files} files",
                allowed=f"{max(counts)} ranks",
            )
        self.stage = stage
        rows = sequence(state.get(_GROUPS[stage]))
        vectors = [checkpoint.tensors.tensor(row) for row in rows or ()]
        if not vectors or any(not isinstance(row, Leaf) or len(row.shape) != 1 for row in vectors):
            self._broken("a rank without vectors of weights", name, len(vectors))
        self.groups.append([row for row in vectors if isinstance(row, Leaf)])
        if [row.encoding for row in self.groups[-1]] != [row.encoding for row in self.groups[0]]:
            self._broken("ranks that hold other parameter groups", name, len(vectors))

    def tensors(self) -> dict[str, Expression]:
        """Buffers, frozen and trained parameters, and those that share another's values."""
        module = entries(self.model.get("module")) or {}
        held = {name: self.states.tensors.tensor(value) for name, value in module.items()}
        buffers = {text(name) for name in sequence(self.model.get("buffer_names")) or ()}
        found = {name: expr for name, expr in held.items() if name in buffers and expr is not None}
        found |= self._frozen()
        shapes = [self._shapes(group) for group in sequence(self.model.get("param_shapes")) or ()]
        found |= self._stage3(shapes) if self.stage == 3 else self._stage2(shapes)
        for name, kept in self._shared().items():
            if kept in found:
                found.setdefault(name, found[kept])
        for name, expr in held.items():
            if expr is None or name in found:
                continue
            twin = next((other for other in found if 0 not in expr.shape and held.get(other) == expr), None)
            if twin is None and self.stage == 3:
                self._unsupported("a parameter of the model that no rank holds", name)
            found[name] = found[twin] if twin else expr  # stages 1 and 2: the model states hold every weight
        return {name: found[name] for name in (*held, *found) if name in found}

    def _shapes(self, group: Any) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for name, value in (entries(group) or {}).items():
            shape = integers(value)
            if shape is None or min(shape, default=0) < 0 or prod(filter(None, shape)) >= 1 << 60:
                self._broken("a parameter without a shape", name, value)
            shapes[name] = shape
        return shapes

    def _stage2(self, shapes: Sequence[dict[str, tuple[int, ...]]]) -> dict[str, Expression]:
        """Each group: one vector over all ranks, padded to twice their number."""
        found = {}
        if len(shapes) != len(self.groups[0]):
            self._broken("as many groups of shapes as of vectors are needed", "param_shapes", len(shapes))
        for number, rows in enumerate(shapes):
            vectors, at = [rank[number] for rank in self.groups], 0
            for name, shape in rows.items():
                found[name] = self._shaped(name, self._cut(name, vectors, at, prod(shape)), shape)
                at += prod(shape)
            align = 2 * len(self.groups)
            if -(-at // align) != -(-sum(row.shape[0] for row in vectors) // align):
                self._broken("the vectors are longer than their parameters", f"group {number}", at)
        return found

    def _stage3(self, shapes: Sequence[dict[str, tuple[int, ...]]]) -> dict[str, Expression]:
        """Each parameter: a piece in every rank, all of the same size, the last ones padded."""
        found, at = {}, 0
        for name, shape in ((name, shape) for rows in shapes for name, shape in rows.items()):
            size, left, parts = -(-prod(shape) // len(self.groups)), prod(shape), []
            for vectors in self.groups:
                parts += self._cut(name, vectors, at, min(size, left))
                left -= min(size, left)
            found[name] = self._shaped(name, parts, shape)
            at += size
        if any(sum(row.shape[0] for row in vectors) != at for vectors in self.groups):
            self._broken("the vectors do not have the length of their parameters", "param_shapes", at)
        return found

    def _cut(self, name: str, vectors: Sequence[Leaf], at: int, size: int) -> list[Leaf]:
        """Elements at .. at + size of vectors that follow one another."""
        parts = []
        for row in vectors:
            n = row.shape[0]
            first, last = max(at, 0), min(at + size, n)
            if first < last:
                begin = row.offset + first * row.stored.block_bytes
                parts.append(Leaf(row.file, begin, (last - first, 1), row.encoding, row.big))
            at -= n
        if sum(part.shape[0] for part in parts) != size:
            self._broken("a parameter reaches past the end of its vectors", name, size)
        return parts

    def _shaped(self, name: str, parts: list[Leaf], shape: tuple[int, ...]) -> Expression:
        if not parts:
            return Constant(b"", shape, self.groups[0][0].encoding)
        if any(part.encoding != parts[0].encoding for part in parts):
            self._broken("ranks of different types", name, parts[0].encoding)
        if len(parts) == 1:
            return Leaf(parts[0].file, parts[0].offset, shape, parts[0].encoding, parts[0].big)
        return Reshape(Concat(tuple(parts)), shape)

    def _frozen(self) -> dict[str, Expression]:
        """Parameters that are not trained: whole in the model states, in stage 3 a piece in those of every rank."""
        shapes = self._shapes(self.model.get("frozen_param_shapes"))
        if not shapes:
            return {}
        found = {}
        states = [self.states]
        if self.stage == 3:
            states += [
                self._open(_MODELS[1].replace("rank_0_", f"rank_{rank}_")) for rank in range(1, len(self.groups))
            ]
        held = [(row.tensors, entries((entries(row.root) or {}).get("frozen_param_fragments")) or {}) for row in states]
        for name, shape in shapes.items():
            parts = [tensors.tensor(fragments.get(name)) for tensors, fragments in held]
            leaves = [part for part in parts if isinstance(part, Leaf)]
            if len(leaves) != len(parts) or len({leaf.encoding for leaf in leaves}) != 1:
                self._broken("a frozen parameter without its values", name, shape)
            flat = [Leaf(leaf.file, leaf.offset, (prod(leaf.shape),), leaf.encoding, leaf.big) for leaf in leaves]
            found[name] = self._shaped(name, self._cut(name, flat, 0, prod(shape)), shape)
        return found

    def _shared(self) -> dict[str, str]:
        """Name -> the name whose values it has: a dict, or pairs in older versions."""
        told = self.model.get("shared_params")
        rows = entries(told) or {}
        pairs = [(name, text(kept)) for name, kept in rows.items()]
        for row in sequence(told) or ():
            if isinstance(row, list | tuple) and len(row) == 2:
                pairs.append((text(row[0]) or "", text(row[1])))
        return {name: kept for name, kept in pairs if kept is not None}

    def _broken(self, message: str, place: object, found: object) -> NoReturn:
        raise CorruptFile(message, code="zero-layout", path=self.folder, place=str(place)[:200], found=str(found)[:200])

    def _unsupported(self, what: str, place: object) -> NoReturn:
        raise UnsupportedError(
            f"{what} cannot be put together",
            code="zero-layout",
            path=self.folder,
            place=str(place)[:200],
            hint="let DeepSpeed make one file of it (zero_to_fp32.py)",
        )


def _plain(value: Any) -> Any:
    """A number, also as the enumeration of stages that some versions pickle."""
    if isinstance(value, Call) and value.name.endswith(".ZeroStageEnum") and isinstance(value.args, tuple):
        return value.args[0] if len(value.args) == 1 else None
    return value
