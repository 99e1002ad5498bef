"""Models of pictures, and of pictures and texts: ViT and CLIP, as structural graphs made from their tables.

Inputs and outputs are optimum's. ViT: pixel_values; logits, or last_hidden_state and, with a pooler, pooler_output.
CLIP: input_ids, pixel_values, attention_mask; logits_per_image, logits_per_text, text_embeds, image_embeds. One tower
of it: input_ids or pixel_values; text_embeds or image_embeds and last_hidden_state, without a projection
last_hidden_state and pooler_output. Pictures are as large as config.json says. Source: transformers 5.24
models/{vit,clip}/.
"""

from __future__ import annotations

import math

from modelfmt.graphs.builder import Form
from modelfmt.graphs.layers import activation_kind
from modelfmt.graphs.stack import Stack, Tower
from modelfmt.graphs.weights import Weights
from modelfmt.ir.graph import Dim, Graph

__all__ = ["SUPPORTED", "build"]

SUPPORTED = frozenset({"vit", "clip", "clip_text_model", "clip_vision_model"})
"""Model types whose graphs were checked against transformers."""

_BATCH, _PICTURES, _TEXTS, _SEQUENCE = "batch_size", "image_batch_size", "text_batch_size", "sequence_length"


def build(weights: Weights, form: Form) -> Graph:
    """The graph of a model."""
    made = _Pictures(weights, form)
    if weights.kind == "vit":
        return made.labels()
    if weights.kind == "clip":
        return made.both()
    return made.alone()


class _Pictures(Stack):
    """One graph under construction. first: what the params of the tower begin with that is being made."""

    first = ""

    def enter(self, prefix: str, first: str = "") -> Tower:
        """Go on with a tower: its weights' names begin with prefix, its params' with first."""
        own = {name.removeprefix(first): value for name, value in self.weights.params.items() if name.startswith(first)}
        self.params = {**self.weights.params, **own}
        heads, size = int(self.params["n_head"]), int(self.params["head_size"])
        base = f"/{prefix.strip('.') or 'encoder'}"
        return Tower(prefix, base, int(self.params["n_layer"]), heads, size, 1.0 / math.sqrt(size))

    def pictures(self, tower: Tower, batch: str) -> str:
        """States of the patches of pictures, a token before them, behind all layers."""
        b, base, prefix, params = self.b, tower.base, tower.prefix, self.params
        side, patch, width = int(params["image_size"]), int(params["patch_size"]), int(params["n_embd"])
        b.input("pixel_values", b.float_type, (batch, int(params["n_channels"]), side, side), "pixels")
        inputs = ["pixel_values", b.weight(self.weights[f"{prefix}patch_embd.weight"])]
        bias = self.weights.tensors.get(f"{prefix}patch_embd.bias")
        inputs += [b.weight(bias)] if bias else []
        made = b.node("Convolution", inputs, f"{base}/patches_out", strides=[patch, patch], pads=[0, 0, 0, 0])
        made = b.node("ChannelsLast", [made], f"{base}/sequence_out", width=width)
        token = b.weight(self.weights[f"{prefix}cls_token"])
        made = b.node("PrependToken", [made, token], f"{base}/with_token_out", width=width)
        positions = b.weight(self.weights[f"{prefix}position_embd"])
        made = b.node("AddRows", [made, positions], f"{base}/embed_out", width=width)
        if f"{prefix}embd_norm.weight" in self.weights:
            made = self.norm(f"{prefix}embd_norm", made, f"{base}/embed_norm")
        return self.climb(tower, made, lambda: "")

    def texts(self, tower: Tower, batch: str, *, masked: bool) -> str:
        """States of the tokens of texts, each of which sees those before it."""
        b, base, prefix = self.b, tower.base, tower.prefix
        b.input("input_ids", "INT64", (batch, _SEQUENCE), "token_ids")
        if masked:
            b.input("attention_mask", "INT64", (batch, _SEQUENCE), "attention_mask")
        made = self.embedding("input_ids", self.weights[f"{prefix}token_embd.weight"], f"{base}/tokens_out")
        places = b.node("Positions", ["input_ids"], f"{base}/positions")
        more = self.embedding(places, self.weights[f"{prefix}position_embd.weight"], f"{base}/placed_out")
        made = b.node("Add", [made, more], f"{base}/embed_out", domain="")
        bias = b.node("AttentionBias", ["input_ids", "attention_mask" if masked else ""], f"{base}/mask_out", causal=1)
        made = self.climb(tower, made, lambda: bias)
        return self.norm(f"{prefix}output_norm", made, f"{base}/norm")

    def labels(self) -> Graph:
        """ViT."""
        b = self.b
        hidden = self.norm("output_norm", self.pictures(self.enter(""), _BATCH), "/norm")
        if "classifier.weight" in self.weights:
            first = b.node("FirstToken", [hidden], "/token_out")
            self.vector("logits", self.over("classifier", first, "/classifier_out"), int(self.params["n_labels"]))
            return b.graph
        self.sequence(hidden)
        if "pooler.weight" in self.weights:
            pooled = self.over("pooler", b.node("FirstToken", [hidden], "/token_out"), "/pooled_out")
            pooled = b.node(
                "Activation", [pooled], "/pooler_out", kind=activation_kind(self.params["pooler_activation"])
            )
            self.vector("pooler_output", pooled, int(self.params["n_pooled"]))
        return b.graph

    def both(self) -> Graph:
        """CLIP with both towers."""
        b = self.b
        text = self.pooled_text(self.texts(self.enter("text."), _TEXTS, masked=True))
        picture = self.pooled_picture(self.pictures(self.enter("vision.", "v_"), _PICTURES))
        names = "text_embeds", "image_embeds"
        for name, made in zip(names, (text, picture), strict=True):
            prefix = "text." if made is text else "vision."
            b.node("Unit", [self.over(f"{prefix}projection", made, f"/{prefix}projected")], name)
        scale = b.weight(self.weights["logit_scale"])
        b.nodes("Similarity", [*names, scale], ["logits_per_text", "logits_per_image"])
        width = int(self.params["n_projected"])
        shapes: dict[str, tuple[Dim, ...]] = {
            "logits_per_image": (_PICTURES, _TEXTS),
            "logits_per_text": (_TEXTS, _PICTURES),
            "text_embeds": (_TEXTS, width),
            "image_embeds": (_PICTURES, width),
        }
        for name, shape in shapes.items():
            b.output(name, b.float_type, shape)
        return b.graph

    def alone(self) -> Graph:
        """One tower of CLIP."""
        if self.shape["input"] == "text":
            hidden, prefix, name = self.texts(self.enter("text."), _BATCH, masked=False), "text.", "text_embeds"
            pooled = self.pooled_text(hidden)
        else:
            hidden, prefix, name = self.pictures(self.enter("vision.", "v_"), _BATCH), "vision.", "image_embeds"
            pooled = self.pooled_picture(hidden)
        if f"{prefix}projection.weight" not in self.weights:
            self.sequence(hidden)
            self.vector("pooler_output", pooled, int(self.params["n_embd"]))
            return self.b.graph
        made = self.over(f"{prefix}projection", pooled, f"/{prefix}projected")
        self.vector(name, made, int(self.params["n_projected"]))
        self.sequence(hidden)
        return self.b.graph

    def pooled_text(self, hidden: str) -> str:
        """The state of the token that ends a text. Old configurations name another number: then it is the largest."""
        end = int(self.params["end"])
        return self.b.node("EndToken", [hidden, "input_ids"], "/text/pooled_out", end=None if end == 2 else end)

    def pooled_picture(self, hidden: str) -> str:
        first = self.b.node("FirstToken", [hidden], "/vision/token_out")
        return self.norm("vision.output_norm", first, "/vision/norm")

    def over(self, role: str, x: str, name: str) -> str:
        """A linear layer over vectors."""
        return self.linear(self.weights[f"{role}.weight"], x, name, self.weights.tensors.get(f"{role}.bias"))

    def vector(self, name: str, made: str, width: int) -> None:
        """An output of one vector for each picture or text."""
        self.b.node("Identity", [made], name, domain="")
        self.b.output(name, self.b.float_type, (_BATCH, width))

    def sequence(self, hidden: str) -> None:
        """The states of all tokens as an output."""
        self.b.node("Identity", [hidden], "last_hidden_state", domain="")
        shape = (_BATCH, _SEQUENCE, int(self.params["n_embd"]))
        self.b.output("last_hidden_state", self.b.float_type, shape, "hidden")
