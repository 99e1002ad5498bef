"""Mixtures of experts in standard nodes: a Loop over those that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.builder import attribute
from modelfmt.graphs.lowering import Lowering, Table, activate
from modelfmt.ir.graph import Graph, Node

__all__ = ["LOWERINGS"]


def _experts(low: Lowering, node: Node) -> None:
    """Every expert that a token chose, one after another: its tokens are picked out, computed and added."""
    x, router, *weights = node.inputs
    name, used = node.outputs[0], node.get("used")
    tokens = low.hidden(x)
    scores = low.op("Gemm", [tokens, router], f"{name}/scores", transB=1)
    chances = low.op("Softmax", [low.op("Cast", [scores], f"{name}/scores32", to=1)], f"{name}/chances", axis=-1)
    count = low.integers("/moe/used", [used])
    best, which = low.nodes("TopK", [chances, count], (f"{name}/best", f"{name}/which"), domain="", axis=-1)
    if node.get("normalised"):
        total = low.op("ReduceSum", [best, low.integers("/axes", [-1])], f"{name}/total")
        best = low.op("Div", [best, total], f"{name}/shares")
    empty = low.op("Sub", [chances, chances], f"{name}/nothing")
    shares = low.op("ScatterElements", [empty, which, best], f"{name}/shares_of_all", axis=1)
    if low.float_type == "FLOAT16":
        shares = low.op("Cast", [shares], f"{name}/shares16", to=10)
    flat = low.op("Reshape", [which, low.integers("/shape/all", [-1])], f"{name}/chosen")
    distinct = low.op("Unique", [flat], f"{name}/distinct")
    trips = low.op("Squeeze", [low.op("Shape", [distinct], f"{name}/n_distinct")], f"{name}/trips")
    start = low.op("Sub", [tokens, tokens], f"{name}/start")
    body = _expert(low, name, (tokens, shares, distinct, *weights), node)
    low.nodes("Loop", [trips, "", start], [low.result(node)], domain="", body=attribute("body", body))


def _expert(low: Lowering, name: str, outer: Sequence[str], node: Node) -> Graph:
    """The body of the loop: one expert over the tokens that chose it."""
    tokens, shares, distinct, *weights = outer
    inner = Lowering(Graph(f"{name}/expert"), low.form, low.table)
    base = f"{name}/body"
    inner.input(f"{base}/turn", "INT64", ())
    inner.input(f"{base}/go", "BOOL", ())
    inner.input(f"{base}/sum", low.float_type, (None, None))
    expert = inner.op("Gather", [distinct, f"{base}/turn"], f"{base}/expert")
    share = inner.op("Gather", [shares, expert], f"{base}/share", axis=1)
    found = inner.op("NonZero", [share], f"{base}/found")
    places = inner.op("Transpose", [found], f"{base}/places")
    picked = inner.op("GatherND", [tokens, places], f"{base}/picked")
    gate, up, down = (
        inner.op("Gather", [weight, expert], f"{base}/{part}")
        for part, weight in zip(("gate", "up", "down"), weights, strict=True)
    )
    gated = inner.op("Gemm", [picked, gate], f"{base}/gated", transB=1)
    active = activate(inner, node.get("activation").decode(), gated, f"{base}/active")
    made = inner.op("Mul", [active, inner.op("Gemm", [picked, up], f"{base}/raised", transB=1)], f"{base}/made")
    out = inner.op("Gemm", [made, down], f"{base}/out", transB=1)
    weight = inner.op("GatherND", [share, places], f"{base}/weight")
    column = inner.op("Unsqueeze", [weight, inner.integers(f"{base}/axes", [1])], f"{base}/column")
    added = inner.op("Mul", [out, column], f"{base}/added")
    before = inner.op("GatherND", [f"{base}/sum", places], f"{base}/before")
    after = inner.op("Add", [before, added], f"{base}/after")
    inner.op("ScatterND", [f"{base}/sum", places, after], f"{base}/sum_out")
    inner.op("Identity", [f"{base}/go"], f"{base}/go_out")
    inner.output(f"{base}/go_out", "BOOL", ())
    inner.output(f"{base}/sum_out", low.float_type, (None, None))
    return inner.graph


LOWERINGS: Table = {"MoE": _experts}
