"""Whether an importance matrix covers a model: what it lacks, what does not fit, what cannot be true."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from modelfmt.errors import CorruptFile
from modelfmt.quant.imatrix import UNSIZED, Entry, Importance
from modelfmt.quant.mixture import role

__all__ = ["Finding", "examine", "missing"]

_LISTED = 8


class Finding(msgspec.Struct, frozen=True):
    """Something wrong with one entry, or with one tensor that has none.

    kind: missing (a tensor that can be quantized has no entry), unmatched (an entry of no tensor), width (its size is
    not the tensor's), value (NaN, infinite or negative), unseen (experts that no token reached; all of them where an
    entry was never counted at all). error: the matrix cannot be used with the model.
    """

    kind: str
    name: str
    detail: str
    error: bool = False


def examine(importance: Importance, shapes: Mapping[str, Sequence[int]], *, strict: bool = False) -> list[Finding]:
    """What is wrong with the entries, for a model of these tensors (name -> row-major shape); reads every entry once.

    strict: values that cannot be true raise their CorruptFile instead of being listed.

    >>> import numpy as np
    >>> found = Importance.from_mapping({"a": (np.ones((2, 4), "f4"), np.array([3, 0], "f4"))})
    >>> [(row.kind, row.detail) for row in examine(found, {"a": (2, 8, 4)})]
    [('unseen', 'no token reached 1 of 2 experts (1): they weigh all columns alike')]
    """
    findings = []
    for name in sorted(importance.entries, key=str.encode):
        if name not in shapes:
            findings.append(Finding("unmatched", name, "matches no tensor"))
        elif not importance.fits(name, shapes[name]):
            n_mat, n_cols = importance.entries.shapes[name]
            sizes = f"{n_mat} x {n_cols} weights for a tensor of {'x'.join(map(str, shapes[name]))}"
            findings.append(Finding("width", name, sizes, error=name not in UNSIZED))
        try:
            entry = importance.entries[name]
        except CorruptFile as error:
            if strict:
                raise
            findings.append(Finding("value", name, f"{error.message} ({error.place}: {error.found})", error=True))
            continue
        findings += _unseen(name, entry)
    return findings


def missing(importance: Importance, quantized: Collection[str]) -> list[Finding]:
    """Tensors of these that have no entry; not the token embedding and the output matrix, which llama-imatrix leaves
    out."""
    absent = (name for name in quantized if name not in importance and role(name) not in ("token_embd", "output"))
    return [Finding("missing", name, "no weights: quantized without") for name in sorted(absent, key=str.encode)]


def _unseen(name: str, entry: Entry) -> list[Finding]:
    numbers = [at for at, count in enumerate(entry.counts.tolist()) if count <= 0]
    if not numbers:
        return []
    if len(entry.counts) == 1:
        return [Finding("unseen", name, "no token was counted: all columns weigh alike")]
    listed = ", ".join(map(str, numbers[:_LISTED])) + (", ..." if len(numbers) > _LISTED else "")
    what = f"no token reached {len(numbers)} of {len(entry.counts)} experts ({listed}): they weigh all columns alike"
    return [Finding("unseen", name, what)]
