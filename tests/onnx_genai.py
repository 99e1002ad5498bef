"""Folders that `--profile ort-genai` writes, loaded by onnxruntime-genai: the same greedy tokens as transformers.

    python tests/onnx_genai.py [NAME ...] [--f16]

Tiny checkpoints of the transformers classes (tests/onnx_models.py). Printed is how many of the tokens that transformers
generates are the same: of one text, and of a batch of texts of two lengths.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai
import torch

import modelfmt
import onnx_models

NEW = 24
ENDS = (95, 94)


def convert(model: Any, folder: Path, **options: Any) -> Path:
    """The checkpoint of a model and the folder that genai loads, with an end token that is never generated first."""
    model.save_pretrained(folder / "torch")
    settings = {"bos_token_id": 1, "eos_token_id": list(ENDS), "pad_token_id": 0}
    (folder / "torch" / "generation_config.json").write_text(json.dumps(settings))
    modelfmt.convert(folder / "torch", folder / "genai", to="onnx", profile="ort-genai", **options)
    return folder / "genai"


def theirs(model: Any, texts: list[list[int]]) -> list[list[int]]:
    """What transformers generates for each text, by itself."""
    tokens = {"pad_token_id": 0, "eos_token_id": list(ENDS)}
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, **tokens}
    made = [model.generate(torch.tensor([text]), attention_mask=torch.ones(1, len(text)), **settings) for text in texts]
    return [ended(one[0, len(text) :].tolist()) for one, text in zip(made, texts, strict=True)]


def ours(folder: Path, texts: list[list[int]]) -> list[list[int]]:
    """What genai generates for a batch; texts of unequal lengths are padded behind."""
    model = onnxruntime_genai.Model(str(folder))
    params = onnxruntime_genai.GeneratorParams(model)
    longest = max(map(len, texts))
    params.set_search_options(do_sample=False, max_length=longest + NEW, batch_size=len(texts))
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(np.array([text + [0] * (longest - len(text)) for text in texts], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [ended(generator.get_sequence(at)[longest:].tolist()) for at in range(len(texts))]


def ended(tokens: list[int]) -> list[int]:
    """Tokens before the first end token, which genai leaves out of a single text."""
    return tokens[: next((at for at, token in enumerate(tokens) if token in ENDS), len(tokens))]


def same(found: list[int], wanted: list[int]) -> int:
    """How many tokens are the same, from the first on; -1 where one goes on behind the other's end."""
    differ = [at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]]
    return differ[0] if differ else len(found) if len(found) == len(wanted) else -1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*onnx_models.DECODERS])
    parser.add_argument("--f16", action="store_true")
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(3, 90, (length,), generator=generator).tolist() for length in (12, 9)]
    for name in given.names:
        with tempfile.TemporaryDirectory() as place:
            model = onnx_models.decoder(name)
            folder = convert(model, Path(place), quant="F16" if given.f16 else None)
            kind = json.loads((folder / "genai_config.json").read_text())["model"]["type"]
            wanted = theirs(model, texts)
            alone = same(ours(folder, texts[:1])[0], wanted[0])
            both = [same(*pair) for pair in zip(ours(folder, texts), wanted, strict=True)]
            lengths = [len(one) for one in wanted]
            print(f"{name:20} {kind:12} {alone:2} of {lengths[0]}; {both} of {lengths}", flush=True)


if __name__ == "__main__":
    main()
