"""Models that see or hear around a language model that a table knows: which, and how their checkpoints call its parts.

Text alone goes through the language model as if there were no towers; these are left out, by name. Checked against the
classes of transformers 5.24 and its conversion_mapping.py (what save_pretrained writes), and llama.cpp
conversion/base.py (November 2026): tests/multimodal_models.py runs them all.

A checkpoint has `language_model.model.` (as transformers 4 wrote it, and most classes of 5 still save it),
`model.language_model.` (as 5 has it in memory), `model.text_model.` (Idefics), names of the language model alone
(Qwen), or a prefix around one of these (`thinker.`, `llm.`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from msgspec.structs import replace

from modelfmt.archs.table import Architecture, Ignore, Loses, Param

__all__ = ["MULTIMODAL", "TEXTS", "TYPES", "WITHOUT", "Multimodal", "around", "beside", "of_tower"]


class Multimodal(NamedTuple):
    """A class around a language model.

    types: of its config.json. text: the type of the language model where config.json does not say. tables: language
    models that have another table here than alone. loses: what the language model does with text here and not alone.
    names: pairs, the beginning or the end of a name in the table, and in some checkpoints of this class. said: params
    that are so in a text, whatever config.json says, and terms.
    """

    types: tuple[str, ...]
    text: str
    tables: tuple[tuple[str, str], ...] = ()
    loses: str = ""
    names: tuple[tuple[str, str], ...] = ()
    said: tuple[tuple[str, str], ...] = ()


_PREFIX = "the tokens of a prompt look at each other in both directions here: llama.cpp's graph looks backwards"

_CAUSAL = (("bidirectional", "0"),)
_DIFFUSERS = (
    *((f".self_attn.{letter}_proj.weight", f".self_attn.to_{letter}.weight") for letter in "qkv"),
    (".self_attn.o_proj.weight", ".self_attn.to_out.weight"),
    (".self_attn.q_norm.weight", ".self_attn.norm_q.weight"),
    (".self_attn.k_norm.weight", ".self_attn.norm_k.weight"),
)
_KIMI = (("model.layers.", "language_model.model.blocks."),)  # transformers 5.24 renames both towers' layers on saving
_QIANFAN = (("model.layers.", "language_model.model.encoder.layers."),)  # and here
_NEMO = (
    ("backbone.embeddings.", "llm.model.embed_tokens."),
    ("backbone.norm_f.", "llm.model.norm."),
    *((f".mixer.{name}", f".mixer._fp32_params.{name}") for name in ("A_log", "D", "dt_bias")),
)

_PHI4 = tuple(  # beside adapters that pictures and sounds go through
    (f".{name}.weight", f".{name}.base_layer.weight") for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
)

MULTIMODAL = {
    "Apertus1p5ForConditionalGeneration": Multimodal(("apertus1p5",), "apertus1p5_text"),
    "AriaForConditionalGeneration": Multimodal(("aria",), "aria_text"),
    "AudioFlamingo3ForConditionalGeneration": Multimodal(("audioflamingo3",), "qwen2"),
    "AyaVisionForConditionalGeneration": Multimodal(("aya_vision",), "cohere2"),
    "Cohere2VisionForConditionalGeneration": Multimodal(("cohere2_vision",), "cohere2"),
    "Cosmos3EdgeForConditionalGeneration": Multimodal(("cosmos3_edge",), "cosmos3_edge_text", names=_DIFFUSERS),
    "Cosmos3OmniForConditionalGeneration": Multimodal(("cosmos3_omni",), "qwen3_vl_text", names=_DIFFUSERS),
    "DeepseekOcr2ForConditionalGeneration": Multimodal(("deepseek_ocr2",), "deepseek_ocr2_text"),
    "DeepseekVLForConditionalGeneration": Multimodal(("deepseek_vl",), "llama"),
    "DeepseekVLHybridForConditionalGeneration": Multimodal(("deepseek_vl_hybrid",), "llama"),
    "Dots3NoteForConditionalGeneration": Multimodal(("dots3_note",), "dots3_note_text"),
    "Emu3ForCausalLM": Multimodal((), "emu3_text_model"),
    "Emu3ForConditionalGeneration": Multimodal(("emu3",), "emu3_text_model"),
    "Ernie4_5_VLMoeForConditionalGeneration": Multimodal(("ernie4_5_vl_moe",), "ernie4_5_vl_moe_text"),
    "Exaone4_5_ForConditionalGeneration": Multimodal(("exaone4_5",), "exaone4"),
    "FastVlmForConditionalGeneration": Multimodal(("fast_vlm",), "qwen2"),
    "FunAsrNanoForConditionalGeneration": Multimodal(("fun_asr_nano",), "qwen3"),
    "Gemma3ForConditionalGeneration": Multimodal(("gemma3",), "gemma3_text"),
    "Gemma3nForConditionalGeneration": Multimodal(("gemma3n",), "gemma3n_text"),
    "Gemma4ForConditionalGeneration": Multimodal(("gemma4",), "gemma4_text"),
    "Gemma4UnifiedForConditionalGeneration": Multimodal(("gemma4_unified",), "gemma4_unified_text"),
    "Glm46VForConditionalGeneration": Multimodal(("glm46v", "glmga"), "glm4v_text"),
    "Glm4vForConditionalGeneration": Multimodal(("glm4v",), "glm4v_text"),
    "Glm4vMoeForConditionalGeneration": Multimodal(("glm4v_moe",), "glm4v_moe_text"),
    "GlmAsrForConditionalGeneration": Multimodal(("glmasr",), "llama"),
    "Glm5NextForConditionalGeneration": Multimodal(("glm5_next",), "glm5_next_text"),
    "GlmOcrForConditionalGeneration": Multimodal(("glm_ocr",), "glm_ocr_text"),
    "GotOcr2ForConditionalGeneration": Multimodal(("got_ocr2", "pp_chart2table"), "qwen2"),
    "Granite4VisionForConditionalGeneration": Multimodal(("granite4_vision",), "granite4_vision_text"),
    "GraniteDoclingForConditionalGeneration": Multimodal(("granite_docling",), "granite_docling_text"),
    "GraniteSpeechForConditionalGeneration": Multimodal(("granite_speech",), "granite"),
    "GraniteSpeechPlusForConditionalGeneration": Multimodal(("granite_speech_plus",), "granite"),
    "HunYuanVLForConditionalGeneration": Multimodal(("hunyuan_vl",), "hunyuan_vl_text"),
    "HyperCLOVAXVisionV2ForConditionalGeneration": Multimodal(("hyperclovax_vision_v2",), "hyperclovax"),
    "Idefics2ForConditionalGeneration": Multimodal(("idefics2",), "mistral"),
    "Idefics3ForConditionalGeneration": Multimodal(("idefics3",), "llama"),
    "InternVLChatModel": Multimodal(("internvl_chat",), "qwen2"),
    "InternVLForConditionalGeneration": Multimodal(("internvl",), "qwen2"),
    "JanusForConditionalGeneration": Multimodal(("janus",), "llama"),
    "KimiK25ForConditionalGeneration": Multimodal((), "deepseek_v3"),
    "KimiVLForConditionalGeneration": Multimodal(("kimi_vl",), "deepseek_v3"),
    "Kimi_K25ForConditionalGeneration": Multimodal(("kimi_k25",), "deepseek_v3", names=_KIMI),
    "Lfm2VlForConditionalGeneration": Multimodal(("lfm2_vl",), "lfm2"),
    "LightOnOCRForConditionalGeneration": Multimodal((), "qwen3"),
    "LightOnOcrForConditionalGeneration": Multimodal(("lighton_ocr",), "qwen3"),
    "Llama4ForConditionalGeneration": Multimodal(("llama4",), "llama4_text"),
    "LlavaForConditionalGeneration": Multimodal(("llava",), "llama"),
    "LlavaNextForConditionalGeneration": Multimodal(("llava_next",), "llama"),
    "LlavaNextVideoForConditionalGeneration": Multimodal(("llava_next_video",), "llama"),
    "LlavaOnevisionForConditionalGeneration": Multimodal(("llava_onevision",), "qwen2"),
    "MiniCPMOcrForConditionalGeneration": Multimodal(("minicpm_ocr",), "qwen3_5_text"),
    "MiniCPMV4_6ForConditionalGeneration": Multimodal(("minicpmv4_6",), "qwen3_5_text"),
    "MiniCPMV4_7ForConditionalGeneration": Multimodal(("minicpmv4_7",), "qwen3_5_text"),
    "MiniMaxM3SparseForConditionalGeneration": Multimodal(("minimax_m3_vl",), "minimax_m3_vl_text"),
    "Mistral3ForConditionalGeneration": Multimodal(("mistral3",), "mistral", (("mistral", "llama.MISTRAL3"),)),
    "MossTranscribeDiarizeForConditionalGeneration": Multimodal(("moss_transcribe_diarize",), "qwen3"),
    "MusicFlamingoForConditionalGeneration": Multimodal(("musicflamingo",), "qwen2"),
    "Nemotron3_5TranscribeForConditionalGeneration": Multimodal(("nemo_speechlm",), "nemotron_h", names=_NEMO),
    "NemotronH_Nano_VL_V2": Multimodal((), "nemotron_h"),
    "NemotronH_Omni_Reasoning_V3": Multimodal(("nemotron_h_omni",), "nemotron_h"),
    "OmniASRForConditionalGeneration": Multimodal(("omniasr",), "llama"),
    "Ovis2ForConditionalGeneration": Multimodal(("ovis2",), "qwen2"),
    "PaddleOCRVLForConditionalGeneration": Multimodal(("paddleocr_vl",), "paddleocr_vl_text"),
    "PaliGemmaForConditionalGeneration": Multimodal(("paligemma",), "gemma", loses=_PREFIX, said=_CAUSAL),
    "PerceptionLMForConditionalGeneration": Multimodal(("perception_lm",), "llama"),
    "Phi4MMForCausalLM": Multimodal(("phi4mm",), "phi3", names=_PHI4),
    "Phi4MultimodalForCausalLM": Multimodal(("phi4_multimodal",), "phi3", names=_PHI4),
    "QianfanOCRForConditionalGeneration": Multimodal(("qianfan_ocr",), "qwen3", names=_QIANFAN),
    "Qwen2AudioForConditionalGeneration": Multimodal(("qwen2_audio",), "qwen2"),
    "Qwen2VLForConditionalGeneration": Multimodal(("qwen2_vl",), "qwen2_vl_text"),
    "Qwen2_5OmniForConditionalGeneration": Multimodal(("qwen2_5_omni",), "qwen2_5_omni_text"),
    "Qwen2_5OmniModel": Multimodal((), "qwen2_5_omni_text"),
    "Qwen2_5OmniThinkerForConditionalGeneration": Multimodal(("qwen2_5_omni_thinker",), "qwen2_5_omni_text"),
    "Qwen2_5_VLForConditionalGeneration": Multimodal(("qwen2_5_vl",), "qwen2_5_vl_text"),
    "Qwen3ASRForConditionalGeneration": Multimodal(("qwen3_asr",), "qwen3"),
    "Qwen3OmniMoeForConditionalGeneration": Multimodal(("qwen3_omni_moe",), "qwen3_omni_moe_text"),
    "Qwen3OmniMoeThinkerForConditionalGeneration": Multimodal(("qwen3_omni_moe_thinker",), "qwen3_omni_moe_text"),
    "Qwen3VLForConditionalGeneration": Multimodal(("qwen3_vl",), "qwen3_vl_text"),
    "Qwen3VLMoeForConditionalGeneration": Multimodal(("qwen3_vl_moe",), "qwen3_vl_moe_text"),
    "Qwen3_5ForConditionalGeneration": Multimodal(("qwen3_5",), "qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": Multimodal(("qwen3_5_moe",), "qwen3_5_moe_text"),
    "Qwen4ExpForConditionalGeneration": Multimodal(("qwen4_exp",), "qwen4_exp_text"),
    "SmolVLMForConditionalGeneration": Multimodal(("smolvlm",), "llama"),
    "VibeVoiceAsrForConditionalGeneration": Multimodal(("vibevoice_asr",), "qwen2"),
    "VibeVoiceForConditionalGeneration": Multimodal(("vibevoice",), "qwen2"),
    "VideoLlama3ForConditionalGeneration": Multimodal(("video_llama_3",), "qwen2"),
    "VideoLlavaForConditionalGeneration": Multimodal(("video_llava",), "llama"),
    "VipLlavaForConditionalGeneration": Multimodal(("vipllava",), "llama"),
    "VoxtralForConditionalGeneration": Multimodal(("voxtral",), "llama"),
}
"""Class names, as `architectures` in config.json has them."""

TYPES = {kind: name for name, row in MULTIMODAL.items() for kind in row.types}
"""`model_type` of config.json -> class name."""

_CROSS = "layers that look at pictures lie between those of the text, and llama.cpp has no graph of such"
_NO_GRAPH = "llama.cpp has no graph of its language model"
WITHOUT = {
    "Blip2ForConditionalGeneration": f"{_NO_GRAPH} (OPT, T5 behind a Q-Former)",
    "BlipForConditionalGeneration": _CROSS,
    "CohereCompassForConditionalGeneration": f"{_NO_GRAPH}: Cohere 2 with a rope for each kind of layers",
    "CsmForConditionalGeneration": "its tokens are of sounds",
    "DiffusionGemmaForBlockDiffusion": "it writes many tokens at once, and over again",
    "EvollaForProteinText2Text": _CROSS,
    "Florence2ForConditionalGeneration": f"{_NO_GRAPH} (BART)",
    "FuyuForCausalLM": f"{_NO_GRAPH} (Persimmon)",
    "GitForCausalLM": f"{_NO_GRAPH} (BERT as a decoder)",
    "IdeficsForVisionText2Text": _CROSS,
    "Inkling2ForConditionalGeneration": _NO_GRAPH,
    "Inkling2LoopForConditionalGeneration": _NO_GRAPH,
    "InklingForConditionalGeneration": _NO_GRAPH,
    "InstructBlipForConditionalGeneration": f"{_NO_GRAPH} (OPT, T5 behind a Q-Former)",
    "InstructBlipVideoForConditionalGeneration": f"{_NO_GRAPH} (OPT, T5 behind a Q-Former)",
    "Kosmos2ForConditionalGeneration": _NO_GRAPH,
    "Kosmos2_5ForConditionalGeneration": _NO_GRAPH,
    "KyutaiSpeechToTextForConditionalGeneration": "its tokens are of sounds",
    "Lfm3VlForConditionalGeneration": f"{_NO_GRAPH} (LFM3)",
    "MistralLarge4ForConditionalGeneration": _NO_GRAPH,
    "MllamaForConditionalGeneration": _CROSS,
    "Molmo2ForConditionalGeneration": _NO_GRAPH,
    "MuseSparkForConditionalGeneration": _NO_GRAPH,
    "PI0ForConditionalGeneration": "it moves a robot: it has no language model's output",
    "PPFormulaNetForConditionalGeneration": _CROSS,
    "Pix2StructForConditionalGeneration": _CROSS,
    "T5Gemma2ForConditionalGeneration": f"{_NO_GRAPH} (T5Gemma)",
    "UdopForConditionalGeneration": f"{_NO_GRAPH}: places of words are among its inputs",
    "UnlimitedOcrForConditionalGeneration": "its window slides over what was written, and not over the question",
    "VisionEncoderDecoderModel": _CROSS,
    "VoxtralRealtimeForConditionalGeneration": f"{_NO_GRAPH}: its norms depend on the time",
}
"""Classes that do not convert, and why."""

TEXTS = {
    "cosmos3_edge_text": "arcee.COSMOS3_EDGE",
    "deepseek_ocr2_text": "deepseek.DEEPSEEK_OCR",
    "emu3_text_model": "llama.EMU3",
    "ernie4_5_vl_moe_text": "ernie.ERNIE4_5_VL_MOE",
    "glm4v_moe_text": "glm.GLM4V_MOE",
    "glm4v_text": "glm.GLM4V",
    "glm_ocr_text": "glm.GLM_OCR",
    "granite4_vision_text": "granite.GRANITE",
    "granite_docling_text": "granite.GRANITE",
    "qwen2_5_omni_text": "qwen_vl.QWEN2_VL",
    "qwen3_omni_moe_text": "qwen_vl.QWEN3_VL_MOE",
}
"""Types of language models that are only inside others."""

_TOWERS = (
    *("vision_tower", "vision_model", "vision_embedder", "vision_encoder", "vision_tokenizer", "visual", "vit"),
    *("sam_model", "patch_merge_mlp", "audio_adapter"),
    *("image_tower", "video_tower", "vqmodel", "qwen2_model", "embed_vision", "visual_embeddings_table"),
    *("high_res_vision_model", "high_res_vision_neck", "high_res_vision_proj", "resampler_model", "blocks"),
    *("patch_embed", "pos_embed", "deepstack_merger_list", "merger", "mlp1", "mlp_AR", "connector", "aligner"),
    *("projector", "vision_projection", "vision_projector", "modality_projection", "multi_modal_projector"),
    *("mm_projector", "layerwise_projectors", "spatial_projectors", "embed_tokens_extend", "embed_audio"),
    *("audio_tower", "audio_encoder", "audio_tokenizer", "encoder", "perception", "language_embeddings"),
    *("ctc_timestamp", "word_timestamp_encoder", "word_timestamp_head", "semantic_tokenizer_encoder"),
    *("acoustic_tokenizer_encoder", "semantic_connector", "diffusion_head", "talker", "token2wav", "code2wav"),
    *("generation_embeddings", "generation_aligner", "generation_head"),
)
"""Modules beside the language model."""

_PARTS = ("image_newline", "view_separator", "view_seperator", "high_res_vision_alpha", "latent_*_factor")
"""Tensors beside it."""

_ADAPTERS = ("*.lora_A.vision.*", "*.lora_A.speech.*", "*.lora_B.vision.*", "*.lora_B.speech.*")
_AROUND = ("", "model.", "thinker.", "thinker.model.")
_REASON = "what sees and hears beside the language model belongs into a projector file of its own"
_IGNORES = (
    *(Ignore(f"{outer}{name}.*", _REASON, loss=True) for name in _TOWERS for outer in _AROUND),
    *(Ignore(f"{outer}{name}", _REASON, loss=True) for name in _PARTS for outer in _AROUND),
    *(Ignore(pattern, _REASON, loss=True) for pattern in _ADAPTERS),
)
_WITH_HEAD = ("language_model.", "thinker.", "llm.", "text_model.")
"""What stands before all names of a language model with its head."""
_BODIES = ("model.language_model.", "model.text_model.", "language_model.", "thinker.model.language_model.")
"""What stands in the place of the name of its body."""
_HEADS = ("model.language_model.lm_head.", "thinker.lm_head.")

_SIZES = {
    "cohere2": (40, 8192, 22528, 64, 8192, 256000),
    "gemma": (28, 3072, 24576, 16, 8192, 256000),
    "granite": (32, 4096, 11008, 32, 2048, 32000),
    "llama": (32, 4096, 11008, 32, 2048, 32000),
    "mistral": (32, 4096, 14336, 32, 131072, 32000),
    "qwen2": (32, 4096, 22016, 32, 32768, 151936),
    "qwen3": (32, 4096, 22016, 32, 32768, 151936),
}
"""What transformers takes where config.json is silent, as it is in many files of transformers 4."""
_OWN_SIZES = ("GlmAsrForConditionalGeneration", "VoxtralForConditionalGeneration")  # these say others
_SIZED = ("n_layer", "n_embd", "n_ff", "n_head", "n_ctx", "vocab_size")


def around(arch: Architecture, name: str, kind: str) -> Architecture:
    """The table of a language model of a model type as it is inside the multimodal class of this name."""
    row = MULTIMODAL[name]
    sizes = dict(zip(_SIZED, () if name in _OWN_SIZES else _SIZES.get(kind, ()), strict=False))
    bodies = sorted({first.partition(".")[0] + "." for row in arch.rows for first in row.sources if "{i}" in first})
    prefixes = [(ours, outer + theirs) for outer in _WITH_HEAD for ours, theirs in (("", ""), *arch.prefixes)]
    prefixes += [(body, theirs) for theirs in _BODIES for body in bodies]
    prefixes += [("lm_head.", theirs) for theirs in _HEADS] + [pair for pair in row.names if pair[0][0] != "."]
    return arch.derive(
        within=name,
        prefixes=(*prefixes, *arch.prefixes),
        suffixes=(*arch.suffixes, *(pair for pair in row.names if pair[0][0] == ".")),
        params=tuple(_inside(param, sizes, dict(row.said)) for param in arch.params),
        variants=tuple((condition, around(other, name, kind)) for condition, other in arch.variants),
        ignores=_IGNORES,
        loses=(Loses("", "approximated", "attention", row.loses),) if row.loses else (),
        pooled=False,
    )


def _inside(param: Param, sizes: Mapping[str, int], said: Mapping[str, str]) -> Param:
    if param.name in said:
        return replace(param, cases=(("", said[param.name]),))
    return replace(param, default=sizes[param.name]) if param.name in sizes else param


def beside(*names: str) -> tuple[Ignore, ...]:
    """Rules for modules beside a language model whose table is that of the whole class. names: of the modules."""
    return tuple(Ignore(f"*{name}.*", _REASON, loss=True) for name in names)


def of_tower(name: str) -> bool:
    """Whether a tensor is of what is beside the language model."""
    return any(fnmatchcase(name, rule.pattern) for rule in _IGNORES)
