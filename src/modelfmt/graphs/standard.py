"""Structural nodes to the standard operator set of ONNX: version 23, no operator of another domain.

Hidden states become [batch * sequence, width] on the way, so that a weight stays [out, in] as the checkpoint has it
and a linear layer is one Gemm; values are given back their sequence where an operator needs it. Source:
docs/Operators.md of ONNX 1.23. All of this runs in ONNX Runtime 1.32 on a CPU, in float32 and in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs import lower_pictures, lower_stacks
from modelfmt.graphs.builder import STRUCTURAL, Builder, Form, attribute
from modelfmt.ir.graph import Graph, GraphTensor, Node, Program
from modelfmt.ir.ops import Numbers, Packed

__all__ = [
    "IR_VERSION",
    "LOWERINGS",
    "LOWEST",
    "MICROSOFT",
    "OPSET",
    "Lowering",
    "Table",
    "expert_parts",
    "lower",
    "waves",
]

OPSET, IR_VERSION = 23, 11
MICROSOFT = "com.microsoft"

LOWEST = {"FLOAT": -3.4028234663852886e38, "FLOAT16": -32752.0}
"""What is added to the score of a token that must not be seen: no infinity, since rows may have nothing else."""


def lower(graph: Graph, form: Form) -> tuple[Program, list[str]]:
    """A program of standard nodes that computes what a structural graph says, and what is to be said of it. Raises
    UnsupportedError."""
    return Lowering(graph, form, LOWERINGS).run(), []


class Lowering(Builder):
    """Standard nodes under construction. Values of the structural graph keep their names; `flat` has the name of each
    as [tokens, width], `sequences` as [batch, sequence, width], `origins` a value whose first two axes are its batch
    and sequence, `widths` the width of those that are sequences first; `makers` the structural node that makes it."""

    def __init__(self, source: Graph, form: Form, table: Table) -> None:
        super().__init__(source.name, form)
        self.source, self.table = source, table
        self.makers = {name: node for node in source.nodes for name in node.outputs}
        self.graph.inputs, self.graph.outputs = source.inputs, source.outputs
        self.graph.tensors = dict(source.tensors)
        self.flat: dict[str, str] = {}
        self.sequences: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.widths: dict[str, int] = {}
        self.wanted = {value.name for value in source.outputs}
        for value in source.inputs:
            if value.role == "hidden":
                self.made_sequence(value.name, lower_stacks.width_of(value))

    def inner(self, graph: Graph) -> Lowering:
        """A lowering of a graph inside of a node: it sees what is here, and its constants are constants here."""
        made = Lowering(graph, self.form, self.table)
        made.graph.tensors, made.made = self.graph.tensors, set(self.made)
        made.flat, made.sequences = dict(self.flat), dict(self.sequences)
        made.origins, made.widths = dict(self.origins), dict(self.widths)
        return made

    def run(self) -> Program:
        """The program of the whole graph. Raises UnsupportedError."""
        for node in self.source.nodes:
            if node.domain not in (STRUCTURAL, ""):
                raise UnsupportedError("a node of a domain that is not lowered", code="lowering", found=node.domain)
            self.add(node)
        self.finish()
        self.drop_unused()
        opsets = {"": OPSET} | {node.domain: 1 for node in self.graph.nodes if node.domain}
        return Program(self.graph, opsets, ir_version=IR_VERSION, producer="modelfmt")

    def add(self, node: Node) -> None:
        """Lower one node. What it makes has the batch and the sequence of its first input."""
        self.lower(node)
        for name in node.outputs:
            self.origins.setdefault(name, self.origin(node.inputs[0]))

    def lower(self, node: Node) -> None:
        """The nodes for one node."""
        if node.domain == "" and node.op == "If":
            lower_stacks.choice(self, node)
        elif node.domain == "":
            _elementwise(self, node)
        elif node.op in self.table:
            self.table[node.op](self, node)
        else:
            raise UnsupportedError("no such structural operation", code="lowering", found=node.op)

    def finish(self) -> None:
        """Give outputs that are hidden states their sequence; those of two axes are one vector for each text."""
        for value in self.graph.outputs:
            flat = self.flat.get(value.name, value.name)
            if flat == value.name:
                continue
            if len(value.shape or ()) == 2:
                self.op("Identity", [flat], value.name)
            else:
                self.op("Reshape", [flat, self.sequence_shape(self.origin(value.name))], value.name)

    def drop_unused(self) -> None:
        """Leave out constants that no node needs any more."""
        used = {name for graph in _graphs(self.graph) for node in graph.nodes for name in node.inputs}
        used |= {value.name for value in self.graph.outputs}
        self.graph.tensors = {name: tensor for name, tensor in self.graph.tensors.items() if name in used}

    def op(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A standard node with one output."""
        return self.node(op, inputs, name, domain="", **attributes)

    def hidden(self, name: str) -> str:
        """A hidden state as [tokens, width]."""
        if name not in self.flat:
            shape = self.integers("/shape/width", [-1, self.widths[name]])
            self.flat[name] = self.op("Reshape", [self.sequences[name], shape], self.fresh(f"{name}/flat"))
        return self.flat[name]

    def origin(self, name: str) -> str:
        """The value whose first two axes are the batch and the sequence of another one."""
        return self.origins.get(name, name)

    def made_sequence(self, name: str, width: int) -> str:
        """Take a value for a hidden state that is [batch, sequence, width]; returns its name."""
        self.sequences[name], self.origins[name], self.widths[name] = name, name, width
        return name

    def sequence(self, name: str) -> str:
        """A hidden state as [batch, sequence, width]."""
        if name not in self.sequences:
            shape = self.sequence_shape(self.origin(name))
            self.sequences[name] = self.op("Reshape", [self.hidden(name), shape], self.fresh(f"{name}/sequence"))
        return self.sequences[name]

    def result(self, node: Node) -> str:
        """The name of what a node makes, as [tokens, width]."""
        name = node.outputs[0]
        made = f"{name}/flat" if name in self.wanted else name
        self.flat[name] = made
        return made

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant of integers."""
        import numpy as np

        return self.constant(f"{name} {list(values)}", np.array(values, np.int64))

    def tokens(self, ids: str) -> str:
        """Ids [batch, sequence] in one row."""
        name = f"/shape/{ids}_flat"
        return self.once(name, lambda: self.op("Reshape", [ids, self.integers("/shape/all", [-1])], name))

    def integer(self, name: str, shape: tuple[int, ...], bits: int, *, signed: bool) -> str:
        """Packed codes or zero points as a constant of integers, instead of bytes. signed: codes with a zero in the
        middle of their range as numbers around 0."""
        own = f"{name.removesuffix('_codes')}_quantized"
        if own not in self.graph.tensors:
            expr = self.graph.tensors[name].data
            assert isinstance(expr, Packed | Numbers)
            if signed and isinstance(expr, Packed):
                packing = msgspec.structs.replace(expr.packing, flip=1 << (bits - 1))
                expr = msgspec.structs.replace(expr, packing=packing)
            self.graph.tensors[own] = GraphTensor(own, f"{'' if signed else 'U'}INT{bits}", shape, expr)
        return own

    def types(self, names: Sequence[str]) -> tuple[str, ...]:
        """Types of constants, empty for one that is not there."""
        return tuple(self.graph.tensors[name].type if name else "" for name in names)

    def scalar(self, value: float) -> str:
        """A constant number in the graph's type."""
        import numpy as np

        dtype = np.float16 if self.float_type == "FLOAT16" else np.float32
        return self.constant(f"/number {value!r}", np.array(value, dtype))

    def once(self, name: str, make: Callable[[], object]) -> str:
        """The value called `name`, made where it is not there yet."""
        if name not in self.made:
            make()
        return name

    def sequence_shape(self, origin: str) -> str:
        """[batch, sequence, -1], as another value has them."""
        name = f"/shape/{origin.strip('/')}/sequence_out"

        def make() -> None:
            shape = self.op("Shape", [origin], f"{name}/known", start=0, end=2)
            self.op("Concat", [shape, self.integers("/shape/rest", [-1])], name, axis=0)

        return self.once(name, make)


def _graphs(graph: Graph) -> list[Graph]:
    inner = [attribute.value for node in graph.nodes for attribute in node.attributes.values()]
    return [graph, *(found for one in inner if isinstance(one, Graph) for found in _graphs(one))]


def _elementwise(low: Lowering, node: Node) -> None:
    """A standard node over hidden states."""
    if node.op == "Identity" and node.inputs[0] not in low.flat and node.inputs[0] not in low.sequences:
        low.op(node.op, node.inputs, node.outputs[0])
        return
    inputs = [low.hidden(name) for name in node.inputs]
    if node.op == "Identity":
        low.flat[node.outputs[0]] = inputs[0]
        return
    low.op(node.op, inputs, low.result(node), **node.attributes)


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
        sizes = _nbits(low, (n, k), node.get("bits"), node.get("block"))
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


def activate(low: Lowering, kind: str, x: str, name: str) -> str:
    """Nodes for an activation of a value."""
    if kind == "silu":
        return low.op("Mul", [x, low.op("Sigmoid", [x], f"{name}/sigmoid")], name)
    if kind in ("gelu", "gelu_tanh"):
        return low.op("Gelu", [x], name, approximate="tanh" if kind == "gelu_tanh" else None)
    if kind == "relu2":
        part = low.op("Relu", [x], f"{name}/relu")
        return low.op("Mul", [part, part], name)
    if kind == "quick_gelu":
        wide = low.op("Mul", [x, low.scalar(1.702)], f"{name}/wide")
        return low.op("Mul", [x, low.op("Sigmoid", [wide], f"{name}/sigmoid")], name)
    return low.op({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[kind], [x], name)


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


def _attention_bias(low: Lowering, node: Node) -> None:
    """[batch, 1, sequence, past + sequence] of zeros and large negative numbers. window: how near a token must be."""
    ids, mask, *past = node.inputs
    name, window = node.outputs[0], node.get("window")
    seen = low.once(f"/mask/{mask}/padding_out", lambda: _padding(low, mask)) if mask else ""
    if node.get("causal"):
        order = low.once("/mask/order_out", lambda: _order(low, ids, past))
        seen = low.op("And", [seen, order], f"{name}/causal") if seen else order
    else:  # ONNX Runtime wants a row for each query
        length = low.op("Shape", [ids], f"{name}/length", start=1, end=2)
        ones = low.integers("/ones", [1])
        square = low.op("Concat", [ones, ones, length, ones], f"{name}/square", axis=0)
        seen = low.op("Expand", [seen, square], f"{name}/expanded")
    if window is not None:
        rows, columns = rows_and_columns(low, ids, past)
        distance = low.op("Sub", [rows, columns], f"{name}/distance")
        distance = distance if node.get("causal") else low.op("Abs", [distance], f"{name}/apart")
        near = low.op("Less", [distance, low.integers("/mask/window", [window])], f"{name}/near")
        seen = low.op("And", [seen, near], f"{name}/window")
    low.op("Where", [seen, low.scalar(0.0), low.scalar(LOWEST[low.float_type])], name)


def _padding(low: Lowering, mask: str) -> None:
    real = low.op("Cast", [mask], f"/mask/{mask}/seen_out", to=9)
    low.op("Unsqueeze", [real, low.integers("/axes", [1, 2])], f"/mask/{mask}/padding_out")


def _order(low: Lowering, ids: str, past: Sequence[str]) -> None:
    """Whether key `column` lies at or before query `row`."""
    rows, columns = rows_and_columns(low, ids, past)
    low.op("LessOrEqual", [columns, rows], "/mask/order_out")


def rows_and_columns(low: Lowering, ids: str, past: Sequence[str]) -> tuple[str, str]:
    """Numbers of the queries as a column, counted from the beginning of the cache, and of the keys as a row."""
    import numpy as np

    names = "/mask/rows_out", "/mask/columns_out"
    if names[0] in low.made:
        return names
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    rows, total = row_numbers(low, ids, past)
    low.op("Unsqueeze", [rows, low.integers("/axes", [1])], names[0])
    columns = low.op("Range", [zero, total, one], "/mask/column_numbers_out")
    low.op("Unsqueeze", [columns, low.integers("/axes", [0])], names[1])
    return names


def row_numbers(low: Lowering, ids: str, past: Sequence[str]) -> tuple[str, str]:
    """Numbers of the queries, counted from the beginning of the cache, and the number of keys."""
    import numpy as np

    names = "/mask/row_numbers_out", "/mask/total_out"
    if names[0] in low.made:
        return names
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    length = low.op("Squeeze", [low.op("Shape", [ids], "/mask/ids_shape_out", start=1, end=2)], "/mask/length_out")
    start = zero
    if past:
        start = low.op(
            "Squeeze", [low.op("Shape", [past[0]], "/mask/past_shape_out", start=2, end=3)], "/mask/past_length_out"
        )
    low.op("Add", [start, length], names[1])
    low.op("Range", [start, names[1], one], names[0])
    return names


def _positions(low: Lowering, node: Node) -> None:
    """0, 1, .. for each text, behind the cache where there is one; with padding: counted over the tokens that are not
    this one."""
    import numpy as np

    ids, *past = node.inputs
    name, padding = node.outputs[0], node.get("padding")
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    shape = low.op("Shape", [ids], f"{name}/shape")
    if padding is None:
        low.op("Expand", [row_numbers(low, ids, past)[0], shape], name)
        return
    alike = low.op("Equal", [ids, low.constant(f"{name}/padding", np.array(padding, np.int64))], f"{name}/alike")
    real = low.op("Cast", [low.op("Not", [alike], f"{name}/unlike")], f"{name}/real", to=7)
    count = low.op("CumSum", [real, one], f"{name}/count")
    low.op("Max", [low.op("Sub", [count, one], f"{name}/from_zero"), zero], name)


def _mask_positions(low: Lowering, node: Node) -> None:
    """Positions counted over the tokens that a mask shows; 0 before them."""
    import numpy as np

    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    name = node.outputs[0]
    count = low.op("CumSum", [node.inputs[0], one], f"/{name}/count")
    low.op("Max", [low.op("Sub", [count, one], f"/{name}/from_zero"), zero], name)


def _zero_ids(low: Lowering, node: Node) -> None:
    low.op("Sub", [node.inputs[0], node.inputs[0]], node.outputs[0])


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
    inner, float_type = Lowering(Graph(f"{name}/expert"), low.form, LOWERINGS), low.float_type
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
        inner.nodes("MatMulNBits", [x, *picked], [name], domain=MICROSOFT, **_nbits(inner, (n, k), bits, block))
        return name
    if bits:
        picked = [inner.op("DequantizeLinear", picked, f"{name}/matrix", axis=1, block_size=block)]
    return inner.op("Gemm", [x, *picked], name, transB=1)


def _nbits(low: Lowering, shape: tuple[int, int], bits: int, block: int) -> dict[str, int]:
    n, k = shape
    return {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": low.form.accuracy_level}


Table = Mapping[str, Callable[[Lowering, Node], None]]

LOWERINGS: Table = {
    "Activation": _activation,
    "Attention": _attention,
    "AttentionBias": _attention_bias,
    "BlockEmbedding": _block_embedding,
    "BlockLinear": _block_linear,
    "BlockMoE": _experts,
    "CastWeight": _cast_weight,
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "Pool": _pool,
    "Positions": _positions,
    "ZeroIds": _zero_ids,
    "Linear": _linear,
    "MaskPositions": _mask_positions,
    "MoE": _experts,
    "RMSNorm": _rms_norm,
    "RoPE": _rope,
    "RopeTable": _rope_table,
    "Scale": _scale,
    "Softcap": _softcap,
    "SplitColumns": _split,
    **lower_stacks.LOWERINGS,
    **lower_pictures.LOWERINGS,
}
"""Structural operation -> what lowers it."""
