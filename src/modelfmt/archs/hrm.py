"""HRM Text: two stacks of layers that run again and again over the same tokens, the low one several times for each turn
of the high one; norms without weights, gated attention.

The file has the layers of the low stack before those of the high one, and counts as many as run. Checked against
transformers 5.24 models/hrm_text/{configuration,modeling}_hrm_text.py and llama.cpp src/models/hrm-text.cpp (October
2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import DECODER, targets
from modelfmt.archs.specs import Part
from modelfmt.archs.table import Loses, Param, Refuses, Rope, Row

__all__ = ["HRM_TEXT"]

_BLOCK = "blk.{i}."
_WIDE = ("n_head*head_size", "n_embd")
_FUSED = {
    ("attn.gqkv_proj", "self_attn", _WIDE): {"gate": "attn_gate", "q": "attn_q", "k": "attn_k", "v": "attn_v"},
    ("mlp.gate_up_proj", "mlp", ("n_ff", "n_embd")): {"gate": "ffn_gate", "up": "ffn_up"},
}
_TURNS = "n_stack*h_cycles*l_cycles + n_stack*h_cycles"


def _stack(module: str, when: str, start: str = "") -> tuple[Row, ...]:
    """The rows of one stack: matrices in one, as transformers saves them, or each by itself."""
    layer = f"model.{module}.layers.{{i}}."

    def row(source: str | tuple[str, ...], target: str, shape: tuple[str, ...], *ops: Part) -> Row:
        names = (source,) if isinstance(source, str) else source
        sources = tuple(f"{layer}{name}.weight" for name in names)
        return Row(sources, f"{_BLOCK}{target}.weight", shape, ops, when=when, layers="n_blocks", start=start)

    rows = [
        row(("attn.o_proj", "self_attn.o_proj"), "attn_output", ("n_embd", "n_head*head_size")),
        row("mlp.down_proj", "ffn_down", ("n_embd", "n_ff")),
    ]
    for (fused, alone, shape), kinds in _FUSED.items():
        for index, (kind, target) in enumerate(kinds.items()):
            rows.append(row(fused, target, shape, Part(index, of=len(kinds), axis=0)))
            rows.append(row(f"{alone}.{kind}_proj", target, shape))
    return tuple(rows)


HRM_TEXT = DECODER.derive(
    gguf="hrm_text",
    hf=("HrmTextForCausalLM",),
    model_type=("hrm_text",),
    rope=Rope("neox", kinds=("default", "linear", "yarn"), dimension=True),
    without=("n_layer", "output_norm.weight", *targets("attn_norm", "ffn_norm")),  # n_layer is what the others imply
    params=(
        Param("n_ctx", "max_position_embeddings", "context_length", default=2048),
        Param("n_embd", "hidden_size", "embedding_length", default=1536),
        Param("n_ff", "intermediate_size", "feed_forward_length", default=4096),
        Param("n_head", "num_attention_heads", "attention.head_count", default=12),
        Param("n_head_kv", (), "attention.head_count_kv", derive="n_head"),
        Param("head_size", "head_dim", "attention.key_length", default=128),
        Param("value_size", (), "attention.value_length", derive="head_size"),
        Param("h_cycles", "H_cycles", "hrm.h_cycles", default=2, high=16),
        Param("l_cycles", "L_cycles", "hrm.l_cycles", default=3, high=16),
        Param("n_stack", ("num_layers_per_stack", "num_hidden_layers"), "hrm.layers_per_stack", default=16, high=128),
        Param("n_layer", "num_hidden_layers", "block_count", cases=(("", _TURNS),)),
        Param("n_blocks", (), derive="2*n_stack"),
        Param("scale", "embedding_scale", "embedding_scale", "FLOAT32"),
        Param("prefix_lm", "prefix_lm", "hrm.prefix_lm", "BOOL", default=True, omit=False),
        Param("attention_bias", "attention_bias", type="BOOL", default=False),
        Param("mlp_bias", "mlp_bias", type="BOOL", default=False),
    ),
    rows=(
        Row("model.z_L_init", "hrm.z_l_init", ("n_embd",)),
        *_stack("L_module", "layer < n_stack"),
        *_stack("H_module", "n_stack < layer + 1", start="n_stack"),
    ),
    refuses=(
        Refuses("attention_bias", "llama.cpp's hrm_text graph has no biases"),
        Refuses("mlp_bias", "llama.cpp's hrm_text graph has no biases"),
        Refuses("512 < n_layer", "llama.cpp has place for 512 layers, and each turn of a stack counts"),
    ),
    loses=(
        Loses(
            "prefix_lm",
            "approximated",
            "prefix_lm",
            "the tokens of a prompt look backwards only in this release of llama.cpp; later ones read the key",
        ),
    ),
    graph={"block": "recurrent stacks"},
)
