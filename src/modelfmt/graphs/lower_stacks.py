"""What encoders and decoders with two attentions need, in standard nodes: attention to another text, caches that are
filled once, biases by distance, branches."""

from __future__ import annotations

from modelfmt.graphs.builder import attribute
from modelfmt.graphs.lower_masks import rows_and_columns
from modelfmt.graphs.lowering import Lowering, Table, width_of
from modelfmt.ir.graph import Graph, Node

__all__ = ["LOWERINGS"]


def _choice(low: Lowering, node: Node) -> None:
    """If, whose branches are structural nodes over what is around them. Outputs are hidden states where both say so."""
    branches = {}
    for key in ("then_branch", "else_branch"):
        branch: Graph = node.get(key)
        inner = low.inner(branch)
        for each in branch.nodes:
            inner.add(each)
        inner.finish()
        inner.graph.tensors = {}
        branches[key] = attribute(key, inner.graph)
    low.nodes("If", node.inputs, node.outputs, domain="", **branches)
    for name, value in zip(node.outputs, node.get("then_branch").outputs, strict=True):
        if value.role == "hidden":
            low.made_sequence(name, width_of(value))


def _split_heads(low: Lowering, node: Node) -> None:
    """[batch, heads, sequence, size]."""
    _heads(low, low.sequence(node.inputs[0]), node.get("heads"), node.outputs[0])


def _heads(low: Lowering, sequence: str, heads: int, name: str) -> str:
    parts = low.op("Reshape", [sequence, low.integers("/shape/heads", [0, 0, heads, -1])], f"{name}/parts")
    return low.op("Transpose", [parts], name, perm=[0, 2, 1, 3])


def _cross_attention(low: Lowering, node: Node) -> None:
    """Attention to keys and values that are [batch, heads, sequence, size] already."""
    query, keys, values, bias = node.inputs
    name = node.outputs[0]
    heads = _heads(low, low.sequence(query), node.get("heads"), f"{name}/query")
    inputs = [heads, keys, values] + ([bias] if bias else [])
    found = low.op("Attention", inputs, f"{name}/heads", scale=node.get("scale"))
    turned = low.op("Transpose", [found], f"{name}/turned", perm=[0, 2, 1, 3])
    merged = low.integers("/shape/merged", [0, 0, -1])
    low.made_sequence(low.op("Reshape", [turned, merged], name), node.get("width"))


def _relative_bias(low: Lowering, node: Node) -> None:
    """[batch, heads, sequence, past + sequence]: a bias, plus a number for each head by how far two tokens are apart.
    buckets: the row of the table for the distances from -n to n; what is farther counts as n."""
    import numpy as np

    ids, table, buckets, bias, *past = node.inputs
    name, furthest = node.outputs[0], node.get("furthest")
    rows, columns = rows_and_columns(low, ids, past)
    base = f"/mask/{buckets.strip('/')}"

    def bucketed() -> None:
        least, most = (low.constant(f"{base}/{n}", np.array(n, np.int64)) for n in (-furthest, furthest))
        distance = low.op("Sub", [columns, rows], f"{base}/distance")
        near = low.op("Max", [low.op("Min", [distance, most], f"{base}/below"), least], f"{base}/near")
        low.op("Gather", [buckets, low.op("Add", [near, most], f"{base}/from_zero")], f"{base}/buckets")

    found = low.op("Gather", [table, low.once(f"{base}/buckets", bucketed)], f"{name}/picked")
    turned = low.op("Transpose", [found], f"{name}/turned", perm=[2, 0, 1])
    low.op("Add", [bias, low.op("Unsqueeze", [turned, low.integers("/axes", [0])], f"{name}/heads")], name)


def _empty_cache(low: Lowering, node: Node) -> None:
    """[batch, heads, 0, size], of the batch of the ids."""
    name = node.outputs[0]
    batch = low.op("Shape", [node.inputs[0]], f"{name}/batch", start=0, end=1)
    rest = low.integers("/shape/empty", [node.get("heads"), 0, node.get("size")])
    low.op("Expand", [low.scalar(0.0), low.op("Concat", [batch, rest], f"{name}/shape", axis=0)], name)


LOWERINGS: Table = {
    "CrossAttention": _cross_attention,
    "EmptyCache": _empty_cache,
    "If": _choice,
    "RelativeBias": _relative_bias,
    "SplitHeads": _split_heads,
}
