"""Checkpoints of which every rank wrote its own file: `model_world_size_2_rank_0.pt`, `pytorch_model_rank0.bin`.

Source: the file names of FSDP trainers (verl, accelerate's LOCAL_STATE_DICT), DTensor and ShardedTensor in them
(pytorch_shards). Each file says which boxes of which tensors it holds; they are put together here. What no file
describes is refused: flat parameters of the first FSDP, files of plain tensors that differ (tensor parallelism of
Megatron).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from modelfmt.errors import CorruptFile, ShapeError, SourceMissing, UnsupportedError
from modelfmt.formats.pytorch import strangers
from modelfmt.formats.pytorch_forms import open_checkpoint
from modelfmt.formats.pytorch_shards import Sharded
from modelfmt.formats.pytorch_tree import Found, find
from modelfmt.ir.joining import Piece, joined
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Reader, geometry
from modelfmt.ir.tensor import Tensor
from modelfmt.pickles.machine import Pickle
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region

__all__ = ["group", "rank_of", "read"]

_NAME = re.compile(
    r"(?P<stem>.*?)(?:_?world_size_(?P<world>\d{1,6}))?_?rank_?(?P<rank>\d{1,6})\.(?P<suffix>pt|pth|bin|ckpt)"
)
_FLAT = ("flat_param", "_flat_param")
COMPARED_ROWS = 4096


def rank_of(name: str) -> int | None:
    """The rank that a file's name ends in; None for other names.

    >>> rank_of("model_world_size_2_rank_1.pt"), rank_of("pytorch_model_rank0.bin"), rank_of("model.pt")
    (1, 0, None)
    """
    match = _NAME.fullmatch(name)
    return int(match["rank"]) if match else None


def group(path: str) -> list[str]:
    """The names of the files that belong together, by rank: those around a file, or the model's in a folder.

    [] where there are none. Raises UnsupportedError (several sets in a folder, none of them called "model"),
    SourceMissing (a rank has no file).
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    sets: dict[tuple[str, str | None, str], dict[int, str]] = defaultdict(dict)
    for name in sorted(entry.name for entry in folder.iterdir()):
        match = _NAME.fullmatch(name)
        if match and not (folder / name).is_dir():
            sets[match["stem"], match["world"], match["suffix"]][int(match["rank"])] = name
    if not place.is_dir():
        sets = {key: row for key, row in sets.items() if place.name in row.values()}
    elif len(sets) > 1:
        sets = {key: row for key, row in sets.items() if "model" in key[0]}
        if len(sets) != 1:
            raise UnsupportedError(
                "several sets of files of ranks", code="rank-sets", path=path, hint="give one of the files"
            )
    if not sets:
        return []
    ((_, world, _), files), *_ = sets.items()
    count = int(world) if world else max(files) + 1
    missing = [rank for rank in range(min(count, 100_000)) if rank not in files]
    if missing:
        raise SourceMissing(
            f"{len(missing)} of {count} ranks have no file",
            code="rank-missing",
            path=path,
            found=f"no file of rank {missing[0]}",
            hint="the files of every rank are needed",
        )
    return [files[rank] for rank in sorted(files)]


def read(path: str, files: Files, reader: Reader) -> Model:
    """The tensors of all ranks, put together. path: the folder, or one of the files.

    extras["torch_ranks"]: files, prefix, left_out. Raises SourceMissing (ranks), CorruptFile (gaps, overlaps, ranks
    that disagree), UnsupportedError (flat parameters, files that do not say how they belong together).
    """
    names = group(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not names:
        raise SourceMissing("no files of ranks", code="rank-missing", path=path, allowed="model_world_size_2_rank_0.pt")
    first: Found | None = None
    pieces: dict[str, list[Sharded]] = defaultdict(list)
    plain: dict[str, list[Expression]] = defaultdict(list)
    pickles: list[Pickle] = []
    for name in names:
        checkpoint = open_checkpoint(Region.whole(str(folder / name), files))
        marks: dict[int, Sharded] = {}
        checkpoint.tensors.sharded = marks
        found = find(checkpoint.root, checkpoint.tensors)
        first = first or found
        pickles += checkpoint.pickles
        for key, expr in found.tensors.items():
            if id(expr) in marks:
                pieces[key].append(marks[id(expr)])
            else:
                plain[key].append(expr)
        if set(found.tensors) != set(first.tensors):
            odd = sorted(set(found.tensors) ^ set(first.tensors))
            raise CorruptFile(
                "the ranks hold different tensors", code="rank-names", path=str(folder / name), place=odd[0]
            )
    assert first is not None
    _refuse_undescribed(path, len(names), pieces, plain)
    tensors = {}
    for key in first.tensors:
        rows = plain.get(key, [])
        expr = _whole(path, key, pieces[key], len(rows)) if key in pieces else _agreed(path, key, rows, reader)
        tensors[key] = Tensor(key, expr, reader)
    own = {"files": names, "prefix": first.prefix, "left_out": first.left_out}
    notes = [f"beside {first.prefix}, left out: {count} tensors of {name}" for name, count in first.left_out.items()]
    notes += strangers(pickles)
    extras = {"torch_ranks": own, "notes": notes}
    return Model("torch_ranks", path, tensors, metadata=first.values, extras=extras, files=files)


def _refuse_undescribed(path: str, n_files: int, pieces: Iterable[str], plain: Iterable[str]) -> None:
    flat = [name for name in (*pieces, *plain) if name.split(".")[-1] in _FLAT]
    if flat:
        raise UnsupportedError(
            "flat parameters of FSDP do not say which parameters lie in them",
            code="flat-parameter",
            path=path,
            place=flat[0],
            hint="save a full or sharded state dict (StateDictType.FULL_STATE_DICT, SHARDED_STATE_DICT)",
        )
    if n_files > 1 and not list(pieces):
        raise UnsupportedError(
            "files of several ranks that do not say how their tensors belong together",
            code="rank-plain",
            path=path,
            place=next(iter(plain), None),
            hint="give one of the files where each holds a whole model",
        )


def _whole(path: str, name: str, rows: list[Sharded], n_plain: int) -> Expression:
    """One tensor from the boxes of all ranks."""
    shape, encoding = rows[0].shape, rows[0].encoding
    if n_plain or any((row.shape, row.encoding) != (shape, encoding) for row in rows):
        raise CorruptFile("the ranks disagree about a tensor", code="rank-tensor", path=path, place=name)
    held: list[Piece] = [piece for row in rows for piece in row.pieces]
    try:
        return joined(shape, held, encoding)
    except ShapeError as error:
        raise CorruptFile(
            "the parts of the ranks do not make up the tensor",
            code="rank-tensor",
            path=path,
            place=name,
            found=error.found,
            allowed=shape,
        ) from None


def _agreed(path: str, name: str, rows: list[Expression], reader: Reader) -> Expression:
    """A tensor that every rank holds whole; its bytes are compared, since nothing says that they are equal."""
    first = rows[0]
    n_rows = geometry(first.shape, first.stored)[0]
    for other in rows[1:]:
        same = other.shape == first.shape and other.stored == first.stored
        for start in range(0, n_rows if same else 0, COMPARED_ROWS):
            stop = min(start + COMPARED_ROWS, n_rows)
            same = same and reader.rows(other, start, stop).tobytes() == reader.rows(first, start, stop).tobytes()
        if not same:
            raise UnsupportedError(
                "a tensor that differs between ranks, and that nothing describes",
                code="rank-plain",
                path=path,
                place=name,
            )
    return first
