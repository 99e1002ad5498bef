"""An ONNX model as a checkpoint: its weights by the names of the layers, quantized matrices as the codes that they are.

A layer's name is that of its constant, as modelfmt, optimum and onnxruntime-genai's builder write it, else that of its
node, as torch exports it (`/model/layers.0/mlp/up_proj/MatMul`). Matrices that MatMul multiplies are [in, out], those
of layers [out, in]: MatMulNBits has the latter, so that codes stay. config.json, that of the original checkpoint, and
the tokenizer's files are those beside the model. What the graph holds otherwise than the checkpoint (one added to a
norm) is put back. Not here: a configuration made from a graph; matrices of DequantizeLinear that are [in, out] keep
values, no codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelfmt.checkpoints import huggingface
from modelfmt.checkpoints.onnx_blocks import matrices
from modelfmt.errors import CorruptFile, ModelfmtError, UnsupportedError
from modelfmt.ir.graph import Graph, Node
from modelfmt.ir.model import Model
from modelfmt.ir.ops import AddConstant, Expression, Reshape, Slice, Transpose
from modelfmt.ir.tensor import Tensor
from modelfmt.tiles import Evaluator
from modelfmt.tokenizers.rebuild import pretty

__all__ = ["checkpoint", "meant"]

_MODELFMT, _GENAI = "modelfmt", "onnxruntime-genai"
_UNNAMED = re.compile(r"onnx::|val_|/")
_OPERATION = re.compile(r"[./](MatMul|Gemm|Add)(_Q[248]|_token_\d+|_\d+)*(?=$|\.weight$|\.bias$)")
_CACHES = ("cos_cache", "sin_cache")
_BUILDER = (
    (re.compile(r"\.attn\."), ".self_attn."),
    (re.compile(r"\.([qk]_norm)\.layernorm\."), r".\1."),
    (re.compile(r"^model\.layers\.\d+\.final_norm_layernorm\."), "model.norm."),
)
"""What onnxruntime-genai's builder calls otherwise than transformers. Source: its models/builders/base.py, 0.18."""

_FUSED = ".self_attn.qkv_proj."
_FUSED_ALREADY = {"phi3", "phi4mm", "phimoe"}
_EXPERT = ".experts.0."
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_NO_SHARDS: Mapping[str, Any] = {"shards": [], "index": {}, "modules": []}


def meant(model: Model) -> Model:
    """The model with each quantized matrix as one tensor, by its name in the graph; `stored` keeps them apart."""
    reader = Evaluator(model.files)
    assert model.program is not None
    refused: list[UnsupportedError] = []
    found = matrices(model.program, model.path, refused)
    gone = {part for one in found.values() for part in one.parts}
    tensors = {name: tensor for name, tensor in model.tensors.items() if name not in gone}
    tensors |= {name: Tensor(name, one.expr, reader) for name, one in found.items()}
    own = {"method": "onnx", "notes": [], "stored": model.tensors}
    extras = {**model.extras, "notes": [*model.extras.get("notes", ()), *map(str, refused)], "quantization": own}
    return Model("onnx", model.path, tensors, metadata=model.metadata, extras=extras, files=model.files)


def checkpoint(model: Model) -> Model:
    """The checkpoint that a graph was made from, as far as it is in it and beside it.

    Raises UnsupportedError (onnx-names: weights that the configuration's architecture has otherwise; quant-config: a
    quantized matrix that is not read), CorruptFile (onnx-fused: rows that are not those of the configuration's heads).
    """
    assert model.program is not None
    config, assets = huggingface.beside(model.path, model.files, without=("genai_config.json",))
    producer = model.program.producer or ""
    tensors = dict(_layers(model))
    if producer == _GENAI:
        tensors = _as_transformers(tensors, config)
    tensors = dict(_experts(tensors))
    if _HEAD in tensors and _EMBEDDING not in tensors:  # a table that is turned for looking up
        tensors = {_EMBEDDING if name == _HEAD else name: expr for name, expr in tensors.items()}
    elif config and _HEAD in tensors and config.get("tie_word_embeddings") is not False:  # one of them is quantized
        config = {**config, "tie_word_embeddings": False}
        assets = {**assets, "config.json": pretty(config)}
    notes = list(model.extras.get("notes", ()))
    if not config:
        notes.append("no config.json lies beside the graph: names are those of its layers")
    elif producer in (_MODELFMT, _GENAI):
        tensors, more = _put_back(model.path, tensors, config, assets)
        notes += more
    reader = Evaluator(model.files)
    return Model(
        "huggingface",
        model.path,
        {name: Tensor(name, expr, reader) for name, expr in tensors.items()},
        architecture=huggingface.architecture(config),
        config=config,
        assets=assets,
        extras={"huggingface": _NO_SHARDS, "notes": notes, "quantization": {"method": "onnx", "notes": []}},
        files=model.files,
    )


def _layers(model: Model) -> Iterator[tuple[str, Expression]]:
    """Name and weight of every layer."""
    program = model.program
    assert program is not None
    found = matrices(program, model.path)
    parts = {part for one in found.values() for part in one.parts}
    for name, one in found.items():
        yield _named(name, one.node, "weight"), one.linear
    uses = _uses(program.graph)
    for name, tensor in program.graph.tensors.items():
        if tensor.data is None or name in parts or name in _CACHES or not tensor.type.endswith(("FLOAT", "FLOAT16")):
            continue
        used = uses.get(name, [])
        own = _named(name, used[0][0].name or "" if used else "", "bias" if len(tensor.shape) == 1 else "weight")
        if not own.endswith((".weight", ".bias")):
            continue
        turned = len(tensor.shape) == 2 and any((node.op, index) == ("MatMul", 1) for node, index in used)
        yield own, Transpose(tensor.data) if turned else tensor.data


def _uses(graph: Graph) -> dict[str, list[tuple[Node, int]]]:
    """The nodes that use each value, and as which input."""
    found: dict[str, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for index, name in enumerate(node.inputs):
            found.setdefault(name, []).append((node, index))
    return found


def _named(constant: str, node: str, kind: str) -> str:
    """The name of a layer's weight: of its constant, or of the node that uses it."""
    if not _UNNAMED.match(constant):
        return _OPERATION.sub("", constant)
    if constant.startswith("/") or not _OPERATION.search(node):
        return constant
    return f"{_OPERATION.sub('', node).strip('/').replace('/', '.')}.{kind}"


def _as_transformers(tensors: Mapping[str, Expression], config: Mapping[str, Any]) -> dict[str, Expression]:
    """The names of transformers; a fused projection of queries, keys and values in three, whose rows are whole."""
    heads = _count(config.get("num_attention_heads"))
    shared = _count(config.get("num_key_value_heads")) or heads
    apart = bool(config) and str(config.get("model_type")) not in _FUSED_ALREADY
    found: dict[str, Expression] = {}
    for name, expr in tensors.items():
        for pattern, put in _BUILDER:
            name = pattern.sub(put, name)
        if not apart or _FUSED not in name:
            found[name] = expr
            continue
        size, over = divmod(expr.shape[0], heads + 2 * shared) if heads else (0, 1)
        if over:
            raise CorruptFile(
                "a fused projection has other rows than config.json says",
                code="onnx-fused",
                place=name,
                found=list(expr.shape),
                allowed=f"a multiple of {heads} + 2 * {shared} heads",
            )
        ends = [0, heads * size, (heads + shared) * size, expr.shape[0]]
        for at, one in enumerate(("q_proj", "k_proj", "v_proj")):
            found[name.replace("qkv_proj", one)] = _outputs(expr, ends[at], ends[at + 1])
    return found


def _count(found: object) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def _outputs(expr: Expression, start: int, stop: int) -> Expression:
    """Rows of a matrix, or elements of a bias."""
    if len(expr.shape) > 1:
        return Slice(expr, 0, start, stop)
    return Reshape(Slice(Reshape(expr, (*expr.shape, 1)), 0, start, stop), (stop - start,))


def _experts(tensors: Mapping[str, Expression]) -> Iterator[tuple[str, Expression]]:
    """Stacked experts, which have the name of the first one, one by one."""
    for name, expr in tensors.items():
        if _EXPERT not in name or len(expr.shape) != 3:
            yield name, expr
            continue
        for number in range(expr.shape[0]):
            own = Reshape(Slice(expr, 0, number, number + 1), expr.shape[1:])
            yield name.replace(_EXPERT, f".experts.{number}."), own


def _put_back(
    path: str, tensors: Mapping[str, Expression], config: Mapping[str, Any], assets: Mapping[str, bytes]
) -> tuple[dict[str, Expression], list[str]]:
    """The tensors as a checkpoint has them, of a graph that has weights as modelfmt's graphs do: what such a graph
    would make of the checkpoint again shows what was done."""
    from modelfmt.graphs import weights

    found, notes = dict(tensors), []
    try:
        bound = weights.bound(
            architecture=huggingface.architecture(config), config=config, tensors=tensors, assets=assets
        )
    except UnsupportedError as error:
        raise _other_names(path, tensors, error) from error
    for weight in bound.tensors.values():
        given = tensors.get(weight.name)
        if isinstance(weight.expr, AddConstant) and weight.expr.input is given:
            found[weight.name] = AddConstant(given, -weight.expr.value)
            notes.append(f"{weight.name}: {weight.expr.value:g} is taken away again, in float32")
    return found, notes


def _other_names(path: str, tensors: Mapping[str, Expression], error: ModelfmtError) -> UnsupportedError:
    return UnsupportedError(
        "the weights of this graph are not those of the architecture that config.json beside it names",
        code="onnx-names",
        path=path,
        found=f"{', '.join(sorted(tensors)[:4])} ..; {error}",
        allowed="layers by the names of the original checkpoint",
        hint="convert the original checkpoint; or convert to .safetensors, which keeps the names of the graph",
    )
