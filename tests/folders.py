"""Hugging Face folders in tests: what lies in one, one that went through GGUF, what transformers computes from one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import modelfmt

N_TOKENS, N_QUESTION = 48, 31
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_hidden_layers": 2, "image_size": 56}
SMALL_VISION |= {"num_heads": 2, "num_attention_heads": 2, "out_hidden_size": 64}
SMALL_BETWEEN = {"out_hidden_size": 128, "projector_hidden_size": 32}
OTHER_PARTS = ("vision", "projector")


def contents(folder: Path) -> dict[str, str]:
    """Digest by name of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def there_and_back(source: Path, work: Path, quant: str = "auto", **options: Any) -> tuple[Path, modelfmt.Report]:
    modelfmt.convert(source, work / "model.gguf", quant=quant, **options)
    return work / "back", modelfmt.convert(work / "model.gguf", f"{work / 'back'}/")


def tokens(seed: int = 1, count: int = N_TOKENS) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 500, count)]


def question() -> list[int]:
    """What the encoder of an encoder-decoder reads."""
    return tokens(2)[:N_QUESTION]


def computed(model: Any, count: int = N_TOKENS) -> NDArray[np.float32]:
    """float32 [tokens, vocabulary or width]: logits, of models without a head the hidden states."""
    import torch

    torch.set_num_threads(1)
    ids = {"input_ids": torch.tensor([tokens(count=count)])}
    if hasattr(model, "decoder"):
        ids = {"input_ids": torch.tensor([question()]), "decoder_input_ids": ids["input_ids"]}
    with torch.no_grad():
        found = model(**ids)
    values = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return np.asarray(values[0].float().numpy())


def logits(folder: Path, count: int = N_TOKENS) -> NDArray[np.float32]:
    """What transformers computes from a folder, in the type that its configuration names."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text())
    name, options = config["architectures"][0], {"attn_implementation": "eager", "output_loading_info": True}
    found = getattr(transformers, name, transformers.AutoModelForCausalLM)  # some models have another's class there
    if "vision_config" not in config and "text_config" in config:  # there is no class for the language part alone
        small = {key: size for key, size in SMALL_BETWEEN.items() if hasattr(found.config_class, key)}
        options["config"] = found.config_class(text_config=config["text_config"], vision_config=SMALL_VISION, **small)
    model, info = found.from_pretrained(folder, **options)
    computed_anew = {name for name, _ in model.named_buffers()}
    missing = {key for key in info["missing_keys"] if "pooler" not in key and key not in computed_anew}
    missing = {key for key in missing if "config" not in options or not any(part in key for part in OTHER_PARTS)}
    assert missing == set() == set(info["unexpected_keys"])
    with torch.no_grad():
        for weight in model.parameters():  # where it begins in a mapped file decides how products are rounded
            weight.data = weight.data.clone()
    return computed(model.eval(), count)
