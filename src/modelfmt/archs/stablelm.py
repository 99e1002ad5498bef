"""StableLM: layer norms, partial rope, a gated MLP, in the 12B model beside attention and with norms for each head.

Checked against transformers 5.23 models/stablelm/{configuration,modeling}_stablelm.py and llama.cpp
src/models/stablelm.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import ATTENTION_BIAS, DECODER, biased, kv_heads
from modelfmt.archs.specs import Stacked
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["STABLELM"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_Q, _KV = "n_head*head_size", "n_head_kv*head_size"


def _head_norms(which: str, count: str) -> Row:
    source = f"{_LAYER}self_attn.{which}_layernorm.norms.{{e}}.weight"
    target = f"{_BLOCK}attn_{which}_norm.weight"
    return Row(source, target, (count, "head_size"), (Stacked(count),), when="qk_norm", keep="F32")


STABLELM = DECODER.derive(
    gguf="stablelm",
    hf=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    model_type=("stablelm",),
    rope=Rope("neox", implied=10000.0, partial=0.25, dimension=True),
    without=("rms_eps",),
    params=(
        kv_heads(32),
        replace(ATTENTION_BIAS, config="use_qkv_bias"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", ("layer_norm_eps", "norm_eps"), "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("parallel", "use_parallel_residual", "use_parallel_residual", "BOOL", default=False),
        Param("qk_norm", "qk_layernorm", type="BOOL", default=False, tensor="blk.0.attn_q_norm.weight"),
    ),
    rows=(
        biased("model.norm", "output_norm", "n_embd"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd", when="not parallel"),
        Row(_LAYER + "self_attn.q_proj.weight", _BLOCK + "attn_q.weight", (_Q, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.k_proj.weight", _BLOCK + "attn_k.weight", (_KV, "n_embd"), (), "maybe"),
        Row(_LAYER + "self_attn.v_proj.weight", _BLOCK + "attn_v.weight", (_KV, "n_embd"), (), "maybe"),
        _head_norms("q", "n_head"),
        _head_norms("k", "n_head_kv"),
    ),
    refuses=(Refuses("tied", "llama.cpp's stablelm graph wants an output matrix besides the embedding"),),
    graph={"norm": "layer", "qk_norm": "each head"},
)
