"""What the tests of block quantizers share: values and importances that are hard on a quantizer, and the comparison of
modelfmt._kernels with llama.cpp at every instruction-set level this CPU runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import ggml
from modelfmt import _kernels as kernels

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

TYPES: dict[str, Any] = {row[0]: row for row in kernels.types()}
LARGEST = float(np.finfo(np.float32).max)
IMPORTANCES = ["none", "ones", "random", "some zeros", "half zeros", "all zeros", "tiny", "huge", "every magnitude"]


def _floats(x: npt.NDArray[Any]) -> Floats:
    return np.clip(x, -LARGEST, LARGEST).astype(np.float32)


def values(rows: int, cols: int) -> Iterator[tuple[str, Floats]]:
    """Named arrays [rows, cols] of finite numbers."""
    rng = np.random.default_rng(cols)
    shape = (rows, cols)
    normal = rng.standard_normal(shape)
    sign = np.where(np.arange(cols) % 2, 1.0, -1.0)
    yield "gaussian", _floats(normal * 0.02)
    yield "student t", rng.standard_t(2, shape).astype(np.float32)
    yield "zero", np.zeros(shape, np.float32)
    yield "negative zero", np.full(shape, -0.0, np.float32)
    yield "constant", np.full(shape, 0.37, np.float32)
    yield "negative constant", np.full(shape, -0.37, np.float32)
    yield "positive", _floats(np.abs(normal))
    yield "far from zero", _floats(normal + 100)
    yield "narrow", _floats(1 + normal * 1e-7)
    yield "alternating", _floats(sign * np.abs(normal))
    yield "alternating ones", _floats(np.broadcast_to(sign, shape))
    yield "sparse", _floats(np.where(rng.random(shape) < 0.02, normal, 0))
    yield "one spike in 37", _floats(np.where(np.arange(cols) % 37 == 0, 5.0, 0.0) * np.ones(shape))
    yield "outlier", _floats(np.where(np.arange(cols) == cols // 2, 1000.0, normal * 0.01))
    yield "ties", _floats(rng.integers(-2, 3, shape) / 2)
    yield "integers", _floats(rng.integers(-9, 10, shape))
    yield "halves", _floats(rng.integers(-255, 256, shape) / 2)
    yield "subnormal", rng.integers(0, 200, shape, dtype=np.uint32).view(np.float32)
    for exponent in (-39, -16, -15, -13, 3, 6, 10, 12, 13, 14, 18, 19, 20, 25, 30, 36, 37, 38):
        yield f"gaussian * 1e{exponent}", _floats(normal * 10.0**exponent)
    yield "largest", _floats(np.where(normal > 0, LARGEST, -LARGEST))
    yield "every magnitude", _floats(normal * 10.0 ** rng.uniform(-38, 38, shape))
    yield "every magnitude by row", _floats(normal * 10.0 ** rng.uniform(-30, 30, (rows, 1)))
    by_sixteen = 10.0 ** rng.uniform(-38, 38, (rows, cols // 16, 1))
    yield "every magnitude by sixteen", _floats((normal.reshape(rows, -1, 16) * by_sixteen).reshape(shape))
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
    bits[bits & 0x7F800000 == 0x7F800000] &= 0xBFFFFFFF
    yield "random bits", bits.view(np.float32)


def importance(name: str, cols: int) -> Floats | None:
    """One of IMPORTANCES: float32 [cols], or None."""
    rng = np.random.default_rng(cols + 1)
    random = rng.random(cols)
    made = {
        "none": None,
        "ones": np.ones(cols),
        "random": random,
        "some zeros": np.where(rng.random(cols) < 0.3, 0, random),
        "half zeros": np.arange(cols) >= cols // 2,
        "all zeros": np.zeros(cols),
        "tiny": random * 1e-38,
        "huge": random * 3e38,
        "every magnitude": 10.0 ** rng.uniform(-44, 38, cols),
    }[name]
    return None if made is None else _floats(made)


def quantize(type: str, x: Floats, weights: Floats | None = None, rounding: str = "ggml") -> Bytes:
    """The blocks of the rows of x, at the active level, into a buffer that is checked for writes beyond its ends."""
    number = {"ggml": kernels.ROUNDING_GGML, "best": kernels.ROUNDING_BEST}[rounding]
    _, type_id, elements, size, *_ = TYPES[type]
    guarded = np.full(x.size // elements * size + 64, 0xA5, np.uint8)
    out = guarded[32:-32]
    kernels.convert(0, x.reshape(-1).view(np.uint8), type_id, out, *x.shape, weights, number)
    assert (guarded[:32] == 0xA5).all() and (guarded[-32:] == 0xA5).all()
    return out


def dequantize(type: str, blocks: Bytes) -> Floats:
    _, type_id, elements, size, *_ = TYPES[type]
    out = np.empty(blocks.size // size * elements, np.float32)
    kernels.convert(type_id, blocks, 0, out.view(np.uint8), 1, out.size)
    return out


def levels() -> Iterator[str]:
    """Every level of this CPU, active in turn."""
    before = kernels.isa()
    try:
        for level in kernels.isa_levels():
            kernels.set_isa(level)
            yield level
    finally:
        kernels.set_isa(before)


def assert_bytes_of_llama_cpp(type: str, x: Floats, weights: Floats | None, what: str) -> None:
    """The blocks of x are llama.cpp's at every level."""
    _, type_id, _, size, *_ = TYPES[type]
    expected = np.frombuffer(ggml.quantize(type_id, x, weights), np.uint8)
    for level in levels():
        found = quantize(type, x, weights)
        wrong = np.flatnonzero(found != expected)
        if wrong.size:
            block, byte = divmod(int(wrong[0]), size)
            many = len(np.unique(wrong // size))
            raise AssertionError(
                f"{type}, {what}, level {level}: {many} of {expected.size // size} blocks differ, first block {block} "
                f"byte {byte}: {found[wrong[0]]}, llama.cpp {expected[wrong[0]]}"
            )


def assert_reads_like_llama_cpp(type: str, blocks: Bytes) -> None:
    """The values of blocks are bit for bit llama.cpp's at every level; NaN only has to be NaN."""
    expected = ggml.dequantize(TYPES[type][1], blocks.tobytes())
    nan = np.isnan(expected)
    for level in levels():
        found = dequantize(type, blocks)
        assert np.array_equal(np.isnan(found), nan), (type, level)
        assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan]), (type, level)
