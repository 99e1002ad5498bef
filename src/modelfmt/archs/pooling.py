"""The pooling of sentence-transformers: modules.json and the Pooling module's config.json <-> `pooling_type`.

Checked against sentence-transformers 5 (models/Pooling.py) and llama.cpp's enum llama_pooling_type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfmt.archs.values import bad_value, boolean, record, refused, text
from modelfmt.errors import CorruptFile
from modelfmt.report import Loss
from modelfmt.storage import strict_json

__all__ = ["decode", "encode"]

_MODULES = "modules.json"
_TYPES = {"mean": 1, "cls": 2, "lasttoken": 3}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def encode(assets: Mapping[str, bytes]) -> tuple[int | None, list[Loss]]:
    """The number of the pooling (1 mean, 2 cls, 3 last; None where the folder has none) and what goes lost.

    >>> encode({})
    (None, [])
    """
    if _MODULES not in assets:
        return None, []
    pooling, losses = None, []
    modules = _json(assets, _MODULES)
    if not isinstance(modules, list):
        raise bad_value("", type(modules).__name__, "a list of modules", path=_MODULES)
    for index, entry in enumerate(modules):
        place = f"[{index}]"
        module = record(entry, place, path=_MODULES)
        kind = text(module.get("type"), f"{place}.type", path=_MODULES).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _type(assets, text(module.get("path"), f"{place}.path", path=_MODULES))
        elif kind not in ("Transformer", "Normalize"):
            losses.append(Loss("dropped", f"{_MODULES} {place}", f"a {kind} module has no place in this file"))
    return pooling, losses


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


def decode(pooling: int, n_embd: int) -> dict[str, Any] | None:
    """The files of a sentence-transformers folder, as JSON values by name: the inverse of `encode`; None where the
    number is none of its kinds.

    >>> decode(1, 384)["modules.json"][1]["path"]
    '1_Pooling'
    """
    mode = next((name for name, number in _TYPES.items() if number == pooling), None)
    if mode is None:
        return None
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
    ]
    settings = {"word_embedding_dimension": n_embd} | {flag: name == mode for flag, name in _FLAGS.items()}
    return {_MODULES: modules, "1_Pooling/config.json": settings}
