"""Architectures as tables: the literal registry of class names, model types and GGUF names.

Tables are imported when they are asked for. A new family is one file and its lines here (docs/architectures.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from modelfmt.archs.table import Architecture

__all__ = [
    "GGUF",
    "GGUF_WITH",
    "GGUF_WITHOUT",
    "GGUF_WITH_EXPERTS",
    "HUGGING_FACE",
    "MODEL_TYPES",
    "find",
    "load",
    "of_gguf",
]

HUGGING_FACE = {
    "ArceeForCausalLM": "arcee.ARCEE",
    "BertForMaskedLM": "bert.BERT",
    "BertForPreTraining": "bert.BERT",
    "BertModel": "bert.BERT",
    "BloomForCausalLM": "bloom.BLOOM",
    "BloomModel": "bloom.BLOOM",
    "Cohere2ForCausalLM": "cohere.COHERE2",
    "CohereForCausalLM": "cohere.COHERE",
    "DistilBertForMaskedLM": "roberta.DISTILBERT",
    "DistilBertModel": "roberta.DISTILBERT",
    "Ernie4_5ForCausalLM": "ernie.ERNIE4_5",
    "Ernie4_5_ForCausalLM": "ernie.ERNIE4_5",
    "Exaone4ForCausalLM": "exaone.EXAONE4",
    "FalconForCausalLM": "falcon.FALCON",
    "FalconModel": "falcon.FALCON",
    "GPT2LMHeadModel": "gpt2.GPT2",
    "GPT2Model": "gpt2.GPT2",
    "GPTNeoXForCausalLM": "gptneox.GPTNEOX",
    "GPTNeoXModel": "gptneox.GPTNEOX",
    "Gemma2ForCausalLM": "gemma.GEMMA2",
    "Gemma3ForCausalLM": "gemma.GEMMA3",
    "Gemma3ForConditionalGeneration": "gemma.GEMMA3",
    "GemmaForCausalLM": "gemma.GEMMA",
    "Glm4ForCausalLM": "glm.GLM4",
    "GraniteForCausalLM": "granite.GRANITE",
    "HunYuanDenseV1ForCausalLM": "hunyuan.HUNYUAN_DENSE",
    "LLaMAForCausalLM": "llama.LLAMA",
    "LlamaForCausalLM": "llama.LLAMA",
    "LlamaModel": "llama.LLAMA",
    "MPTForCausalLM": "mpt.MPT",
    "MistralForCausalLM": "llama.MISTRAL",
    "MistralModel": "llama.MISTRAL",
    "MixtralForCausalLM": "llama.MIXTRAL",
    "ModernBertForMaskedLM": "modernbert.MODERNBERT",
    "ModernBertModel": "modernbert.MODERNBERT",
    "MptForCausalLM": "mpt.MPT",
    "MptModel": "mpt.MPT",
    "NemotronForCausalLM": "nemotron.NEMOTRON",
    "Olmo2ForCausalLM": "olmo.OLMO2",
    "Olmo3ForCausalLM": "olmo.OLMO3",
    "Phi3ForCausalLM": "phi.PHI3",
    "PhiForCausalLM": "phi.PHI2",
    "Qwen2ForCausalLM": "qwen.QWEN2",
    "Qwen2Model": "qwen.QWEN2",
    "Qwen3ForCausalLM": "qwen.QWEN3",
    "Qwen3Model": "qwen.QWEN3",
    "Qwen3MoeForCausalLM": "qwen.QWEN3_MOE",
    "RWForCausalLM": "falcon.FALCON",
    "RobertaForMaskedLM": "roberta.ROBERTA",
    "RobertaModel": "roberta.ROBERTA",
    "SeedOssForCausalLM": "seed_oss.SEED_OSS",
    "SmolLM3ForCausalLM": "smollm3.SMOLLM3",
    "StableLMEpochForCausalLM": "stablelm.STABLELM",
    "StableLmForCausalLM": "stablelm.STABLELM",
    "Starcoder2ForCausalLM": "starcoder.STARCODER2",
    "XLMRobertaForMaskedLM": "roberta.XLM_ROBERTA",
    "XLMRobertaModel": "roberta.XLM_ROBERTA",
}
"""Class names, as `architectures` in config.json has them."""

MODEL_TYPES = {
    "arcee": "arcee.ARCEE",
    "bert": "bert.BERT",
    "bloom": "bloom.BLOOM",
    "cohere": "cohere.COHERE",
    "cohere2": "cohere.COHERE2",
    "distilbert": "roberta.DISTILBERT",
    "ernie4_5": "ernie.ERNIE4_5",
    "exaone4": "exaone.EXAONE4",
    "falcon": "falcon.FALCON",
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "gemma3_text": "gemma.GEMMA3",
    "glm4": "glm.GLM4",
    "gpt2": "gpt2.GPT2",
    "gpt_neox": "gptneox.GPTNEOX",
    "granite": "granite.GRANITE",
    "hunyuan_v1_dense": "hunyuan.HUNYUAN_DENSE",
    "llama": "llama.LLAMA",
    "mistral": "llama.MISTRAL",
    "mixtral": "llama.MIXTRAL",
    "modernbert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "nemotron": "nemotron.NEMOTRON",
    "olmo2": "olmo.OLMO2",
    "olmo3": "olmo.OLMO3",
    "phi": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen3_moe": "qwen.QWEN3_MOE",
    "roberta": "roberta.ROBERTA",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "stablelm": "stablelm.STABLELM",
    "starcoder2": "starcoder.STARCODER2",
    "xlm-roberta": "roberta.XLM_ROBERTA",
}
"""`model_type` of config.json."""

GGUF = {
    "arcee": "arcee.ARCEE",
    "bert": "bert.BERT",
    "bloom": "bloom.BLOOM",
    "cohere2": "cohere.COHERE2",
    "command-r": "cohere.COHERE",
    "ernie4_5": "ernie.ERNIE4_5",
    "exaone4": "exaone.EXAONE4",
    "falcon": "falcon.FALCON",
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "glm4": "glm.GLM4",
    "gpt2": "gpt2.GPT2",
    "gptneox": "gptneox.GPTNEOX",
    "granite": "granite.GRANITE",
    "hunyuan-dense": "hunyuan.HUNYUAN_DENSE",
    "llama": "llama.LLAMA",
    "modern-bert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "nemotron": "nemotron.NEMOTRON",
    "olmo2": "olmo.OLMO2",
    "phi2": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen3moe": "qwen.QWEN3_MOE",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "stablelm": "stablelm.STABLELM",
    "starcoder2": "starcoder.STARCODER2",
}
"""`general.architecture` of a GGUF file; llama is also what Mistral becomes."""

GGUF_WITH_EXPERTS = {"llama": "llama.MIXTRAL"}
"""The same, for files with experts, where that is another table."""


GGUF_WITH = {"olmo2": ("attention.sliding_window", "olmo.OLMO3")}
"""The same, for files with another key behind the architecture's name."""

GGUF_WITHOUT = {"bert": ("token_types.weight", "roberta.DISTILBERT")}
"""The same, for files without a tensor."""


def find(hf_class: str | None = None, model_type: str | None = None, gguf: str | None = None) -> Architecture:
    """The table for a class name, else for a model type, else for a GGUF name: the first one given decides.

    Raises UnsupportedError (unsupported-architecture) with the nearest known names.

    >>> find("Qwen3ForCausalLM").gguf
    'qwen3'
    """
    for name, tables in ((hf_class, HUGGING_FACE), (model_type, MODEL_TYPES), (gguf, GGUF)):
        if name is not None:
            if name not in tables:
                raise _unknown(name, tables)
            return load(tables[name])
    raise UsageError("give a class name, a model type or a GGUF name", code="no-name")


def of_gguf(metadata: Mapping[str, Any], tensors: Collection[str] | None = None) -> Architecture:
    """The table for a GGUF file, by its metadata and the names of its tensors.

    >>> of_gguf({"general.architecture": "llama", "llama.expert_count": 8}).hf
    ('MixtralForCausalLM',)
    """
    name = str(metadata.get("general.architecture"))
    if metadata.get(f"{name}.expert_count") and name in GGUF_WITH_EXPERTS:
        return load(GGUF_WITH_EXPERTS[name])
    key, place = GGUF_WITH.get(name, ("", ""))
    if place and metadata.get(f"{name}.{key}"):
        return load(place)
    tensor, place = GGUF_WITHOUT.get(name, ("", ""))
    if place and tensors is not None and tensor not in tensors:
        return load(place)
    return find(gguf=name)


def load(place: str) -> Architecture:
    """The table at a place of the registry, such as "qwen.QWEN3"."""
    module, _, name = place.partition(".")
    found: Architecture = getattr(import_module(f"{__name__}.{module}"), name)
    return found


def _unknown(name: str, tables: dict[str, str]) -> UnsupportedError:
    from difflib import get_close_matches

    near = get_close_matches(name, tables, n=4, cutoff=0.5)
    return UnsupportedError(
        "there is no table for this architecture",
        code="unsupported-architecture",
        found=name,
        allowed=f"nearest: {', '.join(near)}" if near else ", ".join(tables),
        hint="docs/architectures.md says how to add one",
    )
