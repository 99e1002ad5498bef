"""Layers that most transformers share: norm, attention, norm, MLP, each added to what came in; with a cache and an
attention to another text in decoders. Their weights are at `PREFIXblk.N.`: attn_norm, attn_q, attn_k, attn_v, attn_o,
cross_attn_.., ffn_norm, ffn_gate, ffn_up, ffn_down, and PREFIXoutput_norm behind the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from modelfmt.graphs.layers import Layers

__all__ = ["Stack", "Tower"]


class Tower(msgspec.Struct, frozen=True):
    """What a stack is like. prefix: of its weights. base: what its nodes are called. scale: of scores. crossed: with a
    cache, and an attention to the states of an encoder."""

    prefix: str
    base: str
    layers: int
    heads: int
    head_size: int
    scale: float
    crossed: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.head_size


class Stack(Layers):
    """A graph of one or more towers under construction."""

    def climb(self, tower: Tower, hidden: str, bias: Callable[[], str], cross_bias: str = "") -> str:
        """All layers of a tower. bias: gives what is added to the scores of the layer that is being made."""
        self.prefix = tower.prefix
        for layer in range(tower.layers):
            self.layer = layer
            base = f"{tower.base}/layers.{layer}"
            first = self.norm(self.role("attn_norm"), hidden, f"{base}/attn_norm")
            attended = self.attention(tower, first, f"{base}/attn", bias())
            hidden = self.b.node("Add", [hidden, attended], f"{base}/attn_sum_out", domain="")
            if tower.crossed:
                first = self.norm(self.role("cross_attn_norm"), hidden, f"{base}/cross_attn_norm")
                attended = self.cross_attention(tower, first, f"{base}/cross_attn", cross_bias)
                hidden = self.b.node("Add", [hidden, attended], f"{base}/cross_attn_sum_out", domain="")
            first = self.norm(self.role("ffn_norm"), hidden, f"{base}/mlp_norm")
            made = self.feed_forward(first, f"{base}/mlp")
            hidden = self.b.node("Add", [hidden, made], f"{base}/mlp_sum_out", domain="")
        return hidden

    def projected(self, part: str, x: str, name: str) -> str:
        return self.linear(self.weights[f"{self.role(part)}.weight"], x, name, self.bias_of(part))

    def attention(self, tower: Tower, x: str, base: str, bias: str) -> str:
        parts = [self.projected(f"attn_{part}", x, f"{base}/{part}_out") for part in "qkv"]
        past, outputs = [], [f"{base}/mixed_out"]
        if tower.crossed:
            past = self.past(tower)
            outputs += [f"present.{self.layer}.decoder.{part}" for part in ("key", "value")]
        shape: dict[str, Any] = {
            "heads": tower.heads,
            "kv_heads": tower.heads,
            "scale": tower.scale,
            "width": tower.width,
        }
        self.b.nodes("Attention", [*parts, bias, *past], outputs, **shape)
        return self.projected("attn_o", outputs[0], f"{base}/o_out")

    def past(self, tower: Tower) -> list[str]:
        """Keys and values of the tokens before. optimum begins with an empty cache whose heads have n_embd / n_head
        values: where they have others, the first call does not look at it."""
        names = [f"past_key_values.{self.layer}.decoder.{part}" for part in ("key", "value")]
        if tower.width == int(self.params["n_embd"]):
            return names
        base = f"{tower.base}/layers.{self.layer}/past"
        outputs = [f"{base}/{part}_out" for part in ("key", "value")]
        if outputs[0] in self.b.made:
            return outputs
        with self.b.branch("cached") as cached:
            for name, part in zip(names, ("key", "value"), strict=True):
                self.b.gives(cached, self.b.node("Identity", [name], f"{base}/{part}/kept", domain=""))
        with self.b.branch("first") as first:
            for part in ("key", "value"):
                name = f"{base}/{part}/none"
                self.b.node("EmptyCache", ["input_ids"], name, heads=tower.heads, size=tower.head_size)
                self.b.gives(first, name)
        return list(self.b.either("use_cache_branch", cached, first, outputs))

    def cross_attention(self, tower: Tower, x: str, base: str, bias: str) -> str:
        """Attention to the encoder's states: keys and values are made in the first call, and come back in later ones.
        A later call gives none of them (empty ones), as optimum's graphs do: who calls keeps those of the first."""
        query, parts = self.projected("cross_attn_q", x, f"{base}/q_out"), ("key", "value")
        shape: dict[str, Any] = {"heads": tower.heads, "scale": tower.scale, "width": tower.width}
        with self.b.branch("cached") as cached:
            past = [f"past_key_values.{self.layer}.encoder.{part}" for part in parts]
            mixed = self.b.node("CrossAttention", [query, *past, bias], f"{base}/cached/mixed", **shape)
            self.b.gives(cached, mixed, tower.width)
            for part in parts:
                none = self.b.node("Identity", [self.none(tower)], f"{base}/cached/{part}", domain="")
                self.b.gives(cached, none)
        with self.b.branch("first") as first:
            made = []
            for part in parts:
                flat = self.projected(f"cross_attn_{part[0]}", "encoder_hidden_states", f"{base}/first/{part}_flat")
                made.append(self.b.node("SplitHeads", [flat], f"{base}/first/{part}", heads=tower.heads))
            mixed = self.b.node("CrossAttention", [query, *made, bias], f"{base}/first/mixed", **shape)
            self.b.gives(first, mixed, tower.width)
            for name in made:
                self.b.gives(first, name)
        outputs = [f"{base}/mixed_out", *(f"present.{self.layer}.encoder.{part}" for part in parts)]
        self.b.either("use_cache_branch", cached, first, outputs)
        return self.projected("cross_attn_o", outputs[0], f"{base}/o_out")

    def none(self, tower: Tower) -> str:
        """A cache of no texts."""
        import numpy as np

        kind = np.float16 if self.b.float_type == "FLOAT16" else np.float32
        return self.b.constant("/cache/none", np.zeros((0, tower.heads, 1, tower.head_size), kind))
