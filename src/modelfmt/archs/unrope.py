"""Rotary positions back: from GGUF keys and factor tensors to the `rope_parameters` of config.json.

The inverse of `rope`, kind by kind. Numbers that only their product or a table of factors is left of are found again by
trying the values that models have, and are refused where none of them gives the very same factors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from modelfmt.archs.rope import YARN_EXTRAS, implied_longrope, llama3_factors, mscale
from modelfmt.archs.table import Architecture, Rope
from modelfmt.archs.terms import Scope, evaluate
from modelfmt.archs.values import bad_value, integer, number, refused, shortest, text

__all__ = ["configuration"]

Settings = dict[str, Any]

_PATH = "metadata"
_RUNTIME_THETA = 10000.0
_STILL = 1e30  # divides a frequency to nothing
_FACTORS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


class _File(msgspec.Struct, frozen=True):
    """What a file says of its rope. tensors: factor tensors by name."""

    arch: Architecture
    spec: Rope
    scope: Scope
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Sequence[float]]

    def key(self, name: str) -> str:
        return f"{self.arch.gguf}.rope.{name}"

    def has(self, name: str) -> bool:
        return self.metadata.get(self.key(name)) is not None

    def number(self, name: str) -> float:
        return shortest(number(self.metadata.get(self.key(name)), self.key(name), _PATH))

    @property
    def original_context(self) -> int:
        key = self.key("scaling.original_context_length")
        return integer(self.metadata[key], key, path=_PATH) if key in self.metadata else int(self.scope["n_ctx"])

    @property
    def theta(self) -> float:
        return self._theta(0) or self.spec.implied or _RUNTIME_THETA

    @property
    def local_theta(self) -> float | None:
        return self._theta(1)

    def _theta(self, which: int) -> float | None:
        key = f"{self.arch.gguf}.{self.spec.keys[which]}"
        return None if self.metadata.get(key) is None else shortest(number(self.metadata[key], key, _PATH))

    @property
    def n_rot(self) -> int:
        return self._turning("dimension_count", self.spec.turns or self.spec.partial)

    @property
    def n_rot_local(self) -> int:
        return self._turning("dimension_count_swa", self.spec.local_partial)

    def _turning(self, name: str, partial: float | None) -> int:
        head_size, key = int(self.scope["head_size"]), self.key(name)
        if self.has(name):
            return integer(self.metadata[key], key, 1, head_size, path=_PATH)
        return head_size if partial is None else int(head_size * partial)


def configuration(
    arch: Architecture, scope: Scope, metadata: Mapping[str, Any], tensors: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """config.json's part of the rope: rope_parameters of transformers 5, and what transformers 4 read instead.

    tensors: the values of the factor tensors that the file has. Raises CorruptFile, UnsupportedError (factors or a
    kind of scaling that config.json has no words for).
    """
    if arch.rope is None:
        return {}
    file = _File(arch, arch.rope, scope, metadata, tensors)
    settings: Settings = {"rope_type": _kind(file), "rope_theta": file.theta}
    config: dict[str, Any] = {"rope_theta": file.theta}
    head_size = int(scope["head_size"])
    if arch.rope.partial is not None:
        config["partial_rotary_factor"] = settings["partial_rotary_factor"] = _fraction(file.n_rot, head_size)
    elif file.n_rot != head_size:
        raise bad_value(file.key("dimension_count"), file.n_rot, f"the size of a head, {head_size}", path=_PATH)
    if arch.rope.whole:
        settings["partial_rotary_factor"] = _fraction(head_size, evaluate(arch.rope.whole, scope))
    settings |= _KINDS[settings["rope_type"]](file)
    if settings["rope_type"] == "longrope":
        config["original_max_position_embeddings"] = settings["original_max_position_embeddings"]
    if arch.rope.local_theta is not None and file.local_theta is not None:
        local = {"rope_type": "default", "rope_theta": file.local_theta}
        if arch.rope.local_partial is not None:
            local["partial_rotary_factor"] = _fraction(file.n_rot_local, head_size)
        elif "partial_rotary_factor" in settings:
            local["partial_rotary_factor"] = settings["partial_rotary_factor"]
        config["rope_parameters"] = dict(zip(arch.rope.labels, (settings, local), strict=True))
        return config | dict(zip(arch.rope.thetas, (file.theta, file.local_theta), strict=False))
    config["rope_parameters"] = settings
    if settings["rope_type"] != "default":
        config["rope_scaling"] = settings
    return config


def _kind(file: _File) -> str:
    if _FACTORS in file.tensors:
        return "proportional" if "proportional" in file.spec.kinds else "llama3"
    if _LONG in file.tensors and _SHORT in file.tensors:
        return "longrope"
    key = file.key("scaling.type")
    kind = text(file.metadata.get(key) or "none", key, _PATH)
    kind = "default" if kind == "none" else kind
    if kind not in _KINDS or kind not in file.spec.kinds or kind in ("llama3", "longrope"):
        raise refused(
            key, kind, "config.json of this architecture has no such rope", allowed=file.spec.kinds, path=_PATH
        )
    return kind


def _fraction(n_rot: int, head_size: int) -> float:
    """The part of a head that turns, such that the product with its size is not rounded below n_rot."""
    found = n_rot / head_size
    return found if int(head_size * found) == n_rot else math.nextafter(found, 2.0)


def _linear(file: _File) -> Settings:
    return {"factor": file.number("scaling.factor")}


def _yarn(file: _File) -> Settings:
    factor = file.number("scaling.factor")
    found: Settings = {"factor": factor, "original_max_position_embeddings": file.original_context}
    found |= {name: file.number(f"scaling.{key}") for name, key in YARN_EXTRAS.items() if file.has(f"scaling.{key}")}
    if file.spec.log_multiplier:
        scale = shortest(file.number("scaling.yarn_log_multiplier") / file.spec.log_multiplier)
        return found | {"mscale": scale, "mscale_all_dim": scale}
    if file.spec.unscaled:
        return found | {"attention_factor": 1.0}
    if file.has("scaling.attn_factor"):
        found.setdefault("attention_factor", shortest(file.number("scaling.attn_factor") * mscale(factor)))
    return found


def _longrope(file: _File) -> Settings:
    found: Settings = {"original_max_position_embeddings": file.original_context}
    for name, tensor in (("long_factor", _LONG), ("short_factor", _SHORT)):
        found[name] = [shortest(number(value, tensor, _PATH)) for value in file.tensors[tensor]]
    if file.has("scaling.attn_factor"):
        factor = file.number("scaling.attn_factor")
        if not math.isclose(factor, implied_longrope(int(file.scope["n_ctx"]), file.original_context), rel_tol=1e-6):
            found["attention_factor"] = factor
    stretch = int(file.scope["n_ctx"]) / file.original_context
    return found if stretch == 1 else {"factor": stretch, **found}


def _llama3(file: _File) -> Settings:
    found = [_f32(value) for value in file.tensors[_FACTORS]]
    for value in found:
        number(value, _FACTORS, _PATH)
    n_rot, theta = file.n_rot, file.theta
    length = max(n_rot, file.n_rot_local if file.spec.local_partial else 0) // 2
    if len(found) != length:
        raise bad_value(_FACTORS, len(found), f"{length} factors", path=_PATH)
    wanted = found[: n_rot // 2]
    factor = shortest(max(wanted))
    for low, high, context in _candidates(wanted, factor, n_rot, theta, int(file.scope["n_ctx"])):
        if [_f32(value) for value in llama3_factors(n_rot, theta, factor, (low, high), context)] == wanted:
            return {
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise refused(_FACTORS, wanted[:8], "no llama3 rope has these factors", path=_PATH)


def _candidates(
    wanted: Sequence[float], factor: float, n_rot: int, theta: float, n_ctx: int
) -> Iterator[tuple[float, float, int]]:
    """(low, high, context) that may have made the factors: usual ones, then those of the line through two of them.

    Between the bounds, (1 / f - 1 / factor) / (1 - 1 / factor) is (context / wavelength - low) / (high - low).
    """
    contexts = [8192, *(1 << power for power in range(4, 21)), n_ctx]
    yield from ((1.0, high, context) for high in (4.0, 1.0) for context in contexts)
    turning = [
        (theta ** (2 * i / n_rot) * 2 * math.pi, (1 / f - 1 / factor) / (1 - 1 / factor))
        for i, f in enumerate(wanted)
        if 1 < f < factor
    ]
    if turning:
        wavelength, smooth = turning[0]
        yield 1.0, 4.0, max(1, round((3 * smooth + 1) * wavelength))
    if len(turning) > 1:
        (first, a), (last, b) = turning[0], turning[-1]
        slope = (a - b) / (1 / first - 1 / last)
        offset = slope / first - a  # low / (high - low)
        if slope > 0 and offset > 0:
            yield 1.0, float(round(1 + 1 / offset)), max(1, round(slope / offset))


def _proportional(file: _File) -> Settings:
    given = (_STILL if value == _f32(_STILL) else value for value in file.tensors[_FACTORS])
    factors = [shortest(number(value, _FACTORS, _PATH)) for value in given]
    turning = sum(factor == factors[0] for factor in factors)
    if factors[0] == _STILL or factors != [factors[0]] * turning + [_STILL] * (len(factors) - turning):
        raise refused(_FACTORS, factors[:8], "no proportional rope has these factors", path=_PATH)
    found = {"partial_rotary_factor": _fraction(turning, len(factors))}
    return found if factors[0] == 1 else found | {"factor": factors[0]}


_KINDS: dict[str, Callable[[_File], Settings]] = {
    "default": lambda _: {},
    "proportional": _proportional,
    "linear": _linear,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def _f32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
