"""gpt-oss: experts with biases in every layer, a learned sink in each head, every other layer slides.

Gate and up alternate in one tensor, stored as [in, out]. Checked against transformers 5.24
models/gpt_oss/{configuration,modeling}_gpt_oss.py and llama.cpp src/models/openai-moe.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, biased, expert_params, kv_heads, targets
from modelfmt.archs.specs import Part, Transposed
from modelfmt.archs.table import Param, Refuses, Rope, Row, Window

__all__ = ["GPT_OSS"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_EXPERTS = _LAYER + "mlp.experts."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"
_FUSED = {"gate": Part(0, of=2, axis=1, every=True), "up": Part(1, of=2, axis=1, every=True)}
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

GPT_OSS = DECODER.derive(
    gguf="gpt-oss",
    hf=("GptOssForCausalLM",),
    model_type=("gpt_oss",),
    rope=Rope("neox", theta=150000.0, kinds=("default", "linear", "yarn"), settings=_YARN),
    window=Window(period=2, size=128, required=True),
    without=targets("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
    params=(
        kv_heads(8),
        Param("head_size", "head_dim", "attention.key_length", default=64, derive="n_embd/n_head"),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        *expert_params(Param("n_ff_expert", (), "expert_feed_forward_length", derive="n_ff")),
        Param("swiglu_alpha", "swiglu_alpha", type="FLOAT32", default=1.702, allowed=(1.702,)),
        Param("swiglu_limit", "swiglu_limit", type="FLOAT32", default=7.0, allowed=(7.0,)),
        Param("sliding_window", "sliding_window", default=128, nullable=True),
    ),
    rows=(
        biased(_LAYER + "self_attn.q_proj", _BLOCK + "attn_q", _Q, "n_embd"),
        biased(_LAYER + "self_attn.k_proj", _BLOCK + "attn_k", _KV, "n_embd"),
        biased(_LAYER + "self_attn.v_proj", _BLOCK + "attn_v", _KV, "n_embd"),
        biased(_LAYER + "self_attn.o_proj", _BLOCK + "attn_output", "n_embd", _Q),
        Row(_LAYER + "self_attn.sinks", _BLOCK + "attn_sinks.weight", ("n_head",)),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "post_attention_norm.weight", ("n_embd",)),
        Row(
            _LAYER + "mlp.router.weight",
            _BLOCK + "ffn_gate_inp.weight",
            ("n_expert", "n_embd"),
            (),
            "required",
            keep="F32",
        ),
        *(
            row
            for kind, part in _FUSED.items()
            for row in (
                Row(
                    _EXPERTS + "gate_up_proj",
                    f"{_BLOCK}ffn_{kind}_exps.weight",
                    ("n_expert", "n_ff", "n_embd"),
                    (Transposed(), part),
                ),
                Row(
                    _EXPERTS + "gate_up_proj_bias",
                    f"{_BLOCK}ffn_{kind}_exps.bias",
                    ("n_expert", "n_ff"),
                    (part,),
                    keep="F32",
                ),
            )
        ),
        Row(_EXPERTS + "down_proj", _BLOCK + "ffn_down_exps.weight", ("n_expert", "n_embd", "n_ff"), (Transposed(),)),
        Row(_EXPERTS + "down_proj_bias", _BLOCK + "ffn_down_exps.bias", ("n_expert", "n_embd"), keep="F32"),
    ),
    refuses=(
        Refuses("tied", "llama.cpp's gpt-oss graph wants an output matrix besides the embedding"),
        Refuses("not sliding_window", "llama.cpp's gpt-oss graph always has a sliding window"),
    ),
    graph={"mlp": "moe", "activation": "swiglu_oai", "sinks": True},
)
