"""dots 3 Note: DeepSeek's latent attention in two sizes, one with an indexer over all tokens, one in a sliding window;
a norm of the key that turns, a gate for each head, DeepSeek 3's experts.

transformers scales the latent vectors behind their norms, which is in the norms here. llama.cpp's indexer turns halves,
that of transformers pairs. Checked against transformers 5.24 models/dots3_note/{configuration,modeling}_dots3_note.py
and llama.cpp src/models/dots3note.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.dsa import DEEPSEEK32, indexer_rows
from modelfmt.archs.experts import leading_dense, sigmoid_router
from modelfmt.archs.specs import Permute, Scaled
from modelfmt.archs.table import Ignore, Param, Refuses, Rope, Row

__all__ = ["DOTS3_NOTE"]

_ATTENTION, _BLOCK = "model.layers.{i}.self_attn.", "blk.{i}."


def _alike(config: str) -> tuple[str, str]:
    """Where config.json has a size of the sliding layers."""
    return f"swa_{config}", f"per_layer_config.*.{config}"


def _sized(
    name: str, config: str, key: str, *, default: int, sliding: int, full_is: str = "", sliding_is: str = ""
) -> tuple[Param, ...]:
    """A size that layers with an indexer and sliding ones have each of their own, and that of each layer.

    key: in the file, for all layers where full_is and sliding_is say what each kind's follows from. transformers leaves
    out of per_layer_config what all layers have alike.
    """
    full, slides, given = f"{name}_full", f"{name}_slides", f"{name}_given"
    apart = not full_is
    return (
        Param(full, config, key if apart else "", default=default, implied=() if apart else (("", full_is),)),
        Param(given, _alike(config), default=0, low=0, implied=(("", sliding_is or slides),)),
        Param(
            slides,
            (),
            f"{key}_swa" if apart else "",
            cases=((given, given), ("n_listed", full), ("", str(sliding))),
            implied=() if apart else (("", sliding_is),),
        ),
        Param(name, (), "" if apart else key, per_layer=True, each=(("slides", slides), ("", full))),
    )


def _latent_norm(name: str) -> Row:
    """The norm of a latent vector, with the root of n_embd / its size, by which transformers scales what is behind."""
    size = f"{name}_lora"
    source, target = f"{_ATTENTION}{name}_a_layernorm.weight", f"{_BLOCK}attn_{name}_a_norm.weight"
    return Row(source, target, (size,), (Scaled("n_embd", 0.5), Scaled(size, -0.5)))


DOTS3_NOTE = DEEPSEEK32.derive(
    gguf="dots3note",
    hf=("Dots3NoteForCausalLM", "Dots3NoteTextForCausalLM"),
    model_type=("dots3_note_text",),
    rope=Rope(
        "norm",
        theta=8e7,
        local_theta=5e4,
        kinds=("default",),
        dimension=True,
        whole="head_dim",
        labels=("indexed_attention", "sliding_attention"),
        thetas=("rope_theta", "swa_rope_theta"),
    ),
    without=("n_head", "full", "nope", "value_size", "kv_lora", "key_mla", "key_length", "value_length", "n_expanded"),
    params=(
        Param("rms_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "FLOAT32", default=1e-5),
        Param("head_dim", "head_dim", default=256),
        Param("q_lora", "q_lora_rank", "attention.q_lora_rank", default=1024),
        leading_dense(1),
        Param("n_expert", ("n_routed_experts", "num_local_experts"), "expert_count", default=256, high=1024),
        Param("n_ff_expert", "moe_intermediate_size", "expert_feed_forward_length", default=1536),
        Param(
            "n_ff_shared",
            ("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"),
            default=1536,
            implied=(("", "n_ff_expert"),),
        ),
        *sigmoid_router(n_group=1, n_group_used=1, scale=1.0, normalised=True),
        Param("window", ("sliding_window", "sliding_window_size"), "attention.sliding_window", default=512),
        Param(
            "slides",
            "layer_types",
            "attention.sliding_window_pattern",
            "BOOL",
            codes=(("sliding_attention", 1), ("indexed_attention", 0), ("full_attention", 0)),
            each=(("layer < 2", "0"), ("layer % 4 == 1", "0"), ("", "1")),
            per_layer=True,
        ),
        Param("full", (), "attention.indexer.types", low=0, per_layer=True, each=(("slides", "0"), ("", "1"))),
        Param("n_listed", "per_layer_config", default=0, low=0, counted=True),
        *_sized(
            "n_head",
            "num_attention_heads",
            "attention.head_count",
            default=128,
            sliding=64,
            full_is="at(n_head, full)",
            sliding_is="at(n_head, slides)",
        ),
        *_sized("kv_lora", "kv_lora_rank", "attention.kv_lora_rank", default=512, sliding=1024),
        *_sized("value_size", "v_head_dim", "attention.value_length_mla", default=128, sliding=128),
        *_sized(
            "nope",
            "qk_nope_head_dim",
            "",
            default=128,
            sliding=192,
            full_is="key_mla - n_rot",
            sliding_is="key_mla_swa - n_rot",
        ),
        Param(
            "head_dim_slides",
            ("swa_head_dim", "per_layer_config.*.head_dim"),
            derive="nope_slides + head_size",
            implied=(("", "nope_slides + head_size"),),
        ),
        Param("key_mla", (), "attention.key_length_mla", derive="nope_full + head_size"),
        Param("key_mla_swa", (), "attention.key_length_mla_swa", derive="nope_slides + head_size"),
        Param("key_length", (), "attention.key_length", derive="kv_lora_full + head_size"),
        Param("key_length_swa", (), "attention.key_length_swa", derive="kv_lora_slides + head_size"),
        Param("value_length", (), "attention.value_length", derive="kv_lora_full"),
        Param("value_length_swa", (), "attention.value_length_swa", derive="kv_lora_slides"),
        Param("n_kv_full", "num_key_value_heads", default=128, implied=(("", "at(n_head, full)"),)),
        Param("n_kv_given", _alike("num_key_value_heads"), default=0, low=0, implied=(("", "at(n_head, slides)"),)),
        Param("q_lora_given", _alike("q_lora_rank"), default=0, low=0, implied=(("", "q_lora"),)),
        Param("q_lora_swa", (), cases=(("q_lora_given", "q_lora_given"), ("n_listed", "q_lora"), ("", "1024"))),
        Param("rot_given", _alike("qk_rope_head_dim"), default=0, low=0, implied=(("", "head_size"),)),
        Param("rot_swa", (), cases=(("rot_given", "rot_given"), ("n_listed", "head_size"), ("", "64"))),
    ),
    rows=(
        _latent_norm("q"),
        _latent_norm("kv"),
        Row(_ATTENTION + "k_rope_only_layernorm.weight", _BLOCK + "attn_k_norm.weight", ("head_size",)),
        Row(_ATTENTION + "g_proj.weight", _BLOCK + "attn_gate.weight", ("n_head", "n_embd")),
        *indexer_rows(
            "full", (Permute("n_index", "head_size", halves=True),), (Permute("1", "head_size", halves=True),)
        ),
    ),
    ignores=(Ignore("*mtp.*", "the layer that predicts a further token is not in this file", loss=True),),
    refuses=(
        Refuses("q_lora_swa != q_lora", "llama.cpp's dots3note graph has queries of one low rank in all layers"),
        Refuses("rot_swa != head_size", "llama.cpp's dots3note graph turns as many values in all layers"),
        Refuses("n_ff_shared != n_ff_expert", "llama.cpp's dots3note graph has shared experts as wide as the others"),
        Refuses("first(slides) == n_layer", "llama.cpp's dots3note graph wants sliding layers and others"),
        Refuses("first(full) == n_layer", "llama.cpp's dots3note graph wants sliding layers and others"),
    ),
)
