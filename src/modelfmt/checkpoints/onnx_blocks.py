"""Quantized matrices inside of an ONNX graph, as the tensors that they mean: com.microsoft's MatMulNBits and
DequantizeLinear by blocks, value = scale * (code - zero).

MatMulNBits: B U8 [N, blocks, block bytes], codes in order, the first in the lowest bits; scales [N, blocks];
zero_points U8 [N, ceil(blocks * bits / 8)], whole ones as packed as the codes, or floats like the scales; none: half of
the range. Columns behind K are padding. DequantizeLinear: x INT4, UINT4, INT8 or UINT8, elements packed without regard
to rows; scales and zero points have x's shape, with blocks of `block_size` along `axis`. GatherBlockQuantized of U8: a
table [N, K * bits / 8], otherwise like MatMulNBits. Tables whose rows plain operators pick out and multiply are found
by the names that modelfmt gives their parts. Experts that a Gather picks out first are one tensor. Source: ONNX Runtime
1.23 docs/ContribOperators.md, ONNX 1.23 docs/Operators.md. Not here: g_idx, QMoE, scales of whole rows or tensors.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from math import gcd, prod

import msgspec
from msgspec.structs import replace

from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.ir.graph import ELEMENT_TYPES, Attribute, Graph, GraphTensor, Node, Program, walk_graphs
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Blocks, Coded, Constant, Expression, Fields, Leaf, Param, Reshape, Slice, Transpose

__all__ = ["Matrix", "matrices"]

_SUFFIX = re.compile(r"_codes(_rows)?$|_quantized$|_DQ_Q[248]$|_Q[248]$")
"""What modelfmt's own graphs put behind the name of a matrix, and ONNX Runtime's MatMulNBitsQuantizer."""

_TURNED = {"MatMulNBits": ("_Q2", "_Q4", "_Q8"), "DequantizeLinear": ("_DQ_Q2", "_DQ_Q4", "_DQ_Q8")}
"""Where that quantizer made them of [in, out]: MatMulNBits has them turned, DequantizeLinear as they were."""

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_INTEGERS = {"INT4": 8, "UINT4": 0, "INT8": 128, "UINT8": 0}
"""Types of x -> the bit that makes its codes unsigned."""

_BITS = (2, 4, 8)
_LEAST_BLOCK = 16
_LIMIT = 1 << 31


class Matrix(msgspec.Struct, frozen=True):
    """expr: the matrix, [.., rows, columns], in the order that it had before it was quantized: Coded, or turned values.
    linear: the same as [.., out, in], as the layer of a network has it. parts: names of the constants that it is made
    of. node: the name of the first node that uses it."""

    expr: Expression
    parts: tuple[str, ...]
    linear: Expression
    node: str = ""


def matrices(program: Program, path: str = "", refused: list[UnsupportedError] | None = None) -> dict[str, Matrix]:
    """The quantized matrices of a program by name: that of the codes, less what quantizers put behind it.

    What is computed before it is multiplied is left out, but for Gather. Raises UnsupportedError (quant-config), or
    puts it into `refused`; CorruptFile (quant-shape). Both have the name of the node.
    """
    found: dict[str, Matrix] = {}
    for _, graph in walk_graphs(program):
        if not isinstance(graph, Graph):
            continue
        constants = ChainMap(graph.tensors, program.graph.tensors)
        picked = {node.outputs[0]: node for node in graph.nodes if _is_gather(node)}
        for node in graph.nodes:
            used = _table(node, picked, constants) or node
            make = _OPERATORS.get((used.domain, used.op))
            if make is None:
                continue
            names = [picked[name].inputs[0] if name in picked else name for name in used.inputs]
            try:
                made = make(_Given(used, path, [constants.get(name) for name in names], names))
            except UnsupportedError as error:
                if refused is None:
                    raise
                refused.append(error)
                continue
            if made is not None:
                name, one = _as_it_was(used, made)
                found[name] = one
    return found


def _as_it_was(node: Node, made: Matrix) -> tuple[str, Matrix]:
    """The name of a matrix before it was quantized, and the matrix in the order of then."""
    codes = made.parts[0]
    end = _SUFFIX.search(codes)
    made = replace(made, node=node.name or "")
    if end is None:
        return codes, made
    if isinstance(made.expr, Coded) and end[0] in _TURNED.get(node.op, ()):
        turned = Transpose(Blocks(made.expr, "F32"))
        made = replace(made, expr=turned) if node.op == "MatMulNBits" else replace(made, linear=turned)
    return codes[: end.start()], made


def _is_gather(node: Node) -> bool:
    return (node.domain, node.op) == ("", "Gather") and bool(node.inputs) and bool(node.outputs)


def _table(node: Node, picked: Mapping[str, Node], constants: Mapping[str, GraphTensor]) -> Node | None:
    """The product with the matrix whose picked rows a node begins to take apart: the halves of bytes, or bytes."""
    bits = {"BitwiseAnd": 4, "Cast": 8}.get(node.op)
    rows = picked.get(node.inputs[0]) if node.inputs else None
    if bits is None or rows is None or not rows.inputs[0].endswith("_codes"):
        return None
    codes, stem = constants.get(rows.inputs[0]), rows.inputs[0].removesuffix("_codes")
    if codes is None or codes.type != "UINT8" or len(codes.shape) != 3 or f"{stem}_scales" not in constants:
        return None
    zeros = next((name for end in ("_zero_points", "_zeros") if (name := stem + end) in constants), "")
    n, n_blocks, n_bytes = codes.shape
    block = n_bytes * 8 // bits
    sizes = {"N": n, "K": n_blocks * block, "bits": bits, "block_size": block}
    given = {name: Attribute(name, "INT", value) for name, value in sizes.items()}
    inputs = ["", rows.inputs[0], f"{stem}_scales", zeros]
    return Node("MatMulNBits", inputs, node.outputs, given, "com.microsoft", name=node.name)


class _Given(msgspec.Struct):
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

    @property
    def place(self) -> str:
        return f"{self.node.op} {self.node.name or next(iter(self.node.outputs), '')}"

    def refused(self, what: str, found: object, allowed: object) -> UnsupportedError:
        return UnsupportedError(
            "a quantized matrix of this graph has a setting that is not supported",
            code="quant-config",
            path=self.path,
            place=f"{self.place}: {what}",
            found=found,
            allowed=allowed,
        )

    def corrupt(self, index: int, found: object, allowed: object) -> CorruptFile:
        return CorruptFile(
            "a part of a quantized matrix has another shape than its node implies",
            code="quant-shape",
            path=self.path,
            place=f"{self.place}: input {index}",
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
        fields: Expression = Fields(self.bytes(index, (n_bytes, 1)), bits, _shifts(bits), flip=flip)
        if n % per_byte:
            fields = Slice(Reshape(fields, (n_bytes * per_byte, 1)), 0, 0, n)
        return Reshape(fields, shape)

    def matrix(self, expr: Coded, parts: tuple[int, ...]) -> Matrix:
        return Matrix(expr, tuple(self.names[index] for index in parts if self.present(index)), expr)


def _matmul_n_bits(given: _Given) -> Matrix | None:
    if given.computed(1, 2, 3):
        return None
    if given.present(4):
        raise given.refused("g_idx", "an order of columns", "none")
    n, k, block = (given.number(name) for name in ("N", "K", "block_size"))
    bits = given.number("bits", 4)
    if bits not in _BITS or min(n, k) <= 0 or block < _LEAST_BLOCK or block & (block - 1):
        raise given.refused("N, K, block_size, bits", (n, k, block, bits), f"blocks of 16, 32 .., bits of {_BITS}")
    codes, shape = given.constant(1), (n, -(-k // block), block * bits // 8)
    outer = codes.shape[: len(codes.shape) - len(shape)]
    if codes.type != "UINT8" or len(outer) > 1 or codes.shape != (*outer, *shape) or 0 in outer:
        raise given.corrupt(1, f"{codes.type} {list(codes.shape)}", f"UINT8 {list(shape)}")
    return _rows(given, (1, 2, 3), (*outer, n, k), bits, block)


def _gather_block_quantized(given: _Given) -> Matrix | None:
    if given.computed(0, 2, 3):
        return None
    codes, bits, block = given.constant(0), given.number("bits", 4), given.number("block_size", 128)
    axes = (given.number("gather_axis", 0), given.number("quantize_axis", 1))
    if codes.type != "UINT8" or len(codes.shape) != 2 or axes[0] != 0 or axes[1] not in (1, -1):
        raise given.refused("data", (codes.type, list(codes.shape), axes), "UINT8, rows of a matrix in blocks of a row")
    n, k = codes.shape[0], codes.shape[1] * 8 // bits if bits in _BITS else 0
    if min(n, k) <= 0 or block < _LEAST_BLOCK:
        raise given.refused("data", (n, k, block, bits), f"blocks of 16, 32 .., bits of {_BITS}")
    if k % block:
        raise given.corrupt(0, list(codes.shape), f"whole blocks of {block}")
    return _rows(given, (0, 2, 3), (n, k), bits, block)


def _rows(given: _Given, parts: tuple[int, int, int], shape: tuple[int, ...], bits: int, block: int) -> Matrix:
    """A matrix whose rows are blocks of codes, the last one perhaps padded. parts: which inputs are codes, scales and
    zero points."""
    *outer, k = shape
    n_blocks = -(-k // block)
    packed = given.bytes(parts[0], (*outer, n_blocks * block * bits // 8))
    scale = Param(given.floats(parts[1], (*outer, n_blocks)), group=block)
    zero: float | Param = float(1 << (bits - 1))
    if given.present(parts[2]):
        zero = Param(_zeros(given, parts[2], (*outer, n_blocks), bits), group=block)
    whole = 0 if k == n_blocks * block else n_blocks * block
    packing = Packing(bits)
    if k * bits % 8:  # the padding begins within a byte
        packed, packing = Fields(packed, bits, _shifts(bits)), Packing(8)
    label = f"{given.node.op} int{bits}, block {block}"
    expr = Coded(packed, packing, shape, f"U{bits}", gcd(block, k), (scale,), zero, whole=whole, label=label)
    return given.matrix(expr, parts)


def _zeros(given: _Given, index: int, shape: tuple[int, ...], bits: int) -> Expression:
    """Zeros of each block, and perhaps of none behind them: whole numbers, packed row by row, or floats."""
    if given.constant(index).type != "UINT8":
        return given.floats(index, shape)
    packed = given.bytes(index, (*shape[:-1], -(-shape[-1] * bits // 8)))
    return Fields(packed, bits, _shifts(bits)) if bits < 8 else packed


def _shifts(bits: int) -> tuple[int, ...]:
    """Where the codes of a byte begin, the first in the lowest bits."""
    return tuple(range(0, 8, bits))


def _dequantize_linear(given: _Given) -> Matrix | None:
    block = given.number("block_size", 0)
    if block == 0 or given.computed(0, 1, 2):
        return None
    codes = given.constant(0)
    shape, flip = codes.shape, _INTEGERS.get(codes.type)
    axis = given.number("axis", 1)
    axis += len(shape) if axis < 0 else given.names[0] != given.node.inputs[0]  # Gather took the axis of experts away
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
    expr = Coded(packed, packing, shape, f"U{bits}", gcd(group, n_cols), (scale,), zero, label=label)
    return given.matrix(expr, (0, 1, 2))


_OPERATORS: Mapping[tuple[str, str], Callable[[_Given], Matrix | None]] = {
    ("com.microsoft", "MatMulNBits"): _matmul_n_bits,
    ("com.microsoft", "GatherBlockQuantized"): _gather_block_quantized,
    ("", "DequantizeLinear"): _dequantize_linear,
}
