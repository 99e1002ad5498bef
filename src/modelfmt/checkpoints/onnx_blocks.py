"""Quantized matrices inside of an ONNX graph, as the tensors that they mean: com.microsoft's MatMulNBits and
DequantizeLinear by blocks, value = scale * (code - zero).

MatMulNBits: B U8 [N, blocks, block bytes], codes in order, the first in the lowest bits; scales [N, blocks];
zero_points U8 [N, ceil(blocks * bits / 8)], whole ones as packed as the codes, or floats like the scales; none: half of
the range. Columns behind K are padding. DequantizeLinear: x INT4, UINT4, INT8 or UINT8, elements packed without regard to rows;
scales and zero points have x's shape, with blocks of `block_size` along `axis`. Experts that a Gather picks out first
are one tensor. Source: ONNX Runtime 1.23 docs/ContribOperators.md, ONNX 1.23 docs/Operators.md. Not here: g_idx, two or
more bits that do not fill bytes, GatherBlockQuantized, scales of whole rows or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod

import msgspec

from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.ir.graph import ELEMENT_TYPES, Graph, GraphTensor, Node, Program, walk_graphs
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Expression, Fields, Leaf, Param, Reshape, Slice

__all__ = ["Matrix", "matrices"]

_SUFFIXES = ("_codes", "_quantized")
"""What modelfmt's own graphs put behind the name of a matrix."""

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_INTEGERS = {"INT4": 8, "UINT4": 0, "INT8": 128, "UINT8": 0}
"""Types of x -> the bit that makes its codes unsigned."""

_BITS = (2, 4, 8)
_LEAST_BLOCK = 16
_LIMIT = 1 << 31


@dataclass(frozen=True)
class Matrix:
    """expr: the matrix, [.., rows, columns]. parts: names of the constants that it is made of."""

    expr: Coded
    parts: tuple[str, ...]


def matrices(program: Program, path: str = "") -> dict[str, Matrix]:
    """The quantized matrices of a program by name: that of the codes, less `_codes` or `_quantized`.

    What is computed before it is multiplied is left out, but for Gather. Raises UnsupportedError (quant-config),
    CorruptFile (quant-shape) with the name of the node.
    """
    found: dict[str, Matrix] = {}
    for _, graph in walk_graphs(program):
        if not isinstance(graph, Graph):
            continue
        constants = program.graph.tensors | graph.tensors
        picked = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "Gather" and node.outputs}
        for node in graph.nodes:
            make = _OPERATORS.get((node.domain, node.op))
            if make is None:
                continue
            names = [picked.get(name, name) for name in node.inputs]
            given = _Given(node, path, [constants.get(name) if name else None for name in names], names)
            made = make(given)
            if made is not None:
                codes = made.parts[0]
                found[next((codes.removesuffix(end) for end in _SUFFIXES if codes.endswith(end)), codes)] = made
    return found


@dataclass
class _Given:
    """A node with the constants among its inputs."""

    node: Node
    path: str
    constants: list[GraphTensor | None]
    names: list[str]

    def present(self, index: int) -> bool:
        return index < len(self.names) and bool(self.names[index])

    def computed(self, *indices: int) -> bool:
        """Whether one of these inputs is there, but no constant."""
        return any(self.present(index) and self.constants[index] is None for index in indices)

    def constant(self, index: int) -> GraphTensor:
        found = self.constants[index] if self.present(index) else None
        if found is None:
            raise self.corrupt(index, "nothing", "a constant")
        return found

    def number(self, name: str, default: int | None = None) -> int:
        """An attribute. Raises UnsupportedError."""
        found = self.node.get(name, default)
        if not isinstance(found, int) or not -_LIMIT < found < _LIMIT:
            raise self.refused(name, found, "a number")
        return found

    def refused(self, what: str, found: object, allowed: object) -> UnsupportedError:
        return UnsupportedError(
            "a quantized matrix of this graph has a setting that is not supported",
            code="quant-config",
            path=self.path,
            place=f"{self.node.op} {self.node.name or self.node.outputs[0]}: {what}",
            found=found,
            allowed=allowed,
        )

    def corrupt(self, index: int, found: object, allowed: object) -> CorruptFile:
        return CorruptFile(
            "a part of a quantized matrix has another shape than its node implies",
            code="quant-shape",
            path=self.path,
            place=f"{self.node.op} {self.node.name or self.node.outputs[0]}: input {index}",
            found=found,
            allowed=allowed,
        )

    def floats(self, index: int, shape: tuple[int, ...]) -> Expression:
        """Scales or zeros of any type of floats. Their own shape may be flat."""
        given = self.constant(index)
        if given.type not in _FLOATS or given.data is None:
            raise self.refused(f"input {index}", given.type, ", ".join(_FLOATS))
        if prod(given.shape) != prod(shape):
            raise self.corrupt(index, list(given.shape), list(shape))
        return Reshape(given.data, shape)

    def bytes(self, index: int, shape: tuple[int, ...]) -> Expression:
        """The bytes of packed integers as U8."""
        given = self.constant(index)
        if not isinstance(given.data, Leaf | Constant):
            raise self.refused(f"input {index}", "values that are computed", "bytes of the file")
        if given.nbytes != prod(shape):
            raise self.corrupt(index, list(given.shape), f"{list(shape)} bytes")
        return msgspec.structs.replace(given.data, encoding="U8", shape=shape)

    def integers(self, index: int, shape: tuple[int, ...], bits: int, flip: int) -> Expression:
        """Integers that are packed without regard to rows, in bytes of their own, U8 [shape]."""
        n, per_byte = prod(shape), 8 // bits
        n_bytes = -(-n // per_byte)
        shifts = tuple(range(0, 8, bits))
        fields: Expression = Fields(self.bytes(index, (n_bytes, 1)), bits, shifts, flip=flip)
        if n % per_byte:
            fields = Slice(Reshape(fields, (n_bytes * per_byte, 1)), 0, 0, n)
        return Reshape(fields, shape)

    def matrix(self, expr: Coded) -> Matrix:
        first = 1 if self.node.op == "MatMulNBits" else 0
        return Matrix(expr, tuple(name for name in self.names[first : first + 3] if name))


def _matmul_n_bits(given: _Given) -> Matrix | None:
    if given.computed(1, 2, 3):
        return None
    if given.present(4):
        raise given.refused("g_idx", "an order of columns", "none")
    n, k, block = (given.number(name) for name in ("N", "K", "block_size"))
    bits = given.number("bits", 4)
    if bits not in _BITS or min(n, k) <= 0 or block < _LEAST_BLOCK or block & (block - 1):
        raise given.refused("N, K, block_size, bits", (n, k, block, bits), f"blocks of 16, 32 .., bits of {_BITS}")
    codes, n_blocks = given.constant(1), -(-k // block)
    outer = _experts(given, codes, (n, n_blocks, block * bits // 8))
    packed = given.bytes(1, (*outer, n, n_blocks * block * bits // 8))
    scale = Param(given.floats(2, (*outer, n, n_blocks)), group=block)
    zero: float | Param = float(1 << (bits - 1))
    if given.present(3):
        zero = Param(_zeros(given, (*outer, n), n_blocks, bits), group=block)
    whole = 0 if k == n_blocks * block else n_blocks * block
    label = f"MatMulNBits int{bits}, block {block}"
    own = gcd(block, k)
    expr = Coded(packed, Packing(bits), (*outer, n, k), f"U{bits}", own, (scale,), zero, whole=whole, label=label)
    return given.matrix(expr)


def _experts(given: _Given, codes: GraphTensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(experts,) where codes are those of several matrices, else ()."""
    outer = codes.shape[: len(codes.shape) - len(shape)]
    if codes.type != "UINT8" or len(outer) > 1 or codes.shape != (*outer, *shape) or 0 in outer:
        raise given.corrupt(1, f"{codes.type} {list(codes.shape)}", f"UINT8 {list(shape)}")
    return outer


def _zeros(given: _Given, rows: tuple[int, ...], n_blocks: int, bits: int) -> Expression:
    """Zeros of each block, and perhaps of none behind them: whole numbers, packed row by row, or floats."""
    if given.constant(3).type != "UINT8":
        return given.floats(3, (*rows, n_blocks))
    packed = given.bytes(3, (*rows, -(-n_blocks * bits // 8)))
    return Fields(packed, bits, tuple(range(0, 8, bits))) if bits < 8 else packed


def _dequantize_linear(given: _Given) -> Matrix | None:
    block = given.number("block_size", 0)
    if block == 0 or given.computed(0, 1, 2):
        return None
    codes = given.constant(0)
    shape, flip = codes.shape, _INTEGERS.get(codes.type)
    axis = given.number("axis", 1)
    axis += len(shape) if axis < 0 else 0
    if flip is None or block < 0 or min(shape, default=0) <= 0:
        raise given.refused("x", (codes.type, list(shape), block), ", ".join(_INTEGERS))
    last = len(shape) - 1
    if not (len(shape) in (2, 3) and axis in (last, last - 1)) or (axis < last and len(shape) != 2):
        raise given.refused("axis", (list(shape), axis), "the last axis, or one of a matrix")
    bits = ELEMENT_TYPES[codes.type].bits
    groups = tuple(-(-size // block) if at == axis else size for at, size in enumerate(shape))
    rows, group = (1, block) if axis == last else (block, 1)
    scale = Param(given.floats(1, groups), rows=rows, group=group)
    zero: float | Param = float(flip)
    if given.present(2):
        if given.constant(2).type != codes.type:
            raise given.refused("zero points", given.constant(2).type, codes.type)
        zero = Param(given.integers(2, groups, bits, flip), rows=rows, group=group)
    *outer, n_cols = shape
    if n_cols * bits % 8:
        packed, packing = given.integers(0, shape, bits, flip), Packing(8)
    else:
        packed, packing = given.bytes(0, (*outer, n_cols * bits // 8)), Packing(bits, flip=flip)
    label = f"{codes.type}, block {block}"
    return given.matrix(Coded(packed, packing, shape, f"U{bits}", gcd(group, n_cols), (scale,), zero, label=label))


_OPERATORS: Mapping[tuple[str, str], Callable[[_Given], Matrix | None]] = {
    ("com.microsoft", "MatMulNBits"): _matmul_n_bits,
    ("", "DequantizeLinear"): _dequantize_linear,
}
