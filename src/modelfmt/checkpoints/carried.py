"""What a GGUF file lacks of the checkpoint it was made from, carried in keys of its own, so that the way back is exact.

| key                         | value                                                                              |
|-----------------------------|------------------------------------------------------------------------------------|
| tokenizer.huggingface.json  | tokenizer.json (a key of the GGUF specification)                                   |
| modelfmt.file.PATH          | another small file of the folder: text, or bytes where it is not UTF-8             |
| modelfmt.safetensors.PATH   | the header of a file of weights: names, types, shapes, places; of PyTorch files    |
|                             | that of the safetensors they come back as                                          |
| modelfmt.tensor.NAME        | the first bytes of a tensor that cannot be computed back from the file             |
| modelfmt.approximated       | names of tensors that cannot, or may not, and are too large to be carried          |
| modelfmt.digest.PART        | SHA-256 of the architecture's or the tokenizer's own keys, as they were written    |

Where the file's own keys were changed since, the digest tells, and what was carried for that part is not used. Names
are checked when they are read: they come from a file that anyone may have made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from modelfmt.archs.bind import Bound
from modelfmt.archs.unbind import to_huggingface
from modelfmt.checkpoints import modules
from modelfmt.checkpoints.huggingface import ASSETS, Assets
from modelfmt.errors import CorruptFile, ModelfmtError, UnsafePath, UnsupportedError
from modelfmt.formats import safetensors
from modelfmt.formats.gguf_metadata import encode_value
from modelfmt.ir.layout import Entry as Stored
from modelfmt.ir.layout import FileLayout, Placed
from modelfmt.ir.model import Model
from modelfmt.ir.ops import ROUNDED, Constant, Expression, geometry, nodes, row_bytes
from modelfmt.report import Note
from modelfmt.storage.paths import contained, relative

__all__ = ["SHARD_SIZE", "Carried", "entries", "read"]

Entry = tuple[str, str, Any]
"""A key, its GGUF type, its value."""

TOKENIZER_JSON = "tokenizer.huggingface.json"
_APPROXIMATED = "modelfmt.approximated"
_FILE, _HEADER, _TENSOR, _DIGEST = (f"modelfmt.{part}." for part in ("file", "safetensors", "tensor", "digest"))
_FILES_LIMIT = 96 << 20  # of a header's 256 MiB
_TENSOR_LIMIT = 1 << 20
_TENSORS_LIMIT = 32 << 20  # of all that are carried
_SUFFIX = ".safetensors"
_INDEX = f"*{_SUFFIX}.index.json"
SHARD_SIZE = 5 * 10**9
_TOKENIZER_FILES = (
    "token*",
    "special*",
    "added*",
    "chat_template*",
    "additional_chat*",
    "*vocab*",
    "merges*",
    "*.model",
    "*.tiktoken",
)


class Carried(msgspec.Struct, frozen=True):
    """What was carried. files: contents by path. layouts: the files of weights. tensors: first bytes by tensor name.

    approximated: the tensors that come back with other last bits, or may.
    same_architecture, same_tokenizer: the file's own keys are those that were written beside it.
    """

    files: dict[str, bytes] = msgspec.field(default_factory=dict)
    layouts: tuple[FileLayout, ...] = ()
    tensors: dict[str, bytes] = msgspec.field(default_factory=dict)
    approximated: frozenset[str] = frozenset()
    same_architecture: bool = True
    same_tokenizer: bool = True

    @property
    def home(self) -> str:
        """The beginning of the names of what lies beside the weights: sentence-transformers may have them deeper."""
        names = [layout.name for layout in self.layouts if not modules.is_module(layout.name)]
        folder, slash, _ = names[0].rpartition("/") if names else ("", "", "")
        return folder + slash

    @property
    def placed(self) -> dict[str, Placed]:
        """The tensors of all layouts by name."""
        return {tensor.name: tensor for layout in self.layouts for tensor in layout.tensors}


def entries(model: Model, bound: Bound, written: Iterable[Entry]) -> tuple[list[Entry], list[Note]]:
    """The keys that carry what the file of a checkpoint lacks, and notes on what stays behind.

    model: a Hugging Face folder. bound: what becomes of its tensors. written: the file's other keys. Reads the small
    files, the headers of the weights, and of the weights only the few small tensors that are not in the file exactly.
    """
    if not isinstance(model.assets, Assets):
        return [], []
    root = Path(model.path) if Path(model.path).is_dir() else Path(model.path).parent
    found: list[Entry] = []
    notes: list[Note] = []
    total = 0
    shards = [Path(path) for path in model.extras["huggingface"]["shards"]]
    paths = {model.assets.path(name): None for name in model.assets}
    paths |= {path: None for folder in {shard.parent for shard in shards} for path in sorted(folder.glob(_INDEX))}
    for path in paths:
        name = path.relative_to(root).as_posix()
        contained(path.parent, path.name, named_in=root)
        size = model.files.size(str(path))
        total += size
        if total > _FILES_LIMIT:
            notes.append(Note(name, f"{size} bytes: not carried along, the limit for all files is {_FILES_LIMIT}"))
            total -= size
        else:
            found.append(_file(name, model.files.read(str(path), 0, size)))
    found += _headers(model, root, shards)
    sources = [name for tensor in bound.tensors for name in tensor.source_names]
    found += [(_HEADER + name, "STRING", text.decode()) for name, text in modules.headers(model, root, sources)]
    if any(shard.suffix != _SUFFIX for shard in shards):
        notes.append(Note("weights", "the way back gives them as safetensors"))
    found += _inexact(model, bound)
    own = list(written)
    found += [(f"{_DIGEST}{part}", "STRING", digest(own, prefix)) for part, prefix in _parts(bound.architecture.gguf)]
    return found, notes


def read(metadata: Mapping[str, Any], types: Mapping[str, str]) -> Carried:
    """What a file carries. types: the GGUF type of each key. Raises UnsafePath, CorruptFile, LimitExceeded."""
    files: dict[str, bytes] = {}
    layouts: list[FileLayout] = []
    tensors: dict[str, bytes] = {}
    for key, value in metadata.items():
        if key == TOKENIZER_JSON:
            files["tokenizer.json"] = _content(key, value)
        elif key.startswith(_FILE):
            files[_safe(key.removeprefix(_FILE), (*ASSETS, _INDEX))] = _content(key, value)
        elif key.startswith(_HEADER):
            name = _safe(key.removeprefix(_HEADER), (f"*{_SUFFIX}",))
            lay_out = modules.laid_out if modules.is_module(name) else safetensors.laid_out
            layouts.append(lay_out(name, _content(key, value)))
        elif key.startswith(_TENSOR):
            tensors[key.removeprefix(_TENSOR)] = _content(key, value)
    own = [(key, types[key], value) for key, value in metadata.items()]
    same = {
        part: metadata.get(f"{_DIGEST}{part}") in (None, digest(own, prefix))
        for part, prefix in _parts(str(metadata.get("general.architecture")))
    }
    approximated = frozenset(_names(metadata.get(_APPROXIMATED, ())))
    return Carried(files, tuple(layouts), tensors, approximated, same["architecture"], same["tokenizer"])


def of_tokenizer(name: str) -> bool:
    """Whether a carried file belongs to the tokenizer."""
    return any(fnmatchcase(part, pattern) for part in name.split("/") for pattern in _TOKENIZER_FILES)


def digest(rows: Iterable[Entry], prefixes: tuple[str, ...]) -> str:
    """SHA-256 of the keys with one of these beginnings, hexadecimal."""
    chosen = sorted(row for row in ((key, kind, value) for key, kind, value in rows if key.startswith(prefixes)))
    state = hashlib.sha256()
    for key, kind, value in chosen:
        state.update(key.encode() + b"\0" + encode_value(key, kind, value))
    return state.hexdigest()


def _parts(architecture: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    own = ("tokenizer.ggml.", "tokenizer.chat_template")
    return ("architecture", (f"{architecture}.",)), ("tokenizer", own)


def _file(name: str, data: bytes) -> Entry:
    key = TOKENIZER_JSON if name == "tokenizer.json" else _FILE + name
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return _FILE + name, "ARRAY:UINT8", data
    return key, "STRING", text


def _headers(model: Model, root: Path, shards: list[Path]) -> list[Entry]:
    """The headers of the files of weights; of other than safetensors, those that safetensors of the same tensors have.

    Nothing where safetensors has no such type.
    """
    if all(shard.suffix == _SUFFIX for shard in shards):
        texts = {shard: safetensors.header(str(shard), model.files) for shard in shards}
        return [
            (_HEADER + shard.relative_to(root).as_posix(), "STRING", text.decode()) for shard, text in texts.items()
        ]
    home = shards[0].parent.relative_to(root).as_posix() + "/" if shards[0].parent != root else ""
    rows = [Stored(name, tensor.encoding.name, tensor.shape) for name, tensor in model.tensors.items()]
    try:
        layouts, index = safetensors.layout(rows, metadata={"format": "pt"}, shard_size=SHARD_SIZE)
    except UnsupportedError:
        return []
    names = [layout.name or f"model{_SUFFIX}" for layout in layouts]
    found: list[Entry] = [] if index is None else [_file(f"{home}model{_SUFFIX}.index.json", index)]
    return found + [
        (_HEADER + home + name, "STRING", layout.header[8:].decode())
        for name, layout in zip(names, layouts, strict=True)
    ]


def _inexact(model: Model, bound: Bound) -> list[Entry]:
    """The tensors that the inverse operations do not give back, as far as they are small, and the names of the others.

    Sums are rounded, so that `x + 1 - 1` need not be x: both are computed. Rows that the file leaves out, and tensors
    without a place in it, are kept as they are.
    """
    exprs = {name: tensor.expr for name, tensor in model.tensors.items()}
    made = {tensor.name: tensor.expr for tensor in bound.tensors}
    keys = {key: value for key, _, value in bound.metadata}
    try:
        back = to_huggingface(bound.architecture, tensors=made, metadata=keys, config=model.config, names=exprs.keys())
    except ModelfmtError:
        return []
    again = {tensor.name: tensor.expr for tensor in back.tensors}
    found: list[Entry] = []
    others: list[str] = []
    left = _TENSORS_LIMIT
    for name, expr in exprs.items():
        if bound.architecture.within and name not in again:
            continue  # of the towers: the way back is to the language model alone
        kept = _missing_rows(name, expr, again.get(name), model)
        size = kept * row_bytes(expr)
        if kept and size <= min(_TENSOR_LIMIT, left):
            found.append((_TENSOR + name, "ARRAY:UINT8", model[name].rows(0, kept).tobytes()))
            left -= size
        elif kept and name in again:
            others.append(name)
    return [*found, (_APPROXIMATED, "ARRAY:STRING", others)] if others else found


def _missing_rows(name: str, expr: Expression, again: Expression | None, model: Model) -> int:
    """How many of a tensor's first rows have to be kept. One that is too large for that is not compared."""
    n_rows, n_cols = geometry(expr.shape, expr.stored)
    if again is None:
        return n_rows
    operations = [node for node in nodes(again) if isinstance(node, (*ROUNDED, Constant))]
    if not operations:
        return 0
    constants = [node for node in operations if isinstance(node, Constant) and node is not again]  # stand for rows
    if constants:
        return sum(prod(node.shape[:-1]) for node in constants)
    if n_rows * row_bytes(expr) > _TENSOR_LIMIT:
        return n_rows
    from modelfmt.quant.encode import encode_rows
    from modelfmt.tiles import Evaluator

    rows = Evaluator(model.files).rows(again, 0, n_rows)
    same = (
        encode_rows(rows, again.stored.name, expr.stored.name, n_cols).tobytes()
        == model[name].rows(0, n_rows).tobytes()
    )
    return 0 if same else n_rows


def _content(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if getattr(value, "type", None) == "UINT8":
        return bytes(value.raw)
    raise CorruptFile(
        "wrong type of metadata",
        code="metadata-type",
        path="metadata",
        place=key,
        found=type(value).__name__,
        allowed="text or bytes",
    )


def _names(value: Any) -> list[str]:
    if value != () and getattr(value, "type", None) != "STRING":
        raise CorruptFile(
            "wrong type of metadata",
            code="metadata-type",
            path="metadata",
            place=_APPROXIMATED,
            found=type(value).__name__,
            allowed="a list of text",
        )
    return list(value)


def _safe(name: str, patterns: tuple[str, ...]) -> str:
    """A relative name of a kind that is expected here. Raises UnsafePath."""
    relative(name, named_in="metadata")
    if name.count("/") > 3 or not any(fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns):
        raise UnsafePath(
            "a carried file with an unexpected name", path="metadata", found=name, allowed=", ".join(patterns)
        )
    return name
