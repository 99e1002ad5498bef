"""From a fitted estimator's record to a program: `from_record`.

Inputs: `X` [batch, n_features] where all columns are numbers, or all are texts; else one input [batch, 1] for each
column, by its name. Outputs: `label` and `probabilities` or `scores` of classifiers, `variable` of regressors and of
transformers, one row for each row of the input. No part of scikit-learn is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from modelfmt.errors import UnsupportedError
from modelfmt.graphs import passes
from modelfmt.graphs.classical import table
from modelfmt.graphs.classical.columns import BATCH, Inputs
from modelfmt.graphs.classical.fields import Fields
from modelfmt.graphs.classical.nodes import ML, Build
from modelfmt.graphs.classical.results import Classified, Labelled, Regressed, Result, Several
from modelfmt.ir.graph import Dim, Program, Value
from modelfmt.ir.record import Record

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.report import Note

__all__ = ["MadeProgram", "from_record"]

IR_VERSION = 10
OPSETS = {"": 21, ML: 5, "com.microsoft": 1}


class MadeProgram(msgspec.Struct):
    """A program, and what is to be said of it."""

    program: Program
    notes: list[Note] = msgspec.field(default_factory=list)


def from_record(record: Record, path: str, *, type: str = "DOUBLE") -> MadeProgram:
    """The program of a fitted estimator or pipeline.

    type: of numbers at its inputs and outputs, DOUBLE or FLOAT; between them all is float64. Raises UnsupportedError
    (an estimator or a parameter without nodes), CorruptFile (values that contradict each other), LimitExceeded.
    """
    build = Build(path, table.predict, table.transform)
    width, names = _features(record, build)
    inputs = Inputs(width, names)
    columns = inputs.columns(build)
    with np.errstate(all="ignore"):  # numbers of a file may overflow
        if table.covered(record) == "predict":
            _outputs(build, build.predict(record, "", columns), type)
        else:
            _transformed(build, build.transform(record, "", columns), type)
    inputs.declare(build, type)
    properties = (("modelfmt.feature_names", msgspec.json.encode(list(names)).decode()),) if names else ()
    program = Program(build.graph, ir_version=IR_VERSION, producer="modelfmt", doc=record.type, properties=properties)
    passes.remove_unused(program)
    used = {node.domain for node in build.graph.nodes}
    program.opsets = {domain: version for domain, version in OPSETS.items() if not domain or domain in used}
    return MadeProgram(program, list(dict.fromkeys(build.notes)))


def _features(record: Record, build: Build) -> tuple[int, tuple[str, ...]]:
    """How many columns an estimator was fitted on, and their names: of itself, or of the first inside that says so."""
    waiting, seen = [record], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        e = Fields(one, "", build.path, build.read)
        boosted = table.boosted_features(one, e)
        if boosted is not None:
            return boosted
        names = one.get("feature_names_in_")
        if names is not None:
            labels = [str(name) for name in e.labels(names, "feature_names_in_")]
            if len(set(labels)) != len(labels):
                raise e.corrupt("a column is named twice", "feature_names_in_", names)
            return len(labels), tuple(labels)
        width = table.width(e)
        if width is not None:
            return width, ()
        waiting += table.inside(one)
    raise UnsupportedError(
        "the file does not say how many columns the estimator was fitted on",
        code="estimator-columns",
        path=build.path,
        found=record.type,
        allowed="n_features_in_, coef_ ..",
    )


def _outputs(build: Build, result: Result, type: str) -> None:
    """Give results their names."""
    if isinstance(result, Several):
        for number, part in enumerate(result.parts):
            _classified(build, part, type, f"_{number}")
    elif isinstance(result, Classified):
        _classified(build, result, type, "")
    elif isinstance(result, Regressed):
        _numbers(build, "variable", result.value, result.width, type)
    elif isinstance(result, Labelled):
        _output(build, "label", result.label, "INT64", (BATCH,))
        if result.scores is not None:
            name = "probabilities" if result.probabilities else "scores"
            _numbers(build, name, result.scores, result.width, type)


def _classified(build: Build, result: Classified, type: str, suffix: str) -> None:
    kinds = {"O": "STRING", "b": "BOOL", "f": "DOUBLE"}
    label = build.op("Gather", build.operand(result.classes), result.index, axis=0)
    _output(build, f"label{suffix}", label, kinds.get(result.classes.dtype.kind, "INT64"), (BATCH,))
    n = len(result.classes)
    if result.probabilities is not None:
        _numbers(build, f"probabilities{suffix}", result.probabilities, n, type)
    elif result.scores is not None:
        _numbers(build, f"scores{suffix}", result.scores, result.n_scores, type)


def _transformed(build: Build, made: Columns, type: str) -> None:
    if made.kind == "STRING":
        _output(build, "variable", made.texts(), "STRING", (BATCH, made.width))
    else:
        _numbers(build, "variable", made.numbers(), made.width, type)


def _numbers(build: Build, name: str, value: str, width: int, type: str) -> None:
    _output(build, name, build.cast(value, type) if type != "DOUBLE" else value, type, (BATCH, width))


def _output(build: Build, name: str, value: str, kind: str, shape: tuple[Dim, ...]) -> None:
    build.rename(value, name)
    build.graph.outputs.append(Value(name, kind, shape))
