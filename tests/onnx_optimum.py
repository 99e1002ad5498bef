"""Folders that `--to onnx` writes, loaded by optimum as they are: the same greedy text as transformers.

    python tests/onnx_optimum.py FOLDER make       # in the environment of the tests: checkpoints and their ONNX folders
    python tests/onnx_optimum.py FOLDER compare    # in one with optimum-onnx 0.1.0, optimum 2.1 and transformers 4.57

Two environments, since optimum-onnx 0.1.0 excludes transformers 5. Run by hand; `compare` takes half a minute.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "gpt2", "smollm3", "granite")
STATES = ("bert", "roberta", "distilbert", "modernbert")
SEQ2SEQ = ("t5", "t5-gated", "t5-narrow", "mt5", "umt5", "whisper")
PICTURES = ("vit", "clip")
"""optimum-onnx 0.1.0 makes the first cache of gemma2, phi3, olmo2 and the mixtures with as many heads as queries have,
and, save for Gemma, heads of n_embd / n_head values: those it cannot run where this is not so. Of encoder-decoders
whose heads are not n_embd / n_head (t5-narrow) our graphs do not look at that cache."""

SETTINGS: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def make(folder: Path) -> None:
    import modelfmt
    import onnx_models
    import onnx_towers

    for _, _, settings in onnx_towers.SEQ2SEQ.values():  # livelier texts
        settings |= {"initializer_factor": 1.0} if "d_ff" in settings else {"init_std": 0.3}
    onnx_models.DECODERS["qwen3"] = ("Qwen3Config", onnx_models.DECODER | {"head_dim": 16})
    for name in (*TEXTS, *STATES, *SEQ2SEQ, *PICTURES):
        if name in onnx_towers.models():
            model = onnx_towers.models()[name][0](name)
        else:
            model = onnx_models.decoder(name) if name in onnx_models.DECODERS else onnx_models.encoder(name)
        model.save_pretrained(folder / name / "torch")
        as_published(folder / name / "torch" / "config.json")
        modelfmt.convert(folder / name / "torch", folder / name / "onnx", to="onnx", overwrite=True)


def as_published(path: Path) -> None:
    """The configuration of a T5 as on the hub. transformers 5 always writes that embeddings are tied, by which older
    versions scale what the decoder puts out."""
    config = json.loads(path.read_text())
    if "d_ff" in config and config["feed_forward_proj"] == "gated-gelu":
        config.pop("scale_decoder_outputs", None)
        path.write_text(json.dumps(config | {"tie_word_embeddings": False}))


def texts(folder: Path, ids: Any) -> str:
    """Decoders: greedy text."""
    import transformers
    from optimum.onnxruntime import ORTModelForCausalLM

    config = transformers.AutoConfig.from_pretrained(folder / "torch")
    ours = ORTModelForCausalLM.from_pretrained(folder / "onnx", config=config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "torch", attn_implementation="eager")
    found, wanted = (model.generate(input_ids=ids, attention_mask=ids * 0 + 1, **SETTINGS) for model in (ours, theirs))
    return same(found, wanted)


def states(folder: Path, ids: Any) -> str:
    """Encoders: hidden states."""
    import transformers
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    ours = ORTModelForFeatureExtraction.from_pretrained(folder / "onnx")
    theirs = transformers.AutoModel.from_pretrained(folder / "torch")
    found, wanted = (model(input_ids=ids, attention_mask=ids * 0 + 1).last_hidden_state for model in (ours, theirs))
    return f"hidden states differ by {float((found - wanted).detach().abs().max()):.1e}"


def seq2seq(folder: Path, ids: Any) -> str:
    """Encoder-decoders: greedy text, and what a beam of three finds."""
    import torch
    import transformers
    from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq

    config = transformers.AutoConfig.from_pretrained(folder / "torch")
    given = {"input_ids": ids, "attention_mask": ids * 0 + 1}
    kinds: tuple[Any, Any] = (ORTModelForSeq2SeqLM, transformers.AutoModelForSeq2SeqLM)
    if config.model_type == "whisper":
        kinds = (ORTModelForSpeechSeq2Seq, transformers.WhisperForConditionalGeneration)
        shape = 2, config.num_mel_bins, 2 * config.max_source_positions
        given = {"input_features": torch.randn(shape, generator=torch.Generator().manual_seed(3))}
    models = [kind.from_pretrained(folder / place) for kind, place in zip(kinds, ("onnx", "torch"), strict=True)]
    generate = transformers.GenerationMixin.generate
    results = []
    for beams in (1, 3):
        found, wanted = (generate(model, **given, **SETTINGS, num_beams=beams) for model in models)
        results.append(f"{beams} beams: {same(found, wanted)}")
    return "; ".join(results)


def pictures(folder: Path, ids: Any) -> str:
    """ViT's labels; CLIP's likeness of texts and pictures."""
    import torch
    import transformers
    from optimum.onnxruntime import ORTModelForImageClassification, ORTModelForZeroShotImageClassification

    pixels = torch.randn((3, 3, 24, 24), generator=torch.Generator().manual_seed(3))
    kinds: tuple[Any, Any] = (ORTModelForImageClassification, transformers.ViTForImageClassification)
    given, output = {"pixel_values": pixels}, "logits"
    if transformers.AutoConfig.from_pretrained(folder / "torch").model_type == "clip":
        kinds = (ORTModelForZeroShotImageClassification, transformers.CLIPModel)
        given, output = given | {"input_ids": ids, "attention_mask": ids * 0 + 1}, "logits_per_image"
    models = [kind.from_pretrained(folder / place) for kind, place in zip(kinds, ("onnx", "torch"), strict=True)]
    with torch.no_grad():
        found, wanted = (getattr(model(**given), output) for model in models)
    return f"{output} differ by {float((found - wanted).detach().abs().max()):.1e}"


def same(found: Any, wanted: Any) -> str:
    equal, kinds = np.array_equal(found.numpy(), wanted.numpy()), len(set(wanted.flatten().tolist()))
    return f"{'the same' if equal else 'ANOTHER'} text, {wanted.shape[1]} tokens, {kinds} different ones"


def compare(folder: Path) -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    ids = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(3))
    ways = dict.fromkeys(TEXTS, texts) | dict.fromkeys(STATES, states)
    for name, way in (ways | dict.fromkeys(SEQ2SEQ, seq2seq) | dict.fromkeys(PICTURES, pictures)).items():
        try:
            print(f"{name:14} {way(folder / name, ids)}", flush=True)
        except Exception as error:
            print(f"{name:14} {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[2]](Path(sys.argv[1]))
