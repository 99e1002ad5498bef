"""rounding="best": never more error than llama.cpp's blocks, the same bytes at every level, near the best there is.

Errors are sums of importance * (x - value)^2 in float64, of values as llama.cpp reads them. Where a block has one
scale, the best there is can be found by trying every scale that float16 (or the type's own scale) can hold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggml
import modelfmt
from modelfmt import _kernels as kernels
from modelfmt.errors import UsageError
from quantizing import IMPORTANCES, TYPES, Bytes, Floats, importance, levels, quantize, values

REFINED = [name for name, row in TYPES.items() if row[8]]
NOT_REFINED = {"F32", "F16", "BF16", "F64", "Q8_1", "Q8_K"}

LEAST_GAIN = {
    "Q4_0": 4.0, "Q4_1": 10.0, "Q5_0": 4.0, "Q5_1": 11.0, "Q8_0": 10.0, "Q2_K": 10.5, "Q3_K": 3.4, "Q4_K": 2.5,
    "Q5_K": 5.4, "Q6_K": 5.4, "IQ4_NL": 3.5, "IQ4_XS": 3.0, "MXFP4": 2.2, "NVFP4": 10.0, "Q2_0": 40.0, "TQ1_0": 35.0,
    "TQ2_0": 35.0, "IQ1_S": 0.1, "IQ1_M": 0.1, "IQ2_XXS": 0.05, "IQ2_XS": 0.5, "IQ2_S": 0.6,
    "IQ3_XXS": 0.65, "IQ3_S": 3.6,
}  # fmt: skip
"""Of the root mean square error, in percent, with every importance 1, on Gaussian values and on Student's t with 5
degrees of freedom: a little less than what was measured."""


def errors(type: str, x: Floats, blocks: Bytes, weights: Floats | None) -> np.ndarray:
    """The error of each block, float64 [n_blocks]."""
    read = ggml.dequantize(TYPES[type][1], blocks.tobytes()).reshape(x.shape).astype(np.float64)
    factor = np.ones(x.shape[1]) if weights is None else weights.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = factor * (x.astype(np.float64) - read) ** 2
    return squares.reshape(-1, TYPES[type][2]).sum(1)


def heavy(kind: str, rows: int, cols: int) -> Floats:
    rng = np.random.default_rng(11)
    drawn = rng.standard_normal((rows, cols)) if kind == "gaussian" else rng.standard_t(5, (rows, cols))
    return (drawn * 0.02).astype(np.float32)


def test_every_block_type_that_weights_are_stored_in_is_refined() -> None:
    made = {name for name, row in TYPES.items() if row[4]}
    assert made - set(REFINED) == NOT_REFINED
    assert {row.name for row in modelfmt.types() if row.can_refine} == set(REFINED)


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("type", REFINED)
def test_no_block_is_worse_than_that_of_llama_cpp(type: str, name: str) -> None:
    cols = 3 * 256
    weights = importance(name, cols)
    if weights is None and TYPES[type][6]:
        weights = importance("ones", cols)
    n_better = 0
    for what, x in values(2, cols):
        before = errors(type, x, quantize(type, x, weights), weights)
        best = quantize(type, x, weights, rounding="best")
        after = errors(type, x, best, weights)
        # sums are added in another order here
        worse = ~(after <= before * (1 + 1e-12)) & ~(np.isnan(before))
        assert not worse.any(), (type, what, name, np.flatnonzero(worse)[:3], before[worse][:3], after[worse][:3])
        n_better += int((after < before * (1 - 1e-9)).sum())
        for level in levels():
            found = quantize(type, x, weights, rounding="best")
            assert np.array_equal(found, best), (type, what, name, level)
    if name in ("none", "ones", "random") and type != "Q1_0":
        assert n_better > 0, type


@pytest.mark.parametrize("kind", ["gaussian", "student t"])
@pytest.mark.parametrize("type", LEAST_GAIN)
def test_the_error_is_less_by_as_much_as_promised(type: str, kind: str) -> None:
    x = heavy(kind, 64, 1024)
    weights = importance("ones", 1024) if TYPES[type][6] else None
    before = errors(type, x, quantize(type, x, weights), None).sum()
    after = errors(type, x, quantize(type, x, weights, rounding="best"), None).sum()
    assert 100 * (1 - np.sqrt(after / before)) > LEAST_GAIN[type] * 0.9


def _least_errors(x: Floats, weights: Floats, steps: Floats, points: Floats) -> np.ndarray:
    """The least error of each block [n, elements] over all steps, each value at the nearest point."""
    found = np.full(len(x), np.inf)
    middles = (points[1:].astype(np.float64) + points[:-1]) / 2
    for step in steps.astype(np.float64):
        nearest = points[np.searchsorted(middles, x / step)] if step else np.zeros_like(x)
        found = np.minimum(found, (weights * (x - step * nearest) ** 2).sum(1))
    return found


HALVES = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
TRITS = np.array([-1.0, 0.0, 1.0], np.float32)
E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E4M3 = np.array([(8 + m) * 2.0 ** (e - 10) if e else m * 2.0**-9 for e in range(16) for m in range(8)][:127])


@pytest.mark.parametrize(
    ("type", "points", "scales", "within"),
    [
        ("Q4_0", np.arange(-8, 8), "half", 1.001),
        ("Q5_0", np.arange(-16, 16), "half", 1.001),
        ("Q8_0", np.arange(-127, 128), "half", 1.005),
        ("IQ4_NL", IQ4, "half", 1.01),
        ("Q2_0", np.arange(-1, 3), "half", 1.002),
        ("TQ1_0", TRITS, "half", 1.001),
        ("TQ2_0", TRITS, "half", 1.001),
        ("MXFP4", E2M1, "power", 1.000001),
        ("NVFP4", E2M1, "e4m3", 1.000001),
    ],
)
def test_blocks_of_one_scale_are_near_the_best_there_is(type: str, points: Floats, scales: str, within: float) -> None:
    rng = np.random.default_rng(3)
    points = points.astype(np.float32)
    elements = 16 if type == "NVFP4" else TYPES[type][2]
    x = (rng.standard_t(5, (32, TYPES[type][2])) * 0.02).astype(np.float32)
    weights = rng.chisquare(2, TYPES[type][2]).astype(np.float32)
    blocks = quantize(type, x, weights, rounding="best")
    read = ggml.dequantize(TYPES[type][1], blocks.tobytes()).reshape(-1, elements).astype(np.float64)
    x, weights = x.reshape(-1, elements), np.resize(weights, x.shape).reshape(-1, elements).astype(np.float64)
    top, least = np.abs(x).max() / 0.4 / np.abs(points).max(), np.abs(x).max(1).min() / np.abs(points).max() / 20
    if scales == "half":
        steps = HALVES[(least < HALVES) & (top > HALVES)]
        steps = np.concatenate([steps, -steps]) if points[0] != -points[-1] else steps
    else:
        steps = E4M3 if scales == "e4m3" else 2.0 ** np.arange(-24, 4)
    best = _least_errors(x.astype(np.float64), weights, np.asarray(steps, np.float32), points)
    found = (weights * (x - read) ** 2).sum(1)
    assert (found >= best * (1 - 1e-6)).all()
    assert found.sum() <= best.sum() * within


@pytest.mark.parametrize("type", REFINED)
def test_any_number_of_blocks_fills_the_lanes(type: str) -> None:
    elements, size = TYPES[type][2], TYPES[type][3]
    x = np.random.default_rng(5).standard_normal((1, 35 * elements)).astype(np.float32)
    weights = np.resize(importance("random", elements), x.size)
    whole = quantize(type, x, weights, rounding="best")
    for n in (*range(1, 20), 31, 32, 33, 34):
        part = x[:, : n * elements]
        if type in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):  # ggml's own blocks look at the whole row
            continue
        assert np.array_equal(quantize(type, part, weights[: n * elements], rounding="best"), whole[: n * size]), n


@pytest.mark.parametrize("type", REFINED)
def test_a_block_does_not_depend_on_its_neighbours(type: str) -> None:
    """Blocks are searched side by side, as many as the level has lanes: none goes on longer because others do."""
    weights = importance("ones", 256) if TYPES[type][6] else None
    telling = ("gaussian", "student t", "alternating", "sparse", "outlier", "gaussian * 1e6", "every magnitude by row")
    for what, x in values(64, 256):
        if what not in telling:
            continue
        for level in levels():
            together = quantize(type, x, weights, "best").reshape(len(x), -1)
            alone = [quantize(type, row[None], weights, "best") for row in x]
            assert np.array_equal(together, alone), (type, what, level)


@pytest.mark.parametrize("type", ["TQ1_0", "TQ2_0"])
def test_ternary_weights_stay_exact(type: str) -> None:
    x = np.random.default_rng(6).integers(-1, 2, (8, 512)).astype(np.float32) * np.float32(0.034)
    assert np.array_equal(quantize(type, x), quantize(type, x, rounding="best"))


def test_types_without_a_choice_are_as_ever() -> None:
    x = heavy("gaussian", 4, 256)
    for name in sorted(NOT_REFINED):
        assert np.array_equal(quantize(name, x), quantize(name, x, rounding="best"))


def test_the_array_api_takes_it() -> None:
    x, weights = heavy("student t", 600, 512), importance("random", 512)
    expected = quantize("Q4_K", x, weights, rounding="best").reshape(600, -1)
    assert np.array_equal(modelfmt.quantize(x, "Q4_K", weights=weights, rounding="best"), expected)
    assert np.array_equal(modelfmt.quantize(x, "Q4_K", weights=weights, rounding="best", threads=3), expected)
    with pytest.raises(UsageError) as caught:
        modelfmt.quantize(x, "Q4_K", rounding="nearest")
    assert caught.value.code == "rounding"
    with pytest.raises(ValueError, match="rounding"):
        kernels.convert(0, x, TYPES["Q4_K"][1], bytearray(x.size // 256 * 144), *x.shape, None, 7)


def test_conversions_take_it(tmp_path: Path, golden: Path) -> None:
    source = golden / "checkpoints" / "llama3-big"
    matrix = golden / "quantized" / "llama3-big" / "imatrix.gguf"
    found = {
        rounding: modelfmt.convert(
            source, tmp_path / f"{rounding}.gguf", quant="Q4_K_M", imatrix=matrix, rounding=rounding, stats=True
        )
        for rounding in ("ggml", "best")
    }
    kinds = {rounding: {t.name: t.encoding for t in report.tensors} for rounding, report in found.items()}
    assert kinds["ggml"] == kinds["best"]
    with modelfmt.open(tmp_path / "ggml.gguf") as plain, modelfmt.open(tmp_path / "best.gguf") as best:
        for name, kind in kinds["best"].items():
            same = np.array_equal(plain[name].numpy(dequantize=False), best[name].numpy(dequantize=False))
            assert same == (kind not in REFINED), (name, kind)
    plan = modelfmt.plan(source, tmp_path / "again.gguf", quant="Q4_K_M", rounding="best")
    assert plan.recipe["rounding"] == "best"
    assert {s.rounding for stream in plan.streams for s in stream.sinks} == {"ggml", "best"}
    with pytest.raises(UsageError):
        modelfmt.plan(source, tmp_path / "again.gguf", quant="Q4_K_M", rounding="none")
