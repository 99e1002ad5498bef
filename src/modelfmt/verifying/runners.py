"""What runs a model: our NumPy reference, ONNX Runtime, OpenVINO, llama.cpp's server, transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt.errors import ModelfmtError, UnsupportedError, UsageError
from modelfmt.verifying.inputs import Window, feeds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.ir.model import Model

__all__ = ["CANNOT", "RUNTIMES", "GraphRunner", "Runner", "Subject", "opened", "relayed"]

RUNTIMES = ("auto", "numpy", "onnxruntime", "openvino", "llama.cpp", "transformers")
CANNOT = ("no-graph", "no-config", "source-kind", "runtime", "not-installed", "tokens", "unsupported-architecture")
"""Codes of errors that say that a model has no way to be run here."""
_MODULES = {"llama.cpp": "llama_cpp"}
_SEED = 0


class Subject(msgspec.Struct):
    """A model that is to run. path: what was given. model: as read; None where only its own runtime reads it. part: of
    a model of several graphs, the stem of the file that is meant."""

    path: Path
    model: Model | None
    part: str = ""


class Runner(ABC):
    """A model in a runtime. notes: what is to be said of it. steps_kl: how far (nats) tokens one by one may lie from
    all at once, which is the same network with its sums in another order."""

    name = ""
    notes: Sequence[str] = ()
    steps_kl = 1e-3

    @property
    @abstractmethod
    def cached(self) -> bool:
        """Whether it can go on from what it has seen."""

    @abstractmethod
    def outputs(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Everything that comes out of these tokens at once, caches aside."""

    @abstractmethod
    def stepped(self, ids: NDArray[np.int64], first: int) -> NDArray[Any]:
        """Logits [tokens, vocabulary] of the same tokens, `first` at once and the rest one by one with the cache."""

    def close(self) -> None:  # noqa: B027  not every runtime has something to let go
        """Let everything go."""


class GraphRunner(Runner):
    """A runtime that is given arrays by the names of a graph's inputs. inputs: name -> (NumPy type, shape; what is not
    a number is free). One that keeps its cache to itself gives `reset`, and leaves the past out of the inputs."""

    inputs: Mapping[str, tuple[Any, Sequence[Any]]]

    @abstractmethod
    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One call: outputs by name."""

    def reset(self) -> None:
        """Forget what was seen."""

    @property
    def cached(self) -> bool:
        return any(name.startswith("past_key_values.") or name == "beam_idx" for name in self.inputs)

    def outputs(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        self.reset()
        found = self.run(feeds(self.inputs, Window(ids, 0, len(ids), {}), _SEED))
        return {name: value for name, value in found.items() if not name.startswith("present")}

    def stepped(self, ids: NDArray[np.int64], first: int) -> NDArray[Any]:
        import numpy as np

        self.reset()
        past: dict[str, NDArray[Any]] = {}
        rows = []
        for start, stop in [(0, first), *((at, at + 1) for at in range(first, len(ids)))]:
            found = self.run(feeds(self.inputs, Window(ids, start, stop, past), _SEED))
            rows.append(found["logits"][0].astype(np.float32))
            new = {name.replace("present", "past_key_values"): value for name, value in found.items()}
            past |= {name: value for name, value in new.items() if name in self.inputs and value.size}
        return np.concatenate(rows)


def opened(subject: Subject, runtime: str, *, ours: bool) -> Runner:
    """The model in a runtime. ours: with `auto`, prefer the NumPy reference (for the side that is compared with) to the
    runtime that the format is made for.

    Raises UnsupportedError (a runtime that is not installed or does not run this format), UsageError.
    """
    if runtime not in RUNTIMES:
        raise UsageError("no such runtime", code="runtime", found=runtime, allowed=", ".join(RUNTIMES))
    if runtime != "auto":
        return _runner(runtime)(subject)
    own = _OWN.get("openvino" if subject.model is None else subject.model.format, "transformers")
    order = ["numpy", own] if ours else [own, "numpy"] if own != "transformers" else ["numpy", own]
    first: ModelfmtError | None = None
    for name in order:
        try:
            return _runner(name)(subject)
        except UnsupportedError as error:
            if error.code not in CANNOT:
                raise
            first = first or error
    assert first is not None
    raise first


_OWN = {"openvino": "openvino", "onnx": "onnxruntime", "gguf": "llama.cpp"}
"""Format -> the runtime that it is made for."""


def _runner(name: str) -> Callable[[Subject], Runner]:
    module = _MODULES.get(name, name)
    found: Callable[[Subject], Runner] = import_module(f"modelfmt.verifying.with_{module}").open_runner
    return found


def relayed(what: str, error: Exception) -> UnsupportedError:
    """An error of a runtime as one of ours."""
    text = " ".join(str(error).split())[:300]
    return UnsupportedError(f"{what} does not run this model", code="runtime-failed", found=text)
