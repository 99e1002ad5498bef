"""Opens any source as a Model: a file by its first bytes, a folder by what lies in it, a mapping of arrays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfmt.errors import SourceMissing, UnsupportedError, UsageError
from modelfmt.ir.model import Model
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Source = str | os.PathLike[str] | Mapping[str, ArrayLike]

__all__ = ["detect", "open"]

_HEAD_BYTES = 4096
FOLDERS = ("huggingface", "peft", "torch_dcp", "torch_ranks", "deepspeed")
"""Folder conventions, each a module of checkpoints."""
_OTHERS = ("config.json", "modules.json", ".safetensors", "pytorch_model.bin", ".index.json")
"""Files that make a folder a Hugging Face checkpoint before it is anything else."""


def open(source: Source | Model, *, format: str | None = None) -> Model:  # noqa: A001  the public name
    """Open a model without reading a weight.

    source: a file, a folder (Hugging Face checkpoint), or a mapping of names to arrays. format: skips recognition (a
    key of `modelfmt.formats()`). Returns a Model, a mapping of names to lazy tensors; close it, or use it with `with`.
    Raises SourceMissing, UnsupportedError, CorruptFile.

    >>> import numpy as np
    >>> with open({"w": np.ones((2, 3), "f4")}) as model:
    ...     model["w"].shape, model.n_params
    ((2, 3), 6)
    """
    files = Files()
    evaluator = Evaluator(files)
    try:
        if isinstance(source, Model):
            return source
        if isinstance(source, Mapping):
            return _from_arrays(source, files, evaluator)
        path = os.fspath(source)
        kind = format or detect(path, files)
        model: Model = _reader(kind)(path, files, evaluator)
    except BaseException:
        files.close()
        raise
    model.files = files
    return model


def detect(path: str, files: Files | None = None) -> str:
    """The name of the format of a file or folder: one of FOLDERS or a key of modelfmt.formats.FORMATS.

    Raises SourceMissing, or UnsupportedError naming what it looked like.
    """
    from modelfmt.formats import FORMATS, module

    place = Path(path)
    if (kind := _distributed(place)) is not None:
        return kind
    if place.is_dir():
        from modelfmt.checkpoints import huggingface, peft

        if peft.is_adapter(path):
            return "peft"
        if huggingface.is_checkpoint(path):
            return "huggingface"
        raise UnsupportedError(
            "the folder holds no checkpoint",
            code="no-checkpoint",
            path=path,
            allowed="config.json and *.safetensors",
            hint=_folder_hint(place),
        )
    if not place.exists():
        hint = "download the model first; modelfmt reads local files" if "/" in path else None
        raise SourceMissing("no such file or folder", path=path, hint=hint)
    pool = files or Files()
    size = pool.size(path)
    head = pool.read(path, 0, min(size, _HEAD_BYTES))
    for row in FORMATS.values():
        if hasattr(module(row.name), "read") and (
            module(row.name).sniff(head) if hasattr(module(row.name), "sniff") else place.suffix in row.suffixes
        ):
            return row.name
    if head.startswith(b"PK\3\4") and (inside := _by_members(path, pool)):
        return inside
    known = _known(head)
    by_suffix = next((row.name for row in FORMATS.values() if place.suffix.lower() in row.suffixes), None)
    if by_suffix and not known:
        return by_suffix
    raise UnsupportedError(
        "not a model file that modelfmt reads",
        code="unknown-format",
        path=path,
        found=known or "unknown content",
        allowed=", ".join(("huggingface folder", *(row.name for row in FORMATS.values() if row.reads))),
    )


def _by_members(path: str, files: Files) -> str | None:
    """The format whose archive a zip is, by the names of its members."""
    from modelfmt.formats import FORMATS, module
    from modelfmt.storage.region import Region
    from modelfmt.storage.zip_directory import Archive

    names = Archive(Region.whole(path, files)).members.keys()
    rows = (row.name for row in FORMATS.values() if hasattr(module(row.name), "sniff_members"))
    return next((name for name in rows if module(name).sniff_members(names)), None)


_MAGICS = (
    (b"<?xml", "XML (OpenVINO's graphs are written, not read)"),
    (b"PK\x03\x04", "a zip archive (Keras?)"),
    (b"\x89HDF", "HDF5"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"lmgg", "an old ggml file"),
    (b"tjgg", "an old ggjt file"),
)


def _known(head: bytes) -> str | None:
    return next((what for magic, what in _MAGICS if head.startswith(magic)), None)


def _distributed(place: Path) -> str | None:
    """What training left, for folders with neither a configuration nor other weights, and for files of torch_dcp."""
    from modelfmt.checkpoints import deepspeed, torch_dcp, torch_ranks

    if place.suffix == torch_dcp.CHUNKS or place.name == torch_dcp.METADATA:
        return "torch_dcp" if place.is_file() else None
    if not place.is_dir():
        return None
    try:
        names = [entry.name for entry in place.iterdir()]
        if any(name.endswith(_OTHERS) for name in names):
            return None
        if deepspeed.folder_of(place) is not None:
            return "deepspeed"
        if torch_dcp.metadata_files(place) or any(name.endswith(torch_dcp.CHUNKS) for name in names):
            return "torch_dcp"
    except OSError:
        return None
    return "torch_ranks" if any(torch_ranks.rank_of(name) is not None for name in names) else None


def _pytorch(path: str, files: Files, reader: Evaluator) -> Model:
    """A PyTorch file; where it is one rank's part of a model, all of them."""
    from modelfmt.checkpoints import torch_ranks
    from modelfmt.formats import pytorch

    try:
        return pytorch.read(path, files, reader)
    except UnsupportedError as error:
        if error.code != "tensor-sharded" or torch_ranks.rank_of(Path(path).name) is None:
            raise
    return torch_ranks.read(path, files, reader)


def _folder_hint(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())[:6]
    return f"it holds {', '.join(names)}" if names else "it is empty"


def _reader(kind: str) -> Any:
    from modelfmt.formats import FORMATS, module

    if kind in FOLDERS:
        return import_module(f"modelfmt.checkpoints.{kind}").read
    if kind == "pytorch":
        return _pytorch
    if kind not in FORMATS or not hasattr(module(kind), "read"):
        raise UsageError(
            "no such source format", code="unknown-format", found=kind, allowed=", ".join((*FOLDERS, *FORMATS))
        )
    return module(kind).read


def _from_arrays(arrays: Mapping[str, Any], files: Files, evaluator: Evaluator) -> Model:
    import numpy as np

    from modelfmt.ir.encoding import ENCODINGS
    from modelfmt.ir.ops import Leaf
    from modelfmt.ir.tensor import Tensor

    by_numpy = {row.numpy: row.name for row in ENCODINGS.values() if row.numpy}
    model = Model(format="arrays", path="<arrays>", files=files)
    for name, value in arrays.items():
        array = np.asarray(value)
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        stored = by_numpy.get(array.dtype.name)
        if stored is None:
            raise UnsupportedError(
                "no encoding for this array type", code="array-dtype", place=name, found=array.dtype.name
            )
        key = files.register(f"<array {name}>", array.reshape(-1).view(np.uint8))
        model.tensors[name] = Tensor(name, Leaf(key, 0, array.shape, stored), evaluator)
    return model
