"""AWQ: 4-bit codes with zero points, eight to a word, in an order of their own.

gemm: qweight I32 [in, out / 8] with words across outputs, qzeros I32 [groups, out / 8], scales F16 [groups, out].
gemv: qweight I32 [out, in / 8] in order, qzeros I32 [out, w], scales F16 [out, 8 w], whose columns behind the groups
are padding. weight = (code - zero) * scale. Source: autoawq 0.2.9 modules/linear/gemm.py, gemv.py, utils/
packing_utils.py, gemv_fast.py: qweight I16 [out / 4, in], scales and qzeros F16 [8 w, out], the latter -zero * scale
already rounded, which is added. Not here: the tilings of marlin and exllama.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, viewed
from modelfmt.checkpoints.written import LEAST, Form, Written, numbers
from modelfmt.errors import UnsupportedError
from modelfmt.ir import grid
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Fields, Packed, Param, Reader, Reshape, Swap
from modelfmt.quant.transcode import Policy, rounding, verdict, zeros

__all__ = ["FORMS", "configuration", "read", "write"]

FORMS = {"int4": Form("asymmetric", "U4", 128)}
"""Type -> how weights that are not quantized become one; the first where none is named."""

VERSIONS = ("gemm", "gemv", "gemv_fast")
_PER_WORD = 8
_FAST = tuple(8 * (i % 8 // 2) + 2 * (i // 8) + i % 2 for i in range(32))
_FAST = tuple(_FAST[i // 8 * 8 + (0, 2, 4, 6, 1, 3, 5, 7)[i % 8]] for i in range(32))
"""The columns of 32 that gemv_fast has one after another."""


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    settings = {"bits": parts.settings.get("w_bit"), "group_size": parts.settings.get("q_group_size")}
    parts.settings = {**{key: value for key, value in settings.items() if value is not None}, **parts.settings}
    parts.integer("bits", 4, allowed=(4,))
    version = str(parts.settings.get("version") or "gemm").lower()
    if version not in VERSIONS:
        raise parts.refused("version", version, ", ".join(VERSIONS))
    size = parts.integer("group_size", 128)
    for module in parts.modules("qweight"):
        weight = parts.need(module, "qweight", "I16" if version == "gemv_fast" else "I32")
        make = {"gemm": _gemm, "gemv": _gemv, "gemv_fast": _gemv_fast}[version]
        expr = make(parts, module, weight, size)
        parts.put(f"{module}.weight", expr, *(f"{module}.{part}" for part in ("qweight", "qzeros", "scales")))


def _gemm(parts: Parts, module: str, weight: Expression, size: int) -> Coded:
    n_cols, n_words = _matrix(parts, module, weight)
    n_rows, group = n_words * _PER_WORD, _group(parts, size, n_cols)
    n_groups = n_cols // group
    scales = parts.need(module, "scales", *FLOATS)
    parts.shape(f"{module}.scales", scales, (n_groups, n_rows))
    stored = parts.need if parts.settings.get("zero_point", True) else parts.get
    zeros = stored(module, "qzeros", "I32")
    zero: float | Param = 8.0  # what the quantizer takes where it stores none
    if zeros is not None:
        parts.shape(f"{module}.qzeros", zeros, (n_groups, n_words))
        zero = Param(zeros, turned=True, group=group, bits=4, along="rows", order="awq")
    packing = Packing(4, "columns", "awq")
    scale = Param(scales, turned=True, group=group)
    return Coded(weight, packing, (n_rows, n_cols), "U4", group, (scale,), zero, label=f"AWQ int4, group {group}")


def _gemv(parts: Parts, module: str, weight: Expression, size: int) -> Coded:
    n_rows, n_words = _matrix(parts, module, weight)
    n_cols = n_words * _PER_WORD
    group = _group(parts, size, n_cols)
    scales, zeros = parts.need(module, "scales", *FLOATS), parts.need(module, "qzeros", "I32")
    width = zeros.shape[-1] if zeros.shape else 0
    parts.shape(f"{module}.qzeros", zeros, (n_rows, max(width, -(-n_cols // group // _PER_WORD))))
    parts.shape(f"{module}.scales", scales, (n_rows, width * _PER_WORD), (n_rows, n_cols // group))
    zero = Param(zeros, group=group, bits=4, along="groups")
    scale = Param(scales, group=group)
    return Coded(weight, Packing(4), (n_rows, n_cols), "U4", group, (scale,), zero, label=f"AWQ int4, group {group}")


def _gemv_fast(parts: Parts, module: str, weight: Expression, size: int) -> Coded:
    """Four rows by turns, 64 columns of each in 16 words of 16 bits; in every 32 columns an order of its own."""
    quarter, n_cols = _matrix(parts, module, weight)
    n_rows, group = 4 * quarter, _group(parts, size, n_cols)
    if n_cols % 64:
        raise parts.refused(f"{module}.qweight", list(weight.shape), "columns by 64")
    lines = viewed(weight, "U8", (quarter, n_cols // 64, 4, 32), parts, f"{module}.qweight")
    codes = Fields(Reshape(Swap(lines, 1), (n_rows, n_cols // 2)), 4, (0, 4), _FAST)
    both = [parts.need(module, part, "F16") for part in ("scales", "qzeros")]
    n_lines = both[0].shape[0] if both[0].shape else 0
    for part, expr in zip(("scales", "qzeros"), both, strict=True):
        parts.shape(f"{module}.{part}", expr, (max(n_lines, n_cols // group), n_rows))
    scale, offset = (Param(expr, turned=True, group=group) for expr in both)
    label, shape = f"AWQ int4, group {group}", (n_rows, n_cols)
    return Coded(codes, Packing(8), shape, "U4", group, (scale,), offset=offset, label=label)


def _matrix(parts: Parts, module: str, weight: Expression) -> tuple[int, int]:
    if len(weight.shape) != 2:
        raise parts.refused(f"{module}.qweight", list(weight.shape), "a matrix")
    return weight.shape[0], weight.shape[1]


def _group(parts: Parts, size: int, n_cols: int) -> int:
    group = n_cols if size == -1 else size
    if group <= 0 or n_cols % group:
        raise parts.refused("group_size", size, f"-1, or a divisor of {n_cols}")
    return group


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:
    """A 4-bit grid of whole zeros in the layout of gemm, [out, in]; None where there is none within a policy."""
    own = grid.parse(expr.stored.name)
    if len(expr.shape) != 2 or own.group < LEAST or own.table != "U4" or expr.shape[0] % _PER_WORD:
        return None
    (n_rows, n_cols), group = expr.shape, own.group
    low, high = zeros(expr, reader)
    form = verdict(rounding(expr, reader, scale="F16"))
    if not 0 <= low <= high <= own.limit or not wanted.takes(form):
        return None
    shape = (n_cols // group, n_rows // _PER_WORD)
    parts: dict[str, Expression] = {
        "qweight": Packed(expr, Packing(4, "columns", "awq"), "I32"),
        "qzeros": numbers(expr, "zero", "I32", group, turned=True, bits=4, order="awq", shape=shape),
        "scales": numbers(expr, "scale", "F16", group, turned=True),
    }
    return Written(parts, form, {"group_size": group, "whole": group == n_cols}, 4 + 20 / group)


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json. Raises UnsupportedError (mixed-groups) where groups differ: AWQ knows one size,
    or whole rows (-1); a row that is one group of that size is both."""
    rows = modules.values()
    sizes = sorted({settings["group_size"] for settings in rows}) if not all(row["whole"] for row in rows) else [-1]
    if len(sizes) > 1:
        raise UnsupportedError(
            "AWQ has one size of groups for all tensors", code="mixed-groups", found=sizes, hint="write another scheme"
        )
    own = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": sizes[0],
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": [name for name in others if not name.endswith("embed_tokens")] or None,
    }
    return {"quantization_config": own}
