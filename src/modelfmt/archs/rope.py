"""Rotary positions: from the many spellings of config.json to GGUF keys and factor tensors.

transformers 4 writes `rope_theta` and `rope_scaling` {`type` or `rope_type`, ...}; transformers 5 writes
`rope_parameters`, with one set per layer type where they differ. Checked against transformers 5.23
modeling_rope_utils.py and llama.cpp's llama-context.cpp (October 2026).

| kind     | in the file                                                                                  |
|----------|----------------------------------------------------------------------------------------------|
| default  | rope.freq_base                                                                               |
| linear   | rope.scaling.type, .factor                                                                   |
| yarn     | rope.scaling.type, .factor, .original_context_length, .yarn_*; .attn_factor where not implied |
| llama3   | tensor rope_freqs: what each frequency is divided by                                         |
| longrope | tensors rope_factors_long, rope_factors_short; rope.scaling.attn_factor                      |
| proportional | tensor rope_freqs: 1, and so much that the other frequencies vanish                      |
| dynamic  | nothing: a named loss; Hunyuan's, which has a fixed alpha, is another rope.freq_base          |
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelfmt.archs.table import Rope
from modelfmt.archs.terms import Scope, evaluate
from modelfmt.archs.values import bad_value, integer, number, numbers, record, refused, text
from modelfmt.ir.ops import Constant
from modelfmt.report import Loss

__all__ = ["YARN_EXTRAS", "Encoded", "encode", "implied_longrope", "llama3_factors", "mscale"]

_THETAS = ("rope_theta", "global_rope_theta", "rotary_emb_base")
_LOCAL_THETAS = ("rope_local_base_freq", "local_rope_theta", "swa_rope_theta")
_PARTS = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_SIZES = ("rotary_dim", "qk_rope_head_dim")
YARN_EXTRAS = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
"""Where yarn's ramp begins and ends, if nothing says it, in transformers and in llama.cpp."""


class Encoded(msgspec.Struct):
    """What the rope of one model puts into a file. metadata: key behind the architecture's name -> (type, value)."""

    metadata: dict[str, tuple[str, Any]] = msgspec.field(default_factory=dict)
    tensors: dict[str, Constant] = msgspec.field(default_factory=dict)
    hparams: dict[str, Any] = msgspec.field(default_factory=dict)
    losses: list[Loss] = msgspec.field(default_factory=list)

    def scaling(self, key: str, type: str, value: Any) -> None:
        self.metadata[f"rope.scaling.{key}"] = (type, value)

    def factors(self, name: str, values: list[float]) -> None:
        data = struct.pack(f"<{len(values)}f", *values)
        self.tensors[name] = Constant(data, (len(values),), "F32")


class _Case(msgspec.Struct, frozen=True):
    """One rope: the settings of full attention, the whole configuration, the hyper-parameters."""

    spec: Rope
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    scope: Scope

    @property
    def kind(self) -> str:
        return _kind(self.spec, self.settings)

    def number(self, name: str) -> float:
        return number(self.settings.get(name), f"rope_parameters.{name}")

    def given(self, name: str) -> bool:
        return self.settings.get(name) is not None

    @property
    def original_context(self) -> int:
        key = "original_max_position_embeddings"
        for where in (self.config, self.settings):
            if where.get(key) is not None:
                return integer(where[key], key)
        return int(self.scope["n_ctx"])

    @property
    def factor(self) -> float:
        return self.number("factor") if self.given("factor") else self.scope["n_ctx"] / self.original_context


def encode(spec: Rope, config: Mapping[str, Any], scope: Scope) -> Encoded:
    """The rope of a (flat) configuration. Raises CorruptFile on bad values, UnsupportedError on what GGUF lacks."""
    settings, local = _settings(spec, config)
    case = _Case(spec, settings, config, scope)
    if case.kind not in spec.kinds:
        raise refused(
            "rope_parameters.rope_type",
            case.kind,
            "this architecture has no such rope in llama.cpp",
            allowed=spec.kinds,
        )
    out = Encoded()
    names, local_names = ((name,) for name in spec.thetas) if spec.thetas else (_THETAS, _LOCAL_THETAS)
    theta = _theta(settings, config, names, spec.theta)
    partial = 1.0 if case.kind == "proportional" else _partial(case)
    out.hparams = {"rope_theta": theta, "rope_kind": case.kind, "n_rot": int(scope["head_size"] * partial)}
    if theta != spec.implied:
        out.metadata[spec.keys[0]] = ("FLOAT32", theta)
    if spec.local_theta is not None:
        fallback = theta if spec.local_theta == "same" else spec.local_theta
        out.hparams["rope_theta_local"] = _theta(local, config, local_names, fallback)
        out.metadata[spec.keys[1]] = ("FLOAT32", out.hparams["rope_theta_local"])
    if spec.local_partial is not None:
        out.hparams["n_rot_local"] = int(scope["head_size"] * _fraction(local, _PARTS[0], spec.local_partial))
    for key, size in (("dimension_count", "n_rot"), ("dimension_count_swa", "n_rot_local")):
        if spec.dimension and size in out.hparams:
            out.metadata[f"rope.{key}"] = ("UINT32", out.hparams[size])
    if spec.sections:
        out.metadata["rope.dimension_sections"] = ("ARRAY:INT32", _sections(spec, settings))
    if case.kind in _SCALINGS:
        _SCALINGS[case.kind](case, out)
    return out


def _settings(spec: Rope, config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of full and of sliding-window layers."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    found = record(config.get(key) or spec.settings, key)
    full, local = found, record({}, key)
    first, second = spec.labels
    if isinstance(config.get("rope_theta"), list):
        full, local = {**found, **_entry(config, first)}, _entry(config, second)
    elif first in found or second in found:
        full = record(found.get(first) or {}, f"{key}.{first}")
        local = record(found.get(second) or {}, f"{key}.{second}")
        if local and (spec.local_theta is None or _kind(spec, local) != "default"):
            raise refused(f"{key}.{second}", dict(local), "layers with a rope of their own cannot be expressed")
        parts = [settings.get(_PARTS[0]) for settings in (full, local)]
        if spec.partial is not None and spec.local_partial is None and None not in parts and parts[0] != parts[1]:
            raise refused(
                f"{key}.{second}.{_PARTS[0]}", parts[1], "the same part turns in all layers", allowed=parts[0]
            )
    elif spec.thetas:  # config.json has them beside the settings
        full = {name: value for name, value in found.items() if name != "rope_theta"}
        full |= {"attention_factor": 1.0} if spec.unscaled and _kind(spec, full) == "yarn" else {}
    if full.get("mrope_section") is not None and not (spec.sections or spec.alike):
        raise refused(f"{key}.mrope_section", full["mrope_section"], "this architecture has one position per token")
    return full, local


def _entry(config: Mapping[str, Any], layer_type: str) -> dict[str, Any]:
    """The settings of the layers of one type where config.json has lists with an entry for each layer."""
    found = {}
    types = config.get("layer_types")
    for key, name in (("rope_theta", "rope_theta"), ("partial_rotary_factors", "partial_rotary_factor")):
        entries = config.get(key) or []
        if not isinstance(types, list) or not isinstance(entries, list) or len(entries) not in (0, len(types)):
            raise bad_value(key, entries, "a list with an entry for each of layer_types")
        own = [entry for entry, found in zip(entries, types, strict=False) if found == layer_type]
        if any(entry != own[0] for entry in own):
            raise refused(key, entries, "layers of one type turn alike in llama.cpp")
        if own:
            found[name] = own[0]
    return found


def _kind(spec: Rope, settings: Mapping[str, Any]) -> str:
    name = settings.get("rope_type") or settings.get("type") or "default"
    kind = text(name, "rope_parameters.rope_type").lower()
    return spec.aliases.get(kind, kind)


def _theta(settings: Mapping[str, Any], config: Mapping[str, Any], names: tuple[str, ...], default: float) -> float:
    if settings.get("rope_theta") is not None:
        return number(settings["rope_theta"], "rope_parameters.rope_theta")
    places = (config, record(config.get("attn_config") or {}, "attn_config"))
    found = (number(place[name], name) for name in names for place in places if place.get(name) is not None)
    return next(found, default)


def _partial(case: _Case) -> float:
    for where in (case.settings, case.config):
        for name in _PARTS:
            if where.get(name) is not None:
                factor = number(where[name], name)
                if case.spec.whole and round(factor * evaluate(case.spec.whole, case.scope)) == case.scope["head_size"]:
                    return 1.0
                if factor > 1 or (factor < 1 and case.spec.partial is None):
                    raise refused(name, factor, "whole heads turn in this architecture", allowed=1)
                return factor
    size = case.scope["head_size"]
    for name in _SIZES if case.spec.partial is not None else ():
        if case.config.get(name) is not None:
            return integer(case.config[name], name, high=size) / float(size)
    return 1.0 if case.spec.partial is None else case.spec.partial


def _fraction(settings: Mapping[str, Any], name: str, default: float) -> float:
    factor = default if settings.get(name) is None else number(settings[name], f"rope_parameters.{name}")
    if factor > 1:
        raise bad_value(f"rope_parameters.{name}", factor, "at most 1")
    return factor


def _sections(spec: Rope, settings: Mapping[str, Any]) -> list[int]:
    """The four sections: time, height, width, and one that is not used."""
    given, key = settings.get("mrope_section", settings.get("xdrope_section")), "rope_parameters.mrope_section"
    if given is None:
        return list(spec.sections)
    if not isinstance(given, list) or not 0 < len(given) <= 4:
        raise bad_value(key, given, "a list of at most four integers")
    sections = [integer(size, f"{key}[{at}]", low=0) for at, size in enumerate(given)]
    return sections + [0] * (4 - len(sections))


def _linear(case: _Case, out: Encoded) -> None:
    out.scaling("type", "STRING", "linear")
    out.scaling("factor", "FLOAT32", case.number("factor"))


def _dynamic(case: _Case, out: Encoded) -> None:
    if case.spec.alpha and case.given("alpha"):
        n_rot = out.hparams["n_rot"]
        if n_rot < 4:
            raise bad_value("head_dim", n_rot, "at least 4")
        theta = out.hparams["rope_theta"] * case.number("alpha") ** (n_rot / (n_rot - 2))
        out.metadata["rope.freq_base"] = ("FLOAT32", theta)
        out.scaling("type", "STRING", "none")
        return
    detail = f"GGUF holds no dynamic scaling: positions beyond {case.scope['n_ctx']} will not be rescaled"
    out.losses.append(Loss("dropped", "rope_parameters.rope_type", detail))


def _yarn(case: _Case, out: Encoded) -> None:
    out.scaling("type", "STRING", "yarn")
    out.scaling("factor", "FLOAT32", case.factor)
    out.scaling("original_context_length", "UINT32", case.original_context)
    for name, key in YARN_EXTRAS.items():
        if case.given(name):
            out.scaling(key, "FLOAT32", case.number(name))
    implied, attention = mscale(case.factor), _yarn_attention(case)
    if case.spec.log_multiplier:
        _log_multiplier(case, out)
    elif case.spec.unscaled:
        if attention != 1:
            detail = "llama.cpp's graph of this architecture does not scale what yarn turns"
            raise refused("rope_parameters.attention_factor", attention, detail, allowed=1)
    elif not math.isclose(attention, implied, rel_tol=1e-6):
        # the runtime computes `implied` itself and multiplies it by this key; it passes over yarn_attn_factor
        out.scaling("attn_factor", "FLOAT32", attention / implied)
    if not case.spec.betas and (asked := {name: case.number(name) for name in _BETAS if case.given(name)}):
        _unread_betas(asked, out)
    if case.settings.get("truncate") is False:
        detail = "llama.cpp rounds the bounds of the yarn ramp to whole frequencies"
        out.losses.append(Loss("approximated", "rope_parameters.truncate", detail))


def _unread_betas(asked: Mapping[str, float], out: Encoded) -> None:
    """llama.cpp has the keys, but only some of its graphs read them (measured: the others compute with 32 and 1)."""
    other = {name: value for name, value in asked.items() if value != _BETAS[name]}
    if other:
        options = " ".join(f"--yarn-{name.replace('_', '-')} {value:g}" for name, value in other.items())
        detail = f"llama.cpp does not read it from this architecture's file; run it with {options}"
        out.losses.append(Loss("approximated", f"rope_parameters.{next(iter(other))}", detail))


def _log_multiplier(case: _Case, out: Encoded) -> None:
    """All values of a head are scaled, or none: llama.cpp's graphs that have this key cannot scale the rotated values
    alone."""
    both = tuple(case.settings.get(name) for name in ("mscale", "mscale_all_dim"))
    if not both[0] or both[0] != both[1]:
        raise refused("rope_parameters.mscale", both, "mscale and mscale_all_dim must be there, and equal")
    out.scaling("yarn_log_multiplier", "FLOAT32", case.spec.log_multiplier * case.number("mscale_all_dim"))


def _yarn_attention(case: _Case) -> float:
    if case.given("attention_factor"):
        return case.number("attention_factor")
    if case.settings.get("mscale") and case.settings.get("mscale_all_dim"):
        return mscale(case.factor, case.number("mscale")) / mscale(case.factor, case.number("mscale_all_dim"))
    return mscale(case.factor)


def mscale(factor: float, scale: float = 1.0) -> float:
    """What yarn multiplies attention by."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _llama3(case: _Case, out: Encoded) -> None:
    bounds = low, high = case.number("low_freq_factor"), case.number("high_freq_factor")
    if low > high:  # Llama 4 has them equal: then nothing lies between
        raise bad_value("rope_parameters.low_freq_factor", low, f"at most high_freq_factor, which is {high}")
    n_rot, theta = out.hparams["n_rot"], out.hparams["rope_theta"]
    factors = llama3_factors(n_rot, theta, case.number("factor"), bounds, case.original_context)
    factors += [1.0] * (out.hparams.get("n_rot_local", n_rot) // 2 - len(factors))
    out.factors("rope_freqs.weight", factors)


def _longrope(case: _Case, out: Encoded) -> None:
    for name in ("long", "short"):
        key = f"{name}_factor"
        values = numbers(case.settings.get(key), f"rope_parameters.{key}", out.hparams["n_rot"] // 2)
        out.factors(f"rope_factors_{name}.weight", values)
    original = case.original_context
    if case.spec.names_longrope:
        out.scaling("type", "STRING", "longrope")
    out.scaling("original_context_length", "UINT32", original)
    implied = implied_longrope(int(case.scope["n_ctx"]), original)
    attention = case.number("attention_factor") if case.given("attention_factor") else implied
    out.scaling("attn_factor", "FLOAT32", attention)


def _proportional(case: _Case, out: Encoded) -> None:
    """Gemma 4: the first frequencies of a head as if all of it turned, the others are divided to nothing."""
    turning = int((case.number("partial_rotary_factor") if case.given("partial_rotary_factor") else 1.0) * _half(out))
    factor = case.number("factor") if case.given("factor") else 1.0
    if turning > _half(out):
        raise bad_value("rope_parameters.partial_rotary_factor", case.number("partial_rotary_factor"), "at most 1")
    out.factors("rope_freqs.weight", [factor] * turning + [1e30] * (_half(out) - turning))


def _half(out: Encoded) -> int:
    return int(out.hparams["n_rot"]) // 2


def implied_longrope(n_ctx: int, original: int) -> float:
    """What longrope multiplies attention by where the configuration does not say it."""
    stretch = n_ctx / original
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0


_SCALINGS: dict[str, Callable[[_Case, Encoded], None]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
}


def llama3_factors(n_rot: int, theta: float, factor: float, bounds: tuple[float, float], context: int) -> list[float]:
    """What Llama 3.1 divides its n_rot / 2 frequencies by; each step rounded to float32, as the original computes it.

    >>> llama3_factors(4, 10000.0, 8.0, (1.0, 4.0), 64)
    [1.0, 8.0]
    """
    low, high = bounds
    factors = []
    for index in range(0, n_rot, 2):
        frequency = _f32(1 / _f32(theta ** _f32(index / n_rot)))
        wavelength = _f32(_f32(2 * math.pi) / frequency)
        if wavelength < _f32(context / high):
            factors.append(1.0)
        elif wavelength > _f32(context / low) or low == high:
            factors.append(factor)
        else:
            smooth = _f32(_f32(_f32(context / wavelength) - low) / _f32(high - low))
            factors.append(_f32(1 / _f32(_f32(_f32(1 - smooth) / factor) + smooth)))
    return factors


def _f32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
