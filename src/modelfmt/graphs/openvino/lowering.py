"""Nodes of OpenVINO under construction: names, constants, shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from modelfmt.graphs.builder import Builder, Form
from modelfmt.graphs.openvino.operators import OPERATORS, Call, infer
from modelfmt.ir.graph import Attribute, Dim, Graph, Value
from modelfmt.ir.ops import Constant

__all__ = ["Lowering", "State"]

ELEMENT_NAMES = {"FLOAT": "f32", "INT64": "i64", "INT32": "i32", "BOOL": "boolean"}


class State(NamedTuple):
    """A variable that a model keeps: its name, and its heads and their size, where these are known."""

    variable: str
    heads: Dim
    size: Dim


class Lowering(Builder):
    """OpenVINO's nodes under construction. values: what each value is. Of a value that is made of heads, `apart` has
    the name of [batch, sequence, heads, size], `turned` that of [batch, heads, sequence, size]. sizes: what is known of
    values that are sizes of others. past: the state that an input of the structural graph becomes."""

    def __init__(self, source: Graph, form: Form) -> None:
        super().__init__(source.name, form)
        self.values: dict[str, Value] = {}
        self.apart: dict[str, str] = {}
        self.turned: dict[str, str] = {}
        self.sizes: dict[str, tuple[Dim, ...]] = {}
        self.graph.tensors = dict(source.tensors)
        self.past = {value.name: _state(value) for value in source.inputs if value.role.startswith("past ")}
        for value in source.inputs:
            if value.name not in self.past and value.role != "use_cache":
                self.input(value.name, value.type, value.shape or (), value.role)
        if self.past:
            self.input("beam_idx", "INT32", ("batch_size",), "beam_idx")
        self.graph.outputs = [value for value in source.outputs if not value.role.startswith("present ")]

    def input(self, name: str, type: str, shape: Any, role: str = "") -> str:
        self.values[name] = Value(name, type, shape, role)
        self.graph.inputs.append(self.values[name])
        return name

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

    def length(self, of: str, axis: int) -> str:
        """How long an axis of a value is, as a number."""
        name = f"/length/{of}/{axis}"
        return self.once(name, lambda: self.op("Squeeze", [self.size(of, axis), self.integers(0)], name))

    def read(self, past: str) -> str:
        """A state as a value, empty at first: [batch, heads, past, size]."""
        variable, heads, size = self.past[past]
        assert isinstance(heads, int)
        assert isinstance(size, int)

        def make() -> None:
            dims = [self.size("input_ids", 0), self.integers(heads, 0, size)]
            shape = self.joined(dims, f"/shape/state {heads} {size}")
            empty = self.op("Broadcast", [self.scalar(0.0), shape], f"{past}/empty", mode="numpy")
            kept = {"variable_id": variable, "variable_type": "FLOAT", "variable_shape": (None, heads, None, size)}
            self.op("ReadValue", [empty], past, **kept)

        return self.once(past, make)

    def row_numbers(self, ids: str, past: str, mask: str = "") -> tuple[str, str]:
        """Numbers of the tokens, behind those of a state or of a mask that is longer; and the number behind them."""
        base = f"/rows/{mask or past or ids}"
        length, end, start = self.length(ids, 1), self.length(mask or ids, 1), self.integer(0)
        if mask:
            start = self.once(f"{base}/start", lambda: self.op("Subtract", [end, length], f"{base}/start"))
        elif past:
            start = self.length(self.read(past), 2)
            end = self.once(f"{base}/end", lambda: self.op("Add", [start, length], f"{base}/end"))
        numbers, name = [start, end, self.integer(1)], f"{base}/numbers"
        return self.once(name, lambda: self.op("Range", numbers, name, output_type="INT64")), end

    def joined(self, sizes: Sequence[str], name: str) -> str:
        """Sizes in one row."""
        self.sizes[name] = tuple(size for part in sizes for size in self.numbers(part))
        return self.once(name, lambda: self.op("Concat", sizes, name, axis=0))


def _state(value: Value) -> State:
    """The state that an input for past keys or values becomes, named as optimum-intel names it."""
    assert value.shape is not None
    variable = f"{value.name}{value.name.replace('past_key_values', 'present')}"
    return State(variable, value.shape[1], value.shape[3])


def _text(value: Any) -> str:
    """An attribute as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(one) if isinstance(one, int) else "?" for one in value)
    return ELEMENT_NAMES.get(value, str(value)) if isinstance(value, str) else repr(value)
