"""An estimator for each class, pair of classes, or output. Source: scikit-learn 1.9, multiclass.py, multioutput.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.compose import beside
from modelfmt.graphs.classical.ensembles import asked, classifiers, regressors
from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Regressed, Result, Several
from modelfmt.graphs.classical.support import MAX_CLASSES, pair_scores

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS"]


def _binary(build: Build, e: Fields, found: Result) -> tuple[str, float]:
    """[N, 1]: how much one of two classes is meant, and from where on it is."""
    if isinstance(found, Regressed) and found.width == 1:
        return found.value, 0.5
    if isinstance(found, Classified) and len(found.classes) == 2:
        if found.scores:
            return found.scores, 0.0
        if found.probabilities:
            return build.column(found.probabilities, 1), 0.5
    raise e.refused("an inner estimator that does not tell two classes apart", "estimators_", None, ("two classes",))


def one_vs_rest(build: Build, e: Fields, x: Columns) -> Classified:
    """The class whose own classifier is surest."""
    binarizer = e.of(e.inner("label_binarizer_"), "label_binarizer_")
    binarizer.choice("y_type_", ("binary", "multiclass"), "multiclass")
    classes = binarizer.classes()
    found = asked(build, e, x)
    if len(found) != (1 if len(classes) == 2 else len(classes)):
        raise e.corrupt("an estimator for each class is wanted", "estimators_", len(found), len(classes))
    parts = [_binary(build, e, one) for one in found]
    scores = build.join([value for value, _ in parts])
    if len(classes) == 2:
        index = build.flat(build.cast(build.op("Greater", scores, parts[0][1]), "INT64"))
    else:
        index = build.argmax(scores)
    shares = None
    known = [one.probabilities for one in found if isinstance(one, Classified) and one.probabilities]
    if len(known) == len(found):
        each = build.join([build.column(one, 1) for one in known])
        shares = two_columns(build, each) if len(classes) == 2 else build.shares(each)
    return Classified(classes, index, shares, scores)


def one_vs_one(build: Build, e: Fields, x: Columns) -> Classified:
    """Votes of a classifier for each pair of classes."""
    classes = e.classes()
    n = len(classes)
    if n > MAX_CLASSES:
        raise e.refused("pairs of so many classes are not made", "classes_", n, (f"{MAX_CLASSES} classes",))
    chosen = e.get("pairwise_indices_")
    if chosen is not None:
        raise e.refused("kernels that are computed before", "pairwise_indices_", chosen, (None,))
    found = classifiers(build, e, x)
    if n < 2 or len(found) != n * (n - 1) // 2 or any(len(one.classes) != 2 for one in found):
        raise e.corrupt("an estimator for each pair of classes is wanted", "estimators_", len(found), n)
    parts = [_binary(build, e, one) for one in found]
    confidence = build.join([value for value, _ in parts])
    votes = build.join([build.upright(build.cast(one.index, "DOUBLE")) for one in found])
    scores = pair_scores(build, votes, confidence, n)
    if n == 2:
        scores = build.column(scores, 1)
        index = build.flat(build.cast(build.op("Greater", scores, parts[0][1]), "INT64"))
        return Classified(classes, index, None, scores)
    return Classified(classes, build.argmax(scores), None, scores)


def multi_output_classifier(build: Build, e: Fields, x: Columns) -> Several:
    """A classifier for each output."""
    return Several(tuple(classifiers(build, e, x)))


def multi_output_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """A regressor for each output."""
    found = regressors(build, e, x)
    if found[0].width != 1:
        raise e.corrupt("one output of each is wanted", "estimators_", found[0].width)
    return Regressed(build.join([one.value for one in found]), len(found), flat=False)


def regressor_chain(build: Build, e: Fields, x: Columns) -> Regressed:
    """A regressor for each output, which is given the columns and what those before it have said."""
    members = e.inners("estimators_")
    order = e.get("order_")
    places = e.whole(order, "order_", len(members), low=0, high=len(members) - 1)
    said: list[str] = []
    for number, one in enumerate(members):
        given = beside(build, [x, *(Made(value, 1).columns(build) for value in said)])
        found = build.predict(one, e.at(f"estimators_.{number}"), given)
        if not isinstance(found, Regressed) or found.width != 1:
            raise e.corrupt("regressors are wanted", "estimators_", one.type)
        said.append(found.value)
    if len(set(places.tolist())) != len(members):
        raise e.corrupt("an order is wanted", "order_", places.tolist()[:5])
    return Regressed(build.join([said[index] for index in np.argsort(places)]), len(members), flat=False)


PREDICTORS = {
    "OneVsRestClassifier": one_vs_rest,
    "OneVsOneClassifier": one_vs_one,
    "MultiOutputClassifier": multi_output_classifier,
    "MultiOutputRegressor": multi_output_regressor,
    "RegressorChain": regressor_chain,
}
