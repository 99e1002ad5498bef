"""How far two results lie apart, in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelfmt.ir.tensor import Tensor

__all__ = ["Distributions", "States", "WeightError", "distributions", "states", "weight_error"]

_AT_ONCE = 1 << 20  # elements


class Distributions(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="distributions"):
    """Two sets of next-token distributions. name: of the output. positions: how many. kl_mean, kl_max: of
    KL(source || result) in nats. agreement: the share of positions with the same most likely token. max_difference: of
    log-probabilities, where either gives more than e^-20."""

    name: str
    positions: int
    kl_mean: float
    kl_max: float
    agreement: float
    max_difference: float


class States(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="states"):
    """Two sets of vectors. name: of the output. vectors: how many. max_difference: of elements; scale: the largest
    magnitude in the source. cosine_min: of the two that lie the furthest apart."""

    name: str
    vectors: int
    max_difference: float
    scale: float
    cosine_min: float


class WeightError(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in both models. source, result: how it is stored. max_error: of elements. rms_error: root mean square
    of the difference over that of the source."""

    name: str
    shape: tuple[int, ...]
    source: str
    result: str
    max_error: float
    rms_error: float


def distributions(name: str, source: NDArray, result: NDArray) -> Distributions:  # type: ignore[type-arg]
    """Logits [..., vocabulary] of two runs.

    >>> import numpy as np
    >>> one = np.array([[0.0, 1.0, 2.0]])
    >>> found = distributions("logits", one, one + 5)
    >>> found.kl_max, found.agreement
    (0.0, 1.0)
    """
    import numpy as np

    p, q = (_log_softmax(one.reshape(-1, one.shape[-1])) for one in (source, result))
    divergence = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
    seen = (p > -20) | (q > -20)
    return Distributions(
        name=name,
        positions=len(p),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        agreement=float((p.argmax(-1) == q.argmax(-1)).mean()),
        max_difference=float(np.abs(p - q)[seen].max()),
    )


def _log_softmax(logits: NDArray) -> NDArray:  # type: ignore[type-arg]
    import numpy as np

    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    made: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return made


def states(name: str, source: NDArray, result: NDArray) -> States:  # type: ignore[type-arg]
    """Vectors [..., width] of two runs."""
    import numpy as np

    a, b = (one.reshape(-1, one.shape[-1]).astype(np.float64) for one in (source, result))
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    same = (a == b).all(-1)
    cosines = np.where(same, 1.0, (a * b).sum(-1) / np.where(lengths == 0, np.inf, lengths))
    return States(
        name=name,
        vectors=len(a),
        max_difference=float(np.abs(a - b).max()),
        scale=float(np.abs(a).max()),
        cosine_min=float(cosines.min()),
    )


def _values(tensor: Tensor, start: int, stop: int) -> NDArray:  # type: ignore[type-arg]
    """Rows as float64 [elements]; integers too."""
    import numpy as np

    if tensor.encoding.numpy.startswith(("int", "uint", "bool")):
        return tensor.rows(start, stop).reshape(-1).view(tensor.encoding.numpy).astype(np.float64)
    return tensor.reader.values(tensor.expr, start, stop).reshape(-1).astype(np.float64)


def weight_error(source: Tensor, result: Tensor) -> WeightError:
    """Two tensors of one shape, a few rows at a time."""
    import numpy as np

    from modelfmt.ir.ops import geometry

    n_rows, n_cols = geometry(source.shape, source.encoding)
    step = max(1, _AT_ONCE // max(n_cols, 1))
    worst = wrong = energy = 0.0
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        a, b = (_values(one, start, stop) for one in (source, result))
        with np.errstate(invalid="ignore"):
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
        worst = max(worst, float(np.abs(apart).max(initial=0.0)))
        wrong += float(apart @ apart)
        energy += float(a @ a)
    return WeightError(
        name=source.name,
        shape=source.shape,
        source=source.kind,
        result=result.kind,
        max_error=worst,
        rms_error=0.0 if wrong == 0 else math.sqrt(wrong / energy) if energy else math.inf,
    )
