"""llama.cpp's own tokenizer, for comparison: a vocabulary-only GGUF loaded through the C API of the xllamacpp wheel.

The wheel's extension module exports llama.cpp's C functions; ctypes calls them. `llama_model_params` is passed by
value, so its layout matters: 72 bytes of pointers and numbers, then the booleans, of which `vocab_only` is the first.
The defaults of the booleans are checked, so that another layout fails loudly.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_BOOLEANS = 72
_DEFAULTS = bytes([0, 0, 1, 0, 0])  # vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc


class _Params(ctypes.Structure):
    _fields_ = (("raw", ctypes.c_ubyte * 128),)


class Refused(Exception):
    """llama.cpp does not load the file; the message is what it logged."""


class Vocab:
    """The tokenizer of a GGUF file, as llama.cpp runs it."""

    def __init__(self, path: Path) -> None:
        library = _library()
        _LOG.clear()
        params = library.llama_model_default_params()
        assert bytes(params.raw)[_BOOLEANS : _BOOLEANS + 5] == _DEFAULTS, (
            "llama_model_params has another layout in this wheel"
        )
        params.raw[_BOOLEANS] = 1
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise Refused("".join(_LOG))
        self._vocab = library.llama_model_get_vocab(self._model)
        self.log = "".join(_LOG)

    def __len__(self) -> int:
        return int(_library().llama_vocab_n_tokens(self._vocab))

    def encode(self, text: str, *, special: bool = False, parse: bool = False) -> list[int]:
        """Token ids. special: with bos and eos as the file says. parse: control tokens in the text are recognised."""
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 16))()
        count = _library().llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), special, parse)
        assert count >= 0
        return list(ids[:count])

    def piece(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(1024)
        count = _library().llama_token_to_piece(self._vocab, token_id, buffer, 1024, 0, True)
        return buffer.raw[:count]

    @property
    def first(self) -> int | None:
        """The token that a text has to start with, None where it may start with any."""
        if not _library().llama_vocab_get_add_bos(self._vocab):
            return None
        return int(_library().llama_vocab_bos(self._vocab))

    def ends(self, token_id: int) -> bool:
        """Whether generation stops at this token."""
        return bool(_library().llama_vocab_is_eog(self._vocab, token_id))

    def close(self) -> None:
        _library().llama_model_free(self._model)


def write_vocab(path: Path, metadata: Iterable[tuple[str, str, Any]]) -> Path:
    """A GGUF file without tensors that holds this tokenizer, written by gguf-py."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (("block_count", 1), ("context_length", 64), ("embedding_length", 8), ("feed_forward_length", 8)):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_uint32("llama.rope.dimension_count", 8)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, kind, value in metadata:
        kind, _, element = kind.partition(":")
        if kind == "ARRAY":
            sub = gguf.GGUFValueType[element]
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, None if element == "STRING" else sub)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


_LOG: list[str] = []


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _keep_log(_level: int, text: bytes, _data: Any) -> None:
    _LOG.append(text.decode("utf-8", "replace"))


@cache
def _library() -> Any:
    spec = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert spec is not None and spec.origin is not None
    library = ctypes.CDLL(spec.origin)
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("llama_model_default_params", _Params, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, _Params]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_model_free", None, [pointer]),
        ("llama_vocab_n_tokens", integer, [pointer]),
        ("llama_vocab_get_add_bos", ctypes.c_bool, [pointer]),
        ("llama_vocab_bos", integer, [pointer]),
        ("llama_vocab_is_eog", ctypes.c_bool, [pointer, integer]),
        ("llama_log_set", None, [pointer, pointer]),
        ("llama_backend_init", None, []),
        (
            "llama_tokenize",
            integer,
            [pointer, ctypes.c_char_p, integer, ctypes.POINTER(integer), integer, ctypes.c_bool, ctypes.c_bool],
        ),
        ("llama_token_to_piece", integer, [pointer, integer, ctypes.c_char_p, integer, integer, ctypes.c_bool]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_log_set(ctypes.cast(_keep_log, pointer), None)
    library.llama_backend_init()
    return library
