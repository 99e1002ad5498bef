"""ONNX Runtime, on its CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import GraphRunner, Runner, Subject, relayed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["open_runner"]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
} | {f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_INT8 = 4  # accuracy_level of MatMulNBits from which on activations are rounded to 8 bits


class _Session(GraphRunner):
    name = "onnxruntime"

    def __init__(self, subject: Subject) -> None:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float32
        try:
            self.session = onnxruntime.InferenceSession(str(subject.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise relayed("ONNX Runtime", error) from error
        found = {}
        for value in self.session.get_inputs():
            if value.type not in _TYPES:
                raise UnsupportedError(
                    "no array holds this input", code="verify-input", place=value.name, found=value.type
                )
            shape = [size if isinstance(size, int) else None for size in value.shape]
            found[value.name] = (np.dtype(_TYPES[value.type]), shape)
        self.inputs = found
        self.names = [value.name for value in self.session.get_outputs()]
        program = subject.model.program if subject.model is not None else None
        if program is not None and any(node.get("accuracy_level", 0) >= _INT8 for node in program.graph.nodes):
            self.notes = ("the model asks ONNX Runtime to round activations to 8 bits (accuracy_level 4)",)

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            return dict(zip(self.names, self.session.run(None, dict(values)), strict=True))
        except Exception as error:
            raise relayed("ONNX Runtime", error) from error


def open_runner(subject: Subject) -> Runner:
    """Raises UnsupportedError (not an ONNX model, not installed)."""
    if subject.model is None or subject.model.format != "onnx":
        raise UnsupportedError("ONNX Runtime runs ONNX models", code="runtime", path=subject.path)
    try:
        return _Session(subject)
    except ImportError as error:
        raise UnsupportedError(
            "ONNX Runtime is not installed", code="not-installed", hint="pip install onnxruntime"
        ) from error
