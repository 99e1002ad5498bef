"""RoBERTa, XLM-RoBERTa, CamemBERT and DistilBERT: BERT with other names and positions; all are `bert` in GGUF.

RoBERTa counts positions from pad_token_id + 1 on: the rows before are not in the file, and the way back takes the id to
be 1. Checked against transformers 5.23 models/{roberta,xlm_roberta,camembert,distilbert}/{configuration,modeling}_*.py
and llama.cpp src/models/bert.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.bert import BERT
from modelfmt.archs.decoder import biased
from modelfmt.archs.specs import Behind
from modelfmt.archs.table import Ignore, Param, Row

__all__ = ["CAMEMBERT", "DISTILBERT", "ROBERTA", "XLM_ROBERTA"]

_POSITIONS = "embeddings.position_embeddings.weight"

ROBERTA = BERT.derive(
    hf=("RobertaModel", "RobertaForMaskedLM"),
    model_type=("roberta",),
    without=("n_ctx",),
    params=(
        Param("n_positions", "max_position_embeddings", default=512),
        Param("pad_token", "pad_token_id", default=1, low=0),
        Param("n_ctx", (), "context_length", derive="n_positions - pad_token - 1"),
    ),
    rows=(Row(_POSITIONS, "position_embd.weight", ("n_ctx", "n_embd"), (Behind("pad_token + 1"),), keep="F32"),),
    ignores=(Ignore("lm_head.*", "the head for masked words is not used for embeddings", loss=True),),
    prefixes=(("embeddings.", "roberta.embeddings."), ("encoder.", "roberta.encoder.")),
)

XLM_ROBERTA = ROBERTA.derive(
    hf=("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    model_type=("xlm-roberta",),
)

CAMEMBERT = ROBERTA.derive(
    hf=("CamembertModel", "CamembertForMaskedLM"),
    model_type=("camembert",),
)

_LAYER, _BLOCK = "transformer.layer.{i}.", "blk.{i}."
_SQUARE = ("n_embd", "n_embd")

DISTILBERT = BERT.derive(
    hf=("DistilBertModel", "DistilBertForMaskedLM"),
    model_type=("distilbert",),
    without=("n_token_types", "token_types.weight"),
    params=(
        Param("n_layer", "n_layers", "block_count", default=6, high=1024),
        Param("n_embd", "dim", "embedding_length", default=768),
        Param("n_ff", "hidden_dim", "feed_forward_length", default=3072),
        Param("n_head", "n_heads", "attention.head_count", default=12),
        Param("norm_eps", (), "attention.layer_norm_epsilon", "FLOAT32", default=1e-12),
        Param("activation", "activation", type="STRING", default="gelu", allowed=("gelu",)),
    ),
    rows=(
        biased(_LAYER + "attention.q_lin", _BLOCK + "attn_q", *_SQUARE),
        biased(_LAYER + "attention.k_lin", _BLOCK + "attn_k", *_SQUARE),
        biased(_LAYER + "attention.v_lin", _BLOCK + "attn_v", *_SQUARE),
        biased(_LAYER + "attention.out_lin", _BLOCK + "attn_output", *_SQUARE),
        biased(_LAYER + "sa_layer_norm", _BLOCK + "attn_output_norm", "n_embd"),
        biased(_LAYER + "ffn.lin1", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "ffn.lin2", _BLOCK + "ffn_down", "n_embd", "n_ff"),
        biased(_LAYER + "output_layer_norm", _BLOCK + "layer_output_norm", "n_embd"),
    ),
    ignores=(Ignore("vocab_*", "the head for masked words is not used for embeddings", loss=True),),
    prefixes=(("embeddings.", "distilbert.embeddings."), ("transformer.", "distilbert.transformer.")),
)
