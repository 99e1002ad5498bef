"""Architectures as tables: the literal registry of class names, model types and GGUF names.

Tables are imported when they are asked for. A new family is one file and its lines here (docs/architectures.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from modelfmt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from modelfmt.archs.table import Architecture

__all__ = [
    "ANOTHER_MODEL",
    "BORROWED",
    "DRAFTERS",
    "GGUF",
    "GGUF_OTHERS",
    "GRAPHS",
    "GRAPH_TYPES",
    "HUGGING_FACE",
    "MODEL_TYPES",
    "Other",
    "find",
    "load",
    "of_gguf",
    "of_graph",
    "places",
]


class Other(NamedTuple):
    """Another table for some files of a GGUF name, by what is in them.

    there, lacking: a key behind the architecture's name, or a tensor (`*.weight`). value: that the key has; without one
    it is not 0.
    """

    table: str
    there: str = ""
    value: Any = None
    lacking: str = ""

    def fits(self, name: str, metadata: Mapping[str, Any], tensors: Collection[str] | None) -> bool:
        place = self.there or self.lacking
        if place.endswith(".weight"):
            return tensors is not None and (place in tensors) == bool(self.there)
        found = metadata.get(f"{name}.{place}")
        if self.lacking:
            return found is None
        return bool(found) if self.value is None else found == self.value


HUGGING_FACE = {
    "AfmoeForCausalLM": "afmoe.AFMOE",
    "Apertus1p5TextForCausalLM": "apertus.APERTUS_1_5",
    "ApertusForCausalLM": "apertus.APERTUS",
    "ArceeForCausalLM": "arcee.ARCEE",
    "AriaTextForCausalLM": "granite.ARIA",
    "BailingHybridForCausalLM": "bailing.LING3",
    "BailingMoeV3ForCausalLM": "bailing.LING3",
    "BambaForCausalLM": "granite_hybrid.BAMBA",
    "BertForMaskedLM": "bert.BERT",
    "BertForPreTraining": "bert.BERT",
    "BertModel": "bert.BERT",
    "BitNetForCausalLM": "bitnet.BITNET",
    "BitnetForCausalLM": "bitnet.BITNET",
    "BloomForCausalLM": "bloom.BLOOM",
    "BloomModel": "bloom.BLOOM",
    "CamembertForMaskedLM": "roberta.CAMEMBERT",
    "CamembertModel": "roberta.CAMEMBERT",
    "ChameleonForCausalLM": "chameleon.CHAMELEON",
    "ChameleonForConditionalGeneration": "chameleon.CHAMELEON",
    "Cohere2ForCausalLM": "cohere.COHERE2",
    "Cohere2MoeForCausalLM": "cohere.COHERE2_MOE",
    "CohereForCausalLM": "cohere.COHERE",
    "CwmForCausalLM": "llama.CWM",
    "DbrxForCausalLM": "dbrx.DBRX",
    "DeepseekV2ForCausalLM": "deepseek.DEEPSEEK2",
    "DeepseekV32ForCausalLM": "dsa.DEEPSEEK32",
    "DeepseekV3ForCausalLM": "deepseek.DEEPSEEK3",
    "DeepseekV4ForCausalLM": "deepseek4.DEEPSEEK4",
    "DistilBertForMaskedLM": "roberta.DISTILBERT",
    "DistilBertModel": "roberta.DISTILBERT",
    "Dots1ForCausalLM": "dots.DOTS1",
    "Dots3NoteForCausalLM": "dots3.DOTS3_NOTE",
    "Dots3NoteTextForCausalLM": "dots3.DOTS3_NOTE",
    "EmbeddingGemma2Model": "embedding_gemma2.EMBEDDING_GEMMA2",
    "EmbeddingGemma2TextModel": "embedding_gemma2.EMBEDDING_GEMMA2",
    "Ernie4_5ForCausalLM": "ernie.ERNIE4_5",
    "Ernie4_5_ForCausalLM": "ernie.ERNIE4_5",
    "Ernie4_5_MoeForCausalLM": "ernie.ERNIE4_5_MOE",
    "EuroBertForMaskedLM": "eurobert.EUROBERT",
    "EuroBertModel": "eurobert.EUROBERT",
    "Exaone4ForCausalLM": "exaone.EXAONE4",
    "ExaoneForCausalLM": "exaone.EXAONE",
    "ExaoneMoEForCausalLM": "exaone.EXAONE_MOE",
    "ExaoneMoeForCausalLM": "exaone.EXAONE_MOE",
    "FalconForCausalLM": "falcon.FALCON",
    "FalconH1ForCausalLM": "falcon_h1.FALCON_H1",
    "FalconMambaForCausalLM": "mamba.FALCON_MAMBA",
    "FalconModel": "falcon.FALCON",
    "GPT2LMHeadModel": "gpt2.GPT2",
    "GPT2Model": "gpt2.GPT2",
    "GPTBigCodeForCausalLM": "starcoder.STARCODER",
    "GPTNeoXForCausalLM": "gptneox.GPTNEOX",
    "GPTNeoXModel": "gptneox.GPTNEOX",
    "Gemma2ForCausalLM": "gemma.GEMMA2",
    "Gemma3ForCausalLM": "gemma.GEMMA3",
    "Gemma3TextModel": "gemma.GEMMA_EMBEDDING",
    "Gemma3nForCausalLM": "gemma3n.GEMMA3N",
    "Gemma4ForCausalLM": "gemma4.GEMMA4",
    "Gemma4UnifiedForCausalLM": "gemma4.GEMMA4_UNIFIED",
    "GemmaForCausalLM": "gemma.GEMMA",
    "Glm4ForCausalLM": "glm.GLM4",
    "Glm4MoeForCausalLM": "glm.GLM4_MOE",
    "Glm4MoeLiteForCausalLM": "deepseek.GLM4_MOE_LITE",
    "Glm5NextForCausalLM": "glm5_next.GLM5_NEXT",
    "GlmForCausalLM": "glm.GLM",
    "GlmMoeDsaForCausalLM": "dsa.GLM_DSA",
    "GptOssForCausalLM": "gpt_oss.GPT_OSS",
    "GraniteForCausalLM": "granite.GRANITE",
    "GraniteMoeForCausalLM": "granite.GRANITE_MOE",
    "GraniteMoeHybridForCausalLM": "granite_hybrid.GRANITE_4",
    "GraniteMoeSWAForCausalLM": "granite.GRANITE_MOE_SWA",
    "GraniteMoeSharedForCausalLM": "granite.GRANITE_MOE_SHARED",
    "GraniteSWAForCausalLM": "granite.GRANITE_SWA",
    "HYV3ForCausalLM": "hunyuan.HY3",
    "HYV4ForCausalLM": "hy_v4.HY4",
    "HrmTextForCausalLM": "hrm.HRM_TEXT",
    "HunYuanDenseV1ForCausalLM": "hunyuan.HUNYUAN_DENSE",
    "HunYuanMoEV1ForCausalLM": "hunyuan.HUNYUAN_MOE",
    "HunYuanVLForConditionalGeneration": "hunyuan.HUNYUAN_VL",
    "HyperCLOVAXForCausalLM": "granite.HYPERCLOVAX",
    "IQuestCoderForCausalLM": "llama.IQUEST_CODER",
    "InternLM3ForCausalLM": "llama.INTERNLM3",
    "Jais2ForCausalLM": "jais.JAIS2",
    "JambaForCausalLM": "jamba.JAMBA",
    "JinaEmbeddingsV3ForMaskedLM": "nomic_bert.JINA_BERT_V3",
    "JinaEmbeddingsV3Model": "nomic_bert.JINA_BERT_V3",
    "KimiLinearForCausalLM": "kimi_linear.KIMI_LINEAR",
    "LFM2ForCausalLM": "lfm2.LFM2",
    "LLaMAForCausalLM": "llama.LLAMA",
    "LagunaForCausalLM": "laguna.LAGUNA",
    "Lfm2ForCausalLM": "lfm2.LFM2",
    "Lfm2MoeForCausalLM": "lfm2.LFM2_MOE",
    "Llama4ForCausalLM": "llama4.LLAMA4",
    "LlamaForCausalLM": "llama.LLAMA",
    "LlamaModel": "llama.LLAMA",
    "MPTForCausalLM": "mpt.MPT",
    "MT5EncoderModel": "t5.MT5_ENCODER",
    "MT5ForConditionalGeneration": "t5.MT5",
    "Mamba2ForCausalLM": "mamba.MAMBA2",
    "MambaForCausalLM": "mamba.MAMBA",
    "MambaLMHeadModel": "mamba.MAMBA",
    "MellumForCausalLM": "mellum.MELLUM",
    "MiMoV2FlashForCausalLM": "mimo.MIMO2",
    "MiniCPM3ForCausalLM": "minicpm.MINICPM3",
    "MiniMaxForCausalLM": "minimax.MINIMAX_01",
    "MiniMaxM2ForCausalLM": "minimax.MINIMAX_M2",
    "MiniMaxM3ForCausalLM": "minimax.MINIMAX_M3",
    "MiniMaxM3SparseForCausalLM": "minimax.MINIMAX_M3",
    "MiniMaxM3VLForCausalLM": "minimax.MINIMAX_M3",
    "Ministral3ForCausalLM": "llama.MINISTRAL3",
    "MinistralForCausalLM": "llama.MINISTRAL",
    "Mistral3ForConditionalGeneration": "llama.MISTRAL3",
    "Mistral4ForCausalLM": "deepseek.MISTRAL4",
    "MistralForCausalLM": "llama.MISTRAL",
    "MistralModel": "llama.MISTRAL",
    "MixtralForCausalLM": "llama.MIXTRAL",
    "ModernBertForMaskedLM": "modernbert.MODERNBERT",
    "ModernBertModel": "modernbert.MODERNBERT",
    "MptForCausalLM": "mpt.MPT",
    "MptModel": "mpt.MPT",
    "MuseGlimmerForConditionalGeneration": "muse.MUSE_GLIMMER",
    "NemotronForCausalLM": "nemotron.NEMOTRON",
    "NemotronHForCausalLM": "nemotron_h.NEMOTRON_H",
    "NomicBertForMaskedLM": "nomic_bert.NOMIC_BERT",
    "NomicBertModel": "nomic_bert.NOMIC_BERT",
    "Olmo2ForCausalLM": "olmo.OLMO2",
    "Olmo3ForCausalLM": "olmo.OLMO3",
    "OlmoForCausalLM": "olmo.OLMO",
    "OlmoeForCausalLM": "olmo.OLMOE",
    "PaddleOCRVLForConditionalGeneration": "ernie.PADDLE_OCR",
    "Phi3ForCausalLM": "phi.PHI3",
    "PhiForCausalLM": "phi.PHI2",
    "Qwen2ForCausalLM": "qwen.QWEN2",
    "Qwen2Model": "qwen.QWEN2",
    "Qwen2MoeForCausalLM": "qwen.QWEN2_MOE",
    "Qwen2VLForConditionalGeneration": "qwen_vl.QWEN2_VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen_vl.QWEN2_VL",
    "Qwen3ForCausalLM": "qwen.QWEN3",
    "Qwen3Model": "qwen.QWEN3",
    "Qwen3MoeForCausalLM": "qwen.QWEN3_MOE",
    "Qwen3NextForCausalLM": "qwen_next.QWEN3_NEXT",
    "Qwen3VLForConditionalGeneration": "qwen_vl.QWEN3_VL",
    "Qwen3VLMoeForConditionalGeneration": "qwen_vl.QWEN3_VL_MOE",
    "Qwen3_5ForCausalLM": "qwen_next.QWEN3_5",
    "Qwen3_5MoeForCausalLM": "qwen_next.QWEN3_5_MOE",
    "Qwen4ExpForCausalLM": "qwen4.QWEN4_EXP",
    "RWForCausalLM": "falcon.FALCON",
    "RobertaForMaskedLM": "roberta.ROBERTA",
    "RobertaModel": "roberta.ROBERTA",
    "SarvamMLAForCausalLM": "deepseek.SARVAM_MLA",
    "SarvamMoEForCausalLM": "bailing.SARVAM_MOE",
    "SeedOssForCausalLM": "seed_oss.SEED_OSS",
    "SmolLM3ForCausalLM": "smollm3.SMOLLM3",
    "SolarOpenForCausalLM": "glm.SOLAR_OPEN",
    "StableLMEpochForCausalLM": "stablelm.STABLELM",
    "StableLmForCausalLM": "stablelm.STABLELM",
    "Starcoder2ForCausalLM": "starcoder.STARCODER2",
    "Step3p5ForCausalLM": "step.STEP3_7",
    "Step3p7ForConditionalGeneration": "step.STEP3_7",
    "T5EncoderModel": "t5.T5_ENCODER",
    "T5ForConditionalGeneration": "t5.T5",
    "T5WithLMHeadModel": "t5.T5",
    "UMT5EncoderModel": "t5.UMT5_ENCODER",
    "UMT5ForConditionalGeneration": "t5.UMT5",
    "XLMRobertaForMaskedLM": "roberta.XLM_ROBERTA",
    "XLMRobertaModel": "roberta.XLM_ROBERTA",
    "YoutuForCausalLM": "deepseek.YOUTU",
}
"""Class names, as `architectures` in config.json has them."""

MODEL_TYPES = {
    "afmoe": "afmoe.AFMOE",
    "apertus": "apertus.APERTUS",
    "apertus1p5_text": "apertus.APERTUS_1_5",
    "arcee": "arcee.ARCEE",
    "aria_text": "granite.ARIA",
    "bailing_hybrid": "bailing.LING3",
    "bamba": "granite_hybrid.BAMBA",
    "bert": "bert.BERT",
    "bitnet": "bitnet.BITNET",
    "bloom": "bloom.BLOOM",
    "camembert": "roberta.CAMEMBERT",
    "chameleon": "chameleon.CHAMELEON",
    "cohere": "cohere.COHERE",
    "cohere2": "cohere.COHERE2",
    "cohere2_moe": "cohere.COHERE2_MOE",
    "cwm": "llama.CWM",
    "dbrx": "dbrx.DBRX",
    "deepseek_v2": "deepseek.DEEPSEEK2",
    "deepseek_v3": "deepseek.DEEPSEEK3",
    "deepseek_v32": "dsa.DEEPSEEK32",
    "deepseek_v4": "deepseek4.DEEPSEEK4",
    "distilbert": "roberta.DISTILBERT",
    "dots1": "dots.DOTS1",
    "dots3_note_text": "dots3.DOTS3_NOTE",
    "embedding_gemma2": "embedding_gemma2.EMBEDDING_GEMMA2",
    "embedding_gemma2_text": "embedding_gemma2.EMBEDDING_GEMMA2",
    "ernie4_5": "ernie.ERNIE4_5",
    "ernie4_5_moe": "ernie.ERNIE4_5_MOE",
    "eurobert": "eurobert.EUROBERT",
    "exaone": "exaone.EXAONE",
    "exaone4": "exaone.EXAONE4",
    "exaone_moe": "exaone.EXAONE_MOE",
    "falcon": "falcon.FALCON",
    "falcon_h1": "falcon_h1.FALCON_H1",
    "falcon_mamba": "mamba.FALCON_MAMBA",
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma.GEMMA2",
    "gemma3_text": "gemma.GEMMA3",
    "gemma3n_text": "gemma3n.GEMMA3N",
    "gemma4_text": "gemma4.GEMMA4",
    "gemma4_unified_text": "gemma4.GEMMA4_UNIFIED",
    "glm": "glm.GLM",
    "glm4": "glm.GLM4",
    "glm4_moe": "glm.GLM4_MOE",
    "glm4_moe_lite": "deepseek.GLM4_MOE_LITE",
    "glm5_next_text": "glm5_next.GLM5_NEXT",
    "glm_moe_dsa": "dsa.GLM_DSA",
    "gpt2": "gpt2.GPT2",
    "gpt_bigcode": "starcoder.STARCODER",
    "gpt_neox": "gptneox.GPTNEOX",
    "gpt_oss": "gpt_oss.GPT_OSS",
    "granite": "granite.GRANITE",
    "granite_swa": "granite.GRANITE_SWA",
    "granitemoe": "granite.GRANITE_MOE",
    "granitemoe_swa": "granite.GRANITE_MOE_SWA",
    "granitemoehybrid": "granite_hybrid.GRANITE_4",
    "granitemoeshared": "granite.GRANITE_MOE_SHARED",
    "hrm_text": "hrm.HRM_TEXT",
    "hunyuan_v1_dense": "hunyuan.HUNYUAN_DENSE",
    "hunyuan_v1_moe": "hunyuan.HUNYUAN_MOE",
    "hunyuan_vl_text": "hunyuan.HUNYUAN_VL",
    "hy_v3": "hunyuan.HY3",
    "hy_v4": "hy_v4.HY4",
    "hyperclovax": "granite.HYPERCLOVAX",
    "internlm3": "llama.INTERNLM3",
    "iquestcoder": "llama.IQUEST_CODER",
    "jais2": "jais.JAIS2",
    "jamba": "jamba.JAMBA",
    "jina_embeddings_v3": "nomic_bert.JINA_BERT_V3",
    "kimi_linear": "kimi_linear.KIMI_LINEAR",
    "laguna": "laguna.LAGUNA",
    "lfm2": "lfm2.LFM2",
    "lfm2_moe": "lfm2.LFM2_MOE",
    "llama": "llama.LLAMA",
    "llama4_text": "llama4.LLAMA4",
    "mamba": "mamba.MAMBA",
    "mamba2": "mamba.MAMBA2",
    "mellum": "mellum.MELLUM",
    "mimo_v2_flash": "mimo.MIMO2",
    "minicpm3": "minicpm.MINICPM3",
    "minimax": "minimax.MINIMAX_01",
    "minimax_m2": "minimax.MINIMAX_M2",
    "minimax_m3_vl_text": "minimax.MINIMAX_M3",
    "ministral": "llama.MINISTRAL",
    "ministral3": "llama.MINISTRAL3",
    "mistral": "llama.MISTRAL",
    "mistral3": "llama.MISTRAL3",
    "mistral4": "deepseek.MISTRAL4",
    "mixtral": "llama.MIXTRAL",
    "modernbert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "mt5": "t5.MT5",
    "muse_glimmer": "muse.MUSE_GLIMMER",
    "muse_glimmer_text": "muse.MUSE_GLIMMER",
    "nemotron": "nemotron.NEMOTRON",
    "nemotron_h": "nemotron_h.NEMOTRON_H",
    "nomic_bert": "nomic_bert.NOMIC_BERT",
    "olmo": "olmo.OLMO",
    "olmo2": "olmo.OLMO2",
    "olmo3": "olmo.OLMO3",
    "olmoe": "olmo.OLMOE",
    "paddleocr_vl_text": "ernie.PADDLE_OCR",
    "phi": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen2_5_vl": "qwen_vl.QWEN2_VL",
    "qwen2_5_vl_text": "qwen_vl.QWEN2_VL",
    "qwen2_moe": "qwen.QWEN2_MOE",
    "qwen2_vl": "qwen_vl.QWEN2_VL",
    "qwen2_vl_text": "qwen_vl.QWEN2_VL",
    "qwen3": "qwen.QWEN3",
    "qwen3_5_moe_text": "qwen_next.QWEN3_5_MOE",
    "qwen3_5_text": "qwen_next.QWEN3_5",
    "qwen3_moe": "qwen.QWEN3_MOE",
    "qwen3_next": "qwen_next.QWEN3_NEXT",
    "qwen3_vl": "qwen_vl.QWEN3_VL",
    "qwen3_vl_moe": "qwen_vl.QWEN3_VL_MOE",
    "qwen3_vl_moe_text": "qwen_vl.QWEN3_VL_MOE",
    "qwen3_vl_text": "qwen_vl.QWEN3_VL",
    "qwen4_exp_text": "qwen4.QWEN4_EXP",
    "roberta": "roberta.ROBERTA",
    "sarvam_mla": "deepseek.SARVAM_MLA",
    "sarvam_moe": "bailing.SARVAM_MOE",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "solar_open": "glm.SOLAR_OPEN",
    "stablelm": "stablelm.STABLELM",
    "starcoder2": "starcoder.STARCODER2",
    "step3p5": "step.STEP3_7",
    "step3p7": "step.STEP3_7",
    "t5": "t5.T5",
    "umt5": "t5.UMT5",
    "xlm-roberta": "roberta.XLM_ROBERTA",
    "youtu": "deepseek.YOUTU",
}
"""`model_type` of config.json."""

GGUF = {
    "afmoe": "afmoe.AFMOE",
    "apertus": "apertus.APERTUS",
    "arcee": "arcee.ARCEE",
    "bailingmoe2": "bailing.SARVAM_MOE",
    "bailingmoe3": "bailing.LING3",
    "bert": "bert.BERT",
    "bitnet": "bitnet.BITNET",
    "bloom": "bloom.BLOOM",
    "chameleon": "chameleon.CHAMELEON",
    "chatglm": "glm.GLM",
    "cohere2": "cohere.COHERE2",
    "cohere2moe": "cohere.COHERE2_MOE",
    "command-r": "cohere.COHERE",
    "dbrx": "dbrx.DBRX",
    "deepseek2": "deepseek.DEEPSEEK2",
    "deepseek32": "dsa.DEEPSEEK32",
    "deepseek4": "deepseek4.DEEPSEEK4",
    "dots1": "dots.DOTS1",
    "dots3note": "dots3.DOTS3_NOTE",
    "ernie4_5": "ernie.ERNIE4_5",
    "ernie4_5-moe": "ernie.ERNIE4_5_MOE",
    "eurobert": "eurobert.EUROBERT",
    "exaone": "exaone.EXAONE",
    "exaone-moe": "exaone.EXAONE_MOE",
    "exaone4": "exaone.EXAONE4",
    "falcon": "falcon.FALCON",
    "falcon-h1": "falcon_h1.FALCON_H1",
    "gemma": "gemma.GEMMA",
    "gemma-embedding": "gemma.GEMMA_EMBEDDING",
    "gemma-embedding2": "embedding_gemma2.EMBEDDING_GEMMA2",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "gemma3n": "gemma3n.GEMMA3N",
    "gemma4": "gemma4.GEMMA4",
    "glm-dsa": "dsa.GLM_DSA",
    "glm4": "glm.GLM4",
    "glm4moe": "glm.GLM4_MOE",
    "glm5-next": "glm5_next.GLM5_NEXT",
    "gpt-oss": "gpt_oss.GPT_OSS",
    "gpt2": "gpt2.GPT2",
    "gptneox": "gptneox.GPTNEOX",
    "granite": "granite.GRANITE",
    "granite_swa": "granite.GRANITE_SWA",
    "granitehybrid": "granite_hybrid.GRANITE_HYBRID",
    "granitemoe": "granite.GRANITE_MOE",
    "hrm_text": "hrm.HRM_TEXT",
    "hunyuan-dense": "hunyuan.HUNYUAN_DENSE",
    "hunyuan-moe": "hunyuan.HUNYUAN_MOE",
    "hunyuan_vl": "hunyuan.HUNYUAN_VL",
    "hy_v3": "hunyuan.HY3",
    "hy_v4": "hy_v4.HY4",
    "jais2": "jais.JAIS2",
    "jamba": "jamba.JAMBA",
    "jina-bert-v3": "nomic_bert.JINA_BERT_V3",
    "kimi-linear": "kimi_linear.KIMI_LINEAR",
    "laguna": "laguna.LAGUNA",
    "lfm2": "lfm2.LFM2",
    "lfm2moe": "lfm2.LFM2_MOE",
    "llama": "llama.LLAMA",
    "llama4": "llama4.LLAMA4",
    "mamba": "mamba.MAMBA",
    "mamba2": "mamba.MAMBA2",
    "mellum": "mellum.MELLUM",
    "mimo2": "mimo.MIMO2",
    "minicpm3": "minicpm.MINICPM3",
    "minimax-01": "minimax.MINIMAX_01",
    "minimax-m2": "minimax.MINIMAX_M2",
    "minimax-m3": "minimax.MINIMAX_M3",
    "mistral3": "llama.MISTRAL3",
    "mistral4": "deepseek.MISTRAL4",
    "modern-bert": "modernbert.MODERNBERT",
    "mpt": "mpt.MPT",
    "muse-glimmer": "muse.MUSE_GLIMMER",
    "nemotron": "nemotron.NEMOTRON",
    "nemotron_h": "nemotron_h.NEMOTRON_H",
    "nemotron_h_moe": "nemotron_h.NEMOTRON_H_MOE",
    "nomic-bert": "nomic_bert.NOMIC_BERT",
    "olmo": "olmo.OLMO",
    "olmo2": "olmo.OLMO2",
    "olmoe": "olmo.OLMOE",
    "paddleocr": "ernie.PADDLE_OCR",
    "phi2": "phi.PHI2",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen2moe": "qwen.QWEN2_MOE",
    "qwen2vl": "qwen_vl.QWEN2_VL",
    "qwen3": "qwen.QWEN3",
    "qwen35": "qwen_next.QWEN3_5",
    "qwen35moe": "qwen_next.QWEN3_5_MOE",
    "qwen3moe": "qwen.QWEN3_MOE",
    "qwen3next": "qwen_next.QWEN3_NEXT",
    "qwen3vl": "qwen_vl.QWEN3_VL",
    "qwen3vlmoe": "qwen_vl.QWEN3_VL_MOE",
    "qwen4exp": "qwen4.QWEN4_EXP",
    "seed_oss": "seed_oss.SEED_OSS",
    "smollm3": "smollm3.SMOLLM3",
    "stablelm": "stablelm.STABLELM",
    "starcoder": "starcoder.STARCODER",
    "starcoder2": "starcoder.STARCODER2",
    "step35": "step.STEP3_7",
    "t5": "t5.T5",
    "t5encoder": "t5.T5_ENCODER",
}
"""`general.architecture` of a GGUF file; llama is also what Mistral becomes."""

GGUF_OTHERS = {
    "bert": (Other("roberta.DISTILBERT", lacking="token_types.weight"),),
    "deepseek2": (
        Other("deepseek.YOUTU", lacking="expert_count"),
        Other("deepseek.DEEPSEEK3", there="expert_gating_func", value=2),
    ),
    "glm4": (Other("glm.GLM4V", there="rope.dimension_sections"),),
    "granite": (Other("granite_hybrid.GRANITE_4", there="rope.scaling.finetuned", value=False),),
    "granite_swa": (Other("granite.GRANITE_MOE_SWA", there="expert_count"),),
    "granitehybrid": (Other("granite_hybrid.BAMBA", lacking="embedding_scale"),),
    "granitemoe": (
        Other("granite.ARIA", lacking="attention.scale"),
        Other("granite_hybrid.GRANITE_4_MOE", there="rope.scaling.finetuned", value=False),
        Other("granite.GRANITE_MOE_SHARED", there="expert_shared_feed_forward_length"),
    ),
    "llama": (Other("llama.MIXTRAL", there="expert_count"),),
    "mamba": (Other("mamba.FALCON_MAMBA", there="ssm.dt_b_c_rms"),),
    "mistral3": (Other("llama.MINISTRAL3", there="attention.temperature_scale"),),
    "olmo2": (Other("olmo.OLMO3", there="attention.sliding_window"),),
    "qwen4exp": (Other("qwen4.QWEN4_EXP_NGRAMS", there="ple.layers"),),
    "t5": (Other("t5.UMT5", there="enc.blk.1.attn_rel_b.weight"),),
    "t5encoder": (Other("t5.UMT5_ENCODER", there="enc.blk.1.attn_rel_b.weight"),),
}
"""The same, for files that are known by more than the name: the first that fits."""

BORROWED = {
    "exaone": "ExaoneForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "iquestcoder": "IQuestCoderForCausalLM",
    "sarvam_mla": "SarvamMLAForCausalLM",
    "sarvam_moe": "SarvamMoEForCausalLM",
}
"""Model types that transformers computes with another's class, which it writes into config.json: the type decides."""

GRAPHS = {
    "CLIPModel": "clip.CLIP",
    "CLIPTextModel": "clip.CLIP_TEXT",
    "CLIPTextModelWithProjection": "clip.CLIP_TEXT",
    "CLIPVisionModel": "clip.CLIP_VISION",
    "CLIPVisionModelWithProjection": "clip.CLIP_VISION",
    "ViTForImageClassification": "vit.VIT",
    "ViTModel": "vit.VIT",
    "WhisperForConditionalGeneration": "whisper.WHISPER",
}
"""Class names of tables that are for compute graphs alone: GGUF has no architecture for these."""

GRAPH_TYPES = {
    "clip": "clip.CLIP",
    "clip_text_model": "clip.CLIP_TEXT",
    "clip_vision_model": "clip.CLIP_VISION",
    "vit": "vit.VIT",
    "whisper": "whisper.WHISPER",
}
"""Model types of the same."""

_PHIMOE = "its phimoe graph has root-mean-square norms and a plain softmax, the model has layer norms and SparseMixer"
ANOTHER_MODEL = {"PhiMoEForCausalLM": _PHIMOE, "PhimoeForCausalLM": _PHIMOE, "phimoe": _PHIMOE}
"""Classes, model types and GGUF names that have no table, and why."""

_DRAFTS = "it reads hidden states, keys and values of the model that it drafts for; llama.cpp runs it beside that only"
DRAFTERS = dict.fromkeys(
    (
        "Gemma4AssistantForCausalLM",
        "Gemma4UnifiedAssistantForCausalLM",
        "MuseGlimmerAssistantModel",
        "gemma4-assistant",
        "gemma4_assistant",
        "gemma4_unified_assistant",
        "muse_glimmer_assistant",
    ),
    _DRAFTS,
)
"""The same of models that are none by themselves."""

_WITHOUT = (
    (ANOTHER_MODEL, "llama.cpp computes another model than this architecture"),
    (DRAFTERS, "this model drafts tokens for another one, and cannot run by itself"),
)


def places() -> tuple[str, ...]:
    """Every table of the registry: "family.TABLE"."""
    others = (other.table for others in GGUF_OTHERS.values() for other in others)
    return tuple(sorted({*HUGGING_FACE.values(), *GGUF.values(), *others}))


def find(
    hf_class: str | None = None,
    model_type: str | None = None,
    gguf: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> Architecture:
    """The table for a class name, else for a model type, else for a GGUF name: the first one given decides, but for the
    types of BORROWED. config: config.json, which says what language model is inside a multimodal class.

    Raises UnsupportedError (unsupported-architecture) with the nearest known names.

    >>> find("Qwen3ForCausalLM").gguf
    'qwen3'
    >>> find("LlavaForConditionalGeneration", config={"text_config": {"model_type": "qwen2"}}).gguf
    'qwen2'
    """
    if hf_class is not None and model_type is not None:
        hf_class = BORROWED.get(model_type, hf_class)
    for name, tables in ((hf_class, HUGGING_FACE), (model_type, MODEL_TYPES), (gguf, GGUF)):
        if name is not None:
            _refuse(name)
            if tables is not GGUF and (inside := _inside(name, config or {})) is not None:
                return inside
            if name not in tables:
                raise _unknown(name, tables)
            return load(tables[name])
    raise UsageError("give a class name, a model type or a GGUF name", code="no-name")


def _inside(name: str, config: Mapping[str, Any]) -> Architecture | None:
    """The table of the language model inside a multimodal class, or the class of a type; None for others."""
    from modelfmt.archs import multimodal
    from modelfmt.archs.values import language, text

    outer = multimodal.TYPES.get(name, name)
    row = multimodal.MULTIMODAL.get(outer)
    if row is None:
        return None
    kind = text(language(config).get("model_type", row.text), "model_type")
    _refuse(kind)
    place = dict(row.tables).get(kind) or multimodal.TEXTS.get(kind) or MODEL_TYPES.get(kind)
    if place is None:
        raise UnsupportedError(
            "there is no table for the language model inside this model",
            code="unsupported-architecture",
            found=f"{outer} with {kind}",
            hint="docs/architectures.md says how to add one",
        )
    return multimodal.around(load(place), outer, kind)


def _refuse(name: object) -> None:
    """Raise where a name has no table, and why is known."""
    for reasons, message in _WITHOUT:
        if name in reasons:
            raise UnsupportedError(message, code="unsupported-architecture", found=name, hint=reasons[str(name)])


def of_graph(hf_class: str | None, model_type: str | None, config: Mapping[str, Any] | None = None) -> Architecture:
    """The table that a compute graph is made from: that of `find`, or one that is for graphs alone.

    >>> of_graph("ViTModel", "vit").model_type
    ('vit',)
    """
    place = GRAPHS.get(hf_class or "") or (GRAPH_TYPES.get(model_type or "") if hf_class is None else None)
    return load(place) if place else find(hf_class=hf_class, model_type=model_type, config=config)


def of_gguf(metadata: Mapping[str, Any], tensors: Collection[str] | None = None) -> Architecture:
    """The table for a GGUF file, by its metadata and the names of its tensors.

    >>> of_gguf({"general.architecture": "llama", "llama.expert_count": 8}).hf
    ('MixtralForCausalLM',)
    """
    name = str(metadata.get("general.architecture"))
    for other in GGUF_OTHERS.get(name, ()):
        if other.fits(name, metadata, tensors):
            return load(other.table)
    return find(gguf=name)


def load(place: str) -> Architecture:
    """The table at a place of the registry, such as "qwen.QWEN3"."""
    module, _, name = place.partition(".")
    found: Architecture = getattr(import_module(f"{__name__}.{module}"), name)
    return found


def _unknown(name: str, tables: dict[str, str]) -> UnsupportedError:
    from difflib import get_close_matches

    if name in GRAPHS or name in GRAPH_TYPES:
        return UnsupportedError(
            "GGUF has no architecture for this model",
            code="unsupported-architecture",
            found=name,
            hint="it becomes ONNX: convert it to a folder with --to onnx",
        )
    from modelfmt.archs.multimodal import WITHOUT

    if name in WITHOUT:
        return UnsupportedError(
            "there is no table for the language model of this model",
            code="unsupported-architecture",
            found=name,
            hint=WITHOUT[name],
        )
    near = get_close_matches(name, tables, n=4, cutoff=0.5)
    return UnsupportedError(
        "there is no table for this architecture",
        code="unsupported-architecture",
        found=name,
        allowed=f"nearest: {', '.join(near)}" if near else ", ".join(tables),
        hint="docs/architectures.md says how to add one",
    )
