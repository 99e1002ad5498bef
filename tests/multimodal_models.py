"""Tiny models of every multimodal class, as transformers makes and saves them.

`python tests/multimodal_models.py [CLASS ...]` gives each random weights, converts it, compares the file with that of
the language model alone, and llama.cpp's logits for a text with those of the whole model in transformers: the column
"measured" of docs/architectures.md. The suite has what is cheap of it (test_multimodal.py).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

import modelfmt
from modelfmt import archs
from modelfmt.archs.multimodal import MULTIMODAL
from test_arch_models import DELTA, SIZES, WIDTHS

SMALL = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "encoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("hidden_size", "embed_dim", "out_hidden_size", "d_model", "output_dim"), 64),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads"), 4),
    "intermediate_size": 96,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "image_size": 56,
    "patch_size": 14,
    "vocab_size": 512,
    "encoder_ffn_dim": 96,
    "num_embeddings": 64,
    "embed_dim": 64,
}
"""What is made small wherever a configuration of transformers has it."""
_SEEN = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
TEXTS: dict[str, dict[str, Any]] = {
    "cohere2": {"sliding_window": 16, "head_dim": 16},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
    | {"q_lora_rank": 32, "kv_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20}
    | {"moe_intermediate_size": 48, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "gemma": {"head_dim": 32},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "gemma4_text": {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "num_hidden_layers": 6}
    | {"vocab_size_per_layer_input": 512, "sliding_window": 16},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 6.0, "residual_multiplier": 0.4},
    "lfm2": {"full_attn_idxs": [1, 3]},
    "llama4_text": {"head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 112},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp", "mamba"], "mamba_num_heads": 8}
    | {"mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "head_dim": 16, "expand": 2},
    "qwen2_vl_text": {"rope_parameters": _SEEN, "rms_norm_eps": 1e-8},
    "qwen2_5_vl_text": {"rope_parameters": _SEEN, "rms_norm_eps": 1e-8},
    "qwen3": {"head_dim": 32},
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": DELTA | WIDTHS | {"num_experts": 8, "num_experts_per_tok": 2},
    "qwen3_vl_text": {"rope_parameters": _SEEN, "head_dim": 16},
    "qwen3_vl_moe_text": {"rope_parameters": _SEEN, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
    | WIDTHS,
}
"""What the language models have beyond SIZES, by model type."""
_CLIP = {"vision_config": {"model_type": "clip_vision_model"}}  # in the place of timm's
MORE: dict[str, dict[str, Any]] = {
    "FastVlmForConditionalGeneration": _CLIP,
    "PerceptionLMForConditionalGeneration": _CLIP,
}
"""What the whole models have besides."""
UNMADE = ("InternVLChatModel", "KimiVLForConditionalGeneration", "KimiK25ForConditionalGeneration")
"""Classes that transformers does not have: their authors' code is beside their weights."""


def configuration(name: str) -> Any:
    """A small configuration of a class, in transformers' own class."""
    from transformers import CONFIG_MAPPING

    row = MULTIMODAL[name]
    config = _small(CONFIG_MAPPING[row.types[0]](**deepcopy(MORE.get(name, {}))))
    text = CONFIG_MAPPING[row.text](**deepcopy(SIZES | TEXTS.get(row.text, {})))
    config.text_config = text
    return config


def _small(config: Any) -> Any:
    for key, value in SMALL.items():
        if isinstance(config.__dict__.get(key), int) and not isinstance(config.__dict__[key], bool):
            setattr(config, key, value)
    for key in getattr(config, "sub_configs", None) or {}:
        inner = getattr(config, key, None)
        if inner is not None and not isinstance(inner, dict) and key != "text_config":
            _small(inner)
    return config


def language_model(model: Any) -> dict[str, Any]:
    """The tensors of the language model alone, by the names that it has then."""
    body = model.get_decoder()
    body = getattr(body, "model", body)
    found = {f"model.{name}": weight for name, weight in body.state_dict().items()}
    head = model.get_output_embeddings() or model.get_decoder().lm_head
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        found["lm_head.weight"] = head.weight
    return found


def alone(name: str, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The language model of a class as a checkpoint of its own: config.json, tensors."""
    arch = archs.find(name, config=model.config.to_dict())
    text = model.config.get_text_config()
    config = text.to_dict() | {"architectures": [arch.hf[0]]}
    return config | {"tie_word_embeddings": "lm_head.weight" not in (tensors := language_model(model))}, tensors


def made(name: str, seed: int = 3, spread: float = 0.1) -> Any:
    """A model with random weights."""
    import torch
    import transformers

    config = configuration(name)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).float().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = weight.ndim == 1 and key.endswith("weight")
            torch.nn.init.normal_(weight, 1.0 if norm else 0.0, spread)
    model.tie_weights()
    return model


def compared(name: str, golden: Path, folder: Path) -> tuple[str, float]:
    """(GGUF name of a class's language model, the largest difference between log-probabilities), where the file of the
    whole is that of the language model alone."""
    import torch
    from safetensors.torch import save_file

    import llama
    from folders import computed, tokens

    model = made(name)
    logits = computed(getattr(model, "language_model", model))
    text = model.config.get_text_config()
    if name.startswith("GraniteSpeech"):  # transformers 5 leaves that out, where 4 and llama.cpp do it
        logits = logits / text.logits_scaling
    if text.model_type == "cohere2":  # and here
        logits = logits * text.logit_scale
    expected = torch.tensor(logits).log_softmax(-1).numpy()
    model.save_pretrained(folder / "whole")
    config, tensors = alone(name, model)
    (folder / "alone").mkdir()
    (folder / "alone" / "config.json").write_text(json.dumps(config, default=str))
    save_file(
        {key: weight.clone().contiguous() for key, weight in tensors.items()}, folder / "alone" / "model.safetensors"
    )
    for place in ("whole", "alone"):
        for path in (golden / "checkpoints" / "gpt2").iterdir():
            if path.name.startswith(("token", "special", "vocab", "merges")):
                shutil.copy(path, folder / place)
    reports = [
        modelfmt.convert(folder / one, folder / f"{one}.gguf", quant="F32", carry=False) for one in ("whole", "alone")
    ]
    with modelfmt.open(folder / "whole.gguf") as whole, modelfmt.open(folder / "alone.gguf") as other:
        own = f"{whole.metadata['general.architecture']}."
        keys = [{key: value for key, value in one.metadata.items() if key.startswith(own)} for one in (whole, other)]
        assert keys[0] == keys[1], [
            (key, keys[0].get(key), keys[1].get(key))
            for key in {*keys[0], *keys[1]}
            if keys[0].get(key) != keys[1].get(key)
        ]
        assert set(whole) == set(other), set(whole) ^ set(other)
        for key, tensor in whole.tensors.items():
            assert np.array_equal(tensor.numpy(), other[key].numpy()), key
    dropped = [loss.subject for loss in reports[0].losses if loss.kind == "dropped"]
    assert dropped and not [loss for loss in reports[1].losses if loss.kind == "dropped"], reports[1].losses
    with llama.Network(folder / "whole.gguf") as network:
        found = torch.tensor(network.logits(tokens())).log_softmax(-1).numpy()
    return own[:-1], float(np.abs(found - expected).max())


def main() -> None:
    golden = Path(__file__).parent / "data" / "golden"
    for name in sys.argv[1:] or MULTIMODAL:
        if name in UNMADE or not MULTIMODAL[name].types:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                gguf, worst = compared(name, golden, Path(folder))
        except Exception as error:  # the others are to be seen, too
            print(f"{name:46} {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{name:46} {gguf:12} {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
