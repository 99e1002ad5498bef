"""Any model to GGUF: architecture table, general metadata, tokenizer, mixture of types, layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from modelfmt.errors import BadValue, LossyError, UnsupportedError, UsageError
from modelfmt.formats import gguf
from modelfmt.ir.encoding import ENCODINGS, Encoding
from modelfmt.ir.layout import Entry, FileLayout
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Reader, Reshape
from modelfmt.kernels import kernel_types
from modelfmt.quant import coverage, mixture, recipes, target, transcode
from modelfmt.report import Loss, Note
from modelfmt.routes.draft import Draft, DraftTensor, Options, narrowing, stored_tensors
from modelfmt.storage import strict_json
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    from modelfmt.archs.bind import Bound
    from modelfmt.archs.table import Architecture
    from modelfmt.quant.imatrix import Importance

__all__ = ["drafts", "quantizable"]

Metadata = list[tuple[str, str, Any]]


class _Content(msgspec.Struct):
    """What goes into the file, before a type is chosen. keep: the type a tensor has whatever was asked for. merged:
    the types of tensors before an adapter was merged into them, where they were quantized."""

    tensors: dict[str, Expression]
    metadata: Metadata
    context: mixture.MixtureContext
    from_checkpoint: bool
    keep: dict[str, str] = msgspec.field(default_factory=dict)
    losses: list[Loss] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)
    merged: Mapping[str, str] = msgspec.field(default_factory=dict)

    def present(self, name: str) -> str:
        """The type that a tensor has; where an adapter changes it, that it had."""
        return self.merged.get(name) or self.tensors[name].stored.name


def drafts(model: Model, wanted: Sequence[recipes.Recipe], options: Options) -> list[Draft]:
    """One draft for each recipe ("auto": the source's own types).

    Raises UnsupportedError (architecture, tensors, tokenizer), LossyError (requantization that was not allowed),
    UsageError (an importance matrix that is missing or of another model, a target that cannot be reached).
    """
    free = options.importance is None and all(recipe.label == recipes.AUTO for recipe in wanted)
    content = _from_gguf(model) if model.format == "gguf" else _from_checkpoint(model, options, fold=free)
    shapes = {name: expr.shape for name, expr in content.tensors.items()}
    covered = frozenset() if options.importance is None else options.importance.usable(shapes)
    if options.importance is not None:
        content.notes += _notes(coverage.examine(options.importance, shapes, strict=True))
    measurer = target.Measurer(Evaluator(model.files), options.importance, covered, options.rounding)
    return [_draft(model, content, recipe, options, measurer) for recipe in wanted]


def quantizable(model: Model) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """(shape of every tensor that a conversion of this model to GGUF gives, names of those that can be quantized).

    Raises UnsupportedError (architecture, tensors).
    """
    if model.format == "gguf":
        content = _from_gguf(model)
        infos, context = _infos(content), content.context
    else:
        arch, bound = _bound(model)
        infos = [
            mixture.TensorInfo(tensor.name, tensor.expr.shape, tensor.expr.stored.name, force=tensor.keep)
            for tensor in bound.tensors
        ]
        context = mixture.MixtureContext(arch.gguf, 0)
    shapes = {info.name: info.shape for info in infos}
    return shapes, frozenset(info.name for info in infos if mixture.quantizable(info, context))


def _infos(content: _Content) -> list[mixture.TensorInfo]:
    return [
        mixture.TensorInfo(name, expr.shape, content.present(name), force=content.keep.get(name))
        for name, expr in content.tensors.items()
    ]


def _draft(
    model: Model, content: _Content, recipe: recipes.Recipe, options: Options, measurer: target.Measurer
) -> Draft:
    infos, label = _infos(content), recipe.label
    overrides = mixture.Overrides(
        tensor_types=options.tensor_types,
        output_tensor_type=options.output_tensor_type,
        token_embedding_type=options.token_embedding_type,
        pure=options.pure,
    )
    losses, notes = list(content.losses), list(content.notes)
    intermediate = options.intermediate if content.from_checkpoint else None
    chosen = mixture.assign(
        infos,
        recipe,
        hparams=content.context,
        importance=None if options.importance is None else measurer.covered,
        overrides=overrides,
        intermediate=intermediate,
    )
    notes += [Note(f"{label}, {rule}", "this rule decides no tensor") for rule in mixture.unused_rules(chosen, recipe)]
    if intermediate is not None:
        recipe = mixture.resolve(recipe, infos, intermediate)[0]
    if recipe.target is not None:
        chosen, reached = target.meet(chosen, content.tensors, recipe.target, measurer)
        notes.append(Note(label, f"{reached:.4f} bits per weight, of at most {recipe.target:g}"))
        recipe = target.numbered(recipe, chosen, content.tensors)
    tensors: dict[str, DraftTensor] = {}
    moves = _moves(content, chosen, label, options, measurer.reader)
    if moves and label in ("", recipes.AUTO):
        recipe = _mostly(recipe, moves)
    scales: dict[str, DraftTensor] = {}
    for name, choice in chosen.items():
        expr = content.tensors[name]
        if name in moves:
            tensors[name], scale, found = _moved(name, moves[name], options)
            scales |= scale
            losses += found
            continue
        importance = name if name in measurer.covered and not ENCODINGS[choice.type].dense else None
        tensors[name] = DraftTensor(expr, choice.type, choice.via, importance, choice.reason)
        present = content.present(name)
        losses += _loss(name, ENCODINGS[present], choice, options)
        if choice.type == present != expr.stored.name:
            if kernel_types()[present].needs_importance and importance is None:
                raise UsageError(
                    "this type can only be quantized again with an importance matrix",
                    code="importance-missing",
                    place=name,
                    found=present,
                    hint="give --imatrix",
                )
            losses.append(Loss("requantized", name, f"{choice.type} to {choice.type}, with the adapter added"))
        if choice.reason.startswith("fallback"):
            notes.append(Note(name, choice.reason))
    tensors |= scales
    notes += [Note(pattern, "this pattern matches no tensor") for pattern in overrides.unmatched(content.tensors)]
    notes += _uncovered(tensors, options.importance)
    metadata = _completed(content, recipe, options)
    entries = [Entry(name, draft.encoding, draft.expr.shape) for name, draft in tensors.items()]
    alignment = options.alignment or (model.extras["gguf"]["alignment"] if model.format == "gguf" else 32)

    def build(stem: str) -> list[FileLayout]:
        return gguf.layout(
            entries,
            metadata=metadata,
            alignment=alignment,
            split_size=options.split_size,
            split_tensors=options.split_tensors,
            stem=stem,
        )

    return Draft(recipe.name if label in ("", recipes.AUTO) else label, tensors, build, losses, notes)


def _moves(
    content: _Content,
    chosen: Mapping[str, mixture.Choice],
    label: str,
    options: Options,
    reader: Reader,
) -> dict[str, transcode.Move]:
    """What becomes of tensors whose codes can be moved: the smallest type that the policy allows where none is asked
    for, else the one that is, if it takes them."""
    wanted = transcode.policy(options.transcode)
    free = label in ("", recipes.AUTO)
    moves = {}
    for name, choice in chosen.items():
        expr = content.tensors[name]
        if not transcode.is_grid(expr):
            continue
        with BadValue.of(name):
            if free and "override" not in choice.reason:
                moves[name] = transcode.choose(expr, wanted, reader, name=name)
                continue
            verdict = transcode.can_encode(expr, choice.type, reader, at_most=wanted.bound)
        if wanted.takes(verdict) or ENCODINGS[choice.type].dense:
            moves[name] = transcode.Move(choice.type, verdict, expr)
    return moves


def _moved(name: str, move: transcode.Move, options: Options) -> tuple[DraftTensor, dict[str, DraftTensor], list[Loss]]:
    """The tensor, the scale of the whole where it has one, and what that loses."""
    verdict, source = move.verdict, transcode.label(move.expr)
    if verdict.kind == "requantize" and not options.allow_requantize and not ENCODINGS[move.encoding].dense:
        raise _requantized(name, source, move.encoding)
    losses = {"near": "approximated", "requantize": "requantized"}.get(verdict.kind)
    bound = "" if not verdict.bound else f", within {verdict.bound:.1e} of the group's largest"
    found = [] if losses is None else [Loss(losses, name, f"{source} to {move.encoding}{bound}")]
    moved = "" if verdict.kind == "requantize" else verdict.kind
    draft = DraftTensor(move.expr, move.encoding, reason=f"transcoded: {verdict}", moved=moved, bound=verdict.bound)
    if move.scale is None:
        return draft, {}, found
    whole = f"{name.removesuffix('.weight')}.scale"
    return draft, {whole: DraftTensor(Reshape(move.scale, (1,)), "F32", reason="scale of the whole tensor")}, found


def _mostly(recipe: recipes.Recipe, moves: Mapping[str, transcode.Move]) -> recipes.Recipe:
    """The recipe with the number of the file type that most bytes are of."""
    sizes: dict[str, int] = {}
    for move in moves.values():
        size = prod(move.expr.shape) * ENCODINGS[move.encoding].block_bytes // ENCODINGS[move.encoding].block_elements
        sizes[move.encoding] = sizes.get(move.encoding, 0) + size
    most = max(sizes, key=lambda encoding: sizes[encoding])
    return replace(recipe, number=recipes.file_type_of(most))


def _uncovered(tensors: Mapping[str, DraftTensor], importance: Importance | None) -> list[Note]:
    """Tensors that are quantized without the importance weights that the others have."""
    if importance is None:
        return []
    names = [
        name
        for name, draft in tensors.items()
        if not ENCODINGS[draft.encoding].dense and draft.encoding != draft.expr.stored.name
    ]
    return _notes(coverage.missing(importance, names))


def _notes(findings: Sequence[coverage.Finding]) -> list[Note]:
    return [Note(finding.name, f"importance matrix: {finding.detail}") for finding in findings]


def _loss(name: str, source: Encoding, choice: mixture.Choice, options: Options) -> list[Loss]:
    target = ENCODINGS[choice.type]
    if source.name == target.name:
        return []
    if not source.dense and not target.dense and not options.allow_requantize:
        raise _requantized(name, source.name, target.name)
    if target.dense:
        return narrowing(name, source.name, target.name)
    via = f" through {choice.via}" if choice.via and choice.via != source.name else ""
    return [Loss("quantized" if source.dense else "requantized", name, f"{source.name} to {target.name}{via}")]


def _requantized(name: str, source: str, target: str) -> LossyError:
    return LossyError(
        "the source is quantized already, and quantizing it again loses more",
        code="requantize",
        place=name,
        found=f"{source} to {target}",
        hint="convert from the original weights, or add --allow-requantize (allow_requantize=True)",
    )


def _completed(content: _Content, recipe: recipes.Recipe, options: Options) -> Metadata:
    """The metadata with what the choice of types adds, and what the caller wants otherwise (None removes a key)."""
    added = recipes.output_metadata(recipe) if content.from_checkpoint or recipe.base is not None else []
    if options.importance is not None:
        added += options.importance.metadata()
    found: dict[str, tuple[str, Any]] = {key: (kind, value) for key, kind, value in content.metadata}
    found |= {key: (kind, value) for key, kind, value in added}
    for key, value in options.metadata.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = (found[key][0] if key in found else _kind(key, value), value)
    return [(key, kind, value) for key, (kind, value) in found.items()]


_KINDS = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}


def _kind(key: str, value: Any) -> str:
    kind = _KINDS.get(type(value))
    if kind is None:
        raise UsageError(
            "metadata of this kind cannot be added",
            code="metadata-kind",
            place=key,
            found=type(value).__name__,
            allowed="text, a number, true or false",
        )
    return kind


def _bound(model: Model, *, fold: bool = False, drafts: bool = True) -> tuple[Architecture, Bound]:
    """The architecture's table, and the checkpoint's tensors and metadata by it. fold: act-order, where it can be."""
    from modelfmt import archs
    from modelfmt.archs import bind
    from modelfmt.checkpoints import act_order, huggingface, modules

    if not model.config:
        raise UnsupportedError(
            "there is no config.json beside these tensors",
            code="no-config",
            path=model.path,
            hint="open the checkpoint's folder; or put the config.json of the original beside them",
        )
    model_type = huggingface.model_type(model.config)
    arch = archs.find(hf_class=model.architecture, model_type=model_type, config=model.config)
    arch = arch if drafts else replace(arch, nextn=None)
    exprs = {name: tensor.expr for name, tensor in stored_tensors(model, as_stored=False).items()}
    exprs, notes = act_order.folded(exprs) if fold else (exprs, [])
    if arch.dense:
        exprs |= modules.tensors(model)
    reader = Evaluator(model.files)
    bound = bind.to_gguf(
        arch,
        tensors=exprs,
        config=model.config,
        assets=model.assets,
        value=lambda expr: _numbers(reader, expr),
    )
    bound.notes.extend(notes)
    return bound.architecture, bound


def _numbers(reader: Evaluator, expr: Expression) -> list[float]:
    """The values of a small tensor of one row, whole numbers as such."""
    if expr.stored.dense and expr.stored.element.kind == "int":
        return [*map(int, reader.rows(expr, 0, 1).reshape(-1).view(expr.stored.numpy))]
    return [*map(float, reader.values(expr, 0, 1).reshape(-1))]


def _from_checkpoint(model: Model, options: Options, *, fold: bool) -> _Content:
    from modelfmt import tokenizers
    from modelfmt.archs.values import language
    from modelfmt.checkpoints import carried, general, model_card

    arch, bound = _bound(model, fold=fold, drafts=options.nextn)
    shapes = {tensor.name: tensor.expr.shape for tensor in bound.tensors}
    vocab_size = shapes["token_embd.weight"][0] if "token_embd.weight" in shapes else None
    inner = language(model.config)
    config = {**model.config, "text_config": inner} if inner else model.config
    tokenizer = tokenizers.read(
        model.assets, config=config, architecture_hint=arch.gguf, pre=options.pre, vocab_size=vocab_size
    )
    notes: list[Note] = [Note("checkpoint", str(note)) for note in model.extras.get("notes", ())]
    losses = [note for note in bound.notes if isinstance(note, Loss)]
    notes += [note for note in bound.notes if isinstance(note, Note)]
    if tokenizer is None:
        notes.append(Note("tokenizer", "the checkpoint has no tokenizer files; the GGUF holds none"))
    else:
        losses += [Loss("approximated", "tokenizer", note.message) for note in tokenizer.notes if note.lossy]
        notes += [Note("tokenizer", note.message) for note in tokenizer.notes if not note.lossy]
    card = model_card.parse(model.assets["README.md"]) if "README.md" in model.assets else model_card.ModelCard()
    notes += card.notes
    facts = general.metadata(
        folder_name=Path(model.path).resolve().name,
        config=model.config,
        card=card,
        generation_config=_generation_config(model),
        n_params=general.count_parameters(shapes.items()),
        notes=notes,
    )
    words = [] if tokenizer is None else tokenizers.gguf_metadata(tokenizer)
    metadata = [("general.architecture", "STRING", arch.gguf), *facts, *bound.metadata, *words]
    scheme = model.extras.get("quantization", {})
    notes += scheme.get("notes", [])
    if scheme:
        notes.append(Note("checkpoint", "quantized: the file does not carry what makes the way back exact"))
    elif options.carry:
        further, more = carried.entries(model, bound, metadata)
        metadata += further
        notes += more
    return _Content(
        tensors={tensor.name: tensor.expr for tensor in bound.tensors},
        metadata=metadata,
        context=mixture.MixtureContext.from_metadata({key: value for key, _, value in metadata}),
        from_checkpoint=True,
        keep={tensor.name: tensor.keep for tensor in bound.tensors if tensor.keep},
        losses=losses,
        notes=notes,
    )


def _from_gguf(model: Model) -> _Content:
    types: Mapping[str, str] = model.extras["gguf"]["types"]
    return _Content(
        tensors={name: tensor.expr for name, tensor in model.tensors.items()},
        metadata=[(key, types[key], value) for key, value in model.metadata.items() if key != "general.alignment"],
        context=mixture.MixtureContext.from_metadata(model.metadata),
        from_checkpoint=False,
        notes=[Note("adapter", str(note)) for note in model.extras.get("notes", ())],
        merged=model.extras.get("merged", {}),
    )


def _generation_config(model: Model) -> Mapping[str, Any] | None:
    if "generation_config.json" not in model.assets:
        return None
    found = strict_json.parse(model.assets["generation_config.json"], path="generation_config.json")
    return found if isinstance(found, dict) else None
