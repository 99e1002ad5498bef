"""What graphs of all kinds are put together from: linear layers, norms, activations, by the roles of their weights."""

from __future__ import annotations

from typing import Any

import msgspec

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.builder import Builder, Form
from modelfmt.graphs.weights import Weight, Weights
from modelfmt.grids import Apart
from modelfmt.ir.ops import Transpose
from modelfmt.report import Note

__all__ = ["Layers", "Pooling", "activation_kind"]

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def activation_kind(name: object) -> str:
    """The kind of an activation node by transformers' name. Raises UnsupportedError."""
    if name not in _ACTIVATIONS:
        raise UnsupportedError(
            "no graph is built with this activation", code="no-graph", found=name, allowed=", ".join(_ACTIVATIONS)
        )
    return _ACTIVATIONS[str(name)]


class Pooling(msgspec.Struct, frozen=True):
    """How a text becomes one vector. kind: mean, cls or last."""

    kind: str
    normalised: bool


class Layers:
    """A graph under construction, one layer after another. layer: the one that is being made. prefix: of its weights'
    names."""

    def __init__(self, weights: Weights, form: Form) -> None:
        self.weights = weights
        self.params = weights.params
        self.shape = weights.arch.graph
        self.b = Builder("main_graph", form)
        self.layer = 0
        self.prefix = ""

    def role(self, name: str) -> str:
        return f"{self.prefix}blk.{self.layer}.{name}"

    def apart(self, weight: Weight) -> Apart | None:
        """A weight in codes, scales and zeros; None where it is dense, which is noted where it was to be quantized."""
        found = self.b.form.apart(weight.expr)
        if found is None and self.b.form.blocks is not None and weight.expr.stored.dense:
            self.weights.notes.append(Note(weight.name, "stays dense: no quantized operator takes its shape"))
        return found

    def linear(self, weight: Weight, x: str, name: str, bias: Weight | None = None) -> str:
        apart = self.apart(weight)
        if apart is not None:
            shape, layout = weight.expr.shape, apart.layout
            inputs = [x, *self.b.parts(weight, apart), *["" for _ in range(not layout.zeros)]]
            inputs += [self.b.weight(bias)] if bias else []
            sizes: dict[str, Any] = {"columns": shape[0], "depth": shape[1], "bits": layout.bits, "block": layout.block}
            return self.b.node("BlockLinear", inputs, name, **sizes)
        turned = isinstance(weight.expr, Transpose)
        if isinstance(weight.expr, Transpose):
            weight = Weight(weight.name, weight.expr.input)
        inputs = [x, self.b.weight(weight)] + ([self.b.weight(bias)] if bias else [])
        return self.b.node("Linear", inputs, name, transposed=1 if turned else None)

    def embedding(self, ids: str, table: Weight, name: str, *, shared: bool = False) -> str:
        """A row of a table for each id. shared: with a linear layer, which may be quantized."""
        quantized = not table.expr.stored.dense or (shared and self.b.form.fused)
        apart = self.b.form.apart(table.expr) if quantized else None
        if apart is None:
            return self.b.node("Embedding", [ids, self.b.weight(table)], name)
        inputs = [ids, *self.b.parts(table, apart, packed=self.b.form.fused)]
        return self.b.node("BlockEmbedding", inputs, name, bits=apart.layout.bits, block=apart.layout.block)

    def states(self, hidden: str, pooled: Pooling | None) -> None:
        """Hidden states as outputs, with one vector for each text where they are pooled."""
        b, width, text = self.b, int(self.params["n_embd"]), "sentence_embedding"
        name = "last_hidden_state" if pooled is None else "token_embeddings"
        b.node("Identity", [hidden], name, domain="")
        b.output(name, b.float_type, ("batch_size", "sequence_length", width), "hidden")
        if pooled is not None:
            unit = 1 if pooled.normalised else None
            b.node("Pool", [name, "attention_mask"], text, kind=pooled.kind, normalised=unit)
            b.output(text, b.float_type, ("batch_size", width), "pooled")

    def feed_forward(self, x: str, base: str) -> str:
        """An MLP: plain, gated, or gated with both matrices in one."""
        weight = self.weights[self.role("ffn_up") + ".weight"]
        up = self.linear(weight, x, f"{base}/up_proj_out", self.bias_of("ffn_up"))
        gate = ""
        if "gate_up" in self.shape.get("fused", ()):
            n_ff = int(self.params["n_ff"])
            names = (f"{base}/gate_proj_out", f"{base}/up_out")
            gate, up = self.b.nodes("SplitColumns", [up], names, sizes=[n_ff, n_ff])
        elif self.role("ffn_gate") + ".weight" in self.weights:
            weight = self.weights[self.role("ffn_gate") + ".weight"]
            gate = self.linear(weight, x, f"{base}/gate_proj_out", self.bias_of("ffn_gate"))
        made = self.b.node("Activation", [gate or up], f"{base}/act_out", kind=self.activation())
        if gate:
            made = self.b.node("Mul", [made, up], f"{base}/gated_out", domain="")
        down = self.weights[self.role("ffn_down") + ".weight"]
        return self.linear(down, made, f"{base}/down_proj_out", self.bias_of("ffn_down"))

    def bias_of(self, role: str) -> Weight | None:
        return self.weights.tensors.get(f"{self.role(role)}.bias")

    def norm(self, role: str, x: str, name: str) -> str:
        bare = self.shape.get("norm") == "layer without weights"
        inputs = [x, self.ones() if bare else self.b.weight(self.weights[f"{role}.weight"])]
        if self.shape.get("norm") == "rms":
            return self.b.node("RMSNorm", inputs, f"{name}_out", epsilon=self.epsilon())
        bias = self.weights.tensors.get(f"{role}.bias")
        inputs += [self.b.weight(bias)] if bias else []
        return self.b.node("LayerNorm", inputs, f"{name}_out", epsilon=self.epsilon())

    def ones(self) -> str:
        """The weight of a norm that has none."""
        import numpy as np

        kind = np.float16 if self.b.float_type == "FLOAT16" else np.float32
        return self.b.constant("/model/ones", np.ones(int(self.params["n_embd"]), kind))

    def epsilon(self) -> float:
        return float(self.params["rms_eps" if self.shape.get("norm") == "rms" else "norm_eps"])

    def activation(self) -> str:
        given = self.params.get("activation") or self.shape["activation"]
        if self.shape["activation"] == "gelu_tanh" and given == "gelu" and self.weights.arch.gguf.startswith("gemma"):
            return "gelu_tanh"  # transformers reads the gelu of old checkpoints so
        return activation_kind(given)

    def scaled(self, x: str, factor: float, name: str) -> str:
        return x if factor == 1.0 else self.b.node("Scale", [x], f"{name}_out", factor=factor)
