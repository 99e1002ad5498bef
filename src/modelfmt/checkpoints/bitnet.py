"""BitNet b1.58: weights of -1, 0 and 1, four to a byte, under one scale.

weight U8 [out / 4, in]: of the quarters of the outputs, the first in the lowest bits, each plus one. weight_scale: one
number, by which bitlinear divides and autobitlinear multiplies. Source: transformers 5.24 integrations/bitnet.py. A
model that is quantized while it runs (quantization_mode online) has dense weights, which stay as they are.
"""

from __future__ import annotations

from math import prod

from modelfmt.checkpoints.coded import FLOATS, Parts
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Concat, Fields, Param, Reshape

__all__ = ["read"]

_CLASSES = ("bitlinear", "autobitlinear")


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    named = parts.settings.get("linear_class") or "bitlinear"
    if named not in _CLASSES:
        raise parts.refused("linear_class", named, ", ".join(_CLASSES))
    for module in parts.modules("weight_scale"):
        weight, scale = parts.need(module, "weight", "U8"), parts.need(module, "weight_scale", *FLOATS)
        if len(weight.shape) != 2 or prod(scale.shape) != 1:
            raise parts.refused(f"{module}.weight", list(weight.shape), "a matrix and one scale")
        codes = Concat(tuple(Fields(weight, 2, (shift,)) for shift in (0, 2, 4, 6)))
        whole = Param(Reshape(scale, (1, 1)), rows=0, divide=named == "bitlinear")
        n_cols = codes.shape[-1]
        expr = Coded(codes, Packing(8), codes.shape, "U2", n_cols, (whole,), 1.0, label="BitNet")
        parts.put(f"{module}.weight", expr, f"{module}.weight", f"{module}.weight_scale")
