"""Encoder-decoders: T5 and its kin, Whisper. Two structural graphs, the encoder and the decoder with its cache.

Files, inputs and outputs are optimum's: encoder_model (input_ids, attention_mask or input_features; last_hidden_state)
and decoder_model_merged (input_ids, encoder_hidden_states, encoder_attention_mask of texts, use_cache_branch,
past_key_values.{i}.decoder.key, .value, .encoder.key, .value; logits, present..). The cache of the decoder grows; the
encoder's keys and values are made where use_cache_branch is false. Source: transformers 5.24 models/{t5,umt5,whisper}/.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from modelfmt.graphs.builder import Form
from modelfmt.graphs.stack import Stack, Tower
from modelfmt.graphs.weights import Weights
from modelfmt.ir.graph import Affine, Dim, Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SUPPORTED", "buckets", "build"]

SUPPORTED = frozenset({"t5", "mt5", "umt5", "whisper"})
"""Model types whose graphs were checked against transformers."""

_BATCH, _ENCODED, _SEQUENCE, _PAST = (
    "batch_size",
    "encoder_sequence_length",
    "decoder_sequence_length",
    "past_decoder_sequence_length",
)


def build(weights: Weights, form: Form) -> dict[str, Graph]:
    """The graphs by the stems of their files: of an encoder alone, `model`."""
    audio = weights.arch.graph.get("input") == "audio"
    parts: tuple[type[_Part], type[_Part]] = (_Audio, _AudioDecoder) if audio else (_Text, _TextDecoder)
    if weights.arch.graph["block"] == "encoder":
        return {"model": parts[0](weights, form).build()}
    return {"encoder_model": parts[0](weights, form).build(), "decoder_model_merged": parts[1](weights, form).build()}


def buckets(count: int, furthest: int, *, both_ways: bool) -> NDArray[np.int64]:
    """int64 [2 * furthest + 1]: the row of T5's table for each distance from -furthest to furthest. Half of the rows
    are for one distance each, the others for ranges that grow; those before and those behind have rows of their own.

    >>> buckets(8, 16, both_ways=True)[[0, 14, 15, 16, 17, 18, 32]].tolist()
    [3, 2, 1, 0, 5, 6, 7]
    """
    import numpy as np

    distance = np.arange(-furthest, furthest + 1)
    rows = count // 2 if both_ways else count
    shift = np.where(distance > 0, rows, 0) if both_ways else 0
    apart = np.abs(distance) if both_ways else -np.minimum(distance, 0)
    exact = rows // 2
    with np.errstate(divide="ignore"):
        grown = np.log(apart.astype(np.float32) / np.float32(exact)) / np.float32(math.log(furthest / exact))
    far = exact + np.where(apart > 0, grown * np.float32(rows - exact), 0).astype(np.int64)
    found: NDArray[np.int64] = shift + np.where(apart < exact, apart, np.minimum(far, rows - 1))
    return found


class _Part(Stack, ABC):
    """The encoder or the decoder."""

    def tower(self, *, decodes: bool) -> Tower:
        params = self.params
        layers = int(params["n_decoder_layer" if decodes else "n_layer"])
        heads = int(params.get("n_decoder_head" if decodes else "n_head") or params["n_head"])
        size = int(params.get("head_size") or params["n_embd"] // heads)
        scale = float(self.shape.get("attention_scale") or 1.0 / math.sqrt(size))
        prefix, base = ("dec.", "/decoder") if decodes else ("enc.", "/encoder")
        return Tower(prefix, base, layers, heads, size, scale, crossed=decodes)

    @abstractmethod
    def build(self) -> Graph:
        """The graph."""

    def relative(self, bias: str, *, both_ways: bool, past: list[str]) -> str:
        """The bias of this layer: that of the last layer with a table of its own."""
        role = f"{self.role('attn_rel_b')}.weight"
        if role not in self.weights:
            return f"/{self.prefix}0/bias_out"
        params = self.params
        count, furthest = int(params["n_buckets"]), int(params["furthest"])
        rows = self.b.constant(f"/{self.prefix}buckets", buckets(count, furthest, both_ways=both_ways))
        inputs = ["input_ids", self.b.weight(self.weights[role]), rows, bias, *past]
        return self.b.node("RelativeBias", inputs, f"/{self.prefix}{self.layer}/bias_out", furthest=furthest)

    def activation(self) -> str:
        return super().activation() if self.params.get("gated", True) else "relu"

    def encoded(self, hidden: str) -> Graph:
        """The graph of an encoder."""
        self.states(self.norm("enc.output_norm", hidden, "/encoder/norm"), None)
        return self.b.graph


class _Text(_Part):
    """T5's encoder."""

    def build(self) -> Graph:
        b, shape = self.b, (_BATCH, "sequence_length")
        b.input("input_ids", "INT64", shape, "token_ids")
        b.input("attention_mask", "INT64", shape, "attention_mask")
        hidden = self.embedding("input_ids", self.weights["token_embd.weight"], "/encoder/embed_out")
        mask = b.node("AttentionBias", ["input_ids", "attention_mask"], "/encoder/mask_out")
        hidden = self.climb(self.tower(decodes=False), hidden, lambda: self.relative(mask, both_ways=True, past=[]))
        return self.encoded(hidden)


class _Audio(_Part):
    """Whisper's encoder."""

    def build(self) -> Graph:
        b, width = self.b, int(self.params["n_embd"])
        bins, context = int(self.params["n_mel"]), int(self.params["n_ctx"])
        b.input("input_features", b.float_type, (_BATCH, bins, 2 * context), "features")
        hidden = "input_features"
        for number, stride in ((1, 1), (2, 2)):
            inputs = [hidden, *(b.weight(self.weights[f"enc.conv{number}.{part}"]) for part in ("weight", "bias"))]
            shape: dict[str, Any] = {"strides": [stride], "pads": [1, 1], "activation": "gelu"}
            hidden = b.node("Convolution", inputs, f"/encoder/conv{number}_out", **shape)
        hidden = b.node("ChannelsLast", [hidden], "/encoder/frames_out", width=width)
        positions = b.weight(self.weights["enc.position_embd.weight"])
        hidden = b.node("AddRows", [hidden, positions], "/encoder/embed_out", width=width)
        return self.encoded(self.climb(self.tower(decodes=False), hidden, lambda: ""))


class _Decoder(_Part):
    """A decoder: what comes before its layers and what is behind them. before: the first layer's keys of the tokens
    before."""

    masked = True
    before = "past_key_values.0.decoder.key"

    def build(self) -> Graph:
        b, tower = self.b, self.tower(decodes=True)
        b.input("input_ids", "INT64", (_BATCH, _SEQUENCE), "token_ids")
        b.input("encoder_hidden_states", b.float_type, (_BATCH, _ENCODED, int(self.params["n_embd"])), "hidden")
        cross = ""
        if self.masked:
            b.input("encoder_attention_mask", "INT64", (_BATCH, _ENCODED), "attention_mask")
        self.caches(tower)
        b.input("use_cache_branch", "BOOL", (1,), "use_cache")
        b.output("logits", b.float_type, (_BATCH, _SEQUENCE, int(self.params["vocab_size"])), "logits")
        for layer in range(tower.layers):
            for part in ("decoder.key", "decoder.value", "encoder.key", "encoder.value"):
                length: Dim = Affine(((_PAST, 1), (_SEQUENCE, 1))) if part.startswith("decoder") else f"{_ENCODED}_out"
                batch = _BATCH if part.startswith("decoder") else f"{_ENCODED}_{_BATCH}"
                shape: tuple[Dim, ...] = (batch, tower.heads, length, tower.head_size)
                b.output(f"present.{layer}.{part}", b.float_type, shape, f"present {layer} {part}")
        self.before = self.past(tower)[0]
        mask = b.node("AttentionBias", ["input_ids", "", self.before], "/decoder/mask_out", causal=1)
        if self.masked:
            cross = b.node("AttentionBias", ["input_ids", "encoder_attention_mask"], "/decoder/cross_mask_out")
        hidden = self.climb(tower, self.embedded(), lambda: self.biased(mask), cross)
        hidden = self.norm("dec.output_norm", hidden, "/decoder/norm")
        head = self.weights.tensors.get("output.weight", self.weights["token_embd.weight"])
        self.linear(head, hidden, "logits")
        return b.graph

    def caches(self, tower: Tower) -> None:
        """The inputs for caches."""
        fixed = tower.width == int(self.params["n_embd"])
        heads: tuple[Dim, Dim] = (tower.heads, tower.head_size) if fixed else ("cache_heads", "cache_head_size")
        for layer in range(tower.layers):
            for part in ("decoder.key", "decoder.value", "encoder.key", "encoder.value"):
                length = _PAST if part.startswith("decoder") else f"{_ENCODED}_out"
                shape: tuple[Dim, ...] = (_BATCH, heads[0], length, heads[1])
                self.b.input(f"past_key_values.{layer}.{part}", self.b.float_type, shape, f"past {layer} {part}")

    @abstractmethod
    def embedded(self) -> str:
        """The states before the first layer."""

    def biased(self, mask: str) -> str:
        """What is added to the scores of a layer."""
        return mask


class _TextDecoder(_Decoder):
    """T5's decoder. Its first graphs scale what it puts out; that is in the weights of the last norm."""

    def embedded(self) -> str:
        return self.embedding("input_ids", self.weights["token_embd.weight"], "/decoder/embed_out")

    def biased(self, mask: str) -> str:
        return self.relative(mask, both_ways=False, past=[self.before])


class _AudioDecoder(_Decoder):
    """Whisper's decoder."""

    masked = False

    def embedded(self) -> str:
        b = self.b
        hidden = self.embedding("input_ids", self.weights["token_embd.weight"], "/decoder/embed_out")
        places = b.node("Positions", ["input_ids", self.before], "/decoder/positions")
        more = self.embedding(places, self.weights["dec.position_embd.weight"], "/decoder/embed_positions_out")
        return b.node("Add", [hidden, more], "/decoder/embed_sum_out", domain="")
