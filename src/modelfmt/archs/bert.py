"""BERT encoders for embeddings, alone or as sentence-transformers with their pooling.

Heads for masked words and next sentences, and the pooler, have no place in an embedding model and are named as lost.
Checked against transformers 5.23 models/bert/{configuration,modeling}_bert.py and llama.cpp src/models/bert.cpp
(October 2026).
"""

from __future__ import annotations

from modelfmt.archs.table import Architecture, Ignore, Param, Refuses, Row

__all__ = ["BERT"]

_LAYER, _BLOCK = "encoder.layer.{i}.", "blk.{i}."
_SQUARE = ("n_embd", "n_embd")


def _biased(source: str, target: str, *shape: str) -> Row:
    return Row(source + ".weight", target + ".weight", shape, (), "required")


BERT = Architecture(
    gguf="bert",
    hf=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    model_type=("bert",),
    pooled=True,
    params=(
        Param("n_layer", "num_hidden_layers", "block_count", high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length"),
        Param("n_embd", "hidden_size", "embedding_length"),
        Param("n_ff", "intermediate_size", "feed_forward_length"),
        Param("n_head", "num_attention_heads", "attention.head_count"),
        Param("n_head_kv", (), derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "FLOAT32", default=1e-12),
        Param("causal", (), "attention.causal", "BOOL", default=False),
        Param("vocab_size", "vocab_size"),
        Param("n_token_types", "type_vocab_size", default=2),
        Param("tied", (), type="BOOL", default=True),
        Param(
            "activation",
            "hidden_act",
            type="STRING",
            default="gelu",
            allowed=("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        ),
        Param("positions", "position_embedding_type", type="STRING", default="absolute", allowed=("absolute",)),
        Param("decodes", "is_decoder", type="BOOL", default=False),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row("embeddings.word_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("embeddings.position_embeddings.weight", "position_embd.weight", ("n_ctx", "n_embd"), keep="F32"),
        Row("embeddings.token_type_embeddings.weight", "token_types.weight", ("n_token_types", "n_embd"), keep="F32"),
        _biased("embeddings.LayerNorm", "token_embd_norm", "n_embd"),
        _biased(_LAYER + "attention.self.query", _BLOCK + "attn_q", *_SQUARE),
        _biased(_LAYER + "attention.self.key", _BLOCK + "attn_k", *_SQUARE),
        _biased(_LAYER + "attention.self.value", _BLOCK + "attn_v", *_SQUARE),
        _biased(_LAYER + "attention.output.dense", _BLOCK + "attn_output", *_SQUARE),
        _biased(_LAYER + "attention.output.LayerNorm", _BLOCK + "attn_output_norm", "n_embd"),
        _biased(_LAYER + "intermediate.dense", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        _biased(_LAYER + "output.dense", _BLOCK + "ffn_down", "n_embd", "n_ff"),
        _biased(_LAYER + "output.LayerNorm", _BLOCK + "layer_output_norm", "n_embd"),
    ),
    ignores=(
        Ignore("*embeddings.position_ids", "a buffer, the numbers from 0 on"),
        Ignore("*embeddings.token_type_ids", "a buffer of zeros"),
        Ignore("*pooler.dense.*", "not used for embeddings", loss=True),
        Ignore("cls.predictions.*", "the head for masked words is not used for embeddings", loss=True),
        Ignore("cls.seq_relationship.*", "the head for next sentences is not used for embeddings", loss=True),
    ),
    refuses=(Refuses("decodes", "llama.cpp's bert graph is an encoder"),),
    prefixes=(("embeddings.", "bert.embeddings."), ("encoder.", "bert.encoder.")),
    suffixes=((".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta")),
    graph={
        "block": "encoder",
        "norm": "layer",
        "norm_place": "post",
        "activation": "gelu",
        "mlp": "plain",
        "residual": "serial",
        "positions": "learned",
    },
)
