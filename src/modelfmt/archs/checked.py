"""How each table was checked, generated from the tests by tests/architecture_page.py.

golden: tensors and metadata equal what llama.cpp's converter makes of a checkpoint. graph: llama.cpp computes from the
file what transformers computes from the checkpoint. back: the folder that the file becomes is the original's bytes, and
without carried keys computes the same.
"""

from __future__ import annotations

__all__ = ["CHECKED"]

CHECKED: dict[str, tuple[str, ...]] = {
    "arcee.ARCEE": ("graph", "back"),
    "bert.BERT": ("golden", "graph", "back"),
    "bloom.BLOOM": ("graph", "back"),
    "cohere.COHERE": ("golden", "graph", "back"),
    "cohere.COHERE2": ("graph", "back"),
    "ernie.ERNIE4_5": ("graph", "back"),
    "exaone.EXAONE4": ("graph", "back"),
    "falcon.FALCON": ("graph", "back"),
    "gemma.GEMMA": (),
    "gemma.GEMMA2": ("golden", "back"),
    "gemma.GEMMA3": ("golden", "back"),
    "glm.GLM4": ("graph", "back"),
    "gpt2.GPT2": ("golden", "back"),
    "gptneox.GPTNEOX": ("graph", "back"),
    "granite.GRANITE": ("graph", "back"),
    "hunyuan.HUNYUAN_DENSE": ("graph", "back"),
    "llama.LLAMA": ("golden", "back"),
    "llama.MISTRAL": ("golden", "back"),
    "llama.MIXTRAL": ("golden", "back"),
    "modernbert.MODERNBERT": ("golden", "graph", "back"),
    "mpt.MPT": ("graph", "back"),
    "nemotron.NEMOTRON": ("graph", "back"),
    "olmo.OLMO2": ("graph", "back"),
    "olmo.OLMO3": ("graph", "back"),
    "phi.PHI2": ("graph", "back"),
    "phi.PHI3": ("golden", "back"),
    "qwen.QWEN2": ("golden", "back"),
    "qwen.QWEN3": ("golden", "back"),
    "qwen.QWEN3_MOE": ("golden", "back"),
    "roberta.DISTILBERT": ("graph", "back"),
    "roberta.ROBERTA": ("graph", "back"),
    "roberta.XLM_ROBERTA": ("graph", "back"),
    "seed_oss.SEED_OSS": ("graph", "back"),
    "smollm3.SMOLLM3": ("graph", "back"),
    "stablelm.STABLELM": ("graph", "back"),
    "starcoder.STARCODER2": ("golden", "back"),
}
