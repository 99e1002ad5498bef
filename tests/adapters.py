"""LoRA adapters that PEFT made, with random factors, on tiny models of transformers: for comparison with what we make
of the same files. Tests that import this are skipped where PEFT is not installed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

peft = pytest.importorskip("peft")

SPREAD = 0.2
RANK, ALPHA = 4, 8.0


@dataclass(frozen=True)
class Variant:
    """An adapter: what LoraConfig says, on a model (a key of BASES) with what `model` says beyond its sizes."""

    name: str
    base: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EXPERTS = SMALL | {"moe_intermediate_size": 48, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
BASES = {
    "llama": ("Llama", SMALL),
    "gpt2": ("GPT2", GPT | {"bos_token_id": 1, "eos_token_id": 2}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS),
    "mixtral": ("Mixtral", EXPERTS),
    "gpt-oss": ("GptOss", EXPERTS | {"head_dim": 16, "intermediate_size": 64}),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CONV1D = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
PATTERNS = {
    "target_modules": LINEAR,
    "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.up_proj": 2},
    "alpha_pattern": {"v_proj": 3, "^model.layers.0.self_attn.o_proj": 20},
}
VARIANTS = (
    Variant("linear", config={"target_modules": LINEAR}),
    Variant("rslora", config={"target_modules": LINEAR, "use_rslora": True}),
    Variant("patterns", config=PATTERNS),
    Variant("patterns-rslora", config=PATTERNS | {"use_rslora": True}),
    Variant("dora", config={"target_modules": LINEAR, "use_dora": True}),
    Variant("one-layer", config={"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    Variant("bias", config={"target_modules": ["q_proj"], "lora_bias": True}, model={"attention_bias": True}),
    Variant("trained-biases", config={"target_modules": ["q_proj"], "bias": "all"}, model={"attention_bias": True}),
    Variant("saved", config={"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]}),
    Variant("embeddings", config={"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    Variant("embeddings-dora", config={"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    Variant("tokens", config={"target_modules": ["q_proj"], "trainable_token_indices": [3, 4, 9, 511]}),
    Variant("conv1d", "gpt2", CONV1D),
    Variant("conv1d-dora", "gpt2", CONV1D | {"use_dora": True}),
    Variant(
        "experts",
        "qwen3-moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": [*BOTH, "mlp.gate.weight"],
            "rank_pattern": {"experts.down_proj": 3},
        },
    ),
    Variant("experts-apart", "mixtral", {"target_modules": ["q_proj"], "target_parameters": BOTH}),
    Variant("experts-transposed", "gpt-oss", {"target_modules": ["q_proj"], "target_parameters": BOTH}),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


def cls(variant: Variant) -> Any:
    """The class of the model."""
    import transformers

    return getattr(transformers, BASES[variant.base][0] + ("LMHeadModel" if variant.base == "gpt2" else "ForCausalLM"))


def model(variant: Variant, seed: int = 3) -> Any:
    """The model of transformers, with random weights."""
    import torch
    import transformers

    name, sizes = BASES[variant.base]
    config = getattr(transformers, f"{name}Config")(**sizes | variant.model)
    torch.manual_seed(seed)
    return cls(variant)(config).float().eval()


def adapted(base: Any, folder: Path, seed: int = 5, **config: Any) -> Any:
    """An adapter on a model of transformers, saved in a folder; returns PEFT's model."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peft.get_peft_model(base, peft.LoraConfig(**{"r": RANK, "lora_alpha": ALPHA} | config)).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, weight in found.named_parameters():
                trained = weight.requires_grad and "lora_" not in name
                if trained or "magnitude" in name:
                    weight += torch.randn_like(weight) * SPREAD / 2
                elif "lora_" in name:
                    weight.copy_(torch.randn_like(weight) * SPREAD)
        found.save_pretrained(folder)
    return found


def save_merged(found: Any, folder: Path) -> None:
    """What merge_and_unload gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.merge_and_unload().save_pretrained(folder)


def log_probabilities(found: Any, tokens: Sequence[int]) -> NDArray[np.float64]:
    """float64 [tokens, vocabulary], by a model of torch."""
    import torch

    with torch.no_grad():
        return normalized(found(torch.tensor([list(tokens)])).logits[0].numpy())


def normalized(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits as log-probabilities."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


def with_tokenizer(folder: Path, golden: Path, name: str) -> None:
    """Copy the tokenizer of a golden checkpoint, without which llama.cpp loads nothing."""
    for path in (golden / "checkpoints" / name).iterdir():
        if path.name.startswith(("token", "special", "vocab", "merges")):
            shutil.copy(path, folder)
