"""Decision trees, forests, and boosted trees of scikit-learn.

Trees compare columns that were rounded to float32 with float64 thresholds. Source: scikit-learn 1.9, tree/_classes.py,
ensemble/_forest.py, _gb.py, _iforest.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.graphs.classical.branches import Tree, ensemble, leaves
from modelfmt.graphs.classical.columns import Columns, Made
from modelfmt.graphs.classical.fields import MAX_CELLS
from modelfmt.graphs.classical.linear import two_columns
from modelfmt.graphs.classical.results import Classified, Labelled, Regressed, Several
from modelfmt.ir.record import Table

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["PREDICTORS", "WITH_IMPORTANCES", "from_scores", "importances", "rounded"]

_BIG = 2**62


def rounded(build: Build, x: str) -> str:
    """Numbers as float32 has them."""
    return build.cast(build.cast(x, "FLOAT"), "DOUBLE")


def read_tree(e: Fields, n_features: int) -> tuple[Tree, Array, Fields]:
    """A fitted tree, what its nodes hold [n_nodes, n_outputs, n_values], and the fields it came from."""
    inner = e.of(e.inner("tree_"), "tree_")
    nodes = inner.get("nodes")
    if not isinstance(nodes, Table) or not {"left_child", "right_child", "feature", "threshold"} <= set(nodes.columns):
        raise inner.corrupt("a table of nodes is wanted", "nodes", nodes)
    n = nodes.shape[0] if len(nodes.shape) == 1 else 0

    def column(key: str, low: int = -_BIG, high: int = _BIG) -> Array:
        return inner.whole(nodes[key], f"nodes.{key}", n, low=low, high=high)

    missing = column("missing_go_to_left", 0, 255) != 0 if "missing_go_to_left" in nodes.columns else np.zeros(n, bool)
    threshold = inner.shaped(nodes["threshold"], "nodes.threshold", n)
    values = inner.array("values", n, None, None)
    tree = Tree(column("feature"), threshold, column("left_child"), column("right_child"), np.zeros(n), missing)
    return tree.check(inner, "nodes", n_features), values, inner


def _classes(e: Fields, n_outputs: int) -> list[Array]:
    """The classes of each output."""
    held = e.get("classes_")
    if n_outputs == 1 and not isinstance(held, list):
        return [e.classes()]
    if not isinstance(held, list) or len(held) != n_outputs:
        raise e.corrupt("classes of each output are wanted", "classes_", held)
    return [e.labels(one, "classes_") for one in held]


def _shares(e: Fields, values: Array, sizes: Sequence[int]) -> Array:
    """Shares of classes in each node, [n_nodes, sum of sizes]: older releases keep counts."""
    if values.shape[1] != len(sizes) or values.shape[2] < max(sizes):
        raise e.corrupt("nodes do not hold the shares of the classes", "values", list(values.shape), list(sizes))
    parts = []
    for number, size in enumerate(sizes):
        own = values[:, number, :size]
        total = own.sum(axis=1, keepdims=True)
        total[(total == 0) | (np.abs(total - 1) < 1e-9)] = 1
        parts.append(own / total)
    return np.concatenate(parts, axis=1)


def _voted(build: Build, classes: Sequence[Array], shares: str) -> Classified | Several:
    """shares: [N, sum of classes]."""
    if len(classes) == 1:
        return Classified(classes[0], build.argmax(shares), shares)
    found, begin = [], 0
    for own in classes:
        part = build.op("Gather", shares, list(range(begin, begin + len(own))), axis=1)
        found.append(Classified(own, build.argmax(part), part))
        begin += len(own)
    return Several(tuple(found))


def classifier(build: Build, e: Fields, x: Columns) -> Classified | Several:
    """One tree, or the mean of the shares of classes over several."""
    members = [e] if "tree_" in e else [e.of(one, "estimators_") for one in e.inners("estimators_")]
    found = [read_tree(one, x.width) for one in members]
    classes = _classes(e, found[0][1].shape[1])
    sizes = [len(one) for one in classes]
    shares = [_shares(inner, values, sizes) for _, values, inner in found]
    _check_size(e, shares)
    each = leaves(build, rounded(build, x.numbers()), [tree for tree, _, _ in found], shares)
    return _voted(build, classes, _mean(build, each, len(found)))


def _mean(build: Build, each: str, n: int) -> str:
    total = build.sum(each, axis=1)
    return build.op("Div", total, float(n)) if n > 1 else total


def _check_size(e: Fields, tables: Sequence[Array]) -> None:
    cells = sum(one.size for one in tables)
    if cells > MAX_CELLS:
        raise e.refused(
            "so large a forest is not converted", "estimators_", f"{cells} values", (f"{MAX_CELLS} values",)
        )


def regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """One tree, or the mean over several."""
    members = [e] if "tree_" in e else [e.of(one, "estimators_") for one in e.inners("estimators_")]
    found = [read_tree(one, x.width) for one in members]
    width = found[0][1].shape[1]
    if any(values.shape[1:] != (width, 1) for _, values, _ in found) or not width:
        raise e.corrupt("trees differ in their number of outputs", "estimators_", width)
    value = rounded(build, x.numbers())
    trees = [tree for tree, _, _ in found]
    if width > 1:
        held = [values[:, :, 0] for _, values, _ in found]
        _check_size(e, held)
        return Regressed(_mean(build, leaves(build, value, trees, held), len(trees)), width, flat=False)
    for tree, (_, values, _) in zip(trees, found, strict=True):
        tree.value = values[:, 0, 0]
    total = ensemble(build, value, trees, 1)
    return Regressed(build.op("Div", total, float(len(trees))) if len(trees) > 1 else total)


def _boosted(build: Build, e: Fields, x: Columns, n_classes: int) -> str:
    """Raw scores [N, number of trees in each round]: first guess plus learning rate times the trees."""
    rounds = e.get("estimators_")
    shape: tuple[int, ...] = getattr(rounds, "shape", ())
    members = e.inners("estimators_")
    width = shape[1] if len(shape) == 2 else 0
    if width != (1 if n_classes <= 2 else n_classes):
        raise e.corrupt("trees for each class are wanted", "estimators_", shape, n_classes)
    rate = e.number("learning_rate")
    trees = []
    for number, one in enumerate(members):
        tree, values, inner = read_tree(e.of(one, f"estimators_.{number}"), x.width)
        if values.shape[1:] != (1, 1):
            raise inner.corrupt("a number in each leaf is wanted", "values", list(values.shape))
        tree.value, tree.target = rate * values[:, 0, 0], number % width
        trees.append(tree)
    total = ensemble(build, rounded(build, x.numbers()), trees, width)
    first = _first_guess(build, e, x, n_classes)
    return total if first is None else build.op("Add", total, first)


def _first_guess(build: Build, e: Fields, x: Columns, n_classes: int) -> str | None:
    """What the model starts from: nothing, or what another estimator says, on the scale of scores."""
    if e.get("init_") == "zero" or (e.get("init_") is None and e.get("init") == "zero"):
        return None
    x = Made(rounded(build, x.numbers()), x.width).columns(build)
    found = build.predict(e.inner("init_"), e.at("init_"), x)
    if not n_classes:
        if not isinstance(found, Regressed):
            raise e.corrupt("a regressor is wanted", "init_", e.get("init_"))
        return found.value
    if not isinstance(found, Classified) or found.probabilities is None or len(found.classes) != n_classes:
        raise e.refused("the first guess has no probabilities", "init_", e.inner("init_").type, ("a classifier",))
    eps = np.finfo(np.float64).eps if _since(e, 1, 4) else np.finfo(np.float32).eps
    shares = build.op("Clip", found.probabilities, float(eps), float(1 - eps))
    if n_classes > 2:
        return build.op("Log", shares)
    positive = build.column(shares, 1)
    odds = build.op("Log", build.op("Div", positive, build.op("Sub", 1.0, positive)))
    return build.op("Mul", odds, 0.5) if e.get("loss") == "exponential" else odds


def _since(e: Fields, *wanted: int) -> bool:
    parts = (e.record.version or "").split(".")[:2]
    return all(part.isdecimal() for part in parts) and len(parts) == 2 and tuple(map(int, parts)) >= wanted


def boosted_classifier(build: Build, e: Fields, x: Columns) -> Classified:
    """GradientBoostingClassifier."""
    classes = e.classes()
    loss = e.choice("loss", ("log_loss", "deviance", "exponential"), "log_loss")
    scores = _boosted(build, e, x, len(classes))
    return from_scores(build, classes, scores, factor=2.0 if loss == "exponential" else 1.0, above="GreaterOrEqual")


def from_scores(build: Build, classes: Array, scores: str, *, factor: float = 1.0, above: str) -> Classified:
    """Classes by a sigmoid of one score, or a softmax of several. above: the comparison with zero that a second class
    has to pass."""
    if len(classes) > 2:
        return Classified(classes, build.argmax(scores), build.op("Softmax", scores, axis=1), scores)
    scaled = build.op("Mul", scores, factor) if factor != 1 else scores
    shares = two_columns(build, build.op("Sigmoid", scaled))
    index = build.flat(build.cast(build.op(above, scores, 0.0), "INT64"))
    return Classified(classes, index, shares, scores)


def boosted_regressor(build: Build, e: Fields, x: Columns) -> Regressed:
    """GradientBoostingRegressor."""
    return Regressed(_boosted(build, e, x, 0))


def _path_length(samples: Array) -> Array:
    """The mean depth at which a search among so many samples ends."""
    safe = np.maximum(samples, 3.0)
    grown = 2.0 * (np.log(safe - 1.0) + np.euler_gamma) - 2.0 * (safe - 1.0) / safe
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, grown))


def isolation_forest(build: Build, e: Fields, x: Columns) -> Labelled:
    """Scores by the mean depth of the leaf that a row falls into."""
    members = e.inners("estimators_")
    chosen = e.get("estimators_features_")
    if not isinstance(chosen, list) or len(chosen) != len(members):
        raise e.corrupt("columns of each tree are wanted", "estimators_features_", chosen)
    trees = []
    for number, (one, columns) in enumerate(zip(members, chosen, strict=True)):
        own = e.whole(columns, "estimators_features_", None, low=0, high=x.width - 1)
        tree, _, inner = read_tree(e.of(one, f"estimators_.{number}"), len(own))
        nodes: Any = inner.get("nodes")
        samples = inner.shaped(nodes["n_node_samples"], "nodes.n_node_samples", len(tree.left))
        depth = np.zeros(len(tree.left))
        for node in tree.order[tree.left[tree.order] >= 0]:  # a parent stands before its children
            depth[[tree.left[node], tree.right[node]]] = depth[node] + 1
        tree.value = depth + _path_length(samples)
        split = tree.left >= 0
        tree.feature = np.where(split, own[np.where(split, tree.feature, 0)], 0)
        trees.append(tree)
    most = e.number("_max_samples") if "_max_samples" in e else e.number("max_samples_")
    total = ensemble(build, rounded(build, x.numbers()), trees, 1)
    whole = len(trees) * float(_path_length(np.asarray(most)))
    depths = build.op("Div", total, whole) if whole else build.op("Add", build.op("Mul", total, 0.0), 1.0)
    scores = build.op("Neg", build.op("Pow", 2.0, build.op("Neg", depths)))
    scores = build.op("Sub", scores, e.number("offset_"))
    return Labelled(build.signs(scores), scores)


def importances(e: Fields, n_features: int) -> Array:
    """How much each column lowers the impurity, as `feature_importances_` says: it is not stored."""
    if "tree_" in e:
        return _normal(_impurity(e, n_features))
    boosted = e.record.name.startswith("Gradient")
    parts = []
    for one in e.inners("estimators_"):
        found = _impurity(e.of(one, "estimators_"), n_features)
        if found.any():
            parts.append(found if boosted else _normal(found))
    return _normal(np.mean(parts, axis=0)) if parts else np.zeros(n_features)


def _impurity(e: Fields, n_features: int) -> Array:
    tree, _, inner = read_tree(e, n_features)
    nodes: Any = inner.get("nodes")
    if not {"impurity", "weighted_n_node_samples"} <= set(nodes.columns):
        raise inner.corrupt("a table of nodes is wanted", "nodes", nodes)
    impurity, weight = (
        inner.shaped(nodes[key], f"nodes.{key}", len(tree.left)) for key in ("impurity", "weighted_n_node_samples")
    )
    lost = impurity * weight
    split = tree.order[tree.left[tree.order] >= 0]
    gain = lost[split] - lost[tree.left[split]] - lost[tree.right[split]]
    found = np.zeros(n_features)
    np.add.at(found, tree.feature[split], gain)
    share: Array = found / weight[0]
    return share


def _normal(found: Array) -> Array:
    total = found.sum()
    return found / total if total > 0 else found


PREDICTORS = {
    **dict.fromkeys(
        ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier"), classifier
    ),
    **dict.fromkeys(
        ("DecisionTreeRegressor", "ExtraTreeRegressor", "RandomForestRegressor", "ExtraTreesRegressor"), regressor
    ),
    "GradientBoostingClassifier": boosted_classifier,
    "GradientBoostingRegressor": boosted_regressor,
    "IsolationForest": isolation_forest,
}

WITH_IMPORTANCES = tuple(
    name for name in PREDICTORS if "Tree" in name or name.startswith("RandomForest") or "Gradient" in name
)
