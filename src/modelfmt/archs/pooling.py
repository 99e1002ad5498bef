"""The modules of sentence-transformers: modules.json and the config.json of its modules <-> `pooling_type` and the
sizes of two Dense modules.

Checked against sentence-transformers 5 (models/{Pooling,Dense}.py) and llama.cpp's enum llama_pooling_type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from modelfmt.archs.values import bad_value, boolean, integer, record, refused, text
from modelfmt.errors import CorruptFile
from modelfmt.report import Loss
from modelfmt.storage import strict_json

__all__ = ["DENSE", "Pooled", "decode", "encode"]

_MODULES = "modules.json"
DENSE = ("2_Dense", "3_Dense")
"""The folders of the two Dense modules that a graph may have, as sentence-transformers calls them."""

_DENSE_KEYS = ("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out")
_TYPES = {"mean": 1, "cls": 2, "lasttoken": 3}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


class Pooled(NamedTuple):
    """What modules.json says. kind: the number of the pooling, None where the folder has none. dense: how wide the
    values are between two Dense modules, 0 where there are none. losses: modules that have no place in the file."""

    kind: int | None = None
    dense: int = 0
    losses: tuple[Loss, ...] = ()

    def metadata(self, n_embd: int) -> dict[str, tuple[str, Any]]:
        """The keys behind the architecture's name."""
        sizes = zip(_DENSE_KEYS, (n_embd, self.dense, self.dense, n_embd), strict=True) if self.dense else ()
        kind = {} if self.kind is None else {"pooling_type": ("UINT32", self.kind)}
        return kind | {key: ("UINT32", size) for key, size in sizes}


def encode(assets: Mapping[str, bytes], *, dense: int | None = None) -> Pooled:
    """The modules of a folder. dense: the width of the model, where its graph has two Dense modules behind the pooling.

    >>> encode({})
    Pooled(kind=None, dense=0, losses=())
    """
    if _MODULES not in assets:
        return Pooled()
    pooling, between, losses = None, [], []
    modules = _json(assets, _MODULES)
    if not isinstance(modules, list):
        raise bad_value("", type(modules).__name__, "a list of modules", path=_MODULES)
    for index, entry in enumerate(modules):
        place = f"[{index}]"
        module = record(entry, place, path=_MODULES)
        kind = text(module.get("type"), f"{place}.type", path=_MODULES).rpartition(".")[2]
        folder = text(module.get("path", ""), f"{place}.path", path=_MODULES)
        if kind == "Pooling":
            pooling = _type(assets, folder)
        elif kind not in ("Transformer", "Normalize"):
            losses.append(Loss("dropped", f"{_MODULES} {place}", f"a {kind} module has no place in this file"))
            between.append(folder if kind == "Dense" else "")
    if dense is not None and tuple(between) == DENSE and (width := _between(assets, dense)):
        return Pooled(pooling, width)
    return Pooled(pooling, 0, tuple(losses))


def _between(assets: Mapping[str, bytes], n_embd: int) -> int:
    """The width between two Dense modules that are matrices alone, and end at the model's own; else 0."""
    sizes = []
    for path in (f"{folder}/config.json" for folder in DENSE):
        settings = record(_json(assets, path), "", path=path)
        plain = text(settings.get("activation_function", ""), "activation_function", path=path).endswith(".Identity")
        if not plain or boolean(settings.get("bias", True), "bias", path=path):
            return 0
        sizes += [integer(settings.get(f"{side}_features"), f"{side}_features", path=path) for side in ("in", "out")]
    first, width, again, last = sizes
    return width if (first, again, last) == (n_embd, width, n_embd) else 0


def _type(assets: Mapping[str, bytes], folder: str) -> int:
    path = f"{folder}/config.json" if folder else "config.json"
    settings = record(_json(assets, path), "", path=path)
    modes = [mode for flag, mode in _FLAGS.items() if boolean(settings.get(flag, False), flag, path=path)]
    if not modes and settings.get("pooling_mode") is not None:
        modes = [text(settings["pooling_mode"], "pooling_mode", path=path)]
    if len(modes) != 1 or modes[0] not in _TYPES:
        raise refused(
            "pooling_mode", "+".join(modes) or "none", "no such pooling in GGUF", allowed=list(_TYPES), path=path
        )
    return _TYPES[modes[0]]


def _json(assets: Mapping[str, bytes], path: str) -> Any:
    if path not in assets:
        raise CorruptFile(f"{_MODULES} names a file that is not there", code="asset-missing", path=path)
    return strict_json.parse(assets[path], path=path)


def decode(pooling: int, n_embd: int, dense: int = 0) -> dict[str, Any] | None:
    """The files of a sentence-transformers folder, as JSON values by name: the inverse of `encode`; None where the
    number is none of its kinds. dense: the width between two Dense modules.

    >>> decode(1, 384)["modules.json"][1]["path"]
    '1_Pooling'
    """
    mode = next((name for name, number in _TYPES.items() if number == pooling), None)
    if mode is None:
        return None
    rows = [("", "Transformer"), ("1_Pooling", "Pooling"), *((folder, "Dense") for folder in DENSE if dense)]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(rows)
    ]
    settings = {"word_embedding_dimension": n_embd} | {flag: name == mode for flag, name in _FLAGS.items()}
    files: dict[str, Any] = {_MODULES: modules, "1_Pooling/config.json": settings}
    for folder, sizes in zip(DENSE if dense else (), ((n_embd, dense), (dense, n_embd)), strict=False):
        files[f"{folder}/config.json"] = {
            "in_features": sizes[0],
            "out_features": sizes[1],
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    return files
