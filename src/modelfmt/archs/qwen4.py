"""Qwen 4 Exp: Qwen 3.5's delta nets and experts; residual streams that gates of low rank mix; attention to the blocks
of tokens that an indexer picks; in one layer embeddings of n-grams, looked up by their hash.

What hashes (multipliers, and for each head its first row and how many there are) are tensors of whole numbers in the
checkpoint and lists among the file's metadata. The table of the n-grams is in shards there, and one tensor in the file.
Checked against transformers 5.24 models/qwen4_exp/{configuration,modeling}_qwen4_exp.py, conversion_mapping.py and
llama.cpp src/models/qwen4exp.cpp and conversion/qwen4exp.py (November 2026).
"""

from __future__ import annotations

from modelfmt.archs.decoder import targets
from modelfmt.archs.qwen_next import QWEN3_5_MOE
from modelfmt.archs.specs import Add, Part, Reshaped, Sharded
from modelfmt.archs.table import Listed, Param, Refuses, Rope, Row

__all__ = ["QWEN4_EXP", "QWEN4_EXP_NGRAMS"]

_LAYER, _BLOCK = "model.layers.{i}.", "blk.{i}."
_INDEXER, _NGRAMS = _LAYER + "self_attn.indexer.", _LAYER + "ple."
_TABLE = _NGRAMS + "ple_embedding."
_STREAMS, _ATTENDS = "n_streams*n_embd", "not recurrent"
_PLUS_ONE = (Add(1.0),)
_INDEXED = ("n_index*index_size", "index_size")
_ONE_LAYER = "llama.cpp's qwen4exp graph has embeddings of n-grams in one layer"


def _mixer(source: str, target: str, *, injects: bool = True) -> tuple[Row, ...]:
    """What mixes the residual streams into the input of a module, and gives each its share of the output."""
    return (
        Row(f"{source}.hc_norm.weight", f"{target}_norm.weight", (_STREAMS,), _PLUS_ONE),
        Row(f"{source}.input_mix_weight_down.weight", f"{target}_down.weight", ("hc_rank", _STREAMS)),
        Row(f"{source}.input_mix_weight_up.weight", f"{target}_up.weight", (_STREAMS, "hc_rank")),
        *(
            (Row(f"{source}.block_inject_weight.weight", f"{target}_inject.weight", ("n_streams", _STREAMS)),)
            if injects
            else ()
        ),
    )


def _index(index: int, name: str) -> tuple[Row, ...]:
    """The projection of the indexer's queries or of its keys, which the checkpoint has in one, and their norm."""
    part = (Part(index, of=_INDEXED, axis=0),)
    shape, target = (_INDEXED[index], "n_embd"), f"{_BLOCK}indexer.{name}_"
    return (
        Row(_INDEXER + "index_qk_proj.weight", target + "proj.weight", shape, part, when=_ATTENDS),
        Row(f"{_INDEXER}{name}_layernorm.weight", target + "norm.weight", ("index_size",), _PLUS_ONE, when=_ATTENDS),
    )


def _hashes(name: str, key: str, size: str, *, low: int, below: str = "", first: str = "") -> Listed:
    return Listed(_TABLE + name, f"qwen4exp.ple.{key}", size, layer="first(ple)", low=low, below=below, first=first)


_BODY = QWEN3_5_MOE.derive(
    gguf="qwen4exp",
    hf=("Qwen4ExpForCausalLM",),
    model_type=("qwen4_exp_text",),
    nextn=None,
    rope=Rope("neox", kinds=("default",), dimension=True, partial=1.0, sections=(11, 11, 10, 0)),
    without=("n_nextn", "output_norm.weight", *targets("attn_norm", "post_attention_norm")),
    params=(
        Param(
            "recurrent",
            "layer_types",
            "attention.recurrent_layers",
            "BOOL",
            codes=(("linear_attention", 1), ("indexed_attention", 0), ("full_attention", 0)),
            per_layer=True,
            omit="periodic",
        ),
        Param("normalised", "norm_topk_prob", type="BOOL", default=True, allowed=(True,)),
        Param("n_expert", ("num_experts", "num_local_experts"), "expert_count", default=512, high=1024),
        Param("n_expert_used", "num_experts_per_tok", "expert_used_count", default=10, high=1024),
        Param("gate", "output_gate_type", type="STRING", derive="activation", implied=(("", "'sigmoid'"),)),
        Param("n_streams", "hc_count", "hyper_connection.count", default=4, low=2),
        Param("hc_rank", "hc_lowrank", "hyper_connection.low_rank", default=320),
        Param("n_index", "indexer_n_heads", "attention.indexer.head_count"),
        Param("n_index_kv", "indexer_kv_heads", derive="1", allowed=(1,)),
        Param("index_size", "indexer_head_dim", "attention.indexer.key_length"),
        Param("n_attended", "indexer_budget", "attention.indexer.top_k"),
        Param("block", "indexer_compress_ratio", implied=(("largest(ratios)", "largest(ratios)"), ("", "1"))),
        Param(
            "ratios",
            (),
            "attention.compress_ratios",
            low=0,
            per_layer=True,
            each=(("recurrent", "0"), ("", "block")),
        ),
    ),
    rows=(
        *_mixer("model.hyper_connection_mixer", "output_hc", injects=False),
        *_mixer(_LAYER + "attn_hyper_connection", _BLOCK + "hc_attn"),
        *_mixer(_LAYER + "mlp_hyper_connection", _BLOCK + "hc_ffn"),
        *_index(0, "q"),
        *_index(1, "k"),
    ),
    refuses=(
        Refuses("gate != 'sigmoid'", "llama.cpp's qwen4exp graph has a sigmoid where delta nets are gated"),
        Refuses("n_attended % block", "tokens are attended to in whole blocks"),
    ),
    graph={"residual": "streams", "attention": "indexed"},
)

QWEN4_EXP_NGRAMS = _BODY.derive(
    params=(
        Param(
            "ple",
            "ple_layer_ids",
            "ple.layers",
            codes=(("ple", 1),),
            per_layer=True,
            numbers=True,
            listed=True,
            first=1,
        ),
        Param("ngram", "ngram_size", "ple.ngram_size", default=3, low=2, high=8),
        Param("heads_each", "heads_per_ngram", "ple.heads_per_ngram", default=8, high=64),
        Param("ngram_heads", (), derive="ngram*heads_each - heads_each"),
        Param("ple_kernel", "ple_conv_kernel_size", "ple.conv_kernel", default=4),
        Param("ple_eos", "eos_token_id", "ple.eos_token_id", low=0, foremost=True),
        Param("ple_image", "image_token_id", "ple.image_token_id", default=None, low=0),
        Param("ple_width", "ple_embed_dim", derive="n_embd"),
        Param("ngram_width", (), "embedding_length_per_layer_input", derive="ple_width/ngram_heads"),
        Param("ngram_base", "ngram_vocab_size_base", default=20_000_000),
        Param("n_hashed", (), derive="primes(ngram_base, ngram_heads)"),
        Param(
            "divisor",
            "make_ngram_vocab_size_divisible_by",
            default=128,
            implied=(("n_ngrams == n_whole", "divisor"), ("", "n_ngrams")),
        ),
        Param("n_up", (), derive="n_hashed + divisor - 1"),
        Param("n_whole", (), derive="n_up//divisor*divisor"),
        Param("n_ngrams", (), derive="n_whole"),
        Param("n_shards", "split_ngram_parts", default=512, high=65536),
    ),
    rows=(
        Row(
            _TABLE + "ngram_embedding.shard_{e}.weight",
            "per_layer_token_embd.weight",
            ("n_ngrams", "ngram_width"),
            (Sharded("n_ngrams", "n_shards"),),
            start="0 - first(ple)",
        ),
        Row(_NGRAMS + "key_proj.weight", _BLOCK + "ple_key.weight", (_STREAMS, "n_embd"), when="ple"),
        Row(_NGRAMS + "value_proj.weight", _BLOCK + "ple_value.weight", ("n_embd", "n_embd"), when="ple"),
        *(
            Row(f"{_NGRAMS}norm_{name}.weight", f"{_BLOCK}ple_norm_{name}.weight", (_STREAMS,), _PLUS_ONE, when="ple")
            for name in ("key", "query", "conv")
        ),
        Row(
            _NGRAMS + "conv1d.weight",
            _BLOCK + "ple_conv1d.weight",
            (_STREAMS, "ple_kernel"),
            (Reshaped((_STREAMS, "1", "ple_kernel"), (_STREAMS, "ple_kernel")),),
            when="ple",
        ),
    ),
    lists=(
        _hashes("layer_multipliers", "layer_multipliers", "ngram", low=1),
        _hashes("ngram_heads_offsets", "head_offsets", "ngram_heads", low=0, below="n_ngrams"),
        _hashes(
            "ngram_heads_vocab_sizes", "head_vocab_sizes", "ngram_heads", low=1, below="n_ngrams+1", first="ngram_base"
        ),
    ),
    refuses=(
        Refuses("first(ple) + step(ple) < n_layer", _ONE_LAYER),
        Refuses("ple and not recurrent", "llama.cpp's qwen4exp graph has embeddings of n-grams in delta nets only"),
        Refuses("64 < ngram_heads", "llama.cpp's qwen4exp graph has at most 64 heads of n-grams"),
        Refuses("ple_width != n_embd", "llama.cpp's qwen4exp graph has n-grams as wide as the model"),
        Refuses("2147483647 < n_ngrams", "llama.cpp looks rows up by 31 bits"),
    ),
)

QWEN4_EXP = _BODY.derive(
    params=(
        Param("ple", "ple_layer_ids", codes=(("ple", 1),), per_layer=True, numbers=True, first=1, each=(("", "0"),)),
    ),
    variants=(("ple", QWEN4_EXP_NGRAMS),),
)
