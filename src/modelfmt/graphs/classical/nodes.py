"""A graph of an estimator under construction: nodes and constants.

Everything is computed in float64, as scikit-learn does; texts are STRING, indices of classes INT64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.errors import LimitExceeded
from modelfmt.graphs.builder import attribute
from modelfmt.ir.graph import ELEMENT_TYPES, Graph, GraphTensor, Node
from modelfmt.report import Note

if TYPE_CHECKING:
    from modelfmt.graphs.classical.columns import Columns
    from modelfmt.graphs.classical.results import Result
    from modelfmt.ir.record import Record

    Operand = str | np.ndarray[Any, Any] | float | int | Sequence[int]
    Apply = Callable[["Build", Record, str, Columns], Any]

__all__ = ["MAX_WIDTH", "ML", "Build"]

ML = "ai.onnx.ml"
MAX_NODES = 200_000
MAX_WIDTH = 1 << 20
MAX_CONSTANTS = 2 << 30
MAX_DEPTH = 40

_TYPES = {"float64": "DOUBLE", "float32": "FLOAT", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL"}


class Build:
    """Nodes in the order in which they are made, constants by content.

    path: of the file, for errors. read: bytes of arrays that were read. predict, transform: make the nodes of an inner
    estimator (record, its place in the file, its columns).
    """

    def __init__(self, path: str, predict: Apply, transform: Apply) -> None:
        self.path = path
        self.graph = Graph("classical")
        self.notes: list[Note] = []
        self.read = [0]
        self._apply = {"predict": predict, "transform": transform}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._bytes = 0
        self._depth = 0
        self._count = 0

    def predict(self, record: Record, place: str, x: Columns) -> Result:
        """What an inner estimator predicts. Raises UnsupportedError (a class that is not covered), CorruptFile."""
        made: Result = self._inner("predict", record, place, x)
        return made

    def transform(self, record: Record, place: str, x: Columns) -> Columns:
        """What an inner transformer makes of columns. Raises UnsupportedError, CorruptFile."""
        made: Columns = self._inner("transform", record, place, x)
        return made

    def _inner(self, what: str, record: Record, place: str, x: Columns) -> Any:
        if self._depth >= MAX_DEPTH:
            raise LimitExceeded(
                "estimators are nested too deeply",
                code="estimator-depth",
                path=self.path,
                place=place[:200],
                allowed=MAX_DEPTH,
            )
        self._depth += 1
        try:
            return self._apply[what](self, record, place, x)
        finally:
            self._depth -= 1

    def op(self, op: str, *inputs: Operand, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns its name. Inputs are names of values, or constants: arrays, floats
        (DOUBLE), integers and lists of them (INT64)."""
        return self.ops(op, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, op: str, n_outputs: int, *inputs: Operand, domain: str = "", **attributes: Any) -> tuple[str, ...]:
        """Append a node with several outputs."""
        nodes = self.graph.nodes
        if self._count >= MAX_NODES:
            raise LimitExceeded(
                "the graph would have too many nodes", code="estimator-size", path=self.path, allowed=MAX_NODES
            )
        base = f"{op}_{self._count}"
        self._count += 1
        names = [base, *(f"{base}_{n}" for n in range(1, n_outputs))]
        given = {key: attribute(key, value) for key, value in attributes.items() if value is not None}
        nodes.append(Node(op, [self.operand(one) for one in inputs], list(names), given, domain, name=base))
        return tuple(names)

    def operand(self, value: Operand) -> str:
        """The name of a value: a constant is made where it is none yet."""
        if isinstance(value, str):
            return value
        array = np.asarray(value, "i8") if isinstance(value, list | tuple) else np.asarray(value)
        if array.dtype.kind in "US" or array.dtype == object:
            return self.texts([str(one) for one in array.ravel().tolist()], array.shape)
        array = array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array
        return self._constant(_TYPES[array.dtype.name], array.shape, np.ascontiguousarray(array).tobytes())

    def texts(self, texts: Sequence[str], shape: tuple[int, ...]) -> str:
        """A constant of texts."""
        data = tuple(text.encode(errors="surrogatepass") for text in texts)
        key = ("STRING", shape, b"\0".join(data))
        return self._named(key, lambda name: GraphTensor(name, "STRING", shape, None, data), sum(map(len, data)))

    def _constant(self, kind: str, shape: tuple[int, ...], data: bytes) -> str:
        return self._named((kind, shape, data), lambda name: GraphTensor.of_bytes(name, kind, shape, data), len(data))

    def _named(self, key: Any, make: Callable[[str], GraphTensor], size: int) -> str:
        if key not in self._constants:
            self._bytes += size
            if self._bytes > MAX_CONSTANTS:
                raise LimitExceeded(
                    "the graph's constants would be too large",
                    code="estimator-size",
                    path=self.path,
                    allowed=f"{MAX_CONSTANTS} bytes",
                )
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self.graph.tensors[name] = make(name)
        return self._constants[key]

    def tensor(self, array: np.ndarray[Any, Any]) -> GraphTensor:
        """A constant for an attribute."""
        return GraphTensor.of_bytes("", _TYPES[array.dtype.name], array.shape, array.tobytes())

    def cast(self, value: Operand, kind: str) -> str:
        """A value in another type of elements."""
        return self.op("Cast", value, to=ELEMENT_TYPES[kind].number)

    def note(self, place: str, text: str) -> None:
        """Something to be said of the conversion."""
        self.notes.append(Note(place or "estimator", text))

    def check_width(self, width: int) -> None:
        """Raise LimitExceeded where a matrix would have too many columns."""
        if width > MAX_WIDTH:
            raise LimitExceeded(
                "a matrix would have too many columns",
                code="estimator-size",
                path=self.path,
                found=width,
                allowed=MAX_WIDTH,
            )

    def attributes(self, **values: Any) -> dict[str, Any]:
        """Attributes of a node."""
        return {key: attribute(key, value) for key, value in values.items()}

    def rename(self, value: str, name: str) -> None:
        """Give a value a name of the user's."""
        self.graph.nodes.append(Node("Identity", [value], [name], name=name))

    # What several families need.

    def sum(self, value: Operand, axis: int = 1, *, keep: bool = False) -> str:
        """The sum along an axis."""
        return self.op("ReduceSum", value, [axis], keepdims=int(keep))

    def argmax(self, value: Operand) -> str:
        """The index of the first largest value of each row."""
        return self.op("ArgMax", value, axis=1, keepdims=0)

    def column(self, value: Operand, index: int) -> str:
        """A column as a matrix [N, 1]."""
        return self.op("Gather", value, [index], axis=1)

    def join(self, values: Sequence[str]) -> str:
        """Matrices side by side."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=1)

    def flat(self, value: Operand) -> str:
        """[N, 1] as [N]."""
        return self.op("Reshape", value, [-1])

    def upright(self, value: Operand) -> str:
        """[N] as [N, 1]."""
        return self.op("Reshape", value, [-1, 1])

    def signs(self, scores: str) -> str:
        """1 where a score [N, 1] is not below zero, else -1, [N]."""
        return self.flat(self.op("Where", self.op("GreaterOrEqual", scores, 0.0), 1, -1))

    def shares(self, values: Operand) -> str:
        """Rows divided by their sums; a row of zeros stays one."""
        total = self.sum(values, keep=True)
        return self.op("Div", values, self.op("Where", self.op("Equal", total, 0.0), 1.0, total))

    def squared_distances(self, x: Operand, points: np.ndarray[Any, Any]) -> str:
        """Squared Euclidean distances [N, M] to points [M, n]. Both are moved to the points' middle, so that little is
        lost in the difference of squares."""
        middle = points.mean(axis=0) if len(points) else np.zeros(points.shape[1])
        points = points - middle
        moved = self.op("Sub", x, middle)
        own = self.op("ReduceSumSquare", moved, [1], keepdims=1)
        both = self.op("MatMul", moved, np.ascontiguousarray(-2.0 * points.T))
        total = self.op("Add", self.op("Add", both, own), (points**2).sum(axis=1))
        return self.op("Max", total, np.float64(0))
