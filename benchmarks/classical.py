"""Estimators as ONNX graphs, by modelfmt and by skl2onnx with onnxmltools: how many, and how near to the library.

    python benchmarks/classical.py [--peer VENV/bin/python]

VENV has skl2onnx, onnxmltools, scikit-learn, xgboost, lightgbm and onnxruntime. Each model of tests/classical_models.py
and classical_tables.py is fitted and pickled once; both convert it with float64 at its ends, ONNX Runtime runs both
graphs on the same rows. Prints the table of docs/classical.md.
"""

from __future__ import annotations

import argparse
import json
import pickle
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]

import classical  # noqa: E402  it lies in tests

GOOD = 1e-5
SECONDS = 10


def groups() -> dict[str, list[str]]:
    """Names of models by kind."""
    import classical_models as models
    import classical_tables as tables

    numbers = [*models.regressors(), *models.positive()]
    return {
        "classifiers (two and three classes)": [f"{name}-{n}" for name in models.classifiers() for n in "23"],
        "regressors": numbers,
        "several outputs, thresholds": list(models.several()),
        "transformers of numbers": list(models.transformers()),
        "clusters, outliers": list(models.others()),
        "categories, missing values, mixed columns": list(tables.tables()),
        "texts": list(tables.texts()),
        "XGBoost, LightGBM": list(tables.boosters()),
    }


def ours(folder: Path) -> dict[str, Any]:
    """Fit and pickle everything; our differences by name."""
    import classical_models as models
    import classical_tables as tables

    found: dict[str, Any] = {}
    for name, (make, rows) in tables.everything().items():
        real = models.fit(make)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps((real, rows)))
        found[name] = _outcome(
            lambda real=real, rows=rows: classical.compare(real, rows, classical.convert(real, folder))
        )
    return found


def _late(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def _outcome(measure: Any) -> Any:
    """A difference, or why there is none."""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        return measure()
    except AssertionError as error:
        return f"differs: {str(error).splitlines()[0] if str(error) else ''}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    finally:
        signal.alarm(0)


def peer(folder: Path) -> dict[str, Any]:
    """skl2onnx's differences by name."""
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes as of_classes,
    )
    from skl2onnx.common.shape_calculator import (
        calculate_linear_regressor_output_shapes as of_numbers,
    )
    from xgboost import XGBClassifier, XGBRegressor

    choices = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    update_registered_converter(XGBClassifier, "XgbC", of_classes, convert_xgboost, options=choices)
    update_registered_converter(LGBMClassifier, "LgbC", of_classes, convert_lightgbm, options=choices)
    update_registered_converter(XGBRegressor, "XgbR", of_numbers, convert_xgboost)
    update_registered_converter(LGBMRegressor, "LgbR", of_numbers, convert_lightgbm, options={"split": None})
    found = {}
    for path in sorted(folder.glob("*.pkl")):
        if path.stem == "model":
            continue
        real, rows = pickle.loads(path.read_bytes())  # our own
        found[path.stem] = _outcome(lambda real=real, rows=rows: _theirs(real, rows, folder / "their.onnx"))
    return found


def _theirs(real: Any, rows: Any, path: Path) -> float:
    """The best of a few ways to ask: float64 and float32 at both ends, with and without the option zipmap."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    failures, best = [], None
    for kind in (DoubleTensorType, FloatTensorType):
        for options in ({"zipmap": False}, {}, None):
            for opset in ({"": 21, "ai.onnx.ml": 3}, 18):
                try:
                    found = _their_way(real, rows, path, kind, options, opset)
                except TimeoutError:
                    raise
                except Exception as error:
                    failures.append(error)
                    continue
                if found <= GOOD:
                    return found
                best = found if best is None else min(best, found)
    if best is None:
        raise failures[-1]
    return best


def _their_way(real: Any, rows: Any, path: Path, number: Any, options: Any, opset: Any) -> float:
    import numpy as np
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    rows = np.asarray(rows)
    if number is FloatTensorType and rows.dtype.kind == "f":
        rows = rows.astype("f4").astype("f8")  # the same numbers for both
    wide = rows.reshape(len(rows), -1)
    texts = [isinstance(one, str) for one in wide[0]]
    kind = {True: StringTensorType, False: number}
    if len(set(texts)) == 1:
        types = [("X", kind[texts[0]]([None, wide.shape[1]]))]
    else:
        types = [(f"x{n}", kind[text]([None, 1])) for n, text in enumerate(texts)]
    graph = to_onnx(real, initial_types=types, options=options, target_opset=opset)
    path.write_bytes(graph.SerializeToString())
    outputs = classical.run(path, rows)
    names = list(outputs)
    if names[0] in ("label", "output_label"):
        shares = "probabilities" if hasattr(real, "predict_proba") else "scores"
        outputs = {"label": outputs[names[0]]} | ({shares: outputs[names[1]]} if len(names) > 1 else {})
        if isinstance(outputs.get(shares), list):  # a map for each row
            outputs[shares] = np.array([list(one.values()) for one in outputs[shares]])
        binary = hasattr(real, "decision_function") and real.decision_function(rows[:2]).ndim == 1
        if shares == "scores" and binary and outputs[shares].ndim == 2:
            both = outputs[shares]
            return min(classical.difference(real, rows, outputs | {shares: one}) for one in (both[:, :1], both[:, -1:]))
    else:
        outputs = {"variable": outputs[names[0]]}
    return classical.difference(real, rows, outputs)


def _cell(found: list[Any]) -> str:
    numbers = [one for one in found if isinstance(one, float)]
    good = [one for one in numbers if one <= GOOD]
    return f"{len(good)} of {len(found)} | {max(good):.1e}" if good else f"0 of {len(found)} | "


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="Python of an environment with skl2onnx")
    parser.add_argument("--as-peer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.as_peer:
        (given.as_peer / "peer.json").write_text(json.dumps(peer(given.as_peer)))
        return
    with tempfile.TemporaryDirectory() as place:
        mine = ours(Path(place))
        theirs: dict[str, Any] = {}
        if given.peer:
            command = [given.peer, __file__, "--as-peer", place]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
            theirs = json.loads(Path(place, "peer.json").read_text())
    out = sys.stdout.write
    out("| models | modelfmt: equal to 1e-5 | worst of them | skl2onnx: equal to 1e-5 | worst of them |\n")
    out("| --- | --- | --- | --- | --- |\n")
    for title, names in groups().items():
        out(f"| {title} | {_cell([mine[n] for n in names])} | {_cell([theirs.get(n) for n in names])} |\n")
    out(f"| all | {_cell(list(mine.values()))} | {_cell([theirs.get(n) for n in mine])} |\n\n")
    for who, all_found in (("modelfmt", mine), ("skl2onnx", theirs)):
        for name, found in all_found.items():
            if not isinstance(found, float) or found > GOOD:
                out(f"{who}: {name}: {found}\n")


if __name__ == "__main__":
    main()
