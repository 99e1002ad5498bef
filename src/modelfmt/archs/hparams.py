"""Reads the hyper-parameters of a table out of a configuration: aliases, defaults, derivations, bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from typing import Any

from modelfmt.archs.table import Architecture, Param, Window
from modelfmt.archs.terms import evaluate, holds
from modelfmt.archs.values import CONFIG, bad_value, boolean, integer, number, record, refused, shortest, text
from modelfmt.errors import CorruptFile

__all__ = ["configuration", "layers", "metadata", "read", "refuse", "restore", "window"]

Metadata = dict[str, tuple[str, Any]]

_PERIODS = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
_ARRAYS = {"UINT32": "ARRAY:INT32", "BOOL": "ARRAY:BOOL", "FLOAT32": "ARRAY:FLOAT32"}
_READERS: dict[str, Callable[[object, str, str], Any]] = {"FLOAT32": number, "BOOL": boolean, "STRING": text}


def read(arch: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every param of the table by name, from a flat configuration.

    Raises CorruptFile (a missing key, a value of the wrong type or size), UnsupportedError (one that is not allowed).
    """
    scope: dict[str, Any] = {}
    for param in arch.params:
        case = _case(param.cases, scope)
        if case is not None:
            scope[param.name] = bool(case) if param.type == "BOOL" else case
            continue
        found = {path: value for path in param.paths for value in _given(config, path)}
        silent: tuple[Any, ...] = (None, "auto") if param.codes else (None, "auto", [])
        place = next((path for path, value in found.items() if value not in silent), None)
        if place is None:
            scope[param.name] = _absent(param, scope, null=bool(found))
            continue
        scope[param.name] = value = _checked(param, found[place], place, scope)
        if param.allowed and value not in param.allowed:
            raise refused(place, value, "llama.cpp computes this architecture in another way", allowed=param.allowed)
    return scope


def restore(
    arch: Architecture, metadata: Mapping[str, Any], sizes: Mapping[str, int], tensors: Container[str] = ()
) -> dict[str, Any]:
    """Every param of the table by name, from the metadata of a GGUF file. sizes: params that tensors' shapes tell;
    tensors: the names of those that are there.

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
            scope[param.name] = bool(sizes[param.name]) if param.type == "BOOL" else sizes[param.name]
        elif param.tensors:
            scope[param.name] = [int(param.tensors.replace("{i}", str(i)) in tensors) for i in range(scope["n_layer"])]
        elif param.tensor:
            scope[param.name] = param.tensor in tensors
        elif param.key and param.nullable:
            scope[param.name] = None
        elif param.cases and not param.paths:
            scope[param.name] = _case(param.cases, scope)
        elif param.derive or param.each:
            scope[param.name] = _derived(param, scope)
        elif param.key and param.omit is not None:
            scope[param.name] = _omitted(param, scope)
        elif param.key and param.default is ...:
            raise CorruptFile("a key is missing", code="metadata-missing", path="metadata", place=place)
        else:
            scope[param.name] = None if param.default is ... else param.default
    found = _held(arch, metadata).values()
    for param in arch.params:
        if param.implied and param not in found:
            scope[param.name] = _implied(param, scope)
        elif param.each and not param.key and not param.tensors:
            scope[param.name] = _each(param, scope)
    return scope


def configuration(arch: Architecture, scope: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's part of the params: the inverse of `read`. What it would take an absent key for is left out,
    unless the file states it.

    Raises CorruptFile for a number that no word of config.json has, UnsupportedError for one that config.json has no
    key for, where it does not follow from the others.
    """
    config: dict[str, Any] = {}
    held = _held(arch, metadata)
    _follows(scope, held)
    stated = held.values()
    for param in arch.params:
        value = scope[param.name]
        inside = param.paths[0].rpartition(".")[2].isdigit() if param.paths else False
        # a default of 0 stands for a null
        usual = value == param.default and not (param in stated and value)
        said_null = value is None and param.nullable and isinstance(param.default, int | float)
        number_alone = param.counted and len(param.paths) == 1
        if not param.paths or number_alone or (value is None and not said_null) or (usual and not inside):
            continue
        *outer, name = param.paths[0].split(".")
        inner = config
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = _said(param, value, scope["n_layer"], arch)
    return {name: _entries(value) for name, value in config.items()}


def _follows(scope: Mapping[str, Any], held: Mapping[str, Param]) -> None:
    """Raise UnsupportedError where the file states what config.json has no key for and the others do not imply."""
    for place, param in held.items():
        if param.paths or not (param.derive or param.each or param.cases):
            continue
        implied = _case(param.cases, scope) if param.cases else _derived(param, scope)
        if implied != scope[param.name]:
            detail = "config.json of this architecture has no key for it, and what it has implies another"
            raise refused(place, scope[param.name], detail, allowed=implied, path="metadata")


def _said(param: Param, value: Any, n_layer: int, arch: Architecture) -> Any:
    """A param as config.json has it."""
    if value is None:
        return None
    if param.leading:
        return [param.leading[0]] * value + [param.leading[1]] * (n_layer - value)
    if param.codes and param.per_layer:
        values = value if isinstance(value, list) else [value] * n_layer
        if param.numbers:
            return [layer + param.first for layer, entry in enumerate(values) if entry]
        return [_word(param, entry, arch) for entry in values]
    if param.codes:
        return _word(param, value, arch)
    if param.type == "FLOAT32" and isinstance(value, list):
        return [shortest(entry) for entry in value]
    if param.type == "FLOAT32":
        value = shortest(value)
        return int(value) if type(param.default) is int and value.is_integer() else value
    return value


def _word(param: Param, value: Any, arch: Architecture) -> str | bool:
    words = {number: word for word, number in reversed(param.codes)}
    if value not in words:
        raise bad_value(f"{arch.gguf}.{param.key}", value, str(sorted(words)), path="metadata")
    return words[value]


def _entries(value: Any) -> Any:
    """A list, where the paths into an object were numbers."""
    if isinstance(value, dict) and value and all(name.isdigit() for name in value):
        return [value[str(at)] for at in range(len(value))]
    return value


def _held(arch: Architecture, metadata: Mapping[str, Any]) -> dict[str, Param]:
    """The params that a file states, by their keys."""
    keys = {f"{arch.gguf}.{param.key}": param for param in arch.params if param.key}
    return {key: param for key, param in keys.items() if metadata.get(key) is not None}


def _implied(param: Param, scope: Mapping[str, Any]) -> Any:
    """What a file without a key for a param means."""
    if param.per_layer:
        return [_case(param.implied, scope, layer) for layer in range(scope["n_layer"])]
    value = _case(param.implied, scope)
    return bool(value) if param.type == "BOOL" else value


def refuse(arch: Architecture, scope: Mapping[str, Any], computed: Collection[str] = ()) -> None:
    """Raise UnsupportedError where the table says that the file would be wrong. computed: conditions that do not count,
    since another graph than llama.cpp's is made."""
    for rule in arch.refuses:
        if rule.when not in computed and any(holds(rule.when, scope, layer) for layer in range(scope["n_layer"])):
            names = {
                word: scope[word] for word in rule.when.replace("/", " ").replace("*", " ").split() if word in scope
            }
            raise refused(rule.when, ", ".join(f"{name} = {value}" for name, value in names.items()), rule.detail)


def metadata(arch: Architecture, scope: Mapping[str, Any]) -> Metadata:
    """The keys that the params of the table write, behind the architecture's name."""
    found: Metadata = {}
    for param in arch.params:
        value = scope[param.name]
        if not param.key or value is None or value == _omitted(param, scope):
            continue
        if param.listed:
            found[param.key] = (_ARRAYS[param.type], [at for at, entry in enumerate(value) if entry])
        elif not isinstance(value, list):
            found[param.key] = (param.type, value)
        else:
            found[param.key] = (
                _ARRAYS[param.type],
                [bool(entry) for entry in value] if param.type == "BOOL" else value,
            )
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
    if spec.stated or slides != _periodic(spec, spec.period, n_layer):
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
    if outer.endswith(".*"):
        entries = record(config.get(outer.removesuffix(".*")) or {}, outer)
        values = [record(entry, outer).get(inner) for entry in entries.values()]
        if any(value != values[0] for value in values):
            raise refused(path, values, "layers of the same kind have the same sizes in llama.cpp")
        return values[:1]
    if outer:
        held = config.get(outer) or {}
        if isinstance(held, list) and inner.isdigit():
            return held[int(inner) :][:1]
        config = record(held, outer)
    return [config[inner]] if inner in config else []


def _each(param: Param, scope: Mapping[str, Any]) -> Any:
    """The values of a param in all layers: one, where they are the same and the file may have it so."""
    values = []
    for layer in range(scope["n_layer"]):
        term = next(term for condition, term in param.each if holds(condition, scope, layer))
        values.append(evaluate(term, scope, layer))
    if param.type == "BOOL":
        return [bool(value) for value in values]
    return values if any(value != values[0] for value in values) else values[0]


def _absent(param: Param, scope: Mapping[str, Any], *, null: bool) -> Any:
    if null and param.nullable:
        return None
    if (param.derive or param.each) and (null or param.default is ...):
        return _derived(param, scope)
    if isinstance(param.omit, str) and param.default is ...:
        return _omitted(param, scope)
    if param.default is ...:
        raise CorruptFile("a key is missing", code="config-missing", path=CONFIG, place=" or ".join(param.paths))
    return param.default


def _derived(param: Param, scope: Mapping[str, Any]) -> Any:
    """What a param follows from, where nothing says it."""
    if param.each:
        return _each(param, scope)
    return evaluate(param.derive, scope)


def _omitted(param: Param, scope: Mapping[str, Any]) -> Any:
    return scope[param.omit] if isinstance(param.omit, str) else param.omit


def _case(cases: tuple[tuple[str, str], ...], scope: Mapping[str, Any], layer: int = 0) -> Any:
    """The term of the first condition that holds, or None."""
    return next((evaluate(term, scope, layer) for condition, term in cases if holds(condition, scope, layer)), None)


def _checked(param: Param, value: Any, place: str, scope: Mapping[str, Any], path: str = CONFIG) -> Any:
    if isinstance(value, list) and param.leading:
        return integer(_leading(param, value, place, scope["n_layer"]), place, param.low, param.high, path=path)
    if isinstance(value, list) and param.uniform:
        if any(entry != value[0] for entry in value):
            raise refused(place, value, "all layers have the same number in llama.cpp", path=path)
        value = value[0]
    if param.foremost and isinstance(value, list) and value:
        value = value[0]
    if param.listed and path != CONFIG:
        return _numbered(value, place, 0, scope["n_layer"], path)
    if param.per_layer and (isinstance(value, list) or (param.codes and path == CONFIG)):
        return _layers(param, value, place, scope["n_layer"], path)
    if param.counted and isinstance(value, list | str | Mapping):
        return integer(len(value), place, param.low, param.high, path=path)
    return _one(param, value, place, path)


def _layers(param: Param, value: Any, place: str, n_layer: int, path: str) -> list[Any]:
    """The entries of a list with one for each layer."""
    if param.codes and path == CONFIG and isinstance(value, str) and "," in value:
        value = [int(word) if word.strip().isdecimal() else word for word in value.split(",")]
    if param.cut and isinstance(value, list):
        value = value[:n_layer]
    if param.codes and path == CONFIG and isinstance(value, list) and not any(isinstance(one, str) for one in value):
        return _numbered(value, place, param.first, n_layer, path)
    if not isinstance(value, list | str) or len(value) != n_layer:
        found = len(value) if isinstance(value, list | str) else value
        raise bad_value(place, found, f"a list of {n_layer} entries, one per layer", path=path)
    return [_one(param, entry, f"{place}[{at}]", path) for at, entry in enumerate(value)]


def _numbered(value: Any, place: str, first: int, n_layer: int, path: str) -> list[int]:
    """The entries of all layers, from the numbers of those whose entry is 1."""
    if not isinstance(value, list):
        raise bad_value(place, value, "a list of the numbers of layers", path=path)
    last = first + n_layer - 1
    chosen = {integer(one, f"{place}[{at}]", first, last, path=path) for at, one in enumerate(value)}
    return [int(layer + first in chosen) for layer in range(n_layer)]


def _leading(param: Param, value: list[Any], place: str, n_layer: int) -> int:
    first, second = param.leading
    count = next((at for at, entry in enumerate(value) if entry != first), len(value))
    if value != [first] * count + [second] * (n_layer - count):
        raise refused(place, value, f"layers that are {first} come before all others, which are {second}")
    return count


def _one(param: Param, value: Any, place: str, path: str) -> Any:
    if param.codes and path == CONFIG:
        codes, word = dict(param.codes), value if isinstance(value, bool) else text(value, place, path)
        if word not in codes:
            raise refused(place, word, "the file has no number for this word", allowed=list(codes))
        return bool(codes[word]) if param.type == "BOOL" else codes[word]
    if param.type == "FLOAT32" and param.low == 0 and (value is None or (type(value) in (int, float) and value == 0)):
        return 0.0
    if param.negative and type(value) in (int, float):
        return -number(-value, place, path)
    if param.type != "UINT32":
        return _READERS[param.type](value, place, path)
    return integer(value, place, param.low, param.high, path=path)
