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
from llama_products import Observer
from llama_vocab import Refused

_U32, _I32, _F32, _POINTER = ctypes.c_uint32, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p
_F32_TYPE = 0  # enum ggml_type
_POOLING_OF_THE_FILE, _POOLING_NONE, _FLASH_OFF = -1, 0, 0
_MTP = 1  # enum llama_context_type

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

    def __init__(self, path: Path, *, check: bool = True, drafts: bool = False) -> None:
        llama_vocab._LOG.clear()
        library = _library()
        params = library.llama_model_default_params()
        assert bytes(params.raw)[llama_vocab._BOOLEANS :][:5] == llama_vocab._DEFAULTS
        params.raw[llama_vocab._BOOLEANS + 5] = drafts  # load_mtp
        params.raw[llama_vocab._BOOLEANS + 1] = check  # check_tensors: every block is looked at for NaN
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise Refused("".join(llama_vocab._LOG))
        self.n_vocab = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model)))
        self.n_embd = int(library.llama_model_n_embd_out(self._model))

    def logits(self, tokens: Sequence[int], adapter: Path | None = None) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary]: after each token, the logits of the next. adapter: a GGUF adapter."""
        with Session(self, adapter=adapter) as session:
            return session.run(tokens)

    def embeddings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, width]: the last hidden state at each token."""
        with Session(self, embeddings=True) as session:
            return session.run(tokens)

    def answers(self, question: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary]: the logits of a decoder after each token, where the encoder read `question`."""
        with Session(self) as session:
            session.encode(question)
            return session.run(tokens)

    def encodings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, width]: what the encoder of an encoder-decoder makes of each token."""
        with Session(self, embeddings=True) as session:
            return session.encode(tokens)

    def pooled(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [width]: what the file's pooling, and what lies behind it, make of a text."""
        with Session(self, embeddings=True, pooling=_POOLING_OF_THE_FILE) as session:
            return session.pooled(tokens)

    def draft(self, tokens: Sequence[int], hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary]: what the layer that predicts a further token makes of each token and the hidden
        state before it, float32 [tokens, width]. The network was opened with `drafts`."""
        with Session(self, ctx_type=_MTP) as session:
            return session.run(tokens, hidden=np.ascontiguousarray(hidden, np.float32))

    def close(self) -> None:
        _library().llama_model_free(self._model)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session:
    """A context of a network: texts of up to n_ctx tokens, one after another, each from the start.

    embeddings: hidden states instead of logits. pooling: whose pooling, llama.cpp's number. adapter: a GGUF adapter
    that works, times one. products: what llama_products.Observer sees of every matrix product. options: other fields
    of llama_context_params.
    """

    def __init__(
        self,
        network: Network,
        *,
        n_ctx: int = 256,
        threads: int = 1,
        embeddings: bool = False,
        products: Observer | None = None,
        adapter: Path | None = None,
        pooling: int = _POOLING_NONE,
        **options: Any,
    ) -> None:
        self._library = _library()
        params = self._library.llama_context_default_params()
        found = {name: getattr(params, name) for name in _DEFAULTS}
        assert found == _DEFAULTS, "llama_context_params has another layout in this wheel"
        params.n_ctx, params.n_threads, params.n_threads_batch = n_ctx, threads, threads
        params.type_k = params.type_v = _F32_TYPE
        params.pooling_type, params.flash_attn_type = pooling, _FLASH_OFF
        params.embeddings = embeddings
        for name, value in options.items():
            setattr(params, name, value)
        self._embeddings = embeddings
        self._products = products  # ctypes keeps no reference to a callback
        params.cb_eval = None if products is None else ctypes.cast(products.callback, _POINTER)
        self._context = self._library.llama_init_from_model(network._model, params)
        assert self._context, "".join(llama_vocab._LOG)
        if adapter is not None:
            self._adapt(network, adapter)
        self._get = self._library.llama_get_embeddings_ith if embeddings else self._library.llama_get_logits_ith
        self._width = network.n_embd if embeddings else network.n_vocab

    def _adapt(self, network: Network, path: Path) -> None:
        """Raises llama_vocab.Refused."""
        llama_vocab._LOG.clear()
        adapter = self._library.llama_adapter_lora_init(network._model, str(path).encode())  # freed with the model
        if not adapter:
            raise Refused("".join(llama_vocab._LOG))
        failed = self._library.llama_set_adapters_lora(self._context, (_POINTER * 1)(adapter), 1, (_F32 * 1)(1.0))
        assert failed == 0, "".join(llama_vocab._LOG)

    def run(
        self, tokens: Sequence[int], first: int = 0, hidden: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """float32 [tokens - first, width]: logits of the next token (or hidden states) from token `first` on. hidden:
        what a context that drafts reads beside each token."""
        return self._outputs(self._library.llama_decode, tokens, first, hidden)

    def encode(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, width]: what the encoder makes of each token; the decoder of the next run looks at it.

        Logits are not the encoder's: for those of a session without embeddings the answer is empty.
        """
        return self._outputs(self._library.llama_encode, tokens, 0 if self._embeddings else len(tokens))

    def pooled(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [width]: of a session with the pooling of the file, what becomes of a text."""
        batch = self._batch(tokens, 0)
        failed = self._library.llama_decode(self._context, batch)
        assert failed == 0, "".join(llama_vocab._LOG)
        found = self._library.llama_get_embeddings_seq(self._context, 0)
        return np.array(np.ctypeslib.as_array(found, (self._width,)), np.float32)

    def _batch(self, tokens: Sequence[int], first: int) -> _Batch:
        count = len(tokens)
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        return _Batch(
            n_tokens=count,
            token=(_I32 * count)(*tokens),
            logits=(ctypes.c_int8 * count)(*[i >= first for i in range(count)]),
        )

    def _outputs(
        self, compute: Any, tokens: Sequence[int], first: int, hidden: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        count = len(tokens)
        batch = self._batch(tokens, first)
        batch.embd = None if hidden is None else hidden.ctypes.data
        failed = compute(self._context, batch)
        if self._products is not None and self._products.error is not None:
            raise self._products.error
        assert failed == 0, "".join(llama_vocab._LOG)
        rows = [np.ctypeslib.as_array(self._get(self._context, i), (self._width,)) for i in range(first, count)]
        return np.array(rows, np.float32).reshape(count - first, self._width)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.llama_free(self._context)


@cache
def _library() -> Any:
    library = llama_vocab._library()
    floats = ctypes.POINTER(_F32)
    for name, result, arguments in (
        ("llama_model_n_embd_out", _I32, [_POINTER]),
        ("llama_context_default_params", _Context, []),
        ("llama_init_from_model", _POINTER, [_POINTER, _Context]),
        ("llama_encode", _I32, [_POINTER, _Batch]),
        ("llama_decode", _I32, [_POINTER, _Batch]),
        ("llama_get_memory", _POINTER, [_POINTER]),
        ("llama_memory_clear", None, [_POINTER, ctypes.c_bool]),
        ("llama_get_logits_ith", floats, [_POINTER, _I32]),
        ("llama_get_embeddings_ith", floats, [_POINTER, _I32]),
        ("llama_get_embeddings_seq", floats, [_POINTER, _I32]),
        ("llama_adapter_lora_init", _POINTER, [_POINTER, ctypes.c_char_p]),
        ("llama_set_adapters_lora", _I32, [_POINTER, ctypes.POINTER(_POINTER), ctypes.c_size_t, floats]),
        ("llama_free", None, [_POINTER]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
