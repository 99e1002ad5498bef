"""A language model with a cache of keys and values, as a structural graph made from its architecture's table.

Inputs and outputs are those of optimum: input_ids, attention_mask, position_ids, past_key_values.{i}.key and .value;
logits, present.{i}.key and .value. Source of what a layer does: transformers 5.24 models/*/modeling_*.py, as the tables
in `modelfmt.archs` say it in their `graph`.
"""

from __future__ import annotations

import math
from typing import Any

from modelfmt.errors import UnsupportedError
from modelfmt.graphs.builder import Form
from modelfmt.graphs.encoder import SUPPORTED as ENCODERS
from modelfmt.graphs.layers import Layers, Pooling
from modelfmt.graphs.rope import Turning, turning
from modelfmt.graphs.weights import Weights
from modelfmt.ir.graph import Affine, Dim, Graph

__all__ = ["SUPPORTED", "build"]

SUPPORTED = frozenset(
    {
        *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gemma3"),
        *("phi3", "gpt2", "smollm3", "granite", "olmo2", "arcee", "starcoder2", "phi", "gpt_neox", "cohere", "cohere2"),
        *("olmo", "olmo3", "olmoe", "seed_oss", "ernie4_5", "nemotron", "granitemoe", "granitemoeshared", "qwen2_moe"),
        *("stablelm", "glm", "glm4", "falcon", "exaone4", "modernbert", "eurobert"),
        *("exaone", "gpt_bigcode", "granitemoehybrid", "internlm3", "iquestcoder", "jais2", "mellum"),
    }
)
"""Model types whose graphs were checked against transformers."""

_BATCH, _SEQUENCE, _PAST = "batch_size", "sequence_length", "past_sequence_length"


def build(weights: Weights, form: Form, *, states: bool = False, pooled: Pooling | None = None) -> Graph:
    """The graph of a decoder. states: without cache and head: last_hidden_state, or pooled as an encoder's is. Raises
    UnsupportedError."""
    kind = weights.kind
    if kind not in SUPPORTED:
        raise UnsupportedError(
            "no graph is built for this architecture",
            code="no-graph",
            found=kind,
            allowed=", ".join(sorted(SUPPORTED | ENCODERS)),
        )
    return _Decoder(weights, form).embeddings(pooled) if states else _Decoder(weights, form).build()


class _Decoder(Layers):
    """One graph under construction: `build` walks the layers."""

    def __init__(self, weights: Weights, form: Form) -> None:
        super().__init__(weights, form)
        n_head = self.params["n_head"]
        kv = self.params["n_head_kv"]
        if isinstance(kv, list):
            raise UnsupportedError("layers with different numbers of heads", code="no-graph", found=kv[:4])
        self.heads, self.kv_heads, self.head_size = int(n_head), int(kv), int(self.params["head_size"])
        self.cached = True
        self.causal = self.shape.get("block") != "encoder"

    def build(self) -> Graph:
        b, total = self.b, Affine(((_PAST, 1), (_SEQUENCE, 1)))
        b.input("input_ids", "INT64", (_BATCH, _SEQUENCE), "token_ids")
        b.input("attention_mask", "INT64", (_BATCH, total), "attention_mask")
        b.input("position_ids", "INT64", (_BATCH, _SEQUENCE), "position_ids")
        cached = (_BATCH, self.kv_heads)
        for layer in range(self.params["n_layer"]):
            for part in ("key", "value"):
                shape: tuple[Dim, ...] = (*cached, _PAST, self.head_size)
                b.input(f"past_key_values.{layer}.{part}", b.float_type, shape, f"past {layer} {part}")
        b.output("logits", b.float_type, (_BATCH, _SEQUENCE, self.params["vocab_size"]), "logits")
        hidden = self.embedded()
        for layer in range(self.params["n_layer"]):
            self.layer = layer
            hidden = self.block(hidden)
            for part in ("key", "value"):
                name = f"present.{layer}.{part}"
                b.output(name, b.float_type, (*cached, total, self.head_size), f"present {layer} {part}")
        self.logits(self.norm("output_norm", hidden, "/model/norm"))
        return b.graph

    def embeddings(self, pooled: Pooling | None) -> Graph:
        """The graph without a cache, up to the last norm. Positions are counted over what attention_mask shows. An
        encoder's tokens see those behind them, too."""
        b, self.cached = self.b, False
        for name, role in (("input_ids", "token_ids"), ("attention_mask", "attention_mask")):
            b.input(name, "INT64", (_BATCH, _SEQUENCE), role)
        b.node("MaskPositions", ["attention_mask"], "position_ids")
        hidden = self.embedded()
        if "token_embd_norm.weight" in self.weights:
            hidden = self.norm("token_embd_norm", hidden, "/model/embed_norm")
        for layer in range(self.params["n_layer"]):
            self.layer = layer
            hidden = self.block(hidden)
        self.states(self.norm("output_norm", hidden, "/model/norm"), pooled)
        return b.graph

    def embedded(self) -> str:
        b = self.b
        table, tied = self.weights["token_embd.weight"], self.cached and "output.weight" not in self.weights
        hidden = self.embedding("input_ids", table, "/model/embed_out", shared=tied)
        if self.shape.get("positions") == "learned":
            table = self.weights["position_embd.weight"]
            positions = self.embedding("position_ids", table, "/model/embed_positions_out")
            hidden = b.node("Add", [hidden, positions], "/model/embed_sum_out", domain="")
        factor = math.sqrt(self.params["n_embd"]) if "embedding_scale" in self.shape else 1.0
        return self.scaled(
            hidden, factor * float(self.params.get("embedding_multiplier") or 1.0), "/model/embed_scaled"
        )

    def logits(self, hidden: str) -> None:
        head = self.weights.tensors.get("output.weight", self.weights["token_embd.weight"])
        bias = self.weights.tensors.get("output.bias")
        scale, cap = self.logit_scale(), self.params.get("output_cap")
        names = ["/lm_head_out"] + ["/lm_head/scaled"] * (scale != 1.0) + ["/lm_head/capped"] * bool(cap)
        names[-1] = "logits"
        found = self.linear(head, hidden, names[0], bias)
        if scale != 1.0:
            found = self.b.node("Scale", [found], names[1], factor=scale)
        if cap:
            self.b.node("Softcap", [found], names[-1], cap=float(cap))

    def logit_scale(self) -> float:
        """What logits are multiplied by."""
        return float(self.params.get("logit_scale") or 1.0 / float(self.params.get("logits_scaling") or 1.0))

    def has_norm(self, role: str) -> bool:
        return f"{self.role(role)}.weight" in self.weights

    def block(self, hidden: str) -> str:
        """One layer: attention and MLP, each with its norms, and what goes past them."""
        place = self.shape.get("norm_place", "pre")
        base = f"/model/layers.{self.layer}"
        bare = self.shape.get("norm") == "layer without weights"
        first = hidden
        if "pre" in place and (bare or self.has_norm("attn_norm")):  # the first layer of ModernBERT has none
            first = self.norm(self.role("attn_norm"), hidden, f"{base}/input_norm")
        attended = self.attention(first, f"{base}/attn")
        if "post" in place:
            attended = self.norm(self.role("post_attention_norm"), attended, f"{base}/post_attention_norm")
        if self.shape.get("residual") == "parallel" and self.params.get("parallel", True):
            own = self.has_norm("ffn_norm")
            second = self.norm(self.role("ffn_norm"), hidden, f"{base}/mlp_norm") if own else first
            both = self.added(attended, self.mlp(second, f"{base}/mlp"), f"{base}/both")
            return self.added(hidden, both, f"{base}/residual")
        hidden = self.added(hidden, attended, f"{base}/attn_residual")
        before = "post_attention_norm" if place == "pre" and not self.has_norm("ffn_norm") else "ffn_norm"
        role = self.role("ffn_norm" if bare else before)  # seed-oss has it under the other name
        second = self.norm(role, hidden, f"{base}/mlp_norm") if "pre" in place else hidden
        made = self.mlp(second, f"{base}/mlp")
        if "post" in place:
            made = self.norm(self.role("post_ffw_norm"), made, f"{base}/post_mlp_norm")
        return self.added(hidden, made, f"{base}/mlp_residual")

    def attention(self, x: str, base: str) -> str:
        b, layer = self.b, self.layer
        query, key, value = self.projected(x, base)
        if f"{self.role('attn_q_norm')}.weight" in self.weights:
            query = self.qk_norm("attn_q_norm", query, self.heads, f"{base}/q_norm")
            key = self.qk_norm("attn_k_norm", key, self.kv_heads, f"{base}/k_norm")
        if self.turns():
            cos, sin = self.rope_tables()
            shape: dict[str, Any] = {"rotated": int(self.params["n_rot"]), "size": self.head_size}
            shape["interleaved"] = self.weights.interleaved
            query = b.node("RoPE", [query, cos, sin], f"{base}/q_rotary_out", heads=self.heads, **shape)
            key = b.node("RoPE", [key, cos, sin], f"{base}/k_rotary_out", heads=self.kv_heads, **shape)
        past, outputs = [], [f"{base}/attention_out"]
        if self.cached:
            past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
            outputs += [f"present.{layer}.{part}" for part in ("key", "value")]
        cap = self.params.get("attention_cap")
        b.nodes(
            "Attention",
            [query, key, value, self.bias(), *past],
            outputs,
            heads=self.heads,
            kv_heads=self.kv_heads,
            scale=self.score_scale(),
            softcap=float(cap) if cap else None,
            width=self.heads * self.head_size,
        )
        weight = self.weights[self.role("attn_output") + ".weight"]
        return self.linear(weight, outputs[0], f"{base}/o_proj_out", self.bias_of("attn_output"))

    def projected(self, x: str, base: str) -> tuple[str, str, str]:
        fused = self.weights.tensors.get(self.role("attn_qkv") + ".weight")
        if fused is None:
            found = []
            for part in "qkv":
                weight = self.weights[self.role(f"attn_{part}") + ".weight"]
                found.append(self.linear(weight, x, f"{base}/{part}_proj_out", self.bias_of(f"attn_{part}")))
            return found[0], found[1], found[2]
        together = self.linear(fused, x, f"{base}/qkv_proj_out", self.bias_of("attn_qkv"))
        sizes = [self.heads * self.head_size, *[self.kv_heads * self.head_size] * 2]
        names = [f"{base}/{part}_proj_out" for part in "qkv"]
        found_parts = self.b.nodes("SplitColumns", [together], names, sizes=sizes)
        return found_parts[0], found_parts[1], found_parts[2]

    def qk_norm(self, role: str, x: str, heads: int, name: str) -> str:
        weight = self.b.weight(self.weights[self.role(role) + ".weight"])
        if self.shape.get("norm") != "rms":
            raise UnsupportedError("norms of heads with a mean", code="no-graph", found=self.weights.arch.gguf)
        each = heads if self.shape.get("qk_norm") == "head" else None
        return self.b.node("RMSNorm", [x, weight], f"{name}_out", epsilon=self.epsilon(), heads=each)

    def turns(self) -> bool:
        """Whether this layer has rotary positions."""
        if self.weights.arch.rope is None:
            return False
        if self.shape.get("no_rope") == "full" and any(self.weights.windows):
            return self.weights.windows[self.layer] is not None
        step = self.shape.get("no_rope_step")
        return not step or (self.layer + 1) % int(step) != 0

    def rope_tables(self) -> tuple[str, str]:
        """Names of cosine and sine of the layer's rope, made once for all layers that share it."""
        local = "rope_theta_local" in self.params and self.weights.windows[self.layer] is not None
        base = "/model/rotary_local" if local else "/model/rotary"
        names = (f"{base}/cos_out", f"{base}/sin_out")
        if names[0] in self.b.made:
            return names
        found: Turning = turning(self.weights, local=local)
        inputs = ["position_ids", self.b.constant(f"{base}/frequencies", found.frequencies)]
        if found.long is not None:
            inputs.append(self.b.constant(f"{base}/frequencies_long", found.long))
        original = found.original if found.long is not None else None
        context = int(self.params["n_ctx"])
        self.b.nodes("RopeTable", inputs, names, scale=found.scale, original=original, context=context)
        return names

    def bias(self) -> str:
        """What is added to the scores: nothing where a token may be seen, much less than nothing elsewhere."""
        window = self.weights.windows[self.layer]
        name = f"/model/attention_bias{'' if window is None else f'_{window}'}_out"
        if name not in self.b.made:
            inputs = ["input_ids", "attention_mask", *["past_key_values.0.key"][: self.cached]]
            self.b.node("AttentionBias", inputs, name, causal=1 if self.causal else None, window=window)
        return name

    def score_scale(self) -> float:
        if self.params.get("attention_multiplier") and "attention" in self.shape.get("scales", ()):
            return float(self.params["attention_multiplier"])
        return 1.0 / math.sqrt(float(self.params.get("query_scale") or self.head_size))

    def mlp(self, x: str, base: str) -> str:
        return self.experts(x, base) if self.shape.get("mlp") == "moe" else self.feed_forward(x, base)

    def experts(self, x: str, base: str) -> str:
        weights = [self.weights[self.role(f"ffn_{part}_exps") + ".weight"] for part in ("gate", "up", "down")]
        parts = [(weight, self.apart(weight)) for weight in weights]
        inputs, sizes = [self.b.weight(self.weights[self.role("ffn_gate_inp") + ".weight"])], []
        quantized = any(apart is not None for _, apart in parts)
        for weight, apart in parts:
            names = [self.b.weight(weight)] if apart is None else self.b.parts(weight, apart)
            inputs += [*names, *[""] * (3 - len(names))] if quantized else names
            sizes += [*weight.expr.shape[1:], *((0, 0) if apart is None else apart.layout[:2])]
        shared = self.shared(x, f"{base}/shared")
        made = self.b.node(
            "BlockMoE" if quantized else "MoE",
            [x, *inputs],
            f"{base}/moe_out",
            used=int(self.params["n_expert_used"]),
            normalised=bool(self.params.get("normalised", True)),
            activation=self.activation(),
            sizes=sizes if quantized else None,
        )
        return made if shared is None else self.b.node("Add", [made, shared], f"{base}/sum_out", domain="")

    def shared(self, x: str, base: str) -> str | None:
        """The expert that every token passes, with its own gate where there is one."""
        roles = [f"{self.role(f'ffn_{part}_shexp')}.weight" for part in ("gate", "up", "down")]
        if roles[0] not in self.weights:
            return None
        gate, up = (self.linear(self.weights[role], x, f"{base}/{i}_out") for i, role in enumerate(roles[:2]))
        gate = self.b.node("Activation", [gate], f"{base}/act_out", kind=self.activation())
        made = self.b.node("Mul", [gate, up], f"{base}/gated_out", domain="")
        made = self.linear(self.weights[roles[2]], made, f"{base}/down_out")
        scorer = f"{self.role('ffn_gate_inp_shexp')}.weight"
        if scorer not in self.weights:
            return made
        score = self.linear(self.weights[scorer], x, f"{base}/score_out")
        score = self.b.node("Activation", [score], f"{base}/share_out", kind="sigmoid")
        return self.b.node("Mul", [made, score], f"{base}/weighed_out", domain="")

    def added(self, x: str, more: str, name: str) -> str:
        factor: Any = self.params.get("residual_multiplier") if "residual" in self.shape.get("scales", ()) else None
        more = self.scaled(more, float(factor or 1.0), f"{name}_scaled")
        return self.b.node("Add", [x, more], f"{name}_out", domain="")
