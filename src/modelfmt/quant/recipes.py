"""File types by name (Q4_K_M, F16 ...), and what recipes are made of; modelfmt.quant.recipe_files reads users' own.

A file type is a base tensor type and, for most, a mixture of types around it (modelfmt.quant.mixture). Source: enum
llama_ftype of llama.h, llama_ftype_get_default_type of llama-quant.cpp, QUANT_OPTIONS of tools/quantize.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

import msgspec
from msgspec.structs import replace

from modelfmt.errors import UsageError

__all__ = [
    "ALIASES",
    "AUTO",
    "FILE_TYPES",
    "TARGET_TYPES",
    "FileType",
    "Recipe",
    "RecipeRule",
    "aim",
    "as_recipe",
    "file_type",
    "file_type_of",
    "layer_number",
    "output_metadata",
    "tensor_order",
]

AUTO = "auto"
"""The source's own 16-bit type for a checkpoint, every tensor as it is for a GGUF file."""

TARGET_TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""What a target of bits per weight is met with unless the recipe says: types that are quick everywhere and need no
importance matrix."""

QUANTIZATION_VERSION = 2
MAX_BITS = 64.0


class FileType(msgspec.Struct, frozen=True):
    """A value of general.file_type.

    number: as it stands there. base: the tensor type it is built round. needs_importance: some of its tensors are not
    made without an importance matrix.
    """

    name: str
    number: int
    base: str
    needs_importance: bool = False


# fmt: off
FILE_TYPES: dict[str, FileType] = {
    row.name: row
    for row in (
        FileType("F32", 0, "F32"),                    FileType("F16", 1, "F16"),
        FileType("BF16", 32, "BF16"),                 FileType("Q8_0", 7, "Q8_0"),
        FileType("Q6_K", 18, "Q6_K"),                 FileType("Q5_K_M", 17, "Q5_K"),
        FileType("Q5_K_S", 16, "Q5_K"),               FileType("Q5_1", 9, "Q5_1"),
        FileType("Q5_0", 8, "Q5_0"),                  FileType("Q4_K_M", 15, "Q4_K"),
        FileType("Q4_K_S", 14, "Q4_K"),               FileType("Q4_1", 3, "Q4_1"),
        FileType("Q4_0", 2, "Q4_0"),                  FileType("IQ4_NL", 25, "IQ4_NL"),
        FileType("IQ4_XS", 30, "IQ4_XS"),             FileType("MXFP4_MOE", 38, "MXFP4"),
        FileType("Q3_K_L", 13, "Q3_K"),               FileType("Q3_K_M", 12, "Q3_K"),
        FileType("Q3_K_S", 11, "Q3_K"),               FileType("IQ3_M", 27, "IQ3_S"),
        FileType("IQ3_S", 26, "IQ3_S"),               FileType("IQ3_XS", 22, "IQ3_S", True),
        FileType("IQ3_XXS", 23, "IQ3_XXS", True),     FileType("Q2_K", 10, "Q2_K"),
        FileType("Q2_K_S", 21, "Q2_K", True),         FileType("IQ2_M", 29, "IQ2_S", True),
        FileType("IQ2_S", 28, "IQ2_XS", True),        FileType("IQ2_XS", 20, "IQ2_XS", True),
        FileType("IQ2_XXS", 19, "IQ2_XXS", True),     FileType("Q2_0", 41, "Q2_0"),
        FileType("TQ2_0", 37, "TQ2_0"),               FileType("TQ1_0", 36, "TQ1_0"),
        FileType("IQ1_M", 31, "IQ1_M", True),         FileType("IQ1_S", 24, "IQ1_S", True),
        FileType("Q1_0", 40, "Q1_0"),
    )
}
"""Every file type that llama-quantize makes, largest first."""
# fmt: on
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def file_type(name: str) -> FileType:
    """The file type called `name`, in any case. Raises UsageError (unknown-file-type) with the closest names.

    >>> file_type("q4_k").name, file_type("Q4_K_M").number
    ('Q4_K_M', 15)
    """
    upper = name.strip().upper()
    found = FILE_TYPES.get(ALIASES.get(upper, upper))
    if found is not None:
        return found
    close = get_close_matches(upper, [*FILE_TYPES, *ALIASES], n=3)
    raise UsageError(
        "no such file type",
        code="unknown-file-type",
        found=name,
        allowed=", ".join([AUTO, *FILE_TYPES]),
        hint=f"did you mean {' or '.join(close)}?" if close else None,
    )


class RecipeRule(msgspec.Struct, frozen=True):
    """Tensors that meet every condition get `type`.

    tensors: a pattern, searched in the name without regard to case. roles: see mixture.role. layers: (first, last)
    ranges, both ends in; negative ones count from the last layer.
    """

    type: str
    tensors: str = ""
    roles: frozenset[str] = frozenset()
    layers: tuple[tuple[int, int], ...] = ()
    label: str = ""

    def matches(self, name: str, role: str, layer: int | None, n_layer: int) -> bool:
        """True where the tensor meets every condition. layer: its number, None outside the layers."""
        if self.tensors and not re.search(self.tensors, name, re.IGNORECASE):
            return False
        if self.roles and role not in self.roles:
            return False
        if not self.layers:
            return True
        if layer is None:
            return False
        ends = [tuple(end + n_layer if end < 0 else end for end in span) for span in self.layers]
        return any(first <= layer <= last for first, last in ends)


class Recipe(msgspec.Struct, frozen=True):
    """A file type, and rules that come before its own.

    name: the file type's, empty where there is none. base: its tensor type; None, without a target, keeps every tensor
    as it is. number: general.file_type. mixture: whether llama.cpp's rules hold for what the recipe's own do not name.
    label: what the recipe is called, in names of files. target: bits per weight of the whole model, which types of
    `types` are chosen to meet (modelfmt.quant.target).
    """

    name: str
    base: str | None
    number: int | None
    rules: tuple[RecipeRule, ...] = ()
    mixture: bool = True
    label: str = ""
    target: float | None = None
    types: tuple[str, ...] = ()

    @property
    def keeps_types(self) -> bool:
        """True where what no rule names stays in the type that it has."""
        return self.base is None and self.target is None

    @property
    def own(self) -> bool:
        """True for a recipe that is more than a file type."""
        return bool(self.rules) or self.target is not None or not self.mixture


def as_recipe(file_type_or_recipe: str | Recipe) -> Recipe:
    """The recipe itself, or that of a file type by name; "auto" is one without a base. Raises UsageError."""
    if isinstance(file_type_or_recipe, Recipe):
        return file_type_or_recipe
    if file_type_or_recipe.strip().lower() == AUTO:
        return Recipe(AUTO, None, None, label=AUTO)
    row = file_type(file_type_or_recipe)
    return Recipe(row.name, row.base, row.number, label=row.name)


def aim(target: float, recipe: Recipe | None = None) -> Recipe:
    """The recipe with a target of bits per weight; without one, a recipe that is nothing else.

    Raises UsageError (target-bpw) where the target is no number of bits, or the recipe has no room for it.

    >>> aim(4.5).label, aim(4.5).types[:2]
    ('4.5bpw', ('Q2_K', 'Q3_K'))
    """
    if not 0 < target <= MAX_BITS:
        raise UsageError(
            "not a number of bits per weight", code="target-bpw", found=target, allowed=f"above 0, at most {MAX_BITS:g}"
        )
    if recipe is None:
        return Recipe("", None, None, label=f"{target:g}bpw", target=target, types=TARGET_TYPES)
    return replace(recipe, target=target, types=recipe.types or TARGET_TYPES)


_LAYER = re.compile(r"blk\.\s*([+-]?\d+)")


def layer_number(name: str) -> int | None:
    """The number after `blk.` at the start of a tensor name.

    >>> layer_number("blk.12.attn_q.weight"), layer_number("output.weight")
    (12, None)
    """
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def tensor_order(name: str) -> tuple[int, bytes]:
    """Sort key for the order in which llama-quantize writes tensors: by layer, those outside first, then by name.

    >>> sorted(["blk.10.a", "output.weight", "blk.9.b", "blk.9.a"], key=tensor_order)
    ['output.weight', 'blk.9.a', 'blk.9.b', 'blk.10.a']
    """
    number = layer_number(name)
    return (-1 if number is None else number, name.encode("utf-8", "surrogatepass"))


def file_type_of(tensor_type: str) -> int | None:
    """The general.file_type of a file that is mostly of a tensor type, as llama.cpp guesses it; None where there is
    none.

    >>> file_type_of("Q4_K"), file_type_of("NVFP4")
    (15, None)
    """
    row = FILE_TYPES.get(ALIASES.get(tensor_type, tensor_type)) or FILE_TYPES.get(f"{tensor_type}_MOE")
    return None if row is None else row.number


def output_metadata(recipe: Recipe) -> list[tuple[str, str, int]]:
    """(key, GGUF value type, value) of what llama-quantize writes about the type; the importance matrix's keys follow.

    >>> output_metadata(as_recipe("Q4_K_M"))
    [('general.quantization_version', 'UINT32', 2), ('general.file_type', 'UINT32', 15)]
    """
    number = [] if recipe.number is None else [("general.file_type", "UINT32", recipe.number)]
    return [("general.quantization_version", "UINT32", QUANTIZATION_VERSION), *number]
