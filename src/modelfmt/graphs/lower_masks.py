"""Who sees whom, and where each token stands, in standard nodes: biases of scores, positions."""

from __future__ import annotations

from collections.abc import Sequence

from modelfmt.graphs.lowering import LOWEST, Lowering, Table
from modelfmt.ir.graph import Node

__all__ = ["LOWERINGS", "rows_and_columns"]


def _attention_bias(low: Lowering, node: Node) -> None:
    """[batch, 1, sequence, past + sequence] of zeros and large negative numbers. window: how near a token must be."""
    ids, mask, *past = node.inputs
    name, window = node.outputs[0], node.get("window")
    seen = low.once(f"/mask/{mask}/padding_out", lambda: _padding(low, mask)) if mask else ""
    if node.get("causal"):
        order = low.once("/mask/order_out", lambda: _order(low, ids, past))
        seen = low.op("And", [seen, order], f"{name}/causal") if seen else order
    else:  # ONNX Runtime wants a row for each query
        length = low.op("Shape", [ids], f"{name}/length", start=1, end=2)
        ones = low.integers("/ones", [1])
        square = low.op("Concat", [ones, ones, length, ones], f"{name}/square", axis=0)
        seen = low.op("Expand", [seen, square], f"{name}/expanded")
    if window is not None:
        rows, columns = rows_and_columns(low, ids, past)
        distance = low.op("Sub", [rows, columns], f"{name}/distance")
        distance = distance if node.get("causal") else low.op("Abs", [distance], f"{name}/apart")
        near = low.op("Less", [distance, low.integers("/mask/window", [window])], f"{name}/near")
        seen = low.op("And", [seen, near], f"{name}/window")
    low.op("Where", [seen, low.scalar(0.0), low.scalar(LOWEST[low.float_type])], name)


def _padding(low: Lowering, mask: str) -> None:
    real = low.op("Cast", [mask], f"/mask/{mask}/seen_out", to=9)
    low.op("Unsqueeze", [real, low.integers("/axes", [1, 2])], f"/mask/{mask}/padding_out")


def _order(low: Lowering, ids: str, past: Sequence[str]) -> None:
    """Whether key `column` lies at or before query `row`."""
    rows, columns = rows_and_columns(low, ids, past)
    low.op("LessOrEqual", [columns, rows], "/mask/order_out")


def rows_and_columns(low: Lowering, ids: str, past: Sequence[str]) -> tuple[str, str]:
    """Numbers of the queries as a column, counted from the beginning of the cache, and of the keys as a row."""
    import numpy as np

    names = "/mask/rows_out", "/mask/columns_out"
    if names[0] in low.made:
        return names
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    rows, total = row_numbers(low, ids, past)
    low.op("Unsqueeze", [rows, low.integers("/axes", [1])], names[0])
    columns = low.op("Range", [zero, total, one], "/mask/column_numbers_out")
    low.op("Unsqueeze", [columns, low.integers("/axes", [0])], names[1])
    return names


def row_numbers(low: Lowering, ids: str, past: Sequence[str]) -> tuple[str, str]:
    """Numbers of the queries, counted from the beginning of the cache, and the number of keys."""
    import numpy as np

    names = "/mask/row_numbers_out", "/mask/total_out"
    if names[0] in low.made:
        return names
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    length = low.op("Squeeze", [low.op("Shape", [ids], "/mask/ids_shape_out", start=1, end=2)], "/mask/length_out")
    start = zero
    if past:
        start = low.op(
            "Squeeze", [low.op("Shape", [past[0]], "/mask/past_shape_out", start=2, end=3)], "/mask/past_length_out"
        )
    low.op("Add", [start, length], names[1])
    low.op("Range", [start, names[1], one], names[0])
    return names


def _positions(low: Lowering, node: Node) -> None:
    """0, 1, .. for each text, behind the cache where there is one; with padding: counted over the tokens that are not
    this one."""
    import numpy as np

    ids, *past = node.inputs
    name, padding = node.outputs[0], node.get("padding")
    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    shape = low.op("Shape", [ids], f"{name}/shape")
    if padding is None:
        low.op("Expand", [row_numbers(low, ids, past)[0], shape], name)
        return
    alike = low.op("Equal", [ids, low.constant(f"{name}/padding", np.array(padding, np.int64))], f"{name}/alike")
    real = low.op("Cast", [low.op("Not", [alike], f"{name}/unlike")], f"{name}/real", to=7)
    count = low.op("CumSum", [real, one], f"{name}/count")
    low.op("Max", [low.op("Sub", [count, one], f"{name}/from_zero"), zero], name)


def _mask_positions(low: Lowering, node: Node) -> None:
    """Positions counted over the tokens that a mask shows; 0 before them."""
    import numpy as np

    zero, one = low.constant("/zero", np.array(0, np.int64)), low.constant("/one", np.array(1, np.int64))
    name = node.outputs[0]
    count = low.op("CumSum", [node.inputs[0], one], f"/{name}/count")
    low.op("Max", [low.op("Sub", [count, one], f"/{name}/from_zero"), zero], name)


def _zero_ids(low: Lowering, node: Node) -> None:
    low.op("Sub", [node.inputs[0], node.inputs[0]], node.outputs[0])


LOWERINGS: Table = {
    "AttentionBias": _attention_bias,
    "MaskPositions": _mask_positions,
    "Positions": _positions,
    "ZeroIds": _zero_ids,
}
