"""Rotary positions as numbers: what each pair of a head turns by at each position, and what all of it is multiplied by.

Source: transformers 5.24 modeling_rope_utils.py, from the keys that `modelfmt.archs.rope` writes into a GGUF file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from modelfmt.archs.rope import mscale
from modelfmt.errors import UnsupportedError
from modelfmt.graphs.weights import Weights
from modelfmt.ir.ops import Constant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Turning", "turning"]


class Turning(msgspec.Struct, frozen=True):
    """frequencies: float32 [rotated / 2]. scale: of cosine and sine. long, original: frequencies once a text is longer
    than the original context (longrope)."""

    frequencies: NDArray[np.float32]
    scale: float = 1.0
    long: NDArray[np.float32] | None = None
    original: int = 0


def turning(weights: Weights, *, local: bool = False) -> Turning:
    """The rope of a model; local: that of its sliding-window layers, where they have one of their own."""
    import numpy as np

    params, keys = weights.params, weights.keys
    rotated = int(params["n_rot"])
    theta = params["rope_theta_local"] if local else params["rope_theta"]
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    plain = (1.0 / np.float32(theta) ** exponents).astype(np.float32)
    kind = "default" if local else str(params["rope_kind"])
    if kind in ("default", "dynamic"):
        return Turning(plain)
    if kind == "linear":
        return Turning((plain / np.float32(keys["rope.scaling.factor"])).astype(np.float32))
    if kind == "llama3":
        return Turning((plain / _factors(weights, "rope_freqs.weight")).astype(np.float32))
    if kind == "longrope":
        scale = float(keys["rope.scaling.attn_factor"])
        short, long = (
            (plain / _factors(weights, f"rope_factors_{name}.weight")).astype(np.float32) for name in ("short", "long")
        )
        return Turning(short, scale, long, int(keys["rope.scaling.original_context_length"]))
    if kind == "yarn":
        return _yarn(weights, plain, float(theta))
    raise UnsupportedError("no graph is built for this kind of rope", code="rope-kind", found=kind)


def _factors(weights: Weights, name: str) -> NDArray[np.float32]:
    import numpy as np

    expr = weights[name].expr
    assert isinstance(expr, Constant)
    return np.frombuffer(expr.data, np.float32)


def _yarn(weights: Weights, plain: NDArray[np.float32], theta: float) -> Turning:
    import numpy as np

    keys, rotated = weights.keys, 2 * len(plain)
    factor = float(keys["rope.scaling.factor"])
    context = int(keys["rope.scaling.original_context_length"])
    betas = (float(keys.get(f"rope.scaling.yarn_beta_{name}", usual)) for name, usual in (("fast", 32), ("slow", 1)))

    def bound(turns: float) -> float:
        return rotated * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (bound(beta) for beta in betas)
    settings = weights.config.get("rope_parameters") or weights.config.get("rope_scaling") or {}
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    ramp = (np.arange(len(plain), dtype=np.float32) - np.float32(low)) / np.float32(max(high - low, 0.001))
    kept = 1 - np.clip(ramp, 0, 1)
    frequencies = plain / np.float32(factor) * (1 - kept) + plain * kept
    scale = mscale(factor) * float(keys.get("rope.scaling.attn_factor", 1.0))
    return Turning(frequencies.astype(np.float32), scale)
