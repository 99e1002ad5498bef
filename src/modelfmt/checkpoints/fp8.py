"""Weights of 8-bit floats, and ModelOpt's of four: a scale for the tensor, for each row, or for blocks.

fp8 (DeepSeek, Qwen): weight F8_E4M3 and weight_scale_inv, which multiplies, [ceil(out / 128), ceil(in / 128)]; or
weight_scale, one number. fbgemm_fp8: weight_scale [out, 1]. ModelOpt FP8: weight_scale, one number. ModelOpt NVFP4:
weight U8 [out, in / 2], low nibble first, weight_scale F8_E4M3 [out, in / 16], weight_scale_2 F32. DeepSeek V4: the
blocks of fp8 under NAME.scale (F8_E8M0, in base models F32), and experts of MXFP4: weight I8 [out, in / 2], low nibble
first, scale F8_E8M0 [out, in / 32]. Source: transformers 5.24 quantizers and integrations; vllm; llama.cpp
conversion/{base,deepseek}.py. Not here: the scales of activations and caches, which are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.checkpoints.coded import FLOATS, Parts, block_of, floats, scale_of, viewed
from modelfmt.checkpoints.written import Form, Written, numbers
from modelfmt.errors import UnsupportedError
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Expression, Nearest, Packed, Param, Reader, Reshape
from modelfmt.quant.transcode import Policy, verdict

__all__ = ["FORMS", "blocks", "configuration", "read", "write"]

FORMS = {"fp8": Form("e4m3", "E4M3", 128, "F32", rows=128)}
"""Type -> how weights that are not quantized become one."""

_EIGHT = ("F8_E4M3", "F8_E5M2")
_BYTES = ("U8", "I8")
_SCALES = ("weight_scale_inv", "weight_scale", "qscale_weight", "scale")
_BLOCKS = {"weight_scale_inv": (128, 128), "scale": (128, 128)}
"""Name of a scale -> the block where the configuration has none."""
_ACTIVATIONS = ("input_scale", "activation_scale", "qscale_act", "k_scale", "v_scale", "input_scale_ub")


def read(parts: Parts) -> None:
    """Puts one tensor in the place of the parts of each module. Raises UnsupportedError, CorruptFile."""
    for name in _SCALES:
        for module in parts.modules(name):
            if name == "scale" and not _coded(parts, module):
                continue  # norms and others may have a tensor of that name
            weight = parts.need(module, "weight", *_EIGHT, *_BYTES)
            make = _MAKERS.get((name, weight.stored.name), _eight)
            expr = make(parts, module, weight, name)
            parts.put(f"{module}.weight", expr, *(f"{module}.{part}" for part in ("weight", name, "weight_scale_2")))
    for part in _ACTIVATIONS:
        for module in parts.modules(part):
            parts.drop(module, part)
    left = [name for name, expr in parts.tensors.items() if expr.stored.name in _EIGHT]
    if left:
        raise parts.refused(left[0], "8-bit floats without a scale", " or ".join(_SCALES))


def _coded(parts: Parts, module: str) -> bool:
    weight = parts.get(module, "weight")
    return weight is not None and weight.stored.name in (*_EIGHT, *_BYTES)


def _eight(parts: Parts, module: str, weight: Expression, name: str) -> Coded:
    scale = _powers(parts, module, name, *FLOATS)
    block = block_of(parts.settings.get("weight_block_size")) or _BLOCKS.get(name)
    param, group = scale_of(parts, f"{module}.{name}", scale, weight.shape, block)
    label = "FP8" + (f", blocks of {block[0]} x {block[1]}" if group != weight.shape[-1] and block else "")
    return floats(parts, module, "weight", weight, (param,), group, label)


def _four(parts: Parts, module: str, weight: Expression, name: str) -> Coded:
    if not weight.shape:
        raise parts.refused(f"{module}.weight", [], "a matrix")
    *outer, n_bytes = weight.shape
    shape = (*outer, 2 * n_bytes)
    param, group = scale_of(parts, f"{module}.{name}", parts.need(module, name, "F8_E4M3"), shape, None)
    whole = parts.need(module, "weight_scale_2", "F32")
    parts.shape(f"{module}.weight_scale_2", whole, (), (1,))
    params = (param, Param(Reshape(whole, (1, 1)), rows=0))
    return Coded(weight, Packing(4), shape, "E2M1", group, params, label=f"NVFP4, group {group}")


def _mx(parts: Parts, module: str, weight: Expression, name: str) -> Coded:
    scale = _powers(parts, module, name)
    if len(scale.shape) < 2:
        raise parts.refused(f"{module}.{name}", list(scale.shape), "a scale for each 32 columns of a row")
    *outer, n_groups = scale.shape
    parts.shape(f"{module}.weight", weight, (*outer, 16 * n_groups))
    codes = viewed(weight, "U8", weight.shape, parts, f"{module}.weight")
    return Coded(codes, Packing(4), (*outer, 32 * n_groups), "E2M1", 32, (Param(scale, group=32),), label="MXFP4")


def _powers(parts: Parts, module: str, name: str, *others: str) -> Expression:
    """A scale of powers of two, whose bytes may be called U8, or of another type."""
    scale = parts.need(module, name, *others, "F8_E8M0", "U8")
    if scale.stored.name == "U8":
        return viewed(scale, "F8_E8M0", scale.shape, parts, f"{module}.{name}")
    return scale


_MAKERS = {
    ("weight_scale_inv", "U8"): _four,
    ("weight_scale", "U8"): _four,
    ("qscale_weight", "U8"): _four,
    ("scale", "U8"): _mx,
    ("scale", "I8"): _mx,
}
"""(name of the scale, type of the weight) -> what reads them; `_eight` all others."""


def write(expr: Expression, reader: Reader, wanted: Policy) -> Written | None:  # noqa: ARG001  as every scheme's
    """8-bit floats under one scale for each block, as DeepSeek and Qwen have them: other names for the same bytes."""
    found = blocks(expr)
    if found is None:
        return None
    codes, scale, block = found
    parts = {"weight": codes, "weight_scale_inv": scale}
    return Written(parts, verdict(0.0), {"weight_block_size": list(block)}, 8.0)


def blocks(expr: Expression) -> tuple[Expression, Expression, tuple[int, int]] | None:
    """Codes, scales and (rows, columns) of 8-bit floats in blocks that reach over rows; None of anything else."""
    if isinstance(expr, Nearest) and expr.table == "E4M3" and expr.rows > 1:
        shape = tuple(-(-n // block) for n, block in zip(expr.shape, (expr.rows, expr.size), strict=True))
        scale = numbers(expr, "scale", expr.scale, expr.size, rows=expr.rows, shape=shape)
        return Packed(expr, Packing(8), "F8_E4M3"), scale, (expr.rows, expr.size)
    if not isinstance(expr, Coded) or expr.table != "E4M3" or len(expr.scales) != 1 or expr.scales[0].rows <= 1:
        return None
    (given,) = expr.scales
    return expr.codes, given.input, (given.rows, given.group)


def configuration(modules: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, Any]:
    """The section of config.json. Raises UnsupportedError (mixed-groups) where blocks differ."""
    sizes = sorted({tuple(settings["weight_block_size"]) for settings in modules.values()})
    if len(sizes) > 1:
        raise UnsupportedError("one size of blocks is for all tensors", code="mixed-groups", found=sizes)
    own = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": list(sizes[0]),
        "modules_to_not_convert": [name for name in others if not name.endswith("embed_tokens")],
    }
    return {"quantization_config": own}
