"""What most decoders share: the rows and params of a pre-norm transformer with grouped attention and a gated MLP.

No architecture by itself. Names are those of transformers 5.23 (models/llama/modeling_llama.py) and of llama.cpp's
llama-arch.cpp (October 2026).
"""

from __future__ import annotations

from msgspec.structs import replace

from modelfmt.archs.specs import Part, Spec, Stacked
from modelfmt.archs.table import Architecture, Ignore, Param, Refuses, Rope, Row

__all__ = [
    "ATTENTION_BIAS",
    "BUFFERS",
    "DECODER",
    "HEAD_SIZE_GIVEN",
    "HEAD_SIZE_WRITTEN",
    "MLP_BIAS",
    "NUMBERED",
    "PROJECTIONS",
    "biased",
    "expert_params",
    "expert_rows",
    "kv_heads",
    "layer_thetas",
    "sliding_layers",
    "targets",
    "unbiased",
]

BUFFERS = (
    Ignore("*.rotary_emb.inv_freq", "a buffer, computed from rope_theta"),
    Ignore("*.attn.bias", "a buffer, the causal mask"),
    Ignore("*.attn.masked_bias", "a buffer, the value of masked scores"),
)

# The size of a head: written always, or only where config.json has it, as the configuration classes of transformers do.
HEAD_SIZE_WRITTEN = (
    Param("head_size", "head_dim", "attention.key_length", derive="n_embd/n_head"),
    Param("value_size", (), "attention.value_length", derive="head_size"),
)
HEAD_SIZE_GIVEN = (
    Param("head_size", "head_dim", derive="n_embd/n_head"),
    Param("key_length", "head_dim", "attention.key_length", default=None),
    Param("value_length", "head_dim", "attention.value_length", default=None),
)

# Where the configuration says whether projections have biases, which a file tells by their being there.
ATTENTION_BIAS = Param("attention_bias", "attention_bias", type="BOOL", default=False, tensor="blk.{i}.attn_q.bias")
MLP_BIAS = Param("mlp_bias", "mlp_bias", type="BOOL", default=False, tensor="blk.{i}.ffn_up.bias")

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."


def kv_heads(default: int) -> Param:
    """The number of key-value heads, with what transformers assumes where config.json says nothing."""
    return Param(
        "n_head_kv", "num_key_value_heads", "attention.head_count_kv", default=default, derive="n_head", per_layer=True
    )


def sliding_layers(*each: tuple[str, str], cut: bool = False) -> Param:
    """Which layers have a sliding window. each: where config.json does not say. cut: its list may be longer."""
    return Param(
        "slides",
        "layer_types",
        "attention.sliding_window_pattern",
        "BOOL",
        codes=(("sliding_attention", 1), ("full_attention", 0)),
        each=each,
        per_layer=True,
        cut=cut,
    )


def layer_thetas(turns: str) -> tuple[Param, ...]:
    """A theta for each layer, 0 where it does not turn; `told`: whether config.json has them. turns: the condition
    under which a layer of a file does."""
    return (
        Param("theta", (), "rope.freq_base", "FLOAT32", default=None),
        Param(
            "thetas",
            "layer_rope_theta",
            type="FLOAT32",
            low=0,
            per_layer=True,
            default=None,
            implied=((turns, "theta"), ("", "0")),
        ),
        Param("told", "layer_rope_theta", counted=True, default=0, implied=(("", "1"),)),
    )


def expert_params(
    n_ff: Param | None = None, names: tuple[str, ...] = ("num_local_experts", "num_experts")
) -> tuple[Param, ...]:
    """Number of experts and how many a token uses; n_ff: the param of an expert's own width; names: of their number."""
    return (
        Param("n_expert", names, "expert_count", high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", high=1024),
        *((n_ff,) if n_ff else ()),
    )


PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
NUMBERED = {"gate": "w1", "up": "w3", "down": "w2"}


def expert_rows(
    module: str, names: dict[str, str], n_ff: str, when: str = "", *, together: str = "mlp.experts"
) -> tuple[Row, ...]:
    """Experts as one tensor each (`module`.{e}.NAME.weight) or as transformers 5 has them, all in one and gate with up.

    names: gate, up and down -> the name in the checkpoint. n_ff: the width of an expert, a term. when: in which layers.
    together: the module that has all in one.
    """
    up, down = ("n_expert", n_ff, "n_embd"), ("n_expert", "n_embd", n_ff)
    shapes = {"gate": up, "up": up, "down": down}
    fused = f"{_LAYER}{together}."
    single = [
        Row(
            f"{_LAYER}{module}.{{e}}.{names[kind]}.weight",
            f"{_BLOCK}ffn_{kind}_exps.weight",
            shape,
            (Stacked("n_expert"),),
            when=when,
        )
        for kind, shape in shapes.items()
    ]
    return (
        *single,
        Row(f"{fused}gate_up_proj", f"{_BLOCK}ffn_gate_exps.weight", up, (Part(0, of=2, axis=1),), when=when),
        Row(f"{fused}gate_up_proj", f"{_BLOCK}ffn_up_exps.weight", up, (Part(1, of=2, axis=1),), when=when),
        Row(f"{fused}down_proj", f"{_BLOCK}ffn_down_exps.weight", down, when=when),
    )


def biased(source: str, target: str, *shape: str, ops: tuple[Spec, ...] = (), when: str = "") -> Row:
    """A module with a weight and a bias, by its two names."""
    return Row(f"{source}.weight", f"{target}.weight", shape, ops, "required", when)


def targets(*names: str) -> tuple[str, ...]:
    """The targets of tensors of a layer."""
    return tuple(f"{_BLOCK}{name}.weight" for name in names)


def unbiased(rows: tuple[Row, ...], *names: str) -> tuple[Row, ...]:
    """The rows of tensors of a layer, without the bias that they might have."""
    return tuple(replace(row, bias="none") for row in rows if row.target in targets(*names))


DECODER = Architecture(
    gguf="",
    hf=(),
    model_type=(),
    rows=(
        Row("model.embed_tokens.weight", "token_embd.weight", ("vocab_size", "n_embd")),
        Row("model.norm.weight", "output_norm.weight", ("n_embd",)),
        Row("lm_head.weight", "output.weight", ("vocab_size", "n_embd"), tied_to="model.embed_tokens.weight"),
        Row(_LAYER + "input_layernorm.weight", _BLOCK + "attn_norm.weight", ("n_embd",)),
        Row(_LAYER + "self_attn.q_proj.weight", _BLOCK + "attn_q.weight", ("n_head*head_size", "n_embd")),
        Row(_LAYER + "self_attn.k_proj.weight", _BLOCK + "attn_k.weight", ("n_head_kv*head_size", "n_embd")),
        Row(_LAYER + "self_attn.v_proj.weight", _BLOCK + "attn_v.weight", ("n_head_kv*head_size", "n_embd")),
        Row(_LAYER + "self_attn.o_proj.weight", _BLOCK + "attn_output.weight", ("n_embd", "n_head*head_size")),
        Row(_LAYER + "post_attention_layernorm.weight", _BLOCK + "ffn_norm.weight", ("n_embd",)),
        Row(_LAYER + "mlp.gate_proj.weight", _BLOCK + "ffn_gate.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "mlp.up_proj.weight", _BLOCK + "ffn_up.weight", ("n_ff", "n_embd")),
        Row(_LAYER + "mlp.down_proj.weight", _BLOCK + "ffn_down.weight", ("n_embd", "n_ff")),
    ),
    params=(
        Param("n_layer", ("num_hidden_layers", "n_layers", "n_layer"), "block_count", high=1024),
        Param("n_ctx", "max_position_embeddings", "context_length"),
        Param("n_embd", "hidden_size", "embedding_length"),
        Param("n_ff", "intermediate_size", "feed_forward_length"),
        Param("n_head", "num_attention_heads", "attention.head_count"),
        Param("n_head_kv", "num_key_value_heads", "attention.head_count_kv", derive="n_head", per_layer=True),
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-6),
        Param("head_size", "head_dim", derive="n_embd/n_head"),
        Param("vocab_size", "vocab_size"),
        Param("tied", "tie_word_embeddings", type="BOOL", default=False),
        Param("causal", "is_causal", "attention.causal", "BOOL", default=True, omit=True),
        Param("activation", "hidden_act", type="STRING", default="silu", allowed=("silu", "swish")),
        Param("dtype", ("dtype", "torch_dtype"), type="STRING", default=None),
    ),
    rope=Rope("neox"),
    ignores=BUFFERS,
    refuses=(Refuses("n_head_kv and n_head % n_head_kv", "query heads must divide among the key-value heads"),),
    prefixes=(
        ("model.", "language_model.model."),
        ("model.", "model.language_model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ),
    graph={
        "block": "decoder",
        "norm": "rms",
        "norm_place": "pre",
        "activation": "silu",
        "mlp": "gated",
        "residual": "serial",
    },
)
