"""Is a converted model still its source? Weights compared by value, and what both compute for the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from modelfmt import sources
from modelfmt.errors import UnsupportedError, UsageError
from modelfmt.verifying.checks import Checks, Verification
from modelfmt.verifying.runners import CANNOT, RUNTIMES, Runner, Subject, opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RUNTIMES", "Verification", "verify"]

_LENGTH, _SHORTEST = 32, 2
_GRAPHS = ("openvino_model.xml", "model.onnx")
"""What folders call the file of their graph."""


def verify(
    path: str | PathLike[str],
    against: str | PathLike[str],
    *,
    tokens: Sequence[int] | None = None,
    text: str | PathLike[str] | None = None,
    length: int = _LENGTH,
    seed: int = 0,
    runtime: str = "auto",
    source_runtime: str = "auto",
    weights: bool = True,
    outputs: bool = True,
    layers: bool = False,
    max_kl: float = 0.1,
    min_cosine: float = 0.99,
    max_error: float | None = None,
) -> Verification:
    """Compare a converted model with its source.

    tokens, or the first `length` tokens of the file `text`, or `length` random ones: what both compute with. runtime,
    source_runtime: one of `RUNTIMES`; "auto" takes for the result the runtime that its format is made for where that is
    installed, and for the source our NumPy reference. weights, outputs: what is compared. layers: states after each
    layer, too, in NumPy. It fails where the mean KL divergence of next-token distributions is above max_kl (nats), the
    cosine of two states below min_cosine, the relative root mean square error of a weight above max_error, or where
    tokens one by one give another result than all at once.

    Raises SourceMissing, CorruptFile, UnsupportedError (nothing that can be compared), UsageError.

    >>> import numpy as np, tempfile, modelfmt
    >>> place = tempfile.mkdtemp()
    >>> _ = modelfmt.convert({"w": np.ones((4, 32), "f4")}, f"{place}/a.safetensors")
    >>> _ = modelfmt.convert(f"{place}/a.safetensors", f"{place}/b.npz")
    >>> found = verify(f"{place}/b.npz", f"{place}/a.safetensors", outputs=False)
    >>> found.passed, found.weights[0].max_error
    (True, 0.0)
    """
    if length < _SHORTEST or (tokens is not None and len(tokens) < _SHORTEST):
        raise UsageError(
            "too few tokens", code="tokens", found=length if tokens is None else len(tokens), allowed="2 and more"
        )
    with ExitStack() as stack:
        result, source = (_subject(Path(one), stack) for one in (path, against))
        source.part = result.path.stem
        check = Checks(max_kl, min_cosine, max_error)
        if weights:
            check.weights(source, result)
        if outputs:
            try:
                ids = _tokens(source, result, tokens, text, length, seed)
                theirs = _closing(opened(source, source_runtime, ours=True), stack)
                ours = _closing(opened(result, runtime, ours=False), stack)
                check.outputs(theirs, ours, ids)
                if layers:
                    check.layers(source, result, ids)
            except UnsupportedError as error:
                asked = runtime != "auto" or source_runtime != "auto" or layers
                if error.code not in CANNOT or asked or not check.found.get("weights"):
                    raise
                check.notes.append(f"what they compute was not compared: {error}")
        return check.verdict(str(path), str(against))


def _subject(path: Path, stack: ExitStack) -> Subject:
    """A file, or the graph of a folder that has one."""
    inside = [path / name for name in _GRAPHS if (path / name).exists()]
    path = inside[0] if inside else path
    if path.suffix == ".xml":
        return Subject(path, None)
    return Subject(path, stack.enter_context(sources.open(path)))


def _closing(runner: Runner, stack: ExitStack) -> Runner:
    stack.callback(runner.close)
    return runner


def _tokens(
    source: Subject,
    result: Subject,
    tokens: Sequence[int] | None,
    text: str | PathLike[str] | None,
    length: int,
    seed: int,
) -> NDArray[np.int64]:
    import numpy as np

    from modelfmt.routes.graph_source import checkpoint_of
    from modelfmt.verifying import inputs

    if tokens is not None:
        return np.array(tokens, np.int64)
    for subject in (source, result):
        if subject.model is not None and (subject.model.config or subject.model.format == "gguf"):
            found = checkpoint_of(subject.model)
            if text is not None:
                return inputs.of_text(Path(text), found.files, length)
            return inputs.random_tokens(found.config, length, seed)
    raise UnsupportedError("neither model says what its tokens are", code="tokens", hint="give the tokens themselves")
