"""The checks of `modelfmt.verify`, one after another, and what each found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.inputs import Window, feeds
from modelfmt.verifying.measures import Distributions, States, WeightError, distributions, states, weight_error
from modelfmt.verifying.runners import Runner, Subject, opened
from modelfmt.verifying.weights import comparable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Checks", "Verification"]

_FIRST = ("sentence_embedding", "last_hidden_state", "logits")


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, and how it ended.

    passed: every check that was made held; failures says which did not. weights: tensors in both, the worst first.
    missing: weights of the source that the result does not have under their names. outputs: of all tokens at once.
    steps: the result's one-by-one logits beside its own of all at once. layers: states after each layer. runtimes: of
    source and result. tokens: what both were given.
    """

    path: str
    against: str
    passed: bool
    failures: tuple[str, ...]
    weights: tuple[WeightError, ...] = ()
    missing: tuple[str, ...] = ()
    outputs: tuple[Distributions | States, ...] = ()
    steps: Distributions | None = None
    layers: tuple[States, ...] = ()
    runtimes: tuple[str, str] | None = None
    tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    schema: str = "modelfmt.verify/1"

    def to_json(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self)


class Checks:
    """What was found, as it is found."""

    def __init__(self, max_kl: float, min_cosine: float, max_error: float | None) -> None:
        self.max_kl, self.min_cosine, self.max_error = max_kl, min_cosine, max_error
        self.found: dict[str, Any] = {}
        self.failures: list[str] = []
        self.notes: list[str] = []

    def weights(self, source: Subject, result: Subject) -> None:
        """Tensors of the same name."""
        if source.model is None or result.model is None:
            self.notes.append("weights were not compared: OpenVINO's files are not read")
            return
        theirs, ours = comparable(source, result, self.notes)
        rows = []
        for name in sorted(theirs.keys() & ours.keys()):
            if theirs[name].shape != ours[name].shape:
                self.failures.append(f"{name}: {list(theirs[name].shape)} became {list(ours[name].shape)}")
            else:
                rows.append(weight_error(theirs[name], ours[name]))
        rows.sort(key=lambda row: -row.rms_error)
        self.found["weights"] = tuple(rows)
        self.found["missing"] = tuple(sorted(theirs.keys() - ours.keys()))
        for row in rows:
            if self.max_error is not None and not row.rms_error <= self.max_error:
                self.failures.append(f"{row.name}: error {row.rms_error:.3g}, above {self.max_error:g}")

    def outputs(self, source: Runner, result: Runner, ids: NDArray[np.int64]) -> None:
        """All tokens at once, in both; then one by one."""
        self.found |= {"tokens": tuple(ids.tolist()), "runtimes": (source.name, result.name)}
        self.notes += [*source.notes, *result.notes]
        theirs, ours = source.outputs(ids), result.outputs(ids)
        same = [name for name in _FIRST if name in theirs and name in ours]
        same += sorted(name for name in theirs.keys() & ours.keys() if name not in _FIRST)
        if not same:
            raise UnsupportedError(
                "the two have no output in common",
                code="verify-outputs",
                found=", ".join(ours),
                allowed=", ".join(theirs),
            )
        rows = [self._compared(name, theirs[name], ours[name]) for name in same]
        self.found["outputs"] = tuple(rows)
        if "logits" in same and result.cached:
            steps = distributions("logits", ours["logits"][0], result.stepped(ids, len(ids) // 2))
            self.found["steps"] = steps
            if not steps.kl_max <= result.steps_kl:
                self.failures.append(f"tokens one by one differ from all at once: KL {steps.kl_max:.3g}")

    def _compared(self, name: str, theirs: NDArray[Any], ours: NDArray[Any]) -> Distributions | States:
        if theirs.shape != ours.shape:
            raise UnsupportedError(
                "an output has another shape", code="verify-outputs", place=name, found=ours.shape, allowed=theirs.shape
            )
        if name == "logits":
            row = distributions(name, theirs, ours)
            if not row.kl_mean <= self.max_kl:
                self.failures.append(f"{name}: mean KL {row.kl_mean:.3g}, above {self.max_kl:g}")
            return row
        other = states(name, theirs, ours)
        if not other.cosine_min >= self.min_cosine:
            self.failures.append(f"{name}: cosine {other.cosine_min:.5f}, below {self.min_cosine:g}")
        return other

    def layers(self, source: Subject, result: Subject, ids: NDArray[np.int64]) -> None:
        """States after each layer, both in NumPy."""
        from modelfmt.verifying.with_numpy import NumpyRunner, layer_outputs

        seen: list[dict[int, NDArray[Any]]] = []
        for subject in (source, result):
            runner = opened(subject, "numpy", ours=True)
            assert isinstance(runner, NumpyRunner)
            wanted = {name: layer for layer, name in layer_outputs(runner.program.graph).items()}
            kept: dict[int, NDArray[Any]] = {}

            def observe(name: str, value: Any, wanted: Any = wanted, kept: Any = kept) -> None:
                if name in wanted:
                    kept[wanted[name]] = value

            runner.run(feeds(runner.inputs, Window(ids, 0, len(ids), {}), 0), observe)
            seen.append(kept)
        theirs, ours = seen
        both = sorted(theirs.keys() & ours.keys())
        if not both:
            raise UnsupportedError("layers cannot be told apart in these graphs", code="verify-outputs")
        self.found["layers"] = tuple(states(f"layer {layer}", theirs[layer], ours[layer]) for layer in both)

    def verdict(self, path: str, against: str) -> Verification:
        compared = bool(self.found.get("weights")) or bool(self.found.get("outputs"))
        if not compared and not self.failures:
            raise UnsupportedError(
                "nothing in these two can be compared", code="verify-nothing", path=path, found="; ".join(self.notes)
            )
        missing = self.found.get("missing", ())
        if missing and not self.found.get("outputs"):
            self.failures.append(
                f"{len(missing)} weights of the source are not in the result: {', '.join(missing[:4])}"
            )
        failures, notes = tuple(self.failures), tuple(self.notes)
        return Verification(
            path=path, against=against, passed=not failures, failures=failures, notes=notes, **self.found
        )
