"""rounding="best" for IQ1, IQ2 and IQ3: no other points and signs are better, and blocks do not shrink weights.

The points are those of PyPI gguf; a block's scales are what its values are when every index and sign is zero, as
llama.cpp reads it. Every point is then tried with every choice of signs that could be the best.
"""

from __future__ import annotations

from typing import NamedTuple

import gguf.quants
import numpy as np
import pytest

import ggml
from quantizing import TYPES, Bytes, Floats, importance, quantize

Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Layout(NamedTuple):
    """grid: gguf's class that has the points. kept: (first byte, byte after, mask) of the scales. signs: how they are
    chosen; of IQ1 it is the shift by 1/8 that is: one for `shift` groups."""

    grid: type[gguf.quants.__Quant]
    kept: list[tuple[slice, list[int]]]
    signs: str = ""
    shift: int = 0


D = (slice(0, 2), [0xFF])
LAYOUTS = {
    "IQ1_S": Layout(gguf.quants.IQ1_S, [D, (slice(34, 50), [0x00, 0x70])], shift=4),
    "IQ1_M": Layout(gguf.quants.IQ1_S, [(slice(48, 56), [0xFF])], shift=1),
    "IQ2_XXS": Layout(gguf.quants.IQ2_XXS, [D, (slice(2, 66), [0, 0, 0, 0, 0, 0, 0, 0xF0])], "even"),
    "IQ2_XS": Layout(gguf.quants.IQ2_XS, [D, (slice(66, 74), [0xFF])], "even"),
    "IQ2_S": Layout(gguf.quants.IQ2_S, [D, (slice(74, 82), [0xFF])], "each"),
    "IQ3_XXS": Layout(gguf.quants.IQ3_XXS, [D, (slice(66, 98), [0, 0, 0, 0xF0])], "even"),
    "IQ3_S": Layout(gguf.quants.IQ3_S, [D, (slice(106, 110), [0xFF])], "each"),
}


def read(type: str, blocks: Bytes) -> Doubles:
    return ggml.dequantize(TYPES[type][1], blocks.tobytes()).reshape(-1, 256).astype(np.float64)


def points(layout: Layout) -> Doubles:
    layout.grid.init_grid()
    grid: Doubles = layout.grid.grid.reshape(-1, layout.grid.grid.shape[-1]).astype(np.float64)
    return grid


def scales(type: str, blocks: Bytes) -> Doubles:
    """Of each group of eight values, float64 [n_blocks, 32]."""
    layout = LAYOUTS[type]
    bare = np.zeros_like(blocks)
    for at, mask in layout.kept:
        bare[:, at] = blocks[:, at] & np.resize(np.array(mask, np.uint8), blocks[:, at].shape[1])
    first = points(layout)[0][0] + (0.125 if layout.shift else 0)
    return read(type, bare)[:, ::8] / first


def least_errors(type: str, x: Floats, weights: Floats, scale: Doubles) -> Doubles:
    """The least error less sum w x^2 of each block, over all points, signs and shifts."""
    layout, grid = LAYOUTS[type], points(LAYOUTS[type])
    x8 = x.reshape(-1, 32, 8).astype(np.float64)
    w8 = np.broadcast_to(weights.astype(np.float64).reshape(-1, 32, 8), x8.shape)

    def error(target: Doubles, levels: Doubles) -> Doubles:
        """[n, 32, n_points] of points of as many dimensions as target has, or the best pair of halves."""
        cross, square = np.einsum("...i,pi->...p", 2 * w8v * target, levels), np.einsum("...i,pi->...p", w8v, levels**2)
        each: Doubles = scale_v[..., None] * (scale_v[..., None] * square - cross)
        return each

    dims = grid.shape[1]
    w8v, scale_v = w8.reshape(*w8.shape[:2], -1, dims), np.repeat(scale[..., None], 8 // dims, -1)
    if layout.shift:
        both = np.stack([error(x8[:, :, None], grid + s).min(-1)[..., 0] for s in (0.125, -0.125)])
        return both.reshape(2, len(x8), -1, layout.shift).sum(-1).min(0).sum(-1)
    magnitude = np.abs(x8).reshape(w8v.shape)
    plain = error(magnitude, grid).min(-1).sum(-1)
    if layout.signs == "each":
        return plain.sum(-1)
    flipped = np.full(plain.shape, np.inf)
    for i in range(8):
        one = np.abs(x8)
        one[..., i] *= -1
        flipped = np.minimum(flipped, error(one.reshape(w8v.shape), grid).min(-1).sum(-1))
    odd = (x8 < 0).sum(-1) % 2 == 1
    return np.where(odd, flipped, plain).sum(-1)


def found(type: str, name: str) -> tuple[Floats, Doubles, Doubles, Bytes, Doubles]:
    """(values [n, 256], importance, values of llama.cpp's blocks, best blocks, their values)."""
    x = (np.random.default_rng(8).standard_t(5, (32, 256)) * 0.02).astype(np.float32)
    weights = importance(name, 256)
    assert weights is not None
    plain, best = quantize(type, x, weights), quantize(type, x, weights, rounding="best").reshape(len(x), -1)
    ours = (best != plain.reshape(best.shape)).any(1)
    assert ours.mean() > 0.9  # elsewhere, llama.cpp's block was better than what was found
    x, theirs, best = x[ours], read(type, plain)[ours], best[ours]
    return x, weights.astype(np.float64), theirs, best, read(type, best)


@pytest.mark.parametrize("name", ["ones", "random"])
@pytest.mark.parametrize("type", LAYOUTS)
def test_points_and_signs_are_the_best_there_are(type: str, name: str) -> None:
    """By the weights of the search, which favour large values, and at its unit: the one that suits the points."""
    x, weights, _, best, values = found(type, name)
    wide = x.astype(np.float64)
    weights = weights * np.sqrt(2 * (wide**2).mean(1, keepdims=True) + wide**2)
    suits = (weights * wide * values).sum(1) / (weights * values**2).sum(1)
    least = least_errors(type, x, weights, scales(type, best) * suits[:, None]) + (weights * wide**2).sum(1)
    error = (weights * (wide - suits[:, None] * values) ** 2).sum(1)
    assert (error >= least * (1 - 1e-6)).all(), type  # nothing that the format lacks was tried here
    assert error.sum() <= least.sum() * 1.002, (type, error.sum() / least.sum())


@pytest.mark.parametrize("name", ["ones", "random"])
@pytest.mark.parametrize("type", LAYOUTS)
def test_blocks_do_not_shrink_what_they_stand_for(type: str, name: str) -> None:
    """Their part along x is x, unless their error would be that of llama.cpp's block then."""
    x, weights, theirs, _, values = found(type, name)
    along = (weights * x * values).sum(1) / (weights * x.astype(np.float64) ** 2).sum(1)
    error, most = ((weights * (x - v) ** 2).sum(1) for v in (values, theirs))
    assert (along < 1.01).all(), along.max()  # weights that favour large values may go a little beyond by themselves
    assert ((along > 0.998) | (error > 0.99 * most)).all()
    assert (error <= most).all()


@pytest.mark.parametrize("type", LAYOUTS)
def test_blocks_of_llama_cpp_are_not_the_best_at_their_scales(type: str) -> None:
    """What the search gains is there to be had: the same measure finds llama.cpp's blocks wanting."""
    x = (np.random.default_rng(9).standard_t(5, (16, 256)) * 0.02).astype(np.float32)
    weights = importance("random", 256)
    assert weights is not None
    blocks = quantize(type, x, weights).reshape(len(x), -1)
    least = least_errors(type, x, weights, scales(type, blocks))
    square = (weights * x.astype(np.float64) ** 2).sum(1)
    found = (weights * (x - read(type, blocks)) ** 2).sum(1) - square
    assert (found >= least - 1e-6 * square).all()
    assert ((found - least) > 1e-4 * square).mean() > 0.5, type
