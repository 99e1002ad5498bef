"""What mixtures of experts share beyond the experts: shared ones, dense layers before them, DeepSeek 3's router.

No architecture by itself. Names are those of transformers 5.24 (models/deepseek_v3/modeling_deepseek_v3.py) and of
llama.cpp's llama-arch.cpp (October 2026).
"""

from __future__ import annotations

from modelfmt.archs.table import Ignore, Loses, Nextn, Param, Row

__all__ = [
    "MTP",
    "NOT_NORMALISED",
    "dense_rows",
    "leading_dense",
    "n_nextn",
    "nextn",
    "router",
    "score_bias",
    "shared_rows",
    "sigmoid_router",
]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_KINDS = ("gate", "up", "down")

MTP = Ignore(
    "*layers.{n_layer}.*", "the layer that predicts a further token takes no part in llama.cpp's graph", loss=True
)

_NEXTN = _BLOCK + "nextn."


def n_nextn(default: int = 0) -> Param:
    """How many layers predict further tokens, with what the configuration class takes an absent key for."""
    config, key = "num_nextn_predict_layers", "nextn_predict_layers"
    return Param("n_nextn", config, key, default=default, low=0, high=64, omit=0)


def nextn(norm: str) -> Nextn:
    """DeepSeek 3's layer that predicts a further token, which others have taken over. norm: the name of its last norm.

    Source: README_WEIGHTS.md of the DeepSeek-V3 repository.
    """
    vocabulary = ("vocab_size", "n_embd")
    return Nextn(
        rows=(
            Row(_LAYER + "eh_proj.weight", _NEXTN + "eh_proj.weight", ("n_embd", "2*n_embd")),
            Row(_LAYER + "enorm.weight", _NEXTN + "enorm.weight", ("n_embd",)),
            Row(_LAYER + "hnorm.weight", _NEXTN + "hnorm.weight", ("n_embd",)),
            Row(_LAYER + "embed_tokens.weight", _NEXTN + "embed_tokens.weight", vocabulary, optional=True),
            Row(_LAYER + "shared_head.head.weight", _NEXTN + "shared_head_head.weight", vocabulary, optional=True),
            Row(f"{_LAYER}{norm}.weight", _NEXTN + "shared_head_norm.weight", ("n_embd",), optional=True),
        )
    )


def leading_dense(default: int) -> Param:
    """How many layers from the first on have no experts: a list of the kinds of all layers, or their number."""
    paths = ("mlp_layer_types", "first_k_dense_replace")
    leading = ("dense", "sparse")
    return Param("n_dense", paths, "leading_dense_block_count", default=default, low=0, leading=leading)


def dense_rows(when: str, *, alias: str | None = None) -> tuple[Row, ...]:
    """The gated MLP of the layers that have no experts. alias: another name of it."""
    return _gated("mlp", "ffn_{kind}", "n_ff", when, alias)


def shared_rows(module: str, n_ff: str, when: str = "", *, alias: str | None = None) -> tuple[Row, ...]:
    """The gated MLP that each token passes beside its experts. n_ff: its width, a term. alias: another name of it."""
    return _gated(module, "ffn_{kind}_shexp", n_ff, when, alias)


def _gated(module: str, target: str, n_ff: str, when: str, alias: str | None = None) -> tuple[Row, ...]:
    names = (module,) if alias is None else (module, alias)
    return tuple(
        Row(
            tuple(f"{_LAYER}{name}.{kind}_proj.weight" for name in names),
            f"{_BLOCK}{target.replace('{kind}', kind)}.weight",
            ("n_embd", n_ff) if kind == "down" else (n_ff, "n_embd"),
            when=when,
        )
        for kind in _KINDS
    )


def router(*sources: str, when: str = "") -> Row:
    """The matrix that scores the experts. sources: spellings of its name in a layer."""
    names = tuple(_LAYER + source for source in sources)
    return Row(names, _BLOCK + "ffn_gate_inp.weight", ("n_expert", "n_embd"), when=when, keep="F32")


def score_bias(*sources: str, when: str = "") -> Row:
    """What is added to the scores to choose experts, but not to weigh them. sources: spellings of its name."""
    names = tuple(_LAYER + source for source in sources)
    return Row(names, _BLOCK + "exp_probs_b.bias", ("n_expert",), when=when)


def sigmoid_router(*, n_group: int, n_group_used: int, scale: float, normalised: bool) -> tuple[Param, ...]:
    """DeepSeek 3's choice of experts, with what the configuration class takes absent keys for."""
    return (
        Param("routed_scale", "routed_scaling_factor", "expert_weights_scale", "FLOAT32", default=scale),
        Param("normalised", "norm_topk_prob", "expert_weights_norm", "BOOL", default=normalised, omit=False),
        Param("gating", "scoring_func", "expert_gating_func", codes=(("sigmoid", 2),), default=2),
        Param("n_group", "n_group", "expert_group_count", default=n_group),
        Param("n_group_used", "topk_group", "expert_group_used_count", default=n_group_used),
    )


NOT_NORMALISED = Loses(
    "normalised",
    "approximated",
    "norm_topk_prob",
    "llama.cpp's graph of this architecture never normalises the weights of the chosen experts",
)
