"""Pickles: PyTorch's .pt, .pth, .bin, .ckpt in every form of torch.save, and those of everybody else (.pkl, .joblib).

Nothing in the file is executed or imported: the pickle is followed as data (modelfmt.pickles), the rebuild functions of
torch are understood by name, everything else becomes an inert record. The forms are in pytorch_forms, the meaning of a
tensor in pytorch_tensors, names in pytorch_tree, writing in pytorch_layout.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from modelfmt.errors import UnsupportedError
from modelfmt.formats.pytorch_forms import MAGIC_NUMBER, Checkpoint, open_checkpoint
from modelfmt.formats.pytorch_tensors import understood
from modelfmt.formats.pytorch_tree import find
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Reader
from modelfmt.ir.tensor import Tensor
from modelfmt.pickles.arrays import JOBLIB_WRAPPERS
from modelfmt.pickles.joblib_arrays import BESIDE, OLD_ZLIB
from modelfmt.pickles.machine import Pickle
from modelfmt.pickles.records import Builder
from modelfmt.pickles.tree import entries
from modelfmt.storage.files import Files
from modelfmt.storage.inflated import codec_of
from modelfmt.storage.region import Region

__all__ = ["read", "sniff", "strangers"]

_ZIP_NAME = re.compile(rb"[^/\0]+/(data\.pkl|version|constants\.pkl|byteorder|(code|data|extra)/.*|\..+)", re.DOTALL)
_PICKLE = re.compile(rb"\x80[\x00-\x05]|L%dL?\n|\(dp?|}q|ccollections\n|(?:\(i|c)torch[\w.]*\n" % MAGIC_NUMBER)
_TAR = re.compile(rb"(?:\./)?(sys_info|pickle|storages|tensors)\0")


def sniff(head: bytes) -> bool:
    """True where the first bytes of a file can begin a PyTorch file or another pickle."""
    if head[:4] == b"PK\3\4" and len(head) > 30:
        length = int.from_bytes(head[26:28], "little")
        return _ZIP_NAME.fullmatch(head[30 : 30 + length]) is not None
    if codec_of(head) or head.startswith(OLD_ZLIB):
        return True
    return _PICKLE.match(head) is not None or (len(head) > 262 and _TAR.match(head) is not None)


def read(path: str, files: Files, reader: Reader) -> Model:
    """The tensors of one file, by the names that a state dict has (the rules are in pytorch_tree).

    `metadata` has the plain entries of the root (epoch ..). extras["pytorch"]: form (zip, torchscript, legacy, tar,
    pickle), prefix (the entry that is the model), left_out (entries with tensors beside it, and how many), globals
    (every name that an unpickler would import, and how often it is named). extras["notes"]: what was left out, and what
    was not understood. Raises SourceMissing, CorruptFile, LimitExceeded, UnsupportedError (sparse tensors, packed
    types).
    """
    checkpoint = open_checkpoint(Region.whole(path, files))
    if checkpoint.form == "pickle" and not _torch(checkpoint.pickles):
        return _objects(path, files, reader, checkpoint)
    _refuse_zero(path, checkpoint)
    found = find(checkpoint.root, checkpoint.tensors)
    tensors = {name: Tensor(name, expr, reader) for name, expr in found.tensors.items()}
    names = Counter(str(name) for pickle in checkpoint.pickles for name in pickle.globals_)
    own = {
        "form": checkpoint.form,
        "prefix": found.prefix,
        "left_out": found.left_out,
        "globals": dict(names.most_common()),
    }
    notes = [f"beside {found.prefix}, left out: {count} tensors of {name}" for name, count in found.left_out.items()]
    notes += strangers(checkpoint.pickles)
    return Model("pytorch", path, tensors, metadata=found.values, extras={"pytorch": own, "notes": notes}, files=files)


def _refuse_zero(path: str, checkpoint: Checkpoint) -> None:
    """DeepSpeed's files of ZeRO: vectors without names, and model states whose parameters lie elsewhere."""
    root = entries(checkpoint.root) or {}
    optimizer = entries(root.get("optimizer_state_dict")) or {}
    module = entries(root.get("module")) or {} if "param_shapes" in root else {}
    shapes = {name: checkpoint.tensors.tensor(value) for name, value in module.items()}
    empty = next((name for name, expr in shapes.items() if expr is not None and expr.shape == (0,)), None)
    if "zero_stage" in optimizer or empty is not None:
        raise UnsupportedError(
            "one rank's part of a ZeRO checkpoint",
            code="zero-part",
            path=path,
            place=empty or "optimizer_state_dict",
            hint="open the folder with the files of all ranks",
        )


def _torch(pickles: Iterable[Pickle]) -> bool:
    """True where something of torch is named: then the tree is a checkpoint's."""
    return any(
        pickle.persistents or any(name.module.split(".")[0] == "torch" for name in pickle.globals_)
        for pickle in pickles
    )


def _objects(path: str, files: Files, reader: Reader, checkpoint: Checkpoint) -> Model:
    """Any other pickle: all that it holds is `content`; every array is a tensor, named as `ir.record.walk` does."""
    (pickle,) = checkpoint.pickles
    wrapped = any(str(name) in JOBLIB_WRAPPERS or str(name) in BESIDE for name in pickle.globals_)
    kind = "joblib" if wrapped or checkpoint.compression else "pickle"
    names = Counter(str(name) for name in pickle.globals_)
    own = {"compression": checkpoint.compression, "protocol": pickle.protocol, "globals": dict(names.most_common())}
    extras = {kind: own, "notes": strangers(checkpoint.pickles)}
    model = Model(kind, path, extras=extras, files=files)
    assert checkpoint.region is not None
    content = Builder(checkpoint.region, path, lambda expr: Tensor("", expr, reader)).build(checkpoint.root)
    model.adopt(content)
    if isinstance(content, dict):
        model.metadata = {key: value for key, value in content.items() if isinstance(key, str) and _plain(value)}
    return model


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def strangers(pickles: Iterable[Pickle]) -> list[str]:
    """A note on the names that mean nothing here, which torch.load would have imported or called."""
    names = {str(name): name for pickle in pickles for name in reversed(pickle.globals_)}
    strange = sorted((name for name in names.values() if not understood(name)), key=lambda name: name.offset)
    if not strange:
        return []
    shown = ", ".join(f"{name} (byte {name.offset})" for name in strange[:8])
    more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
    return [f"an unpickler would import, and could call: {shown}{more}; nothing was run here"]
