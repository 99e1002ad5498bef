"""To ONNX from a file of objects: the graph of the scikit-learn, XGBoost or LightGBM estimator that it holds.

Numbers of classical models are read while the conversion is planned: thresholds become a tree operator's attributes,
coefficients are transposed and checked against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.formats import onnx
from modelfmt.graphs.classical.build import from_record
from modelfmt.ir.graph import ELEMENT_TYPES, walk_tensors
from modelfmt.ir.model import Model
from modelfmt.ir.record import Record
from modelfmt.quant.recipes import AUTO, Recipe
from modelfmt.routes.draft import Draft, DraftTensor, Options

__all__ = ["drafts"]

_TYPES = {AUTO: "DOUBLE", "F32": "FLOAT"}


def drafts(model: Model, wanted: Sequence[Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe: "auto" (inputs and outputs are float64, as scikit-learn computes) or F32.

    Raises UnsupportedError, CorruptFile, LimitExceeded (`modelfmt.graphs.classical.build.from_record`), UsageError.
    """
    content = model.content
    if not isinstance(content, Record):
        raise UnsupportedError(
            "neither a graph nor an estimator in this source",
            code="source-kind",
            path=model.path,
            found=model.format if content is None else type(content).__name__,
            allowed="an ONNX model, a Hugging Face folder, a GGUF file, a file with one fitted estimator",
        )
    return [_draft(model, content, recipe, options) for recipe in wanted]


def _draft(model: Model, content: Record, recipe: Recipe, options: Options) -> Draft:
    label = recipe.label
    if label not in _TYPES or recipe.own:
        raise UsageError(
            "the graph of an estimator is not made in this type",
            code="quant-container",
            found=label,
            allowed=", ".join(_TYPES),
        )
    if options.external != "auto":
        raise UsageError("the graph of an estimator is one file", code="option-unused", found="external")
    made = from_record(content, model.path, type=_TYPES[label])
    chosen = {
        key: DraftTensor(tensor.data, ELEMENT_TYPES[tensor.type].encoding, reason="of the estimator")
        for key, tensor in walk_tensors(made.program)
        if tensor.data is not None
    }
    return Draft(label, chosen, lambda stem: onnx.layout(made.program, stem=stem), [], made.notes)
