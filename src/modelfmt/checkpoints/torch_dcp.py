"""Folders of torch.distributed.checkpoint: `.metadata`, and files in which the chunks of every tensor lie.

Source: torch/distributed/checkpoint (metadata.py, filesystem.py, default_planner.py, hf_storage.py) of torch 2.13, and
of 1.13 to 2.12 as far as they differ. `.metadata` is a pickle: for each tensor its size, dtype and chunks; for each
chunk the file, offset and length of what torch.save wrote there; for each name its path in the nested state dict. Where
every rank wrote alone, there is `__<rank>.metadata` of each. A model of any number of ranks is one Model here, and no
weight is read. Not here: streams that were transformed (compressed) on their way, Megatron's common.pt.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, ShapeError, SourceMissing, UnsupportedError
from modelfmt.formats.pytorch import strangers
from modelfmt.formats.pytorch_forms import open_checkpoint
from modelfmt.formats.pytorch_tensors import Tensors, dtype_of
from modelfmt.formats.pytorch_tree import find
from modelfmt.formats.pytorch_types import DTYPES
from modelfmt.formats.safetensors import read as read_safetensors
from modelfmt.formats.safetensors import sniff as sniff_safetensors
from modelfmt.ir.joining import Piece, joined
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Constant, Expression, Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.pickles.machine import Pickle, load
from modelfmt.pickles.tree import attributes, integers, pairs, sequence, text
from modelfmt.pickles.values import Call, Dict, Persistent
from modelfmt.storage import strict_json
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained
from modelfmt.storage.region import Region

__all__ = ["CHUNKS", "METADATA", "SHARDING", "Boxes", "metadata_files", "read"]

METADATA = ".metadata"
CHUNKS = ".distcp"
SHARDING = "DCP_SHARDING_INFO"
"""The key in a safetensors header that says which box of each tensor the file holds."""
ACCELERATE = "pytorch_model_fsdp_0"
"""Where accelerate puts the model of a training state."""
METADATA_LIMIT = 1 << 30
MAX_PATH = 64
SMALL_OBJECT = 1 << 16
_OWN_METADATA = re.compile(r"__\d+\.metadata")


class _Entry(msgspec.Struct):
    """A tensor of the state dict: size, dtype, and the (offset, size) of its chunks."""

    shape: tuple[int, ...]
    dtype: str
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]]


class _Metadata(msgspec.Struct):
    """What the metadata files say. places: (name, offset of the chunk or None) -> (file, offset, length)."""

    path: str
    tensors: dict[str, _Entry] = msgspec.field(default_factory=dict)
    objects: list[str] = msgspec.field(default_factory=list)
    places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]] = msgspec.field(default_factory=dict)
    paths: dict[str, tuple[str | int, ...]] = msgspec.field(default_factory=dict)
    version: str | None = None
    pickles: list[Pickle] = msgspec.field(default_factory=list)

    def refuse(self, message: str, place: object, found: object = None) -> NoReturn:
        raise CorruptFile(message, code="dcp-metadata", path=self.path, place=str(place)[:200], found=str(found)[:200])


def metadata_files(folder: Path) -> list[str]:
    """Names of a distributed checkpoint's metadata below a folder; [] for any other folder."""
    if (folder / METADATA).is_file():
        return [METADATA]
    try:
        own = sorted(entry.name for entry in folder.iterdir() if _OWN_METADATA.fullmatch(entry.name))
    except OSError:
        return []
    inside = f"{ACCELERATE}/{METADATA}"
    return own or ([inside] if (folder / inside).is_file() else [])


def read(path: str, files: Files, reader: Reader) -> Model:
    """The checkpoint in a folder, or around its `.metadata` or one of its `.distcp` files.

    Names are those of the state dict, nested keys joined by dots; which part of it is the model is found as in a
    PyTorch file (pytorch_tree), `metadata` has its plain entries. extras["torch_dcp"]: version, prefix, left_out,
    files. Raises SourceMissing (no metadata, a file of a rank), CorruptFile (gaps, chunks that are not what the
    metadata says), UnsafePath, UnsupportedError (transformed streams), LimitExceeded.
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    names = metadata_files(folder)
    if not names:
        raise SourceMissing("no metadata of a distributed checkpoint", code="dcp-metadata", path=path, allowed=METADATA)
    metadata = _Metadata(str(folder / names[0]))
    for name in names:
        _read_metadata(Region.whole(str(contained(folder, name, named_in=folder)), files), metadata)
    chunks = _Chunks((folder / names[0]).parent, metadata, files, reader)
    region = Region.whole(metadata.path, files)
    marks = {name: Constant(b"", (0,), DTYPES[row.dtype].encoding) for name, row in metadata.tensors.items()}
    tree = _tree(metadata, chunks)
    found = find(tree, Tensors(region, lambda persistent: marks.get(persistent.id), lambda _: None))
    full_names = {id(mark): name for name, mark in marks.items()}
    tensors = {name: Tensor(name, chunks.tensor(full_names[id(mark)]), reader) for name, mark in found.tensors.items()}
    own = {
        "version": metadata.version,
        "prefix": found.prefix,
        "left_out": found.left_out,
        "files": sorted({file for file, _, _ in metadata.places.values()}),
    }
    notes = [f"beside {found.prefix}, left out: {count} tensors of {name}" for name, count in found.left_out.items()]
    notes += strangers(metadata.pickles)
    return Model(
        "torch_dcp", path, tensors, metadata=found.values, extras={"torch_dcp": own, "notes": notes}, files=files
    )


# --- .metadata


def _read_metadata(region: Region, into: _Metadata) -> None:
    """Add what one metadata file says."""
    if region.size > METADATA_LIMIT:
        raise LimitExceeded(
            "the metadata is too long", code="file-size", path=region.path, found=region.size, allowed=METADATA_LIMIT
        )
    pickle = load(region)
    root = attributes(pickle.root)
    if pickle.end != region.size or _kind(pickle.root) != "Metadata" or "state_dict_metadata" not in root:
        into.refuse("not the metadata of a distributed checkpoint", f"byte {pickle.end}", _kind(pickle.root))
    into.pickles.append(pickle)
    into.version = text(root.get("version")) or into.version
    for name, row in _rows(into, root["state_dict_metadata"], "state_dict_metadata"):
        if _kind(row) == "BytesStorageMetadata":
            into.objects.append(name)
        else:
            _add_tensor(into, name, row)
    for key, place in _pairs(root.get("storage_data")):
        index, info = attributes(key), attributes(place)
        fqn, offset = text(index.get("fqn")), integers(index.get("offset"))
        file, begin, length = text(info.get("relative_path")), info.get("offset"), info.get("length")
        if fqn is None or file is None or type(begin) is not int or type(length) is not int or min(begin, length) < 0:
            into.refuse("a chunk without a place", fqn, info)
        if info.get("transform_descriptors"):
            raise UnsupportedError(
                "chunks that were transformed when they were written",
                code="dcp-transform",
                path=into.path,
                place=fqn,
                found=info["transform_descriptors"],
            )
        into.places[fqn, offset] = (file, begin, length)
    for name, row in _rows(into, root.get("planner_data"), "planner_data"):
        steps = sequence(row)
        if steps is None or not 0 < len(steps) <= MAX_PATH or not all(type(step) in (str, int) for step in steps):
            into.refuse("a name without a path", name, row)
        into.paths[name] = tuple(steps)


def _add_tensor(into: _Metadata, name: str, row: Any) -> None:
    held = attributes(row)
    shape, chunks = integers(held.get("size")), sequence(held.get("chunks"))
    properties = held.get("properties")
    state = properties.states[-1] if isinstance(properties, Call) and properties.states else None
    dtype = dtype_of(state[0] if isinstance(state, tuple) and state else attributes(properties).get("dtype"))
    if _kind(row) != "TensorStorageMetadata" or shape is None or min(shape, default=0) < 0 or chunks is None:
        into.refuse("a tensor without size and chunks", name, held)
    if dtype is None or DTYPES[dtype].codes or DTYPES[dtype].packed != 1 or not DTYPES[dtype].supported:
        raise UnsupportedError(
            "chunks of a dtype that is not read", code="dtype", path=into.path, place=name, found=dtype or str(state)
        )
    entry = into.tensors.setdefault(name, _Entry(shape, dtype, []))
    for chunk in chunks:
        parts = attributes(chunk)
        offset, size = integers(parts.get("offsets")), integers(parts.get("sizes"))
        if offset is None or size is None or len(offset) != len(shape) or len(size) != len(shape):
            into.refuse("a chunk without offsets and sizes", name, parts)
        entry.chunks.append((offset, size))
    if (entry.shape, entry.dtype) != (shape, dtype):
        into.refuse("two ranks disagree about a tensor", name, (entry.shape, shape))


def _kind(value: Any) -> str:
    """The last part of the name of a class of torch.distributed; "" for anything else."""
    name = value.name if isinstance(value, Call) else ""
    return name.rpartition(".")[2] if name.startswith("torch.distributed.") else ""


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    found = pairs(value) or []
    return zip(found[::2], found[1::2], strict=True)


def _rows(into: _Metadata, value: Any, what: str) -> Iterable[tuple[str, Any]]:
    for key, row in _pairs(value):
        name = text(key)
        if name is None:
            into.refuse("a key that is no name", what, type(key).__name__)
        yield name, row


def _tree(metadata: _Metadata, chunks: _Chunks) -> Dict:
    """The nested state dict, with a reference for each tensor, and the plain objects at its root."""
    nested: dict[Any, Any] = {}
    for name in [*metadata.tensors, *metadata.objects]:
        path = metadata.paths.get(name, (name,))
        if name in metadata.tensors:
            value: Any = Persistent(name, 0)
        elif len(path) == 1:
            value = chunks.plain(name)
        else:
            continue
        node = nested
        for step in path[:-1]:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                metadata.refuse("a path leads through a tensor", name, path)
        if path[-1] in node:
            metadata.refuse("two names have one path", name, path)
        node[path[-1]] = value
    return _as_dict(nested)


def _as_dict(nested: dict[Any, Any]) -> Dict:
    found: list[Any] = []
    for key, value in nested.items():
        found += [key, _as_dict(value) if isinstance(value, dict) else value]
    return Dict(found)


# --- chunks


class _Chunks:
    """Opens chunks by the place that the metadata names."""

    def __init__(self, folder: Path, metadata: _Metadata, files: Files, reader: Reader) -> None:
        self.folder = folder
        self.metadata = metadata
        self.files = files
        self.reader = reader
        self.opened: dict[str, tuple[Region, Model | None]] = {}

    def tensor(self, name: str) -> Expression:
        """One tensor from its chunks."""
        row = self.metadata.tensors[name]
        encoding = DTYPES[row.dtype].encoding
        pieces: list[Piece] = []
        for offset, size in row.chunks:
            if 0 in size:
                continue
            expr = self._chunk(name, offset, len(row.chunks) == 1)
            if expr is None or expr.shape != size or expr.stored.name != encoding:
                found = "no tensor" if expr is None else f"{expr.stored.name} {expr.shape}"
                self.metadata.refuse("a chunk is not what the metadata says", name, f"{found}, not {encoding} {size}")
            pieces.append((offset, expr))
        try:
            return joined(row.shape, pieces, encoding)
        except ShapeError as error:
            self.metadata.refuse("the chunks do not make up the tensor", name, error.found)

    def plain(self, name: str) -> Any:
        """An object that is a number or a text; None for others."""
        place = self.metadata.places.get((name, None))
        if place is None or place[2] > SMALL_OBJECT:
            return None
        checkpoint = open_checkpoint(self._file(place[0], name)[0].part(place[1], place[2]))
        self.metadata.pickles += checkpoint.pickles
        return checkpoint.root if isinstance(checkpoint.root, str | int | float | bool) else None

    def _chunk(self, name: str, offset: tuple[int, ...], alone: bool) -> Expression | None:
        place = self.metadata.places.get((name, offset)) or (self.metadata.places.get((name, None)) if alone else None)
        if place is None:
            self.metadata.refuse("a chunk has no place", name, offset)
        region, model = self._file(place[0], name)
        if model is not None:
            told = Boxes()
            told.add(model)
            return next((expr for begin, expr in told.pieces.get(name, ()) if begin == offset), None)
        checkpoint = open_checkpoint(region.part(place[1], place[2]))
        self.metadata.pickles += checkpoint.pickles
        return checkpoint.tensors.tensor(checkpoint.root)

    def _file(self, name: str, wanted: str) -> tuple[Region, Model | None]:
        """A file of chunks; with a Model where it is safetensors."""
        if name not in self.opened:
            path = contained(self.folder, name, named_in=self.metadata.path)
            if not path.is_file():
                raise SourceMissing(
                    "a file of the checkpoint is missing",
                    code="shard-missing",
                    path=str(path),
                    place=wanted,
                    hint="the files of every rank are needed",
                )
            region = Region.whole(str(path), self.files)
            head = region.read(0, min(region.size, 16))
            model = read_safetensors(str(path), self.files, self.reader) if sniff_safetensors(head) else None
            self.opened[name] = region, model
        return self.opened[name]


class Boxes:
    """Boxes of tensors over several safetensors files, as HuggingFaceStorageWriter(save_distributed=True) leaves them.

    pieces: by name, each with its encoding's expression.
    """

    def __init__(self) -> None:
        self.pieces: dict[str, list[Piece]] = defaultdict(list)

    def add(self, part: Model) -> bool:
        """Take a file's tensors; False where its header does not say which boxes they are. Raises CorruptFile."""
        told = part.metadata.get(SHARDING)
        if told is None:
            return False
        rows = strict_json.parse(told.encode(), path=Path(part.path))
        for name, tensor in part.tensors.items():
            row = rows.get(name) if isinstance(rows, dict) else None
            offset = integers(row.get("saved_offsets")) if isinstance(row, dict) else None
            if offset is None or len(offset) != len(tensor.shape) or min(offset, default=0) < 0:
                raise CorruptFile(
                    "a box without its place", code="dcp-metadata", path=part.path, place=name, found=str(row)[:200]
                )
            self.pieces[name].append((offset, tensor.expr))
        return True

    def tensors(self, reader: Reader, path: str) -> dict[str, Tensor]:
        """The whole tensors; each is as large as its boxes reach. Raises CorruptFile for gaps and overlaps."""
        found = {}
        for name, pieces in self.pieces.items():
            axes = range(len(pieces[0][0]))
            if any(len(offset) != len(axes) for offset, _ in pieces):
                raise CorruptFile("boxes of different axes", code="dcp-metadata", path=path, place=name)
            shape = tuple(max(offset[axis] + expr.shape[axis] for offset, expr in pieces) for axis in axes)
            try:
                expr = joined(shape, pieces, pieces[0][1].stored.name)
            except ShapeError as error:
                raise CorruptFile(
                    "the boxes do not make up the tensor",
                    code="dcp-chunks",
                    path=path,
                    place=name,
                    found=error.found,
                    hint="the files of every rank are needed",
                ) from None
            found[name] = Tensor(name, expr, reader)
        return found
