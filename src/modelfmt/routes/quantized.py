"""Any model to a folder of a scheme of quantization: MLX, compressed-tensors, GPTQ, AWQ, FP8, bitsandbytes, MXFP4.

The source is a checkpoint, or a GGUF file, which first becomes a checkpoint by the inverse of its architecture's table.
Codes of a quantized source move as they are: each weight takes the smallest form of the scheme that the policy allows;
what is not quantized in the source, and embeddings where the scheme has none, stays as it is. The matrices of a source
that is not quantized at all are, each value to the nearest code. config.json gets the section that loaders read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import msgspec

from modelfmt import grids
from modelfmt.checkpoints import act_order, from_gguf
from modelfmt.checkpoints.quantized import FILES
from modelfmt.checkpoints.written import LEAST, Form, Written, largest, on_grid
from modelfmt.errors import BadValue, LossyError, UnsupportedError, UsageError
from modelfmt.formats import safetensors
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Dequantize, Expression, Nearest, Reader, Transpose
from modelfmt.quant import transcode
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, stored_tensors
from modelfmt.storage import strict_json
from modelfmt.tiles import Evaluator
from modelfmt.tokenizers.rebuild import pretty

__all__ = ["SCHEMES", "drafts"]

SCHEMES = {
    "mlx": "mlx",
    "compressed-tensors": "compressed_tensors",
    "gptq": "gptq",
    "awq": "awq",
    "fp8": "fp8",
    "bitsandbytes": "bitsandbytes",
    "mxfp4": "mxfp4",
}
"""Destination -> the convention that writes it."""

SHARD_SIZE = 5 * 10**9
_EMBEDDINGS = {"mlx"}
_ACT_ORDER = {"gptq", "compressed-tensors"}
_LEFT_OUT = ("config.json", *FILES)
_SIZES = (128, 64, 32, 16)
_KEPT = re.compile(r"embed|lm_head|norm|router|gate\.weight$|shared_expert_gate|visual|vision|audio|\.wpe\.|\.wte\.")
"""Matrices that loaders of the schemes want as they are, or whose few weights decide much."""
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Matrices that vLLM makes one of, which has one scale of the whole."""
_OUTER = re.compile(r"embed_tokens|lm_head|\.wte\.")
"""Those of them that MLX quantizes nevertheless."""
_COLUMNS_FIRST = frozenset({"gpt2", "openai-gpt"})
"""Model types whose matrices are [in, out]: no scheme has a form for them."""


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft: the scheme is options.target. Raises UnsupportedError, UsageError, LossyError (transcode)."""
    scheme = import_module(f"modelfmt.checkpoints.{SCHEMES[options.target]}")
    tensors, files, config, losses, notes = _source(model)
    only = getattr(scheme, "MODEL_TYPES", None)
    if only is not None and config.get("model_type") not in only:
        raise _nothing(scheme, model, config, options)
    if options.target not in _ACT_ORDER:
        tensors, more = act_order.folded(tensors)
        notes += more
    reader = Evaluator(model.files)
    chooser = _Chooser(scheme, tensors, config, wanted, options, reader)
    chosen: dict[str, DraftTensor] = {}
    losses, notes = list(losses), list(notes)
    modules: dict[str, Mapping[str, Any]] = {}
    others: list[str] = []
    for name, given in tensors.items():
        with BadValue.of(name):
            written, loss = chooser.choose(name, given)
        losses += [loss] if loss else []
        if written is None:
            chosen[name] = _kept(given)
            losses += [] if given.stored.dense else [Loss("narrowed", name, f"values of {transcode.label(given)}")]
            if len(given.shape) > 1:
                others.append(name.removesuffix(".weight"))
            continue
        module = name.removesuffix(".weight")
        modules[module] = written.settings
        notes += [Note("scheme", written.note)] if written.note else []
        chosen |= _drafted(module, written, quantized=name in chooser.quantized)
    if not modules:
        raise _nothing(scheme, model, config, options)
    if chooser.quantized:
        notes.append(Note("weights", chooser.said))
    config = getattr(scheme, "adapted", dict)(config) | scheme.configuration(modules, others)
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


class _Chooser:
    """What becomes of each tensor. quantized: names of those that are not moved but quantized."""

    def __init__(
        self,
        scheme: Any,
        tensors: Mapping[str, Expression],
        config: Mapping[str, Any],
        wanted: Sequence[Recipe],
        options: Options,
        reader: Reader,
    ) -> None:
        self.scheme, self.options, self.reader = scheme, options, reader
        self.tensors, self.magnitudes = tensors, dict[str, float]()
        self.policy = transcode.policy(options.transcode)
        self.form, self.label = _form(scheme, wanted, options)
        self.quantized: set[str] = set()
        self.turned = str(config.get("model_type")) in _COLUMNS_FIRST
        self.plain = not any(transcode.is_grid(e) or not e.stored.dense or _turned(e) for e in tensors.values())
        named = wanted[0].label != AUTO
        self.anew = named and not self.plain
        if self.anew and not options.allow_requantize:
            raise LossyError(
                "the source is quantized already",
                code="requantize",
                found=self.label,
                hint="leave the type out, and its codes move as they are; or say --allow-requantize",
            )
        shapes = [expr.shape for name, expr in tensors.items() if self._is_matrix(name, expr)]
        sizes = [self.form.size, *(() if self.form.fixed else (n for n in _SIZES if n < self.form.size))]
        usable = [shape for shape in shapes if self.form.divides(shape, sizes[-1])]
        self.size = next((n for n in sizes if all(self.form.divides(shape, n) for shape in usable)), sizes[-1])

    @property
    def said(self) -> str:
        groups = f", groups of {self.size}" if self.size else ""
        count = len(self.quantized)
        return f"{count} matrices are quantized to {self.label}{groups}: to the nearest codes, without calibration"

    def choose(self, name: str, given: Expression) -> tuple[Written | None, Loss | None]:
        """The tensor as parts of the scheme, or None where it stays as it is; and what that loses."""
        target = self.options.target
        expr = None if self.anew else _grid(given, turned=target == "mxfp4")
        if expr is not None and (target in _EMBEDDINGS or "embed" not in name):
            tries = (self.scheme.write(one, self.reader, self.policy) for one in (expr, *grids.widened(expr)))
            written: Written | None = next((one for one in tries if one is not None), None)
            if written is not None and written.verdict.kind != "exact":
                detail = f"{transcode.label(expr)} to {target}, within {written.verdict.bound:.1e}"
                return written, Loss("approximated", name, detail)
            if written is not None:
                return written, None
            if self.policy.name != "any" and (target != "mxfp4" or self._is_matrix(name, given)):
                raise _no_form(name, expr, self.options, self.policy)
        again = not (given.stored.dense and not _turned(given))
        if not (self.plain or (again and self.options.allow_requantize)) or not self._is_matrix(name, given):
            return None, None
        if not self.form.divides(given.shape, self.size):
            return None, None
        made = on_grid(given, self.form, self.size)
        if isinstance(made, Nearest) and made.how == "nvfp4":
            made = msgspec.structs.replace(made, whole=self.scheme.whole_for(self._largest(name)))
        written = self.scheme.write(made, self.reader, self.policy)
        if written is None:
            return None, None
        self.quantized.add(name)
        label = transcode.label(given)
        return written, Loss("requantized", name, f"{label} to {self.label}") if again else None

    def _largest(self, name: str) -> float:
        """The largest magnitude of a weight, and of those that runtimes make one matrix with it."""
        module, _, part = name.removesuffix(".weight").rpartition(".")
        others = next((parts for parts in _FUSED if part in parts), (part,))
        names = [other for part in others if (other := f"{module}.{part}.weight") in self.tensors]
        for other in names:
            if other not in self.magnitudes:
                self.magnitudes[other] = largest(self.tensors[other], self.reader)
        return max(self.magnitudes[other] for other in names)

    def _is_matrix(self, name: str, expr: Expression) -> bool:
        """Whether a tensor is a weight that the scheme's loaders take as quantized."""
        from modelfmt.checkpoints.mxfp4 import EXPERTS

        kind = expr.stored
        if (kind.dense and kind.element.kind != "float") or self.turned:
            return False
        if self.form.turned:
            return len(expr.shape) == 3 and name.endswith(EXPERTS)
        kept = _KEPT.search(name) and not (self.options.target in _EMBEDDINGS and _OUTER.search(name))
        return len(expr.shape) == 2 and name.endswith(".weight") and not kept and min(expr.shape) >= LEAST


def _form(scheme: Any, wanted: Sequence[Recipe], options: Options) -> tuple[Form, str]:
    forms: Mapping[str, Form] = scheme.FORMS
    labels = [recipe.label for recipe in wanted]
    name = next(iter(forms)) if labels == [AUTO] else labels[0].lower()
    if len(labels) != 1 or name not in forms:
        raise UsageError(
            "no such type of this scheme",
            code="quant-container",
            found=", ".join(labels),
            allowed=f"{options.target}: " + ", ".join((AUTO, *forms)),
        )
    return forms[name], name


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


def _turned(expr: Expression) -> bool:
    """True for quantized experts seen as the dense tensor [.., in, out] that architectures know."""
    return isinstance(expr, Transpose) and isinstance(expr.input, Dequantize)


def _grid(expr: Expression, *, turned: bool) -> Expression | None:
    """The grid behind a tensor, as [.., out, in]; None where it has none. turned: also of experts, [in, out]."""
    if isinstance(expr, Transpose) and isinstance(expr.input, Dequantize):
        return _grid(expr.input.input, turned=turned) if turned else None
    if transcode.is_grid(expr):
        return expr
    return grids.regridded(expr) if grids.source(expr.stored.name) and len(expr.shape) > 1 else None


def _kept(expr: Expression) -> DraftTensor:
    if expr.stored.dense:
        return DraftTensor(expr, expr.stored.name, reason="kept")
    return DraftTensor(expr, "BF16", reason="the scheme has no form for it")


def _drafted(module: str, written: Written, *, quantized: bool) -> dict[str, DraftTensor]:
    """The parts by name; one that begins with an underscore goes on with the module's name."""
    verdict = written.verdict
    how: dict[str, Any] = {"reason": f"transcoded: {verdict}", "moved": verdict.kind, "bound": verdict.bound}
    if quantized:
        how = {"reason": "quantized"}
    return {
        f"{module}{'' if part.startswith('_') else '.'}{part}": DraftTensor(expr, expr.stored.name, **how)
        for part, expr in written.parts.items()
    }


def _nothing(scheme: Any, model: Model, config: Mapping[str, Any], options: Options) -> UnsupportedError:
    return UnsupportedError(
        "nothing in this model is a matrix that the scheme has a form for",
        code="nothing-quantized",
        path=model.path,
        found=f"{options.target} for {config.get('model_type')}",
        allowed=getattr(scheme, "TAKES", None),
        hint="another scheme may have one (modelfmt transcode --matrix)",
    )


def _no_form(name: str, expr: Expression, options: Options, policy: transcode.Policy) -> LossyError:
    return LossyError(
        "the scheme has no form for this tensor that is as exact as asked",
        code="transcode",
        place=name,
        found=f"{transcode.label(expr)} to {options.target}",
        allowed=f"{policy.name}, {policy.bound:g}",
        hint="another scheme may have one (modelfmt transcode --matrix); --transcode any leaves such tensors dense",
    )
