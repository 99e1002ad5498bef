"""Converted estimators beside scikit-learn's own: `compare` runs both on the same rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from sklearn.base import is_regressor

__all__ = ["compare", "convert", "difference", "feeds", "run", "session"]


def convert(real: Any, folder: Path, **options: Any) -> Path:
    """Pickle an estimator, convert the pickle; the path of the graph."""
    import modelfmt

    (folder / "model.pkl").write_bytes(pickle.dumps(real))
    modelfmt.convert(folder / "model.pkl", folder / "model.onnx", overwrite=True, **options)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return folder / "model.onnx"


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_NUMPY = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(string)": object}


def feeds(found: onnxruntime.InferenceSession, rows: Any) -> dict[str, Any]:
    """Rows as the graph's inputs: one matrix, or columns x0, x1 .."""
    rows = np.asarray(rows)
    rows = rows.reshape(len(rows), -1)
    inputs = found.get_inputs()
    if inputs[0].name == "X":
        return {inputs[0].name: rows.astype(_NUMPY[inputs[0].type])}
    return {one.name: rows[:, [int(one.name[1:])]].astype(_NUMPY[one.type]) for one in inputs}


def run(path: Path, rows: Any) -> dict[str, Any]:
    """Outputs by name."""
    found = session(path)
    names = [one.name for one in found.get_outputs()]
    return dict(zip(names, found.run(None, feeds(found, rows)), strict=True))


def expected(real: Any, rows: Any, outputs: dict[str, Any]) -> dict[str, Any]:
    """What scikit-learn says for each output."""
    if "label" in outputs:
        wanted = {"label": real.predict(rows)}
    elif hasattr(real, "transform") and not is_regressor(real):
        wanted = {"variable": real.transform(rows)}
    else:
        wanted = {"variable": real.predict(rows)}
    if "probabilities" in outputs:
        wanted["probabilities"] = real.predict_proba(rows)
    if "scores" in outputs:
        wanted["scores"] = real.decision_function(rows) if hasattr(real, "decision_function") else real.transform(rows)
    for name in [name for name in outputs if name[-1].isdigit()]:
        what, _, number = name.rpartition("_")
        wanted[name] = real.predict(rows)[:, int(number)] if what == "label" else real.predict_proba(rows)[int(number)]
    if any(name[-1].isdigit() for name in outputs):
        del wanted["variable"]
    return wanted


def compare(real: Any, rows: Any, path: Path) -> float:
    """Assert equal labels; the largest difference of numbers, relative to 1 and more."""
    return difference(real, rows, run(path, rows))


def difference(real: Any, rows: Any, found: dict[str, Any]) -> float:
    """The same of outputs by name."""
    wanted = expected(real, rows, found)
    if wanted.keys() == {"variable"} and "variable" not in found:
        raise AssertionError(found.keys())
    assert found.keys() == wanted.keys()
    worst = 0.0
    for name, want in wanted.items():
        want = np.asarray(want.todense() if hasattr(want, "todense") else want)
        got = found[name]
        if name.startswith("label") or want.dtype.kind in "UO":
            assert got.tolist() == want.reshape(got.shape).tolist(), name
            continue
        want = want.reshape(got.shape)
        assert np.array_equal(np.isnan(want), np.isnan(got)), name
        wrong = np.abs(got - want) / np.maximum(1, np.abs(want))
        worst = max(worst, float(np.nanmax(wrong)) if wrong.size else 0.0)
    return worst
