"""Structural nodes to the operators of OpenVINO, in the patterns that its plugins make one kernel of.

A decoder's cache is its state: ReadValue and Assign, named as optimum-intel names them, and an input `beam_idx` that
says which text of the batch before each one goes on from. Hidden states are [batch, sequence, width] throughout;
activations are float32 (a plugin chooses its own precision), weights what the checkpoint has, cast where they are used.
Source: common/transformations and intel_cpu/transformations of OpenVINO 2026.4; the tests look at the compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.builder import STRUCTURAL, Builder, Form
from modelfmt.graphs.openvino_ops import OPERATORS, Call, infer
from modelfmt.ir.graph import Attribute, Dim, Graph, Node, Program, Value
from modelfmt.ir.ops import Constant

__all__ = ["LOWERINGS", "PROFILE", "lower"]

PROFILE = "openvino"

_LOWEST = -65504.0
"""What is added to the score of a token that must not be seen: finite in float16, too, since rows may have nothing
else."""

ELEMENT_NAMES = {"FLOAT": "f32", "INT64": "i64", "INT32": "i32", "BOOL": "boolean"}


def lower(graph: Graph, form: Form) -> tuple[Program, list[str]]:
    """A program of OpenVINO's operators that computes what a structural graph says, and what is to be said of it.
    Raises UnsupportedError."""
    lowering = Lowering(graph, form)
    for node in graph.nodes:
        lowering.add(node)
    lowering.drop_unused()
    lowering.graph.values = list(lowering.values.values())
    return Program(lowering.graph), []


class Lowering(Builder):
    """OpenVINO's nodes under construction. values: what each value is. Of a value that is made of heads, `apart` has
    the name of [batch, sequence, heads, size], `turned` that of [batch, heads, sequence, size]. sizes: what is known of
    values that are sizes of others."""

    def __init__(self, source: Graph, form: Form) -> None:
        super().__init__(source.name, form)
        self.values: dict[str, Value] = {}
        self.apart: dict[str, str] = {}
        self.turned: dict[str, str] = {}
        self.sizes: dict[str, tuple[Dim, ...]] = {}
        self.graph.tensors = dict(source.tensors)
        self.past = {value.name: value for value in source.inputs if value.role.startswith("past ")}
        for value in source.inputs:
            if value.name not in self.past:
                self.input(value.name, value.type, value.shape or (), value.role)
        if self.past:
            self.input("beam_idx", "INT32", ("batch_size",), "beam_idx")
        self.graph.outputs = [value for value in source.outputs if not value.role.startswith("present ")]

    def input(self, name: str, type: str, shape: Any, role: str = "") -> str:
        self.values[name] = Value(name, type, shape, role)
        self.graph.inputs.append(self.values[name])
        return name

    def add(self, node: Node) -> None:
        """Lower one node."""
        found = (LOWERINGS if node.domain == STRUCTURAL else _SHARED).get(node.op)
        if found is None:
            raise UnsupportedError("no such operation is lowered", code="lowering", found=f"{node.domain}.{node.op}")
        found(self, node)

    def drop_unused(self) -> None:
        """Leave out constants that no node needs any more."""
        used = {name for node in self.graph.nodes for name in node.inputs}
        self.graph.tensors = {name: tensor for name, tensor in self.graph.tensors.items() if name in used}

    def value(self, name: str) -> Value:
        """What is known of a value or a constant."""
        if name in self.values:
            return self.values[name]
        tensor = self.graph.tensors[name]
        return Value(name, tensor.type, tensor.shape)

    def width(self, name: str) -> int:
        """The last size of a value, which is a number."""
        shape = self.value(name).shape or (None,)
        assert isinstance(shape[-1], int)
        return shape[-1]

    def ops(self, op: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """A node with several outputs. Attributes are of Python's types."""
        attributes = {**OPERATORS[op].usual, **attributes}
        call = Call([self.value(name) for name in inputs], attributes, lambda place: self.numbers(inputs[place]))
        for name, (kind, shape) in zip(names, infer(op, call), strict=True):
            self.values[name] = Value(name, kind, shape)
        given = {key: Attribute(key, "STRING", _text(value).encode()) for key, value in attributes.items()}
        return self.nodes(op, inputs, names, domain=OPERATORS[op].version, **given)

    def op(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(op, inputs, (name,), **attributes)[0]

    def numbers(self, name: str) -> Sequence[Dim]:
        """The numbers of a constant of integers, or of a value that is made of sizes."""
        import numpy as np

        if name in self.sizes:
            return self.sizes[name]
        data = self.graph.tensors[name].data
        assert isinstance(data, Constant)
        return [int(number) for number in np.frombuffer(data.data, np.int64)]

    def integers(self, *values: int) -> str:
        """A constant row of integers."""
        import numpy as np

        return self.constant(f"/integers {list(values)}", np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant integer."""
        import numpy as np

        return self.constant(f"/integer {value}", np.array(value, np.int64))

    def scalar(self, value: float) -> str:
        """A constant number."""
        import numpy as np

        return self.constant(f"/number {value!r}", np.array(value, np.float32))

    def once(self, name: str, make: Callable[[], object]) -> str:
        """The value called `name`, made where it is not there yet."""
        if name not in self.made:
            make()
        return name

    def unsqueeze(self, x: str, name: str, *axes: int) -> str:
        """A value with axes of one more."""
        return self.op("Unsqueeze", [x, self.integers(*axes)], name)

    def cast(self, x: str, kind: str, name: str) -> str:
        """A value in another type."""
        return self.op("Convert", [x], name, destination_type=kind)

    def heads(self, name: str, heads: int) -> str:
        """A hidden state as [batch, sequence, heads, size]."""
        if name not in self.apart:
            parts = self.integers(0, 0, heads, self.width(name) // heads)
            self.apart[name] = self.op("Reshape", [name, parts], f"{name}/apart")
        return self.apart[name]

    def turn(self, name: str, heads: int) -> str:
        """A hidden state as [batch, heads, sequence, size]."""
        if name not in self.turned:
            order = self.integers(0, 2, 1, 3)
            self.turned[name] = self.op("Transpose", [self.heads(name, heads), order], f"{name}/turned")
        return self.turned[name]

    def size(self, of: str, axis: int) -> str:
        """How long an axis of a value is, [1]."""
        shape = f"/shape/{of}"
        self.once(shape, lambda: self.op("ShapeOf", [of], shape, output_type="INT64"))
        name = f"{shape}/{axis}"
        self.sizes[name] = ((self.value(of).shape or ())[axis],)
        return self.once(name, lambda: self.op("Gather", [shape, self.integers(axis), self.integer(0)], name))

    def joined(self, sizes: Sequence[str], name: str) -> str:
        """Sizes in one row."""
        self.sizes[name] = tuple(size for part in sizes for size in self.numbers(part))
        return self.once(name, lambda: self.op("Concat", sizes, name, axis=0))


def _text(value: Any) -> str:
    """An attribute as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(one) if isinstance(one, int) else "?" for one in value)
    return ELEMENT_NAMES.get(value, str(value)) if isinstance(value, str) else repr(value)


def _elementwise(op: str) -> Callable[[Lowering, Node], None]:
    def lowered(low: Lowering, node: Node) -> None:
        low.op(op, node.inputs, node.outputs[0])

    return lowered


def _identity(low: Lowering, node: Node) -> None:
    """The same under another name, which the output has."""
    shape = low.value(node.inputs[0]).shape
    assert shape is not None
    low.op("Reshape", [node.inputs[0], low.integers(*[0] * len(shape))], node.outputs[0])


_SHARED = {"Add": _elementwise("Add"), "Mul": _elementwise("Multiply"), "Identity": _identity}


def _cast_weight(low: Lowering, node: Node) -> None:
    """Marked as what the weight's precision is undone by, so that plugins keep it."""
    low.cast(node.inputs[0], "FLOAT", node.outputs[0])
    low.graph.nodes[-1].properties = (("decompression", ""),)


def _embedding(low: Lowering, node: Node) -> None:
    ids, table = node.inputs
    low.op("Gather", [table, ids, low.integer(0)], node.outputs[0])


def _linear(low: Lowering, node: Node) -> None:
    x, weight, *bias = node.inputs
    name = node.outputs[0]
    made = f"{name}/product" if bias else name
    low.op("MatMul", [x, weight], made, transpose_b=not node.get("transposed", 0))
    if bias:
        low.op("Add", [made, bias[0]], name)


def _rms_norm(low: Lowering, node: Node) -> None:
    x, weight = node.inputs
    name, heads = node.outputs[0], node.get("heads")
    if heads is not None:
        x = low.heads(x, heads)
        low.apart[name] = name
    square = low.op("Power", [x, low.scalar(2.0)], f"{name}/square")
    mean = low.op("ReduceMean", [square, low.integers(-1)], f"{name}/mean", keep_dims=True)
    added = low.op("Add", [mean, low.scalar(node.get("epsilon"))], f"{name}/mean_epsilon")
    root = low.op("Sqrt", [added], f"{name}/root")
    inverse = low.op("Divide", [low.scalar(1.0), root], f"{name}/inverse")
    normed = low.op("Multiply", [x, inverse], f"{name}/normed")
    low.op("Multiply", [weight, normed], name)


def _layer_norm(low: Lowering, node: Node) -> None:
    x, weight, *bias = node.inputs
    name = node.outputs[0]
    inside = {"eps": node.get("epsilon"), "normalize_variance": True, "eps_mode": "INSIDE_SQRT"}
    normed = low.op("MVN", [x, low.integers(-1)], f"{name}/normed", **inside)
    scaled = f"{name}/scaled" if bias else name
    low.op("Multiply", [normed, weight], scaled)
    if bias:
        low.op("Add", [scaled, bias[0]], name)


def _scale(low: Lowering, node: Node) -> None:
    low.op("Multiply", [node.inputs[0], low.scalar(node.get("factor"))], node.outputs[0])


def _softcap(low: Lowering, node: Node) -> None:
    _cap(low, node.inputs[0], node.get("cap"), node.outputs[0])


def _cap(low: Lowering, x: str, cap: float, name: str) -> str:
    part = low.op("Divide", [x, low.scalar(cap)], f"{name}/divided")
    bounded = low.op("Tanh", [part], f"{name}/bounded")
    return low.op("Multiply", [bounded, low.scalar(cap)], name)


def _activation(low: Lowering, node: Node) -> None:
    activate(low, node.get("kind").decode(), node.inputs[0], node.outputs[0])


_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "silu": ("Swish", {}),
    "gelu": ("Gelu", {"approximation_mode": "ERF"}),
    "gelu_tanh": ("Gelu", {"approximation_mode": "TANH"}),
    "relu": ("ReLU", {}),
    "relu2": ("ReLU", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
}


def activate(low: Lowering, kind: str, x: str, name: str) -> str:
    """Nodes for an activation of a value."""
    op, attributes = _ACTIVATIONS[kind]
    if kind != "relu2":
        return low.op(op, [x], name, **attributes)
    part = low.op(op, [x], f"{name}/relu")
    return low.op("Multiply", [part, part], name)


def _split(low: Lowering, node: Node) -> None:
    inputs = [node.inputs[0], low.integer(-1), low.integers(*node.get("sizes"))]
    low.ops("VariadicSplit", inputs, node.outputs)


def _rope_table(low: Lowering, node: Node) -> None:
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


def _rope(low: Lowering, node: Node) -> None:
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


def _attention_bias(low: Lowering, node: Node) -> None:
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


def _attention(low: Lowering, node: Node) -> None:
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
    capped = _cap(low, scores, node.get("softcap"), f"{name}/capped")
    masked = low.op("Add", [capped, bias], f"{name}/masked")
    shares = low.op("SoftMax", [masked], f"{name}/shares", axis=-1)
    return low.op("MatMul", [shares, value], f"{name}/mixed", transpose_b=False)


def _positions(low: Lowering, node: Node) -> None:
    """0, 1, .. for each text; with padding: counted over the tokens that are not this one."""
    ids, name, padding = node.inputs[0], node.outputs[0], node.get("padding")
    if padding is None:
        length = low.op("Squeeze", [low.size(ids, 1), low.integers(0)], f"{name}/length")
        numbers = [low.integer(0), length, low.integer(1)]
        row = low.unsqueeze(low.op("Range", numbers, f"{name}/row", output_type="INT64"), f"{name}/rows", 0)
        low.op("Add", [row, _zeros(low, ids)], name)
        return
    real = low.op("NotEqual", [ids, low.integer(padding)], f"{name}/unlike")
    _count(low, low.cast(real, "INT64", f"{name}/real"), name)


def _mask_positions(low: Lowering, node: Node) -> None:
    """Positions counted over the tokens that a mask shows; 0 before them."""
    _count(low, node.inputs[0], node.outputs[0])


def _count(low: Lowering, ones: str, name: str) -> None:
    """How many ones lie before each, at least 0."""
    count = low.op("CumSum", [ones, low.integer(1)], f"{name}/count")
    before = low.op("Subtract", [count, low.integer(1)], f"{name}/before")
    low.op("Maximum", [before, low.integer(0)], name)


def _zeros(low: Lowering, ids: str) -> str:
    name = f"/zeros/{ids}"
    return low.once(name, lambda: low.op("Subtract", [ids, ids], name))


def _zero_ids(low: Lowering, node: Node) -> None:
    low.op("Subtract", [node.inputs[0], node.inputs[0]], node.outputs[0])


def _pool(low: Lowering, node: Node) -> None:
    """One vector for each text."""
    states, mask = node.inputs
    name, unit = node.outputs[0], bool(node.get("normalised"))
    made = _POOLINGS[node.get("kind").decode()](low, states, mask, f"{name}/pooled" if unit else name)
    if unit:
        length = low.op("ReduceL2", [made, low.integers(-1)], f"{name}/norm", keep_dims=True)
        low.op("Divide", [made, low.op("Maximum", [length, low.scalar(1e-12)], f"{name}/length")], name)


def _mean(low: Lowering, states: str, mask: str, name: str) -> str:
    seen = low.unsqueeze(low.cast(mask, "FLOAT", f"{name}/seen"), f"{name}/column", 2)
    kept = low.op("Multiply", [states, seen], f"{name}/kept")
    total = low.op("ReduceSum", [kept, low.integers(1)], f"{name}/total", keep_dims=False)
    count = low.op("ReduceSum", [seen, low.integers(1)], f"{name}/count", keep_dims=False)
    return low.op("Divide", [total, low.op("Maximum", [count, low.scalar(1e-9)], f"{name}/counted")], name)


def _first(low: Lowering, states: str, _: str, name: str) -> str:
    return low.op("Gather", [states, low.integer(0), low.integer(1)], name)


def _last(low: Lowering, states: str, mask: str, name: str) -> str:
    """The last token that the mask shows, of each text."""
    length = low.op("Squeeze", [low.size(mask, 1), low.integers(0)], f"{name}/length")
    places = low.op("Range", [low.integer(0), length, low.integer(1)], f"{name}/places", output_type="INT64")
    seen = low.op("Multiply", [mask, places], f"{name}/seen")
    last = low.op("ReduceMax", [seen, low.integers(1)], f"{name}/last", keep_dims=True)
    picked = low.op("Gather", [states, last, low.integer(1)], f"{name}/picked", batch_dims=1)
    return low.op("Squeeze", [picked, low.integers(1)], name)


_POOLINGS = {"mean": _mean, "cls": _first, "last": _last}


def _experts(low: Lowering, node: Node) -> None:
    """Every expert over every token, weighed by what the token gives it: nothing for most of them. Plugins find this
    pattern and compute those alone that were chosen (ConvertTiledMoeBlockTo3GatherMatmuls)."""
    x, _, gate, up, down = node.inputs
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


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "Activation": _activation,
    "Attention": _attention,
    "AttentionBias": _attention_bias,
    "CastWeight": _cast_weight,
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "Linear": _linear,
    "MaskPositions": _mask_positions,
    "MoE": _experts,
    "Pool": _pool,
    "Positions": _positions,
    "RMSNorm": _rms_norm,
    "RoPE": _rope,
    "RopeTable": _rope_table,
    "Scale": _scale,
    "Softcap": _softcap,
    "SplitColumns": _split,
    "ZeroIds": _zero_ids,
}
"""Structural operation -> what lowers it."""
