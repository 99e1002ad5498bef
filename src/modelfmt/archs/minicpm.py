"""MiniCPM 3: attention over a latent vector, as DeepSeek 2 has it, in a scaled Llama; rope turns halves.

llama.cpp's graph fixes the scales. Checked against transformers 5.24 models/minicpm3/{configuration,modeling}_*.py and
llama.cpp src/models/minicpm3.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, targets
from modelfmt.archs.table import Param, Refuses, Rope, Row

__all__ = ["MINICPM3"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."

MINICPM3 = DECODER.derive(
    gguf="minicpm3",
    hf=("MiniCPM3ForCausalLM",),
    model_type=("minicpm3",),
    rope=Rope("neox", kinds=("default", "linear", "yarn", "longrope"), dimension=True),
    without=targets("attn_q", "attn_k", "attn_v"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", default=40, derive="n_head"),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=True),
        Param("head_size", "qk_rope_head_dim", "rope.dimension_count", default=32),
        Param("nope", "qk_nope_head_dim", default=64, implied=(("", "key_length - head_size"),)),
        Param("key_length", (), "attention.key_length", derive="nope + head_size"),
        Param("value_size", "v_head_dim", "attention.value_length", derive="n_embd/n_head"),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=768, nullable=True),
        Param("kv_lora", "kv_lora_rank", "attention.kv_lora_rank", default=256),
        Param("embedding_scale", "scale_emb", type="FLOAT32", default=12, allowed=(12,)),
        Param("depth_scale", "scale_depth", type="FLOAT32", default=1.4, allowed=(1.4,)),
        Param("base", "dim_model_base", default=256, allowed=(256,)),
    ),
    rows=(
        Row(_ATTENTION + "q_a_proj.weight", _BLOCK + "attn_q_a.weight", ("q_lora", "n_embd")),
        Row(_ATTENTION + "q_a_layernorm.weight", _BLOCK + "attn_q_a_norm.weight", ("q_lora",)),
        Row(_ATTENTION + "q_b_proj.weight", _BLOCK + "attn_q_b.weight", ("n_head*key_length", "q_lora")),
        Row(
            _ATTENTION + "kv_a_proj_with_mqa.weight", _BLOCK + "attn_kv_a_mqa.weight", ("kv_lora + head_size", "n_embd")
        ),
        Row(_ATTENTION + "kv_a_layernorm.weight", _BLOCK + "attn_kv_a_norm.weight", ("kv_lora",)),
        Row(
            _ATTENTION + "kv_b_proj.weight",
            _BLOCK + "attn_kv_b.weight",
            ("n_head*nope + n_head*value_size", "kv_lora"),
        ),
        Row(_ATTENTION + "o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*value_size")),
    ),
    refuses=(
        Refuses("not q_lora", "llama.cpp's minicpm3 graph has queries of a low rank"),
        Refuses("n_head_kv != n_head", "llama.cpp's minicpm3 graph has a key-value head for each query head"),
    ),
    graph={"attention": "mla"},
    unadapted=("attn_q_a.weight", "attn_q_b.weight", "attn_kv_a_mqa.weight", "attn_kv_b.weight"),
)
