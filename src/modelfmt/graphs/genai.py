"""What onnxruntime-genai reads beside a decoder's graph: genai_config.json, and a tokenizer.json where there is none.

Special tokens and the way of choosing come from generation_config.json, else config.json, else the tokenizer's files.
The tokenizer's end token ends a text, too: that of chat models ends a turn, and their config.json often lacks it.
Source: onnxruntime-genai 0.18, src/config.cpp, model_type.h and models/builders/base.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelfmt import tokenizers
from modelfmt.errors import UnsupportedError
from modelfmt.graphs.weights import Weights
from modelfmt.ir.graph import Graph
from modelfmt.report import Note
from modelfmt.storage import strict_json
from modelfmt.tokenizers import rebuild

__all__ = ["TYPES", "beside"]

TYPES = {
    name: name
    for name in (
        *("ernie4_5", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "nemotron", "olmo", "phi"),
        *("phi3", "qwen2", "qwen3", "smollm3"),
    )
} | {"gemma3": "gemma3_text"}
"""Model type of a checkpoint -> what genai calls it. Any other decoder is a "decoder" there; GPT-2, too: genai's own
type for it has keys and values in one tensor."""

_SEARCH: dict[str, Any] = {
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": True,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
"""What genai takes from a generation config, with transformers' defaults."""


def beside(graph: Graph, weights: Weights, assets: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[Note]]:
    """The files for a graph, and what tokenizer.json does otherwise than a tokenizer.model that it is made from. Raises
    UnsupportedError (no decoder with a cache, no end token), CorruptFile."""
    files, notes = {}, []
    if "tokenizer.json" not in assets:
        tokenizer = tokenizers.read(assets, config=weights.config, vocab_size=int(weights.params["vocab_size"]))
        if tokenizer is not None:
            made = rebuild.rebuild(tokenizer, context_length=int(weights.params["n_ctx"]))
            files["tokenizer.json"] = made.files["tokenizer.json"]
            notes = [Note("tokenizer.json", str(note)) for note in made.notes]
    files["genai_config.json"] = _configuration(graph, weights, {**assets, **files})
    return files, notes


def _configuration(graph: Graph, weights: Weights, assets: Mapping[str, bytes]) -> bytes:
    names = {value.name for value in (*graph.inputs, *graph.outputs)}
    if not {"logits", "past_key_values.0.key"} <= names:
        raise UnsupportedError(
            "onnxruntime-genai runs decoders with a cache",
            code="genai",
            found=weights.arch.gguf,
            hint="use the profile ort",
        )
    files = {name: _parsed(assets, name) for name in ("generation_config.json", "config.json", "tokenizer_config.json")}
    generation, own, tokenizer = files["generation_config.json"], weights.config, files["tokenizer_config.json"]
    ids = _ids(assets, tokenizer)
    first = {kind: _first([*_tokens(kind, generation, own), *ids(kind)]) for kind in ("bos", "pad")}
    ends = list(dict.fromkeys([*_tokens("eos", generation, own), *ids("eos")]))
    if not ends:
        raise UnsupportedError(
            "no end token: neither the configuration nor the tokenizer names one",
            code="genai",
            hint="put eos_token_id into generation_config.json",
        )
    params = weights.params
    shared = any(node.op == "GroupQueryAttention" for node in graph.nodes)
    model = {
        "bos_token_id": ends[0] if first["bos"] is None else first["bos"],
        "context_length": int(params["n_ctx"]),
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": int(params["head_size"]),
            "hidden_size": int(params["n_embd"]),
            "inputs": _named(names, _INPUTS),
            "outputs": _named(names, _OUTPUTS),
            "num_attention_heads": int(params["n_head"]),
            "num_hidden_layers": int(params["n_layer"]),
            "num_key_value_heads": int(params["n_head_kv"]),
        },
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": ends[0] if first["pad"] is None else first["pad"],
        "type": TYPES.get(str(weights.config.get("model_type")), "decoder"),
        "vocab_size": int(params["vocab_size"]),
    }
    search = {key: usual if generation.get(key) is None else generation[key] for key, usual in _SEARCH.items()}
    search |= {"max_length": int(params["n_ctx"]), "past_present_share_buffer": shared}
    return (json.dumps({"model": model, "search": search}, indent=4) + "\n").encode()


_INPUTS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "position_ids": "position_ids",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
}
_OUTPUTS = {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}


def _named(names: set[str], table: Mapping[str, str]) -> dict[str, str]:
    return {key: name for key, name in table.items() if name.replace("%d", "0") in names}


def _parsed(assets: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    found = strict_json.parse(assets[name], path=name, non_finite=True) if name in assets else {}
    return found if isinstance(found, Mapping) else {}


def _first(found: list[int]) -> int | None:
    return found[0] if found else None


def _tokens(kind: str, *configs: Mapping[str, Any]) -> list[int]:
    """Ids that the first configuration to name a special token gives to it, one or several."""
    key = f"{kind}_token_id"
    given = next((config[key] for config in configs if config.get(key) is not None), None)
    return [one for one in (given if isinstance(given, list) else [given]) if type(one) is int and one >= 0]


def _ids(assets: Mapping[str, bytes], tokenizer: Mapping[str, Any]) -> Any:
    """What looks the tokenizer's own special tokens up among those that were added to its vocabulary."""
    added = _parsed(assets, "tokenizer.json").get("added_tokens") if "tokenizer.json" in assets else None
    table = {row.get("content"): row.get("id") for row in added or () if isinstance(row, Mapping)}

    def look(kind: str) -> list[int]:
        token = tokenizer.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        found = table.get(token)
        return [found] if isinstance(found, int) else []

    return look
