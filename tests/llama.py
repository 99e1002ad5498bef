"""llama.cpp's own network, for comparison: logits and embeddings of token ids from a GGUF file, through its C API.

The structures that pass by value are those of llama.h of this wheel's release; a few defaults are checked, so that
another layout fails loudly. Keys and values are kept as float32 and flash attention is off, so that only the weights'
own types round.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import llama_vocab
from llama_vocab import Refused

_U32, _I32, _F32, _POINTER = ctypes.c_uint32, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p
_F32_TYPE = 0  # enum ggml_type
_POOLING_NONE, _FLASH_OFF = 0, 0

_DEFAULTS = {"n_batch": 2048, "n_ubatch": 512, "flash_attn_type": -1, "yarn_beta_slow": -1, "type_k": 1, "type_v": 1}
_DEFAULTS |= {"embeddings": False, "offload_kqv": True, "swa_full": True, "samplers": None, "ctx_other": None}


class _Context(ctypes.Structure):
    """struct llama_context_params."""

    _fields_ = (
        *((name, _U32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, _U32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, _I32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, _I32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, _F32) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, _F32) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", _U32),
        ("defrag_thold", _F32),
        *((name, _POINTER) for name in ("cb_eval", "cb_eval_user_data")),
        *((name, _I32) for name in ("type_k", "type_v")),
        *((name, _POINTER) for name in ("abort_callback", "abort_callback_data", "undocumented")),
        *((name, ctypes.c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
        *((name, ctypes.c_bool) for name in ("swa_full", "kv_unified")),
        ("samplers", _POINTER),
        ("n_samplers", ctypes.c_size_t),
        ("ctx_other", _POINTER),
    )


class _Batch(ctypes.Structure):
    """struct llama_batch."""

    _fields_ = (
        ("n_tokens", _I32),
        ("token", ctypes.POINTER(_I32)),
        ("embd", _POINTER),
        ("pos", _POINTER),
        ("n_seq_id", _POINTER),
        ("seq_id", _POINTER),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Network:
    """A GGUF file, loaded. Raises llama_vocab.Refused with what llama.cpp logged."""

    def __init__(self, path: Path, *, check: bool = True) -> None:
        llama_vocab._LOG.clear()
        library = _library()
        params = library.llama_model_default_params()
        assert bytes(params.raw)[llama_vocab._BOOLEANS :][:5] == llama_vocab._DEFAULTS
        params.raw[llama_vocab._BOOLEANS + 1] = check  # check_tensors: every block is looked at for NaN
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise Refused("".join(llama_vocab._LOG))
        self.n_vocab = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model)))
        self.n_embd = int(library.llama_model_n_embd(self._model))

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary]: after each token, the logits of the next."""
        return self._run(tokens, embeddings=False)

    def embeddings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, width]: the last hidden state at each token."""
        return self._run(tokens, embeddings=True)

    def answers(self, question: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary]: the logits of a decoder after each token, where the encoder read `question`."""
        return self._run(tokens, embeddings=False, question=question)

    def encodings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, width]: what the encoder of an encoder-decoder makes of each token."""
        return self._run(tokens, embeddings=True, encode=True)

    def _run(
        self, tokens: Sequence[int], *, embeddings: bool, question: Sequence[int] = (), encode: bool = False
    ) -> NDArray[np.float32]:
        library = _library()
        params = library.llama_context_default_params()
        found = {name: getattr(params, name) for name in _DEFAULTS}
        assert found == _DEFAULTS, "llama_context_params has another layout in this wheel"
        params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
        params.type_k = params.type_v = _F32_TYPE
        params.pooling_type, params.flash_attn_type = _POOLING_NONE, _FLASH_OFF
        params.embeddings = embeddings
        context = library.llama_init_from_model(self._model, params)
        assert context, "".join(llama_vocab._LOG)
        try:
            if question:
                assert library.llama_encode(context, _batch(question)) == 0, "".join(llama_vocab._LOG)
            compute = library.llama_encode if encode else library.llama_decode
            assert compute(context, _batch(tokens)) == 0, "".join(llama_vocab._LOG)
            get = library.llama_get_embeddings_ith if embeddings else library.llama_get_logits_ith
            width = self.n_embd if embeddings else self.n_vocab
            return np.stack([np.ctypeslib.as_array(get(context, i), (width,)).copy() for i in range(len(tokens))])
        finally:
            library.llama_free(context)

    def close(self) -> None:
        _library().llama_model_free(self._model)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _batch(tokens: Sequence[int]) -> _Batch:
    count = len(tokens)
    return _Batch(n_tokens=count, token=(_I32 * count)(*tokens), logits=(ctypes.c_int8 * count)(*[1] * count))


@cache
def _library() -> Any:
    library = llama_vocab._library()
    floats = ctypes.POINTER(_F32)
    for name, result, arguments in (
        ("llama_model_n_embd", _I32, [_POINTER]),
        ("llama_context_default_params", _Context, []),
        ("llama_init_from_model", _POINTER, [_POINTER, _Context]),
        ("llama_encode", _I32, [_POINTER, _Batch]),
        ("llama_decode", _I32, [_POINTER, _Batch]),
        ("llama_get_logits_ith", floats, [_POINTER, _I32]),
        ("llama_get_embeddings_ith", floats, [_POINTER, _I32]),
        ("llama_free", None, [_POINTER]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
