"""Trees as one TreeEnsemble node (ai.onnx.ml 5) in float64: thresholds are compared as the file has them.

A tree that comes from a file is walked from its root before it is used: children lie inside, each is the child of one
node, features are columns. Nodes that the root does not reach are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelfmt.errors import LimitExceeded
from modelfmt.graphs.classical.nodes import ML

if TYPE_CHECKING:
    from modelfmt.graphs.classical.fields import Array, Fields
    from modelfmt.graphs.classical.nodes import Build

__all__ = ["Tree", "ensemble", "leaves"]

MAX_LEVELS = 10_000
LEQ, LT, MEMBER = 0, 1, 6


class Tree(msgspec.Struct):
    """One tree. feature, left, right: int64 [n_nodes]; a negative left child is a leaf. threshold, value: float64
    [n_nodes]. missing_left: bool [n_nodes], where NaN goes. target: which sum its leaves belong to. less: a row goes
    left below the threshold, not at it. members: of nodes that ask for one of some categories, these."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    value: Array
    missing_left: Array
    target: int = 0
    less: bool = False
    members: dict[int, list[float]] = msgspec.field(default_factory=dict)
    order: Array = msgspec.field(default_factory=lambda: np.empty(0, np.int64))

    def check(self, e: Fields, name: str, n_features: int) -> Tree:
        """The same, with the nodes that the root reaches in `order`. Raises CorruptFile, LimitExceeded."""
        n = len(self.left)
        sizes = {len(one) for one in (self.feature, self.threshold, self.right, self.value, self.missing_left)}
        if not n or sizes != {n}:
            raise e.corrupt("columns of a tree differ in length", name, sizes | {n})
        seen = np.zeros(n, bool)
        levels: list[Array] = []
        level = np.zeros(1, np.int64)
        while len(level):
            if level.min() < 0 or level.max() >= n:
                raise e.corrupt(
                    "a tree's child is no node of it", name, f"{level.min()} to {level.max()}", f"below {n}"
                )
            if seen[level].any() or len(np.unique(level)) != len(level):
                raise e.corrupt("a tree's node is the child of two", name, None)
            if len(levels) >= MAX_LEVELS:
                raise LimitExceeded(
                    "a tree is too deep", code="estimator-depth", path=e.path, place=e.at(name), allowed=MAX_LEVELS
                )
            seen[level] = True
            levels.append(level)
            split = level[self.left[level] >= 0]
            level = np.concatenate([self.left[split], self.right[split]])
        self.order = np.sort(np.concatenate(levels))
        used = self.feature[self.order[self.left[self.order] >= 0]]
        if used.size and (used.min() < 0 or used.max() >= n_features):
            raise e.corrupt("a tree asks for a column that is not there", name, used.max(), f"below {n_features}")
        return self


def ensemble(build: Build, x: str, trees: Sequence[Tree], n_targets: int) -> str:
    """The sums [N, n_targets] of the trees' leaves, by target. trees: checked."""
    columns: dict[str, list[Any]] = {key: [] for key in (*_NODES, "leaf_targetids", "leaf_weights")}
    roots, members = [], []
    n_nodes = n_leaves = 0
    for tree in trees:
        order, leaf = tree.order, tree.left[tree.order] < 0
        place = np.zeros(len(tree.left), np.int64)
        place[order[leaf]] = n_leaves + np.arange(leaf.sum())
        inner = order[~leaf]
        place[inner] = n_nodes + np.arange(len(inner))
        roots.append(n_nodes)
        n_leaves += int(leaf.sum())
        n_nodes += max(len(inner), 1)
        columns["leaf_targetids"].append(np.full(leaf.sum(), tree.target))
        columns["leaf_weights"].append(tree.value[order[leaf]])
        rows = _rows(tree, inner, place) if len(inner) else _alone(place[order[0]])
        for key, row in rows.items():
            columns[key].append(row)
        for node in inner if tree.members else ():
            members += [*tree.members[node], np.nan] if node in tree.members else []
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    given: dict[str, Any] = {
        key: [int(n) for n in array]
        for key, array in joined.items()
        if key not in ("nodes_splits", "nodes_modes", "leaf_weights")
    }
    return build.op(
        "TreeEnsemble",
        x,
        domain=ML,
        aggregate_function=1,
        post_transform=0,
        n_targets=n_targets,
        tree_roots=roots,
        nodes_splits=build.tensor(joined["nodes_splits"].astype(np.float64)),
        nodes_modes=build.tensor(joined["nodes_modes"].astype(np.uint8)),
        leaf_weights=build.tensor(joined["leaf_weights"].astype(np.float64)),
        membership_values=build.tensor(np.asarray(members, np.float64)) if members else None,
        **given,
    )


_NODES = (
    "nodes_featureids",
    "nodes_splits",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_trueleafs",
    "nodes_falseleafs",
    "nodes_missing_value_tracks_true",
)


def _rows(tree: Tree, inner: Array, place: Array) -> dict[str, Array]:
    left, right = tree.left[inner], tree.right[inner]
    modes = np.full(len(inner), LT if tree.less else LEQ)
    if tree.members:
        modes[np.isin(inner, list(tree.members))] = MEMBER
    found = (
        tree.feature[inner],
        np.where(modes == MEMBER, 0.0, tree.threshold[inner]),
        modes,
        place[left],
        place[right],
        tree.left[left] < 0,
        tree.left[right] < 0,
        tree.missing_left[inner],
    )
    return dict(zip(_NODES, found, strict=True))


def _alone(leaf: int) -> dict[str, Array]:
    """A root that is a leaf: a node both of whose branches lead to it."""
    return {key: np.asarray([n]) for key, n in zip(_NODES, (0, 0, LEQ, leaf, leaf, 1, 1, 0), strict=True)}


def leaves(build: Build, x: str, trees: Sequence[Tree], values: Sequence[Array]) -> str:
    """What each tree's leaf holds, [N, n_trees, n_values]. values: of each tree, [n_nodes, n_values].

    A leaf of TreeEnsemble has one number; here it is the leaf's row in a table.
    """
    table, total = [], 0
    for number, (tree, held) in enumerate(zip(trees, values, strict=True)):
        leaf = tree.order[tree.left[tree.order] < 0]
        tree.value = np.zeros(len(tree.left))
        tree.value[leaf] = total + np.arange(len(leaf))
        tree.target = number
        total += len(leaf)
        table.append(held[leaf])
    index = build.cast(ensemble(build, x, trees, len(trees)), "INT64")
    return build.op("Gather", np.concatenate(table), index, axis=0)
