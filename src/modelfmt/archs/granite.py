"""Granite 3: Llama with four scales of its own; with experts, and an MLP shared by all tokens beside them.
With sliding windows: sinks, and layers without positions. Aria's language model is such experts without the scales;
HyperCLOVA X is Granite where it has no norms behind attention and MLP.

Checked against transformers 5.24
models/{granite,granitemoe,granitemoeshared,granite_swa,granitemoe_swa,aria,hyperclovax}/*.py and llama.cpp
src/models/{granite,granite-swa}.cpp (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import kv_heads, layer_thetas, targets
from modelfmt.archs.experts import router, shared_rows
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.specs import Part, Transposed
from modelfmt.archs.table import Architecture, Param, Refuses, Rope, Row, Window

__all__ = ["ARIA", "GRANITE", "GRANITE_MOE", "GRANITE_MOE_SHARED", "GRANITE_MOE_SWA", "GRANITE_SWA", "HYPERCLOVAX"]

_MOE, _SHARED, _BLOCK = "model.layers.{i}.block_sparse_moe.", "model.layers.{i}.shared_mlp.", "blk.{i}."
_FUSED = (_MOE + "input_linear.weight", _MOE + "experts.gate_up_proj")
_DOWN = (_MOE + "output_linear.weight", _MOE + "experts.down_proj")
_WHOLE_HEADS = Refuses("n_head*head_size != n_embd", "granite files have heads of n_embd / n_head values only")


def _scale(config: str, key: str) -> Param:
    return Param(config, config, key, "FLOAT32", default=1.0)


GRANITE = LLAMA.derive(
    gguf="granite",
    hf=("GraniteForCausalLM",),
    model_type=("granite",),
    without=("value_size",),
    params=(
        Param("head_size", "head_dim", derive="n_embd/n_head"),
        _scale("attention_multiplier", "attention.scale"),
        _scale("embedding_multiplier", "embedding_scale"),
        _scale("residual_multiplier", "residual_scale"),
        _scale("logits_scaling", "logit_scale"),
    ),
    refuses=(_WHOLE_HEADS,),
    graph={"scales": ("attention", "embedding", "residual", "logits")},
)

GRANITE_MOE = GRANITE.derive(
    gguf="granitemoe",
    hf=("GraniteMoeForCausalLM",),
    model_type=("granitemoe",),
    without=targets("ffn_gate", "ffn_up", "ffn_down"),
    params=(
        Param("n_expert", "num_local_experts", "expert_count", default=8, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=2, high=1024),
        Param("n_shared", "shared_intermediate_size", "expert_shared_feed_forward_length", default=0, low=0, omit=0),
    ),
    rows=(
        router("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
        Row(_FUSED, _BLOCK + "ffn_gate_exps.weight", ("n_expert", "n_ff", "n_embd"), (Part(0, of=2, axis=1),)),
        Row(_FUSED, _BLOCK + "ffn_up_exps.weight", ("n_expert", "n_ff", "n_embd"), (Part(1, of=2, axis=1),)),
        Row(_DOWN, _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff")),
        Row(
            _SHARED + "input_linear.weight",
            _BLOCK + "ffn_gate_shexp.weight",
            ("n_shared", "n_embd"),
            (Part(0, of=2, axis=0),),
            when="n_shared",
        ),
        Row(
            _SHARED + "input_linear.weight",
            _BLOCK + "ffn_up_shexp.weight",
            ("n_shared", "n_embd"),
            (Part(1, of=2, axis=0),),
            when="n_shared",
        ),
        Row(
            _SHARED + "output_linear.weight", _BLOCK + "ffn_down_shexp.weight", ("n_embd", "n_shared"), when="n_shared"
        ),
    ),
    graph={"mlp": "moe"},
)

GRANITE_MOE_SHARED = GRANITE_MOE.derive(hf=("GraniteMoeSharedForCausalLM",), model_type=("granitemoeshared",))

_EXPERTS = "model.layers.{i}.mlp.experts."
_FC1 = (_EXPERTS + "fc1.weight", _EXPERTS + "gate_up_proj")
_FC2 = (_EXPERTS + "fc2.weight", _EXPERTS + "down_proj")
_UP = ("n_expert", "n_ff", "n_embd")

ARIA = LLAMA.derive(
    gguf="granitemoe",
    hf=("AriaTextForCausalLM",),
    model_type=("aria_text",),
    rope=Rope("norm", kinds=("default", "linear", "dynamic", "yarn", "llama3"), dimension=True),
    without=("value_size", "mlp_bias", *targets("ffn_gate", "ffn_up", "ffn_down")),
    params=(
        Param("head_size", "head_dim", derive="n_embd/n_head"),
        Param("n_expert", "moe_num_experts", "expert_count", default=8, high=1024),
        Param("n_expert_used", "moe_topk", "expert_used_count", default=2, high=1024),
        Param("n_beside", "moe_num_shared_experts", default=2, implied=(("", "n_shared//n_ff"),)),
        Param("n_shared", (), "expert_shared_feed_forward_length", derive="n_beside*n_ff"),
        Param("output_scale", (), "logit_scale", "FLOAT32", default=1.0),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=(
        router("mlp.router.weight"),
        Row(_FC1, _BLOCK + "ffn_gate_exps.weight", _UP, (Transposed(), Part(0, of=2, axis=1))),
        Row(_FC1, _BLOCK + "ffn_up_exps.weight", _UP, (Transposed(), Part(1, of=2, axis=1))),
        Row(_FC2, _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff"), (Transposed(),)),
        *shared_rows("mlp.shared_experts", "n_shared"),
    ),
    refuses=(
        _WHOLE_HEADS,
        Refuses("mlp_bias", "llama.cpp's graph of experts beside a shared MLP has no biases"),
    ),
    graph={"mlp": "moe"},
)

HYPERCLOVAX = GRANITE.derive(
    hf=("HyperCLOVAXForCausalLM",),
    model_type=("hyperclovax",),
    params=(
        Param("norms_behind", "use_post_norm", type="BOOL", default=True, implied=(("", "0"),)),
        Param("attention_multiplier", "attention_multiplier", "attention.scale", "FLOAT32"),
        Param("logits_scaling", "logits_scaling", "logit_scale", "FLOAT32", default=1.0, allowed=(1.0,)),
    ),
    refuses=(
        Refuses("norms_behind", "llama.cpp has no graph with Granite's scales and norms behind attention and MLP"),
    ),
)

_SINKS = Row("model.layers.{i}.self_attn.sinks", _BLOCK + "attn_sinks.weight", ("n_head",))


def _sliding(base: Architecture, hf: str, model_type: str) -> Architecture:
    """A Granite with sliding windows, sinks, and layers without positions."""
    return base.derive(
        gguf="granite_swa",
        hf=(hf,),
        model_type=(model_type,),
        window=Window(period=4, size=128, full_first=True, required=True, stated=True),
        params=(
            Param("sliding_window", "sliding_window", default=128, nullable=True),
            *layer_thetas("turns"),
            Param(
                "turns",
                (),
                "attention.rope_pattern",
                "BOOL",
                per_layer=True,
                each=(("not told", "1"), ("thetas", "1"), ("", "0")),
            ),
        ),
        rows=(_SINKS,),
        refuses=(
            Refuses("told and turns and thetas != rope_theta", "granite_swa files have one rope_theta for all layers"),
            Refuses("not sliding_window", "llama.cpp's granite_swa graph always has a sliding window"),
        ),
        graph={"sinks": True},
    )


GRANITE_SWA = _sliding(GRANITE, "GraniteSWAForCausalLM", "granite_swa").derive(
    params=(
        kv_heads(4),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
    )
)
GRANITE_MOE_SWA = _sliding(GRANITE_MOE, "GraniteMoeSWAForCausalLM", "granitemoe_swa").derive(
    without=targets("ffn_gate_shexp"),
    rows=(
        *(
            replace(row, source=row.sources[::-1])  # saved as transformers has them in memory
            for row in GRANITE_MOE.rows
            if row.target in targets("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
        ),
        Row(_SHARED + "input_linear.weight", _BLOCK + "ffn_up_shexp.weight", ("2*n_shared", "n_embd"), when="n_shared"),
    ),
)
