"""Attention as nodes of OpenVINO, with masks, and with the state that keys and values are kept in."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.openvino.layers import cap
from modelfmt.graphs.openvino.lowering import Lowering
from modelfmt.ir.graph import Node

_LOWEST = -65504.0
"""What is added to the score of a token that must not be seen: finite in float16, too, since rows may have nothing
else."""


def attention_bias(low: Lowering, node: Node) -> None:
    """[batch, 1, sequence, past + sequence] of zeros and large negative numbers; one row for all queries where these
    see the same. window: how near a token must be."""
    ids, mask, *past = node.inputs
    name, window = node.outputs[0], node.get("window")
    seen = low.once(f"/mask/{mask}/padding", lambda: _padding(low, mask)) if mask else ""
    if node.get("causal"):
        rows, columns = rows_and_columns(low, ids, mask, past)
        order = low.once("/mask/order", lambda: low.op("LessEqual", [columns, rows], "/mask/order"))
        seen = low.op("LogicalAnd", [seen, order], f"{name}/causal") if seen else order
    if window is not None:
        rows, columns = rows_and_columns(low, ids, mask, past)
        distance = low.op("Subtract", [rows, columns], f"{name}/distance")
        distance = distance if node.get("causal") else low.op("Abs", [distance], f"{name}/apart")
        near = low.op("Less", [distance, low.integer(window)], f"{name}/near")
        seen = low.op("LogicalAnd", [seen, near], f"{name}/window")
    low.op("Select", [seen, low.scalar(0.0), low.scalar(_LOWEST)], name)


def _padding(low: Lowering, mask: str) -> None:
    low.unsqueeze(low.cast(mask, "BOOL", f"/mask/{mask}/seen"), f"/mask/{mask}/padding", 1, 2)


def rows_and_columns(low: Lowering, ids: str, mask: str, past: Sequence[str]) -> tuple[str, str]:
    """Numbers of the queries as a column, counted from the beginning of the cache, and of the keys as a row. A mask is
    as long as cache and tokens together."""
    names = "/mask/rows", "/mask/columns"
    if names[0] not in low.made:
        rows, start = low.row_numbers(ids, "" if mask else "".join(past[:1]), mask)
        low.unsqueeze(rows, names[0], 1)
        columns = low.op("Range", [low.integer(0), start, low.integer(1)], "/mask/column_numbers", output_type="INT64")
        low.unsqueeze(columns, names[1], 0)
    return names


def relative_bias(low: Lowering, node: Node) -> None:
    """[batch, heads, sequence, past + sequence]: a bias, plus a number for each head by how far two tokens are apart.
    buckets: the row of the table for the distances from -n to n; what is farther counts as n."""
    ids, table, buckets, bias, *past = node.inputs
    name, furthest = node.outputs[0], node.get("furthest")
    rows, columns = rows_and_columns(low, ids, "", past)
    base = f"/mask{buckets}"

    def bucketed() -> None:
        distance = low.op("Subtract", [columns, rows], f"{base}/distance")
        below = low.op("Minimum", [distance, low.integer(furthest)], f"{base}/below")
        near = low.op("Maximum", [below, low.integer(-furthest)], f"{base}/near")
        place = low.op("Add", [near, low.integer(furthest)], f"{base}/place")
        low.op("Gather", [buckets, place, low.integer(0)], f"{base}/rows")

    found = low.op("Gather", [table, low.once(f"{base}/rows", bucketed), low.integer(0)], f"{name}/picked")
    turned = low.op("Transpose", [found, low.integers(2, 0, 1)], f"{name}/turned")
    low.op("Add", [bias, low.unsqueeze(turned, f"{name}/heads", 0)], name)


def _grown(low: Lowering, past: str, present: str, new: str) -> str:
    """Keys or values of all tokens so far: those of the state, in the order of the beams, and the new ones."""
    chosen = low.op("Gather", [low.read(past), "beam_idx", low.integer(0)], f"{present}/chosen")
    whole = low.op("Concat", [chosen, new], present, axis=-2)
    low.op("Assign", [whole], f"{present}/assign", variable_id=low.past[past].variable)
    return whole


def attention(low: Lowering, node: Node) -> None:
    query, key, value, bias, *past = node.inputs
    present = node.outputs[1:]
    heads, kv_heads = node.get("heads"), node.get("kv_heads")
    query, key, value = low.turn(query, heads), low.turn(key, kv_heads), low.turn(value, kv_heads)
    if past:
        key, value = (_grown(low, past[i], present[i], new) for i, new in enumerate((key, value)))
    if heads != kv_heads:
        key, value = (_repeated(low, x, heads, kv_heads) for x in (key, value))
    if node.get("softcap"):
        mixed = _capped_attention(low, (query, key, value, bias), node)
    else:
        mixed = _scaled_attention(low, (query, key, value, bias), node)
    _joined(low, mixed, node)


def cross_attention(low: Lowering, node: Node) -> None:
    """Attention to keys and values that are [batch, heads, sequence, size] already."""
    query, keys, values, bias = node.inputs
    query = low.turn(query, node.get("heads"))
    _joined(low, _scaled_attention(low, (query, keys, values, bias), node), node)


def split_heads(low: Lowering, node: Node) -> None:
    """[batch, heads, sequence, size]."""
    apart = low.heads(node.inputs[0], node.get("heads"))
    low.op("Transpose", [apart, low.integers(0, 2, 1, 3)], node.outputs[0])


def _scaled_attention(low: Lowering, parts: Sequence[str], node: Node) -> str:
    """A scale needs a mask before it: the number 0 is none."""
    query, key, value, bias = parts
    inputs = [query, key, value, bias or low.scalar(0.0), low.scalar(node.get("scale"))]
    return low.op("ScaledDotProductAttention", inputs, f"{node.outputs[0]}/mixed", causal=False)


def _joined(low: Lowering, mixed: str, node: Node) -> None:
    """Heads side by side again."""
    name = node.outputs[0]
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
