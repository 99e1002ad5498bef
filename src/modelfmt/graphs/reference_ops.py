"""What the operators of our graphs compute, in NumPy: the reference that other runtimes are compared with.

Each takes the node and its inputs (None for one that is not there) and gives its outputs. Source: docs/Operators.md of
ONNX 1.23; MatMulNBits: com.microsoft of ONNX Runtime 1.32. Checked against the outputs of ONNX's own node tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.reference_attention import attention, rotary_embedding
from modelfmt.graphs.reference_conv import convolution
from modelfmt.ir.graph import ELEMENT_TYPES, Node

__all__ = ["OPERATORS", "Array", "Operator", "numpy_type"]

Array = Any
Operator = Callable[..., Any]

_ML = {
    "BFLOAT16": "bfloat16",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT8E8M0": "float8_e8m0fnu",
    "UINT4": "uint4",
    "INT4": "int4",
    "UINT2": "uint2",
    "INT2": "int2",
    "FLOAT4E2M1": "float4_e2m1fn",
    "FLOAT6E2M3": "float6_e2m3fn",
    "FLOAT6E3M2": "float6_e3m2fn",
}
_PLAIN = {"FLOAT": "float32", "DOUBLE": "float64", "STRING": "str"}
_BY_NUMBER = {row.number: row.name for row in ELEMENT_TYPES.values()}


def numpy_type(name: str) -> np.dtype[Any]:
    """The array type of an element type."""
    return np.dtype(getattr(ml_dtypes, _ML[name]) if name in _ML else _PLAIN.get(name, name.lower()))


def _axes(given: Array, count: int) -> tuple[int, ...]:
    return tuple(range(count)) if given is None else tuple(int(axis) for axis in np.atleast_1d(given))


def _binary(function: Operator) -> Operator:
    return lambda node, a, b: function(a, b)


def _unary(function: Operator) -> Operator:
    return lambda node, x: function(x).astype(x.dtype)


def _folded(function: Operator) -> Operator:
    """Any number of inputs, two at a time."""

    def run(node: Node, *inputs: Array) -> Array:
        found = inputs[0]
        for other in inputs[1:]:
            found = function(found, other)
        return found

    return run


def _div(node: Node, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":  # towards zero, as in C
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return a / b


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _gelu(node: Node, x: Array) -> Array:
    wide = x.astype(np.float64)
    if node.get("approximate", b"none") == b"tanh":
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        return (0.5 * wide * (1 + np.tanh(inner))).astype(x.dtype)
    return (0.5 * wide * (1 + np.vectorize(math.erf, otypes=[np.float64])(wide / math.sqrt(2)))).astype(x.dtype)


def _reshape(node: Node, x: Array, shape: Array) -> Array:
    zeros = node.get("allowzero", 0)
    sizes = [x.shape[i] if size == 0 and not zeros else int(size) for i, size in enumerate(shape)]
    return x.reshape(sizes)


def _shape(node: Node, x: Array) -> Array:
    return np.array(x.shape[slice(node.get("start", 0), node.get("end"))], np.int64)


def _squeeze(node: Node, x: Array, axes: Array = None) -> Array:
    return np.squeeze(x, None if axes is None else _axes(axes, 0))


def _unsqueeze(node: Node, x: Array, axes: Array) -> Array:
    return np.expand_dims(x, _axes(axes, 0))


def _expand(node: Node, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(size) for size in shape)))


def _range(node: Node, start: Array, limit: Array, step: Array) -> Array:
    count = max(math.ceil((limit - start) / step), 0)
    return (start + np.arange(count) * step).astype(start.dtype)


def _split(node: Node, x: Array, sizes: Array = None) -> Array:
    axis, count = node.get("axis", 0), node.get("num_outputs") or len(node.outputs)
    if sizes is None:
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - each * i) for i in range(count)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _gather(node: Node, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=node.get("axis", 0), mode="wrap" if x.shape[node.get("axis", 0)] else "raise")


def _gather_nd(node: Node, x: Array, indices: Array) -> Array:
    batch = node.get("batch_dims", 0)
    if not batch:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    rows = [
        _gather_nd(Node("", [], []), *pair) for pair in zip(*(_merged(one, batch) for one in (x, indices)), strict=True)
    ]
    return np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)


def _merged(x: Array, count: int) -> Array:
    return x.reshape(-1, *x.shape[count:])


_REDUCTIONS: dict[bytes, Operator] = {
    b"add": np.add,
    b"mul": np.multiply,
    b"max": np.maximum,
    b"min": np.minimum,
}


def _scatter_elements(node: Node, x: Array, indices: Array, updates: Array) -> Array:
    axis, out = node.get("axis", 0), x.copy()
    places = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    return _scattered(node, out, tuple(places), updates)


def _scatter_nd(node: Node, x: Array, indices: Array, updates: Array) -> Array:
    return _scattered(node, x.copy(), tuple(np.moveaxis(indices, -1, 0)), updates)


def _scattered(node: Node, out: Array, places: tuple[Array, ...], updates: Array) -> Array:
    how = node.get("reduction", b"none")
    if how == b"none":
        out[places] = updates
    else:
        _REDUCTIONS[how].at(out, places, updates)  # type: ignore[attr-defined]
    return out


def _gemm(node: Node, a: Array, b: Array, c: Array = None) -> Array:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    found = a @ b
    if node.get("alpha", 1.0) != 1.0:
        found = found * a.dtype.type(node.get("alpha"))
    return found if c is None else found + c * a.dtype.type(node.get("beta", 1.0))


def _rms_normalization(node: Node, x: Array, scale: Array) -> Array:
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    wide = x.astype(np.float32)
    mean = np.mean(wide * wide, axis=axes, keepdims=True) + np.float32(node.get("epsilon", 1e-5))
    return (wide / np.sqrt(mean)).astype(x.dtype) * scale


def _layer_normalization(node: Node, x: Array, scale: Array, bias: Array = None) -> Array:
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    wide = x.astype(np.float32)
    mean = np.mean(wide, axis=axes, keepdims=True)
    centred = wide - mean
    inverse = 1 / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + np.float32(node.get("epsilon", 1e-5)))
    found = (centred * inverse).astype(x.dtype) * scale
    return (found if bias is None else found + bias), mean, inverse


def _softmax(node: Node, x: Array) -> Array:
    axis = node.get("axis", -1)
    power = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return power / np.sum(power, axis=axis, keepdims=True)


def _reduce(function: Operator) -> Operator:
    def run(node: Node, x: Array, axes: Array = None) -> Array:
        axes = node.get("axes") if axes is None else axes
        empty = axes is None or len(axes) == 0
        if empty and node.get("noop_with_empty_axes", 0):
            return function(x, axis=(), keepdims=True)
        chosen = _axes(None if empty else axes, x.ndim)
        return function(x, axis=chosen, keepdims=bool(node.get("keepdims", 1)))

    return run


def _largest(x: Array, axis: Any, keepdims: bool) -> Array:
    lowest = False if x.dtype == bool else np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    return np.max(x, axis=axis, keepdims=keepdims, initial=lowest)


def _top_k(node: Node, x: Array, count: Array) -> Array:
    axis, largest = node.get("axis", -1), node.get("largest", 1)
    order = np.argsort(-x.astype(np.float64) if largest else x, axis=axis, kind="stable")
    best = np.take(order, np.arange(int(np.ravel(count)[0])), axis=axis)
    return np.take_along_axis(x, best, axis=axis), best.astype(np.int64)


def _arg_max(node: Node, x: Array) -> Array:
    axis = node.get("axis", 0)
    if node.get("select_last_index", 0):
        found = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=True)
    else:
        found = np.argmax(x, axis=axis, keepdims=True)
    return (found if node.get("keepdims", 1) else np.squeeze(found, axis)).astype(np.int64)


def _unique(node: Node, x: Array) -> Array:
    axis = node.get("axis")
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not node.get("sorted", 1):
        order = np.argsort(first)
        values, first, counts = np.take(values, order, axis=axis or 0), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


def _cum_sum(node: Node, x: Array, axis: Array) -> Array:
    place = int(axis)
    turned = np.flip(x, place) if node.get("reverse", 0) else x
    found = np.cumsum(turned, axis=place, dtype=x.dtype)
    found = found - turned if node.get("exclusive", 0) else found
    return np.flip(found, place) if node.get("reverse", 0) else found


def _bit_shift(node: Node, x: Array, count: Array) -> Array:
    return x >> count if node.get("direction") == b"RIGHT" else x << count


def _concat(node: Node, *parts: Array) -> Array:
    return np.concatenate(parts, axis=node.get("axis"))


def _transpose(node: Node, x: Array) -> Array:
    return np.transpose(x, node.get("perm"))


def _cast(node: Node, x: Array) -> Array:
    kind = _BY_NUMBER[node.get("to")]
    if kind not in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16", "BOOL") and not kind.startswith(("INT", "UINT")):
        raise UnsupportedError("the reference does not cast to this type", code="reference", found=kind)
    return x.astype(numpy_type(kind))


def _dequantize(node: Node, x: Array, scale: Array, zero: Array = None) -> Array:
    axis, block = node.get("axis", 1), node.get("block_size", 0)

    def spread(part: Array) -> Array:
        if part.ndim == 0 or (part.size == 1 and not block):
            return part.reshape(())
        if block:
            return np.repeat(part, block, axis=axis).take(range(x.shape[axis]), axis=axis)
        return part.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])

    wide = np.int32 if x.dtype.kind in "iu" or x.dtype.name.startswith(("int", "uint")) else np.float32
    values = x.astype(wide) if zero is None else x.astype(wide) - spread(zero.astype(wide))
    kind = node.get("output_dtype", 0)
    made = values.astype(np.float32) * spread(scale.astype(np.float32))
    return made.astype(numpy_type(_BY_NUMBER[kind]) if kind else scale.dtype)


def _matmul_n_bits(node: Node, a: Array, codes: Array, scales: Array, zeros: Array = None, *more: Array) -> Array:
    n, k, bits = (node.get(name) for name in ("N", "K", "bits"))
    per_byte, mask = 8 // bits, (1 << bits) - 1
    if len(more) > 0 and more[0] is not None:
        raise UnsupportedError("the reference does not reorder columns", code="reference", found="g_idx")

    def unpacked(packed: Array) -> Array:
        return np.stack([packed >> bits * i & mask for i in range(per_byte)], axis=-1).reshape(*packed.shape[:-1], -1)

    scales = scales.reshape(n, -1)
    if zeros is None:
        zero: Array = np.float32(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        zero = unpacked(zeros.reshape(n, -1))[:, : scales.shape[1]].astype(np.float32)[..., None]
    else:
        zero = zeros.reshape(n, -1, 1).astype(np.float32)
    values = (unpacked(codes).astype(np.float32) - zero) * scales.astype(np.float32)[..., None]
    found = a.astype(np.float32) @ values.reshape(n, -1)[:, :k].T
    return (found if len(more) < 2 else found + more[1]).astype(a.dtype)


OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Abs"): _unary(np.abs),
    ("", "Add"): _binary(np.add),
    ("", "And"): _binary(np.logical_and),
    ("", "ArgMax"): _arg_max,
    ("", "Attention"): attention,
    ("", "BitShift"): _bit_shift,
    ("", "BitwiseAnd"): _binary(np.bitwise_and),
    ("", "Cast"): _cast,
    ("", "Concat"): _concat,
    ("", "Conv"): convolution,
    ("", "Cos"): _unary(np.cos),
    ("", "CumSum"): _cum_sum,
    ("", "DequantizeLinear"): _dequantize,
    ("", "Div"): _div,
    ("", "Equal"): _binary(np.equal),
    ("", "Exp"): _unary(np.exp),
    ("", "Expand"): _expand,
    ("", "Gather"): _gather,
    ("", "GatherND"): _gather_nd,
    ("", "Gelu"): _gelu,
    ("", "Gemm"): _gemm,
    ("", "GreaterOrEqual"): _binary(np.greater_equal),
    ("", "Identity"): lambda node, x: x,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "Less"): _binary(np.less),
    ("", "LessOrEqual"): _binary(np.less_equal),
    ("", "Max"): _folded(np.maximum),
    ("", "Min"): _folded(np.minimum),
    ("", "Mul"): _binary(np.multiply),
    ("", "NonZero"): lambda node, x: np.array(np.nonzero(np.atleast_1d(x)), np.int64),
    ("", "Not"): lambda node, x: np.logical_not(x),
    ("", "RMSNormalization"): _rms_normalization,
    ("", "Range"): _range,
    ("", "ReduceL2"): _reduce(lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))),
    ("", "ReduceMax"): _reduce(_largest),
    ("", "ReduceSum"): _reduce(lambda x, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)),
    ("", "Relu"): _unary(lambda x: np.maximum(x, 0)),
    ("", "Reshape"): _reshape,
    ("", "RotaryEmbedding"): rotary_embedding,
    ("", "ScatterElements"): _scatter_elements,
    ("", "ScatterND"): _scatter_nd,
    ("", "Shape"): _shape,
    ("", "Sigmoid"): _unary(_sigmoid),
    ("", "Sin"): _unary(np.sin),
    ("", "Softmax"): _softmax,
    ("", "Split"): _split,
    ("", "Squeeze"): _squeeze,
    ("", "Sub"): _binary(np.subtract),
    ("", "Tanh"): _unary(np.tanh),
    ("", "TopK"): _top_k,
    ("", "Transpose"): _transpose,
    ("", "Unique"): _unique,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Where"): lambda node, which, a, b: np.where(which, a, b),
    ("com.microsoft", "MatMulNBits"): _matmul_n_bits,
}
"""(domain, operator) -> what it computes; `modelfmt.graphs.reference` adds Loop, If and Constant."""
