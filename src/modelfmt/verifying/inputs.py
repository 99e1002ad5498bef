"""What both models are given: token ids, and everything else that the inputs of a graph ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfmt.errors import SourceMissing, UnsupportedError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Window", "feeds", "of_text", "random_tokens"]

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "mask_token_id", "decoder_start_token_id")


def random_tokens(config: Mapping[str, Any], length: int, seed: int) -> NDArray[np.int64]:
    """Seeded token ids [length] of the vocabulary, special ones of config.json left out. Raises UsageError."""
    import numpy as np

    config = {**config, **config["text_config"]} if isinstance(config.get("text_config"), Mapping) else config
    size = config.get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise UsageError("the size of the vocabulary is not known", code="tokens", hint="give the tokens themselves")
    special = {one for key in _SPECIAL for one in _numbers(config.get(key))}
    allowed = np.array([one for one in range(size) if one not in special] or [0], np.int64)
    return np.random.default_rng(seed).choice(allowed, length)


def _numbers(value: Any) -> list[int]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


def of_text(path: str | Path, assets: Mapping[str, bytes], length: int) -> NDArray[np.int64]:
    """The first `length` tokens of a text file, by the model's tokenizer.json and the package `tokenizers`. Raises
    SourceMissing, UnsupportedError."""
    import numpy as np

    try:
        import tokenizers
    except ImportError as error:
        raise UnsupportedError(
            "a text needs the package tokenizers", code="not-installed", hint="pip install tokenizers"
        ) from error
    if "tokenizer.json" not in assets:
        raise UnsupportedError("there is no tokenizer.json for this text", code="no-tokenizer", hint="give tokens")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceMissing("the text cannot be read", code="source-missing", path=path, found=error) from error
    try:
        ids = tokenizers.Tokenizer.from_str(assets["tokenizer.json"].decode()).encode(text).ids
    except Exception as error:  # whatever that package raises
        raise UnsupportedError("tokenizers cannot use this tokenizer.json", code="no-tokenizer", found=error) from error
    return np.array(ids[:length], np.int64)


class Window:
    """Tokens start..stop of a text whose beginning was seen before, batch of one."""

    def __init__(self, ids: NDArray[np.int64], start: int, stop: int, past: Mapping[str, Any]) -> None:
        self.ids = ids[None, start:stop]
        self.start, self.stop, self.past = start, stop, past


def _ones(window: Window) -> Any:
    return _row(window.stop)


def _positions(window: Window) -> Any:
    import numpy as np

    return np.arange(window.start, window.stop, dtype=np.int64)[None]


def _zeros(window: Window) -> Any:
    import numpy as np

    return np.zeros_like(window.ids)


def _first_beam(_: Window) -> Any:
    import numpy as np

    return np.zeros(1, np.int32)


def _row(length: int) -> Any:
    import numpy as np

    return np.ones((1, length), np.int64)


def _branch(window: Window) -> Any:
    import numpy as np

    return np.array([bool(window.past)])


_ENCODED = 8
"""How many states of an encoder a decoder is given."""

_MADE = {
    "input_ids": lambda window: window.ids,
    "attention_mask": _ones,
    "position_ids": _positions,
    "token_type_ids": _zeros,
    "beam_idx": _first_beam,
    "decoder_input_ids": lambda window: window.ids,
    "encoder_attention_mask": lambda _: _row(_ENCODED),
    "use_cache_branch": _branch,
}
"""Input of a text model -> its value; names are optimum's."""


def feeds(inputs: Mapping[str, tuple[Any, Sequence[Any]]], window: Window, seed: int) -> dict[str, Any]:
    """Arrays for the inputs (name -> NumPy type, shape). Caches are those of the window, or empty; other inputs that
    are numbers (pixels, features) are seeded noise. Raises UnsupportedError."""
    import numpy as np

    made = {}
    for name, (kind, shape) in inputs.items():
        if name in window.past:
            made[name] = window.past[name]
        elif name.startswith("past_key_values."):
            made[name] = np.zeros([1, *(size if isinstance(size, int) else 0 for size in shape[1:])], kind)
        elif name in _MADE:
            made[name] = np.ascontiguousarray(_MADE[name](window))
        elif np.issubdtype(kind, np.floating):
            sizes = [size if isinstance(size, int) else _ENCODED for size in shape[1:]]
            made[name] = np.random.default_rng(seed).standard_normal((1, *sizes), np.float32).astype(kind)
        else:
            raise UnsupportedError(
                "no value is made up for this input of the graph",
                code="verify-input",
                place=name,
                found=f"{np.dtype(kind).name} {list(shape)}",
                allowed=", ".join(_MADE),
            )
    return made
