"""The checkpoint's own class in transformers, in float32: slow, large, and what everything else is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.inputs import Window
from modelfmt.verifying.runners import GraphRunner, Runner, Subject, relayed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["open_runner"]


class _Torch(GraphRunner):
    name = "transformers"

    def __init__(self, subject: Subject) -> None:
        import numpy as np
        import torch
        import transformers

        assert subject.model is not None
        self.torch = torch
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        kind = getattr(transformers, str(subject.model.architecture), transformers.AutoModel)
        try:
            made = kind.from_pretrained(subject.path, dtype=torch.float32, local_files_only=True)
        except Exception as error:
            raise relayed("transformers", error) from error
        self.model = made.eval()
        self.inputs = {"input_ids": (np.dtype(np.int64), (None, None)), "attention_mask": (np.dtype(np.int64), (None,))}
        self.cache: Any = None
        takes = signature(made.forward).parameters
        self.past = "cache" if "cache" in takes else "past_key_values"  # its name before transformers 5.2x
        self.causal = str(subject.model.architecture).endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def cached(self) -> bool:
        return self.causal

    def reset(self) -> None:
        self.cache = None

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = {name: self.torch.from_numpy(np_value) for name, np_value in values.items()}
        more = {self.past: self.cache, "use_cache": True} if self.causal else {}
        try:
            with self.torch.no_grad():
                found = self.model(**given, **more)
        except Exception as error:
            raise relayed("transformers", error) from error
        self.cache = found.get(self.past)
        return {name: found[name].numpy() for name in ("logits", "last_hidden_state") if name in found}

    def stepped(self, ids: NDArray[np.int64], first: int) -> NDArray[Any]:
        import numpy as np

        self.reset()
        rows = []
        for start, stop in [(0, first), *((at, at + 1) for at in range(first, len(ids)))]:
            window = Window(ids, start, stop, {})
            values = {"input_ids": np.ascontiguousarray(window.ids), "attention_mask": np.ones((1, stop), np.int64)}
            rows.append(self.run(values)["logits"][0])
        return np.concatenate(rows)


def open_runner(subject: Subject) -> Runner:
    """Raises UnsupportedError (not a Hugging Face folder, not installed)."""
    if subject.model is None or subject.model.format != "huggingface":
        raise UnsupportedError("transformers runs Hugging Face folders", code="runtime", path=subject.path)
    try:
        return _Torch(subject)
    except ImportError as error:
        raise UnsupportedError(
            "transformers is not installed", code="not-installed", hint="pip install transformers torch"
        ) from error
