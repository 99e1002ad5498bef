"""Attention as nodes of OpenVINO, with rotary positions, masks, and the state that keys and values are kept in."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.openvino.layers import cap
from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node

_LOWEST = -65504.0
"""What is added to the score of a token that must not be seen: finite in float16, too, since rows may have nothing
else."""


def rope_table(low: Lowering, node: Node) -> None:
    """position [batch, sequence] times frequency [rotated / 2], twice: [batch, 1, sequence, rotated]."""
    positions, frequencies, *long = node.inputs
    cos, sin = node.outputs
    base = cos.removesuffix("/cos_out")
    if long:
        largest = low.op("ReduceMax", [positions, low.integers(0, 1)], f"{base}/largest", keep_dims=False)
        beyond = low.op("GreaterEqual", [largest, low.integer(node.get("original"))], f"{base}/beyond")
        frequencies = low.op("Select", [beyond, long[0], frequencies], f"{base}/chosen")
    real = low.cast(positions, "FLOAT", f"{base}/positions")
    column = low.unsqueeze(real, f"{base}/column", 1, 3)
    angles = low.op("Multiply", [column, frequencies], f"{base}/angles")
    scale = node.get("scale")
    for op, name in (("Cos", cos), ("Sin", sin)):
        made = low.op(op, [angles], f"{name}/half")
        if scale != 1.0:
            made = low.op("Multiply", [made, low.scalar(scale)], f"{name}/scaled")
        low.op("Concat", [made, made], name, axis=-1)


def rope(low: Lowering, node: Node) -> None:
    x, cos, sin = node.inputs
    name, rotated = node.outputs[0], node.get("rotated")
    whole = low.turn(x, node.get("heads"))
    size = low.width(whole)
    low.turned[name] = name
    if rotated == size:
        _rotate(low, whole, (cos, sin), name, node)
        return
    sizes = low.integers(rotated, size - rotated)
    names = (f"{name}/first", f"{name}/rest")
    first, rest = low.ops("VariadicSplit", [whole, low.integer(3), sizes], names)
    made = _rotate(low, first, (cos, sin), f"{name}/rotated", node)
    low.op("Concat", [made, rest], name, axis=-1)


def _rotate(low: Lowering, x: str, tables: Sequence[str], name: str, node: Node) -> str:
    """x * cos + (the halves of x, the second negated, exchanged) * sin; neighbours instead of halves where they are
    pairs."""
    half = node.get("rotated") // 2
    cos, sin = tables
    if node.get("interleaved"):
        x = _halves(low, x, half, f"{name}/halves")
    axis, sizes = low.integer(3), low.integers(half, half)
    one, two = low.ops("VariadicSplit", [x, axis, sizes], (f"{name}/one", f"{name}/two"))
    negated = low.op("Multiply", [two, low.scalar(-1.0)], f"{name}/negated")
    exchanged = low.op("Concat", [negated, one], f"{name}/exchanged", axis=-1)
    straight = low.op("Multiply", [x, cos], f"{name}/cos")
    across = low.op("Multiply", [exchanged, sin], f"{name}/sin")
    if not node.get("interleaved"):
        return low.op("Add", [straight, across], name)
    made = low.op("Add", [straight, across], f"{name}/sum")
    return _pairs(low, made, half, name)


def _halves(low: Lowering, x: str, half: int, name: str) -> str:
    """Elements 0, 2, .. of each head, then 1, 3, .."""
    order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2)]
    return low.op("Gather", [x, low.integers(*order), low.integer(3)], name)


def _pairs(low: Lowering, x: str, half: int, name: str) -> str:
    """What `_halves` has taken apart, together again."""
    order = [place for pair in zip(range(half), range(half, 2 * half), strict=True) for place in pair]
    return low.op("Gather", [x, low.integers(*order), low.integer(3)], name)


def attention_bias(low: Lowering, node: Node) -> None:
    """[batch, 1, sequence, past + sequence] of zeros and large negative numbers."""
    ids, mask, *_ = node.inputs
    name, window = node.outputs[0], node.get("window")
    seen = low.once("/mask/padding", lambda: _padding(low, mask))
    if node.get("causal"):
        order = low.once("/mask/order", lambda: _order(low, ids, mask))
        seen = low.op("LogicalAnd", [seen, order], f"{name}/causal")
    if window is not None:
        rows = ["/mask/rows", "/mask/columns"]
        distance = low.op("Subtract", rows, f"{name}/distance")
        near = low.op("Less", [distance, low.integer(window)], f"{name}/near")
        seen = low.op("LogicalAnd", [seen, near], f"{name}/window")
    low.op("Select", [seen, low.scalar(0.0), low.scalar(_LOWEST)], name)


def _padding(low: Lowering, mask: str) -> None:
    low.unsqueeze(low.cast(mask, "BOOL", "/mask/seen"), "/mask/padding", 1, 2)


def _order(low: Lowering, ids: str, mask: str) -> None:
    """Whether key `column` lies at or before query `row`; the mask is as long as cache and tokens together."""
    zero, one = low.integer(0), low.integer(1)
    length, total = (
        low.op("Squeeze", [low.size(of, 1), low.integers(0)], f"/mask/{word}")
        for of, word in ((ids, "length"), (mask, "total"))
    )
    start = low.op("Subtract", [total, length], "/mask/start")
    rows = low.op("Range", [start, total, one], "/mask/row_numbers", output_type="INT64")
    low.unsqueeze(rows, "/mask/rows", 1)
    columns = low.op("Range", [zero, total, one], "/mask/column_numbers", output_type="INT64")
    low.unsqueeze(columns, "/mask/columns", 0)
    low.op("LessEqual", ["/mask/columns", "/mask/rows"], "/mask/order")


def _state(low: Lowering, past: str, present: str, new: str) -> str:
    """Keys or values of all tokens so far: those of the state, in the order of the beams, and the new ones."""
    value = low.past[past]
    assert value.shape is not None
    heads, size = value.shape[1], low.width(new)
    assert isinstance(heads, int)
    shape, variable = f"/shape/state {heads} {size}", f"{past}{present}"
    dims = [low.size("input_ids", 0), low.integers(heads, 0, size)]
    empty = low.op("Broadcast", [low.scalar(0.0), low.joined(dims, shape)], f"{past}/empty", mode="numpy")
    kept = {"variable_id": variable, "variable_type": "FLOAT", "variable_shape": (None, heads, None, size)}
    read = low.op("ReadValue", [empty], past, **kept)
    chosen = low.op("Gather", [read, "beam_idx", low.integer(0)], f"{past}/chosen")
    whole = low.op("Concat", [chosen, new], present, axis=-2)
    low.op("Assign", [whole], f"{present}/assign", variable_id=variable)
    return whole


def attention(low: Lowering, node: Node) -> None:
    query, key, value, bias, *past = node.inputs
    name, *present = node.outputs
    heads, kv_heads = node.get("heads"), node.get("kv_heads")
    query, key, value = low.turn(query, heads), low.turn(key, kv_heads), low.turn(value, kv_heads)
    if past:
        key, value = (_state(low, past[i], present[i], new) for i, new in enumerate((key, value)))
    if heads != kv_heads:
        key, value = (_repeated(low, x, heads, kv_heads) for x in (key, value))
    softcap = node.get("softcap")
    if softcap:
        mixed = _capped_attention(low, (query, key, value, bias), node)
    else:
        inputs = [query, key, value, bias, low.scalar(node.get("scale"))]
        mixed = low.op("ScaledDotProductAttention", inputs, f"{name}/mixed", causal=False)
    rows = low.op("Transpose", [mixed, low.integers(0, 2, 1, 3)], f"{name}/rows")
    low.op("Reshape", [rows, low.integers(0, 0, node.get("width"))], name)


def _repeated(low: Lowering, x: str, heads: int, kv_heads: int) -> str:
    """Each head as often as queries share it."""
    column = low.unsqueeze(x, f"{x}/column", 2)
    target = low.integers(1, 1, heads // kv_heads, 1, 1)
    many = low.op("Broadcast", [column, target], f"{x}/many", mode="bidirectional")
    return low.op("Reshape", [many, low.integers(0, heads, -1, low.width(x))], f"{x}/repeated")


def _capped_attention(low: Lowering, parts: Sequence[str], node: Node) -> str:
    """Attention whose scores are capped, which no operator does by itself."""
    query, key, value, bias = parts
    name = node.outputs[0]
    product = low.op("MatMul", [query, key], f"{name}/product", transpose_b=True)
    scores = low.op("Multiply", [product, low.scalar(node.get("scale"))], f"{name}/scores")
    capped = cap(low, scores, node.get("softcap"), f"{name}/capped")
    masked = low.op("Add", [capped, bias], f"{name}/masked")
    shares = low.op("SoftMax", [masked], f"{name}/shares", axis=-1)
    return low.op("MatMul", [shares, value], f"{name}/mixed", transpose_b=False)
