"""Weights as constants of OpenVINO: dense ones that are cast, and codes with scales and zeros.

The latter in the pattern that plugins keep as it is (CompressedWeightsBlock): codes [.., n, groups, group] become
float32, zeros are subtracted, scales multiplied, and the groups joined. Codes without zeros of their own are signed.
Scales are float16 where these are exact, and converted. Everything is computed in float32, so that the file means
exactly what the blocks mean, whatever a plugin makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.grids import half_scales
from modelfmt.ir.graph import GraphTensor, Node
from modelfmt.ir.ops import Expression, Numbers, Packed


def cast_weight(low: Lowering, node: Node) -> None:
    """Marked as what the weight's precision is undone by, so that plugins keep it."""
    low.cast(node.inputs[0], "FLOAT", node.outputs[0])
    low.graph.nodes[-1].properties = (("decompression", ""),)


def embedding(low: Lowering, node: Node) -> None:
    ids, table = node.inputs
    low.op("Gather", [table, ids, low.integer(0)], node.outputs[0])


def linear(low: Lowering, node: Node) -> None:
    x, weight, *bias = node.inputs
    _product(low, node, x, weight, bias)


def _product(low: Lowering, node: Node, x: str, weight: str, bias: Sequence[str]) -> None:
    name = node.outputs[0]
    made = f"{name}/product" if bias else name
    low.op("MatMul", [x, weight], made, transpose_b=not node.get("transposed", 0))
    if bias:
        low.op("Add", [made, bias[0]], name)


def block_linear(low: Lowering, node: Node) -> None:
    """A product with a matrix in parts."""
    x, codes, scales, zeros, *bias = node.inputs
    _product(low, node, x, values(low, (codes, scales, zeros), node.get("bits"), node.get("block")), bias)


def block_embedding(low: Lowering, node: Node) -> None:
    """Rows of a table in parts."""
    ids, codes, scales, *zeros = node.inputs
    table = values(low, (codes, scales, *zeros), node.get("bits"), node.get("block"))
    low.op("Gather", [table, ids, low.integer(0)], node.outputs[0])


def values(low: Lowering, parts: Sequence[str], bits: int, block: int) -> str:
    """The values of a matrix in parts, or of one for each expert, made once: their name."""
    codes, scales, *zeros = [name for name in parts if name]
    name = f"{codes.removesuffix('_codes')}/values"
    return low.once(name, lambda: _dequantize(low, (codes, scales, *zeros), name, (bits, block)))


def _dequantize(low: Lowering, parts: Sequence[str], name: str, layout: tuple[int, int]) -> None:
    codes, scales, *zeros = parts
    bits, block = layout
    *outer, n_groups = low.graph.tensors[scales].shape
    grouped = n_groups > 1
    column = (*outer, n_groups, 1) if grouped else (*outer, 1)
    whole = (*outer, n_groups, block) if grouped else (*outer, block)
    kind = f"{'U' if zeros else ''}INT{bits}"
    low.graph.tensors[codes] = GraphTensor(codes, kind, whole, _codes(low, codes, signed=not zeros, bits=bits))
    made = low.cast(codes, "FLOAT", f"{name}/codes")
    if zeros:
        made = low.op("Subtract", [made, _zeros(low, zeros[0], column, kind)], f"{name}/centred")
    made = low.op("Multiply", [made, _scales(low, scales, column)], f"{name}/scaled" if grouped else name)
    if grouped:
        low.op("Reshape", [made, low.integers(*outer, n_groups * block)], name)


def _codes(low: Lowering, name: str, *, signed: bool, bits: int) -> Expression:
    """Codes as they are, or around zero, in two's complement."""
    expr = low.graph.tensors[name].data
    assert isinstance(expr, Packed)
    if not signed:
        return expr
    return msgspec.structs.replace(expr, packing=msgspec.structs.replace(expr.packing, flip=1 << (bits - 1)))


def _scales(low: Lowering, name: str, shape: tuple[int, ...]) -> str:
    """Scales beside their groups, in float32."""
    expr = low.graph.tensors[name].data
    assert expr is not None
    kind = "FLOAT16" if half_scales(expr) else "FLOAT"
    low.graph.tensors[name] = GraphTensor(name, kind, shape, expr)
    return low.cast(name, "FLOAT", f"{name}/cast") if kind == "FLOAT16" else name


def _zeros(low: Lowering, name: str, shape: tuple[int, ...], kind: str) -> str:
    """Zeros beside their groups, in float32: integers as wide as the codes where all of them are whole numbers."""
    tensor = low.graph.tensors[name]
    expr = tensor.data
    assert isinstance(expr, Numbers)
    if tensor.type == "UINT8" and kind == "UINT4" and shape[-2] % 2:  # rows of them end within a byte
        expr = msgspec.structs.replace(expr, encoding="F32", bits=0, along="", shape=shape[:-1])
    if expr.encoding == "F32":
        low.graph.tensors[name] = GraphTensor(name, "FLOAT", shape, expr)
        return name
    low.graph.tensors[name] = GraphTensor(name, kind, shape, expr)
    return low.cast(name, "FLOAT", f"{name}/cast")
