"""Quantized checkpoints: which convention a folder follows, by its configuration, and its weights as expressions.

The section is `quantization_config` of config.json (or of its text_config), `quantization` where MLX wrote it, or
another file: quantize_config.json, quant_config.json and hf_quant_config.json, which are older, or quanto_qmap.json.
Schemes whose values lie on no grid, and those that are not read yet, are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from modelfmt.checkpoints.coded import Parts
from modelfmt.errors import UnsupportedError
from modelfmt.ir.ops import Expression, Reader
from modelfmt.report import Note
from modelfmt.storage import strict_json

__all__ = ["CONVENTIONS", "REFUSED", "read", "settings_of"]

CONVENTIONS = {
    "awq": "awq",
    "gptq": "gptq",
    "compressed-tensors": "compressed_tensors",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "modelopt": "fp8",
    "mxfp4": "mxfp4",
    "bitsandbytes": "bitsandbytes",
    "mlx": "mlx",
    "hqq": "hqq",
    "torchao": "torchao",
    "quark": "quark",
    "bitnet": "bitnet",
    "quanto": "quanto",
}
"""quant_method -> the file beside this one that reads it."""

REFUSED = {
    **dict.fromkeys(("exl2", "exl3", "aqlm", "quip", "vptq", "spqr", "higgs"), "its values lie on no grid"),
    **dict.fromkeys(("fp_quant", "fouroversix"), "its weights are transformed"),
    "eetq": "its codes lie as a kernel for GPUs wants them",
    **dict.fromkeys(("sinq", "auto-round"), "not read yet"),
    **dict.fromkeys(("mxfp8", "nvfp4", "metal", "gemma", "gguf"), "not read yet"),
}  # fmt: skip
"""quant_method -> why it is not read."""

FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
    "quanto_qmap.json": "quanto",
}
"""Files beside config.json that say what is quantized -> the convention of each, where they say no more."""


def settings_of(config: Mapping[str, Any], assets: Mapping[str, bytes]) -> tuple[str, dict[str, Any]] | None:
    """(method, settings) of a folder that is quantized; None of one that is not."""
    inner = config.get("text_config")
    for own in (config, inner if isinstance(inner, dict) else {}):
        found = own.get("quantization_config")
        if isinstance(found, dict) and found.get("quant_method"):
            return str(found["quant_method"]).lower().replace("_", "-").replace("fbgemm-fp8", "fbgemm_fp8"), found
        found = own.get("quantization")
        if isinstance(found, dict) and "group_size" in found:
            return "mlx", found
    for name, method in FILES.items():
        if name in assets:
            found = strict_json.parse(assets[name], path=name, non_finite=True)
            if isinstance(found, dict):
                inner = found.get("quantization")
                return method, inner if isinstance(inner, dict) else found
    return None


def read(
    path: str,
    tensors: Mapping[str, Expression],
    config: Mapping[str, Any],
    assets: Mapping[str, bytes],
    reader: Reader,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Expression], list[Note]] | None:
    """(method, the tensors with each quantized one as one expression, notes); None where nothing is quantized.

    Raises UnsupportedError (quant-method: a scheme that is not read, with its name; quant-config), CorruptFile.
    """
    found = settings_of(config, assets)
    if found is None:
        return None
    method, settings = found
    if method not in CONVENTIONS:
        why = REFUSED.get(method.replace("-", "_"), REFUSED.get(method, "not known"))
        raise UnsupportedError(
            f"this scheme of quantization is not read: {why}",
            code="quant-method",
            path=path,
            found=method,
            allowed=", ".join(CONVENTIONS),
            hint="convert from the original weights",
        )
    parts = Parts(path, dict(tensors), settings, reader, config, metadata or {})
    convention: Callable[[Parts], None] = import_module(f"modelfmt.checkpoints.{CONVENTIONS[method]}").read
    convention(parts)
    return method, parts.whole(), parts.notes
