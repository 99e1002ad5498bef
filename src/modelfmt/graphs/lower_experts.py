"""Mixtures of experts in standard nodes: a Loop over those that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.builder import attribute
from modelfmt.graphs.lowering import MICROSOFT, Lowering, Table, activate, nbits
from modelfmt.ir.graph import Graph, Node

__all__ = ["LOWERINGS", "expert_parts"]


def _experts(low: Lowering, node: Node) -> None:
    """Every expert that a token chose, one after another: its tokens are picked out, computed and added."""
    x, router = node.inputs[:2]
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
    parts = expert_parts(node)
    if low.form.standard:
        parts = [(_signed_experts(low, *part), part[1]) for part in parts]
    body = _expert(name, (tokens, shares, distinct), parts, node.get("activation").decode(), low)
    low.nodes("Loop", [trips, "", start], [low.result(node)], domain="", body=attribute("body", body))


def _expert(name: str, outer: Sequence[str], parts: Sequence[Part], activation: str, low: Lowering) -> Graph:
    """The body of the loop: one expert over the tokens that chose it."""
    tokens, shares, distinct = outer
    inner, float_type = Lowering(Graph(f"{name}/expert"), low.form, low.table), low.float_type
    base = f"{name}/body"
    inner.input(f"{base}/turn", "INT64", ())
    inner.input(f"{base}/go", "BOOL", ())
    inner.input(f"{base}/sum", float_type, (None, None))
    expert = inner.op("Gather", [distinct, f"{base}/turn"], f"{base}/expert")
    share = inner.op("Gather", [shares, expert], f"{base}/share", axis=1)
    found = inner.op("NonZero", [share], f"{base}/found")
    places = inner.op("Transpose", [found], f"{base}/places")
    picked = inner.op("GatherND", [tokens, places], f"{base}/picked")
    gate, up, down = parts
    gated = _expert_linear(inner, picked, gate, expert, f"{base}/gated")
    active = activate(inner, activation, gated, f"{base}/active")
    raised = _expert_linear(inner, picked, up, expert, f"{base}/raised")
    out = _expert_linear(inner, inner.op("Mul", [active, raised], f"{base}/made"), down, expert, f"{base}/out")
    weight = inner.op("GatherND", [share, places], f"{base}/weight")
    column = inner.op("Unsqueeze", [weight, inner.integers(f"{base}/axes", [1])], f"{base}/column")
    added = inner.op("Mul", [out, column], f"{base}/added")
    before = inner.op("GatherND", [f"{base}/sum", places], f"{base}/before")
    after = inner.op("Add", [before, added], f"{base}/after")
    inner.op("ScatterND", [f"{base}/sum", places, after], f"{base}/sum_out")
    inner.op("Identity", [f"{base}/go"], f"{base}/go_out")
    inner.output(f"{base}/go_out", "BOOL", ())
    inner.output(f"{base}/sum_out", float_type, (None, None))
    return inner.graph


def expert_parts(node: Node) -> list[Part]:
    """Matrices of gate, up and down: those of MoE are dense, each of BlockMoE has three names."""
    _, _, *weights = node.inputs
    if node.op == "MoE":
        return [([name, "", ""], (0, 0, 0, 0)) for name in weights]
    sizes = node.get("sizes")
    return [(weights[3 * at : 3 * at + 3], sizes[4 * at : 4 * at + 4]) for at in range(3)]


def _signed_experts(low: Lowering, names: list[str], sizes: Sequence[int]) -> list[str]:
    """Codes of experts as signed bytes, which DequantizeLinear takes."""
    n, k, bits, _ = sizes
    if not bits:
        return names
    count = low.graph.tensors[names[0]].shape[0]
    return [low.integer(names[0], (count, n, k), bits, signed=True), *names[1:]]


Part = tuple[list[str], Sequence[int]]
"""Matrices of experts: dense, or codes, scales and zeros; (rows, columns, bits, block)."""


def _expert_linear(inner: Lowering, x: str, part: Part, expert: str, name: str) -> str:
    """A product with the matrix of one expert, which is picked out first."""
    names, (n, k, bits, block) = part
    picked = [inner.op("Gather", [one, expert], f"{name}/part_{at}") for at, one in enumerate(names) if one]
    if bits and not inner.form.standard:
        inner.nodes("MatMulNBits", [x, *picked], [name], domain=MICROSOFT, **nbits(inner, (n, k), bits, block))
        return name
    if bits:
        picked = [inner.op("DequantizeLinear", picked, f"{name}/matrix", axis=1, block_size=block)]
    return inner.op("Gemm", [x, *picked], name, transB=1)


LOWERINGS: Table = {"BlockMoE": _experts, "MoE": _experts}
