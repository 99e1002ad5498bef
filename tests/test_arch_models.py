"""Each architecture for real: a tiny checkpoint that transformers made, converted, and run by llama.cpp.

Random weights from a fixed seed; the log-probabilities of the next token (of encoders: the hidden states) must be those
of transformers' own forward pass in float32, and the folder must come back from the file: bit for bit with the carried
keys, without them such that transformers computes the same from it. A new architecture is one row of MODELS.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import llama
import modelfmt
from folders import N_TOKENS, SMALL_BETWEEN, SMALL_VISION, computed, contents, logits, question, there_and_back, tokens
from made_up import headers
from modelfmt import archs
from modelfmt.archs.bind import to_gguf
from modelfmt.errors import ModelfmtError, UnsupportedError
from test_archs import HOSTILE

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "long_factor": [1.0 + at for at in range(8)],
    "short_factor": [1.0 + at / 8 for at in range(8)],
}
DEEP_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
GPT_OSS = {
    "head_dim": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 20,
    "moe_intermediate_size": 48,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
DEEPSEEK2 = LATENT | {"n_routed_experts": 8, "n_shared_experts": 2, "routed_scaling_factor": 1.5}
DEEPSEEK3 = LATENT | {"n_routed_experts": 16, "n_group": 4, "topk_group": 2}
WIDTHS = {"moe_intermediate_size": 48}
SMALL_LATENT = {
    name: size for name, size in LATENT.items() if "expert" not in name and "moe" not in name and "dense" not in name
}
_THETA = {"rope_type": "default", "rope_theta": 1e4}
MELLUM = WIDTHS | {
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": {"full_attention": YARN, "sliding_attention": _THETA},
}
COHERE_MOE = {
    "head_dim": 32,
    "logit_scale": 0.25,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 2,
    "sliding_window": 16,
    "first_k_dense_replace": 1,
    "prefix_dense_intermediate_size": 80,
}
LAGUNA = WIDTHS | {
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "shared_expert_intermediate_size": 40,
}
MIMO = WIDTHS | {
    "head_dim": 48,
    "v_head_dim": 32,
    "num_key_value_heads": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
}
M3 = {
    "intermediate_size": 48,
    "dense_intermediate_size": 96,
    "shared_intermediate_size": 48,
    "head_dim": 32,
    "rotary_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_block_size": 16,
    "index_topk_blocks": 3,
    "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * 3,
    "mlp_layer_types": ["dense"] + ["sparse"] * 3,
}
DOTS3 = LATENT | {
    "n_routed_experts": 8,
    "shared_experts_intermediate_size": 48,
    "index_n_heads": 8,
    "index_head_dim": 64,
    "index_topk": 16,
    "sliding_window": 16,
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 6,
    "swa_q_lora_rank": 32,
    "swa_kv_lora_rank": 56,
    "swa_qk_nope_head_dim": 40,
    "swa_head_dim": 56,
    "swa_qk_rope_head_dim": 16,
    "swa_v_head_dim": 28,
}
KIMI = (
    SMALL_LATENT
    | WIDTHS
    | {
        "q_lora_rank": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
    }
)
LING3 = (
    SMALL_LATENT
    | WIDTHS
    | {
        "q_lora_rank": None,
        "head_dim": 16,
        "num_local_experts": 16,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "layer_group_size": 2,
        "kda_lower_bound": -3.0,
    }
)
NOAUX = WIDTHS | {"n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 3, "first_k_dense_replace": 1}
GRANITE_MOE = {"num_local_experts": 6, "logits_scaling": 4.0, "attention_multiplier": 0.3, "residual_multiplier": 0.4}
LLAMA4 = {"head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 112}
ERNIE_MOE = WIDTHS | {"moe_num_experts": 6, "moe_k": 2}
ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}
INDEXED = {"index_n_heads": 16, "index_head_dim": 64, "index_topk": 16, "n_group": 1, "topk_group": 1}
HY4 = {"index_n_heads": 16, "index_head_dim": 64, "index_topk": 16}
HRM = {"head_dim": 32, "num_hidden_layers": 2, "embedding_scale": 5.5, "prefix_lm": False, "rms_norm_eps": 1e-5}
HY4_ROPE = "transformers.models.hy_v4.modeling_hy_v4.apply_rotary_pos_emb"
HY4_NAMES = (
    ("hc_pre.hc_head.", "hc_head."),
    ("hc_pre.hc_attn_layer.", "hc_attn_layer.hc_pre."),
    ("hc_pre.hc_mlp_layer.", "hc_mlp_layer.hc_pre."),
    ("mlp.linear_gate", "mlp.gate_proj"),
    ("experts.linear_gate", "experts.gate_proj"),
)
DEEPSEEK4 = WIDTHS | {
    "num_key_value_heads": 1,
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "q_lora_rank": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "o_groups": 2,
    "o_lora_rank": 24,
    "index_n_heads": 8,
    "index_head_dim": 64,
    "index_topk": 5,
    "sliding_window": 16,
    "swiglu_limit": 0.4,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
}
MINISTRAL = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
DBRX = {
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 3,
    "max_seq_len": 128,
    "attn_config": {"clip_qkv": 0.8, "kv_n_heads": 2, "rope_theta": 1e4},
    "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 6, "moe_top_k": 2},
}
GEMMA4 = {
    "num_hidden_layers": 6,
    "head_dim": 16,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 512,
    "sliding_window": 16,
    "final_logit_softcapping": 30.0,
}
GEMMA4_UNIFIED = {name: value for name, value in GEMMA4.items() if "per_layer" not in name}
GEMMA4_MOE = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 48}
GEMMA4_LAYERED = {
    "hidden_size_per_layer_input": 24,
    "num_hidden_layers": 10,
    "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True,
}
GEMMA3N = {
    "num_hidden_layers": 25,
    "num_kv_shared_layers": 5,
    "head_dim": 16,
    "vocab_size_per_layer_input": 512,
    "sliding_window": 16,
    "intermediate_size": 4096,  # llama.cpp's deviation is that of a sample: n - 1 in the place of n
}


@dataclass(frozen=True)
class Case:
    """One model: its class in transformers (before Config and ForCausalLM), the golden checkpoint whose tokenizer it
    has, what its configuration says beyond SIZES, how far log-probabilities may be off. calm: attention that does
    not divide its scores would make much of the least difference, so norms of queries and keys are small. renamed: what
    transformers saves under another name than the checkpoints that it reads have. pairs: the function of transformers
    that turns halves where the released checkpoints, llama.cpp and vLLM have pairs: another is in its place. length: of
    the text that both read. alone: transformers has a class for the language part alone."""

    name: str
    cls: str
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-3
    head: str = "ForCausalLM"
    settings: str = ""  # the class of the configuration, where it is not CLSConfig
    spread: float = 0.2  # the standard deviation of the weights

    calm: bool = False
    seed: int = 3
    renamed: tuple[tuple[str, str], ...] = ()
    pairs: str = ""
    length: int = N_TOKENS
    alone: bool = True

    @property
    def table(self) -> str:
        """The name of the class that the registry has, which may not be the one that transformers computes with."""
        return archs.BORROWED.get(self.configuration().model_type, self.cls + self.head)

    def read(self, name: str) -> str:
        """The name of a tensor in checkpoints that transformers did not save itself."""
        for saved, there in self.renamed:
            name = name.replace(saved, there)
        return name

    def configuration(self, **changes: Any) -> Any:
        import transformers

        name = self.settings or self.cls + ("TextConfig" if self.cls in TEXT_PARTS else "Config")
        return getattr(transformers, name)(**deepcopy(SIZES | self.config | changes))  # some write into what they get


# whose configuration has a class of its own
TEXT_PARTS = ("Gemma3n", "Gemma4", "Gemma4Unified", "Llama4", "MiniMaxM3VL", "Dots3Note", "Qwen4Exp")
GPT, GEMMA = "gpt2", "gemma3"
DELTA = {
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16}
MULTIPLIERS = {
    "lm_head_multiplier": 0.5,
    "embedding_multiplier": 5.6,
    "mlp_multipliers": [0.8, 0.6],
    "key_multiplier": 0.4,
    "attention_out_multiplier": 0.9,
    "attention_in_multiplier": 1.2,
    "ssm_multipliers": [0.35, 0.25, 0.8, 0.5, 0.31],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.24,
}
NEMOTRON_H = {
    "head_dim": 32,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
    "n_routed_experts": 8,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 80,
}
MOE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
QWEN4 = (
    DELTA
    | MOE
    | {
        "hc_lowrank": 24,
        "output_gate_type": "sigmoid",
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 32,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
        },
    }
)
NGRAMS = {"eos_token_id": [66, 2], "ple_layer_ids": [2], "heads_per_ngram": 2, "ngram_vocab_size_base": 300}
GELU = 2e-2  # llama.cpp looks it up in a table of float16, and has the tanh form only
LLAMA = "llama3-rope-scaled-tied"
MODELS = (
    Case("smollm3", "SmolLM3", LLAMA),
    Case("granite", "Granite", "llama-spm", {"logits_scaling": 4.0, "embedding_multiplier": 6.0}),
    Case(
        "granite-scaled",
        "Granite",
        "llama-spm",
        {"attention_multiplier": 0.3, "residual_multiplier": 0.4, "attention_bias": True, "mlp_bias": True},
    ),
    Case("arcee", "Arcee", LLAMA, {"rope_parameters": LLAMA3}),
    Case("aria", "AriaText", GPT, {"moe_num_experts": 4}),
    Case("cwm", "Cwm", LLAMA, {"head_dim": 32, "sliding_window": 64, "rope_parameters": LLAMA3}),
    Case("hyperclovax", "HyperCLOVAX", GPT, {"use_post_norm": False, "embedding_multiplier": 6.0}),
    Case("apertus-1.5", "Apertus1p5Text", GPT),
    Case("seed-oss", "SeedOss", GPT, {"head_dim": 32}),
    Case("olmo2", "Olmo2", GPT),
    Case("olmo2-mha", "Olmo2", GPT, {"num_key_value_heads": 4, "rope_parameters": YARN}),
    Case("olmo3", "Olmo3", GPT, {"sliding_window": 16}),
    Case(
        "olmo3-yarn",
        "Olmo3",
        GPT,
        {
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    Case("cohere", "Cohere", "cohere", {"logit_scale": 0.25}),
    Case(
        "cohere-plus",
        "Cohere",
        "cohere",
        {"use_qk_norm": True, "num_hidden_layers": 64, "hidden_size": 32, "logit_scale": 1.0},
    ),
    Case("cohere2", "Cohere2", "cohere", {"sliding_window": 16, "logit_scale": 0.25}),
    Case(
        "cohere2-layers",
        "Cohere2",
        "cohere",
        {"logit_scale": 0.25, "layer_types": ["full_attention", "sliding_attention"] * 2},
    ),
    Case("phi2", "Phi", GPT, tolerance=GELU),
    Case("phi2-gqa", "Phi", GPT, {"num_key_value_heads": 2, "partial_rotary_factor": 0.75}, tolerance=GELU),
    Case("gptneox", "GPTNeoX", GPT, tolerance=GELU),
    Case(
        "gptneox-serial",
        "GPTNeoX",
        GPT,
        {"use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 5000},
        tolerance=GELU,
    ),
    Case("stablelm", "StableLm", GPT, {"use_qkv_bias": True}),
    Case("stablelm-12b", "StableLm", GPT, {"qk_layernorm": True, "use_parallel_residual": True}),
    Case("falcon-7b", "Falcon", GPT, tolerance=GELU),
    Case("falcon-40b", "Falcon", GPT, {"new_decoder_architecture": True, "num_kv_heads": 2}, tolerance=GELU),
    Case(
        "falcon-11b",
        "Falcon",
        GPT,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        tolerance=GELU,
    ),
    Case("falcon-each-head", "Falcon", GPT, {"multi_query": False}, tolerance=GELU),
    Case("bloom", "Bloom", GPT, {"n_layer": 3, "n_head": 4}, tolerance=GELU),
    Case("bloom-odd-heads", "Bloom", GPT, {"n_layer": 2, "n_head": 6, "hidden_size": 96}, tolerance=GELU),
    Case("mpt", "Mpt", GPT, {"d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 128}, tolerance=GELU),
    Case(
        "mpt-clipped",
        "Mpt",
        GPT,
        {"d_model": 96, "n_heads": 6, "n_layers": 2, "attn_config": {"clip_qkv": 1.0}},
        tolerance=GELU,
    ),
    Case("nemotron", "Nemotron", "llama-spm"),
    Case(
        "exaone4",
        "Exaone4",
        GPT,
        {"sliding_window": None, "layer_types": ["full_attention"] * 4, "rope_parameters": LLAMA3},
    ),
    Case("exaone4-32b", "Exaone4", GPT, {"sliding_window": 16, "num_hidden_layers": 64, "hidden_size": 32}),
    Case("ernie4.5", "Ernie4_5", "llama-spm", {"head_dim": 32}),
    Case("hunyuan", "HunYuanDenseV1", GPT, {"head_dim": 32, "attention_dropout": 0.0}),
    Case(
        "hunyuan-alpha",
        "HunYuanDenseV1",
        GPT,
        {"head_dim": 16, "rope_parameters": ALPHA},
    ),
    Case("glm4", "Glm4", GPT, {"head_dim": 32}),
    Case("qwen3.5", "Qwen3_5", GPT, DELTA, settings="Qwen3_5TextConfig"),
    Case(
        "qwen3.5-layers",
        "Qwen3_5",
        GPT,
        DELTA | {"linear_num_value_heads": 6, "layer_types": ["full_attention", "linear_attention"] * 2},
        settings="Qwen3_5TextConfig",
    ),
    Case("qwen3.5-moe", "Qwen3_5Moe", GPT, DELTA | MOE, settings="Qwen3_5MoeTextConfig"),
    Case("qwen3-next", "Qwen3Next", GPT, DELTA | MOE),
    Case("qwen4-exp", "Qwen4Exp", GPT, QWEN4),
    Case("qwen4-exp-ngrams", "Qwen4Exp", GPT, QWEN4 | NGRAMS),
    Case(
        "lfm2",
        "Lfm2",
        GPT,
        {"layer_types": ["conv", "conv", "full_attention", "conv"], "block_multiple_of": 32},
    ),
    Case("lfm2-350m", "Lfm2", GPT, {"full_attn_idxs": [1, 3], "block_auto_adjust_ff_dim": False, "conv_L_cache": 4}),
    Case(
        "lfm2-moe",
        "Lfm2Moe",
        GPT,
        {
            "layer_types": ["conv", "full_attention"] * 2,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "num_dense_layers": 1,
        },
    ),
    Case("mamba", "Mamba", "mamba", {"intermediate_size": 128}),
    Case("falcon-mamba", "FalconMamba", "mamba", {"intermediate_size": 128, "mixer_rms_eps": 1e-5, "state_size": 8}),
    Case("mamba2", "Mamba2", "mamba", {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16}),
    Case(
        "granite-hybrid",
        "GraniteMoeHybrid",
        GPT,
        MAMBA2
        | {"layer_types": ["mamba", "mamba", "attention", "mamba"], "num_local_experts": 8, "num_experts_per_tok": 2}
        | {"attention_multiplier": 0.3, "residual_multiplier": 0.4, "logits_scaling": 4.0, "embedding_multiplier": 6.0},
    ),
    Case(
        "granite-hybrid-rope",
        "GraniteMoeHybrid",
        GPT,
        MAMBA2
        | {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 96}
        | {"position_embedding_type": "rope", "attention_bias": True},
    ),
    Case(
        "granite-4-dense",
        "GraniteMoeHybrid",
        GPT,
        MAMBA2
        | {"layer_types": ["attention"] * 4, "num_local_experts": 0, "shared_intermediate_size": 96}
        | {"position_embedding_type": "rope"},
    ),
    Case(
        "granite-4-experts",
        "GraniteMoeHybrid",
        GPT,
        MAMBA2
        | {"layer_types": ["attention"] * 4, "num_local_experts": 8, "position_embedding_type": "rope"}
        | {"shared_intermediate_size": 48, "attention_bias": True},
    ),
    Case("bamba", "Bamba", GPT, MAMBA2 | {"attn_layer_indices": [1, 3]}),
    Case("bamba-biased", "Bamba", GPT, MAMBA2 | {"attn_layer_indices": [2], "attention_bias": True, "mlp_bias": True}),
    Case(
        "nemotron-h",
        "NemotronH",
        GPT,
        NEMOTRON_H | {"layers_block_type": ["mamba", "mlp", "attention", "mlp", "mamba"], "attention_bias": True},
    ),
    Case(
        "nemotron-h-moe",
        "NemotronH",
        GPT,
        NEMOTRON_H | {"layers_block_type": ["mamba", "moe", "attention", "moe"], "routed_scaling_factor": 2.5},
    ),
    Case(
        "nemotron-h-latent",
        "NemotronH",
        GPT,
        NEMOTRON_H | {"layers_block_type": ["mamba", "moe", "attention", "moe"], "moe_latent_size": 32},
    ),
    Case("falcon-h1", "FalconH1", GPT, MAMBA2 | {"mamba_d_ssm": 128, "head_dim": 32}),
    Case("falcon-h1-scaled", "FalconH1", GPT, MAMBA2 | {"mamba_d_ssm": 128} | MULTIPLIERS),
    Case(
        "falcon-h1-normed",
        "FalconH1",
        GPT,
        MAMBA2 | {"mamba_d_ssm": 128, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
    ),
    Case("jamba", "Jamba", "llama-spm", {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4}),
    Case(
        "lfm2-untied",
        "Lfm2Moe",
        GPT,
        {
            "layer_types": ["conv", "full_attention"] * 2,
            "num_experts": 8,
            "num_dense_layers": 2,
            "moe_intermediate_size": 32,
            "tie_word_embeddings": False,
        },
    ),
    Case("nemotron-biased", "Nemotron", "llama-spm", {"attention_bias": True, "mlp_bias": True}),
    Case("gpt-oss", "GptOss", "gpt-oss", GPT_OSS),
    Case("gpt-oss-layers", "GptOss", "gpt-oss", GPT_OSS | {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    Case("gpt-oss-yarn", "GptOss", "gpt-oss", GPT_OSS | {"rope_parameters": YARN}),
    Case("deepseek2", "DeepseekV2", "deepseek-v3", DEEPSEEK2),
    Case(
        "deepseek2-lite",
        "DeepseekV2",
        "deepseek-v3",
        DEEPSEEK2 | {"q_lora_rank": None, "rope_parameters": DEEP_YARN, "num_hidden_layers": 27},
    ),
    Case("deepseek3", "DeepseekV3", "deepseek-v3", DEEPSEEK3),
    Case(
        "deepseek3-yarn",
        "DeepseekV3",
        "deepseek-v3",
        DEEPSEEK3 | {"rope_parameters": DEEP_YARN, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    ),
    Case(
        "qwen2-moe",
        "Qwen2Moe",
        GPT,
        {"num_experts": 6, "num_experts_per_tok": 2, **WIDTHS, "shared_expert_intermediate_size": 80},
    ),
    Case("olmoe", "Olmoe", GPT, {"num_experts": 6, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    Case("olmo", "Olmo", GPT),
    Case("olmo-clipped", "Olmo", GPT, {"clip_qkv": 0.8}),
    Case("granite-moe", "GraniteMoe", "llama-spm", GRANITE_MOE),
    Case("granite-moe-shared", "GraniteMoeShared", "llama-spm", GRANITE_MOE | {"shared_intermediate_size": 80}),
    Case("llama4", "Llama4", LLAMA, LLAMA4),
    Case(
        "llama4-maverick",
        "Llama4",
        LLAMA,
        LLAMA4 | {"interleave_moe_layer_step": 2, "num_local_experts": 128, "use_qk_norm": False},
    ),
    Case("llama4-scout", "Llama4", LLAMA, LLAMA4 | {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}),
    Case("glm4-moe", "Glm4Moe", GPT, NOAUX | {"head_dim": 32}),
    Case(
        "glm4-moe-355b",
        "Glm4Moe",
        GPT,
        NOAUX
        | {
            "head_dim": 32,
            "attention_bias": True,
            "use_qk_norm": True,
            "routed_scaling_factor": 2.5,
            "first_k_dense_replace": 2,
        },
    ),
    Case("glm4-moe-groups", "Glm4Moe", GPT, NOAUX | {"n_group": 4, "topk_group": 2}),
    Case(
        "dots1",
        "Dots1",
        GPT,
        NOAUX | {"num_key_value_heads": 4, "head_dim": 32, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
    ),
    Case("dots1-groups", "Dots1", GPT, NOAUX | {"num_key_value_heads": 4, "n_group": 4, "topk_group": 2}),
    Case("ernie4.5-moe", "Ernie4_5_Moe", "llama-spm", ERNIE_MOE),
    Case(
        "ernie4.5-moe-unshared",
        "Ernie4_5_Moe",
        "llama-spm",
        ERNIE_MOE | {"moe_num_shared_experts": 0, "moe_layer_start_index": 2},
    ),
    Case("hunyuan-moe", "HunYuanMoEV1", GPT, {"head_dim": 16, "num_experts": 6, "moe_topk": 2}),
    Case(
        "hunyuan-moe-alpha",
        "HunYuanMoEV1",
        GPT,
        {"head_dim": 16, "num_experts": 6, "moe_topk": [2] * 4, "rope_parameters": ALPHA},
    ),
    Case(
        "minimax-m2",
        "MiniMaxM2",
        GPT,
        {"head_dim": 32, "num_local_experts": 6, "num_experts_per_tok": 2, "rotary_dim": 16},
    ),
    Case("minimax-m3", "MiniMaxM3VL", GPT, M3),
    Case("dots3-note", "Dots3Note", GPT, DOTS3, spread=0.1),
    Case(
        "glm4-moe-lite",
        "Glm4MoeLite",
        GPT,
        LATENT | NOAUX | {"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]},
    ),
    Case("glm", "Glm", GPT, {"head_dim": 16}),
    Case("solar-open", "SolarOpen", GPT, NOAUX | {"head_dim": 32, "routed_scaling_factor": 2.0}),
    Case("dbrx", "Dbrx", GPT, DBRX),
    Case("starcoder", "GPTBigCode", GPT, {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 128}, tolerance=GELU),
    Case("exaone-moe", "ExaoneMoe", GPT, NOAUX | {"num_experts": 8, "sliding_window": 16}),
    Case(
        "afmoe",
        "Afmoe",
        GPT,
        WIDTHS
        | {
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "head_dim": 32,
            "sliding_window": 16,
            "mup_enabled": True,
            "route_scale": 2.0,
        },
    ),
    Case("gemma4-26b", "Gemma4", GEMMA, GEMMA4 | GEMMA4_MOE, tolerance=GELU, calm=True),
    Case(
        "gemma4-31b",
        "Gemma4",
        GEMMA,
        GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        tolerance=GELU,
        calm=True,
    ),
    Case("gemma4-e2b", "Gemma4", GEMMA, GEMMA4 | GEMMA4_LAYERED, tolerance=GELU, calm=True),
    Case(
        "gemma4-12b",
        "Gemma4Unified",
        GEMMA,
        GEMMA4_UNIFIED | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        tolerance=GELU,
        calm=True,
    ),
    Case("gemma3n", "Gemma3n", GEMMA, GEMMA3N, tolerance=GELU, calm=True, seed=4),
    Case("deepseek32", "DeepseekV32", "deepseek-v3", LATENT | NOAUX | INDEXED),
    Case("glm-dsa", "GlmMoeDsa", "deepseek-v3", LATENT | NOAUX | INDEXED),
    Case(
        "glm-dsa-shared",
        "GlmMoeDsa",
        "deepseek-v3",
        LATENT | NOAUX | INDEXED | {"indexer_types": ["full", "full", "shared", "shared"]},
    ),
    Case("deepseek4", "DeepseekV4", "deepseek-v3", DEEPSEEK4),
    Case(
        "deepseek4-yarn",
        "DeepseekV4",
        "deepseek-v3",
        DEEPSEEK4 | {"layer_types": None, "mlp_layer_types": None, "rope_parameters": YARN},
        length=200,
    ),
    Case("ministral3", "Ministral3", LLAMA, {"head_dim": 32, "rope_parameters": MINISTRAL}),
    Case(
        "gemma", "Gemma", LLAMA, {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"}, tolerance=GELU, spread=0.1
    ),
    Case("jais2", "Jais2", GPT, {"head_dim": 16}),
    Case("mellum", "Mellum", GPT, MELLUM),
    Case("mellum-full", "Mellum", GPT, MELLUM | {"layer_types": ["full_attention"] * 4}),
    Case("minicpm3", "MiniCPM3", "llama-spm", SMALL_LATENT, spread=0.1),
    Case("cohere2-moe", "Cohere2Moe", "cohere", COHERE_MOE),
    Case(
        "cohere2-moe-sigmoid",
        "Cohere2Moe",
        "cohere",
        COHERE_MOE | {"expert_selection_fn": "sigmoid", "first_k_dense_replace": 0, "rms_norm_eps": 1e-5},
    ),
    Case("youtu", "Youtu", LLAMA, SMALL_LATENT | {"pad_token_id": None}),  # transformers empties its row when it loads
    Case(
        "mistral4",
        "Mistral4",
        LLAMA,
        SMALL_LATENT
        | WIDTHS
        | {"n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "rope_parameters": MINISTRAL},
    ),
    Case("exaone", "Llama", GPT, {"rope_parameters": LLAMA3}, settings="ExaoneConfig"),
    Case(
        "internlm3",
        "Llama",
        "llama-spm",
        {"head_dim": 32, "attention_bias": True, "mlp_bias": True},
        settings="InternLM3Config",
    ),
    Case("iquest-coder", "Llama", GPT, {"head_dim": 32}, settings="IQuestCoderConfig"),
    Case("minimax-01", "MiniMax", GPT, {"head_dim": 32, "num_local_experts": 6}),
    Case(
        "minimax-01-scaled",
        "MiniMax",
        GPT,
        dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), 3.5)
        | {"head_dim": 32, "num_local_experts": 6, "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    ),
    Case("bitnet", "BitNet", LLAMA, {"tie_word_embeddings": True, "hidden_act": "silu"}),
    Case("apertus", "Apertus", LLAMA, {"rope_parameters": LLAMA3}),
    Case(
        "kimi-linear",
        "KimiLinear",
        GPT,
        KIMI | {"layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"]},
        renamed=(("layers.0.block_sparse_moe", "layers.0.mlp"),),
    ),
    Case("sarvam-moe", "Glm4Moe", GPT, NOAUX | {"head_dim": 16, "num_mtp_layers": 0}, settings="SarvamMoEConfig"),
    Case("sarvam-mla", "DeepseekV3", "deepseek-v3", LATENT | NOAUX, settings="SarvamMLAConfig"),
    Case(
        "ling3",
        "BailingHybrid",
        GPT,
        LING3 | {"layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"]},
    ),
    Case("ling3-yarn", "BailingHybrid", GPT, LING3 | {"q_lora_rank": 32, "rope_parameters": YARN}),
    Case(
        "granite-swa",
        "GraniteSWA",
        GPT,
        {
            "sliding_window": 16,
            "layer_rope_theta": [0, 1e4, 1e4, 0],
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "attention_multiplier": 0.3,
        },
    ),
    Case("granite-moe-swa", "GraniteMoeSWA", GPT, GRANITE_MOE | {"sliding_window": 16, "shared_intermediate_size": 80}),
    Case(
        "ministral",
        "Ministral",
        LLAMA,
        {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 2, "head_dim": 16},
    ),
    Case("mimo2", "MiMoV2Flash", GPT, MIMO),
    Case(
        "laguna", "Laguna", GPT, LAGUNA | {"gating": "per-element", "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 2}
    ),
    Case(
        "laguna-layers",
        "Laguna",
        GPT,
        LAGUNA
        | {
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "num_attention_heads_per_layer": [4, 6, 4, 6],
            "moe_routed_scaling_factor": 2.5,
            "rope_parameters": {
                "full_attention": YARN | {"partial_rotary_factor": 0.5, "attention_factor": 1.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e4},
            },
        },
    ),
    Case("hy4", "HYV4", GPT, LATENT | NOAUX | HY4, renamed=HY4_NAMES, pairs=HY4_ROPE),
    Case(
        "hy4-layers",
        "HYV4",
        GPT,
        LATENT
        | NOAUX
        | HY4
        | {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 2, "indexer_types": ["full", "shared"] * 2}
        | {"n_group": 4, "topk_group": 2, "hc_mult": 3, "hc_magnitude": 1.5, "swiglu_limit": 0.5},
        renamed=HY4_NAMES,
        pairs=HY4_ROPE,
    ),
    Case("hrm-text", "HrmText", GPT, HRM, spread=0.1),
    Case(
        "hrm-text-prefix",
        "HrmText",
        GPT,
        HRM | {"prefix_lm": True, "H_cycles": 3, "L_cycles": 1, "tie_word_embeddings": True},
        spread=0.1,
    ),
    Case("hy3", "HYV3", GPT, WIDTHS | {"num_experts": 8, "num_experts_per_tok": 3, "head_dim": 32}),
)


REFUSED = (
    ("qwen4-exp", {"output_gate_type": None}, "sigmoid"),
    ("qwen4-exp", {"norm_topk_prob": False}, "another way"),
    ("qwen4-exp", {"indexer_kv_heads": 2}, "another way"),
    ("qwen4-exp", {"indexer_budget": 18}, "whole blocks"),
    ("qwen4-exp-ngrams", {"ple_layer_ids": [1, 3]}, "in one layer"),
    ("qwen4-exp-ngrams", {"ple_layer_ids": [4]}, "delta nets only"),
    ("qwen4-exp-ngrams", {"ple_embed_dim": 32}, "as wide as the model"),
    ("qwen4-exp-ngrams", {"ngram_size": 8, "heads_per_ngram": 16, "ple_embed_dim": 112}, "at most 64"),
    ("qwen4-exp-ngrams", {"ngram_vocab_size_base": 10**9}, "31 bits"),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "each fourth layer"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "each fourth layer"),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, "each fourth layer"),
    ("granite", {"head_dim": 32}, "n_embd / n_head"),
    ("aria", {"mlp_bias": True}, "no biases"),
    ("aria", {"head_dim": 32}, "n_embd / n_head"),
    ("hyperclovax", {"use_post_norm": True}, "norms behind"),
    ("hyperclovax", {"logits_scaling": 0.125}, "another way"),
    ("apertus-1.5", {"output_vocab_size": 500}, "one size"),
    ("arcee", {"hidden_act": "silu"}, "another way"),
    ("olmo2", {"head_dim": 32}, "n_embd / n_head"),
    ("olmo2", {"tie_word_embeddings": True}, "output matrix"),
    (
        "olmo3-yarn",
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 5.0}}},
        "one rope_theta",
    ),
    ("olmo3-yarn", {"rope_parameters": {"full_attention": YARN, "sliding_attention": YARN}}, "rope of their own"),
    ("cohere", {"use_qk_norm": True}, "from 64 layers on"),
    ("cohere-plus", {"use_qk_norm": False}, "from 64 layers on"),
    ("cohere", {"tie_word_embeddings": False}, "besides the embedding"),
    ("cohere", {"head_dim": 32}, "n_embd / n_head"),
    ("cohere", {"rope_parameters": YARN}, "no such rope"),
    ("cohere2", {"sliding_window": None}, "always have a sliding window"),
    ("cohere2", {"rotary_pct": 0.5}, "whole heads"),
    ("phi2", {"qk_layernorm": True}, "norms of queries"),
    ("phi2", {"tie_word_embeddings": True}, "output matrix"),
    ("phi2", {"head_dim": 32}, "n_embd / n_head"),
    ("gptneox", {"tie_word_embeddings": True}, "output matrix"),
    ("stablelm", {"tie_word_embeddings": True}, "output matrix"),
    ("falcon-7b", {"alibi": True}, "rotary positions"),
    ("falcon-7b", {"bias": True}, "no biases"),
    ("falcon-7b", {"parallel_attn": False}, "beside each other"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "before the norms"),
    ("mpt", {"attn_config": {"alibi": False}}, "always has alibi"),
    ("mpt", {"attn_config": {"softmax_scale": 0.5}}, "by the head size"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "no norms of queries"),
    ("mpt", {"logit_scale": 2.0}, "the logits"),
    ("nemotron", {"head_dim": 32}, "n_embd / n_head"),
    ("nemotron", {"tie_word_embeddings": True}, "output matrix"),
    ("exaone4", {"head_dim": 32}, "n_embd / n_head"),
    ("exaone4", {"sliding_window": 16, "sliding_window_pattern": "LLLG", "layer_types": None}, "64 layers"),
    ("exaone4-32b", {"sliding_window": None}, "64 layers"),
    ("glm4", {"rope_parameters": LLAMA3}, "no such rope"),
    ("qwen3.5", {"linear_value_head_dim": 32}, "of one size"),
    ("qwen3.5-moe", {"hidden_act": "gelu"}, "another way"),
    ("qwen3-next", {"mlp_only_layers": [2]}, "in every layer"),
    ("qwen3-next", {"decoder_sparse_step": 2}, "in every layer"),
    ("qwen3-next", {"norm_topk_prob": False}, "always normalises"),
    ("lfm2", {"conv_bias": True}, "no biases"),
    ("lfm2", {"block_ffn_dim_multiplier": 1.5}, "another way"),
    ("lfm2-moe", {"routed_scaling_factor": 2.5}, "does not scale"),
    ("lfm2-moe", {"use_expert_bias": False}, "needs a bias"),
    ("lfm2-moe", {"norm_topk_prob": False}, "always normalises"),
    ("mamba", {"use_bias": True}, "no biases"),
    ("mamba2", {"use_conv_bias": False}, "needs the bias"),
    ("mamba2", {"expand": 4}, "widens by two"),
    ("granite-hybrid", {"mamba_conv_bias": False}, "needs the bias"),
    ("granite-hybrid", {"mamba_proj_bias": True}, "no biases"),
    ("nemotron-h", {"mlp_hidden_act": "silu"}, "another way"),
    ("nemotron-h-moe", {"layers_block_type": ["mamba", "moe", "attention", "mlp"]}, "all are experts"),
    ("nemotron-h-moe", {"n_group": 2}, "groups of experts"),
    ("falcon-h1", {"mamba_rms_norm": True}, "behind the gate"),
    ("falcon-h1-scaled", {"tie_word_embeddings": True}, "one matrix"),
    ("jamba", {"mamba_proj_bias": True}, "no biases"),
    ("eurobert", {"hidden_act": "gelu"}, "another way"),
    ("nomic-bert", {"hidden_act": "gelu"}, "another way"),
    ("nomic-bert", {"head_dim": 32}, "n_embd / n_head"),
    ("nomic-bert", {"prenorm": True}, "behind the layers"),
    ("jina-v3", {"hidden_act": "relu"}, "another way"),
    ("t5", {"relative_attention_max_distance": 256}, "another way"),
    ("t5-gated", {"feed_forward_proj": "gated-silu"}, "no number"),
    ("gpt-oss", {"swiglu_limit": 6.0}, "another way"),
    ("gpt-oss", {"tie_word_embeddings": True}, "output matrix"),
    ("gpt-oss", {"sliding_window": None}, "always has a sliding window"),
    ("deepseek2", {"q_lora_rank": None}, "26 and 27 layers"),
    ("deepseek2", {"num_hidden_layers": 26}, "26 and 27 layers"),
    ("deepseek2-lite", {"q_lora_rank": 32}, "26 and 27 layers"),
    ("deepseek2", {"attention_bias": True}, "no biases"),
    ("deepseek2", {"mlp_bias": True}, "no biases"),
    ("deepseek2", {"moe_layer_freq": 2}, "every layer behind"),
    ("deepseek2", {"norm_topk_prob": True}, "another way"),
    ("deepseek3", {"rope_interleave": False}, "turns pairs"),
    ("deepseek3", {"scoring_func": "softmax"}, "no number"),
    ("deepseek3", {"rope_parameters": YARN | {"mscale": 1.0}}, "equal"),
    ("qwen2-moe", {"decoder_sparse_step": 2}, "every layer"),
    ("qwen2-moe", {"tie_word_embeddings": True}, "output matrix"),
    ("qwen2-moe", {"head_dim": 32}, "n_embd / n_head"),
    ("olmoe", {"num_key_value_heads": 2}, "for each query head"),
    ("olmoe", {"head_dim": 32}, "n_embd / n_head"),
    ("olmoe", {"clip_qkv": 8.0}, "does not clip"),
    ("olmoe", {"tie_word_embeddings": True}, "output matrix"),
    ("olmo", {"head_dim": 32}, "n_embd / n_head"),
    ("granite-moe", {"head_dim": 32}, "n_embd / n_head"),
    ("llama4", {"no_rope_layers": [1, 1, 1, 1]}, "each fourth layer"),
    ("llama4", {"no_rope_layers": [1, 0, 1, 0]}, "each fourth layer"),
    ("llama4", {"no_rope_layers": [], "no_rope_layer_interval": 2}, "each fourth layer"),
    ("llama4", {"use_qk_norm": False}, "128 experts"),
    ("llama4-maverick", {"use_qk_norm": True}, "128 experts"),
    ("llama4", {"attention_chunk_size": 4096}, "another way"),
    ("llama4", {"floor_scale": 4096}, "another way"),
    ("llama4", {"attn_scale": 0.2}, "another way"),
    ("dots1", {"num_key_value_heads": 2}, "for each query head"),
    ("dots1", {"tie_word_embeddings": True}, "output matrix"),
    ("ernie4.5-moe", {"moe_layer_interval": 2}, "every layer behind"),
    ("ernie4.5-moe", {"moe_layer_end_index": 2}, "up to the last layer"),
    ("hunyuan-moe", {"moe_topk": [1, 2, 2, 2]}, "the same number"),
    ("hunyuan-moe", {"moe_intermediate_size": [48] * 4}, "as wide as"),
    ("hunyuan-moe", {"num_shared_expert": 2}, "another way"),
    ("minimax-m2", {"tie_word_embeddings": True}, "output matrix"),
    ("minimax-m2", {"scoring_func": "softmax"}, "no number"),
    ("glm4-moe-lite", {"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]}, "before all others"),
    ("dbrx", {"attn_config": {"kv_n_heads": 2}}, "always clips"),
    ("dbrx", {"ffn_config": {"moe_normalize_expert_weights": None}}, "always normalises"),
    ("dbrx", {"ffn_config": {"moe_normalize_expert_weights": 2.0}}, "another way"),
    ("dbrx", {"tie_word_embeddings": True}, "output matrix"),
    ("starcoder", {"multi_query": False}, "one key-value head"),
    ("exaone-moe", {"sliding_window": None}, "always has a sliding window"),
    ("afmoe", {"mup_enabled": False}, "scales the embedding"),
    ("afmoe", {"global_attn_every_n_layers": 2}, "each fourth layer"),
    ("afmoe", {"route_norm": False}, "another way"),
    ("gemma4-e2b", {"use_bidirectional_attention": "all"}, "look backwards"),
    ("gemma4-e2b", {"attention_bias": True}, "no biases"),
    ("gemma4-26b", {"num_experts": None}, "goes with num_experts"),
    ("gemma4-26b", {"top_k_experts": None}, "goes with top_k_experts"),
    ("gemma4-26b", {"moe_intermediate_size": None}, "goes with moe_intermediate_size"),
    ("gemma4-e2b", {"vocab_size_per_layer_input": 256}, "all tokens"),
    ("gemma4-e2b", {"layer_types": ["full_attention"] * 9 + ["sliding_attention"]}, "last layer"),
    ("gemma4-e2b", {"num_kv_shared_layers": 5}, "a full one behind another"),
    ("gemma4-e2b", {"layer_types": ["full_attention"] * 10}, "a full one behind another"),
    ("gemma4-26b", {"per_layer_config": {"1": {"head_dim": 8}, "2": {"head_dim": 4}}}, "the same sizes"),
    ("gemma4-26b", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "no such rope"),
    ("gemma3n", {"num_kv_shared_layers": 4}, "20 layers"),
    ("gemma3n", {"layer_types": ["sliding_attention"] * 25}, "18 and 19"),
    ("gemma3n", {"layer_types": ["full_attention"] * 25}, "18 and 19"),
    ("gemma3n", {"laurel_rank": 32}, "another way"),
    ("gemma3n", {"activation_sparsity_pattern": [0.5] * 25}, "before all others"),
    ("gemma3n", {"intermediate_size": [64] * 24 + [96]}, "the same number"),
    ("glm-dsa", {"indexer_rope_interleave": False}, "turns pairs"),
    ("glm-dsa", {"index_topk_pattern": "FFSS"}, "as indexer_types"),
    ("deepseek32", {"attention_bias": True}, "no biases"),
    ("deepseek32", {"index_head_dim": 96}, "64 values"),
    ("deepseek4", {"hc_mult": 2}, "another way"),
    ("deepseek4", {"index_head_dim": 96}, "64 values"),
    ("deepseek4", {"head_dim": 64}, "as wide as"),
    ("deepseek4", {"compress_rates": {"compressed_sparse_attention": 8}}, "compresses 4 and 128"),
    ("deepseek4", {"layer_types": None, "compress_ratios": [0, 4, 64, 4, 0]}, "compresses 4 and 128"),
    ("deepseek4", {"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}, "before all others"),
    ("deepseek4", {"rope_parameters": {"compress": YARN, "main": _THETA}}, "does not scale"),
    ("deepseek4", {"tie_word_embeddings": True}, "output matrix"),
    ("ministral3", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "llama_4_scaling_beta"),
    ("ministral3", {"rope_parameters": MINISTRAL | {"mscale": 0.5}}, "equal"),
    ("jais2", {"attention_bias": False}, "all biases"),
    ("jais2", {"hidden_act": "silu"}, "another way"),
    ("mellum", {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}, "in every layer"),
    (
        "mellum",
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 5e5}}},
        "one rope_theta",
    ),
    ("mellum", {"tie_word_embeddings": True}, "output matrix"),
    ("minicpm3", {"scale_emb": 10}, "another way"),
    ("minicpm3", {"scale_depth": 1.0}, "another way"),
    ("minicpm3", {"dim_model_base": 64}, "another way"),
    ("minicpm3", {"q_lora_rank": None}, "low rank"),
    ("cohere2-moe", {"shared_expert_combination_strategy": "sum"}, "halves"),
    ("cohere2-moe", {"prefix_dense_sliding_window_pattern": 4}, "all dense layers"),
    ("cohere2-moe", {"tie_word_embeddings": False}, "besides the embedding"),
    ("youtu", {"rope_interleave": False}, "turns pairs"),
    ("youtu", {"num_hidden_layers": 27}, "26 and 27 layers"),
    ("mistral4", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "llama_4_scaling_beta"),
    ("mistral4", {"rope_interleave": False}, "turns pairs"),
    ("exaone", {"head_dim": 32}, "n_embd / n_head"),
    ("iquest-coder", {"clip_qkv": 8.0}, "does not clip"),
    ("iquest-coder", {"use_sliding_window": True}, "whole context"),
    ("dots3-note", {"layer_types": ["indexed_attention"] * 4}, "sliding layers and others"),
    ("dots3-note", {"layer_types": ["sliding_attention"] * 4}, "sliding layers and others"),
    ("dots3-note", {"swa_q_lora_rank": 24}, "one low rank"),
    ("dots3-note", {"swa_qk_rope_head_dim": 8}, "as many values"),
    ("dots3-note", {"shared_experts_intermediate_size": 96}, "as wide as the others"),
    ("glm5-next", {"index_kpool_always_select_tail": False}, "attend to none"),
    ("glm5-next", {"index_kpool": 1}, "more than one token"),
    ("glm5-next", {"index_topk": 18}, "whole pools"),
    ("glm5-next", {"linear_num_heads": 8}, "as many heads"),
    ("glm5-next", {"qk_rope_head_dim": 16}, "another way"),
    ("glm5-next", {"index_topk_pattern": "FFSS"}, "as indexer_types"),
    ("glm5-next", {"index_topk_freq": 2}, "as indexer_types"),
    ("glm5-next", {"tie_word_embeddings": True}, "output matrix"),
    ("minimax-m3", {"layer_types": ["minimax_m3_sparse"] * 4}, "layers with experts only"),
    ("minimax-m3", {"index_n_heads": 4}, "for each key-value head"),
    ("minimax-m3", {"index_block_size": 96}, "must divide"),
    ("minimax-m3", {"shared_intermediate_size": 80}, "as wide as whole ones"),
    ("minimax-m3", {"swiglu_alpha": 1.0}, "another way"),
    ("minimax-m3", {"swiglu_limit": 6.0}, "another way"),
    ("minimax-m3", {"rope_parameters": _THETA}, "give the factor"),
    ("minimax-m3", {"hidden_act": "gelu"}, "another way"),
    ("minimax-01", {"full_attn_alpha_factor": 2.0}, "one scale"),
    ("minimax-01", {"mlp_beta_factor": 2.0}, "another way"),
    ("minimax-01", {"sliding_window": 16}, "whole context"),
    ("bitnet", {"tie_word_embeddings": False}, "besides the embedding"),
    ("bitnet", {"hidden_act": "gelu"}, "another way"),
    ("mimo2", {"attention_bias": True}, "no biases"),
    ("apertus", {"attention_bias": True}, "no biases"),
    ("kimi-linear", {"linear_num_heads": 8}, "as many heads"),
    ("kimi-linear", {"tie_word_embeddings": True}, "output matrix"),
    ("kimi-linear", {"moe_router_activation_func": "softmax"}, "no number"),
    ("sarvam-mla", {"q_lora_rank": None}, "26 and 27 layers"),
    ("ling3", {"linear_num_heads": 8}, "as many heads"),
    ("ling3", {"kda_safe_gate": False}, "another way"),
    ("ling3", {"rope_parameters": YARN | {"mscale_all_dim": 1.0}}, "mscale_all_dim"),
    ("sarvam-moe", {"head_dim": 32}, "n_embd / n_head"),
    ("sarvam-moe", {"use_qk_norm": False}, "another way"),
    ("granite-swa", {"layer_rope_theta": [0, 1e4, 5e5, 0]}, "one rope_theta"),
    ("granite-swa", {"sliding_window": None}, "always has a sliding window"),
    ("apertus", {"hidden_act": "silu"}, "another way"),
    ("mimo2", {"n_group": 2}, "another way"),
    ("laguna", {"moe_router_logit_softcapping": 5.0}, "does not cap"),
    ("laguna", {"moe_apply_router_weight_on_input": True}, "what the experts give"),
    ("laguna", {"attention_bias": True}, "no biases"),
    ("laguna", {"gating": False}, "no number"),
    ("laguna-layers", {"mlp_layer_types": ["sparse", "dense", "dense", "dense"]}, "before all others"),
    ("laguna-layers", {"rope_parameters": {"sliding_attention": YARN}}, "rope of their own"),
    ("muse-glimmer", {"tie_word_embeddings": True}, "output matrix"),
    ("muse-glimmer", {"attention_bias": True}, "no biases"),
    ("muse-glimmer", {"post_norm_eps": 1e-5}, "another way"),
    ("muse-glimmer", {"layer_rope_theta": [1e4] * 5}, "in no other"),
    ("muse-glimmer", {"rope_parameters": YARN}, "no such rope"),
    ("hrm-text", {"attention_bias": True}, "no biases"),
    ("hrm-text", {"num_layers_per_stack": 128}, "512 layers"),
    ("hy4", {"tie_word_embeddings": True}, "output matrix"),
    ("hy4", {"indexer_types": ["shared"] * 4}, "no other whose indexer"),
    ("hy4", {"index_head_dim": 32}, "64 values at a time"),
    ("hy4", {"attention_bias": True}, "no biases"),
    ("gemma4-12b", {"use_bidirectional_attention": "all"}, "backwards only"),
    ("embedding-gemma2", {"attention_bias": True}, "no biases"),
    ("embedding-gemma2", {"layer_types": ["sliding_attention"] * 7}, "a full one"),
    ("embedding-gemma2", {"rope_parameters": {"full_attention": YARN, "sliding_attention": _THETA}}, "no such rope"),
    ("step3.7", {"tie_word_embeddings": True}, "output matrix"),
    ("step3.7", {"sliding_window": None}, "always has a sliding window"),
    ("step3.7", {"query_pre_attn_scalar": 16}, "root of the head size"),
    ("step3.7", {"rope_parameters": {"full_attention": _THETA, "sliding_attention": _THETA}}, "half of each head"),
    ("step3.7", {"rope_parameters": None, "rope_theta": [1e4, 1e4, 5.0, 1e4]}, "turn alike"),
    ("step3.7", {"mlp_bias": True}, "no biases"),
    ("roberta", {"is_decoder": True}, "encoder"),
    ("modernbert", {"hidden_activation": "relu"}, "another way"),
    ("modernbert", {"classifier_pooling": "max"}, "no number"),
    ("embedding-gemma", {"use_bidirectional_attention": False}, "looks both ways"),
    ("embedding-gemma", {"sliding_window": 15}, "each side"),
)
"""What llama.cpp's graph would compute otherwise: a case, the change, a part of the message."""


def make(case: Case, golden: Path, folder: Path) -> Any:
    """The checkpoint in `folder`; returns the model."""
    import torch
    import transformers

    config = case.configuration()
    config._attn_implementation = "eager"
    torch.manual_seed(case.seed)
    model = getattr(transformers, case.cls + case.head)(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = weight.ndim == 1 and name.endswith("weight")
            torch.nn.init.normal_(weight, 1.0 if norm or ("norm" in name and weight.ndim == 2) else 0.0, case.spread)
            if case.calm and name.endswith(("q_norm.weight", "k_norm.weight")):
                weight *= 0.3
        for name, buffer in model.named_buffers():
            if ("bias" in name or "scalar" in name) and buffer.is_floating_point():
                torch.nn.init.normal_(buffer, 0.0, 0.2)
            if name.endswith("tid2eid"):  # different experts for each token
                buffer[:] = torch.stack([torch.randperm(config.n_routed_experts)[: buffer.shape[1]] for _ in buffer])
    model.tie_weights()
    model.save_pretrained(folder)
    for path in (golden / "checkpoints" / case.tokenizer).iterdir():
        if path.name.startswith(("token", "special", "chat", "vocab", "merges", "spiece")):
            shutil.copy(path, folder)
    return model


ENCODERS = (
    Case("bert", "Bert", "bert", head="Model"),
    Case("distilbert", "DistilBert", "bert", {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4}, head="Model"),
    Case("roberta", "Roberta", GPT, {"pad_token_id": 1}, head="Model"),
    Case("xlm-roberta", "XLMRoberta", GPT, {"pad_token_id": 1, "type_vocab_size": 1}, head="Model"),
    Case("camembert", "Camembert", GPT, {"pad_token_id": 1}, head="Model"),
    Case("eurobert", "EuroBert", GPT, head="Model"),
    Case("nomic-bert", "NomicBert", "bert", head="Model"),
    Case("jina-v3", "JinaEmbeddingsV3", GPT, {"pad_token_id": 1}, head="Model"),
    Case("modernbert", "ModernBert", "modernbert", {"local_attention": 16}, head="Model"),
    Case(
        "modernbert-layers",
        "ModernBert",
        "modernbert",
        {
            "hidden_activation": "silu",
            "local_attention": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        head="Model",
    ),
)


SMALL_T5 = {"d_model": 64, "d_kv": 24, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
ANSWERING = (
    Case("t5", "T5", "t5", SMALL_T5, head="ForConditionalGeneration"),
    Case(
        "t5-gated",
        "T5",
        "t5",
        SMALL_T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        GELU,
        head="ForConditionalGeneration",
        spread=0.1,
    ),
    Case("mt5", "MT5", "t5", SMALL_T5, GELU, head="ForConditionalGeneration", spread=0.1),
    Case("umt5", "UMT5", "t5", SMALL_T5, GELU, head="ForConditionalGeneration", spread=0.12),
)
T5_ENCODERS = (
    Case("t5-encoder", "T5", "t5", SMALL_T5, head="EncoderModel"),
    Case("mt5-encoder", "MT5", "t5", SMALL_T5, head="EncoderModel", spread=0.1),
    Case("umt5-encoder", "UMT5", "t5", SMALL_T5, head="EncoderModel", spread=0.1),
)
EMBEDDERS = (
    Case(
        "embedding-gemma",
        "Gemma3",
        LLAMA,
        {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
        | {"use_bidirectional_attention": True},
        head="TextModel",
        settings="Gemma3TextConfig",
    ),
    Case(
        "embedding-gemma2",
        "EmbeddingGemma2",
        LLAMA,
        {"num_hidden_layers": 7, "head_dim": 16, "global_head_dim": 32, "sliding_window": 8, "embedding_dim": 80}
        | {
            "hidden_size_per_layer_input": 24,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2 + ["full_attention"],
        },
        head="TextModel",
        settings="EmbeddingGemma2TextConfig",
        calm=True,
    ),
)
WHOLE = "ForConditionalGeneration"
SEEING = (
    Case(
        "qwen3.5-vision",
        "Qwen3_5",
        GPT,
        {"text_config": SIZES | DELTA, "vision_config": SMALL_VISION},
        head="ForConditionalGeneration",
    ),
    Case(
        "qwen3.5-moe-vision",
        "Qwen3_5Moe",
        GPT,
        {"text_config": SIZES | DELTA | MOE, "vision_config": SMALL_VISION},
        head="ForConditionalGeneration",
    ),
    Case(
        "qwen4-exp-vision",
        "Qwen4Exp",
        GPT,
        {"text_config": SIZES | QWEN4 | NGRAMS, "vision_config": SMALL_VISION, "image_token_id": 5},
        head="ForConditionalGeneration",
        settings="Qwen4ExpConfig",
    ),
    Case(
        "lfm2-vision",
        "Lfm2Vl",
        GPT,
        {"text_config": SIZES | {"model_type": "lfm2", "full_attn_idxs": [1, 3]}, "vision_config": SMALL_VISION},
        head="ForConditionalGeneration",
    ),
    Case(
        "mistral3-vision",
        "Mistral3",
        LLAMA,
        {
            "text_config": SIZES | {"model_type": "mistral", "head_dim": 32},
            "vision_config": SMALL_VISION | {"model_type": "pixtral"},
        },
        head="ForConditionalGeneration",
    ),
)
STEP = WIDTHS | {
    "head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "share_expert_dim": 40,
    "num_sliding_attention_heads": 6,
    "sliding_window": 16,
    "moe_layers_enum": "2,3",
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "rope_theta": [1e4, 5e3] * 2,
    "partial_rotary_factors": [0.5, 1.0] * 2,
}
SEEING += tuple(
    Case(name, "Step3p7", LLAMA, {"text_config": SIZES | STEP | more, "vision_config": SMALL_VISION}, head=WHOLE)
    for name, more in (
        ("step3.7", {"swiglu_limits": [0.0, 0.0, None, 1.5], "swiglu_limits_shared": [1.0, 0.0, 2.0, 0.0]}),
        (
            "step3.7-llama3",
            {"rope_scaling": LLAMA3, "moe_router_scaling_factor": 3.0, "num_sliding_attention_heads": 4},
        ),
    )
)
SEEING += tuple(
    Case(
        name,
        "MuseGlimmer",
        LLAMA,
        {"text_config": SIZES | {"sliding_window": 16} | more, "vision_config": SMALL_VISION} | SMALL_BETWEEN,
        head=WHOLE,
    )
    for name, more in (
        ("muse-glimmer", {"head_dim": 32, "num_hidden_layers": 5}),
        (
            "muse-glimmer-layers",
            {"head_dim": 16, "qk_scale_factor": 2.5, "output_multiplier": 0.5, "final_logit_softcapping": 30.0}
            | {"layer_types": ["sliding_attention", "full_attention"] * 2, "layer_rope_theta": [5e3, 0] * 2},
        ),
    )
)
GLM5_NEXT = LATENT | {
    "qk_rope_head_dim": 0,
    "qk_nope_head_dim": 32,
    "n_routed_experts": 8,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "index_n_heads": 8,
    "index_head_dim": 64,
    "index_topk": 16,
    "index_kpool": 4,
    "swiglu_limit": 0.4,
    "layer_types": ["linear_attention", "indexed_attention", "indexed_attention", "linear_attention"],
    "mlp_layer_types": ["dense"] + ["sparse"] * 3,
}
SEEING += tuple(
    Case(
        name,
        "Glm5Next",
        "deepseek-v3",
        {"text_config": SIZES | GLM5_NEXT | more, "vision_config": SMALL_VISION | {"projection_intermediate_size": 48}},
        head="ForConditionalGeneration",
        alone=False,
    )
    for name, more in (
        ("glm5-next", {}),
        ("glm5-next-shared", {"indexer_types": ["full", "full", "shared", "full"], "linear_lower_bound": None}),
    )
)
SEEING += (
    Case(
        "minimax-m3-vision",
        "MiniMaxM3Sparse",
        GPT,
        {"text_config": SIZES | M3, "vision_config": SMALL_VISION, "projector_hidden_size": 64},
        head="ForConditionalGeneration",
        settings="MiniMaxM3VLConfig",
    ),
)
EPSILON = {"rms_norm_eps": 1e-8}  # llama.cpp's qwen2vl graph of this release does not read it, and takes 0
_SEEN = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
SEEING += tuple(
    Case(
        name,
        cls,
        GPT,
        {
            "text_config": SIZES | {"rope_parameters": _SEEN | rope, "head_dim": 16} | more,
            "vision_config": SMALL_VISION | {"embed_dim": 32} | ({"hidden_size": 64} if cls == "Qwen2VL" else {}),
        },
        head="ForConditionalGeneration",
        spread=0.1,
    )
    for name, cls, rope, more in (
        ("qwen2-vl", "Qwen2VL", {}, EPSILON),
        ("qwen2.5-vl-yarn", "Qwen2_5_VL", YARN, EPSILON),
        ("qwen3-vl", "Qwen3VL", {}, {}),
        ("qwen3-vl-moe", "Qwen3VLMoe", {}, WIDTHS | {"num_experts": 8, "num_experts_per_tok": 2}),
    )
)
CASES = (*MODELS, *ENCODERS, *EMBEDDERS, *ANSWERING, *T5_ENCODERS)


@dataclass(frozen=True)
class Made:
    """A checkpoint, what transformers computes from it, and the file that it becomes."""

    case: Case
    folder: Path
    expected: NDArray[np.float32]
    file: Path


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One for all tests of a case, which pytest runs behind one another."""
    work = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        if request.param.pairs:
            from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave

            patch.setattr(request.param.pairs, apply_rotary_pos_emb_interleave)
        expected = computed(make(request.param, golden, work / "hf"), request.param.length)
        modelfmt.convert(work / "hf", work / "model.gguf", quant="F32")
        yield Made(request.param, work / "hf", expected, work / "model.gguf")
    shutil.rmtree(work)


def of_cases(*cases: Case) -> Any:
    return pytest.mark.parametrize("made", cases, indirect=True, ids=lambda case: case.name)


@of_cases(*MODELS, *SEEING, *ANSWERING)
def test_log_probabilities_are_those_of_transformers(made: Made) -> None:
    import torch

    expected = torch.tensor(made.expected).log_softmax(-1).numpy()
    assert expected.std() > 0.1
    with llama.Network(made.file) as network:
        text = tokens(count=made.case.length)
        answers = network.answers(question(), text) if made.case in ANSWERING else network.logits(text)
    found = torch.tensor(answers).log_softmax(-1).numpy()
    worst = np.abs(found - expected).max()
    print(f"{made.case.name}: {worst:.1e}")
    assert worst < made.case.tolerance


@of_cases(*ENCODERS, *EMBEDDERS, *T5_ENCODERS)
def test_hidden_states_are_those_of_transformers(made: Made) -> None:
    with llama.Network(made.file) as network:
        found = network.encodings(tokens()) if made.case in T5_ENCODERS else network.embeddings(tokens())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(made.expected, axis=1)
    cosines = (found * made.expected).sum(1) / lengths
    print(f"{made.case.name}: {1 - cosines.min():.1e}")
    assert cosines.min() > 0.9999


@of_cases(*CASES)
def test_the_folder_comes_back_bit_for_bit(made: Made, tmp_path: Path) -> None:
    report = modelfmt.convert(made.file, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made.folder)
    assert report.losses == ()


def test_configurations_of_step_3_7_as_on_the_hub_say_the_same() -> None:
    """There are lists with an entry for each layer, and for those that predict further tokens."""
    import transformers

    further = {name: value + value[:1] for name, value in STEP.items() if isinstance(value, list)}
    there = SIZES | STEP | further | {"num_nextn_predict_layers": 1, "swiglu_limits": [0, None, 1, 2, 0]}
    there = {**there, "num_attention_groups": 2, "moe_top_k": 3, "attention_other_setting": {"num_attention_heads": 6}}
    here = transformers.Step3p7TextConfig(**deepcopy(there)).to_dict()
    for name in ("num_key_value_heads", "num_experts_per_tok", "num_sliding_attention_heads"):
        del there[name]
    arch = archs.find("Step3p5ForCausalLM")
    first, second = (
        to_gguf(arch, tensors=headers(arch, config), config=config, assets={}).metadata for config in (there, here)
    )
    assert first == second


LEFT_OUT = ("pooler.dense.weight", "pooler.dense.bias", "_decay", "slope_rate")
"""How the names of poolers and of buffers end, which a file does not hold."""


@of_cases(*CASES, *SEEING)
def test_without_carried_keys_the_checkpoint_comes_back(made: Made, tmp_path: Path) -> None:
    """Bit for bit, but for poolers, the rows of RoBERTa's positions that a file does not have, and what is computed:
    that gives the same file again, and its values are the original's where the report does not say otherwise."""
    back, report = there_and_back(made.folder, tmp_path, "F32", carry=False)
    case, others = made.case, set()
    with modelfmt.open(made.folder) as source, modelfmt.open(back) as second:
        first = {case.read(name): tensor for name, tensor in source.tensors.items()}
        same = second.config["architectures"] == source.config["architectures"] and case not in SEEING
        assert not same or set(second) == {name for name in first if not name.endswith(LEFT_OUT)}
        for name, tensor in second.tensors.items():
            if name not in first:  # the class that has the same graph calls it otherwise
                others.add(name)
                continue
            unused = case.config["pad_token_id"] + 1 if "position" in name and "pad_token_id" in case.config else 0
            original = np.atleast_1d(first[name].numpy())[unused:]
            values = np.atleast_1d(tensor.numpy())[-len(original) :]  # BERT, which RoBERTa becomes, has no others
            if not np.array_equal(values, original):
                others.add(name)
                np.testing.assert_allclose(values, original, rtol=0, atol=1e-6, err_msg=name)
    rounded = {loss.subject for loss in report.losses if loss.kind == "approximated"}
    assert all(name in rounded or "norm" in name for name in others) or not same
    if case.alone:
        found = logits(back, case.length)
        assert (found == made.expected).all() or rounded
        np.testing.assert_allclose(found, made.expected, atol=1e-5)
    if others or not case.alone:
        modelfmt.convert(back, tmp_path / "again.gguf", quant="F32", carry=False)
        divided = 2e-7 if case.cls in ("Dots3Note", "FalconH1", "T5", "UMT5") else 0
        with modelfmt.open(made.file) as first, modelfmt.open(tmp_path / "again.gguf") as second:
            assert set(first) == set(second)
            for name, tensor in second.tensors.items():
                np.testing.assert_allclose(tensor.numpy(), first[name].numpy(), rtol=divided, atol=0, err_msg=name)


def test_minimax_m3_attends_to_the_blocks_that_its_indexer_picks(golden: Path, tmp_path: Path) -> None:
    """Flash attention rounds to float16, by which now and then another block is picked; without it all blocks count."""
    import torch

    case = next(case for case in MODELS if case.name == "minimax-m3")
    model, text = make(replace(case, spread=0.1, seed=5), golden, tmp_path / "hf"), tokens(count=200)
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    expected = torch.tensor(computed(model, 200)).log_softmax(-1).numpy()
    with llama.Network(tmp_path / "model.gguf") as network:
        sessions = [llama.Session(network, flash_attn_type=int(flash)) for flash in (True, False)]
        found = []
        for session in sessions:
            with session:
                found.append(torch.tensor(session.run(text)).log_softmax(-1).numpy())
    chosen, dense = (np.abs(answer - expected).max(1) for answer in found)
    assert (chosen < 5e-2).mean() > 0.95
    assert (dense[:48] < 1e-3).all() and (dense[48:] > 0.1).mean() > 0.95


def test_bitnet_files_say_their_activation_which_this_release_of_llama_cpp_does_not_read(
    golden: Path, tmp_path: Path
) -> None:
    """Where the wheel is newer, it is to be a case of MODELS, and the loss to go."""
    from transformers.activations import ACT2FN

    case = next(case for case in MODELS if case.name == "bitnet")
    model = make(replace(case, config={"tie_word_embeddings": True}), golden, tmp_path / "hf")
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    assert [loss.subject for loss in report.losses] == ["hidden_act"]
    for layer in model.model.layers:
        assert layer.mlp.act_fn is not ACT2FN["silu"]
        layer.mlp.act_fn = ACT2FN["silu"]
    with modelfmt.open(tmp_path / "model.gguf") as file, llama.Network(tmp_path / "model.gguf") as network:
        assert file.metadata["bitnet.hidden_activation"] == "relu2"
        np.testing.assert_allclose(network.logits(tokens()), computed(model), atol=1e-3)


def of_the_text(case: Case) -> dict[str, Any]:
    """The configuration of a case, without a section for the text."""
    whole = case.configuration().to_dict()
    return whole | (whole.pop("text_config", None) or {})


def test_prompts_of_hrm_text_that_look_both_ways_are_a_loss(golden: Path, tmp_path: Path) -> None:
    """This release of llama.cpp looks backwards only: where the wheel is newer, "hrm-text-prefix" fails."""
    for name, lost in (("hrm-text", []), ("hrm-text-prefix", ["prefix_lm"])):
        make(next(case for case in MODELS if case.name == name), golden, tmp_path / name)
        plan = modelfmt.plan(tmp_path / name, tmp_path / f"{name}.gguf", quant="F32")
        assert [loss.subject for loss in plan.losses] == lost


@pytest.mark.parametrize("name", sorted(archs.DRAFTERS))
def test_models_that_draft_for_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match="drafts tokens for another one") as caught:
        archs.find(**{("gguf" if "-" in name else "model_type" if "_" in name else "hf_class"): name})
    assert caught.value.code == "unsupported-architecture"


def test_numbers_that_no_config_json_has_are_refused(tmp_path: Path, golden: Path) -> None:
    """Muse Glimmer: the norms of queries are one number in all layers."""
    from gguf import GGUFReader

    make(next(case for case in SEEING if case.name == "muse-glimmer"), golden, tmp_path / "hf")
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32", carry=False)
    reader = GGUFReader(tmp_path / "model.gguf", "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_q_norm.weight").data[3] = 2.0
    reader.data.flush()
    with pytest.raises(UnsupportedError, match="one number for all values"):
        modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back")


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    case = next(case for case in (*CASES, *SEEING) if case.name == name)
    config = of_the_text(case)
    arch = archs.find(case.table)
    with pytest.raises(UnsupportedError, match="tensors of this checkpoint"):
        to_gguf(arch, tensors={}, config=config, assets={})
    with pytest.raises(UnsupportedError, match=message) as caught:
        to_gguf(arch, tensors={}, config=config | change, assets={})
    assert caught.value.code == "config-unsupported"


@pytest.mark.parametrize(("name", "read"), [("seed-oss", False), ("ministral3", True), ("deepseek4-yarn", False)])
def test_betas_of_yarn_that_llama_cpp_reads_from_its_command_line_only(
    name: str, read: bool, golden: Path, tmp_path: Path
) -> None:
    """Of all tables with yarn, mistral3 alone is read from the file."""
    case = next(case for case in MODELS if case.name == name)
    betas = {"beta_fast": 8.0, "beta_slow": 2.0}
    rope = case.config.get("rope_parameters", YARN) | betas
    model = make(replace(case, config=case.config | {"rope_parameters": rope}), golden, tmp_path / "hf")
    expected = computed(model)
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    options = {f"yarn_{name}": value for name, value in betas.items()}
    with llama.Network(tmp_path / "model.gguf") as network:
        found = network.logits(tokens())
        with llama.Session(network, **options) as session:
            np.testing.assert_allclose(session.run(tokens()), expected, atol=1e-3)
    assert (np.abs(found - expected).max() < 1e-3) == read
    assert [loss.subject for loss in report.losses] == ([] if read else ["rope_parameters.beta_fast"])
    assert read or "--yarn-beta-fast 8 --yarn-beta-slow 2" in report.losses[0].detail


@pytest.mark.parametrize(
    ("name", "rope", "context"),
    [
        ("linear", {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, 128),
        ("within-dynamic", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, 128),
        ("yarn-attention", YARN | {"attention_factor": 1.3}, 128),
        ("yarn-mscales", YARN | {"mscale": 0.707, "mscale_all_dim": 1.0}, 128),
        ("longrope-short", LONGROPE | {"original_max_position_embeddings": 512}, 1024),
        ("longrope-long", LONGROPE | {"original_max_position_embeddings": 40}, 1024),
    ],
)
def test_ropes_turn_as_in_transformers(
    name: str, rope: dict[str, Any], context: int, golden: Path, tmp_path: Path
) -> None:
    """Those that no case of MODELS has. Which of the two tensors of longrope counts, llama.cpp decides by the size of
    its context (256 here), transformers by the length of the text (48)."""
    changes = {"rope_parameters": rope, "max_position_embeddings": context}
    case = Case(name, "Llama", "llama-spm", changes)
    expected = computed(make(case, golden, tmp_path / "hf"))
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    with llama.Network(tmp_path / "model.gguf") as network:
        np.testing.assert_allclose(network.logits(tokens()), expected, atol=1e-3)


ELSEWHERE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_dim", "text_config")
"""Keys that are not those of a param."""


_ALL = {case.cls: case for case in (*MODELS, *ENCODERS, *SEEING)}.values()


@pytest.mark.parametrize("case", _ALL, ids=lambda case: case.cls)
def test_no_value_of_any_configuration_leads_to_a_foreign_error(case: Case) -> None:
    config = of_the_text(case)
    arch = archs.find(case.table)
    paths = {path.partition(".")[0] for param in arch.params for path in param.paths}
    for key in sorted({*paths, *ELSEWHERE}):
        for value in (*HOSTILE, ["full_attention"] * 4, {"0": {"head_dim": "x"}}, {"0": 3}, [1, "x", None, 2]):
            with pytest.raises(ModelfmtError):
                to_gguf(arch, tensors={}, config=config | {key: value}, assets={})


@pytest.mark.parametrize("case", ENCODERS, ids=lambda case: case.name)
def test_heads_for_masked_words_are_named_as_lost(case: Case, golden: Path, tmp_path: Path) -> None:
    """All else is there, under the prefix that the body has beside a head."""
    make(case, golden, tmp_path / "body")
    make(replace(case, head="ForMaskedLM"), golden, tmp_path / "whole")
    plans = [modelfmt.plan(tmp_path / name, tmp_path / f"{name}.gguf", quant="F32") for name in ("body", "whole")]
    body, whole = ({row["name"]: row["shape"] for row in plan.table()} for plan in plans)
    assert body == whole
    heads = ("lm_head.", "cls.", "vocab_", "head.", "decoder.")
    assert any(loss.subject.startswith(heads) for loss in plans[1].losses)
    assert not any(loss.subject.startswith(heads) for loss in plans[0].losses)
