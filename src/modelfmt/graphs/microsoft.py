"""Structural nodes to ONNX Runtime's own operators (domain com.microsoft) where these say it, else to standard ones.

Attention over a cache is GroupQueryAttention, with the rotary positions in it; a sum and the norm behind it are one
node. Two forms: `ort` has position_ids and a mask of padding, so that texts may be padded on either side and go on by
any number of tokens; `ort-genai` counts the tokens of each text by attention_mask, as onnxruntime-genai's builder does:
padding behind the texts, no position_ids where rotary positions lie in the attention, caches that may be longer than
what is in them. Source: ONNX Runtime 1.32, docs/ContribOperators.md and contrib_ops/cpu/bert/group_query_attention*.
"""

from __future__ import annotations

from math import prod
from typing import Any

from msgspec.structs import replace

from modelfmt.graphs import standard
from modelfmt.graphs.builder import STRUCTURAL, Form
from modelfmt.graphs.lower_experts import expert_parts
from modelfmt.graphs.lowering import LOWEST, MICROSOFT, Lowering, Table
from modelfmt.ir.graph import Graph, GraphTensor, Node, Program
from modelfmt.ir.ops import Reshape, Stack, Swap

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
    biases = [makers.get(node.inputs[3]) if len(node.inputs) == _CACHED else None for node in attentions]
    if not all(bias is not None and _causal(bias) for bias in biases):
        return "GroupQueryAttention is for decoders with a cache and a mask"
    sizes = {node.get("width") // node.get("heads") for node in attentions}
    odd = [size for size in sorted(sizes) if size % _HEAD]
    return f"GroupQueryAttention wants heads of a multiple of {_HEAD}, not of {odd[0]} values" if odd else None


def _causal(bias: Node) -> bool:
    """Whether scores get a bias that GroupQueryAttention knows by itself: order, windows, the padding of a mask."""
    return bias.op == "AttentionBias" and bool(bias.get("causal") and bias.inputs[1])


def _joined(graph: Graph) -> Graph:
    """The graph with each sum and the norm that is the first to use it as one node, in the place of the norm."""
    first: dict[str, Node] = {}
    for node in graph.nodes:
        for name in node.inputs:
            first.setdefault(name, node)
    sums, nodes = {}, []
    for node in graph.nodes:
        user = first.get(node.outputs[0]) if node.op == "Add" and node.domain == "" else None
        if user is not None and user.op in _NORMS and user.get("heads") is None and user.inputs[0] == node.outputs[0]:
            sums[node.outputs[0]] = node
        elif node.inputs and node.op in _NORMS and node is first.get(node.inputs[0]) and node.inputs[0] in sums:
            added = sums[node.inputs[0]]
            inputs, outputs = [*added.inputs, *node.inputs[1:]], [node.outputs[0], added.outputs[0]]
            nodes.append(Node(f"Sum{node.op}", inputs, outputs, node.attributes, STRUCTURAL, name=node.name))
        else:
            nodes.append(node)
    made = Graph(graph.name, inputs=graph.inputs, outputs=graph.outputs, nodes=nodes)
    made.tensors.update(graph.tensors)
    return made


def _block_embedding(low: Lowering, node: Node) -> None:
    """Rows of a table in blocks; where its codes are those of a linear layer, too, in the shape of that."""
    ids, codes, scales, *zeros = node.inputs
    tensor = low.graph.tensors[codes]
    if zeros and low.graph.tensors[zeros[0]].type != "UINT8":
        standard.LOWERINGS["BlockEmbedding"](low, node)
        return
    rows = f"{codes}_rows"
    if any(other.op == "BlockLinear" and codes in other.inputs for other in low.source.nodes):
        low.op("Reshape", [codes, low.integers("/shape/merged", [0, -1])], rows)
    else:
        low.graph.tensors[rows] = replace(tensor, name=rows, shape=(tensor.shape[0], prod(tensor.shape[1:])))
    sizes = {"bits": node.get("bits"), "block_size": node.get("block"), "gather_axis": 0, "quantize_axis": 1}
    inputs = [rows, low.tokens(ids), scales, *zeros]
    low.nodes("GatherBlockQuantized", inputs, [low.result(node)], domain=MICROSOFT, **sizes)


def _sum_norm(low: Lowering, node: Node) -> None:
    """Of a sum: the norm, and the sum itself."""
    x, more, *weights = node.inputs
    made = [low.result(Node("", [], [name])) for name in node.outputs]
    op = "SkipLayerNormalization" if node.op == "SumLayerNorm" else "SkipSimplifiedLayerNormalization"
    low.nodes(
        op,
        [low.hidden(x), low.hidden(more), *weights],
        [made[0], "", "", made[1]],
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


def _experts(low: Lowering, node: Node) -> None:
    """QMoE where every matrix has four bits in blocks of one size (with eight it rounds what it multiplies), and shares
    are normalised; else the loop over experts. Rows of gate and up take turns, as its kernel wants them."""
    x, router = node.inputs[:2]
    parts = expert_parts(node)
    kinds = {(bits, block, low.types(names)[2]) for names, (_, _, bits, block) in parts}
    bits, block, zeros = next(iter(kinds))
    taken = len(kinds) == 1 and bits == 4 and zeros in ("", "UINT8")
    if not taken or not node.get("normalised") or node.get("activation") != b"silu":
        standard.LOWERINGS["BlockMoE"](low, node)
        return
    gate, up, down = (names for names, _ in parts)
    name, tokens = node.outputs[0], low.hidden(x)
    both = [_in_turn(low, one, other, f"{name}/gate_up") for one, other in zip(gate, up, strict=True)]
    last = [_flat_codes(low, down[0]), *down[1:]]
    inputs = [tokens, low.op("Gemm", [tokens, router], f"{name}/scores", transB=1)]
    inputs += [*both[:2], "", *last[:2], "", "", "", "", both[2], last[2]]
    given = {"expert_weight_bits": 4, "block_size": block, "k": node.get("used"), "normalize_routing_weights": 1}
    given["accuracy_level"] = low.form.accuracy_level
    shape = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
    while not inputs[-1]:
        inputs.pop()
    low.nodes("QMoE", inputs, [low.result(node)], domain=MICROSOFT, **given, **shape)


def _in_turn(low: Lowering, one: str, other: str, base: str) -> str:
    """Rows of two constants [experts, n, ..] in turn, [experts, 2 * n, ..]."""
    if not one:
        return ""
    tensors = [low.graph.tensors[name] for name in (one, other)]
    count, rows = tensors[0].shape[:2]
    parts = tuple(Reshape(t.data, (count * rows, t.data.shape[-1])) for t in tensors if t.data is not None)
    expr = Reshape(Swap(Stack(parts), 0), (count, 2 * rows, parts[0].shape[-1]))
    name = base + one[one.rindex("_") :]
    low.graph.tensors[name] = GraphTensor(name, tensors[0].type, expr.shape, expr)
    return name


def _flat_codes(low: Lowering, codes: str) -> str:
    """Codes [experts, n, blocks, bytes] as [experts, n, bytes of a row]."""
    tensor = low.graph.tensors[codes]
    count, rows, *row = tensor.shape
    low.graph.tensors[codes] = replace(tensor, shape=(count, rows, prod(row)))
    return codes


LOWERINGS: Table = {
    **standard.LOWERINGS,
    "Attention": _attention,
    "AttentionBias": _attention_bias,
    "BlockEmbedding": _block_embedding,
    "BlockMoE": _experts,
    "RoPE": _rope,
    "RopeTable": _rope_table,
    "SumLayerNorm": _sum_norm,
    "SumRMSNorm": _sum_norm,
}
"""Structural operation -> what lowers it: the standard table, with rows of com.microsoft's operators."""
