"""Structural nodes to ONNX Runtime's own operators (domain com.microsoft) where these say it, else to standard ones.

Attention over a cache is GroupQueryAttention, with the rotary positions in it; a sum and the norm behind it are one
node. Two forms: `ort` has position_ids and a mask of padding, so that texts may be padded on either side and go on by
any number of tokens; `ort-genai` counts the tokens of each text by attention_mask, as onnxruntime-genai's builder does:
padding behind the texts, no position_ids where rotary positions lie in the attention, caches that may be longer than
what is in them. Source: ONNX Runtime 1.32, docs/ContribOperators.md and contrib_ops/cpu/bert/group_query_attention*.
"""

from __future__ import annotations

from typing import Any

from modelfmt.graphs import standard
from modelfmt.graphs.builder import STRUCTURAL, Form
from modelfmt.graphs.standard import LOWEST, MICROSOFT, Lowering, Table
from modelfmt.ir.graph import Graph, Node, Program

__all__ = ["GENAI", "PROFILES", "lower"]

GENAI = "ort-genai"
PROFILES = ("ort", GENAI)

_HEAD, _TURNED = 8, 16
"""What the size of a head is a multiple of; with rotary positions inside, both it and how much of it is turned."""

_CACHED = 6
"""Inputs of an Attention node with a cache."""

_NORMS = ("RMSNorm", "LayerNorm")
_ATTENTION = ("Attention", "AttentionBias", "RoPE", "RopeTable")


def lower(graph: Graph, form: Form) -> tuple[Program, list[str]]:
    """A program with com.microsoft's nodes, and what is in standard ones though it was asked for. Raises
    UnsupportedError."""
    other = _unfit(graph)
    table = LOWERINGS if other is None else {**LOWERINGS, **{op: standard.LOWERINGS[op] for op in _ATTENTION}}
    program = Lowering(_joined(graph), form, table).run()
    if form.profile == GENAI:
        used = {name for node in program.graph.nodes for name in node.inputs}
        program.graph.inputs = [value for value in program.graph.inputs if value.name in used]
    return program, [] if other is None else [f"{other}: attention is in standard operators"]


def _unfit(graph: Graph) -> str | None:
    """Why GroupQueryAttention cannot say the attention of a graph; None where it can."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    attentions = [node for node in graph.nodes if node.op == "Attention"]
    if not all(len(node.inputs) == _CACHED and makers[node.inputs[3]].get("causal") for node in attentions):
        return "GroupQueryAttention is for decoders with a cache"
    sizes = {node.get("width") // node.get("heads") for node in attentions}
    odd = [size for size in sorted(sizes) if size % _HEAD]
    return f"GroupQueryAttention wants heads of a multiple of {_HEAD}, not of {odd[0]} values" if odd else None


def _joined(graph: Graph) -> Graph:
    """The graph with each sum and the norm of it as one node, in the place of the sum."""
    norms = {node.inputs[0]: node for node in graph.nodes if node.op in _NORMS and node.get("heads") is None}
    nodes, taken = [], set()
    for node in graph.nodes:
        norm = norms.get(node.outputs[0]) if node.op == "Add" and node.domain == "" else None
        if id(node) in taken:
            continue
        if norm is not None:
            taken.add(id(norm))
            inputs, outputs = [*node.inputs, *norm.inputs[1:]], [norm.outputs[0], node.outputs[0]]
            node = Node(f"Sum{norm.op}", inputs, outputs, norm.attributes, STRUCTURAL, name=norm.name)
        nodes.append(node)
    made = Graph(graph.name, inputs=graph.inputs, outputs=graph.outputs, nodes=nodes)
    made.tensors.update(graph.tensors)
    return made


def _sum_norm(low: Lowering, node: Node) -> None:
    """Of a sum: the norm, and the sum itself."""
    x, more, *weights = node.inputs
    normed, total = node.outputs
    op = "SkipLayerNormalization" if node.op == "SumLayerNorm" else "SkipSimplifiedLayerNormalization"
    low.flat[total] = total
    low.nodes(
        op,
        [low.hidden(x), low.hidden(more), *weights],
        [low.result(Node("", [], [normed])), "", "", total],
        domain=MICROSOFT,
        epsilon=node.get("epsilon"),
    )


def _inside(low: Lowering, rope: Node) -> bool:
    """Whether GroupQueryAttention can turn what this node turns: one table of frequencies, sizes that it takes."""
    table = low.makers[rope.inputs[1]]
    return table.get("original") is None and rope.get("rotated") % _TURNED == 0 and rope.get("size") % _TURNED == 0


def _rope(low: Lowering, node: Node) -> None:
    if not _inside(low, node):
        standard.LOWERINGS["RoPE"](low, node)
        return
    low.sequences[node.outputs[0]] = low.sequence(node.inputs[0])


def _rope_table(low: Lowering, node: Node) -> None:
    """Cosine and sine of every position of the context: constants that ONNX Runtime computes as it loads the model."""
    import numpy as np

    users = [other for other in low.source.nodes if other.op == "RoPE" and other.inputs[1] == node.outputs[0]]
    if not all(_inside(low, other) for other in users):
        standard.LOWERINGS["RopeTable"](low, node)
        return
    base = node.outputs[0].removesuffix("/cos_out")
    numbers = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    end = low.constant(f"/context {node.get('context')}", np.array(node.get("context"), np.int64))
    positions = low.op("Range", [numbers[0], end, numbers[1]], f"{base}/range_out")
    real = low.op("Cast", [positions], f"{base}/positions_out", to=1)
    column = low.op("Unsqueeze", [real, low.integers("/axes", [1])], f"{base}/column_out")
    angles = low.op("Mul", [column, node.inputs[1]], f"{base}/angles_out")
    standard.waves(low, node, angles)


def _attention_bias(low: Lowering, node: Node) -> None:
    """The lengths that GroupQueryAttention wants, and, for `ort`, what is added to the scores of padding."""
    low.once("/lengths/total_out", lambda: _lengths(low, *node.inputs[:2]))


def _lengths(low: Lowering, ids: str, mask: str) -> None:
    """int32: tokens of the longest text with its cache; of each text, less one; new ones of each."""
    total = low.op("Shape", [mask], "/lengths/shape_out", start=1, end=2)
    low.op("Cast", [low.op("Squeeze", [total], "/lengths/longest_out")], "/lengths/total_out", to=6)
    one = low.integers("/ones", [1])
    if low.form.profile == GENAI:
        counted = low.op("ReduceSum", [mask, one], "/lengths/counted_out", keepdims=0)
        low.op("Cast", [low.op("Sub", [counted, one], "/lengths/last_out")], "/lengths/texts_out", to=6)
        return
    batch = low.op("Shape", [ids], "/lengths/batch_out", start=0, end=1)
    new = low.op("Shape", [ids], "/lengths/sequence_out", start=1, end=2)
    last = low.op("Sub", [total, one], "/lengths/last_out")
    for length, name in ((last, "texts"), (new, "new")):
        low.op("Cast", [low.op("Expand", [length, batch], f"/lengths/{name}_wide")], f"/lengths/{name}_out", to=6)
    seen = low.op("Cast", [mask], "/mask/seen_out", to=9)
    added = low.op("Where", [seen, low.scalar(0.0), low.scalar(LOWEST[low.float_type])], "/mask/added_out")
    row = low.op("Unsqueeze", [added, low.integers("/axes", [1, 2])], "/mask/row_out")
    square = low.op("Concat", [one, one, new, one], "/mask/square_out", axis=0)
    low.op("Expand", [row, square], "/mask/padding_out")


def _attention(low: Lowering, node: Node) -> None:
    query, key, value, bias, *past = node.inputs
    name, rope = node.outputs[0], low.makers[query]
    turned = rope.op == "RoPE" and _inside(low, rope)
    inputs = [low.sequence(query), low.sequence(key), low.sequence(value), *past]
    inputs += ["/lengths/texts_out", "/lengths/total_out", *(rope.inputs[1:3] if turned else ("", ""))]
    if low.form.profile != GENAI:
        inputs += ["position_ids" if turned else "", "/mask/padding_out", *("", "", "", "", ""), "/lengths/new_out"]
    elif not turned:
        inputs = inputs[:-2]
    made = low.sequences[name] = f"{name}/sequence"
    given: dict[str, Any] = {"do_rotary": 1 if turned else None, "softcap": node.get("softcap")}
    given["rotary_interleaved"] = 1 if turned and rope.get("interleaved") else None
    given["local_window_size"] = low.makers[bias].get("window")
    shape = {"num_heads": node.get("heads"), "kv_num_heads": node.get("kv_heads"), "scale": node.get("scale")}
    low.nodes("GroupQueryAttention", inputs, [made, *node.outputs[1:]], domain=MICROSOFT, **shape, **given)
    low.flat[name] = low.op("Reshape", [made, low.integers("/shape/width", [-1, node.get("width")])], name)


LOWERINGS: Table = {
    **standard.LOWERINGS,
    "Attention": _attention,
    "AttentionBias": _attention_bias,
    "RoPE": _rope,
    "RopeTable": _rope_table,
    "SumLayerNorm": _sum_norm,
    "SumRMSNorm": _sum_norm,
}
"""Structural operation -> what lowers it: the standard table, with rows of com.microsoft's operators."""
