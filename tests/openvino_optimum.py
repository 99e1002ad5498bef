"""Folders that `--to openvino` writes, loaded by optimum-intel as they are: the same greedy text as transformers.

    python tests/openvino_optimum.py FOLDER make       # in the environment of the tests: checkpoints and their folders
    python tests/openvino_optimum.py FOLDER compare    # in one with optimum-intel 2.2.0, which has transformers 5.5

Two environments, since optimum-intel 2.2.0 excludes transformers 5.6 and later. Run by hand; `compare` takes a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ENCODERS = ("bert", "roberta", "distilbert")
NAMES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe", "gemma", "gemma2", "gemma3", "phi3", "gpt2"),
    *("smollm3", "granite", "olmo2", *ENCODERS),
)
SEVERAL = {"t5": "Seq2SeqLM", "umt5": "Seq2SeqLM", "t5-narrow": "Seq2SeqLM", "whisper": "SpeechSeq2Seq"}
PICTURES = {"vit": "ImageClassification", "clip": "ZeroShotImageClassification"}
"""Name -> what optimum-intel's class for it ends in."""
SETTINGS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
GENERATED = {"greedy": {"max_new_tokens": 24}, "of 3 beams": {"max_new_tokens": 24, "num_beams": 3}}


def make(folder: Path) -> None:
    import modelfmt
    import onnx_models

    for name in NAMES:
        model = onnx_models.decoder(name) if name in onnx_models.DECODERS else onnx_models.encoder(name)
        model.save_pretrained(folder / name / "torch")
        modelfmt.convert(folder / name / "torch", folder / name / "openvino", to="openvino", overwrite=True)
    import onnx_towers

    for name in (*SEVERAL, *PICTURES):
        onnx_towers.models()[name][0](name).save_pretrained(folder / name / "torch")
        modelfmt.convert(folder / name / "torch", folder / name / "openvino", to="openvino", overwrite=True)


def compare(folder: Path) -> None:
    import torch
    import transformers
    from optimum.intel import OVModelForCausalLM, OVModelForFeatureExtraction

    transformers.logging.set_verbosity_error()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
    for name in NAMES:
        ids = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(3))
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if name in ENCODERS:
            ours = OVModelForFeatureExtraction.from_pretrained(folder / name / "openvino", ov_config=exact)
            theirs = transformers.AutoModel.from_pretrained(folder / name / "torch")
            found, wanted = (model(**inputs).last_hidden_state for model in (ours, theirs))
            print(f"{name:12} hidden states differ by {float((found - wanted).abs().max()):.1e}", flush=True)
            continue
        ours = OVModelForCausalLM.from_pretrained(folder / name / "openvino", ov_config=exact)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / name / "torch", attn_implementation="eager")
        words = []
        for how, settings in GENERATED.items():
            found, wanted = (model.generate(**inputs, **SETTINGS, **settings) for model in (ours, theirs))
            same = np.array_equal(found.numpy(), wanted.numpy())
            words.append(f"{'the same' if same else 'ANOTHER'} text, {how}")
        print(f"{name:12} {'; '.join(words)}", flush=True)
    _towers(folder, exact)


def _towers(folder: Path, exact: dict[str, str]) -> None:
    import optimum.intel
    import torch
    import transformers

    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 95, (2, 9), generator=generator)
    sounds = {"input_features": torch.randn((2, 10, 40), generator=generator)}
    texts: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pictures = {"pixel_values": torch.randn((2, 3, 24, 24), generator=generator)}
    for name, kind in SEVERAL.items():
        ours = getattr(optimum.intel, f"OVModelFor{kind}").from_pretrained(folder / name / "openvino", ov_config=exact)
        auto = getattr(transformers, f"AutoModelFor{kind}")
        theirs = auto.from_pretrained(folder / name / "torch", attn_implementation="eager")
        given = sounds if name == "whisper" else texts
        settings = {"max_new_tokens": 12, "do_sample": False}
        found, wanted = (model.generate(**given, **settings) for model in (ours, theirs))
        print(
            f"{name:12} {'the same' if np.array_equal(found.numpy(), wanted.numpy()) else 'ANOTHER'} text", flush=True
        )
    for name, kind in PICTURES.items():
        ours = getattr(optimum.intel, f"OVModelFor{kind}").from_pretrained(folder / name / "openvino", ov_config=exact)
        theirs = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder / name / "torch")
        given = pictures | texts if name == "clip" else pictures
        output = "logits_per_image" if name == "clip" else "logits"
        with torch.no_grad():
            found, wanted = (getattr(model(**given), output) for model in (ours, theirs))
        print(f"{name:12} {output} differ by {float((found - wanted).abs().max()):.1e}", flush=True)


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[2]](Path(sys.argv[1]))
