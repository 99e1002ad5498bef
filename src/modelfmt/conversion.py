"""Plans and converts: source and wishes in, a Plan or a Report out. The one orchestrator."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfmt import sources
from modelfmt.errors import DestinationExists, LossyError, UnsupportedError, UsageError
from modelfmt.executor import run
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Leaf
from modelfmt.kernels import can_decode, can_encode, check_rounding, kernel_types
from modelfmt.plans import Output, Plan, Sink, SourceFile, Stream
from modelfmt.report import Event, Report
from modelfmt.routes.draft import Draft, DraftTensor, Options

if TYPE_CHECKING:
    from modelfmt.quant.recipes import Recipe
    from modelfmt.sources import Source

    RecipeSource = str | os.PathLike[str] | Mapping[str, Any] | Recipe
    AdapterSource = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]

__all__ = ["convert", "parse_size", "plan"]

SCHEMES = ("mlx", "compressed-tensors", "gptq", "awq", "fp8", "bitsandbytes", "mxfp4")
"""Folders whose weights are quantized."""

ROUTES = {
    name: f"modelfmt.routes.{name}" for name in ("gguf", "huggingface", "onnx", "openvino", "safetensors", "pytorch")
}
ROUTES |= dict.fromkeys(("npz", "npy"), "modelfmt.routes.numpy_files")
ROUTES |= dict.fromkeys(SCHEMES, "modelfmt.routes.quantized")
"""Destination format -> the module that drafts it."""

SPECIAL_ROUTES = {
    ("peft", "gguf"): "modelfmt.routes.gguf_adapter",
    ("huggingface", "huggingface"): "modelfmt.routes.checkpoint",
    **dict.fromkeys((("pickle", "onnx"), ("joblib", "onnx"), ("skops", "onnx")), "modelfmt.routes.classical"),
}
"""(source format, destination format) that have a module of their own."""

AS_CHECKPOINT = {**dict.fromkeys(("gguf", "huggingface", *SCHEMES), True), "safetensors": False, "pytorch": False}
"""Destinations of an ONNX model that are no graph: by the names of a checkpoint's layers, or by those of the graph."""

DENSE = ("F32", "F16", "BF16")


def plan(
    source: Source | Model,
    dest: str | os.PathLike[str],
    *,
    to: str | None = None,
    quant: str | Sequence[str] | None = None,
    recipes: RecipeSource | Sequence[RecipeSource] | None = None,
    target_bpw: float | None = None,
    adapter: AdapterSource | Sequence[AdapterSource] | None = None,
    base: Source | Model | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    pure: bool = False,
    metadata: Mapping[str, Any] | None = None,
    pre: str | None = None,
    split_size: int | str | None = None,
    split_tensors: int | None = None,
    alignment: int | None = None,
    allow_requantize: bool = False,
    intermediate: str = "auto",
    rounding: str = "ggml",
    carry: bool = True,
    nextn: bool = True,
    transcode: str = "auto",
    external: str = "auto",
    profile: str = "auto",
    accuracy_level: int = 0,
    strict: bool = False,
    stats: bool = False,
) -> Plan:
    """Lay a conversion out without reading a weight (save for a target of bits per weight, which is met by measuring).

    source: file, folder, mapping of arrays or Model. dest: a file; a folder for several types, or a name with `{type}`
    in it. to: one of ROUTES; "huggingface" is a folder (default: from dest's name). quant: a file type
    such as "Q4_K_M", or several (default: from dest's name, else "auto": the source's own 16-bit type); of a scheme
    such as awq, a type of its own (docs/transcoding.md). recipes: users'
    own, one or several beside quant: a TOML or JSON file, a mapping with the same keys, or a `Recipe` (docs/recipes.md;
    the plan keeps their contents). target_bpw: bits per weight that the whole file may have at most; a sample of each
    tensor is measured to choose its type; for every one of `recipes`, or by itself. adapter: LoRA adapters to merge
    into the source, each a folder of PEFT or (folder, weight). base: the model that the source, an adapter, is for: it
    becomes a GGUF adapter (docs/lora.md). imatrix: importance matrix, .dat
    or GGUF. tensor_types: (regular expression, type) pairs, the first that matches a tensor's name wins. split_size:
    bytes, or text such as "2G". intermediate: the dense type that the values of a checkpoint pass through before they
    are quantized, as in llama.cpp's two steps (default: the source's 16-bit type, F16 for float32 sources; "F32":
    none). rounding: "ggml" (llama.cpp's bytes) or "best" (a search for less squared error in the same types; slower).
    carry: a GGUF file made from a checkpoint holds, in keys of its own, what makes the way back exact.
    nextn: with the layers that predict further tokens, where llama.cpp has a place for them (docs/architectures.md).
    transcode: what may become of quantized tensors where no type is asked for: "exact", "near:1e-3" (the smallest type
    within a bound), "any" (quantized again, with allow_requantize), "auto" (exact, else near); docs/transcoding.md.
    external: where an ONNX model's weights go: "auto" (inside, beside it from 2 GiB on), "always" or "never" beside it,
    or "safetensors": in the checkpoint's own files, in the same folder, which are not copied.
    profile: operators of an ONNX graph, "onnx-standard" (none of another domain), "ort" (ONNX Runtime's fused ones),
    "ort-genai" (the folder that onnxruntime-genai loads) or "auto" (MatMulNBits for quantized weights). accuracy_level:
    0, or 4: ONNX Runtime may round what it multiplies with quantized weights to 8 bits, which is faster.
    strict: any loss is an error. stats: the run also measures each tensor's error. Returns a Plan for `run`.
    Raises UsageError, UnsupportedError, CorruptFile, LossyError.
    """
    check_rounding(rounding)
    opened = model = sources.open(_absolute(source))
    base_model = None if base is None else sources.open(_absolute(base))
    try:
        merging = _adapters(adapter)
        if merging:
            model = _merged(model, merging)
        if base_model is not None and model.format != "peft":
            raise UsageError("a base is for a source that is an adapter", code="base-unused", found=model.format)
        target = _format_of(dest, model) if to is None else to
        if model.format == "onnx" and target in AS_CHECKPOINT:
            from modelfmt.routes import onnx_source

            model = onnx_source.checkpoint(model) if AS_CHECKPOINT[target] else onnx_source.meant(model)
        if target not in ROUTES:
            raise UsageError(
                "no such destination format", code="unknown-format", found=target, allowed=", ".join(ROUTES)
            )
        if target in SCHEMES:
            wanted = _of_scheme(quant, recipes, target_bpw)
        else:
            wanted = _wanted(quant, recipes, target_bpw, dest, target=target)
        if pure and any(recipe.target is not None for recipe in wanted):
            raise UsageError("pure and a target of bits per weight exclude each other", code="pure-target")
        pairs = tuple(tensor_types.items() if isinstance(tensor_types, Mapping) else tensor_types)
        options = Options(
            tensor_types=pairs,
            output_tensor_type=output_tensor_type,
            token_embedding_type=token_embedding_type,
            pure=pure,
            importance=_importance(imatrix, model),
            metadata=dict(metadata or {}),
            pre=pre,
            split_size=parse_size(split_size),
            split_tensors=split_tensors,
            alignment=alignment,
            allow_requantize=allow_requantize,
            intermediate=intermediate,
            rounding=rounding,
            carry=carry,
            nextn=nextn,
            base=base_model,
            transcode=transcode,
            target=target,
            external=external,
            profile=profile,
            accuracy_level=accuracy_level,
            folder=_named_folder(dest),
            home=os.fspath(Path(dest).absolute() if _named_folder(dest) else Path(dest).absolute().parent),
        )
        from importlib import import_module

        from modelfmt.quant.recipe_files import as_mapping

        drafts: list[Draft] = import_module(SPECIAL_ROUTES.get((model.format, target), ROUTES[target])).drafts(
            model, wanted, options
        )
        recipe: dict[str, Any] = {
            "to": target,
            "quant": [recipe.label for recipe in wanted],
            "recipes": [as_mapping(recipe) for recipe in wanted if recipe.own],
            "imatrix": None if imatrix is None else os.fspath(Path(imatrix).absolute()),
            "rounding": rounding,
            "source": model.path,
        }
        if merging:
            recipe["adapters"] = [[os.fspath(path), weight] for path, weight in merging]
        planned = _assemble(model, drafts, _paths(dest, drafts, target, model), recipe, stats)
    finally:
        if opened is not source:
            opened.close()
        if base_model is not None and base_model is not base:
            base_model.close()
    if strict and planned.losses:
        raise LossyError(
            "the conversion would lose something",
            found=f"{len(planned.losses)} losses, first: {planned.losses[0].subject}: {planned.losses[0].detail}",
            hint="drop strict, or choose a wider type",
        )
    return planned


def convert(
    source: Source | Model,
    dest: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
    on_event: Callable[[Event], None] | None = None,
    **options: Any,
) -> Report:
    """Convert source to dest in one pass; takes every keyword of `plan` as well.

    overwrite: replace dest where it exists. threads: kernels at work at once (default: all processors). memory: bytes
    in flight, or text such as "512M" (default 1 GiB). on_event: called with `modelfmt.report` events from worker
    threads. A killed run goes on when the same call is made again. Raises ModelfmtError; dest is the old file or the
    complete new one, always.
    """
    model = sources.open(_absolute(source))
    try:
        planned = plan(model, dest, **options)
        return run(
            planned, source=model, overwrite=overwrite, threads=threads, memory=parse_size(memory), on_event=on_event
        )
    finally:
        if model is not source:
            model.close()


def _adapters(found: AdapterSource | Sequence[AdapterSource] | None) -> list[tuple[Path, float]]:
    """(folder, weight) of each adapter."""
    if found is None:
        return []
    single = isinstance(found, str | os.PathLike) or (
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], int | float)
    )
    several: Sequence[Any] = [found] if single else found  # type: ignore[assignment]
    pairs = [one if isinstance(one, tuple) else (one, 1.0) for one in several]
    if not all(math.isfinite(weight) for _, weight in pairs):
        raise UsageError("the weight of an adapter is a finite number", code="adapter-weight", found=pairs)
    return [(Path(path).absolute(), float(weight)) for path, weight in pairs]


def _merged(model: Model, adapters: Sequence[tuple[Path, float]]) -> Model:
    """The model with adapters merged into it; their files are opened beside its own."""
    from modelfmt.checkpoints import merged, peft
    from modelfmt.tiles import Evaluator

    read = [(peft.read(os.fspath(path), model.files, Evaluator(model.files)), weight) for path, weight in adapters]
    return merged.merge(model, [(adapter.extras["peft"], weight) for adapter, weight in read])


def _absolute(source: Source | Model) -> Source | Model:
    """A plan may be run from another folder."""
    return source if isinstance(source, Mapping) else Path(source).absolute()


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(text: int | str | None) -> int | None:
    """Bytes from a number or text: K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024; a final B is ignored.

    >>> parse_size("1.5G"), parse_size("64MiB"), parse_size(10)
    (1500000000, 67108864, 10)
    """
    if text is None or isinstance(text, int):
        if text is not None and text <= 0:
            raise UsageError("a size must be positive", code="size", found=text)
        return text
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?|)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size <= 0:
        raise UsageError("not a size", code="size", found=text, allowed="a number with K, M, G, T, Ki, Mi, Gi or Ti")
    return size


def _format_of(dest: str | os.PathLike[str], model: Model) -> str:
    from modelfmt.formats import FORMATS

    suffix = Path(dest).suffix.lower()
    named_folder = not suffix or os.fspath(dest).endswith(os.sep) or Path(dest).is_dir()
    if named_folder and model.format in ("gguf", "huggingface"):
        return "huggingface"
    found = next((row.name for row in FORMATS.values() if suffix in row.suffixes and row.writes), None)
    if found is None:
        raise UsageError(
            "cannot tell the destination's format from its name",
            code="unknown-destination",
            found=os.fspath(dest),
            allowed=f"a name that ends in {', '.join(row.suffixes[0] for row in FORMATS.values() if row.writes)}; "
            "from GGUF and from a folder also a folder",
            hint="say --to gguf, --to safetensors or --to huggingface",
        )
    return found


def _wanted(
    quant: str | Sequence[str] | None,
    own: RecipeSource | Sequence[RecipeSource] | None,
    target_bpw: float | None,
    dest: str | os.PathLike[str],
    *,
    target: str,
) -> tuple[Recipe, ...]:
    """What is to be made: the file types first, then the users' recipes, then a target by itself.

    target: the destination's format. Where that holds dense types only, the name may be that of a quantized source.
    """
    from modelfmt.quant import integers
    from modelfmt.quant.recipes import AUTO, FILE_TYPES, Recipe, aim, as_recipe

    found = [_recipe(one) for one in _several(own)]
    if target_bpw is not None:
        found = [aim(target_bpw, recipe) for recipe in found] or [aim(target_bpw)]
    if quant is None and not found:
        words = re.split(r"[-.]", Path(dest).name.upper())
        known = FILE_TYPES if target in ("gguf", "pytorch", "safetensors") else DENSE
        quant = next((word for word in reversed(words) if word in known), AUTO)
    names = () if quant is None else (quant,) if isinstance(quant, str) else tuple(quant)
    whole = {name: integers.parse(name) for name in names} if target in ("onnx", "openvino") else {}
    named = (Recipe("", None, None, label=str(whole[name])) if whole.get(name) else as_recipe(name) for name in names)
    wanted = (*named, *found)
    labels = [recipe.label for recipe in wanted]
    if not wanted or len(set(labels)) != len(labels):
        raise UsageError(
            "name each type once",
            code="quant-twice",
            found=", ".join(labels),
            hint="recipes are told apart by their `name`, else that of their file",
        )
    return wanted


def _of_scheme(quant: str | Sequence[str] | None, own: Any, target_bpw: float | None) -> tuple[Recipe, ...]:
    """The types of a scheme's own that are named; "auto" where none is."""
    from modelfmt.quant.recipes import AUTO, Recipe

    if own is not None or target_bpw is not None:
        raise UsageError("recipes are for GGUF", code="quant-container", allowed="a type of the scheme")
    names = (AUTO,) if quant is None else (quant,) if isinstance(quant, str) else tuple(quant)
    return tuple(Recipe(name, None, None, label=name) for name in names)


def _several(own: RecipeSource | Sequence[RecipeSource] | None) -> Sequence[RecipeSource]:
    from modelfmt.quant.recipes import Recipe

    if own is None:
        return ()
    return (own,) if isinstance(own, str | os.PathLike | Mapping | Recipe) else own


def _recipe(source: RecipeSource) -> Recipe:
    from modelfmt.quant.recipe_files import from_mapping, read
    from modelfmt.quant.recipes import Recipe

    if isinstance(source, Recipe):
        return source
    return from_mapping(source) if isinstance(source, Mapping) else read(source)


def _paths(dest: str | os.PathLike[str], drafts: list[Draft], target: str, model: Model) -> list[Path]:
    """The destination of each draft, as an absolute path (for GGUF splits: of the unsplit name)."""
    from modelfmt.formats import FORMATS

    text = os.fspath(dest)
    source = Path(model.path)
    base = (source.stem if source.suffix in _suffixes() else source.name).strip("<>")
    if "{type}" in text:
        return [Path(text.replace("{type}", draft.quant)).absolute() for draft in drafts]
    if drafts[0].folder:
        folders = [Path(text)] if len(drafts) == 1 else [Path(text, f"{base}-{draft.quant}") for draft in drafts]
        return [_free_folder(folder.absolute(), draft) for folder, draft in zip(folders, drafts, strict=True)]
    suffixes = FORMATS[target].suffixes
    if text.endswith(suffixes) and not Path(text).is_dir():
        if len(drafts) > 1:
            raise UsageError(
                "several types need several destinations",
                code="one-destination",
                found=f"{text} for {', '.join(draft.quant for draft in drafts)}",
                hint="name a folder, or put {type} into the name",
            )
        return [Path(text).absolute()]
    if Path(text).suffix in _suffixes() and not Path(text).is_dir():
        raise UsageError(
            "the name is that of another format", code="name-format", found=text, allowed=f"{suffixes[0]}, or a folder"
        )
    return [Path(text, f"{base}-{draft.quant}{suffixes[0]}").absolute() for draft in drafts]


def _named_folder(dest: str | os.PathLike[str]) -> bool:
    return Path(dest).suffix.lower() not in _suffixes()


def _free_folder(folder: Path, draft: Draft) -> Path:
    """The folder, if no weights or tokenizer files lie in it that readers would take for the new ones'."""
    from modelfmt.checkpoints.huggingface import ASSETS

    if folder.suffix in _suffixes() and not folder.is_dir():
        raise UsageError("the name is that of a file", code="name-format", found=folder.name, allowed="a folder")
    patterns = ("*.safetensors", *(pattern for pattern in ASSETS if pattern.startswith(("*", "merges"))))
    held = {path.name for pattern in patterns for path in folder.glob(pattern) if not path.name.endswith(".md")}
    others = sorted(held - {layout.name for layout in draft.build("model")}) if held else []
    if others:
        raise DestinationExists(
            "the folder holds files of another model",
            path=folder,
            found=", ".join(others[:5]),
            hint="name another folder",
        )
    return folder


def _suffixes() -> set[str]:
    from modelfmt.formats import FORMATS

    return {suffix for row in FORMATS.values() for suffix in row.suffixes}


def _assemble(model: Model, drafts: list[Draft], paths: list[Path], recipe: dict[str, Any], stats: bool) -> Plan:
    outputs: list[Output] = []
    sinks: dict[int, list[Sink]] = {}
    exprs: dict[int, Expression] = {}
    for draft, path in zip(drafts, paths, strict=True):
        for layout in draft.build(path.stem):
            folder = path if draft.folder else path.parent
            place = folder / layout.name if layout.name else path
            for tensor in layout.tensors:
                wanted = draft.tensors[tensor.name]
                _check_kernels(tensor.name, wanted)
                exprs[id(wanted.expr)] = wanted.expr
                sink = Sink(
                    len(outputs),
                    tensor.name,
                    wanted.encoding,
                    tensor.offset,
                    wanted.via,
                    wanted.importance,
                    wanted.reason,
                    _rounding(wanted, recipe["rounding"]),
                    wanted.moved,
                    wanted.bound,
                )
                sinks.setdefault(id(wanted.expr), []).append(sink)
            outputs.append(
                Output(_utf8(str(place)), layout.size, layout.header, layout.tensors, layout.patches, layout.checksums)
            )
    streams = [Stream(exprs[key], tuple(found)) for key, found in sinks.items()]
    streams.sort(key=lambda stream: _first_place(stream.expr))
    used = sorted({_utf8(leaf.file) for stream in streams for leaf in _leaves(stream.expr)})
    used += [] if recipe["imatrix"] is None else [_utf8(recipe["imatrix"])]
    prints = {path: model.files.fingerprint(path) for path in used}
    return Plan(
        recipe=recipe,
        sources=tuple(SourceFile(path, found.size, found.mtime_ns, found.inode) for path, found in prints.items()),
        outputs=tuple(outputs),
        streams=tuple(streams),
        losses=tuple(loss for draft in drafts for loss in draft.losses),
        notes=tuple(dict.fromkeys(note for draft in drafts for note in draft.notes)),
        importance=recipe["imatrix"],
        stats=stats,
    )


def _rounding(wanted: DraftTensor, asked: str) -> str:
    """What is asked for, where blocks are made of a type that has a choice."""
    row = kernel_types().get(wanted.encoding)
    return asked if row is not None and row.can_refine and wanted.expr.stored.name != wanted.encoding else "ggml"


def _check_kernels(name: str, wanted: DraftTensor) -> None:
    """Raise UnsupportedError before anything is read where rows cannot be turned into the encoding that was chosen."""
    source, target = wanted.expr.stored, wanted.encoding
    if source.name == target:
        return
    missing = [] if can_encode(target) else [target]
    decoded = can_decode(source.name) or (source.dense and source.numpy) or source.name.startswith("GRID:")
    missing += [] if decoded else [source.name]
    if missing:
        raise UnsupportedError(
            "there is no kernel for this type",
            code="no-kernel",
            place=name,
            found=f"{source.name} to {target}",
            missing=missing,
        )


def _utf8(path: str) -> str:
    """The path, if a plan can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "the path is not UTF-8", code="path-encoding", found=ascii(path), hint="rename the folder"
        ) from None
    return path


def _leaves(expr: Expression) -> list[Leaf]:
    if isinstance(expr, Leaf):
        return [expr]
    return [leaf for part in expr.inputs for leaf in _leaves(part)]


def _first_place(expr: Expression) -> tuple[str, int]:
    leaves = _leaves(expr)
    return (leaves[0].file, leaves[0].offset) if leaves else ("", 0)


def _importance(path: str | os.PathLike[str] | None, model: Model) -> Any:
    if path is None:
        return None
    from modelfmt.checkpoints.importance import read

    return read(os.fspath(path), model.files)
