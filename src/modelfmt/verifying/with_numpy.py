"""The NumPy reference: an ONNX model's own graph, or the one that the architecture's table gives, in float32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import GraphRunner, Runner, Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelfmt.ir.graph import Graph, Program
    from modelfmt.ir.ops import Reader

__all__ = ["NumpyRunner", "layer_outputs", "open_runner"]

_LAYER = re.compile(r"/layers?\.(\d+)/")


class NumpyRunner(GraphRunner):
    """A program in `modelfmt.graphs.reference`."""

    name = "numpy"

    def __init__(self, program: Program, reader: Reader) -> None:
        from modelfmt.graphs.reference_ops import numpy_type

        self.program, self.reader = program, reader
        self.inputs = {
            value.name: (
                numpy_type(value.type),
                [size if isinstance(size, int) else None for size in value.shape or ()],
            )
            for value in program.graph.inputs
            if value.name not in program.graph.tensors
        }

    def run(
        self, values: Mapping[str, NDArray[Any]], observe: Callable[[str, Any], None] | None = None
    ) -> dict[str, NDArray[Any]]:
        """One call. observe: is told the value of every name that a node of the main graph makes."""
        from modelfmt.graphs import reference

        return reference.run(self.program, values, self.reader, observe)


def layer_outputs(graph: Graph) -> dict[int, str]:
    """Layer -> the last value that its nodes make, by the names that our graphs give them."""
    found: dict[int, str] = {}
    for node in graph.nodes:
        for name in node.outputs[:1]:
            layer = _LAYER.search(name)
            if layer:
                found[int(layer[1])] = name
    return found


def open_runner(subject: Subject) -> Runner:
    """Raises UnsupportedError (no graph for this architecture)."""
    from modelfmt.graphs.builder import Form
    from modelfmt.routes.graph_source import built, checkpoint_of
    from modelfmt.tiles import Evaluator

    model = subject.model
    if model is None:
        raise UnsupportedError("the NumPy reference does not read this format", code="runtime", path=subject.path)
    if model.program is not None:
        return NumpyRunner(model.program, Evaluator(model.files))
    programs = built(checkpoint_of(model), Form("FLOAT", profile="onnx-standard", carried=False)).programs
    if len(programs) > 1 and subject.part not in programs:
        raise UnsupportedError(
            "this model is more than one graph",
            code="several-graphs",
            path=subject.path,
            found=subject.part,
            allowed=", ".join(f"{stem}.onnx" for stem in programs),
            hint="verify one file of the folder",
        )
    program = programs[subject.part] if len(programs) > 1 else next(iter(programs.values()))
    return NumpyRunner(program, Evaluator(model.files))
