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
from numpy.typing import NDArray

import modelfmt
from modelfmt import archs
from modelfmt.archs.multimodal import MULTIMODAL, TEXTS, of_tower
from test_arch_models import DELTA, DOTS3, M3, QWEN4, SIZES, WIDTHS

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
SIZED: dict[str, dict[str, Any]] = {
    "apertus1p5_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 2},
    "cosmos3_edge_text": {"rope_parameters": _SEEN, "head_dim": 16},
    "deepseek_ocr2_text": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    | {"num_key_value_heads": 4, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "ernie4_5_vl_moe_text": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [48, 24]}
    | {"rope_parameters": _SEEN},
    "hyperclovax": {"use_post_norm": False, "embedding_multiplier": 6.0, "residual_multiplier": 0.4},
    "cohere2": {"sliding_window": 16, "head_dim": 16},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
    | {"q_lora_rank": 32, "kv_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20}
    | {"moe_intermediate_size": 48, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "gemma": {"head_dim": 32},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "gemma4_text": {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "num_hidden_layers": 6}
    | {"vocab_size_per_layer_input": 512, "sliding_window": 16},
    "gemma4_unified_text": {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6, "sliding_window": 16},
    "dots3_note_text": DOTS3 | {"num_key_value_heads": 4},
    "emu3_text_model": {},
    "minimax_m3_vl_text": M3,
    "qwen4_exp_text": QWEN4,
    "glm4v_text": {"rope_parameters": _SEEN | {"mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5}},
    "glm4v_moe_text": {"rope_parameters": _SEEN | {"mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5}}
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "glm_ocr_text": {"rope_parameters": _SEEN | {"mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5}},
    "granite4_vision_text": {"logits_scaling": 4.0, "embedding_multiplier": 6.0, "residual_multiplier": 0.4},
    "granite_docling_text": {"logits_scaling": 4.0, "embedding_multiplier": 6.0, "attention_multiplier": 0.2},
    "hunyuan_vl_text": {"head_dim": 16}
    | {
        "rope_parameters": {
            "rope_type": "dynamic",
            "rope_theta": 1e4,
            "alpha": 50.0,
            "factor": 1.0,
            "mrope_section": [2, 2, 2, 2],
        }
    },
    "paddleocr_vl_text": {"rope_parameters": _SEEN, "head_dim": 16},
    "qwen2_5_omni_text": {"rope_parameters": _SEEN, "rms_norm_eps": 1e-8},
    "qwen3_omni_moe_text": {"rope_parameters": _SEEN, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
    | WIDTHS,
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
    "Dots3NoteForConditionalGeneration": {
        "vision_config": {"hidden_size": 64, "adapter_in_dim": 64, "adapter_out_dim": SIZES["hidden_size"]}
        | {"num_attention_heads": 4},
        "audio_config": {"hidden_size": 64, "adapter_input_size": 64, "adapter_out_dim": SIZES["hidden_size"]}
        | {"num_attention_heads": 4},
    },
    "FastVlmForConditionalGeneration": _CLIP,
    "Gemma4UnifiedForConditionalGeneration": {"vision_config": {"mm_embed_dim": 64, "mm_posemb_size": 16}},
    "FunAsrNanoForConditionalGeneration": {"adaptor_config": {"hidden_size": 64, "intermediate_size": 16}},
    "Apertus1p5ForConditionalGeneration": {"image_token_offset": 300, "audio_token_offset": 364, "image_token_id": 290}
    | {"audio_token_id": 291, "vision_config": {"codebook_size": 64, "base_channels": 32}}
    | {"audio_config": {"codebook_size": 64}},
    "Emu3ForConditionalGeneration": {"vocabulary_map": {"<image>": 9, "<|visual token 000000|>": 10}},
    "Gemma4ForConditionalGeneration": {"vision_config": {}},
    "GraniteDoclingForConditionalGeneration": {"vision_config": {"out_hidden_size": 64}},
    "Granite4VisionForConditionalGeneration": {
        "deepstack_layer_map": [[0, 1]],
        "spatial_target_layers": [2],
        "downsample_rate": "1/4",
    },
    "PerceptionLMForConditionalGeneration": _CLIP,
}
"""What the whole models have besides."""
UNMADE = (
    *("InternVLChatModel", "KimiVLForConditionalGeneration", "Phi4MMForCausalLM"),  # not in transformers
    *("Gemma3nForConditionalGeneration", "PerceptionLMForConditionalGeneration"),  # their towers need timm
    *("Qwen2_5OmniForConditionalGeneration", "Qwen3OmniMoeForConditionalGeneration"),  # their thinkers are here
    "Glm5NextForConditionalGeneration",  # the language model has other names alone; tests/test_arch_models.py has it
)
"""Classes that are not made here."""


def configuration(name: str) -> Any:
    """A small configuration of a class, in transformers' own class."""
    from transformers import CONFIG_MAPPING

    row = MULTIMODAL[name]
    make, more = CONFIG_MAPPING[row.types[0]], deepcopy(MORE.get(name, {}))
    sizes = deepcopy(SIZES | SIZED.get(row.text, {}))
    if "text_config" in make.sub_configs:
        return _small(make(text_config=sizes | {"model_type": row.text}, **more))
    config = _small(make(**more))
    return make(**sizes | {key: getattr(config, key) for key in make.sub_configs})


def _small(config: Any) -> Any:
    for key, value in SMALL.items():
        if isinstance(config.__dict__.get(key), int) and not isinstance(config.__dict__[key], bool):
            setattr(config, key, value)
    for key in getattr(config, "sub_configs", None) or {}:
        inner = getattr(config, key, None)
        if inner is not None and not isinstance(inner, dict) and key not in ("text_config", "adaptor_config"):
            _small(inner)
    return config


def language_model(model: Any) -> dict[str, Any]:
    """The tensors of the language model alone, by the names that it has then."""
    body = model.get_decoder()
    body = getattr(body, "model", body)
    found = {f"model.{name}": weight for name, weight in body.state_dict().items() if not of_tower(name)}
    head = model.get_output_embeddings() or model.get_decoder().lm_head
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        found["lm_head.weight"] = head.weight
    return found


def alone(name: str, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The language model of a class as a checkpoint of its own: config.json, tensors."""
    row = MULTIMODAL[name]
    place = dict(row.tables).get(row.text) or archs.MODEL_TYPES.get(row.text) or TEXTS[row.text]
    tensors = language_model(model)
    config = model.config.get_text_config().to_dict() | {"tie_word_embeddings": "lm_head.weight" not in tensors}
    if row.said:
        del config["use_bidirectional_attention"]
    return config | {"architectures": [archs.load(place).hf[0]] if archs.load(place).hf else []}, tensors


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


def saved(name: str, model: Any, folder: Path) -> tuple[Path, Path | None]:
    """The folders of a model as transformers saves it, and of its language model alone, where that is a model, too."""
    from safetensors.torch import save_file

    places = [folder / "whole"]
    model.save_pretrained(places[0])
    config, tensors = alone(name, model)
    if config["architectures"]:
        places.append(folder / "alone")
        places[1].mkdir()
        (places[1] / "config.json").write_text(json.dumps(config, default=str))
        own = {key: weight.clone().contiguous() for key, weight in tensors.items()}
        save_file(own, places[1] / "model.safetensors")
    for place in places:
        for path in (Path(__file__).parent / "data" / "golden" / "checkpoints" / "gpt2").iterdir():
            if path.name.startswith(("token", "special", "vocab", "merges")):
                shutil.copy(path, place)
    return places[0], places[1] if config["architectures"] else None


def checked(whole: Path, alone: Path | None) -> tuple[str, list[str]]:
    """Compare the files of both. Returns the GGUF name, and which tensors the report names as left out."""
    report = modelfmt.convert(whole, f"{whole}.gguf", quant="F32", carry=False)
    dropped = [loss.subject for loss in report.losses if loss.kind == "dropped"]
    with modelfmt.open(f"{whole}.gguf") as first:
        own = str(first.metadata["general.architecture"])
        if alone is None:
            return own, dropped
        modelfmt.convert(alone, f"{alone}.gguf", quant="F32", carry=False)
        with modelfmt.open(f"{alone}.gguf") as second:
            keys = [{key: row.metadata[key] for key in row.metadata if key.startswith(own)} for row in (first, second)]
            assert keys[0] == keys[1], keys
            assert set(first) == set(second), set(first) ^ set(second)
            for key, tensor in first.tensors.items():
                assert np.array_equal(tensor.numpy(), second[key].numpy()), key
    return own, dropped


def expected(name: str, model: Any) -> NDArray[np.float32]:
    """float32 [tokens, vocabulary]: the log-probabilities that transformers computes for a text."""
    import torch

    from folders import computed

    logits = computed(getattr(model, "language_model", model))
    text = model.config.get_text_config()
    if name.startswith("GraniteSpeech"):  # transformers 5 leaves that out, where 4 and llama.cpp do it
        logits = logits / text.logits_scaling
    if text.model_type == "cohere2":  # and here
        logits = logits * text.logit_scale
    return np.asarray(torch.tensor(logits).log_softmax(-1).numpy())


def compared(name: str, folder: Path) -> tuple[str, float]:
    """(GGUF name of a class's language model, the largest difference between log-probabilities), where the file of the
    whole is that of the language model alone, and the towers are named."""
    import torch

    import llama
    from folders import tokens

    model = made(name)
    whole, alone = saved(name, model, folder)
    gguf, dropped = checked(whole, alone)
    assert dropped
    with llama.Network(Path(f"{whole}.gguf")) as network:
        found = torch.tensor(network.logits(tokens())).log_softmax(-1).numpy()
    return gguf, float(np.abs(found - expected(name, model)).max())


def main() -> None:
    for name in sys.argv[1:] or MULTIMODAL:
        if name in UNMADE or not MULTIMODAL[name].types:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                gguf, worst = compared(name, Path(folder))
        except Exception as error:  # the others are to be seen, too
            print(f"{name:46} {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{name:46} {gguf:12} {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
