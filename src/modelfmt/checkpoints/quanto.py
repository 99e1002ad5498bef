"""Quanto: integers and floats of eight bits under a scale for each row, as optimum-quanto's save_pretrained has them.

MODULE.weight._data I8 or F8 [out, in], MODULE.weight._scale [out, 1]; quanto_qmap.json beside them names the type of
each module. Source: optimum-quanto 0.2.7 models/transformers_models.py, tensor/weights. Not here: qint4 and qint2,
whose groups lie one below the other: the files do not say how many of them are a row.
"""

from __future__ import annotations

from modelfmt.checkpoints.coded import FLOATS, Parts, floats, scale_of
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded

__all__ = ["read"]

_TYPES = {"qint8": "I8", "qfloat8": "F8_E4M3", "qfloat8_e4m3fn": "F8_E4M3", "qfloat8_e5m2": "F8_E5M2"}
_ACTIVATIONS = ("input_scale", "output_scale")


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for module, row in parts.settings.items():
        kind = row.get("weights") if isinstance(row, dict) else None
        if kind == "none":
            continue
        if not isinstance(kind, str) or kind not in _TYPES:
            raise parts.refused(f"{module}.weights", kind, ", ".join(_TYPES))
        weight = parts.need(module, "weight._data", _TYPES[kind])
        place = f"{module}.weight._scale"
        param, group = scale_of(parts, place, parts.need(module, "weight._scale", *FLOATS), weight.shape, None)
        if kind == "qint8":
            label, packing = "Quanto int8", Packing(8, flip=128)
            expr = Coded(weight, packing, weight.shape, "U8", group, (param,), 128.0, label=label)
        else:
            expr = floats(parts, module, "weight._data", weight, (param,), group, "Quanto FP8")
        parts.put(f"{module}.weight", expr, f"{module}.weight._data", place)
    for part in _ACTIVATIONS:
        for module in parts.modules(part):
            parts.drop(module, part)
