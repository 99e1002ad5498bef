"""ModernBERT: an encoder with rope, windows in two of three layers, a gated MLP, layer norms without biases.

Checked against transformers 5.23 models/modernbert/{configuration,modeling}_modernbert.py and llama.cpp
src/models/modern-bert.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.table import Architecture, Ignore, Param, Rope, Row, Window

__all__ = ["MODERNBERT"]

_ACTIVATIONS = ("gelu", "silu")
_LAYER, _BLOCK = "layers.{i}.", "blk.{i}."

MODERNBERT = Architecture(
    gguf="modern-bert",
    hf=("ModernBertModel", "ModernBertForMaskedLM"),
    model_type=("modernbert",),
    pooled=True,
    rope=Rope("neox", theta=160000.0, local_theta=10000.0, kinds=("default",)),
    window=Window(period=3, size=128, config="local_attention", full_first=True),
    params=(
        Param("n_layer", "num_hidden_layers", "block_count", high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length"),
        Param("n_embd", "hidden_size", "embedding_length"),
        Param("n_ff", "intermediate_size", "feed_forward_length"),
        Param("n_head", "num_attention_heads", "attention.head_count"),
        Param("n_head_kv", (), derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", ("norm_eps", "layer_norm_eps"), "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        # llama.cpp's converter takes norm_eps for that of rms norms; its graph asks for the one above
        Param("rms_eps", "norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("causal", (), "attention.causal", "BOOL", default=False),
        Param("pooling", "classifier_pooling", "classifier.pooling_type", default=2, codes=(("mean", 1), ("cls", 2))),
        Param("rope_scaling", (), "rope.scaling.type", "STRING", default="none"),
        Param("vocab_size", "vocab_size", "vocab_size"),
        Param("activation", "hidden_activation", "hidden_activation", "STRING", default="gelu", allowed=_ACTIVATIONS),
        Param("tied", (), type="BOOL", default=True),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rows=(
        Row("embeddings.tok_embeddings.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("embeddings.norm.weight", "token_embd_norm.weight", ("n_embd",)),
        Row(_LAYER + "attn_norm.weight", _BLOCK + "attn_norm.weight", ("n_embd",), when="0 < layer"),
        Row(_LAYER + "attn.Wqkv.weight", _BLOCK + "attn_qkv.weight", ("3*n_embd", "n_embd")),
        Row(_LAYER + "attn.Wo.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_embd")),
        Row(_LAYER + "mlp_norm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_LAYER + "mlp.Wi.weight", _BLOCK + "ffn_up.weight", ("2*n_ff", "n_embd")),
        Row(_LAYER + "mlp.Wo.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff")),
        Row("final_norm.weight", "output_norm.weight", ("n_embd",)),
    ),
    ignores=(
        Ignore("head.*", "the head for masked words is not used for embeddings", loss=True),
        Ignore("decoder.*", "the head for masked words is not used for embeddings", loss=True),
    ),
    prefixes=tuple((name, f"model.{name}") for name in ("embeddings.", "layers.", "final_norm.")),
    graph={
        "block": "encoder",
        "norm": "layer",
        "norm_place": "pre",
        "activation": "gelu",
        "mlp": "gated",
        "residual": "serial",
        "fused": ("qkv", "gate_up"),
    },
)
