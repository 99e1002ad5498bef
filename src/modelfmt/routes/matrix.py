"""What can go where without being quantized again: a table made by asking the code about an example of each scheme.

The examples have what decides: scales with every bit that their type has, zeros at both ends, every code. A tensor
whose numbers are kinder may do better; one of these verdicts is what any tensor of the scheme gets at least, as long as
its scales are in the range of the type they go to.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelfmt import grids
from modelfmt.errors import ModelfmtError
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Expression, Param, Reshape
from modelfmt.quant import transcode
from modelfmt.routes.quantized import SCHEMES
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["ROWS", "markdown", "matrix"]

N, K = 256, 512

_ZERO = 2.0**-24
"""What a zero that is rounded to float32 costs: it is no larger than what its group's grid reaches."""

_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "NVFP4")


def _array(values: Any, encoding: str) -> Constant:
    import ml_dtypes
    import numpy as np

    name = ENCODINGS[encoding].numpy
    made = np.ascontiguousarray(values.astype(getattr(ml_dtypes, name, None) or np.dtype(name)))
    return Constant(made.tobytes(), tuple(int(n) for n in made.shape), encoding)


def _integers(bits: int, group: int, scale: str, zero: str) -> Callable[[Generator], Expression]:
    """zero: "half" of the range, "any", "one", or an offset ("free") in the type of the scale."""

    def make(rng: Generator) -> Expression:
        import numpy as np

        codes = rng.integers(0, 256, (N, K * bits // 8))
        shape = (N, K // group)
        scales = Param(_array(rng.uniform(0.001, 0.002, shape), scale), group=group)
        packed, packing = _array(codes, "U8"), Packing(bits)
        offset = None
        found: float | Param = float(1 << (bits - 1))
        if zero == "any":
            zeros = rng.integers(0, 1 << bits, shape)
            zeros[0, 0], zeros[0, 1 % shape[1]] = 0, (1 << bits) - 1
            found = Param(_array(zeros, "U8"), group=group)
        elif zero == "free":
            found, offset = 0.0, Param(_array(-rng.uniform(0.001, 0.02, shape), scale), group=group)
        elif zero == "order":
            index = rng.permutation(np.repeat(np.arange(K // group), group))
            line = _array(index[None], "I32")
            return Coded(packed, packing, (N, K), f"U{bits}", 1, (scales,), found, index=line)
        return Coded(packed, packing, (N, K), f"U{bits}", group, (scales,), found, offset)

    return make


def _tabled(
    table: str, bits: int, group: int, scale: str, rows: int = 1, whole: bool = False
) -> Callable[[Generator], Expression]:
    def make(rng: Generator) -> Expression:
        import numpy as np

        codes = rng.integers(0, 256, (N, K * bits // 8))
        if table == "E4M3":
            codes = np.where(codes & 127 == 127, 0, codes)
        numbers = np.exp2(rng.integers(-9, 3, (N // rows, K // group)))
        if scale not in ("F8_E8M0",):
            numbers = numbers * rng.uniform(1, 2, numbers.shape)
        scales: tuple[Param, ...] = (Param(_array(numbers, scale), rows=rows, group=group),)
        if whole:
            odd = 0.012300001  # as float32 it has every bit
            scales += (Param(_array(np.full((1, 1), odd), "F32"), rows=0),)
        return Coded(_array(codes, "U8"), Packing(bits), (N, K), table, group, scales)

    return make


def _nf4(rng: Generator) -> Expression:
    """As bitsandbytes lays it out: blocks of the flattened tensor, the first nibble high."""
    scales = Param(_array(rng.uniform(0.001, 0.002, N * K // 64), "F32"), group=64, flat=True)
    codes = _array(rng.integers(0, 256, (N, K // 2)), "U8")
    return Coded(codes, Packing(4, order="high"), (N, K), "NF4", 64, (scales,))


def _blocks(kind: str) -> Callable[[Generator], Expression]:
    def make(rng: Generator) -> Expression:
        import numpy as np

        from modelfmt.kernels import convert, kernel_types

        values = rng.standard_normal((N, K)).astype(np.float32)
        row = kernel_types()[kind]
        blocks = np.empty((N, K // row.block_elements * row.block_bytes), np.uint8)
        convert("F32", values, kind, blocks, N, K)
        return grids.regridded(Constant(blocks.tobytes(), (N, K), kind))

    return make


ROWS: dict[str, Callable[[Generator], Expression]] = {
    "AWQ; GPTQ 4 bits, asymmetric": _integers(4, 128, "F16", "any"),
    "GPTQ 4 bits, symmetric": _integers(4, 128, "F16", "half"),
    "GPTQ 8 bits, asymmetric": _integers(8, 128, "F16", "any"),
    "GPTQ 3 bits, asymmetric": _integers(3, 128, "F16", "any"),
    "GPTQ 2 bits, asymmetric": _integers(2, 128, "F16", "any"),
    "GPTQ 4 bits, act-order": _integers(4, 128, "F16", "order"),
    "compressed-tensors int4, BF16 scales": _integers(4, 32, "BF16", "half"),
    "compressed-tensors int4, asymmetric": _integers(4, 128, "BF16", "any"),
    "compressed-tensors int8, F32 scales of rows": _integers(8, K, "F32", "half"),
    "FP8, F32 scales of blocks": _tabled("E4M3", 8, 128, "F32", rows=128),
    "FP8, scales of powers of two": _tabled("E4M3", 8, 128, "F8_E8M0", rows=128),
    "MXFP4": _tabled("E2M1", 4, 32, "F8_E8M0"),
    "NVFP4": _tabled("E2M1", 4, 16, "F8_E4M3", whole=True),
    "bitsandbytes nf4": _nf4,
    "MLX 4 bits, F16": _integers(4, 64, "F16", "free"),
    "MLX 4 bits, BF16": _integers(4, 64, "BF16", "free"),
    "MLX 8 bits, F16": _integers(8, 64, "F16", "free"),
    "ONNX MatMulNBits 4 bits": _integers(4, 32, "F32", "half"),
    "ONNX MatMulNBits 4 bits, asymmetric": _integers(4, 32, "F32", "any"),
    "ONNX MatMulNBits 8 bits": _integers(8, 32, "F32", "half"),
    **{f"GGUF {kind}": _blocks(kind) for kind in _BLOCKS},
}
"""Name of a scheme -> an example of it."""


def matrix() -> list[dict[str, str]]:
    """One row for each scheme: what GGUF type it becomes exactly, and within 1e-3 where that is smaller; how exactly
    MatMulNBits of an ONNX graph holds it ("-": it becomes float there); and for each scheme that is written as a
    folder, how exactly it takes it ("-": not at all)."""
    import numpy as np

    reader = Evaluator(Files())
    found = []
    for number, (name, make) in enumerate(ROWS.items()):
        expr = make(np.random.default_rng(number))
        row = {"from": name, "gguf": "as it is" if name.startswith("GGUF") else _gguf(expr, reader)}
        row["onnx"] = _onnx(expr, reader)
        row |= {target: _folder(expr, target, reader) for target in SCHEMES}
        found.append(row)
    return found


def markdown(rows: list[dict[str, str]]) -> str:
    """The table as it stands in docs/transcoding.md."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    return "\n".join(lines + [f"| {' | '.join(row.values())} |" for row in rows]) + "\n"


def _gguf(expr: Expression, reader: Evaluator) -> str:
    words = []
    for text in ("exact", "near:1e-3"):
        try:
            move = transcode.choose(expr, transcode.policy(text), reader)
        except ModelfmtError:
            continue
        words.append(f"{move.encoding} {move.verdict}" + (" + scale" if move.scale is not None else ""))
    return "; ".join(dict.fromkeys(words)) or "-"


def _onnx(expr: Expression, reader: Evaluator) -> str:
    from modelfmt.graphs.builder import Form

    given = Form().apart(expr)
    if given is None:
        return "-"
    floats = given.zeros is not None and not given.whole
    bound = transcode.rounding(expr, reader, scale="F32", offset="F32" if floats else None)
    return f"{transcode.verdict(max(bound, _ZERO * floats))} ({given.layout.bits} bits)"


def _folder(expr: Expression, target: str, reader: Evaluator) -> str:
    scheme = import_module(f"modelfmt.checkpoints.{SCHEMES[target]}")
    given = Reshape(expr, (1, N, K)) if target == "mxfp4" else expr  # a scheme for stacked experts alone
    tries = (scheme.write(one, reader, transcode.policy("auto")) for one in (given, *grids.widened(given)))
    written = next((one for one in tries if one is not None), None)
    if written is None:
        return "-"
    bits = written.settings.get("bits") or written.settings.get("num_bits")
    stored = next((e.stored.name for n, e in written.parts.items() if "scale" in n), "")
    what = f" ({bits} bits, {stored})" if target == "mlx" and stored in ("F16", "BF16", "F32") else ""
    return f"{written.verdict}{what}"
