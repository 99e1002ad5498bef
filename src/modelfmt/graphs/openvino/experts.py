"""Mixtures of experts as nodes of OpenVINO."""

from __future__ import annotations

from modelfmt.graphs.openvino.layers import activate
from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.graphs.openvino.weights import values
from modelfmt.ir.graph import Node


def experts(low: Lowering, node: Node) -> None:
    """Every expert over every token, weighed by what the token gives it: nothing for most of them. Plugins find this
    pattern and compute those alone that were chosen (ConvertTiledMoeBlockTo3GatherMatmuls)."""
    x = node.inputs[0]
    gate, up, down = _matrices(low, node)
    name, n_expert = node.outputs[0], _n_expert(low, node)
    tokens = low.op("Reshape", [x, low.integers(-1, low.width(x))], f"{name}/tokens")
    tiled = low.op("Tile", [tokens, low.integers(n_expert, 1)], f"{name}/tiled")
    each = low.op("Reshape", [tiled, low.integers(n_expert, -1, low.width(x))], f"{name}/each")
    gated = low.op("MatMul", [each, gate], f"{name}/gate", transpose_b=True)
    active = activate(low, node.get("activation").decode(), gated, f"{name}/active")
    raised = low.op("MatMul", [each, up], f"{name}/up", transpose_b=True)
    product = low.op("Multiply", [active, raised], f"{name}/product")
    out = low.op("MatMul", [product, down], f"{name}/down", transpose_b=True)
    sizes = [low.integers(n_expert), low.size(x, 0), low.integers(-1, low.width(x))]
    made = low.op("Reshape", [out, low.joined(sizes, f"{name}/apart")], f"{name}/made")
    shares = low.unsqueeze(_shares(low, tokens, x, node), f"{name}/share", -1)
    weighed = low.op("Multiply", [made, shares], f"{name}/weighed")
    low.op("ReduceSum", [weighed, low.integers(0)], name, keep_dims=False)


def _matrices(low: Lowering, node: Node) -> list[str]:
    """Gate, up and down of all experts: those of BlockMoE are codes, scales and zeros, or dense and two empty names."""
    if node.op == "MoE":
        return node.inputs[2:]
    made = []
    for place in range(3):
        parts, (_, _, bits, block) = node.inputs[2 + 3 * place :][:3], node.get("sizes")[4 * place :][:4]
        made.append(values(low, parts, bits, block) if bits else parts[0])
    return made


def _n_expert(low: Lowering, node: Node) -> int:
    n_expert = (low.value(node.inputs[1]).shape or (None,))[0]
    assert isinstance(n_expert, int)
    return n_expert


def _shares(low: Lowering, tokens: str, x: str, node: Node) -> str:
    """What each token gives each expert, [experts, batch, sequence]."""
    name, router = node.outputs[0], node.inputs[1]
    n_expert = _n_expert(low, node)
    scores = low.op("MatMul", [tokens, router], f"{name}/scores", transpose_b=True)
    chances = low.op("SoftMax", [scores], f"{name}/chances", axis=-1)
    best, which = low.ops(
        "TopK",
        [chances, low.integer(node.get("used"))],
        (f"{name}/best", f"{name}/which"),
        axis=-1,
        mode="max",
        sort="value",
        index_element_type="INT64",
    )
    if node.get("normalised"):
        total = low.op("ReduceSum", [best, low.integers(-1)], f"{name}/total", keep_dims=True)
        best = low.op("Divide", [best, total], f"{name}/parts")
    nothing = low.op("Multiply", [chances, low.scalar(0.0)], f"{name}/nothing")
    spread = low.op("ScatterElementsUpdate", [nothing, which, best, low.integer(1)], f"{name}/spread")
    turned = low.op("Transpose", [spread, low.integers(1, 0)], f"{name}/turned")
    sizes = [low.integers(n_expert), low.size(x, 0), low.integers(-1)]
    return low.op("Reshape", [turned, low.joined(sizes, f"{name}/rows")], f"{name}/shares")
