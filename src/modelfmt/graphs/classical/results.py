"""What an estimator's nodes give. Every value has a row for each row of the input, N."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["Classified", "Labelled", "Regressed", "Result", "Several"]


class Classified(msgspec.Struct, frozen=True):
    """A classifier's. classes: [K], as the file has them. index: INT64 [N], into the classes. probabilities: DOUBLE
    [N, K]. scores: what `decision_function` gives, DOUBLE [N, width]; width: 1 for two classes, else K, where it is
    not given."""

    classes: Array
    index: str
    probabilities: str | None = None
    scores: str | None = None
    width: int | None = None

    @property
    def n_scores(self) -> int:
        """Columns of the scores."""
        return self.width or (1 if len(self.classes) == 2 else len(self.classes))


class Regressed(msgspec.Struct, frozen=True):
    """A regressor's. value: DOUBLE [N, width]. flat: scikit-learn gives [N]."""

    value: str
    width: int = 1
    flat: bool = True


class Labelled(msgspec.Struct, frozen=True):
    """Of what makes labels without being taught any: clusters, outliers. label: INT64 [N]. scores: DOUBLE [N, width]"""

    label: str
    scores: str | None = None
    width: int = 1
    probabilities: bool = False


class Several(msgspec.Struct, frozen=True):
    """Of a classifier with several outputs: one result for each."""

    parts: tuple[Classified, ...]


Result = Classified | Regressed | Labelled | Several
