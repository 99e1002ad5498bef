"""GLM 5 Next (5.3 Flash): Kimi's delta attention in most layers, DeepSeek's latent attention without positions in the
others, whose indexer picks pools of tokens; DeepSeek 4's residual streams, in the end their mean; DeepSeek 3's experts.

Checked against transformers 5.24 models/glm5_next/{configuration,modeling}_glm5_next.py, conversion_mapping.py and
llama.cpp src/models/glm5-next.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import PROJECTIONS, expert_rows
from modelfmt.archs.deepseek4 import STREAMS, mixer
from modelfmt.archs.dsa import indexer_params, indexer_rows, indexer_types
from modelfmt.archs.experts import dense_rows, leading_dense, router, score_bias, shared_rows, sigmoid_router
from modelfmt.archs.kimi_linear import KIMI_LINEAR
from modelfmt.archs.specs import NegExp
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["GLM5_NEXT"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."
_LINEAR = "linear_attn_config."
_ROUTED, _INDEXED = "n_dense < layer + 1", "not delta and full"


def _pool(name: str, *shape: str) -> Row:
    """What makes one of the tokens of a pool, for the indexer."""
    source, target = f"{_ATTENTION}indexer.index_kpool_compress_{name}", f"{_BLOCK}indexer_compressor_{name}.weight"
    return Row(source, target, shape, when=_INDEXED, keep="F32")


GLM5_NEXT = KIMI_LINEAR.derive(
    gguf="glm5-next",
    hf=("Glm5NextForCausalLM",),  # as llama.cpp's converter calls it: transformers has no class of the text alone
    model_type=("glm5_next_text",),
    without=("delta", "n_head_kv"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("index_eps", (), "attention.layer_norm_epsilon", "FLOAT32", default=1e-6),
        Param("head_size", "qk_rope_head_dim", default=0, low=0, allowed=(0,)),
        Param("n_rot", (), "rope.dimension_count", derive="head_size", low=0),
        Param("nope", "qk_nope_head_dim", default=256, implied=(("", "key_mla - n_rot"),)),
        Param("value_size", "v_head_dim", "attention.value_length_mla", default=256),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1536),
        leading_dense(3),
        Param("n_expert", ("n_routed_experts", "num_local_experts"), "expert_count", default=288, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=8, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=2048),
        Param("n_shared", "n_shared_experts", "expert_shared_count", default=1),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.5, normalised=True),
        Param("limit", "swiglu_limit", "swiglu_clamp_exp", "FLOAT32", default=10.0),
        Param("kernel", ("linear_conv_kernel_dim", _LINEAR + "short_conv_kernel_size"), "ssm.conv_kernel", default=4),
        Param("delta_size", ("linear_head_dim", _LINEAR + "head_dim"), "kda.head_dim", default=128),
        Param("delta_heads", ("linear_num_heads", _LINEAR + "num_heads"), default=64, implied=(("", "n_head"),)),
        Param(
            "bound",
            ("linear_lower_bound", _LINEAR + "gate_lower_bound"),
            "kda.gate_lower_bound",
            "FLOAT32",
            default=-5.0,
            negative=True,
            nullable=True,
        ),
        *indexer_params(32, 2048),
        Param("pool", "index_kpool", "attention.indexer.kpool", default=16),
        Param("tail", "index_kpool_always_select_tail", "attention.indexer.kpool_select_tail", "BOOL", default=True),
        Param("share_pattern", "index_topk_pattern", type="STRING", default=None),
        Param("share_step", "index_topk_freq", default=1),
        *STREAMS,
        Param(
            "delta",
            "layer_types",
            codes=(("linear_attention", 1), ("indexed_attention", 0), ("full_attention", 0)),
            each=(("layer % 4 == 3", "0"), ("", "1")),
            per_layer=True,
            implied=(("n_head_kv", "0"), ("", "1")),
        ),
        Param("n_head_kv", (), "attention.head_count_kv", low=0, per_layer=True, each=(("delta", "0"), ("", "1"))),
        indexer_types(("", "1")),
    ),
    rows=(
        *mixer("attn"),
        *mixer("ffn"),
        Row(_ATTENTION + "A_log", _BLOCK + "ssm_a", ("n_head",), (NegExp(),), when="delta"),
        *indexer_rows(_INDEXED),
        _pool("gate", "index_size", "n_embd"),
        _pool("ape", "pool", "index_size"),
        *dense_rows("layer < n_dense"),
        router("mlp.gate.weight", when=_ROUTED),
        score_bias("mlp.gate.e_score_correction_bias", when=_ROUTED),
        *expert_rows("mlp.experts", PROJECTIONS, "n_ff_expert", when=_ROUTED),
        *shared_rows("mlp.shared_experts", "n_shared*n_ff_expert", _ROUTED),
    ),
    refuses=(
        Refuses("not tail", "without the tail the first tokens attend to none, of which llama.cpp makes no numbers"),
        Refuses("delta_heads != n_head", "llama.cpp's glm5-next graph has as many heads in all layers"),
        Refuses("tied", "llama.cpp's glm5-next graph wants an output matrix besides the embedding"),
        Refuses("pool == 1", "llama.cpp's glm5-next graph picks pools of more than one token"),
        Refuses("n_attended % pool", "as many tokens as whole pools have are attended to"),
        Refuses("share_pattern", "index_topk_pattern is not read: say it as indexer_types"),
        Refuses("share_step != 1", "index_topk_freq is not read: say it as indexer_types"),
    ),
)
