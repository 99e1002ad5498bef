"""The forms that torch.save has had: where the pickle lies, and where its persistent ids point.

Source: torch/serialization.py of torch 2.13 (_save, _load, _legacy_save, _legacy_load), torch's
caffe2/serialize/inline_container.cc. Zip since 1.6; five pickles and raw storages from 0.1.10 to 1.5; a tar before
that; a plain pickle that holds any of them. The raw data of the older forms is little-endian whatever the machine was:
their writer swaps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, UnsupportedError
from modelfmt.formats.pytorch_tensors import Storage, Tensors, dtype_of
from modelfmt.formats.pytorch_types import DTYPES
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import Expression
from modelfmt.pickles.joblib_arrays import OLD_ZLIB, follow_array, old_zlib
from modelfmt.pickles.machine import Pickle, load
from modelfmt.pickles.tree import content, integers, text
from modelfmt.pickles.values import Call, Persistent
from modelfmt.storage.inflated import codec_of, inflated
from modelfmt.storage.region import Region
from modelfmt.storage.zip_directory import Archive

__all__ = ["MAGIC_NUMBER", "Checkpoint", "open_checkpoint"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MAX_NESTED = 3
_SMALL = 1 << 16
_TAR_BLOCK = 512
_TAR_MEMBERS = ("sys_info", "pickle", "storages", "tensors")

_Resolve = Callable[[Persistent], Storage | Expression | None]


class Checkpoint(msgspec.Struct):
    """An opened file. form: zip, torchscript, legacy, tar or pickle. pickles: all that were followed, nested too.
    region: what the pickle was read from. compression: what it was inflated from, if anything."""

    form: str
    root: Any
    tensors: Tensors
    pickles: list[Pickle] = msgspec.field(default_factory=list)
    region: Region | None = None
    compression: str | None = None


def open_checkpoint(region: Region, *, depth: int = 0) -> Checkpoint:
    """Find the form of a file and follow its pickle. Raises CorruptFile, LimitExceeded, UnsupportedError."""
    if depth > MAX_NESTED:
        raise LimitExceeded(
            "pickles are nested too deeply",
            code="pickle-nested",
            path=region.path,
            allowed=f"at most {MAX_NESTED} levels",
        )
    head = region.read(0, min(region.size, _TAR_BLOCK))
    if head[:4] == b"PK\3\4":
        return _zip(region, depth)
    if (codec := codec_of(head)) or head.startswith(OLD_ZLIB):
        return _compressed(region, codec, depth)
    if len(head) == _TAR_BLOCK and _tar_checksum(head):
        return _tar(region, depth)
    first = load(region, on_build=follow_array)
    if first.root == MAGIC_NUMBER and type(first.root) is int:
        return _legacy(region, first, depth)
    _check_end(region, first)
    return _made("pickle", region, first, lambda _: None, depth)


def _compressed(region: Region, codec: str | None, depth: int) -> Checkpoint:
    """joblib's compressed files: any pickle in one of seven kinds of streams."""
    name = f"{region.path}#inflated{depth}"
    inner = inflated(region, codec, name) if codec else old_zlib(region, name)
    made = open_checkpoint(inner, depth=depth + 1)
    made.compression = made.compression or codec or "zlib"
    return made


def _check_end(region: Region, pickle: Pickle) -> None:
    """Nothing may follow a pickle that is all there is: an unpickler would not look at it, the next one could."""
    if pickle.end != region.size:
        raise CorruptFile(
            "bytes follow the pickle",
            code="data-size",
            path=region.path,
            place=f"byte {region.start + pickle.end}",
            found=f"{region.size - pickle.end} bytes",
            allowed="one pickle, and nothing behind it",
        )


def _made(form: str, region: Region, pickle: Pickle, resolve: _Resolve, depth: int) -> Checkpoint:
    made = Checkpoint(form, pickle.root, Tensors(region, resolve, lambda call: nested(call)), [pickle], region)

    def nested(call: Call) -> Storage | None:
        place = content(call.args[0], region) if isinstance(call.args, tuple) and len(call.args) == 1 else None
        if place is None:
            return None
        inner = open_checkpoint(place, depth=depth + 1)
        made.pickles.extend(inner.pickles)
        found = inner.tensors.resolve(inner.root) if isinstance(inner.root, Persistent) else None
        return found if isinstance(found, Storage) else None

    return made


# --- zip


def _zip(region: Region, depth: int) -> Checkpoint:
    archive = Archive(region)
    roots = {name.removesuffix("/data.pkl") for name in archive.members if name.endswith("/data.pkl")}
    roots = {root for root in roots if "/" not in root}
    if len(roots) != 1:
        raise UnsupportedError(
            "a zip archive that is no PyTorch file" if not roots else "a zip archive with several PyTorch files",
            code="zip-root",
            path=region.path,
            found=", ".join(sorted(roots)) or ", ".join(list(archive.members)[:4]),
            allowed="one folder with data.pkl",
            hint="TorchScript of before 1.0 (model.json) is not read" if _old_script(archive) else None,
        )
    root = roots.pop()
    strangers = [name for name in archive.members if not name.startswith(f"{root}/")]
    if strangers:
        raise CorruptFile(
            "members beside the PyTorch file", code="zip-root", path=region.path, place=strangers[0], allowed=f"{root}/"
        )
    if archive.comment:
        raise CorruptFile(
            "bytes behind the archive's directory", code="zip-comment", path=region.path, found=archive.comment[:40]
        )
    script = f"{root}/constants.pkl" in archive.members
    storages = _ZipStorages(archive, root, _big_endian(archive, root))
    place = archive.place(_checked(archive, f"{root}/data.pkl"))
    pickle = load(place)
    _check_end(place, pickle)
    return _made("torchscript" if script else "zip", region, pickle, storages.resolve, depth)


def _old_script(archive: Archive) -> bool:
    return any(name.endswith("model.json") for name in archive.members)


def _checked(archive: Archive, name: str) -> str:
    """The name, once the member's checksum is known to fit (deflated members are checked when they are inflated)."""
    if archive.members[name].stored:
        archive.check(name)
    return name


def _big_endian(archive: Archive, root: str) -> bool:
    name = f"{root}/byteorder"
    if name not in archive.members:
        return False
    found = archive.data(name, at_most=_SMALL)
    if found not in (b"little", b"big"):
        raise CorruptFile(
            "an unknown byte order", code="byteorder", path=archive.region.path, place=name, found=found[:20]
        )
    return found == b"big"


class _ZipStorages:
    """Storages of a zip by their key: members data/KEY (TorchScript's constants: constants/KEY)."""

    def __init__(self, archive: Archive, root: str, big: bool) -> None:
        self.archive = archive
        self.root = root
        self.big = big
        self.made: dict[str, Region] = {}

    def resolve(self, persistent: Persistent) -> Storage | None:
        row = _storage_row(persistent.id, 5)
        if row is None:
            return None
        dtype, key, location, n_elements, _ = row
        path = self.archive.region.path
        item = ENCODINGS[DTYPES[dtype].encoding].block_bytes
        name = f"{self.root}/data/{key}"
        if location == "meta" and name not in self.archive.members:
            return Storage(None, dtype, n_elements)
        if name not in self.archive.members:
            raise CorruptFile("a storage is missing", code="storage-missing", path=path, place=name)
        if name not in self.made:
            self.made[name] = self.archive.place(name)
        region = self.made[name]
        if region.size != n_elements * item:
            raise CorruptFile(
                "a storage of another size than the pickle says",
                code="storage-size",
                path=path,
                place=name,
                found=f"{region.size} bytes",
                allowed=f"{n_elements * item} bytes",
            )
        return Storage(region, dtype, n_elements, self.big)


def _storage_row(id: Any, least: int) -> tuple[str, str, str | None, int, Any] | None:
    """dtype, key, location, number of elements and view of a persistent id ("storage", class, key, location, n, ..)."""
    if not isinstance(id, tuple) or len(id) < least or text(id[0]) != "storage":
        return None
    dtype, key, n_elements = dtype_of(id[1]), text(id[2]), id[4]
    if isinstance(id[2], int):
        key = str(id[2])
    if dtype is None or key is None or type(n_elements) is not int or not 0 <= n_elements < 1 << 60:
        return None
    return dtype, key, text(id[3]), n_elements, id[5] if len(id) > 5 else None


# --- five pickles and raw storages


def _legacy(region: Region, first: Pickle, depth: int) -> Checkpoint:
    version = load(region, first.end)
    if version.root != PROTOCOL_VERSION:
        raise UnsupportedError(
            "an unknown version of PyTorch's file",
            code="version",
            path=region.path,
            found=version.root if isinstance(version.root, int) else None,
            allowed=PROTOCOL_VERSION,
        )
    system = load(region, version.end)
    pickle = load(region, system.end)
    keys = load(region, pickle.end)
    rows: dict[str, tuple[str, int]] = {}
    for persistent in pickle.persistents:
        row = _storage_row(persistent.id, 5)
        if row is not None:
            dtype, key, _, n_elements, _ = row
            if rows.setdefault(key, (dtype, n_elements)) != (dtype, n_elements):
                raise CorruptFile(
                    "a storage of two types", code="storage-type", path=region.path, place=key, found=dtype
                )
    storages = _raw_storages(region, keys, rows)

    def resolve(persistent: Persistent) -> Storage | None:
        row = _storage_row(persistent.id, 5)
        if row is None:
            return None
        storage = storages.get(row[1])
        if storage is None:
            raise CorruptFile("a storage is missing", code="storage-missing", path=region.path, place=row[1])
        return _viewed(storage, row[4], region)

    made = _made("legacy", region, pickle, resolve, depth)
    made.pickles = [first, version, system, pickle, keys]
    return made


def _viewed(storage: Storage, view: Any, region: Region) -> Storage:
    """The part that (key, offset, size) names; all of it for None."""
    if view is None:
        return storage
    numbers = integers(view[1:]) if isinstance(view, tuple) else None
    if numbers is None or len(numbers) != 2 or min(numbers) < 0 or sum(numbers) > storage.n_elements:
        raise CorruptFile(
            "a view outside its storage",
            code="storage-view",
            path=region.path,
            found=numbers,
            allowed=storage.n_elements,
        )
    return storage.part(*numbers)


def _raw_storages(region: Region, keys: Pickle, rows: dict[str, tuple[str, int]]) -> dict[str, Storage]:
    """Behind the last pickle: for each key, the number of elements (int64) and the elements."""
    if not isinstance(keys.root, list):
        raise CorruptFile("no list of storages", code="storage-keys", path=region.path, place=f"byte {keys.end}")
    storages: dict[str, Storage] = {}
    at = keys.end
    for value in keys.root:
        key = str(value) if isinstance(value, int) else text(value)
        if key is None or key not in rows or key in storages:
            raise CorruptFile("a storage that nothing uses, or twice", code="storage-keys", path=region.path, place=key)
        dtype, n_elements = rows[key]
        storages[key], at = _counted(region, at, dtype, key)
        if storages[key].n_elements != n_elements:
            raise CorruptFile(
                "a storage of another size than the pickle says",
                code="storage-size",
                path=region.path,
                place=key,
                found=storages[key].n_elements,
                allowed=n_elements,
            )
    if at != region.size:
        raise CorruptFile(
            "bytes follow the last storage", code="data-size", path=region.path, found=region.size, allowed=at
        )
    return storages


def _counted(region: Region, at: int, dtype: str, key: object) -> tuple[Storage, int]:
    """A storage that begins with its number of elements, and the offset behind it."""
    n_elements = int.from_bytes(region.read(at, 8), "little", signed=True)
    item = ENCODINGS[DTYPES[dtype].encoding].block_bytes
    if not 0 <= n_elements <= (region.size - at - 8) // item:
        raise CorruptFile(
            "a storage runs past the end of the file",
            code="storage-size",
            path=region.path,
            place=key,
            found=n_elements,
            allowed=f"at most {(region.size - at - 8) // item}",
            hint="the download may be incomplete",
        )
    return Storage(region.part(at + 8, n_elements * item), dtype, n_elements), at + 8 + n_elements * item


# --- tar


def _tar_checksum(head: bytes) -> bool:
    """True where a block is the header of a tar member."""
    try:
        told = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return told == sum(head) - sum(head[148:156]) + 8 * 32 and head[156:157] in (b"0", b"\0")


def _tar(region: Region, depth: int) -> Checkpoint:
    members = _tar_members(region)
    missing = [name for name in _TAR_MEMBERS if name not in members]
    if missing:
        raise UnsupportedError(
            "a tar archive that is no PyTorch file",
            code="tar-members",
            path=region.path,
            found=", ".join(list(members)[:4]),
            allowed=", ".join(_TAR_MEMBERS),
        )
    storages, first = _tar_storages(members["storages"])
    tensors, second = _tar_tensors(members["tensors"], storages)
    pickle = load(members["pickle"])

    def resolve(persistent: Persistent) -> Storage | Expression | None:
        number = persistent.id if isinstance(persistent.id, int) else text(persistent.id)
        return tensors.get(str(number)) or storages.get(str(number))

    made = _made("tar", region, pickle, resolve, depth)
    made.pickles = [*first, *second, pickle]
    return made


def _tar_members(region: Region) -> dict[str, Region]:
    members: dict[str, Region] = {}
    at = 0
    while at + _TAR_BLOCK <= region.size:
        head = region.read(at, _TAR_BLOCK)
        if not head.strip(b"\0"):
            break
        digits = head[124:136].strip(b" \0")
        if not _tar_checksum(head) or not digits.isdigit() or len(members) > 64:
            raise CorruptFile("a broken tar header", code="tar-header", path=region.path, place=f"byte {at}")
        size = int(digits, 8) if not digits.strip(b"01234567") else region.size
        name = head[:100].partition(b"\0")[0].decode("latin-1")
        if name in members:
            raise CorruptFile("a name is given twice", code="tar-duplicate", path=region.path, place=name)
        members[name] = region.part(at + _TAR_BLOCK, size)
        at += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    return members


def _tar_count(region: Region) -> tuple[Pickle, int]:
    pickle = load(region)
    count = pickle.root
    if type(count) is not int or not 0 <= count <= region.size:
        raise CorruptFile("no count at the start", code="tar-count", path=region.path, found=str(count)[:40])
    return pickle, count


def _tar_storages(region: Region) -> tuple[dict[str, Storage], list[Pickle]]:
    """A count; for each storage (key, location, class), then its elements; a list of views (key, root, offset, n)."""
    pickle, count = _tar_count(region)
    pickles, storages, at = [pickle], {}, pickle.end
    for _ in range(count):
        row = load(region, at)
        pickles.append(row)
        dtype = dtype_of(row.root[2]) if isinstance(row.root, tuple) and len(row.root) == 3 else None
        if dtype is None or str(row.root[0]) in storages:
            raise CorruptFile("a storage of an unknown type", code="storage-type", path=region.path, place=f"byte {at}")
        key = str(row.root[0])
        storages[key], at = _counted(region, row.end, dtype, key)
    views = load(region, at)
    pickles.append(views)
    for view in views.root if isinstance(views.root, list) else ():
        numbers = integers(view)
        if numbers is None or len(numbers) != 4 or str(numbers[1]) not in storages:
            raise CorruptFile("a view of no storage", code="storage-view", path=region.path, found=numbers)
        storages[str(numbers[0])] = _viewed(storages[str(numbers[1])], (None, *numbers[2:]), region)
    return storages, pickles


def _tar_tensors(region: Region, storages: dict[str, Storage]) -> tuple[dict[str, Expression], list[Pickle]]:
    """A count; for each tensor (key, storage, class), dimensions (int32 in 8 bytes), sizes, strides, offset (int64)."""
    pickle, count = _tar_count(region)
    pickles, tensors, at = [pickle], {}, pickle.end
    views = Tensors(region, lambda _: None, lambda _: None)
    for _ in range(count):
        row = load(region, at)
        pickles.append(row)
        numbers = integers(row.root[:2]) if isinstance(row.root, tuple) and len(row.root) == 3 else None
        storage = storages.get(str(numbers[1])) if numbers and len(numbers) == 2 else None
        n_dims = int.from_bytes(region.read(row.end, 4), "little", signed=True)
        if numbers is None or storage is None or not 0 <= n_dims <= 64:
            raise CorruptFile("a tensor without a storage", code="tensor-storage", path=region.path, place=f"byte {at}")
        raw = struct.unpack(f"<{2 * n_dims + 1}q", region.read(row.end + 8, 16 * n_dims + 8))
        where = (raw[-1], raw[:n_dims], raw[n_dims:-1])
        tensors[str(numbers[0])] = views.view(storage, region.start + row.end, where)
        at = row.end + 16 + 16 * n_dims
    return tensors, pickles
