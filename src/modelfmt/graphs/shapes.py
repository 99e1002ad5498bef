"""Types and shapes of a structural graph: what each node makes, from what it is given.

Sizes are numbers, symbols and sums of these (`modelfmt.ir.graph.Dim`); None is a size that is not known. The functions
over shapes serve the operators of a runtime as well (`modelfmt.graphs.openvino_ops`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from modelfmt.errors import UnsupportedError
from modelfmt.ir.graph import Affine, Dim, Graph, Node, Value

__all__ = ["RULES", "Shape", "broadcast", "convolved", "infer", "rest", "total"]

Shape = tuple[Dim, ...]
Made = list[tuple[str, Shape]]
"""Type and shape of each output; no type: that of activations."""


def infer(graph: Graph, float_type: str = "FLOAT") -> dict[str, Value]:
    """Every value of a structural graph by name: inputs, constants, and what nodes make. float_type: of activations.

    Raises UnsupportedError (an operation without a rule).

    >>> graph = Graph(inputs=[Value("x", "FLOAT", ("batch", 3))], nodes=[Node("Add", ["x", "x"], ["y"])])
    >>> infer(graph)["y"].shape
    ('batch', 3)
    """
    found = {value.name: value for value in graph.inputs}
    found |= {name: Value(name, tensor.type, tensor.shape) for name, tensor in graph.tensors.items()}
    return _walked(graph.nodes, found, float_type)


def _walked(nodes: Sequence[Node], found: dict[str, Value], float_type: str) -> dict[str, Value]:
    """The values that are known, and those that nodes make of them."""
    for node in nodes:
        if node.op == "If":
            made = _chosen(node, found, float_type)
        elif node.op in RULES:
            made = RULES[node.op](node, [found[name] for name in node.inputs if name])
        else:
            raise UnsupportedError("an operation without a shape", code="shape", found=node.op)
        pairs = zip(node.outputs, made, strict=True)
        found |= {name: Value(name, kind or float_type, shape) for name, (kind, shape) in pairs}
    return found


def _chosen(node: Node, found: dict[str, Value], float_type: str) -> Made:
    """What both branches say."""
    made: list[list[Value]] = []
    for key in ("then_branch", "else_branch"):
        branch: Graph = node.get(key)
        inside = _walked(branch.nodes, dict(found), float_type)
        made.append([inside[value.name] for value in branch.outputs])
    pairs = zip(*made, strict=True)
    return [
        (a.type, tuple(one if one == other else None for one, other in zip(_shape(a), _shape(b), strict=True)))
        for a, b in pairs
    ]


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operation over values of these.

    >>> broadcast(("batch", 1, 4), (5, 1))
    ('batch', 5, 4)
    """
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(map(_widest, zip(*padded, strict=True)))


def _widest(dims: Sequence[Dim]) -> Dim:
    """What sizes become that are broadcast to each other: one that is not 1, where it is known which."""
    others = list(dict.fromkeys(dim for dim in dims if dim != 1))
    numbers = [dim for dim in others if isinstance(dim, int)]
    return 1 if not others else others[0] if len(others) == 1 else numbers[0] if numbers else None


def total(dims: Sequence[Dim]) -> Dim:
    """The sum of sizes.

    >>> total([3, 4]), str(total(["past", "new", 1]))
    (7, 'past + new + 1')
    """
    terms: dict[str, int] = {}
    constant = 0
    for dim in dims:
        if dim is None:
            return None
        own = dim if isinstance(dim, Affine) else Affine((), dim) if isinstance(dim, int) else Affine(((dim, 1),))
        constant += own.constant
        for symbol, factor in own.terms:
            terms[symbol] = terms.get(symbol, 0) + factor
    return Affine(tuple(terms.items()), constant) if terms else constant


def rest(shape: Sequence[Dim], taken: Sequence[Dim]) -> Dim:
    """What is left of the elements of a shape when some sizes are taken out.

    >>> rest(("batch", 4, 6), ("batch", 3))
    8
    """
    left = list(shape)
    for dim in taken:
        if not isinstance(dim, int):
            if dim is None or dim not in left:
                return None
            left.remove(dim)
    numbers = prod(dim for dim in taken if isinstance(dim, int))
    own = prod(dim for dim in left if isinstance(dim, int))
    unknown = [dim for dim in left if not isinstance(dim, int)]
    if not unknown:
        return own // numbers
    return unknown[0] if len(unknown) == 1 and own == numbers else None


def _shape(value: Value) -> Shape:
    assert value.shape is not None
    return value.shape


def _same(_: Node, given: Sequence[Value]) -> Made:
    return [(given[0].type, _shape(given[0]))]


def _elementwise(_: Node, given: Sequence[Value]) -> Made:
    return [(given[0].type, broadcast(*map(_shape, given)))]


def _wide(given: Sequence[Value], width: Dim) -> Made:
    """As the first, of another width."""
    return [(given[0].type, (*_shape(given[0])[:-1], width))]


def _cast_weight(_: Node, given: Sequence[Value]) -> Made:
    return [("", _shape(given[0]))]


def _embedding(_: Node, given: Sequence[Value]) -> Made:
    ids, table = given
    return [(table.type, (*_shape(ids), _shape(table)[-1]))]


def _block_embedding(node: Node, given: Sequence[Value]) -> Made:
    ids, scales = given[0], given[2]
    n_blocks = _shape(scales)[-1]
    assert isinstance(n_blocks, int)
    return [(scales.type, (*_shape(ids), n_blocks * node.get("block")))]


def _linear(node: Node, given: Sequence[Value]) -> Made:
    return _wide(given, _shape(given[1])[-1 if node.get("transposed") else -2])


def _block_linear(node: Node, given: Sequence[Value]) -> Made:
    return _wide(given, node.get("columns"))


def _split(node: Node, given: Sequence[Value]) -> Made:
    return [made for size in node.get("sizes") for made in _wide(given, size)]


def _rope_table(_: Node, given: Sequence[Value]) -> Made:
    return [("", (*_shape(given[0]), _shape(given[1])[0]))] * 2


def _attention_bias(node: Node, given: Sequence[Value]) -> Made:
    """[batch, 1, sequence, keys]; one row for all queries where these see the same, one for all texts without a
    mask."""
    _, mask, *past = node.inputs
    batch, length = _shape(given[0])
    apart = node.get("causal") or node.get("window")
    if mask:
        return [("", (batch, 1, length if apart else 1, _shape(given[1])[-1]))]
    return [("", (length, total([_shape(given[-1])[2], length]) if past else length))]


def _attention(node: Node, given: Sequence[Value]) -> Made:
    made = _wide(given, node.get("width"))
    for past in given[len(node.inputs[:4]) - node.inputs[:4].count("") :]:
        batch, heads, length, size = _shape(past)
        made.append((past.type, (batch, heads, total([length, _shape(given[0])[1]]), size)))
    return made


def _split_heads(node: Node, given: Sequence[Value]) -> Made:
    batch, length, width = _shape(given[0])
    assert isinstance(width, int)
    return [(given[0].type, (batch, node.get("heads"), length, width // node.get("heads")))]


def _cross_attention(node: Node, given: Sequence[Value]) -> Made:
    return _wide(given, node.get("width"))


def _relative_bias(_: Node, given: Sequence[Value]) -> Made:
    """The bias, for each head and each query."""
    ids, table, _buckets, bias, *_past = given
    return [(table.type, broadcast(_shape(bias), (_shape(table)[1], _shape(ids)[1], 1)))]


def _empty_cache(node: Node, given: Sequence[Value]) -> Made:
    return [("", (_shape(given[0])[0], node.get("heads"), 0, node.get("size")))]


def _convolution(node: Node, given: Sequence[Value]) -> Made:
    (batch, _, *sizes), (channels, _, *kernel) = _shape(given[0]), _shape(given[1])
    pads = node.get("pads")
    steps = zip(sizes, kernel, node.get("strides"), pads[: len(sizes)], pads[len(sizes) :], strict=True)
    return [(given[0].type, (batch, channels, *(convolved(*step) for step in steps)))]


def convolved(size: Dim, kernel: Dim, stride: int, before: int, behind: int) -> Dim:
    """How many places a kernel has along an axis.

    >>> convolved(24, 8, 8, 0, 0)
    3
    """
    if not isinstance(size, int) or not isinstance(kernel, int):
        return None
    return (size + before + behind - kernel) // stride + 1


def _channels_last(node: Node, given: Sequence[Value]) -> Made:
    batch, *inner = _shape(given[0])
    sizes = inner[1:]
    numbers = [size for size in sizes if isinstance(size, int)]
    return [(given[0].type, (batch, prod(numbers) if len(numbers) == len(sizes) else None, node.get("width")))]


def _prepend_token(_: Node, given: Sequence[Value]) -> Made:
    batch, length, width = _shape(given[0])
    return [(given[0].type, (batch, total([length, 1]), width))]


def _similarity(_: Node, given: Sequence[Value]) -> Made:
    a, b = _shape(given[0])[0], _shape(given[1])[0]
    return [(given[0].type, (a, b)), (given[0].type, (b, a))]


def _pool(_: Node, given: Sequence[Value]) -> Made:
    shape = _shape(given[0])
    return [(given[0].type, (shape[0], shape[-1]))]


RULES: dict[str, Callable[[Node, Sequence[Value]], Made]] = {
    **dict.fromkeys(("Activation", "Identity", "LayerNorm", "MaskPositions", "MoE", "Positions", "RMSNorm"), _same),
    **dict.fromkeys(("AddRows", "BlockMoE", "RoPE", "Scale", "Softcap", "Unit", "ZeroIds"), _same),
    **dict.fromkeys(("EndToken", "FirstToken", "Pool"), _pool),
    **dict.fromkeys(("Add", "Mul"), _elementwise),
    "Attention": _attention,
    "AttentionBias": _attention_bias,
    "BlockEmbedding": _block_embedding,
    "BlockLinear": _block_linear,
    "CastWeight": _cast_weight,
    "ChannelsLast": _channels_last,
    "Convolution": _convolution,
    "CrossAttention": _cross_attention,
    "Embedding": _embedding,
    "EmptyCache": _empty_cache,
    "Linear": _linear,
    "PrependToken": _prepend_token,
    "RelativeBias": _relative_bias,
    "RopeTable": _rope_table,
    "Similarity": _similarity,
    "SplitColumns": _split,
    "SplitHeads": _split_heads,
}
"""Structural operation -> types and shapes of what it makes."""
