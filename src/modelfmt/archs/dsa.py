"""DeepSeek 3.2 and GLM 5: DeepSeek 3 with an indexer that picks the tokens which a layer attends to.

GLM's may be shared by several layers. Checked against transformers 5.24
models/{deepseek_v32,glm_moe_dsa}/{configuration,modeling}_*.py and llama.cpp src/models/{deepseek32,glm-dsa}.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import biased
from modelfmt.archs.deepseek import SIGMOID
from modelfmt.archs.experts import leading_dense, n_nextn, nextn, sigmoid_router
from modelfmt.archs.specs import Spec
from modelfmt.archs.table import Param, Refuses, Row

__all__ = ["DEEPSEEK32", "GLM_DSA", "TURNED_BY_64", "indexer_params", "indexer_rows", "indexer_types"]

_INDEXER, _BLOCK = "model.layers.{i}.self_attn.indexer.", "blk.{i}.indexer."
TURNED_BY_64 = Refuses("index_size % 64", "llama.cpp turns the indexer's heads by 64 values at a time")


def indexer_params(n_index: int, n_attended: int) -> tuple[Param, ...]:
    """Heads of an indexer, their size, and how many tokens it picks, with what configuration classes take."""
    return (
        Param("n_index", "index_n_heads", "attention.indexer.head_count", default=n_index),
        Param("index_size", "index_head_dim", "attention.indexer.key_length", default=128),
        Param("n_attended", "index_topk", "attention.indexer.top_k", default=n_attended),
    )


def indexer_rows(when: str, queries: tuple[Spec, ...] = (), keys: tuple[Spec, ...] = ()) -> tuple[Row, ...]:
    """The indexer of the layers of a condition. queries, keys: operations on what makes them."""
    size, projected = ("index_size", "n_embd"), ("n_index", "n_embd")
    return (
        Row(_INDEXER + "wq_b.weight", _BLOCK + "attn_q_b.weight", ("n_index*index_size", "q_lora"), queries, when=when),
        Row(_INDEXER + "wk.weight", _BLOCK + "attn_k.weight", size, keys, when=when),
        biased(_INDEXER + "k_norm", _BLOCK + "k_norm", "index_size", ops=keys, when=when),
        Row(_INDEXER + "weights_proj.weight", _BLOCK + "proj.weight", projected, when=when, keep="F32"),
    )


def indexer_types(*each: tuple[str, str]) -> Param:
    """Which layers have an indexer of their own; the others share the last one. each: where config.json has no list."""
    return Param(
        "full",
        "indexer_types",
        "attention.indexer.types",
        codes=(("full", 1), ("shared", 0)),
        each=each,
        low=0,
        per_layer=True,
    )


DEEPSEEK32 = SIGMOID.derive(
    gguf="deepseek32",
    hf=("DeepseekV32ForCausalLM",),
    model_type=("deepseek_v32",),
    nextn=nextn("shared_head.norm"),
    params=(
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1536),
        leading_dense(3),
        *indexer_params(64, 2048),
        Param("full", (), default=1),
        n_nextn(),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=indexer_rows("full"),
    refuses=(TURNED_BY_64,),
    graph={"attention": "mla indexed"},
    unadapted=(*SIGMOID.unadapted, "indexer.attn_q_b.weight", "indexer.attn_k.weight", "indexer.proj.weight"),
)

GLM_DSA = DEEPSEEK32.derive(
    gguf="glm-dsa",
    nextn=None,  # whether its layer has an indexer of its own is not known here: a named loss
    hf=("GlmMoeDsaForCausalLM",),
    model_type=("glm_moe_dsa",),
    without=("full", "n_nextn"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("nope", "qk_nope_head_dim", default=192, implied=(("", "key_mla - n_rot"),)),
        Param("value_size", "v_head_dim", "attention.value_length_mla", default=256),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=2048),
        *sigmoid_router(n_group=1, n_group_used=1, scale=2.5, normalised=True),
        *indexer_params(32, 2048),
        Param("index_interleaved", "indexer_rope_interleave", type="BOOL", default=True),
        Param("share_pattern", "index_topk_pattern", type="STRING", default=None),
        Param("share_step", "index_topk_freq", default=1),
        Param("share_start", "index_skip_topk_offset", default=2),
        Param("share_phase", (), derive="share_start - 1"),
        indexer_types(
            ("layer < share_start", "1"),
            ("layer % share_step == share_phase % share_step", "1"),
            ("", "0"),
        ),
    ),
    refuses=(
        Refuses("not index_interleaved", "llama.cpp's glm-dsa graph turns pairs in the indexer"),
        Refuses("share_pattern", "index_topk_pattern is not read: say it as indexer_types"),
    ),
)
