"""Quantized matrices in ONNX's nodes: com.microsoft's MatMulNBits, or DequantizeLinear and Gemm; tables of embeddings
by Gather and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelfmt.ir.graph import Node

if TYPE_CHECKING:
    from modelfmt.graphs.standard import Lowering

__all__ = ["LOWERINGS", "MICROSOFT", "nbits"]

MICROSOFT = "com.microsoft"


def nbits(low: Lowering, shape: tuple[int, int], bits: int, block: int) -> dict[str, int]:
    """The attributes of MatMulNBits for a matrix [n, k]."""
    n, k = shape
    return {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": low.form.accuracy_level}


def _block_linear(low: Lowering, node: Node) -> None:
    """A matrix in blocks: MatMulNBits, or DequantizeLinear and Gemm."""
    x, codes, scales, zeros, *bias = node.inputs
    name, (n, k) = node.outputs[0], (node.get("columns"), node.get("depth"))
    if not low.form.standard:
        inputs = [low.hidden(x), codes, scales, zeros]
        inputs = [*inputs, "", *bias] if bias else inputs if zeros else inputs[:3]
        sizes = nbits(low, (n, k), node.get("bits"), node.get("block"))
        low.nodes("MatMulNBits", inputs, (low.result(node),), domain=MICROSOFT, **sizes)
        return
    bits, block = node.get("bits"), node.get("block")
    parts = [low.integer(codes, (n, k), bits, signed=not zeros), scales]
    parts += [low.integer(zeros, (n, k // block), bits, signed=False)] if zeros else []
    matrix = low.op("DequantizeLinear", parts, f"{name}/weight", axis=1, block_size=block)
    low.op("Gemm", [low.hidden(x), matrix, *bias], low.result(node), transB=1)


def _block_embedding(low: Lowering, node: Node) -> None:
    """Rows of a table in blocks: codes and scales are picked out and multiplied, in float32."""
    import numpy as np

    ids, codes, scales, *zeros = node.inputs
    name, bits = node.outputs[0], node.get("bits")
    tokens = low.tokens(ids)
    picked = low.op("Gather", [codes, tokens], f"{name}/codes")
    if bits == 4:
        mask, shift = (low.constant(f"/uint8 {n}", np.array(n, np.uint8)) for n in (15, 4))
        halves = (
            low.op("BitwiseAnd", [picked, mask], f"{name}/low"),
            low.op("BitShift", [picked, shift], f"{name}/high", direction="RIGHT"),
        )
        last = low.integers("/axes", [3])
        columns = [low.op("Unsqueeze", [half, last], f"{half}/column") for half in halves]
        pairs = low.op("Concat", columns, f"{name}/pairs", axis=-1)
        picked = low.op("Reshape", [pairs, low.integers("/shape/blocks", [0, 0, node.get("block")])], f"{name}/whole")
    numbers = low.op("Cast", [picked], f"{name}/numbers", to=1)
    axes = low.integers("/axes", [2])

    def column(part: str) -> str:
        rows = low.op("Gather", [part, tokens], f"{name}/{part}")
        return low.op("Cast", [low.op("Unsqueeze", [rows, axes], f"{rows}/column")], f"{rows}/float", to=1)

    zero = column(zeros[0]) if zeros else low.constant(f"/zero {bits}", np.array(1 << (bits - 1), np.float32))
    centred = low.op("Sub", [numbers, zero], f"{name}/centred")
    values = low.op("Mul", [centred, column(scales)], f"{name}/values")
    rows = low.op("Reshape", [values, low.integers("/shape/merged", [0, -1])], f"{name}/rows")
    low.op("Cast", [rows], low.result(node), to=10 if low.float_type == "FLOAT16" else 1)


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "BlockEmbedding": _block_embedding,
    "BlockLinear": _block_linear,
}
"""Structural operation -> what lowers it."""
