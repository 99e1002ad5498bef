"""Structural nodes to the standard operator set of ONNX: version 23, no operator of another domain.

Source: docs/Operators.md of ONNX 1.23. All of this runs in ONNX Runtime 1.32 on a CPU, in float32 and in float16. What
few models need stands beside it: `lower_masks`, `lower_experts`, `lower_stacks`, `lower_pictures`.
"""

from __future__ import annotations

from modelfmt.graphs import lower_experts, lower_masks, lower_pictures, lower_stacks
from modelfmt.graphs.builder import Form
from modelfmt.graphs.lowering import MICROSOFT, Lowering, Table, activate, nbits
from modelfmt.ir.graph import Graph, Node, Program

__all__ = ["LOWERINGS", "lower", "waves"]


def lower(graph: Graph, form: Form) -> tuple[Program, list[str]]:
    """A program of standard nodes that computes what a structural graph says, and what is to be said of it. Raises
    UnsupportedError."""
    return Lowering(graph, form, LOWERINGS).run(), []


def _cast_weight(low: Lowering, node: Node) -> None:
    low.op("Cast", node.inputs, node.outputs[0], to=10 if low.float_type == "FLOAT16" else 1)


def _embedding(low: Lowering, node: Node) -> None:
    ids, table = node.inputs
    low.op("Gather", [table, low.tokens(ids)], low.result(node))


def _linear(low: Lowering, node: Node) -> None:
    turned = node.get("transposed", 0)
    low.op("Gemm", [low.hidden(node.inputs[0]), *node.inputs[1:]], low.result(node), transB=None if turned else 1)


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


def _rms_norm(low: Lowering, node: Node) -> None:
    x, weight = node.inputs
    heads, epsilon = node.get("heads"), node.get("epsilon")
    if heads is None:
        low.op("RMSNormalization", [low.hidden(x), weight], low.result(node), epsilon=epsilon, axis=-1)
        return
    name = node.outputs[0]
    parts = low.op("Reshape", [low.hidden(x), low.integers("/shape/heads", [0, heads, -1])], f"{name}/heads")
    low.op("RMSNormalization", [parts, weight], f"{name}/normed", epsilon=epsilon, axis=-1)
    low.op("Reshape", [f"{name}/normed", low.integers("/shape/merged", [0, -1])], low.result(node))


def _layer_norm(low: Lowering, node: Node) -> None:
    inputs = [low.hidden(node.inputs[0]), *node.inputs[1:]]
    low.op("LayerNormalization", inputs, low.result(node), epsilon=node.get("epsilon"), axis=-1)


def _scale(low: Lowering, node: Node) -> None:
    low.op("Mul", [low.hidden(node.inputs[0]), low.scalar(node.get("factor"))], low.result(node))


def _softcap(low: Lowering, node: Node) -> None:
    name, cap = node.outputs[0], node.get("cap")
    part = low.op("Div", [low.hidden(node.inputs[0]), low.scalar(cap)], f"{name}/divided")
    low.op("Mul", [low.op("Tanh", [part], f"{name}/bounded"), low.scalar(cap)], low.result(node))


def _activation(low: Lowering, node: Node) -> None:
    kind, x = node.get("kind").decode(), low.hidden(node.inputs[0])
    activate(low, kind, x, low.result(node))


def _split(low: Lowering, node: Node) -> None:
    names = []
    for name in node.outputs:
        low.flat[name] = name
        names.append(name)
    sizes = low.integers("/shape/split", node.get("sizes"))
    low.nodes("Split", [low.hidden(node.inputs[0]), sizes], names, domain="", axis=-1)


def _rope_table(low: Lowering, node: Node) -> None:
    """position [batch, sequence] times frequency [rotated / 2], in float32."""
    positions, frequencies, *long = node.inputs
    base = node.outputs[0].removesuffix("/cos_out")
    if long:
        frequencies = _longer(low, positions, frequencies, long[0], node.get("original"), base)
    real = low.op("Cast", [positions], f"{base}/positions_out", to=1)
    column = low.op("Unsqueeze", [real, low.integers("/axes", [2])], f"{base}/column_out")
    waves(low, node, low.op("Mul", [column, frequencies], f"{base}/angles_out"))


def waves(low: Lowering, node: Node, angles: str) -> None:
    """Cosine and sine of angles as a table's outputs, scaled."""
    base = node.outputs[0].removesuffix("/cos_out")
    for op, name in zip(("Cos", "Sin"), node.outputs, strict=True):
        made = low.op(op, [angles], f"{name}/plain")
        scale = node.get("scale")
        if scale != 1.0:
            import numpy as np

            factor = low.constant(f"{base}/scale", np.array(scale, np.float32))
            made = low.op("Mul", [made, factor], f"{name}/scaled")
        low.op("Cast", [made], name, to=10 if low.float_type == "FLOAT16" else 1)


def _longer(low: Lowering, positions: str, short: str, long: str, original: int, base: str) -> str:
    """The frequencies for short texts or for long ones, by the last position."""
    largest = low.op("ReduceMax", [positions], f"{base}/largest_out", keepdims=0)
    import numpy as np

    bound = low.constant(f"{base}/original", np.array(original, np.int64))
    beyond = low.op("GreaterOrEqual", [largest, bound], f"{base}/beyond_out")
    return low.op("Where", [beyond, long, short], f"{base}/chosen_out")


def _rope(low: Lowering, node: Node) -> None:
    x, cos, sin = node.inputs
    name = node.outputs[0]
    rotated = node.get("rotated")
    low.sequences[name] = low.op(
        "RotaryEmbedding",
        [low.sequence(x), cos, sin],
        name,
        num_heads=node.get("heads"),
        interleaved=1 if node.get("interleaved") else None,
        rotary_embedding_dim=rotated,
    )


def _pool(low: Lowering, node: Node) -> None:
    """One vector for each text, in float32 on the way."""
    import numpy as np

    x, mask = node.inputs
    name, kind = node.outputs[0], node.get("kind").decode()
    states = low.op("Cast", [low.sequence(x)], f"{name}/states", to=1)
    if kind == "mean":
        seen = low.op("Cast", [mask], f"{name}/seen", to=1)
        column = low.op("Unsqueeze", [seen, low.integers("/axes", [2])], f"{name}/column")
        total = low.op("Mul", [states, column], f"{name}/kept")
        axis = low.integers("/axes", [1])
        total = low.op("ReduceSum", [total, axis], f"{name}/total", keepdims=0)
        count = low.op("ReduceSum", [column, axis], f"{name}/count", keepdims=0)
        least = low.constant("/least", np.array(1e-9, np.float32))
        made = low.op("Div", [total, low.op("Max", [count, least], f"{name}/counted")], f"{name}/mean")
    elif kind == "cls":
        made = low.op("Gather", [states, low.constant("/zero", np.array(0, np.int64))], f"{name}/first", axis=1)
    else:
        last = low.op("ArgMax", [mask], f"{name}/last", axis=1, keepdims=1, select_last_index=1)
        made = low.op("GatherND", [states, last], f"{name}/picked", batch_dims=1)
    if node.get("normalised"):
        length = low.op("ReduceL2", [made, low.integers("/axes", [-1])], f"{name}/norm")
        tiny = low.constant("/tiny", np.array(1e-12, np.float32))
        made = low.op("Div", [made, low.op("Max", [length, tiny], f"{name}/length")], f"{name}/unit")
    low.op("Cast", [made], name, to=10 if low.float_type == "FLOAT16" else 1)


def _attention(low: Lowering, node: Node) -> None:
    query, key, value, bias, *past = node.inputs
    name = node.outputs[0]
    low.sequences[name] = f"{name}/sequence"
    low.origins[name] = low.origin(query)
    inputs = [low.sequence(query), low.sequence(key), low.sequence(value)]
    inputs += [bias, *past] if bias or past else []
    heads, head_kv, softcap = node.get("heads"), node.get("kv_heads"), node.get("softcap")
    shape = {"q_num_heads": heads, "kv_num_heads": head_kv, "scale": node.get("scale"), "softcap": softcap}
    low.nodes("Attention", inputs, [low.sequences[name], *node.outputs[1:]], domain="", **shape)
    merged = low.integers("/shape/width", [-1, node.get("width")])
    low.flat[name] = low.op("Reshape", [low.sequences[name], merged], name)


LOWERINGS: Table = {
    "Activation": _activation,
    "Attention": _attention,
    "BlockEmbedding": _block_embedding,
    "BlockLinear": _block_linear,
    "CastWeight": _cast_weight,
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "Pool": _pool,
    "Linear": _linear,
    "RMSNorm": _rms_norm,
    "RoPE": _rope,
    "RopeTable": _rope_table,
    "Scale": _scale,
    "Softcap": _softcap,
    "SplitColumns": _split,
    **lower_experts.LOWERINGS,
    **lower_masks.LOWERINGS,
    **lower_pictures.LOWERINGS,
    **lower_stacks.LOWERINGS,
}
"""Structural operation -> what lowers it."""
