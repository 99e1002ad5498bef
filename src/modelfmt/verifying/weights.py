"""Which tensors of two models are the same weight."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import Subject, opened

if TYPE_CHECKING:
    from modelfmt.ir.model import Model
    from modelfmt.ir.tensor import Tensor

__all__ = ["comparable"]


def comparable(source: Subject, result: Subject, notes: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of both under the same names: the files' own; those of a Hugging Face checkpoint; or those of the
    graph that the source becomes. A quantized matrix of a graph is one tensor where the other has it; notes take what
    is not understood."""
    assert source.model is not None
    assert result.model is not None
    theirs, ours = _tensors(source, result)
    left, right = _matrices(source.model, notes), _matrices(result.model, notes)
    return _whole(theirs, left, ours.keys() | right), _whole(ours, right, theirs.keys() | left)


def _tensors(source: Subject, result: Subject) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    assert source.model is not None
    assert result.model is not None
    if result.model.program is not None and source.model.program is None:
        return _in_graph(source), dict(result.model.tensors)
    ours, theirs = result.model.tensors, source.model.tensors
    if ours.keys() & theirs.keys():
        return dict(theirs), dict(ours)
    return _named(source.model), _named(result.model)


def _matrices(model: Model, notes: list[str]) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """The quantized matrices of a graph, and the names of what each is made of."""
    from modelfmt.checkpoints.onnx_blocks import matrices
    from modelfmt.ir.tensor import Tensor
    from modelfmt.tiles import Evaluator

    if model.program is None:
        return {}
    refused: list[UnsupportedError] = []
    reader, found = Evaluator(model.files), matrices(model.program, str(model.path), refused)
    notes += map(str, refused)
    return {name: (Tensor(name, one.expr, reader), one.parts) for name, one in found.items()}


def _whole(
    tensors: dict[str, Tensor], matrices: dict[str, tuple[Tensor, tuple[str, ...]]], wanted: Collection[str]
) -> dict[str, Tensor]:
    """The tensors with matrices that are wanted in the place of their parts."""
    chosen = {name: one for name, one in matrices.items() if name in wanted}
    gone = {part for _, parts in chosen.values() for part in parts}
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    return kept | {name: tensor for name, (tensor, _) in chosen.items()}


def _in_graph(source: Subject) -> dict[str, Tensor]:
    """The weights of the graph that a checkpoint becomes, without what its nodes need besides; its own where there is
    none."""
    from modelfmt.ir.tensor import Tensor
    from modelfmt.verifying.with_numpy import NumpyRunner

    assert source.model is not None
    try:
        made = opened(source, "numpy", ours=True)
    except UnsupportedError:
        return _named(source.model)
    assert isinstance(made, NumpyRunner)
    found = {name: tensor.data for name, tensor in made.program.graph.tensors.items()}
    return {
        name: Tensor(name, expr, made.reader) for name, expr in found.items() if expr is not None and name[:1] != "/"
    }


def _named(model: Model) -> dict[str, Tensor]:
    """The weights by the names of a Hugging Face checkpoint, where there is a way to them."""
    from modelfmt.ir.tensor import Tensor
    from modelfmt.routes.graph_source import checkpoint_of
    from modelfmt.tiles import Evaluator

    if model.format == "gguf" and model.architecture:
        reader = Evaluator(model.files)
        return {name: Tensor(name, expr, reader) for name, expr in checkpoint_of(model).tensors.items()}
    return dict(model.tensors)
