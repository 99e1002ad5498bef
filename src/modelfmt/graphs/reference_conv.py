"""Convolution in NumPy, as ONNX 1.23 defines it: any number of axes, strides, dilations, groups, paddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelfmt.ir.graph import Node

__all__ = ["convolution"]

Array = Any


def convolution(node: Node, x: Array, weight: Array, bias: Array = None) -> Array:
    """x: [batch, channels, ..]. weight: [out, channels / groups, ..]. Sums in float32, or float64 where x is."""
    size, count = weight.shape[2:], weight.ndim - 2
    strides, dilations = (tuple(node.get(name) or (1,) * count) for name in ("strides", "dilations"))
    reach = [(n - 1) * dilation + 1 for n, dilation in zip(size, dilations, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *_pads(node, x.shape[2:], reach, strides)])
    axes = tuple(range(2, 2 + count))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    places = tuple(slice(None, None, stride) for stride in strides)
    inside = tuple(slice(None, None, dilation) for dilation in dilations)
    windows = windows[(slice(None), slice(None), *places, *inside)]
    groups, wide = node.get("group", 1), np.result_type(x.dtype, np.float32)
    found = []
    for part, own in zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True):
        kernel = tuple(range(part.ndim - count, part.ndim))
        own_axes = (1, *range(2, 2 + count))
        found.append(np.tensordot(part.astype(wide), own.astype(wide), axes=((1, *kernel), own_axes)))
    made = np.moveaxis(np.concatenate(found, axis=-1), -1, 1)
    made = made if bias is None else made + bias.reshape(-1, *(1,) * count)
    return made.astype(x.dtype)


def _pads(node: Node, shape: Any, reach: list[int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Zeros before and behind each axis."""
    count, how = len(reach), node.get("auto_pad", b"NOTSET")
    if not how.startswith(b"SAME"):
        pads = node.get("pads") or [0] * (2 * count)
        return list(zip(pads[:count], pads[count:], strict=True))
    found = []
    for size, wide, stride in zip(shape, reach, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + wide - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if how == b"SAME_UPPER" else (more, less))
    return found
