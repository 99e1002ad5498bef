"""Chameleon: Llama with layer norms of queries and keys, for each head of its own. Pictures are tokens; what makes
tokens of them is left out.

llama.cpp's converter takes the norms of the first head for all, which are those of all heads in the 7B model only. Its
graph gives the tokens of pictures no probability, as transformers does; that of the 34B model, whose norms are behind
attention and MLP, gives the MLP what attention made without what came before it, and is refused.

Checked against transformers 5.24 models/chameleon/{configuration,modeling}_chameleon.py and llama.cpp
src/models/chameleon.cpp, conversion/chameleon.py (November 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.decoder import ATTENTION_BIAS
from modelfmt.archs.llama import LLAMA
from modelfmt.archs.specs import Heads, Permute, Reshaped
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["CHAMELEON"]


def _norm(letter: str, heads: str) -> tuple[Row, ...]:
    """A norm of queries or keys: weight and bias [heads, head_size], permuted as the rows that they are for."""
    shape = (heads, "head_size")
    ops = (Reshaped(shape, (f"{heads}*head_size",)), Permute(heads), Heads(heads))
    source, target = f"model.layers.{{i}}.self_attn.{letter}_norm", f"blk.{{i}}.attn_{letter}_norm"
    return tuple(Row(f"{source}.{end}", f"{target}.{end}", shape, ops, keep="F32") for end in ("weight", "bias"))


CHAMELEON = LLAMA.derive(
    gguf="chameleon",
    hf=("ChameleonForConditionalGeneration", "ChameleonForCausalLM"),
    model_type=("chameleon",),
    rope=Rope("norm", kinds=("default", "linear", "dynamic", "yarn"), dimension=True),
    without=("mlp_bias",),
    params=(
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", default=32, derive="n_head"),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("norms_behind", "swin_norm", "swin_norm", "BOOL", default=False),
        replace(ATTENTION_BIAS, tensor=""),
    ),
    rows=(*_norm("q", "n_head"), *_norm("k", "n_head_kv")),
    ignores=(Ignore("model.vqmodel.*", "what makes tokens of pictures has no place in this file", loss=True),),
    refuses=(
        Refuses("norms_behind", "with norms behind attention, llama.cpp's graph has the MLP without the residual"),
        Refuses("attention_bias", "llama.cpp's chameleon graph has no bias behind attention"),
        Refuses("n_head*head_size != n_embd", "chameleon files have heads of n_embd / n_head values only"),
        Refuses("vocab_size < 8196", "llama.cpp's chameleon graph takes the tokens from 4 to 8195 for pictures"),
    ),
    graph={"qk_norm": "layer norm of each head"},
)
