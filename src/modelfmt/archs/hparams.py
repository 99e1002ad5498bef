"""Reads the hyper-parameters of a table out of a configuration: aliases, defaults, derivations, bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelfmt.archs.table import Architecture, Param, Window
from modelfmt.archs.terms import evaluate, holds
from modelfmt.archs.values import CONFIG, bad_value, boolean, integer, number, record, refused, shortest, text
from modelfmt.errors import CorruptFile

__all__ = ["configuration", "layers", "metadata", "read", "refuse", "restore", "window"]

Metadata = dict[str, tuple[str, Any]]

_PERIODS = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
_READERS: dict[str, Callable[[object, str, str], Any]] = {"FLOAT32": number, "BOOL": boolean, "STRING": text}


def read(arch: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every param of the table by name, from a flat configuration.

    Raises CorruptFile (a missing key, a value of the wrong type or size), UnsupportedError (one that is not allowed).
    """
    scope: dict[str, Any] = {}
    for param in arch.params:
        case = next((term for condition, term in param.cases if holds(condition, scope)), None)
        if case is not None:
            scope[param.name] = evaluate(case, scope)
            continue
        found = {path: value for path in param.paths for value in _given(config, path)}
        place = next((path for path, value in found.items() if value is not None), None)
        if place is None:
            scope[param.name] = _absent(param, scope, null=bool(found))
            continue
        scope[param.name] = value = _checked(param, found[place], place, scope)
        if param.allowed and value not in param.allowed:
            raise refused(place, value, "llama.cpp computes this architecture in another way", allowed=param.allowed)
    return scope


def restore(arch: Architecture, metadata: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Every param of the table by name, from the metadata of a GGUF file. sizes: params that tensors tell.

    Raises CorruptFile. What GGUF does not hold is what the table says is implied, else its default, or None. Params of
    one name in config.json are one value.
    """
    scope: dict[str, Any] = {}
    held = {path: key for key, param in _held(arch, metadata).items() for path in param.paths[:1]}
    for param in arch.params:
        place = f"{arch.gguf}.{param.key}"
        if not param.key and param.paths and param.paths[0] in held:
            place = held[param.paths[0]]
        if metadata.get(place) is not None:
            scope[param.name] = _checked(param, metadata[place], place, scope, path="metadata")
        elif param.name in sizes:
            scope[param.name] = sizes[param.name]
        elif param.derive:
            scope[param.name] = evaluate(param.derive, scope)
        elif param.key and param.default is ...:
            raise CorruptFile("a key is missing", code="metadata-missing", path="metadata", place=place)
        else:
            scope[param.name] = None if param.default is ... else param.default
    found = _held(arch, metadata).values()
    for param in arch.params:
        if param.implied and param not in found:
            value = next(evaluate(term, scope) for condition, term in param.implied if holds(condition, scope))
            scope[param.name] = bool(value) if param.type == "BOOL" else value
    return scope


def configuration(arch: Architecture, scope: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's part of the params: the inverse of `read`. What it would take an absent key for is left out,
    unless the file states it.

    Raises CorruptFile for a number that no word of config.json has.
    """
    config: dict[str, Any] = {}
    held = _held(arch, metadata).values()
    for param in arch.params:
        value = scope[param.name]
        # a default of 0 stands for a null
        if not param.paths or value is None or (value == param.default and not (param in held and value)):
            continue
        if param.codes:
            words = {number: word for word, number in param.codes}
            if value not in words:
                raise bad_value(f"{arch.gguf}.{param.key}", value, str(sorted(words)), path="metadata")
            value = words[value]
        *outer, name = param.paths[0].split(".")
        inner = config
        for part in outer:
            inner = inner.setdefault(part, {})
        if param.type == "FLOAT32":
            value = shortest(value)
            value = int(value) if type(param.default) is int and value.is_integer() else value
        inner[name] = value
    return config


def _held(arch: Architecture, metadata: Mapping[str, Any]) -> dict[str, Param]:
    """The params that a file states, by their keys."""
    keys = {f"{arch.gguf}.{param.key}": param for param in arch.params if param.key}
    return {key: param for key, param in keys.items() if metadata.get(key) is not None}


def refuse(arch: Architecture, scope: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where the table says that the file would be wrong."""
    for rule in arch.refuses:
        if any(holds(rule.when, scope, layer) for layer in range(scope["n_layer"])):
            names = {
                word: scope[word] for word in rule.when.replace("/", " ").replace("*", " ").split() if word in scope
            }
            raise refused(rule.when, ", ".join(f"{name} = {value}" for name, value in names.items()), rule.detail)


def metadata(arch: Architecture, scope: Mapping[str, Any]) -> Metadata:
    """The keys that the params of the table write, behind the architecture's name."""
    found: Metadata = {}
    for param in arch.params:
        value = scope[param.name]
        if param.key and value is not None and value != param.omit:
            found[param.key] = ("ARRAY:INT32" if isinstance(value, list) else param.type, value)
    return found


def window(spec: Window, config: Mapping[str, Any], n_layer: int) -> Metadata:
    """The size of the sliding window, and which layers slide where that is not what the architecture implies."""
    size = config.get(spec.config, spec.size)
    if size is None:
        return {}
    kinds = config.get("layer_types")
    if kinds is None:
        slides = _pattern(config, spec, n_layer)
    else:
        if (
            not isinstance(kinds, list)
            or len(kinds) != n_layer
            or not set(kinds) <= {"sliding_attention", "full_attention"}
        ):
            raise bad_value("layer_types", kinds, f"{n_layer} times sliding_attention or full_attention")
        slides = [kind == "sliding_attention" for kind in kinds]
    if not (any(slides) or spec.required):
        return {}
    found: Metadata = {"attention.sliding_window": ("UINT32", integer(size, spec.config))}
    if slides != _periodic(spec, spec.period, n_layer):
        found["attention.sliding_window_pattern"] = ("ARRAY:BOOL", slides)
    return found


def layers(spec: Window, arch: Architecture, metadata: Mapping[str, Any], n_layer: int) -> dict[str, Any]:
    """config.json's part of the sliding window: the inverse of `window`. Raises CorruptFile."""
    size = metadata.get(f"{arch.gguf}.attention.sliding_window")
    if size is None:
        optional = any(param.nullable and param.paths[:1] == (spec.config,) for param in arch.params)
        return {spec.config: None, "layer_types": ["full_attention"] * n_layer} if optional else {}
    key = f"{arch.gguf}.attention.sliding_window_pattern"
    given = metadata.get(key)
    if given is None or isinstance(given, int):
        slides = _periodic(spec, integer(given or spec.period, key, path="metadata"), n_layer)
    else:
        slides = [bool(entry) for entry in given]
        if len(slides) != n_layer:
            raise bad_value(key, len(slides), f"one entry for each of {n_layer} layers", path="metadata")
    kinds = ["sliding_attention" if slide else "full_attention" for slide in slides]
    return {spec.config: integer(size, f"{arch.gguf}.attention.sliding_window", path="metadata"), "layer_types": kinds}


def _periodic(spec: Window, period: int, n_layer: int) -> list[bool]:
    return [(layer + (not spec.full_first)) % period != 0 for layer in range(n_layer)]


def _pattern(config: Mapping[str, Any], spec: Window, n_layer: int) -> list[bool]:
    """Which layers slide, from a period or from letters (LLLG: three local layers, one global)."""
    key = next((name for name in _PERIODS if config.get(name) is not None), _PERIODS[0])
    given = config.get(key)
    if isinstance(given, str):
        if not given or not set(given) <= {"L", "G"}:
            raise bad_value(key, given, "an integer, or the letters L and G")
        return [given[layer % len(given)] == "L" for layer in range(n_layer)]
    return _periodic(spec, spec.period if given is None else integer(given, key), n_layer)


def _given(config: Mapping[str, Any], path: str) -> list[Any]:
    """What config.json has at a path, if it is there."""
    outer, _, inner = path.rpartition(".")
    if outer:
        config = record(config.get(outer) or {}, outer)
    return [config[inner]] if inner in config else []


def _absent(param: Param, scope: Mapping[str, Any], *, null: bool) -> Any:
    if null and param.nullable:
        return None
    if param.derive and (null or param.default is ...):
        return evaluate(param.derive, scope)
    if param.default is ...:
        raise CorruptFile("a key is missing", code="config-missing", path=CONFIG, place=" or ".join(param.paths))
    return param.default


def _checked(param: Param, value: Any, place: str, scope: Mapping[str, Any], path: str = CONFIG) -> Any:
    if param.codes and path == CONFIG:
        codes, word = dict(param.codes), text(value, place, path)
        if word not in codes:
            raise refused(place, word, "the file has no number for this word", allowed=list(codes))
        return codes[word]
    if param.type != "UINT32":
        return _READERS[param.type](value, place, path)
    if param.per_layer and isinstance(value, list):
        if len(value) != scope["n_layer"]:
            raise bad_value(place, len(value), f"a list of {scope['n_layer']} integers, one per layer", path=path)
        return [integer(entry, f"{place}[{at}]", param.low, param.high, path=path) for at, entry in enumerate(value)]
    return integer(value, place, param.low, param.high, path=path)
