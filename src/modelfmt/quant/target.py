"""Meets a target of bits per weight: measures what each type would do to each tensor, and chooses within the budget.

The one place where planning reads weights: of each tensor a sample of rows, evenly spaced, of about SAMPLE_ELEMENTS
elements whatever its size. The sample is quantized to every candidate and the squared error taken relative to the
tensor's energy, both weighed by importance where there is an importance matrix. modelfmt.quant.mixture says which
tensors are open, modelfmt.quant.budget chooses. What is minimised is explained in docs/recipes.md.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from modelfmt.errors import BadValue, UsageError
from modelfmt.ir.op import gather
from modelfmt.ir.ops import Expression, Reader, Transpose, geometry
from modelfmt.quant.budget import Option, spend
from modelfmt.quant.encode import encode_rows
from modelfmt.quant.ggml_types import GGML_TYPES
from modelfmt.quant.mixture import Choice
from modelfmt.quant.recipes import Recipe, file_type_of
from modelfmt.tiles import decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.quant.imatrix import Importance

__all__ = ["SAMPLE_ELEMENTS", "Measurer", "meet", "numbered", "sample_rows"]

SAMPLE_ELEMENTS = 1 << 18
"""Elements of each tensor that are measured, about: 64 rows of 4096."""
_TRANSPOSED_RUN = 16
_LAYER = re.compile(r"(^|\.)blk\.\d+\.")


class _Sample(msgspec.Struct, frozen=True):
    """Rows of a tensor: encoded, their numbers, the matrix (expert) each is of, and the weights of the matrices."""

    name: str
    encoding: str
    n_cols: int
    rows: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    matrices: NDArray[np.int64]
    weights: NDArray[np.float32]
    weighted: bool


class Measurer(msgspec.Struct):
    """Errors of types on samples of tensors, measured once each.

    importance: weights for the names in `covered`. rounding: how values become blocks, "ggml" or "best".
    """

    reader: Reader
    importance: Importance | None = None
    covered: frozenset[str] = frozenset()
    rounding: str = "ggml"
    _found: dict[tuple[str, str, str | None], float] = msgspec.field(default_factory=dict)

    def errors(self, name: str, expr: Expression, choice: Choice) -> dict[str, float]:
        """Candidate -> squared error relative to the energy of the tensor. Raises BadValue with row and column."""
        wanted = [kind for kind in choice.candidates if (name, kind, choice.via) not in self._found]
        if wanted:
            measured = self._measure(name, expr, wanted, choice.via)
            self._found |= {(name, kind, choice.via): error for kind, error in measured.items()}
        return {kind: self._found[name, kind, choice.via] for kind in choice.candidates}

    def _measure(self, name: str, expr: Expression, types: list[str], via: str | None) -> dict[str, float]:
        import numpy as np

        sample = self._sample(name, expr)
        values = decode(sample.rows, sample.encoding, sample.n_cols).astype(np.float64)
        weighing = sample.weights[sample.matrices].astype(np.float64)
        energy = _total(values * values * weighing)
        found = {}
        for kind in types:
            coded = self._encoded(sample, kind, via)
            difference = values - decode(coded, kind, sample.n_cols)
            error = _total(difference * difference * weighing)
            found[kind] = error / energy if energy > 0 else 0.0
        return found

    def _sample(self, name: str, expr: Expression) -> _Sample:
        import numpy as np

        n_rows, n_cols = geometry(expr.shape, expr.stored)
        numbers = sample_rows(n_rows, n_cols, run=_TRANSPOSED_RUN if _transposed(expr) else 1)
        weighted = self.importance is not None and name in self.covered
        weights = np.ones((1, n_cols), np.float32)
        if self.importance is not None and weighted:
            weights = self.importance.weights(name, expr.shape)
        matrices = np.zeros(len(numbers), np.int64) if len(weights) == 1 else numbers // expr.shape[-2]
        rows = gather(expr, numbers, self.reader)
        return _Sample(name, expr.stored.name, n_cols, rows, numbers, matrices, weights, weighted)

    def _encoded(self, sample: _Sample, kind: str, via: str | None) -> NDArray[np.uint8]:
        """The sample in a type, each row with the weights of its matrix."""
        import numpy as np

        options: dict[str, Any] = {"via": via, "rounding": self.rounding, "tensor": sample.name}
        cuts = [0, *(np.flatnonzero(np.diff(sample.matrices)) + 1), len(sample.rows)]
        pieces = []
        for first, last in pairwise(cuts):
            weights = sample.weights[sample.matrices[first]] if sample.weighted else None
            rows = sample.rows[first:last]
            try:
                pieces.append(encode_rows(rows, sample.encoding, kind, sample.n_cols, importance=weights, **options))
            except BadValue as error:
                row, column = int(sample.numbers[first + error.context["row"]]), error.context["column"]
                error.place = f"row {row}, column {column}"
                error.context["row"] = row
                raise
        return np.concatenate(pieces)


def meet(
    chosen: Mapping[str, Choice], exprs: Mapping[str, Expression], target: float, measurer: Measurer
) -> tuple[dict[str, Choice], float]:
    """The choices with every candidate decided, and the bits per weight that all tensors together then have.

    At most the target, and as near to it as the tensors allow. Raises UsageError (target-unreachable) with the range
    that can be reached, BadValue (NaN or infinity in the sample).
    """
    open_names = [name for name, choice in chosen.items() if choice.candidates]
    n_weights = {name: prod(exprs[name].shape) for name in chosen}
    fixed = sum(_size(choice.type, exprs[name]) for name, choice in chosen.items() if not choice.candidates)
    sizes = [[_size(kind, exprs[name]) for kind in chosen[name].candidates] for name in open_names]
    total = sum(n_weights.values())
    _check_range(target, [8 * (fixed + sum(map(end, sizes))) / max(total, 1) for end in (min, max)])
    shares = _shares(exprs)
    options, errors = [], {}
    for name, candidate_sizes in zip(open_names, sizes, strict=True):
        errors[name] = measurer.errors(name, exprs[name], chosen[name])
        options.append(
            [
                Option(kind, size, error * shares[name])
                for (kind, error), size in zip(errors[name].items(), candidate_sizes, strict=True)
            ]
        )
    spent = spend(options, math.floor(target * total / 8) - fixed)
    decided = dict(chosen)
    for name, option in zip(open_names, spent, strict=True):
        decided[name] = _decided(chosen[name], option.name, errors[name][option.name])
    return decided, 8 * (fixed + sum(option.size for option in spent)) / total


def numbered(recipe: Recipe, chosen: Mapping[str, Choice], exprs: Mapping[str, Expression]) -> Recipe:
    """The recipe with a general.file_type: its own, else that of the quantized type that most weights have."""
    counts: Counter[str] = Counter()
    for name, choice in chosen.items():
        if choice.type in GGML_TYPES and GGML_TYPES[choice.type].quantized:
            counts[choice.type] += prod(exprs[name].shape)
    if recipe.number is not None or not counts:
        return recipe
    return replace(recipe, number=file_type_of(max(counts, key=lambda kind: (counts[kind], kind))))


def sample_rows(n_rows: int, n_cols: int, run: int = 1) -> NDArray[np.int64]:
    """The numbers of the rows that are measured: evenly spaced runs of neighbours, all rows where there are few.

    >>> sample_rows(1000, 1 << 16).tolist()
    [125, 375, 625, 875]
    """
    import numpy as np

    wanted = max(1, SAMPLE_ELEMENTS // max(n_cols, 1) // run)
    n_runs = max(1, n_rows // run)
    if wanted >= n_runs:
        wanted, n_runs, run = n_rows, n_rows, 1
    middles = (2 * np.arange(wanted, dtype=np.int64) + 1) * n_runs // (2 * wanted)
    return (middles[:, None] * run + np.arange(run)).reshape(-1)


def _decided(choice: Choice, type: str, error: float) -> Choice:
    via = None if choice.via == type else choice.via
    reason = choice.reason.split("; ")[0]
    return replace(choice, type=type, via=via, reason=f"{reason}; relative error {error:.3g}", candidates=())


def _shares(exprs: Mapping[str, Expression]) -> dict[str, float]:
    """How much the relative error of each tensor counts: the layers all together as much as one matrix outside them."""
    inside = {name for name, expr in exprs.items() if len(expr.shape) > 1 and _LAYER.search(name)}
    return {name: 1 / len(inside) if name in inside else 1.0 for name in exprs}


def _check_range(target: float, ends: list[float]) -> None:
    if not ends[0] <= target <= ends[1]:
        raise UsageError(
            "the bits per weight cannot be reached with these types",
            code="target-unreachable",
            found=f"{target:g}",
            allowed=f"from {math.ceil(ends[0] * 1e4) / 1e4:.4f} to {math.floor(ends[1] * 1e4) / 1e4:.4f}",
            hint="tensors that are never quantized, and those that rules name, count as well; other types in the "
            "recipe move the range",
        )


def _size(type: str, expr: Expression) -> int:
    """Stored bytes of a tensor in a type."""
    from modelfmt.ir.encoding import ENCODINGS

    n_rows, n_cols = geometry(expr.shape, ENCODINGS[type])
    return n_rows * ENCODINGS[type].row_bytes(n_cols)


def _transposed(expr: Expression) -> bool:
    """True where a row of the expression is a column of what is stored, and so dear to read alone."""
    return isinstance(expr, Transpose) or any(map(_transposed, expr.inputs))


def _total(values: NDArray[np.float64]) -> float:
    """The sum, in an order that does not depend on the CPU: row after row, then exactly over the columns."""
    import numpy as np

    return math.fsum(np.add.reduce(values, axis=0).tolist())
