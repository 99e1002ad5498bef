"""GPTQ: codes of 2, 3, 4 or 8 bits along the inputs, zeros along the outputs, in the two versions of the format.

qweight I32 [in * bits / 32, out], qzeros I32 [groups, out * bits / 32], scales F16 [groups, out], g_idx I32 [in]: the
group of each input. weight = (code - zero) * scale[g_idx]. Version 1 stores the zeros less one, by a subtraction from
whole words: a zero of 0 borrows from its neighbour, so that the addition must be one of words, too. Source: gptqmodel
7.7.0 nn_modules/qlinear, utils/model.py (convert_gptq_v1_to_v2_format_module). Not here: the planar layouts of 5, 6 and
7 bits, the tilings of marlin, bitblas and exllama.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.checkpoints.act_order import in_storage_order
from modelfmt.checkpoints.coded import FLOATS, Parts, group_index
from modelfmt.checkpoints.written import LEAST, Form, Written, numbers
from modelfmt.ir import grid
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Expression, Packed, Param, Reader, Reshape
from modelfmt.quant.transcode import Policy, rounding, verdict, zeros

__all__ = ["FORMS", "ONES", "configuration", "read", "write"]

FORMS = {
    "int4": Form("symmetric", "U4", 128),
    "int8": Form("symmetric", "U8", 128),
}
"""Type -> how weights that are not quantized become one; the first where none is named."""

ONES = {2: 0x55555555, 3: 1, 4: 0x11111111, 8: 0x01010101}
"""Width -> one in each code of a word; of 3 bits, which straddle words, one for each code by itself."""

FORMATS = {"gptq": True, "gptq_v2": False}
"""checkpoint_format -> whether zeros are stored less one."""


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    named = str(parts.settings.get("checkpoint_format") or parts.settings.get("format") or "gptq").lower()
    if named not in FORMATS:
        raise parts.refused("checkpoint_format", named, ", ".join(FORMATS))
    if str(parts.settings.get("pack_dtype") or "int32").removeprefix("torch.") != "int32":
        raise parts.refused("pack_dtype", parts.settings["pack_dtype"], "int32")
    for module in parts.modules("qweight"):
        expr = _module(parts, module, FORMATS[named])
        names = (f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
        parts.put(f"{module}.weight", expr, *names)


def _module(parts: Parts, module: str, less_one: bool) -> Coded:
    weight, zeros = parts.need(module, "qweight", "I32"), parts.need(module, "qzeros", "I32")
    scales = parts.need(module, "scales", *FLOATS)
    if not len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2:
        raise parts.refused(f"{module}.qweight", list(weight.shape), "a matrix")
    n_groups, n_rows = scales.shape
    bits = zeros.shape[1] * 32 // max(n_rows, 1)
    if bits not in ONES:
        raise parts.refused("bits", bits, ", ".join(map(str, ONES)))
    n_cols = weight.shape[0] * 32 // bits
    parts.shape(f"{module}.qweight", weight, (n_cols * bits // 32, n_rows))
    parts.shape(f"{module}.qzeros", zeros, (n_groups, n_rows * bits // 32))
    size = parts.integer("group_size", -1)
    group = _group(parts, module, n_cols, n_groups, size)
    index = parts.get(module, "g_idx", "I32")
    if index is not None:
        parts.shape(f"{module}.g_idx", index, (n_cols,))
        index = group_index(parts, f"{module}.g_idx", index, n_groups, group)
    zero = Param(zeros, turned=True, group=group, bits=bits, along="rows", add=ONES[bits] if less_one else 0)
    scale = Param(scales, turned=True, group=group)
    label = f"GPTQ int{bits}, group {group}" + (", act-order" if index is not None else "")
    packing = Packing(bits, "words")
    own = group if index is None else 1
    return Coded(weight, packing, (n_rows, n_cols), f"U{bits}", own, (scale,), zero, index=index, label=label)


def _group(parts: Parts, module: str, n_cols: int, n_groups: int, size: int) -> int:
    """Columns of a group: as configured, or what the number of groups says (`dynamic` gives some modules others)."""
    group = n_cols if size in (-1, 0) else size
    if n_cols % group or n_cols // group != n_groups:
        group = n_cols // n_groups if n_groups and n_cols % n_groups == 0 else 0
    if group <= 0:
        raise parts.refused("group_size", size, f"{n_groups} equal groups of {n_cols} columns of {module}")
    return group


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:
    """A grid of whole zeros as version 2, [out, in]; None where there is no such form within a policy."""
    expr, order = in_storage_order(expr)
    own = grid.parse(expr.stored.name)
    if len(expr.shape) != 2 or own.group < LEAST or not own.integer or grid.INTEGERS[own.table] not in ONES:
        return None
    bits, (n_rows, n_cols), group = grid.INTEGERS[own.table], expr.shape, own.group
    low, high = zeros(expr, reader)
    if not 0 <= low <= high <= own.limit or n_cols * bits % 32 or n_rows * bits % 32:
        return None
    form = verdict(rounding(expr, reader, scale="F16"))
    plain = b"".join(number.to_bytes(4, "little") * group for number in range(n_cols // group))
    shape = (n_cols // group, n_rows * bits // 32)
    parts: dict[str, Expression] = {
        "qweight": Packed(expr, Packing(bits, "words"), "I32"),
        "qzeros": numbers(expr, "zero", "I32", group, turned=True, bits=bits, shape=shape),
        "scales": numbers(expr, "scale", "F16", group, turned=True),
        "g_idx": Constant(plain, (n_cols,), "I32") if order is None else Reshape(order, (n_cols,)),
    }
    settings = {"bits": bits, "group_size": -1 if group == n_cols else group, "sym": low == high == 1 << (bits - 1)}
    settings["desc_act"] = order is not None
    return Written(parts, form, settings, bits + (16 + bits) / group) if wanted.takes(form) else None


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json: what most modules have; `dynamic` for those that differ and those left out."""
    counts = Counter((row["bits"], row["group_size"]) for row in modules.values())
    bits, group = counts.most_common(1)[0][0]
    dynamic: dict[str, Any] = {
        rf"+:^{re.escape(name)}$": {"bits": row["bits"], "group_size": row["group_size"]}
        for name, row in modules.items()
        if (row["bits"], row["group_size"]) != (bits, group)
    }
    dynamic |= {rf"-:^{re.escape(name)}$": {} for name in others if not name.endswith("embed_tokens")}
    own = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": any(row["desc_act"] for row in modules.values()),
        "sym": all(row["sym"] for row in modules.values()),
        "lm_head": False,
        "checkpoint_format": "gptq_v2",
        "pack_dtype": "int32",
        **({"dynamic": dynamic} if dynamic else {}),
    }
    return {"quantization_config": own}
