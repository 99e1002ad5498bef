"""Users' own recipes: TOML, JSON or plain data. The keys are explained in docs/recipes.md."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from msgspec.structs import replace

from modelfmt.errors import LimitExceeded, UsageError
from modelfmt.quant.ggml_types import target_type
from modelfmt.quant.mixture_rules import ROLES
from modelfmt.quant.recipes import Recipe, RecipeRule, aim, as_recipe
from modelfmt.storage.files import Files

__all__ = ["as_mapping", "from_mapping", "load", "read"]

MAX_BYTES = 1 << 20


def read(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file, as `load` takes it. Raises SourceMissing, LimitExceeded (1 MiB), UsageError."""
    name = os.fspath(path)
    files = Files()
    try:
        size = files.size(name)
        if size > MAX_BYTES:
            raise LimitExceeded(
                "too large for a recipe", path=name, found=f"{size} bytes", allowed=f"{MAX_BYTES} bytes"
            )
        data = files.read(name, 0, size)
    finally:
        files.close()
    try:
        return load(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise UsageError(
            "the recipe is not UTF-8", code="recipe-syntax", path=name, place=f"byte {error.start}"
        ) from None


def load(text: str, path: str = "") -> Recipe:
    """A recipe from TOML, or from JSON where path ends in .json or the text starts with a brace.

    Raises UsageError (recipe-...), naming the key.

    >>> recipe = load('base = "Q4_K_M"\\n[[rule]]\\nroles = ["ffn_down"]\\nlayers = "0-1, -2-"\\ntype = "Q8_0"')
    >>> recipe.name, recipe.rules[0].layers
    ('Q4_K_M', ((0, 1), (-2, -1)))
    """
    as_json = PurePath(path).suffix.lower() == ".json" or text.lstrip().startswith("{")
    try:
        data = json.loads(text) if as_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe cannot be read: {error}", code="recipe-syntax", path=path or None) from None
    return from_mapping(data, path)


def from_mapping(data: Any, path: str = "") -> Recipe:
    """A recipe from plain data.

    Keys: base (a file type or "auto"; not needed with a target), name (default: the file's, else the base's), mixture
    (default true), rule (a list of tables: type, and any of tensors, roles, layers), target_bits_per_weight, types (a
    list of tensor types, for the target). The first rule that matches decides; they come before llama.cpp's, or the
    target. Raises UsageError (recipe-...), naming the key.

    >>> from_mapping({"target_bits_per_weight": 4.25, "types": ["q4_k", "q6_k", "q3_k"]}).types
    ('Q4_K', 'Q6_K', 'Q3_K')
    """
    keys = _keys(data, _RECIPE_KEYS, path, "the recipe")
    target = keys.get("target_bits_per_weight")
    for key, allowed in (("types", target is not None), ("mixture", target is None)):
        if key in keys and not allowed:
            raise UsageError(
                "a target takes the mixture's place" if key == "mixture" else "types are for a target",
                code="recipe-target",
                path=path or None,
                place=key,
            )
    if "base" not in keys and target is None:
        raise UsageError(
            "a recipe without a base", code="recipe-key", path=path or None, allowed="base, or target_bits_per_weight"
        )
    base = as_recipe(keys["base"]) if "base" in keys else Recipe("", None, None)
    recipe = replace(
        base,
        rules=tuple(_rule(entry, path, f"rule {at}") for at, entry in enumerate(keys.get("rule", ()), 1)),
        mixture=keys.get("mixture", True),
        label=_label(keys, path) or (base.label if target is None else f"{target:g}bpw"),
        types=_types(keys.get("types", ()), path),
    )
    return recipe if target is None else aim(float(target), recipe)


def as_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, for `from_mapping`: how a plan keeps it.

    >>> as_mapping(load('base = "Q4_0"\\n[[rule]]\\nlayers = "-2-"\\ntype = "Q8_0"'))["rule"]
    [{'type': 'Q8_0', 'layers': '-2--1'}]
    """
    found: dict[str, Any] = {"name": recipe.label, "base": recipe.name}
    if recipe.rules:
        found["rule"] = [_rule_mapping(rule) for rule in recipe.rules]
    if recipe.target is not None:
        return {key: value for key, value in found.items() if value} | {
            "target_bits_per_weight": recipe.target,
            "types": list(recipe.types),
        }
    return found | ({} if recipe.mixture else {"mixture": False})


def _rule_mapping(rule: RecipeRule) -> dict[str, Any]:
    layers = ", ".join(f"{first}-{last}" for first, last in rule.layers)
    parts = {"tensors": rule.tensors, "roles": sorted(rule.roles), "layers": layers}
    return {"type": rule.type} | {key: value for key, value in parts.items() if value}


def _label(keys: Mapping[str, Any], path: str) -> str:
    """What the recipe calls itself, or its file is called: it goes into names of files."""
    if "name" in keys and not re.fullmatch(r"[\w.+-]{1,64}", keys["name"]):
        raise UsageError(
            "not a name for a recipe",
            code="recipe-name",
            path=path or None,
            place="name",
            found=keys["name"],
            allowed="letters, digits, and any of . _ + -",
        )
    return keys.get("name") or re.sub(r"[^\w.+-]", "_", PurePath(path).stem)[:64]


def _types(names: Sequence[Any], path: str) -> tuple[str, ...]:
    found = tuple(target_type(str(name), "types").name for name in names)
    if len(set(found)) != len(found):
        raise UsageError("name each type once", code="recipe-types", path=path or None, place="types", found=found)
    return found


def _rule(entry: Any, path: str, place: str) -> RecipeRule:
    keys = _keys(entry, _RULE_KEYS, path, place)
    if "type" not in keys:
        raise UsageError("a rule without a type", code="recipe-key", path=path or None, place=place, allowed="type")
    known = {name for name, _, _ in ROLES} | {"other"}
    roles = frozenset(map(str, keys.get("roles", ())))
    if roles - known:
        raise UsageError(
            "no such role",
            code="recipe-role",
            path=path or None,
            place=place,
            found=min(roles - known),
            allowed=", ".join(sorted(known)),
        )
    pattern = keys.get("tensors", "")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"not a regular expression: {error}", code="bad-pattern", path=path or None, place=place, found=pattern
        ) from None
    return RecipeRule(
        target_type(keys["type"], place).name, pattern, roles, _layers(keys.get("layers", ""), path, place), place
    )


def _layers(text: str, path: str, place: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"(?P<first>-?\d{1,6})(?P<to>\s*-\s*(?P<last>-?\d{1,6})?)?", part)
        if found is None:
            raise UsageError(
                "not a range of layers",
                code="recipe-layers",
                path=path or None,
                place=place,
                found=part,
                allowed='such as "0-3, 7, -2-"',
            )
        first = int(found["first"])
        ranges.append((first, first if found["to"] is None else int(found["last"] or -1)))
    return tuple(ranges)


_RECIPE_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "base": (str,),
    "mixture": (bool,),
    "rule": (list, tuple),
    "target_bits_per_weight": (float, int),
    "types": (list, tuple),
}
_RULE_KEYS: dict[str, tuple[type, ...]] = {
    "type": (str,),
    "tensors": (str,),
    "roles": (list, tuple),
    "layers": (str,),
}


def _keys(data: Any, allowed: Mapping[str, tuple[type, ...]], path: str, place: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise UsageError("not a table", code="recipe-key", path=path or None, place=place, found=type(data).__name__)
    for key, value in data.items():
        kinds = allowed.get(key, ())
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UsageError(
                "no such key, or of the wrong kind",
                code="recipe-key",
                path=path or None,
                place=place,
                found=key,
                allowed=", ".join(allowed),
            )
    return dict(data)
