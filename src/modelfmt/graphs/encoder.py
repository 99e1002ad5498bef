"""An encoder for embeddings (BERT and its kin), as a structural graph made from its architecture's table.

Inputs and outputs are those of optimum: input_ids, attention_mask and, where the model has them, token_type_ids;
last_hidden_state or, for a sentence-transformers folder, token_embeddings and sentence_embedding, pooled and normalised
as its modules say. Source: transformers 5.24 models/{bert,roberta,distilbert}/modeling_*.py, sentence-transformers 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelfmt.archs import pooling
from modelfmt.graphs.builder import Form
from modelfmt.graphs.layers import Layers, Pooling
from modelfmt.graphs.weights import Weights
from modelfmt.ir.graph import Graph
from modelfmt.report import Loss
from modelfmt.storage import strict_json

__all__ = ["SUPPORTED", "Pooling", "build", "read_pooling"]

SUPPORTED = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "distilbert"})
"""Model types whose graphs were checked against transformers."""

_BATCH, _SEQUENCE = "batch_size", "sequence_length"
_KINDS = {1: "mean", 2: "cls", 3: "last"}


def read_pooling(assets: Mapping[str, bytes]) -> tuple[Pooling | None, list[Loss]]:
    """The pooling of a sentence-transformers folder, None for any other, and the modules that have no place here."""
    found = pooling.encode(assets)
    kind, losses = found.kind, list(found.losses)
    if kind is None:
        return None, losses
    modules = strict_json.parse(assets["modules.json"], path="modules.json")
    return Pooling(_KINDS[kind], any(str(module["type"]).endswith("Normalize") for module in modules)), losses


def build(weights: Weights, form: Form, pooled: Pooling | None = None) -> Graph:
    """The graph of an encoder."""
    return _Encoder(weights, form).build(pooled)


class _Encoder(Layers):
    """One graph under construction: `build` walks the layers."""

    def build(self, pooled: Pooling | None) -> Graph:
        b, shape = self.b, (_BATCH, _SEQUENCE)
        b.input("input_ids", "INT64", shape, "token_ids")
        b.input("attention_mask", "INT64", shape, "attention_mask")
        hidden = self.norm("token_embd_norm", self.embedded(), "/embeddings/norm")
        bias = b.node("AttentionBias", ["input_ids", "attention_mask"], "/attention_bias_out")
        for layer in range(self.params["n_layer"]):
            self.layer = layer
            hidden = self.block(hidden, bias)
        self.states(hidden, pooled)
        return b.graph

    def embedded(self) -> str:
        b, shape = self.b, (_BATCH, _SEQUENCE)
        hidden = self.embedding("input_ids", self.weights["token_embd.weight"], "/embeddings/words_out")
        if "token_types.weight" in self.weights:
            b.input("token_type_ids", "INT64", shape, "token_type_ids")
            if self.params.get("n_token_types") == 1:
                b.graph.inputs.pop()
                b.node("ZeroIds", ["input_ids"], "token_type_ids")
            more = self.embedding("token_type_ids", self.weights["token_types.weight"], "/embeddings/types_out")
            hidden = b.node("Add", [hidden, more], "/embeddings/typed_out", domain="")
        behind = self.params.get("pad_token") if "pad_token" in self.params else None
        places = b.node("Positions", ["input_ids"], "/embeddings/positions_out", padding=behind)
        more = self.embedding(places, self.weights["position_embd.weight"], "/embeddings/placed_out")
        return b.node("Add", [hidden, more], "/embeddings/sum_out", domain="")

    def block(self, hidden: str, bias: str) -> str:
        """One layer: attention and MLP, each with its norm behind the sum."""
        b, base, heads = self.b, f"/encoder/layer.{self.layer}", int(self.params["n_head"])
        parts = [self.projected(part, hidden, f"{base}/attention/{part}_out") for part in ("q", "k", "v")]
        size = int(self.params["head_size"])
        attended = b.node(
            "Attention",
            [*parts, bias],
            f"{base}/attention/mixed_out",
            heads=heads,
            kv_heads=heads,
            scale=1.0 / math.sqrt(size),
            width=heads * size,
        )
        attended = self.projected("output", attended, f"{base}/attention/output_out")
        hidden = b.node("Add", [hidden, attended], f"{base}/attention/sum_out", domain="")
        hidden = self.norm(self.role("attn_output_norm"), hidden, f"{base}/attention/norm")
        up = self.weights[self.role("ffn_up") + ".weight"]
        made = self.linear(up, hidden, f"{base}/up_out", self.bias_of("ffn_up"))
        made = b.node("Activation", [made], f"{base}/act_out", kind=self.activation())
        down = self.weights[self.role("ffn_down") + ".weight"]
        made = self.linear(down, made, f"{base}/down_out", self.bias_of("ffn_down"))
        hidden = b.node("Add", [hidden, made], f"{base}/sum_out", domain="")
        return self.norm(self.role("layer_output_norm"), hidden, f"{base}/norm")

    def projected(self, part: str, x: str, name: str) -> str:
        role = f"attn_{part}"
        return self.linear(self.weights[f"{self.role(role)}.weight"], x, name, self.bias_of(role))
