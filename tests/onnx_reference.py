"""The NumPy reference beside the expected outputs of ONNX's own node tests, for every operator that it has.

    python tests/onnx_reference.py

A case is run where all of its operators are in the table. Outputs are compared with the tolerances of the case.
"""

from __future__ import annotations

import collections
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from modelfmt.errors import UnsupportedError
from modelfmt.formats import onnx as onnx_format
from modelfmt.graphs import reference
from modelfmt.graphs.reference_ops import OPERATORS
from modelfmt.ir.graph import walk_graphs
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

NAMED = ("equal", "other operators", "no tensors")
STEPS = {"float16": 2**-9, "bfloat16": 2**-6}
CONTROL = {"Constant", "If", "Loop"}


def modules() -> list[str]:
    """The modules of onnx's test cases for our operators."""
    special = {"And": "and_", "Not": "not_", "Range": "rangeop", "If": "if_", "GreaterOrEqual": "greater_or_equal"}
    special["LessOrEqual"] = "less_or_equal"
    found = []
    for name in sorted({op for domain, op in OPERATORS if not domain} | CONTROL):
        for module in (special.get(name, name.lower()), name.lower().replace("reduce", "reduce_")):
            try:
                importlib.import_module(f"onnx.backend.test.case.node.{module}")
            except ModuleNotFoundError:
                continue
            found.append(module)
            break
        else:
            raise AssertionError(name)
    return found


def cases() -> Iterator[Any]:
    """Every test case of our operators, functions expanded ones among them."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules()
    yield from node._NodeTestCases


def unknown(program: Any) -> set[str]:
    """Operators of a program that the reference lacks."""
    own = {(f.domain, f.name) for f in program.functions}
    used = {(n.domain, n.op) for _, graph in walk_graphs(program) for n in graph.nodes}
    return {
        op for domain, op in used if (domain, op) not in OPERATORS and (domain, op) not in own and op not in CONTROL
    }


def unwrapped(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def close(found: Any, wanted: Any, case: Any) -> bool:
    if not isinstance(wanted, np.ndarray):
        return False
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if wanted.dtype.kind in "fc" or wanted.dtype.kind == "V":
        step = STEPS.get(wanted.dtype.name, 0.0)  # sums of these types depend on their order
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        return np.allclose(a, b, rtol=max(case.rtol, step), atol=max(case.atol, step), equal_nan=True)
    return bool((found == wanted).all())


def check(case: Any) -> str:
    """A case: "equal", "other operators", or what is wrong."""
    files = Files()
    path = files.register("<case>", case.model.SerializeToString())
    program, _ = onnx_format.parse(path, files)
    if unknown(program):
        return "other operators"
    names = [value.name for value in program.graph.inputs]
    results = [value.name for value in program.graph.outputs]
    for data in case.data_sets:
        inputs, outputs = ([unwrapped(value) for value in values] for values in data)
        if not all(isinstance(value, np.ndarray | np.generic) for value in [*inputs, *outputs]):
            return "no tensors"
        try:
            given = dict(zip(names, (np.asarray(value) for value in inputs), strict=False))
            found = reference.run(program, given, Evaluator(files))
        except UnsupportedError as error:
            return f"refused: {error.message}"
        for name, wanted in zip(results, outputs, strict=True):
            if not close(found[name], np.asarray(wanted), case):
                return f"{name} differs: {found[name].dtype} {found[name].shape}, wanted {np.asarray(wanted).dtype}"
    return "equal"


def main() -> None:
    counts: collections.Counter[str] = collections.Counter()
    operators: collections.Counter[str] = collections.Counter()
    for case in cases():
        try:
            found = check(case)
        except Exception as error:
            found = f"{type(error).__name__}: {str(error)[:100]}"
        counts[
            found if found in ("equal", "other operators", "no tensors") or found.startswith("refused") else "WRONG"
        ] += 1
        if found == "equal":
            operators[case.model.graph.node[0].op_type] += 1
        elif found not in ("other operators", "no tensors"):
            print(f"{case.name}: {found}")
    print(onnx.__version__, dict(counts))
    print("without a case:", sorted({op for _, op in OPERATORS} - set(operators)))


if __name__ == "__main__":
    main()
