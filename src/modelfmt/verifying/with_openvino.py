"""OpenVINO's CPU plugin, in float32, with nothing quantized on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import GraphRunner, Runner, Subject, relayed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["open_runner"]

_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}
_TYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "boolean": "bool"} | {
    f"{sign}{bits}": f"{word}{bits}" for sign, word in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}


class _Request(GraphRunner):
    name = "openvino"

    def __init__(self, subject: Subject) -> None:
        import numpy as np
        import openvino

        try:
            core = openvino.Core()
            model = core.read_model(str(subject.path))
            self.request = core.compile_model(model, "CPU", _EXACT).create_infer_request()
        except Exception as error:
            raise relayed("OpenVINO", error) from error
        found = {}
        for value in model.inputs:
            kind = _TYPES.get(value.get_element_type().get_type_name())
            if kind is None:
                raise UnsupportedError("no array holds this input", code="verify-input", place=value.get_any_name())
            shape = [size.get_length() if size.is_static else None for size in value.get_partial_shape()]
            found[value.get_any_name()] = (np.dtype(kind), shape)
        self.inputs = found

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            found = self.request.infer(dict(values), share_inputs=False, share_outputs=False)
        except Exception as error:
            raise relayed("OpenVINO", error) from error
        return {output.get_any_name(): value for output, value in found.items()}

    def reset(self) -> None:
        self.request.reset_state()


def open_runner(subject: Subject) -> Runner:
    """Raises UnsupportedError (not an OpenVINO model, not installed)."""
    if subject.model is not None:
        raise UnsupportedError("OpenVINO runs its own .xml here", code="runtime", path=subject.path)
    try:
        return _Request(subject)
    except ImportError as error:
        raise UnsupportedError(
            "OpenVINO is not installed", code="not-installed", hint="pip install openvino"
        ) from error
