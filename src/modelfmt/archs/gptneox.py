"""GPT-NeoX and Pythia: layer norms with biases, attention and MLP beside each other, partial rope.

Queries, keys and values are fused head by head in a checkpoint, one after another in a file. Checked against
transformers 5.23 models/gpt_neox/{configuration,modeling}_gpt_neox.py and llama.cpp src/models/gptneox.cpp (October
2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import BUFFERS, DECODER, biased, targets
from modelfmt.archs.specs import Ungrouped
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["GPTNEOX"]

_LAYER, _BLOCK = "gpt_neox.layers.{i}.", "blk.{i}."

GPTNEOX = DECODER.derive(
    gguf="gptneox",
    hf=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    model_type=("gpt_neox",),
    rope=Rope("neox", implied=10000.0, partial=0.25, dimension=True),
    without=("rms_eps", *targets("attn_q", "attn_k", "attn_v", "ffn_gate")),
    params=(
        Param("n_head_kv", (), derive="n_head"),
        Param("head_size", (), derive="n_embd/n_head"),
        Param("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "FLOAT32", default=1e-5),
        Param("parallel", "use_parallel_residual", "use_parallel_residual", "BOOL", default=True),
        Param(
            "activation",
            "hidden_act",
            type="STRING",
            default="gelu",
            allowed=("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        ),
    ),
    rows=(
        Row("gpt_neox.embed_in.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row(("embed_out.weight", "lm_head.weight"), "output.weight", ("vocab_size", "n_embd")),
        biased("gpt_neox.final_layer_norm", "output_norm", "n_embd"),
        biased(_LAYER + "input_layernorm", _BLOCK + "attn_norm", "n_embd"),
        biased(
            _LAYER + "attention.query_key_value",
            _BLOCK + "attn_qkv",
            "3*n_embd",
            "n_embd",
            ops=(Ungrouped("n_head"),),
        ),
        biased(_LAYER + "attention.dense", _BLOCK + "attn_output", "n_embd", "n_embd"),
        biased(_LAYER + "post_attention_layernorm", _BLOCK + "ffn_norm", "n_embd"),
        biased(_LAYER + "mlp.dense_h_to_4h", _BLOCK + "ffn_up", "n_ff", "n_embd"),
        biased(_LAYER + "mlp.dense_4h_to_h", _BLOCK + "ffn_down", "n_embd", "n_ff"),
    ),
    ignores=(
        Ignore("*.attention.bias", BUFFERS[1].reason),
        Ignore("*.attention.masked_bias", BUFFERS[2].reason),
    ),
    refuses=(Refuses("tied", "llama.cpp's gptneox graph wants an output matrix besides the embedding"),),
    prefixes=(("gpt_neox.", ""),),
    graph={"norm": "layer", "activation": "gelu_tanh", "mlp": "plain", "residual": "parallel", "fused": ("qkv",)},
)
