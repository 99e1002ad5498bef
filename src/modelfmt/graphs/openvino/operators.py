"""The operators of OpenVINO that graphs are lowered to: the operator set of each, the types and shapes it makes.

Source: openvino-ir-format/operation-sets in the documentation of OpenVINO 2026.4. Only what `modelfmt.graphs.openvino`
uses, with ranks that are always known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.shapes import Shape, broadcast, convolved, rest, total
from modelfmt.ir.graph import Dim, Value

__all__ = ["OPERATORS", "Call", "Operator", "infer"]


class Call(msgspec.Struct, frozen=True):
    """An operator with what it is given. numbers: those of an input that is constant or made of sizes."""

    values: Sequence[Value]
    attributes: Mapping[str, Any]
    numbers: Callable[[int], Sequence[Dim]]

    def shape(self, place: int = 0) -> Shape:
        """The shape of an input."""
        found = self.values[place].shape
        assert found is not None
        return found

    def constants(self, place: int) -> list[int]:
        """The numbers of an input that is constant."""
        found = self.numbers(place)
        assert all(isinstance(number, int) for number in found)
        return [number for number in found if isinstance(number, int)]

    def axes(self, place: int, more: int = 0) -> list[int]:
        """The axes of the first input, with `more` in it, that a constant input names."""
        return [number % (len(self.shape()) + more) for number in self.constants(place)]


Made = list[tuple[str, Shape]]


class Operator(NamedTuple):
    """version: the operator set. infer: type and shape of each output. usual: attributes where a node says nothing."""

    version: str
    infer: Callable[[Call], Made]
    usual: Mapping[str, Any] = {}


def infer(op: str, call: Call) -> Made:
    """(type, shape) of each output of an operator. Raises UnsupportedError (one that is not in the table)."""
    if op not in OPERATORS:
        raise UnsupportedError("an operator without a shape", code="lowering", found=op)
    return OPERATORS[op].infer(call)


def _same(call: Call) -> Made:
    return [(call.values[0].type, call.shape())]


def _broadcasting(call: Call) -> Made:
    return [(call.values[0].type, broadcast(call.shape(0), call.shape(1)))]


def _comparison(call: Call) -> Made:
    return [("BOOL", broadcast(call.shape(0), call.shape(1)))]


def _select(call: Call) -> Made:
    return [(call.values[1].type, broadcast(*(call.shape(place) for place in range(3))))]


def _convert(call: Call) -> Made:
    return [(call.attributes["destination_type"], call.shape())]


def _matmul(call: Call) -> Made:
    a, b = call.shape(0), call.shape(1)
    n_rows = a[-1] if call.attributes["transpose_a"] else a[-2]
    n_cols = b[-2] if call.attributes["transpose_b"] else b[-1]
    return [(call.values[0].type, (*broadcast(a[:-2], b[:-2]), n_rows, n_cols))]


def _reshape(call: Call) -> Made:
    shape, wanted = call.shape(), call.numbers(1)
    made = [shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    if -1 in made:
        made[made.index(-1)] = rest(shape, [dim for dim in made if dim != -1])
    return [(call.values[0].type, tuple(made))]


def _transpose(call: Call) -> Made:
    return [(call.values[0].type, tuple(call.shape()[place] for place in call.constants(1)))]


def _unsqueeze(call: Call) -> Made:
    new = call.axes(1, len(call.constants(1)))
    rest = iter(call.shape())
    dims = [1 if place in new else next(rest) for place in range(len(call.shape()) + len(new))]
    return [(call.values[0].type, tuple(dims))]


def _squeeze(call: Call) -> Made:
    gone = call.axes(1)
    return [(call.values[0].type, tuple(dim for place, dim in enumerate(call.shape()) if place not in gone))]


def _gather(call: Call) -> Made:
    (axis,), batch = call.axes(2), call.attributes["batch_dims"]
    data, indices = call.shape(0), call.shape(1)
    return [(call.values[0].type, data[:axis] + indices[batch:] + data[axis + 1 :])]


def _concat(call: Call) -> Made:
    axis = call.attributes["axis"] % len(call.shape())
    shapes = [call.shape(place) for place in range(len(call.values))]
    rows: list[Dim] = list(shapes[0])
    rows[axis] = total([shape[axis] for shape in shapes])
    return [(call.values[0].type, tuple(rows))]


def _split(call: Call) -> Made:
    (axis,), shape = call.axes(1), call.shape()
    return [(call.values[0].type, (*shape[:axis], size, *shape[axis + 1 :])) for size in call.constants(2)]


def _broadcast(call: Call) -> Made:
    target = tuple(call.numbers(1))
    shape = broadcast(call.shape(), target) if call.attributes["mode"] == "bidirectional" else target
    return [(call.values[0].type, shape)]


def _shape_of(call: Call) -> Made:
    return [("INT64", (len(call.shape()),))]


def _range(call: Call) -> Made:
    return [(call.attributes["output_type"], (None,))]


def _reduce(call: Call) -> Made:
    gone, keep = call.axes(1), call.attributes["keep_dims"]
    shape = [1 if place in gone else dim for place, dim in enumerate(call.shape()) if keep or place not in gone]
    return [(call.values[0].type, tuple(shape))]


def _top_k(call: Call) -> Made:
    axis, shape = call.attributes["axis"] % len(call.shape()), call.shape()
    shape = (*shape[:axis], call.constants(1)[0], *shape[axis + 1 :])
    return [(call.values[0].type, shape), (call.attributes["index_element_type"], shape)]


def _tile(call: Call) -> Made:
    pairs = zip(call.shape(), call.constants(1), strict=True)
    return [(call.values[0].type, tuple(_times(dim, times) for dim, times in pairs))]


def _times(dim: Dim, times: int) -> Dim:
    return dim if times == 1 else dim * times if isinstance(dim, int) else None


def _attention(call: Call) -> Made:
    return [(call.values[0].type, (*call.shape(0)[:-1], call.shape(2)[-1]))]


def _convolution(call: Call) -> Made:
    (batch, _, *sizes), (channels, _, *kernel) = call.shape(0), call.shape(1)
    steps = zip(sizes, kernel, *(call.attributes[name] for name in ("strides", "pads_begin", "pads_end")), strict=True)
    return [(call.values[0].type, (batch, channels, *(convolved(*step) for step in steps)))]


def _read_value(call: Call) -> Made:
    return [(call.attributes["variable_type"], call.attributes["variable_shape"])]


_NUMPY: dict[str, Any] = {"auto_broadcast": "numpy"}

OPERATORS = {
    "Abs": Operator("opset1", _same),
    "Add": Operator("opset1", _broadcasting, _NUMPY),
    "Assign": Operator("opset6", _same),
    "Broadcast": Operator("opset3", _broadcast),
    "Concat": Operator("opset1", _concat),
    "Convert": Operator("opset1", _convert),
    "Convolution": Operator("opset1", _convolution, {"auto_pad": "explicit"}),
    "Cos": Operator("opset1", _same),
    "CumSum": Operator("opset3", _same, {"exclusive": False, "reverse": False}),
    "Divide": Operator("opset1", _broadcasting, _NUMPY | {"m_pythondiv": True}),
    "Equal": Operator("opset1", _comparison, _NUMPY),
    "Exp": Operator("opset1", _same),
    "Gather": Operator("opset8", _gather, {"batch_dims": 0}),
    "Gelu": Operator("opset7", _same),
    "GreaterEqual": Operator("opset1", _comparison, _NUMPY),
    "Less": Operator("opset1", _comparison, _NUMPY),
    "LessEqual": Operator("opset1", _comparison, _NUMPY),
    "LogicalAnd": Operator("opset1", _comparison, _NUMPY),
    "MVN": Operator("opset6", _same),
    "MatMul": Operator("opset1", _matmul, {"transpose_a": False, "transpose_b": True}),
    "Maximum": Operator("opset1", _broadcasting, _NUMPY),
    "Minimum": Operator("opset1", _broadcasting, _NUMPY),
    "Multiply": Operator("opset1", _broadcasting, _NUMPY),
    "NotEqual": Operator("opset1", _comparison, _NUMPY),
    "Power": Operator("opset1", _broadcasting, _NUMPY),
    "Range": Operator("opset4", _range),
    "ReLU": Operator("opset1", _same),
    "ReadValue": Operator("opset6", _read_value),
    "ReduceL2": Operator("opset4", _reduce),
    "ReduceMax": Operator("opset1", _reduce),
    "ReduceMean": Operator("opset1", _reduce),
    "ReduceSum": Operator("opset1", _reduce),
    "Reshape": Operator("opset1", _reshape, {"special_zero": True}),
    "ScaledDotProductAttention": Operator("opset13", _attention),
    "ScatterElementsUpdate": Operator("opset12", _same, {"reduction": "none", "use_init_val": True}),
    "Select": Operator("opset1", _select, _NUMPY),
    "ShapeOf": Operator("opset3", _shape_of),
    "Sigmoid": Operator("opset1", _same),
    "Sin": Operator("opset1", _same),
    "SoftMax": Operator("opset8", _same),
    "Sqrt": Operator("opset1", _same),
    "Squeeze": Operator("opset1", _squeeze),
    "Subtract": Operator("opset1", _broadcasting, _NUMPY),
    "Swish": Operator("opset4", _same),
    "Tanh": Operator("opset1", _same),
    "Tile": Operator("opset1", _tile),
    "TopK": Operator("opset11", _top_k),
    "Transpose": Operator("opset1", _transpose),
    "Unsqueeze": Operator("opset1", _unsqueeze),
    "VariadicSplit": Operator("opset1", _split),
}
"""Operator -> its operator set, and what it makes."""
