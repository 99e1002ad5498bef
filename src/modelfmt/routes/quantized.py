"""Any quantized model to a folder of another scheme: MLX, compressed-tensors, GPTQ, AWQ, FP8. Codes move as they are.

The source is a quantized checkpoint, or a GGUF file, which first becomes a checkpoint by the inverse of its
architecture's table. Each weight takes the smallest form of the scheme that the policy allows; what is not quantized in
the source, and embeddings where the scheme has none, stays as it is. config.json gets the section that loaders read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from modelfmt import grids
from modelfmt.checkpoints import from_gguf
from modelfmt.checkpoints.written import Written
from modelfmt.errors import LossyError, UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Dequantize, Expression, Transpose
from modelfmt.quant import transcode
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, stored_tensors
from modelfmt.storage import strict_json
from modelfmt.tiles import Evaluator
from modelfmt.tokenizers.rebuild import pretty

__all__ = ["SCHEMES", "drafts"]

SCHEMES = {"mlx": "mlx", "compressed-tensors": "compressed_tensors", "gptq": "gptq", "awq": "awq", "fp8": "fp8"}
"""Destination -> the convention that writes it."""

SHARD_SIZE = 5 * 10**9
_EMBEDDINGS = {"mlx"}
_LEFT_OUT = ("config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft: the scheme is options.target. Raises UnsupportedError, UsageError, LossyError (transcode)."""
    if len(wanted) != 1 or wanted[0].label != AUTO:
        raise UsageError(
            "a folder of another scheme has the types of its source",
            code="quant-container",
            found=", ".join(recipe.label for recipe in wanted),
            allowed=AUTO,
        )
    tensors, files, config, losses, notes = _source(model)
    scheme = import_module(f"modelfmt.checkpoints.{SCHEMES[options.target]}")
    policy, reader = transcode.policy(options.transcode), Evaluator(model.files)
    chosen: dict[str, DraftTensor] = {}
    losses = list(losses)
    modules: dict[str, Mapping[str, Any]] = {}
    others: list[str] = []
    for name, given in tensors.items():
        expr = _grid(given)
        written = None
        if expr is not None and (options.target in _EMBEDDINGS or "embed" not in name):
            written = scheme.write(expr, reader, policy)
            if written is None and options.transcode != "any":
                raise _no_form(name, expr, options, policy)
        if written is None or expr is None:
            chosen[name] = _kept(given)
            losses += [] if given.stored.dense else [Loss("narrowed", name, f"values of {transcode.label(given)}")]
            if len(given.shape) > 1:
                others.append(name.removesuffix(".weight"))
            continue
        module = name.removesuffix(".weight")
        modules[module] = written.settings
        chosen |= _drafted(module, written)
        if written.verdict.kind != "exact":
            detail = f"{transcode.label(expr)} to {options.target}, within {written.verdict.bound:.1e}"
            losses.append(Loss("approximated", name, detail))
    if not modules:
        raise UnsupportedError(
            "nothing in this model is quantized on a grid", code="nothing-quantized", path=model.path
        )
    config |= scheme.configuration(modules, others)
    files["config.json"] = pretty(config)
    entries = [Entry(name, row.encoding, row.expr.shape) for name, row in chosen.items()]

    def build(_: str) -> list[FileLayout]:
        size = options.split_size or SHARD_SIZE
        layouts, index = safetensors.layout(entries, metadata=_metadata(options), shard_size=size, stem="model")
        if index is None:
            (whole,) = layouts
            layouts = [FileLayout("model.safetensors", whole.size, whole.header, whole.tensors)]
        else:
            layouts = [*layouts, FileLayout("model.safetensors.index.json", len(index), index, ())]
        return [*layouts, *(FileLayout(name, len(data), data, ()) for name, data in files.items())]

    return [Draft(options.target, chosen, build, losses, notes, folder=True)]


def _metadata(options: Options) -> dict[str, str]:
    return {"format": "mlx" if options.target == "mlx" else "pt"}


def _source(
    model: Model,
) -> tuple[dict[str, Expression], dict[str, bytes], dict[str, Any], list[Loss], list[Note]]:
    """Tensors by their names in a checkpoint, the files beside them, config.json, what is lost or noted."""
    if model.format == "gguf":
        tensors, files, losses, notes = from_gguf.view(model)
        config = strict_json.parse(files.pop("config.json"), path="config.json", non_finite=True)
        return tensors, {n: data for n, data in files.items() if not n.endswith(".index.json")}, config, losses, notes
    if model.format != "huggingface":
        raise UnsupportedError(
            "only a quantized checkpoint or a GGUF file becomes a folder of another scheme",
            code="source-kind",
            path=model.path,
            found=model.format,
        )
    tensors = {name: tensor.expr for name, tensor in stored_tensors(model, as_stored=False).items()}
    config = {key: value for key, value in model.config.items() if key not in ("quantization", "quantization_config")}
    files = {name: model.assets[name] for name in model.assets if name not in _LEFT_OUT}
    return tensors, files, config, [], list(model.extras.get("quantization", {}).get("notes", ()))


def _grid(expr: Expression) -> Expression | None:
    """The grid behind a tensor, as [.., out, in]; None where it has none."""
    if isinstance(expr, Transpose) and isinstance(expr.input, Dequantize):
        return None
    if transcode.is_grid(expr):
        return expr
    return grids.regridded(expr) if grids.source(expr.stored.name) and len(expr.shape) > 1 else None


def _kept(expr: Expression) -> DraftTensor:
    if expr.stored.dense:
        return DraftTensor(expr, expr.stored.name, reason="kept")
    return DraftTensor(expr, "BF16", reason="the scheme has no form for it")


def _drafted(module: str, written: Written) -> dict[str, DraftTensor]:
    verdict = written.verdict
    return {
        f"{module}.{part}": DraftTensor(
            expr, expr.stored.name, reason=f"transcoded: {verdict}", moved=verdict.kind, bound=verdict.bound
        )
        for part, expr in written.parts.items()
    }


def _no_form(name: str, expr: Expression, options: Options, policy: transcode.Policy) -> LossyError:
    return LossyError(
        "the scheme has no form for this tensor that is as exact as asked",
        code="transcode",
        place=name,
        found=f"{transcode.label(expr)} to {options.target}",
        allowed=f"{policy.name}, {policy.bound:g}",
        hint="another scheme may have one (modelfmt transcode --matrix); --transcode any leaves such tensors dense",
    )
