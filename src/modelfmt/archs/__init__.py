"""Architectures as tables: the literal registry of class names, model types and GGUF names.

Tables are imported when they are asked for. A new family is one file and its lines here (docs/architectures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelfmt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from modelfmt.archs.table import Architecture

__all__ = ["GGUF", "GGUF_WITH_EXPERTS", "HUGGING_FACE", "MODEL_TYPES", "find", "of_gguf"]

HUGGING_FACE = {
    "ArceeForCausalLM": "arcee.ARCEE",
    "BambaForCausalLM": "granite_hybrid.BAMBA",
    "BertForMaskedLM": "bert.BERT",
    "BertForPreTraining": "bert.BERT",
    "BertModel": "bert.BERT",
    "BloomForCausalLM": "bloom.BLOOM",
    "BloomModel": "bloom.BLOOM",
    "CamembertForMaskedLM": "roberta.CAMEMBERT",
    "CamembertModel": "roberta.CAMEMBERT",
    "Cohere2ForCausalLM": "cohere.COHERE2",
    "CohereForCausalLM": "cohere.COHERE",
    "DistilBertForMaskedLM": "roberta.DISTILBERT",
    "DistilBertModel": "roberta.DISTILBERT",
    "Ernie4_5ForCausalLM": "ernie.ERNIE4_5",
    "Ernie4_5_ForCausalLM": "ernie.ERNIE4_5",
    "EuroBertForMaskedLM": "eurobert.EUROBERT",
    "EuroBertModel": "eurobert.EUROBERT",
    "Exaone4ForCausalLM": "exaone.EXAONE4",
    "FalconForCausalLM": "falcon.FALCON",
    "FalconH1ForCausalLM": "falcon_h1.FALCON_H1",
    "FalconMambaForCausalLM": "mamba.FALCON_MAMBA",
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
    "GraniteMoeHybridForCausalLM": "granite_hybrid.GRANITE_4",
    "HunYuanDenseV1ForCausalLM": "hunyuan.HUNYUAN_DENSE",
    "JambaForCausalLM": "jamba.JAMBA",
    "JinaEmbeddingsV3ForMaskedLM": "nomic_bert.JINA_BERT_V3",
    "JinaEmbeddingsV3Model": "nomic_bert.JINA_BERT_V3",
    "LFM2ForCausalLM": "lfm2.LFM2",
    "LLaMAForCausalLM": "llama.LLAMA",
    "Lfm2ForCausalLM": "lfm2.LFM2",
    "Lfm2MoeForCausalLM": "lfm2.LFM2_MOE",
    "Lfm2VlForConditionalGeneration": "lfm2.LFM2",
    "LlamaForCausalLM": "llama.LLAMA",
    "LlamaModel": "llama.LLAMA",
    "MPTForCausalLM": "mpt.MPT",
    "MT5EncoderModel": "t5.MT5_ENCODER",
    "MT5ForConditionalGeneration": "t5.MT5",
    "Mamba2ForCausalLM": "mamba.MAMBA2",
    "MambaForCausalLM": "mamba.MAMBA",
    "MambaLMHeadModel": "mamba.MAMBA",
    "MistralForCausalLM": "llama.MISTRAL",
    "MistralModel": "llama.MISTRAL",
    "MixtralForCausalLM": "llama.MIXTRAL",
    "ModernBertForMaskedLM": "modernbert.MODERNBERT",
    "ModernBertModel": "modernbert.MODERNBERT",
    "MptForCausalLM": "mpt.MPT",
    "MptModel": "mpt.MPT",
    "NemotronForCausalLM": "nemotron.NEMOTRON",
    "NemotronHForCausalLM": "nemotron_h.NEMOTRON_H",
    "NomicBertForMaskedLM": "nomic_bert.NOMIC_BERT",
    "NomicBertModel": "nomic_bert.NOMIC_BERT",
    "Olmo2ForCausalLM": "olmo.OLMO2",
    "Olmo3ForCausalLM": "olmo.OLMO3",
    "Phi3ForCausalLM": "phi.PHI3",
    "PhiForCausalLM": "phi.PHI2",
    "Qwen2ForCausalLM": "qwen.QWEN2",
    "Qwen2Model": "qwen.QWEN2",
    "Qwen3ForCausalLM": "qwen.QWEN3",
    "Qwen3Model": "qwen.QWEN3",
    "Qwen3MoeForCausalLM": "qwen.QWEN3_MOE",
    "Qwen3NextForCausalLM": "qwen_next.QWEN3_NEXT",
    "Qwen3_5ForCausalLM": "qwen_next.QWEN3_5",
    "Qwen3_5ForConditionalGeneration": "qwen_next.QWEN3_5",
    "Qwen3_5MoeForCausalLM": "qwen_next.QWEN3_5_MOE",
    "Qwen3_5MoeForConditionalGeneration": "qwen_next.QWEN3_5_MOE",
    "RWForCausalLM": "falcon.FALCON",
    "RobertaForMaskedLM": "roberta.ROBERTA",
    "RobertaModel": "roberta.ROBERTA",
    "SeedOssForCausalLM": "seed_oss.SEED_OSS",
    "SmolLM3ForCausalLM": "smollm3.SMOLLM3",
    "StableLMEpochForCausalLM": "stablelm.STABLELM",
    "StableLmForCausalLM": "stablelm.STABLELM",
    "Starcoder2ForCausalLM": "starcoder.STARCODER2",
    "T5EncoderModel": "t5.T5_ENCODER",
    "T5ForConditionalGeneration": "t5.T5",
    "T5WithLMHeadModel": "t5.T5",
    "UMT5EncoderModel": "t5.UMT5_ENCODER",
    "UMT5ForConditionalGeneration": "t5.UMT5",
    "XLMRobertaForMaskedLM": "roberta.XLM_ROBERTA",
    "XLMRobertaModel": "roberta.XLM_ROBERTA",
}
"""Class names, as `architectures` in config.json has them."""

MODEL_TYPES = {
    "arcee": "arcee.ARCEE",
    "bamba": "granite_hybrid.BAMBA",
    "bert": "bert.BERT",
    "bloom": "bloom.BLOOM",
    "camembert": "roberta.CAMEMBERT",
    "cohere": "cohere.COHERE",
    "cohere2": "cohere.COHERE2",
    "distilbert": "roberta.DISTILBERT",
    "ernie4_5": "ernie.ERNIE4_5",
    "eurobert": "eurobert.EUROBERT",
    "exaone4": "exaone.EXAONE4",
    "falcon": "falcon.FALCON",
    "falcon_h1": "falcon_h1.FALCON_H1",
    "falcon_mamba": "mamba.FALCON_MAMBA",
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "gemma3_text": "gemma.GEMMA3",
    "glm4": "glm.GLM4",
    "gpt2": "gpt2.GPT2",
    "gpt_neox": "gptneox.GPTNEOX",
    "granite": "granite.GRANITE",
    "granitemoehybrid": "granite_hybrid.GRANITE_4",
    "hunyuan_v1_dense": "hunyuan.HUNYUAN_DENSE",
    "jamba": "jamba.JAMBA",
    "jina_embeddings_v3": "nomic_bert.JINA_BERT_V3",
    "lfm2": "lfm2.LFM2",
    "lfm2_moe": "lfm2.LFM2_MOE",
    "lfm2_vl": "lfm2.LFM2",
    "llama": "llama.LLAMA",
    "mamba": "mamba.MAMBA",
    "mamba2": "mamba.MAMBA2",
    "mistral": "llama.MISTRAL",
    "mixtral": "llama.MIXTRAL",
    "modernbert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "mt5": "t5.MT5",
    "nemotron": "nemotron.NEMOTRON",
    "nemotron_h": "nemotron_h.NEMOTRON_H",
    "nomic_bert": "nomic_bert.NOMIC_BERT",
    "olmo2": "olmo.OLMO2",
    "olmo3": "olmo.OLMO3",
    "phi": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen3_5": "qwen_next.QWEN3_5",
    "qwen3_5_moe": "qwen_next.QWEN3_5_MOE",
    "qwen3_5_moe_text": "qwen_next.QWEN3_5_MOE",
    "qwen3_5_text": "qwen_next.QWEN3_5",
    "qwen3_moe": "qwen.QWEN3_MOE",
    "qwen3_next": "qwen_next.QWEN3_NEXT",
    "roberta": "roberta.ROBERTA",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "stablelm": "stablelm.STABLELM",
    "starcoder2": "starcoder.STARCODER2",
    "t5": "t5.T5",
    "umt5": "t5.UMT5",
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
    "eurobert": "eurobert.EUROBERT",
    "exaone4": "exaone.EXAONE4",
    "falcon": "falcon.FALCON",
    "falcon-h1": "falcon_h1.FALCON_H1",
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "glm4": "glm.GLM4",
    "gpt2": "gpt2.GPT2",
    "gptneox": "gptneox.GPTNEOX",
    "granite": "granite.GRANITE",
    "granitehybrid": "granite_hybrid.GRANITE_HYBRID",
    "hunyuan-dense": "hunyuan.HUNYUAN_DENSE",
    "jamba": "jamba.JAMBA",
    "jina-bert-v3": "nomic_bert.JINA_BERT_V3",
    "lfm2": "lfm2.LFM2",
    "lfm2moe": "lfm2.LFM2_MOE",
    "llama": "llama.LLAMA",
    "mamba": "mamba.MAMBA",
    "mamba2": "mamba.MAMBA2",
    "modern-bert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "nemotron": "nemotron.NEMOTRON",
    "nemotron_h": "nemotron_h.NEMOTRON_H",
    "nemotron_h_moe": "nemotron_h.NEMOTRON_H_MOE",
    "nomic-bert": "nomic_bert.NOMIC_BERT",
    "olmo2": "olmo.OLMO2",
    "phi2": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen35": "qwen_next.QWEN3_5",
    "qwen35moe": "qwen_next.QWEN3_5_MOE",
    "qwen3moe": "qwen.QWEN3_MOE",
    "qwen3next": "qwen_next.QWEN3_NEXT",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "stablelm": "stablelm.STABLELM",
    "starcoder2": "starcoder.STARCODER2",
    "t5": "t5.T5",
    "t5encoder": "t5.T5_ENCODER",
}
"""`general.architecture` of a GGUF file; llama is also what Mistral becomes."""

GGUF_WITH_EXPERTS = {"llama": "llama.MIXTRAL"}
"""The same, for files with experts, where that is another table."""


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
            return _table(tables[name])
    raise UsageError("give a class name, a model type or a GGUF name", code="no-name")


def of_gguf(metadata: Mapping[str, Any]) -> Architecture:
    """The table for a GGUF file, by its metadata.

    >>> of_gguf({"general.architecture": "llama", "llama.expert_count": 8}).hf
    ('MixtralForCausalLM',)
    """
    name = str(metadata.get("general.architecture"))
    if metadata.get(f"{name}.expert_count") and name in GGUF_WITH_EXPERTS:
        return _table(GGUF_WITH_EXPERTS[name])
    return find(gguf=name)


def _table(place: str) -> Architecture:
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
