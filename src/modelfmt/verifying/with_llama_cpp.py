"""llama.cpp's server, which tells the log-probability of every token: inside this process by the package xllamacpp.

After `n` tokens it is asked for the distribution of the next, once for each n: without its cache all of them are
computed anew, with it only the last.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from modelfmt.errors import UnsupportedError
from modelfmt.verifying.runners import Runner, Subject, relayed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["open_runner"]

_TIMEOUT_S = 600
_ROUNDED_KL = 0.05
_ROUNDED = "llama.cpp rounds activations to 8 bits before products with quantized weights: part of what is measured"
_SILENT = -1
_CERTAIN = 1e6


class _Server(Runner):
    name = "llama.cpp"

    def __init__(self, subject: Subject) -> None:
        import xllamacpp

        assert subject.model is not None
        own = f"{subject.model.metadata.get('general.architecture')}."
        self.pooled = subject.model.metadata.get(own + "pooling_type", 0) != 0
        tokens = list(subject.model.metadata.get("tokenizer.ggml.tokens", ()))
        self.n_vocab = len(tokens)
        self.plain = next((n for n, text in enumerate(tokens) if text.isascii() and text.isalnum()), 0)
        self.encoder = subject.model.metadata.get(own + "attention.causal") is False
        params = xllamacpp.CommonParams()
        params.model.path = str(subject.path)
        params.n_ctx = 0
        params.n_parallel = 1
        params.warmup = False
        params.verbosity = _SILENT
        params.fit_params = False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.embedding = self.encoder
        try:
            self.server: Any = xllamacpp.Server(params)
        except Exception as error:
            raise relayed("llama.cpp", error) from error
        self.address = self.server.listening_address
        if any(not tensor.encoding.dense for tensor in subject.model.tensors.values()):
            self.notes, self.steps_kl = (_ROUNDED,), _ROUNDED_KL

    @property
    def cached(self) -> bool:
        return not self.encoder

    def close(self) -> None:
        self.server = None

    def outputs(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        import numpy as np

        if not self.encoder:
            return {"logits": np.stack([self._next(ids[: n + 1], cache=False) for n in range(len(ids))])[None]}
        (found,) = self._asked("/embeddings", {"content": ids.tolist(), "embd_normalize": -1})
        rows = np.array(found["embedding"], np.float32)
        return {"sentence_embedding" if self.pooled else "last_hidden_state": rows[None] if not self.pooled else rows}

    def stepped(self, ids: NDArray[np.int64], first: int) -> NDArray[Any]:
        import numpy as np

        start = self._next(ids[:first], cache=True)[None]
        before = [self._next(ids[: n + 1], cache=False)[None] for n in range(first - 1)]
        return np.concatenate(
            [*before, start, *(self._next(ids[: n + 1], cache=True)[None] for n in range(first, len(ids)))]
        )

    def _next(self, ids: NDArray[np.int64], *, cache: bool) -> NDArray[np.float32]:
        """Log-probabilities [vocabulary] of what follows."""
        import numpy as np

        question = {"prompt": ids.tolist(), "n_predict": 1, "n_probs": self.n_vocab, "cache_prompt": cache}
        question["logit_bias"] = [[self.plain, _CERTAIN]]  # what is drawn; the probabilities are those before it
        answer = self._asked("/completion", question)
        try:
            rows = answer["completion_probabilities"][0]["top_logprobs"]
            found = np.full(len(rows), -np.inf, np.float32)
            found[[row["id"] for row in rows]] = [row["logprob"] for row in rows]
        except (KeyError, IndexError, TypeError) as error:
            raise relayed("llama.cpp", error) from error
        return np.maximum(found, -1e4)

    def _asked(self, path: str, question: dict[str, Any]) -> Any:
        request = Request(self.address + path, json.dumps(question).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except (URLError, OSError, ValueError) as error:
            raise relayed("llama.cpp", error) from error


def open_runner(subject: Subject) -> Runner:
    """Raises UnsupportedError (not a GGUF file, xllamacpp not installed, refused by llama.cpp)."""
    if subject.model is None or subject.model.format != "gguf":
        raise UnsupportedError("llama.cpp runs GGUF files", code="runtime", path=subject.path)
    try:
        return _Server(subject)
    except ImportError as error:
        raise UnsupportedError(
            "the package xllamacpp is not installed", code="not-installed", hint="pip install xllamacpp"
        ) from error
