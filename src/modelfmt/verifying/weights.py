"""Which tensors of two models are the same weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import Subject, opened

if TYPE_CHECKING:
    from modelfmt.ir.model import Model
    from modelfmt.ir.tensor import Tensor

__all__ = ["comparable"]


def comparable(source: Subject, result: Subject) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of both under the same names: the files' own; those of a Hugging Face checkpoint; or those of the
    graph that the source becomes."""
    assert source.model is not None
    assert result.model is not None
    if result.model.program is not None and source.model.program is None:
        return _in_graph(source), dict(result.model.tensors)
    ours, theirs = result.model.tensors, source.model.tensors
    if ours.keys() & theirs.keys():
        return dict(theirs), dict(ours)
    return _named(source.model), _named(result.model)


def _in_graph(source: Subject) -> dict[str, Tensor]:
    """The weights of the graph that a checkpoint becomes; its own where there is none."""
    from modelfmt.ir.tensor import Tensor
    from modelfmt.verifying.with_numpy import NumpyRunner

    assert source.model is not None
    try:
        made = opened(source, "numpy", ours=True)
    except UnsupportedError:
        return _named(source.model)
    assert isinstance(made, NumpyRunner)
    found = {name: tensor.data for name, tensor in made.program.graph.tensors.items()}
    return {name: Tensor(name, expr, made.reader) for name, expr in found.items() if expr is not None}


def _named(model: Model) -> dict[str, Tensor]:
    """The weights by the names of a Hugging Face checkpoint, where there is a way to them."""
    from modelfmt.ir.tensor import Tensor
    from modelfmt.routes.graph_source import checkpoint_of
    from modelfmt.tiles import Evaluator

    if model.format == "gguf" and model.architecture:
        reader = Evaluator(model.files)
        return {name: Tensor(name, expr, reader) for name, expr in checkpoint_of(model).tensors.items()}
    return dict(model.tensors)
