"""Folders that `--to onnx` writes, loaded by optimum as they are: the same greedy text as transformers.

    python tests/onnx_optimum.py FOLDER make       # in the environment of the tests: checkpoints and their ONNX folders
    python tests/onnx_optimum.py FOLDER compare    # in one with optimum-onnx 0.1.0, optimum 2.1 and transformers 4.57

Two environments, since optimum-onnx 0.1.0 excludes transformers 5. Run by hand; `compare` takes half a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

NAMES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "gpt2", "smollm3", "granite"),
    *("bert", "roberta", "distilbert"),
)
"""optimum-onnx 0.1.0 makes the first cache of gemma2, phi3, olmo2 and the mixtures with as many heads as queries have,
and, save for Gemma, heads of n_embd / n_head values: those it cannot run where this is not so."""


def make(folder: Path) -> None:
    import modelfmt
    import onnx_models

    onnx_models.DECODERS["qwen3"] = ("Qwen3Config", onnx_models.DECODER | {"head_dim": 16})
    for name in NAMES:
        model = onnx_models.decoder(name) if name in onnx_models.DECODERS else onnx_models.encoder(name)
        model.save_pretrained(folder / name / "torch")
        modelfmt.convert(folder / name / "torch", folder / name / "onnx", to="onnx", overwrite=True)


def compare(folder: Path) -> None:
    import torch
    import transformers
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForFeatureExtraction

    transformers.logging.set_verbosity_error()
    for name in NAMES:
        config = transformers.AutoConfig.from_pretrained(folder / name / "torch")
        ids = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(3))
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if name in ("bert", "roberta", "distilbert"):
            ours = ORTModelForFeatureExtraction.from_pretrained(folder / name / "onnx")
            theirs = transformers.AutoModel.from_pretrained(folder / name / "torch")
            found, wanted = (model(**inputs).last_hidden_state for model in (ours, theirs))
            print(f"{name:14} hidden states differ by {float((found - wanted).abs().max()):.1e}")
            continue
        ours = ORTModelForCausalLM.from_pretrained(folder / name / "onnx", config=config)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / name / "torch", attn_implementation="eager")
        settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        found, wanted = (model.generate(**inputs, **settings) for model in (ours, theirs))
        same = np.array_equal(found.numpy(), wanted.numpy())
        print(f"{name:14} {'the same' if same else 'ANOTHER'} text, {wanted.shape[1] - 7} tokens")


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[2]](Path(sys.argv[1]))
