"""Which type each tensor gets: llama.cpp's converter and llama-quantize in one step, from names and shapes alone.

llama.cpp goes from a checkpoint to a quantized file in two steps, by way of a dense GGUF. `assign` gives both at once:
the type, and `via`, the dense type that values pass through so that the bytes are those of the two steps. The rules are
rows of modelfmt.quant.mixture_rules; this file holds only the way through them. Source: src/llama-quant.cpp and
conversion/base.py of llama.cpp, October 2026. Quirks, and where we differ: docs/recipes.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec.structs import force_setattr, replace

from modelfmt.errors import UsageError
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.quant.ggml_types import GGML_TYPES, target_type
from modelfmt.quant.mixture_rules import (
    BASE,
    CONVERTER_F32,
    KEPT,
    LARGE_MODELS,
    LAYERS,
    ROLES,
    RULES,
    V_LIKE,
    Position,
    Rule,
)
from modelfmt.quant.recipes import AUTO, Recipe, as_recipe, layer_number, tensor_order

__all__ = [
    "Choice",
    "MixtureContext",
    "Overrides",
    "TensorInfo",
    "assign",
    "automatic",
    "quantizable",
    "role",
    "unused_rules",
]

_ALWAYS_WEIGHTED = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_CONVERTER_TYPES = ("F32", "F16", "BF16", "Q8_0")
_EXACT = {"F32": ("F32",), "F16": ("F16", "F32"), "BF16": ("BF16", "F32")}
_CONVERTER_F32 = re.compile(CONVERTER_F32)
_OPEN = ""
"""In place of a type: a target of bits per weight chooses it."""


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor as the rules see it.

    name: GGUF name. shape: row-major. source_type: the encoding it is stored in now. force: the type that its
    architecture keeps it in when a checkpoint is converted, whatever was asked for.
    """

    name: str
    shape: tuple[int, ...]
    source_type: str
    force: str | None = None


class MixtureContext(msgspec.Struct, frozen=True):
    """What the rules ask about a model.

    architecture: general.architecture. n_layer: all layers, those that predict further tokens (n_nextn) included.
    n_head, n_head_kv: one number, or one for each layer. n_expert: 0 without experts.
    """

    architecture: str
    n_layer: int
    n_head: int | Sequence[int] = 0
    n_head_kv: int | Sequence[int] = 0
    n_expert: int = 0
    n_nextn: int = 0

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> MixtureContext:
        """From the metadata of a GGUF file, by llama.cpp's defaults where a key is not there.

        >>> MixtureContext.from_metadata({"general.architecture": "llama", "llama.block_count": 32}).n_layer
        32
        """
        architecture = str(metadata.get("general.architecture", ""))

        def value(key: str, default: int | Sequence[int] = 0) -> int | Sequence[int]:
            found = metadata.get(f"{architecture}.{key}", default)
            return found if isinstance(found, int) else tuple(found)  # type: ignore[arg-type]  # an array of integers

        n_head = value("attention.head_count")
        return cls(
            architecture,
            n_layer=_first(value("block_count")),
            n_head=n_head,
            n_head_kv=value("attention.head_count_kv", n_head),
            n_expert=_first(value("expert_count")),
            n_nextn=_first(value("nextn_predict_layers")),
        )

    @property
    def gqa(self) -> int:
        """Query heads per key-value head in the first layer; 0 where it has none."""
        heads = _first(self.n_head_kv)
        return _first(self.n_head) // heads if heads else 0

    @property
    def large(self) -> bool:
        """What llama.cpp takes for a 70B model."""
        n_layer, grouped = LARGE_MODELS.get(self.architecture, (-1, False))
        return self.n_layer - self.n_nextn == n_layer and not (
            grouped and _first(self.n_head) == _first(self.n_head_kv)
        )


class Overrides(msgspec.Struct, frozen=True):
    """What the user wants otherwise.

    tensor_types: (pattern, type), searched in the name without regard to case; the first that is found decides. pure:
    no mixture. leave_output: output.weight stays as it is. Raises UsageError (bad-pattern, unknown-tensor-type).
    """

    tensor_types: Sequence[tuple[str, str]] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    _patterns: tuple[tuple[re.Pattern[str], str], ...] = ()

    def __post_init__(self) -> None:
        found = []
        for pattern, wanted in self.tensor_types:
            try:
                found.append((re.compile(pattern, re.IGNORECASE), target_type(wanted, place=pattern).name))
            except re.error as error:
                raise UsageError(
                    f"not a regular expression: {error}", code="bad-pattern", place="tensor type", found=pattern
                ) from None
        force_setattr(self, "_patterns", tuple(found))
        for name in ("output_tensor_type", "token_embedding_type"):
            given = getattr(self, name)
            if given is not None:
                force_setattr(self, name, target_type(given, place=name).name)

    def type_of(self, name: str) -> str | None:
        """The type that the first pattern found in `name` asks for."""
        return next((wanted for pattern, wanted in self._patterns if pattern.search(name)), None)

    def unmatched(self, names: Collection[str]) -> list[str]:
        """Patterns that are found in none of the names: likely mistakes."""
        return [pattern.pattern for pattern, _ in self._patterns if not any(map(pattern.search, names))]


class Choice(msgspec.Struct, frozen=True):
    """What becomes of a tensor.

    reason: the rule that decided. via: the dense type that values are rounded to first. role: what the rules take it
    for. needs_importance: its type is not made without importance weights. candidates: the types among which a target
    of bits per weight is still to choose (modelfmt.quant.target); `type` is one of them.
    """

    type: str
    reason: str
    via: str | None = None
    role: str = "other"
    needs_importance: bool = False
    candidates: tuple[str, ...] = ()


def assign(
    tensors: Sequence[TensorInfo],
    file_type: str | Recipe,
    *,
    hparams: MixtureContext,
    importance: Collection[str] | None = None,
    overrides: Overrides | None = None,
    intermediate: str | None = None,
    require_importance: bool = True,
) -> dict[str, Choice]:
    """The type of every tensor, in the order in which llama-quantize writes them.

    file_type: a key of FILE_TYPES in any case, "auto", or a recipe. importance: names that have importance weights.
    intermediate: None where the tensors come from a GGUF file, and so llama-quantize's step alone is done; for a
    checkpoint, the type that convert_hf_to_gguf would have been asked for (F32, F16, BF16, Q8_0), or "auto": see
    `resolve`. Where it is the file type itself, the converter's step alone is done.
    Raises UsageError: unknown-file-type, unknown-tensor-type, duplicate-tensor, and importance-missing (a type that
    needs weights which are not there), unless require_importance is false.

    >>> shapes = {"blk.0.attn_v.weight": (64, 256), "blk.0.attn_norm.weight": (256,)}
    >>> tensors = [TensorInfo(name, shape, "BF16") for name, shape in shapes.items()]
    >>> chosen = assign(tensors, "Q4_K_M", hparams=MixtureContext("llama", 8), intermediate="auto")
    >>> [(name, choice.type, choice.reason) for name, choice in chosen.items()]
    [('blk.0.attn_norm.weight', 'F32', 'kept: norm'), ('blk.0.attn_v.weight', 'Q6_K', 'mixture: attn_v')]
    """
    recipe = as_recipe(file_type)
    if intermediate is not None:
        recipe, intermediate = resolve(recipe, tensors, intermediate)
    engine = _Engine(tensors, recipe, hparams, importance, overrides or Overrides(), intermediate)
    chosen: dict[str, Choice] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor_order(tensor.name)):
        if tensor.name in chosen:
            raise UsageError("a tensor is given twice", code="duplicate-tensor", place=tensor.name)
        chosen[tensor.name] = engine.choose(tensor)
    if require_importance:
        _check_importance(chosen, recipe, importance or ())
    return chosen


def automatic(tensors: Sequence[TensorInfo]) -> str:
    """The converter's `auto`: BF16 or F16, whichever the first matrix in either has; F16 where there is none.

    A float32 checkpoint becomes F16, as in llama.cpp.

    >>> automatic([TensorInfo("a", (2, 2), "F32"), TensorInfo("b", (2, 2), "BF16")])
    'BF16'
    """
    matrices = (tensor.source_type for tensor in tensors if len(tensor.shape) >= 2)
    return next((found for found in matrices if found in ("F16", "BF16")), "F16")


def resolve(file_type: str | Recipe, tensors: Sequence[TensorInfo], intermediate: str = AUTO) -> tuple[Recipe, str]:
    """What is made of a checkpoint, and the type it passes through: (recipe, F32 | F16 | BF16 | Q8_0), without "auto".

    tensors: in the order of the checkpoint. Types that the converter writes itself are their own intermediate; the rest
    pass through `automatic`. Raises UsageError (unknown-file-type, intermediate).

    >>> recipe, intermediate = resolve("Q4_K_M", [TensorInfo("a", (2, 2), "F32")])
    >>> recipe.name, intermediate
    ('Q4_K_M', 'F16')
    """
    recipe = as_recipe(file_type)
    if recipe.keeps_types:
        recipe = replace(as_recipe(automatic(tensors)), rules=recipe.rules)
    if intermediate.lower() == AUTO:
        direct = recipe.name in _CONVERTER_TYPES and not recipe.own
        intermediate = recipe.name if direct else automatic(tensors)
    intermediate = intermediate.upper()
    allowed = [name for name in _CONVERTER_TYPES if name == recipe.name or ENCODINGS[name].dense]
    if intermediate not in allowed:
        raise UsageError("no type to pass through", code="intermediate", found=intermediate, allowed=", ".join(allowed))
    return recipe, intermediate


def quantizable(tensor: TensorInfo, context: MixtureContext) -> bool:
    """False for what stays in a plain type in every file: norms, routers, vectors, what the architecture keeps.

    >>> quantizable(TensorInfo("blk.0.attn_norm.weight", (64,), "F32"), MixtureContext("llama", 1))
    False
    """
    return tensor.force in (None, "F32", "F16", "BF16") and _kept(tensor, context.architecture) is None


def role(name: str) -> str:
    """What the rules take a tensor for, by its name.

    >>> role("blk.3.ffn_down_exps.weight")
    'ffn_down'
    """
    return next((found for found, text, whole in ROLES if (name == text if whole else text in name)), "other")


class _Engine:
    """One walk over the tensors of a model: it counts those of a role as llama-quantize does."""

    def __init__(
        self,
        tensors: Sequence[TensorInfo],
        recipe: Recipe,
        hparams: MixtureContext,
        importance: Collection[str] | None,
        overrides: Overrides,
        intermediate: str | None,
    ) -> None:
        self.recipe, self.hparams, self.overrides, self.intermediate = recipe, hparams, overrides, intermediate
        converter_only = intermediate is not None and recipe.name == intermediate and not recipe.own
        self.base = None if converter_only else recipe.base
        self.keeps_types = converter_only or recipe.keeps_types
        self.weighted = importance is not None and len(importance) > 0
        self.covered = importance or ()
        self.tied = all(tensor.name != "output.weight" for tensor in tensors)
        self.n_v_like = sum(role(tensor.name) in V_LIKE for tensor in tensors)
        self.rules = [
            rule
            for rule in RULES
            if (not rule.file_types or recipe.name in rule.file_types)
            and (not rule.architectures or hparams.architecture in rule.architectures)
        ]
        self.seen: Counter[str] = Counter()

    def choose(self, tensor: TensorInfo) -> Choice:
        present, reason = tensor.source_type, "kept: as in the source"
        if self.intermediate is not None:
            present, reason = _converted(tensor, self.intermediate)
        found = role(tensor.name)
        kept = self._kept(tensor, present)
        if kept is not None:
            if not self.keeps_types:
                reason = f"kept: {kept}"
            ignored = " (override ignored)" if self._wanted(tensor, found) is not None else ""
            return self._choice(tensor, present, present, reason + ignored, found)
        wanted, reason = self._wish(tensor, found, present, reason)
        if wanted == _OPEN:
            return self._open(tensor, present, reason, found)
        fitting = GGML_TYPES[wanted].fitting(tensor.shape[-1]) if wanted in GGML_TYPES else wanted
        if fitting != wanted:
            reason = _fallback(tensor, wanted, reason)
        return self._choice(tensor, present, fitting, reason, found)

    def _kept(self, tensor: TensorInfo, present: str) -> str | None:
        if self.overrides.leave_output and tensor.name == "output.weight":
            return "output left as it is"
        if tensor.force is not None and not ENCODINGS[present].dense:
            return "by the architecture"
        return _kept(tensor, self.hparams.architecture)

    def _wanted(self, tensor: TensorInfo, found: str) -> str | None:
        """The type that the user asks for by name."""
        named = self.overrides.type_of(tensor.name)
        if found == "token_embd" and self.overrides.token_embedding_type is not None:
            by_pattern = tensor.name == "per_layer_token_embd.weight" and named is not None
            return named if by_pattern else self.overrides.token_embedding_type
        if found == "output" and self.overrides.output_tensor_type is not None:
            return self.overrides.output_tensor_type
        return named

    def _wish(self, tensor: TensorInfo, found: str, present: str, reason: str) -> tuple[str, str]:
        wanted = self._wanted(tensor, found)
        if wanted is not None:
            return wanted, "override"
        layer = layer_number(tensor.name)
        for rule in self.recipe.rules:
            if rule.matches(tensor.name, found, layer, self.hparams.n_layer):
                return rule.type, f"recipe: {rule.label}"
        if self.keeps_types:
            return present, reason
        acting = "output" if self.tied and found == "token_embd" else found
        as_output = self.overrides.output_tensor_type if acting == "output" else None
        if self.recipe.target is not None:
            return (_OPEN, f"target: {self.recipe.target:g} bits") if as_output is None else (as_output, "override")
        assert self.base is not None
        if self.overrides.pure or not self.recipe.mixture or not GGML_TYPES[self.base].quantized:
            return self.base, "base"
        if as_output is not None:
            return as_output, "override"
        return self._mixture(tensor, acting)

    def _open(self, tensor: TensorInfo, present: str, reason: str, found: str) -> Choice:
        """The types of the recipe that rows of this tensor divide into, or fall back to, largest first."""
        fitting = {GGML_TYPES[name].fitting(tensor.shape[-1]) for name in self.recipe.types}
        usable = [name for name in fitting if tensor.name in self.covered or name not in _ALWAYS_WEIGHTED]
        if not usable and self.covered:
            raise UsageError(
                "every type of the target needs importance weights, and this tensor has none",
                code="importance-missing",
                place=tensor.name,
                found=", ".join(self.recipe.types),
                hint="add a type that needs none, such as Q2_K, or give an importance matrix with --imatrix",
            )
        usable = sorted(usable or fitting, key=lambda name: (-GGML_TYPES[name].bits_per_weight, name))
        choice = self._choice(tensor, present, usable[0], reason, found)
        return replace(choice, needs_importance=False, candidates=tuple(usable))

    def _mixture(self, tensor: TensorInfo, acting: str) -> tuple[str, str]:
        assert self.base is not None
        kind = "v" if acting in V_LIKE else acting
        count = self.seen[kind]
        self.seen[kind] += 1
        number = layer_number(tensor.name)
        index = number if self.hparams.n_expert > 1 and number is not None and kind != "v" else count
        at = Position(count, index, self.n_v_like if kind == "v" else self.hparams.n_layer)
        rule = next((rule for rule in self.rules if self._matches(rule, tensor, acting, at)), None)
        if rule is None or rule.type in (BASE, self.base):
            return self.base, "base"
        return rule.type, f"mixture: {acting}"

    def _matches(self, rule: Rule, tensor: TensorInfo, acting: str, at: Position) -> bool:
        model = self.hparams
        assert self.base is not None
        return (
            (not rule.roles or acting in rule.roles)
            and (not rule.min_gqa or model.gqa >= rule.min_gqa)
            and (rule.experts is None or model.n_expert == rule.experts)
            and model.n_expert >= rule.min_experts
            and (not rule.large or model.large)
            and (rule.importance is None or self.weighted == rule.importance)
            and (not rule.stacked or (len(tensor.shape) > 2 and tensor.shape[-3] > 1))
            and (not rule.misfit or not GGML_TYPES[self.base].fits(tensor.shape[-1]))
            and (not rule.contains or any(text in tensor.name for text in rule.contains))
            and (not rule.layers or LAYERS[rule.layers](at))
        )

    def _choice(self, tensor: TensorInfo, present: str, type: str, reason: str, found: str) -> Choice:
        rounds = (
            self.intermediate is not None and ENCODINGS[present].dense and present not in _exact(tensor.source_type)
        )
        via = present if rounds and present != type else None
        weighted = type in _ALWAYS_WEIGHTED or (type == "Q2_K" and self.recipe.name == "Q2_K_S")
        needs = weighted and present != type and found not in ("token_embd", "output")
        return Choice(type, reason, via, found, needs)


def _converted(tensor: TensorInfo, outtype: str) -> tuple[str, str]:
    """The converter's own choice: (type, reason)."""
    if tensor.force is not None:
        return tensor.force, "kept: by the architecture"
    if len(tensor.shape) < 2:
        return "F32", "kept: one dimension"
    if tensor.name.endswith("_norm.weight"):
        return "F32", "kept: norm"
    if _CONVERTER_F32.fullmatch(tensor.name):
        return "F32", "kept: F32 in every file"
    if not tensor.name.endswith((".weight", ".lora_a", ".lora_b")):
        return "F32", "kept: no weight"
    fitting = GGML_TYPES[outtype].fitting(tensor.shape[-1])
    if fitting != outtype:
        return fitting, _fallback(tensor, outtype, "base")
    return outtype, "base"


def _fallback(tensor: TensorInfo, wanted: str, reason: str) -> str:
    return f"fallback: {tensor.shape[-1]} not a multiple of {GGML_TYPES[wanted].block_elements} ({wanted} by {reason})"


def _kept(tensor: TensorInfo, architecture: str) -> str | None:
    """Why a tensor is never quantized, or None."""
    name = tensor.name
    for row in KEPT:
        if row.architectures and architecture not in row.architectures:
            continue
        if name in row.names or any(text in name for text in row.contains):
            return row.reason
    if _n_dims(tensor.shape) < 2:
        return "one dimension"
    if not name.endswith("weight"):
        return "no weight"
    return None


def _n_dims(shape: tuple[int, ...]) -> int:
    """Dimensions as ggml counts them: leading ones of the row-major shape are none."""
    leading = next((at for at, size in enumerate(shape) if size != 1), len(shape))
    return len(shape) - leading


def _exact(source_type: str) -> tuple[str, ...]:
    """The dense types that hold every value of a source type."""
    return _EXACT.get(source_type, (source_type,))


def _first(value: int | Sequence[int]) -> int:
    if isinstance(value, int):
        return value
    return next(iter(value), 0)


def unused_rules(chosen: Mapping[str, Choice], recipe: Recipe) -> list[str]:
    """Rules of the recipe that decided no tensor's type: likely mistakes."""
    return [
        rule.label
        for rule in recipe.rules
        if not any(re.search(rf"\brecipe: {re.escape(rule.label)}\b", choice.reason) for choice in chosen.values())
    ]


def _check_importance(chosen: Mapping[str, Choice], recipe: Recipe, covered: Collection[str]) -> None:
    weighted = [name for name in recipe.types if name in _ALWAYS_WEIGHTED]
    if recipe.target is not None and weighted and not covered:
        raise UsageError(
            "types of the target need an importance matrix",
            code="importance-missing",
            found=", ".join(weighted),
            hint="give one with --imatrix, or leave these types out",
            missing=[name for name, choice in chosen.items() if choice.candidates],
        )
    missing = [name for name, choice in chosen.items() if choice.needs_importance and name not in covered]
    if missing:
        raise UsageError(
            "types below three bits need an importance matrix",
            code="importance-missing",
            place=missing[0],
            found=f"{recipe.name}: {chosen[missing[0]].type}, {len(missing)} tensors without weights",
            hint="give one with --imatrix, or choose a larger type",
            missing=missing,
        )
