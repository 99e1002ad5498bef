"""adapter_config.json of PEFT: which of its options change the result, which do not, which are refused.

Source: PEFT 0.21, tuners/lora/config.py. An option that is not known here and is set is refused: it could change the
result. Patterns for modules are regular expressions from a file; those that could take long are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, UnsupportedError

__all__ = ["Options", "read"]

# fmt: off
_UNUSED = frozenset((
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_type",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
    "unsloth_fixed",
))
"""What decides how an adapter was trained, or which modules it has: the names of its tensors say that."""

_USED = frozenset((
    "alora_invocation_tokens", "alpha_pattern", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "lora_bias",
    "peft_version", "r", "rank_pattern", "target_parameters", "trainable_token_indices", "use_dora", "use_rslora",
))
# fmt: on

_REFUSED = {
    "arrow_config": "Arrow chooses among adapters for each token",
    "ensure_weight_tying": "adapters of two tied tensors that are one",
    "kasa_config": "KaSA changes the base model",
    "layer_replication": "the base model's layers are repeated",
    "monteclora_config": "MonteCLoRA draws its factors",
    "use_bdlora": "block-diagonal factors",
    "use_qalora": "QALoRA pools its inputs",
    "velora_config": "VeLoRA is another way to train",
}
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PLAIN = (True, False, None, "gaussian", "eva", "orthogonal")
_MOST_PATTERNS, _LONGEST = 4096, 512


class Options(msgspec.Struct, frozen=True):
    """What of the configuration changes the result. alora: tokens from which on the adapter works, None: always.
    version: of PEFT. tokens_by_module: the trained tokens, by the end of a module's name, "" for the input embedding.
    """

    r: int
    alpha: float
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]
    rslora: bool
    dora: bool
    fan_in_fan_out: bool
    target_parameters: tuple[str, ...]
    alora: tuple[int, ...] | None
    tokens_by_module: Mapping[str, tuple[int, ...]]
    version: tuple[int, int] | None
    base_name: str | None

    def scale(self, module: str, path: str) -> tuple[int, float]:
        """(rank, factor of B @ A) of a module. Raises CorruptFile (adapter-rank)."""
        rank, alpha = _by_pattern(self.ranks, module, self.r), _by_pattern(self.alphas, module, self.alpha)
        if rank < 1 or rank != int(rank):
            raise CorruptFile(
                "not a rank", code="adapter-rank", path=path, place=module, found=rank, allowed="1 or more"
            )
        return int(rank), alpha / (math.sqrt(rank) if self.rslora else rank)

    def is_parameter(self, name: str) -> bool:
        """Whether the configuration names this parameter itself."""
        return any(name == target or name.endswith(f".{target}") for target in self.target_parameters)

    def tokens(self, module: str, path: str) -> tuple[int, ...]:
        """The numbers of the trained rows of an embedding."""
        for end, rows in self.tokens_by_module.items():
            if not end or module == end or module.endswith(f".{end}"):
                return rows
        raise CorruptFile("trained tokens without their numbers", code="adapter-tokens", path=path, place=module)


def read(config: Mapping[str, Any], path: str) -> Options:
    """The options of an adapter. Raises UnsupportedError, by name, for what cannot be expressed; CorruptFile."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            "not an adapter of LoRA", code="adapter-type", path=path, place="peft_type", found=kind, allowed="LORA"
        )
    for name, why in _REFUSED.items():
        if config.get(name):
            raise _refused(name, config[name], why, path)
    for name, value in config.items():
        if name not in _USED and name not in _UNUSED and name not in _REFUSED and value not in (None, False, {}, []):
            raise _refused(name, value, "an option that modelfmt does not know", path)
    _check_start(config.get("init_lora_weights", True), path)
    alora = config.get("alora_invocation_tokens")
    return Options(
        r=int(_number(config, "r", path, 1, whole=True)),
        alpha=_number(config, "lora_alpha", path, None),
        ranks=_patterns(config, "rank_pattern", path),
        alphas=_patterns(config, "alpha_pattern", path),
        rslora=_truth(config, "use_rslora", path),
        dora=_truth(config, "use_dora", path),
        fan_in_fan_out=_truth(config, "fan_in_fan_out", path),
        target_parameters=_texts(config, "target_parameters", path),
        alora=None if alora is None else _whole_numbers(alora, "alora_invocation_tokens", path),
        tokens_by_module=_trained_tokens(config.get("trainable_token_indices"), path),
        version=_version(config.get("peft_version")),
        base_name=_name(config.get("base_model_name_or_path")),
    )


def _check_start(found: Any, path: str) -> None:
    if isinstance(found, str) and found.lower().startswith(_CHANGED_BASE):
        why = "its start took a part out of the base model, so that it fits only the base that is left"
        raise UnsupportedError(
            "the adapter is not for the base model as it was",
            code="adapter-start",
            path=path,
            place="init_lora_weights",
            found=f"{found}: {why}",
            hint="save it with path_initial_model_for_weight_conversion, which makes a plain adapter of it",
        )
    if not isinstance(found, bool | None | str) or (isinstance(found, str) and found not in _PLAIN):
        raise _refused("init_lora_weights", found, "a start that modelfmt does not know", path)


def _refused(name: str, value: Any, why: str, path: str) -> UnsupportedError:
    found = str(value)
    return UnsupportedError(
        f"the adapter has an option that cannot be expressed: {why}",
        code="adapter-option",
        path=path,
        place=name,
        found=found if len(found) <= 80 else found[:80] + " ..",
    )


def _wrong(name: str, value: Any, allowed: str, path: str) -> CorruptFile:
    return CorruptFile("a bad value", code="adapter-config", path=path, place=name, found=value, allowed=allowed)


def _number(config: Mapping[str, Any], name: str, path: str, least: float | None, *, whole: bool = False) -> float:
    value = config.get(name, 8)
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or abs(value) > 1e9 or (least is not None and value < least):
        raise _wrong(name, value, "a number" if least is None else f"a whole number from {least} on", path)
    return float(value)


def _truth(config: Mapping[str, Any], name: str, path: str) -> bool:
    value = config.get(name) or False
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false", path)
    return value


def _texts(config: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    value = config.get(name) or []
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise _wrong(name, value, "a list of names", path)
    return tuple(value)


def _whole_numbers(value: Any, name: str, path: str) -> tuple[int, ...]:
    fits = isinstance(value, list) and value and all(type(one) is int and 0 <= one < 2**31 for one in value)
    if not fits:
        raise _wrong(name, value, "a list of token ids", path)
    return tuple(value)


def _trained_tokens(value: Any, path: str) -> dict[str, tuple[int, ...]]:
    name = "trainable_token_indices"
    if value is None or value == []:
        return {}
    if isinstance(value, dict):
        return {str(module): _whole_numbers(rows, name, path) for module, rows in value.items()}
    return {"": _whole_numbers(value, name, path)}


def _patterns(config: Mapping[str, Any], name: str, path: str) -> dict[str, float]:
    value = config.get(name) or {}
    if not isinstance(value, dict) or len(value) > _MOST_PATTERNS:
        raise _wrong(name, type(value).__name__, f"an object of at most {_MOST_PATTERNS} patterns", path)
    found = {}
    for pattern in value:
        found[pattern] = _number(value, pattern, path, None)
        _check_pattern(pattern, name, path)
    return found


def _check_pattern(pattern: str, name: str, path: str) -> None:
    """Raise where a pattern is no regular expression, or one that could take long: more than two repetitions or three
    groups, a group that is repeated, a look around or back."""
    plain = re.sub(r"\\[^0-9]|\[[^\]]*\]", "x", pattern).replace("(?:", "(")
    slow = len(re.findall(r"[*+?{]", plain)) > 2 or plain.count("(") > 3 or "(?" in plain
    slow = slow or re.search(r"\)[*+?{]|\\[0-9]", plain) is not None
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        slow = True
    if slow or len(pattern) > _LONGEST:
        raise UnsupportedError(
            "a pattern for modules that is not simple",
            code="adapter-pattern",
            path=path,
            place=name,
            found=pattern[:80],
            allowed="a regular expression with at most two repetitions, none of a group, and three groups",
        )


def _by_pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    """What the first pattern that fits the end of a module's name says, as PEFT's get_pattern_key finds it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _version(found: Any) -> tuple[int, int] | None:
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", found) if isinstance(found, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _name(found: Any) -> str | None:
    """The base model's name, if it is one of a hub and not a path on somebody's disk."""
    return found if isinstance(found, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", found) else None
