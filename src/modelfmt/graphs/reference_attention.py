"""Attention and rotary positions in NumPy, as ONNX 1.23 defines them: caches, grouped heads, masks, windows, caps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modelfmt.ir.graph import Node

__all__ = ["attention", "rotary_embedding"]

Array = Any


def attention(
    node: Node,
    query: Array,
    key: Array,
    value: Array,
    mask: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    lengths: Array = None,
) -> tuple[Array, ...]:
    """The result, the cache with the new keys and values, and the scores that `qk_matmul_output_mode` asks for."""
    flat, kind = query.ndim == 3, query.dtype
    if flat:
        query = _heads(query, node.get("q_num_heads"))
        key, value = (_heads(x, node.get("kv_num_heads")) for x in (key, value))
    if past_key is not None:
        key, value = np.concatenate([past_key, key], axis=2), np.concatenate([past_value, value], axis=2)
    present = key, value
    groups = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, groups, axis=1), np.repeat(value, groups, axis=1)
    scale = kind.type(math.sqrt(node.get("scale") or 1 / math.sqrt(query.shape[-1])))
    scores = (query * scale) @ (np.swapaxes(key, -1, -2) * scale)
    steps = [scores]
    cap = node.get("softcap", 0.0)
    if cap:
        scores = kind.type(cap) * np.tanh(scores / kind.type(cap))
    steps.append(scores)
    offset = 0 if past_key is None else past_key.shape[2]
    scores = scores + _bias(node, scores, mask, offset, lengths)
    chances = _softmax(scores)
    steps = [steps[0], scores, steps[1], chances]
    mode = node.get("qk_matmul_output_mode", 0)
    found = chances.astype(kind) @ value
    if flat:
        found = np.swapaxes(found, 1, 2).reshape(found.shape[0], found.shape[2], -1)
    order = {0: steps[0], 1: steps[2], 2: steps[1], 3: steps[3]}
    return found.astype(kind), *present, order[mode].astype(kind)


def _heads(x: Array, count: int) -> Array:
    return np.swapaxes(x.reshape(*x.shape[:2], count, -1), 1, 2)


def _bias(node: Node, scores: Array, mask: Array, offset: int, lengths: Array) -> Array:
    """What is added to the scores: masks, order and windows, as 0 and minus infinity."""
    n_queries, n_keys = scores.shape[-2:]
    kind = scores.dtype
    bias = np.zeros((1, 1, n_queries, n_keys), kind)
    if mask is not None:
        short = n_keys - mask.shape[-1]
        if short > 0:
            fill: Any = False if mask.dtype == bool else -np.inf
            mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)], constant_values=fill)
        bias = bias + (_hidden(~mask, kind) if mask.dtype == bool else mask)
    start: Array = np.array(offset).reshape(-1, 1, 1, 1)
    if lengths is not None:
        start = lengths.reshape(-1, 1, 1, 1) - n_queries
        bias = bias + _hidden(np.arange(n_keys) >= lengths.reshape(-1, 1, 1, 1), kind)
    distance = np.arange(n_queries)[:, None] + start - np.arange(n_keys)
    if node.get("is_causal", 0):
        bias = bias + _hidden(distance < 0, kind)
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    if left >= 0:
        bias = bias + _hidden(distance > left, kind)
    if right >= 0:
        bias = bias + _hidden(-distance > right, kind)
    return bias


def _hidden(which: Array, kind: Any) -> Array:
    return np.where(which, kind.type(-np.inf), kind.type(0))


def _softmax(scores: Array) -> Array:
    """Chances; none at all in a row where nothing may be seen."""
    highest = np.max(scores, axis=-1, keepdims=True)
    power = np.exp(scores - np.where(np.isneginf(highest), 0, highest))
    total = np.sum(power, axis=-1, keepdims=True)
    return power / np.where(total == 0, 1, total)


def rotary_embedding(node: Node, x: Array, cos: Array, sin: Array, positions: Array = None) -> Array:
    """[batch, sequence, width] or [batch, heads, sequence, size]; `rotary_embedding_dim` values of each head turn."""
    shape = x.shape
    heads = x.reshape(*shape[:2], node.get("num_heads"), -1) if x.ndim == 3 else np.swapaxes(x, 1, 2)
    size = node.get("rotary_embedding_dim", 0) or heads.shape[-1]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned, rest = heads[..., :size], heads[..., size:]
    paired = bool(node.get("interleaved", 0))
    first, second = (turned[..., 0::2], turned[..., 1::2]) if paired else np.split(turned, 2, axis=-1)
    parts = [first * cos - second * sin, first * sin + second * cos]
    both = np.stack(parts, axis=-1).reshape(turned.shape) if paired else np.concatenate(parts, axis=-1)
    found = np.concatenate([both, rest], axis=-1)
    return found.reshape(shape) if x.ndim == 3 else np.swapaxes(found, 1, 2)
