"""A Hugging Face checkpoint folder: config.json, weights (one file, sharded by an index, or several), tokenizer files.

Source: what `save_pretrained` of transformers writes and `from_pretrained` reads; sentence-transformers' modules.json;
the cache of huggingface_hub, whose files are links. The weights are, in this order: model.safetensors, the shards of
model.safetensors.index.json (or of the only other index), every *.safetensors; where there are none, the same of
pytorch_model.bin; where there is nothing else, a distributed checkpoint (torch_dcp, torch_ranks). A path to one weight
file opens the checkpoint around it: all shards where the index names that file, else that file alone with the folder's
config. Not here: what the tensors mean, adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import msgspec

from modelfmt.checkpoints import deepspeed, torch_dcp, torch_ranks
from modelfmt.errors import CorruptFile, LimitExceeded, SourceMissing, UnsupportedError
from modelfmt.formats import pytorch, safetensors
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.storage import strict_json
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained

__all__ = ["ASSETS", "Assets", "architecture", "beside", "is_checkpoint", "model_type", "read"]

CONFIG_LIMIT = 8 << 20
INDEX_LIMIT = 64 << 20
ASSET_LIMIT = 256 << 20
MAX_SHARDS = 10_000

_MODULES = "modules.json"
_TEMPLATES = "additional_chat_templates"

# what goes along with the weights; weight indices are left out of *.json
ASSETS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.md", "*vocab*.txt", "merges.txt", "LICENSE*", "NOTICE*")
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.npz", "*.pkl")


class _Kind(msgspec.Struct, frozen=True):
    """A container of weights: a single file's name, the end of every name, loose files, which of them are taken only
    where there are no others, and the reader."""

    single: str
    suffix: str
    loose: str
    last: str
    read: Callable[[str, Files, Reader], Model]

    @property
    def index(self) -> str:
        return f"{self.single}.index.json"

    @property
    def index_suffix(self) -> str:
        return f"{self.suffix}.index.json"


def _untied(path: str, files: Files, reader: Reader) -> Model:
    """A safetensors file without the names that its metadata gives twice: in a folder, the configuration says what is
    tied."""
    return safetensors.read(path, files, reader, ties=False)


def _zero(path: str, files: Files, reader: Reader) -> Model:
    return deepspeed.read(str(Path(path).parent), files, reader)


_KINDS = (
    _Kind("model.safetensors", ".safetensors", "*.safetensors", "consolidated*", _untied),
    _Kind("pytorch_model.bin", ".bin", "pytorch_model*.bin", "", pytorch.read),
)
"""In the order of preference, as from_pretrained has it."""

_DISTRIBUTED = (
    (torch_dcp.metadata_files, _Kind("", "", "", "", torch_dcp.read)),
    (lambda folder: torch_ranks.group(str(folder)), _Kind("", "", "", "", torch_ranks.read)),
    (lambda folder: ["latest"] if deepspeed.folder_of(folder) else [], _Kind("", "", "", "", _zero)),
)
"""Where there are no others: what training left, read whole from the first of its files."""


class Assets(Mapping[str, bytes]):
    """Small files by relative name, read when asked for. `path` says where each lies.

    Raises, on access: UnsafePath (a link that leads out of the folder), LimitExceeded, SourceMissing.
    """

    def __init__(self, places: Mapping[str, tuple[Path, str]], files: Files) -> None:
        self._places = dict(places)
        self._files = files

    def __getitem__(self, name: str) -> bytes:
        folder, own = self._places[name]
        return _content(folder, own, self._files, ASSET_LIMIT)

    def path(self, name: str) -> Path:
        """Where a file lies."""
        folder, own = self._places[name]
        return folder / own

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def is_checkpoint(folder: str) -> bool:
    """True for a folder with a configuration or with weights in it."""
    place = Path(folder)
    return place.is_dir() and any(
        name in ("config.json", _MODULES)
        or any(fnmatchcase(name, kind.loose) or name.endswith(kind.index_suffix) for kind in _KINDS)
        for name in _names(place)
    )


def read(path: str, files: Files, reader: Reader) -> Model:
    """The checkpoint in a folder, or around one of its weight files.

    `config` is config.json ({} where there is none), `architecture` its first entry of `architectures`, `metadata` what
    the shards' headers say, `assets` lazy. extras["huggingface"]: shards (paths), index (its metadata), modules (of a
    sentence-transformers folder: path, type, config and tensors of each module behind the first). extras["notes"]:
    files that were left alone. Of a quantized folder the tensors are those that its scheme means, and
    extras["quantization"] has method, notes and `stored`, the tensors as they lie in the files; or error, where it
    cannot be read. Raises SourceMissing (no folder, shards), CorruptFile (also: the index and the shards
    disagree), UnsafePath, LimitExceeded, UnsupportedError (no weights).
    """
    place = Path(path)
    folder, only = (place, None) if place.is_dir() else (place.parent, place.name)
    modules = _read_modules(folder, files)
    home = folder / modules[0]["path"] if modules else folder
    names = _names(home)
    config = _object(home, "config.json", files, CONFIG_LIMIT) if "config.json" in names else {}
    kind, shards, index = _shards(home, names, only, files)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    notes = _notes(names, shards)
    held: dict[str, str] = {}
    boxes = torch_dcp.Boxes()
    paths = []
    for shard in shards:
        paths.append(str(contained(home, shard, named_in=home)))
        part = kind.read(paths[-1], files, reader)
        notes += part.extras.get("notes", [])
        whole = {} if boxes.add(part) else part.tensors
        for name, tensor in whole.items():
            if name in tensors:
                raise CorruptFile(
                    "a tensor is in two files", code="duplicate-key", path=paths[-1], place=name, found=held[name]
                )
            tensors[name], held[name] = tensor, shard
        metadata = {**part.metadata, **metadata}
    tensors |= boxes.tensors(reader, path)
    if index:
        _check_index(home / index["name"], index["weight_map"], held)
    own = {
        "shards": paths,
        "index": index.get("metadata", {}),
        "modules": [_module(folder, row, files, reader) for row in modules[1:]],
    }
    extras: dict[str, Any] = {"huggingface": own, "notes": notes}
    assets = _assets(folder, home, modules, files)
    extras |= _quantized(path, tensors, config, assets, reader, metadata)
    return Model(
        "huggingface",
        path,
        extras.pop("tensors", tensors),
        architecture=architecture(config),
        config=config,
        metadata=metadata,
        assets=cast("dict[str, bytes]", assets),
        extras=extras,
        files=files,
    )


def beside(path: str, files: Files, without: Collection[str]) -> tuple[dict[str, Any], Mapping[str, bytes]]:
    """config.json ({} where there is none) and the small files, lazily, of the folder in which a file lies."""
    folder = Path(path).parent
    config = _object(folder, "config.json", files, CONFIG_LIMIT) if "config.json" in _names(folder) else {}
    return config, Assets({name: (folder, name) for name in _asset_names(folder) if name not in without}, files)


def _quantized(
    path: str,
    tensors: dict[str, Tensor],
    config: Mapping[str, Any],
    assets: Assets,
    reader: Reader,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """What a quantized folder has besides: its tensors as its scheme means them, the scheme, and the tensors as they
    lie in the files. A scheme that cannot be read leaves them alone: what needs weights raises its error then."""
    from modelfmt.checkpoints import quantized

    try:
        exprs = {name: tensor.expr for name, tensor in tensors.items()}
        found = quantized.read(path, exprs, config, cast("Mapping[str, bytes]", assets), reader, metadata)
    except (UnsupportedError, CorruptFile) as error:
        return {"quantization": {"method": None, "error": error}}
    if found is None:
        return {}
    method, made, remarks = found
    return {
        "tensors": {name: Tensor(name, expr, reader) for name, expr in made.items()},
        "quantization": {"method": method, "notes": remarks, "stored": tensors},
    }


def _names(folder: Path) -> list[str]:
    """What lies in a folder, sorted; names that are not text are left out."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name.isprintable())
    except OSError as error:
        raise SourceMissing("cannot list the folder", path=folder, found=error.strerror) from error


def _content(folder: Path, name: str, files: Files, at_most: int) -> bytes:
    path = str(contained(folder, name, named_in=folder))
    size = files.size(path)
    if size > at_most:
        raise LimitExceeded(
            "the file is too long", code="file-size", path=path, found=size, allowed=f"at most {at_most} bytes"
        )
    return files.read(path, 0, size)


def _object(folder: Path, name: str, files: Files, at_most: int) -> dict[str, Any]:
    """A JSON file whose top level is an object. NaN and Infinity are let through: transformers writes them."""
    path = folder / name
    found = strict_json.parse(_content(folder, name, files, at_most), path=path, at_most=at_most, non_finite=True)
    if not isinstance(found, dict):
        raise CorruptFile("not a JSON object", code="json", path=path, found=type(found).__name__)
    return found


def architecture(config: Mapping[str, Any]) -> str | None:
    """The first class that a configuration names."""
    found = config.get("architectures")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else None


def model_type(config: Mapping[str, Any]) -> str | None:
    """The model type of a configuration, where it is a text."""
    found = config.get("model_type")
    return found if isinstance(found, str) else None


def _shards(folder: Path, names: list[str], only: str | None, files: Files) -> tuple[_Kind, list[str], dict[str, Any]]:
    """The container, the names of the weight files, and the index that lists them ({} without one)."""
    for kind in _KINDS:
        if only is None or only.endswith(kind.suffix):
            shards, index = _shards_of(kind, folder, names, only, files)
            if shards:
                return kind, shards, index
    if only is not None:
        return _KINDS[-1], [only], {}
    for find, kind in _DISTRIBUTED:
        if found := find(folder):
            return kind, found[:1], {}
    others = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _OTHER_WEIGHTS)]
    raise UnsupportedError(
        "the folder holds no weights that can be read",
        code="no-weights",
        path=folder,
        found=", ".join(others[:5]) or None,
        allowed=", ".join(f"{kind.single}, or shards with {kind.index}" for kind in _KINDS),
        hint="give the file itself" if others else "the download may be incomplete",
    )


def _shards_of(
    kind: _Kind, folder: Path, names: list[str], only: str | None, files: Files
) -> tuple[list[str], dict[str, Any]]:
    """The same for one container; [] where the folder holds none."""
    indices = [name for name in names if name.endswith(kind.index_suffix)]
    index_name = kind.index if kind.index in indices else indices[0] if len(indices) == 1 else None
    if only is None and kind.single in names:
        return [kind.single], {}
    if index_name is not None:
        index = _read_index(folder, index_name, files)
        shards = sorted(set(index["weight_map"].values()))
        if only is None or only in shards:
            _check_present(folder, index_name, shards)
            return shards, {**index, "name": index_name}
    if only is not None:
        return [only], {}
    loose = [name for name in names if fnmatchcase(name, kind.loose) and torch_ranks.rank_of(name) is None]
    return [name for name in loose if not fnmatchcase(name, kind.last)] or loose, {}


def _read_index(folder: Path, name: str, files: Files) -> dict[str, Any]:
    path = folder / name
    index = _object(folder, name, files, INDEX_LIMIT)
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(shard, str) for shard in weights.values()):
        raise CorruptFile(
            "the index has no map from tensors to files",
            code="index",
            path=path,
            place="weight_map",
            found=type(weights).__name__,
        )
    if not isinstance(index.setdefault("metadata", {}), dict):
        raise CorruptFile("the index's metadata is no object", code="index", path=path, place="metadata")
    shards = set(weights.values())
    if len(shards) > MAX_SHARDS:
        raise LimitExceeded(
            "too many shards",
            code="shards",
            path=path,
            place="weight_map",
            found=len(shards),
            allowed=f"at most {MAX_SHARDS}",
        )
    for shard in sorted(shards):
        contained(folder, shard, named_in=path)
    return index


def _check_present(folder: Path, index_name: str, shards: list[str]) -> None:
    missing = [name for name in shards if not (folder / name).exists()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise SourceMissing(
            f"{len(missing)} of {len(shards)} shards are missing",
            code="shard-missing",
            path=folder / index_name,
            found="no " + ", ".join(missing[:5]) + more,
            hint="the download is incomplete; fetch the rest of the files",
        )


def _check_index(path: Path, weights: Mapping[str, str], held: Mapping[str, str]) -> None:
    """Raise where the index and the shards do not agree on every tensor."""
    absent = sorted(name for name, shard in weights.items() if held.get(name) != shard)
    unlisted = sorted(held.keys() - weights.keys())
    if absent or unlisted:
        what = (
            "the index lists tensors that its shards do not hold"
            if absent
            else "the shards hold tensors that the index does not list"
        )
        raise CorruptFile(
            what,
            code="index-mismatch",
            path=path,
            place=(absent or unlisted)[0],
            found=f"{len(absent)} absent, {len(unlisted)} unlisted",
            hint="index and shards are of different versions; download the checkpoint again",
        )


def _read_modules(folder: Path, files: Files) -> list[dict[str, str]]:
    """Path and type of every module of a sentence-transformers folder; [] for any other folder."""
    if _MODULES not in _names(folder):
        return []
    path = folder / _MODULES
    rows = strict_json.parse(_content(folder, _MODULES, files, CONFIG_LIMIT), path=path)
    if not isinstance(rows, list) or not rows or len(rows) > 64:
        raise CorruptFile(
            "not a list of modules", code="modules", path=path, found=type(rows).__name__, allowed="1 to 64 modules"
        )
    modules = []
    for number, row in enumerate(rows):
        place, kind = (row.get("path"), row.get("type")) if isinstance(row, dict) else (None, None)
        if not isinstance(place, str) or not isinstance(kind, str):
            raise CorruptFile("a module without path and type", code="modules", path=path, place=number, found=row)
        if place:
            contained(folder, place, named_in=path)
        modules.append({"path": place, "type": kind})
    return modules


def _module(folder: Path, row: Mapping[str, str], files: Files, reader: Reader) -> dict[str, Any]:
    """A module behind the first: its configuration and, where it has weights (Dense), their tensors."""
    place = folder / row["path"]
    names = _names(place) if row["path"] and place.is_dir() else []
    config = _object(place, "config.json", files, CONFIG_LIMIT) if "config.json" in names else {}
    tensors: dict[str, Tensor] = {}
    for kind in _KINDS:
        if kind.single in names and not tensors:
            tensors = kind.read(str(contained(place, kind.single, named_in=place)), files, reader).tensors
    return {**row, "config": config, "tensors": tensors}


def _assets(folder: Path, home: Path, modules: list[dict[str, str]], files: Files) -> Assets:
    """Assets by name: those beside the weights, then those of the folder around them, then those of its sub-folders."""
    places = {name: (home, name) for name in _asset_names(home)}
    for name in _asset_names(folder) if folder != home else ():
        places.setdefault(name, (folder, name))
    for below in [*(row["path"] for row in modules[1:]), _TEMPLATES]:
        inner = (home if below == _TEMPLATES else folder) / below
        if below and inner.is_dir():
            places |= {f"{below}/{name}": (inner, name) for name in _asset_names(inner)}
    return Assets(places, files)


def _asset_names(folder: Path) -> list[str]:
    return [
        name
        for name in _names(folder)
        if any(fnmatchcase(name, pattern) for pattern in ASSETS)
        and not name.endswith(".index.json")
        and not (folder / name).is_dir()
    ]


def _notes(names: list[str], shards: list[str]) -> list[str]:
    """Which files of the folder have no part in the model."""
    notes = []
    spare = [name for name in names if name.endswith(".safetensors")]
    spare += [name for name in names if any(fnmatchcase(name, pattern) for pattern in _OTHER_WEIGHTS)]
    ranks = any(torch_ranks.rank_of(name) is not None for name in shards)
    spare = [name for name in spare if name not in shards and not (ranks and torch_ranks.rank_of(name) is not None)]
    if spare:
        notes.append(f"other weights in the folder are ignored: {', '.join(spare)}")
    code = [name for name in names if name.endswith(".py")]
    if code:
        notes.append(f"custom code is neither run nor carried over: {', '.join(code)}")
    return notes
