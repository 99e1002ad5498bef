"""Nomic BERT and Jina embeddings v3: BERT with rope and fused queries, keys and values; Nomic's MLP is gated.

Their original repositories and transformers 5 spell tensors and configurations differently; both are read. Checked
against transformers 5.24 models/{nomic_bert,jina_embeddings_v3}/{configuration,modeling}_*.py and llama.cpp
src/models/bert.cpp, conversion/bert.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.bert import BERT
from modelfmt.archs.decoder import biased
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["JINA_BERT_V3", "NOMIC_BERT"]

_LAYER, _BLOCK = "encoder.layers.{i}.", "blk.{i}."
_SPLIT = tuple(f"{_BLOCK}attn_{name}.weight" for name in ("q", "k", "v"))
_NORMS = (
    biased("emb_ln", "token_embd_norm", "n_embd"),
    biased(_LAYER + "norm1", _BLOCK + "attn_output_norm", "n_embd"),
    biased(_LAYER + "norm2", _BLOCK + "layer_output_norm", "n_embd"),
)
_PARTS = ("embeddings.", "emb_ln.", "encoder.")
_EPSILONS = ("layer_norm_eps", "layer_norm_epsilon")

NOMIC_BERT = BERT.derive(
    gguf="nomic-bert",
    hf=("NomicBertModel", "NomicBertForMaskedLM"),
    model_type=("nomic_bert",),
    rope=Rope("neox", theta=1000.0, kinds=("default",)),
    without=("position_embd.weight", "positions", *_SPLIT),
    params=(
        Param("n_layer", ("num_hidden_layers", "n_layer"), "block_count", default=12, high=1024),
        Param(
            "n_ctx",
            ("max_position_embeddings", "max_trained_positions", "n_positions"),
            "context_length",
            default=2048,
        ),
        Param("n_embd", ("hidden_size", "n_embd"), "embedding_length", default=768),
        Param("n_ff", ("intermediate_size", "n_inner"), "feed_forward_length", default=3072),
        Param("n_head", ("num_attention_heads", "n_head"), "attention.head_count", default=12),
        Param("norm_eps", _EPSILONS, "attention.layer_norm_epsilon", "FLOAT32", default=1e-12),
        Param("vocab_size", "vocab_size", default=30528),
        Param(
            "activation",
            ("hidden_act", "activation_function"),
            type="STRING",
            default="silu",
            allowed=("silu", "swiglu"),
        ),
        Param("prenorm", "prenorm", type="BOOL", default=False),
        Param("interleaved", "rotary_emb_interleaved", type="BOOL", default=False),
        Param("own_head_size", "head_dim", derive="n_embd/n_head"),
    ),
    rows=(
        *_NORMS,
        Row(_LAYER + "attn.Wqkv.weight", _BLOCK + "attn_qkv.weight", ("3*n_embd", "n_embd")),
        Row(_LAYER + "attn.out_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd")),
        Row(_LAYER + "mlp.fc11.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "mlp.fc12.weight", _BLOCK + "ffn_gate.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "mlp.fc2.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff")),
    ),
    refuses=(
        Refuses("prenorm", "llama.cpp's nomic-bert graph has its norms behind the layers"),
        Refuses("interleaved", "llama.cpp's nomic-bert graph turns halves of heads"),
        Refuses("own_head_size != head_size", "llama.cpp's nomic-bert graph has heads of n_embd / n_head values"),
    ),
    prefixes=tuple((part, f"{body}.{part}") for body in ("nomic_bert", "bert") for part in _PARTS),
    graph={"activation": "silu", "mlp": "gated", "positions": "rope", "fused": ("qkv",)},
)

JINA_BERT_V3 = BERT.derive(
    gguf="jina-bert-v3",
    hf=("JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM"),
    model_type=("jina_embeddings_v3",),
    rope=Rope("neox", theta=20000.0, kinds=("default",)),
    without=("position_embd.weight", "positions", *_SPLIT),
    params=(
        Param("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("n_token_types", "type_vocab_size", default=1),
    ),
    rows=(
        *_NORMS,
        biased(_LAYER + "mixer.Wqkv", _BLOCK + "attn_qkv", "3*n_embd", "n_embd"),
        biased(_LAYER + "mixer.out_proj", _BLOCK + "attn_output", "n_embd", "n_embd"),
        biased(_LAYER + "mlp.fc1", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "mlp.fc2", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    ignores=(Ignore("lm_head.*", "the head for masked words is not used for embeddings", loss=True),),
    prefixes=tuple((part, f"roberta.{part}") for part in _PARTS),
    graph={"positions": "rope", "fused": ("qkv",)},
)
