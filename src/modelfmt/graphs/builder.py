"""Puts a graph of structural nodes together: names, constants, attributes.

Structural nodes have the domain `modelfmt`. Their hidden states are [batch, sequence, width]; what each does is in the
table of `modelfmt.graphs.standard`, which lowers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt.graphs.weights import Weight
from modelfmt.grids import Apart, apart
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.graph import Attribute, Dim, Graph, GraphTensor, Node, Value
from modelfmt.ir.ops import Encoded, Expression, nearest
from modelfmt.quant.integers import Integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["STRUCTURAL", "Builder", "Form", "attribute"]

STRUCTURAL = "modelfmt"

LEAST_BLOCK = 16
"""Columns of the smallest block that MatMulNBits has."""

_FLOATS = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16"}
_CONSTANTS = {
    "uint8": "UINT8",
    "float32": "FLOAT",
    "float16": "FLOAT16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
}


class Form(msgspec.Struct, frozen=True):
    """How a graph is to be. float_type: FLOAT or FLOAT16, of activations and weights. as_stored: a weight that is
    another type of float keeps it, and is cast in the graph. weight_type: the type of weights that are cast in it.
    blocks: a type of `modelfmt.grids.LAYOUTS`, or integers, that the matrices of linear layers are quantized to.
    rounding: how, into blocks. profile: which operators, a name of `modelfmt.graphs.build.PROFILES`. carried: weights
    that are quantized already, on a grid of integers, stay so, where the operators can say it. accuracy_level: of
    products with quantized weights (0 or 4, com.microsoft.MatMulNBits).
    """

    float_type: str = "FLOAT"
    as_stored: bool = False
    weight_type: str | None = None
    blocks: str | Integers | None = None
    rounding: str = "ggml"
    profile: str = "auto"
    carried: bool = True
    accuracy_level: int = 0

    @property
    def standard(self) -> bool:
        """Whether there is to be no operator of another domain."""
        return self.profile == "onnx-standard"

    @property
    def fused(self) -> bool:
        """Whether com.microsoft's operators are wanted beyond MatMulNBits."""
        return self.profile in ("ort", "ort-genai")

    def apart(self, expr: Expression) -> Apart | None:
        """A matrix, or those of experts, [experts, n, k], in tensors of codes, scales and zeros; None where it is
        dense, or no operator takes it."""
        if not 2 <= len(expr.shape) <= 3:
            return None
        if not expr.stored.dense:
            found = apart(expr) if self.carried else None
        else:
            made = self._quantized(expr)
            found = None if made is None else apart(made)
        return found if found is not None and self._takes(found) else None

    def _quantized(self, expr: Expression) -> Expression | None:
        """Dense values as they are asked for; None where they stay, or their rows are no whole blocks."""
        if isinstance(self.blocks, Integers):
            bits, block, symmetric = self.blocks.within(expr.shape[-1]) or (0, 0, True)
            how, scale = f"ort-{'' if symmetric else 'a'}symmetric", "F16" if self.float_type == "FLOAT16" else "F32"
            return nearest(expr, how, f"U{bits}", block, scale) if bits else None
        whole = self.blocks is not None and expr.shape[-1] % ENCODINGS[self.blocks].block_elements == 0
        return Encoded(expr, self.blocks, self.rounding) if self.blocks is not None and whole else None

    def _takes(self, given: Apart) -> bool:
        """Whether MatMulNBits has such blocks and zero points, or DequantizeLinear, which has whole ones of whole bytes
        in a row; four bits of experts cannot be picked out (Gather has no such kernel)."""
        bits, block, zeros = given.layout
        if self.profile == "openvino":
            return True  # whose ordinary operations these are
        if self.standard and len(given.scales.shape) > 2:
            return bits == 8 and not zeros
        if self.standard:
            return not zeros or (given.whole and given.scales.shape[-1] * bits % 8 == 0)
        return block >= LEAST_BLOCK and block.bit_count() == 1 and (bits == 4 or given.whole)


class Builder:
    """A graph under construction."""

    def __init__(self, name: str, form: Form) -> None:
        self.graph = Graph(name)
        self.form = form
        self.float_type = form.float_type
        self.made: set[str] = set()
        self._taken: dict[str, int] = {}

    def input(self, name: str, type: str, shape: tuple[Dim, ...], role: str = "") -> str:
        """Declare an input; returns its name."""
        self.graph.inputs.append(Value(name, type, shape, role))
        return name

    def output(self, name: str, type: str, shape: tuple[Dim, ...], role: str = "") -> None:
        """Declare an output."""
        self.graph.outputs.append(Value(name, type, shape, role))

    def weight(self, weight: Weight) -> str:
        """A weight as a constant in the graph's type; returns its name."""
        kind = self.form.weight_type or self.float_type
        if self.form.as_stored:
            kind = _FLOATS.get(weight.expr.stored.name, kind)
        if weight.name not in self.graph.tensors:
            self.graph.tensors[weight.name] = GraphTensor(weight.name, kind, weight.expr.shape, weight.expr)
        if kind == self.float_type:
            return weight.name
        cast = f"{weight.name}/cast"
        if cast not in self.made:
            self.node("CastWeight", [weight.name], cast)
        return cast

    def parts(self, weight: Weight, given: Apart, *, packed: bool = True) -> list[str]:
        """A matrix as constants: codes [n, blocks, bytes], scales and, where it has them, zero points; their names.
        packed: whole zero points are integers as wide as the codes, else floats like the scales."""
        block_bytes = given.layout.block * given.layout.bits // 8
        found: dict[str, tuple[str, Expression, tuple[int, ...]]]
        found = {"codes": ("UINT8", given.codes, (*given.scales.shape, block_bytes))}
        found["scales"] = (self.float_type, given.scales, given.scales.shape)
        if given.zeros is not None:
            whole = packed and given.whole
            zeros = given.zero_points() if whole else given.zeros
            found["zero_points" if whole else "zeros"] = ("UINT8" if whole else self.float_type, zeros, zeros.shape)
        for suffix, (kind, expr, shape) in found.items():
            own = f"{weight.name}_{suffix}"
            self.graph.tensors.setdefault(own, GraphTensor(own, kind, shape, expr))
        return [f"{weight.name}_{suffix}" for suffix in found]

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An array as a constant, under a name of its own; the same name twice is the same constant."""
        if name not in self.graph.tensors:
            kind = _CONSTANTS[array.dtype.name]
            self.graph.tensors[name] = GraphTensor.of_bytes(name, kind, array.shape, array.tobytes())
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, *, domain: str = STRUCTURAL, **attributes: Any) -> str:
        """Append a node with one output, `name`; returns that."""
        return self.nodes(op, inputs, (name,), domain=domain, **attributes)[0]

    def nodes(
        self, op: str, inputs: Sequence[str], names: Sequence[str], *, domain: str = STRUCTURAL, **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with several outputs; attributes that are None are left out."""
        given = {key: attribute(key, value) for key, value in attributes.items() if value is not None}
        first = names[0]
        self.made.update(names)
        self.graph.nodes.append(Node(op, list(inputs), list(names), given, domain, name=first.removesuffix("_out")))
        return tuple(names)

    @contextmanager
    def branch(self, name: str) -> Iterator[Graph]:
        """What is made meanwhile goes into a graph of its own, whose constants are those of the graph around it."""
        outer, made, inner = self.graph.nodes, set(self.made), Graph(name)
        self.graph.nodes = inner.nodes
        try:
            yield inner
        finally:
            self.graph.nodes, self.made = outer, made

    def gives(self, branch: Graph, name: str, width: int | None = None) -> None:
        """Declare an output of a branch; width: it is a hidden state."""
        shape, role = (None, "") if width is None else ((None, None, width), "hidden")
        branch.outputs.append(Value(name, self.float_type, shape, role))

    def either(self, which: str, then: Graph, otherwise: Graph, names: Sequence[str]) -> tuple[str, ...]:
        """Append a choice between two branches, whose outputs are `names`; returns these."""
        return self.nodes("If", [which], names, domain="", then_branch=then, else_branch=otherwise)

    def fresh(self, name: str) -> str:
        """A name that is not in use: with a number behind it, from the second time on."""
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return f"{name}_{count}" if count else name


def attribute(name: str, value: Any) -> Attribute:
    """An attribute of the kind that the value has."""
    if isinstance(value, Attribute):
        return value
    if isinstance(value, bool | int):
        return Attribute(name, "INT", int(value))
    if isinstance(value, float):
        return Attribute(name, "FLOAT", value)
    if isinstance(value, str):
        return Attribute(name, "STRING", value.encode())
    if isinstance(value, Graph):
        return Attribute(name, "GRAPH", value)
    if isinstance(value, GraphTensor):
        return Attribute(name, "TENSOR", value)
    values = list(value)
    if values and isinstance(values[0], str):
        return Attribute(name, "STRINGS", [one.encode() for one in values])
    return Attribute(name, "FLOATS" if any(isinstance(one, float) for one in values) else "INTS", values)
