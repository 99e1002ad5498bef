"""Models that see or hear around a language model that a table knows: which, and how their checkpoints call its parts.

Text alone goes through the language model as if there were no towers; these are left out, by name. Checked against the
classes of transformers 5.24 and its conversion_mapping.py (what save_pretrained writes), and llama.cpp
conversion/base.py (November 2026): tests/multimodal_models.py runs them all.

A checkpoint has `language_model.model.` (as transformers 4 wrote it, and most classes of 5 still save it),
`model.language_model.` (as 5 has it in memory), `model.text_model.` (Idefics), names of the language model alone
(Qwen), or a prefix around one of these (`thinker.`, `llm.`).
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from modelfmt.archs.table import Architecture, Ignore, Loses

__all__ = ["MULTIMODAL", "TYPES", "Multimodal", "around", "of_tower"]


class Multimodal(NamedTuple):
    """A class around a language model.

    types: of its config.json. text: the type of the language model where config.json does not say. tables: language
    models that have another table here than alone. loses: what the language model does with text here and not alone.
    names: pairs, the beginning or the end of a name in the table, and in some checkpoints of this class.
    """

    types: tuple[str, ...]
    text: str
    tables: tuple[tuple[str, str], ...] = ()
    loses: str = ""
    names: tuple[tuple[str, str], ...] = ()


_PREFIX = "the tokens of a prompt look at each other in both directions here: llama.cpp's graph looks backwards"

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

MULTIMODAL = {
    "AudioFlamingo3ForConditionalGeneration": Multimodal(("audioflamingo3",), "qwen2"),
    "AyaVisionForConditionalGeneration": Multimodal(("aya_vision",), "cohere2"),
    "Cohere2VisionForConditionalGeneration": Multimodal(("cohere2_vision",), "cohere2"),
    "Cosmos3OmniForConditionalGeneration": Multimodal(("cosmos3_omni",), "qwen3_vl_text", names=_DIFFUSERS),
    "DeepseekVLForConditionalGeneration": Multimodal(("deepseek_vl",), "llama"),
    "DeepseekVLHybridForConditionalGeneration": Multimodal(("deepseek_vl_hybrid",), "llama"),
    "Dots3NoteForConditionalGeneration": Multimodal(("dots3_note",), "dots3_note_text"),
    "Exaone4_5_ForConditionalGeneration": Multimodal(("exaone4_5",), "exaone4"),
    "FastVlmForConditionalGeneration": Multimodal(("fast_vlm",), "qwen2"),
    "FunAsrNanoForConditionalGeneration": Multimodal(("fun_asr_nano",), "qwen3"),
    "Gemma3ForConditionalGeneration": Multimodal(("gemma3",), "gemma3_text"),
    "Gemma3nForConditionalGeneration": Multimodal(("gemma3n",), "gemma3n_text"),
    "Gemma4ForConditionalGeneration": Multimodal(("gemma4",), "gemma4_text"),
    "GlmAsrForConditionalGeneration": Multimodal(("glmasr",), "llama"),
    "Glm5NextForConditionalGeneration": Multimodal(("glm5_next",), "glm5_next_text"),
    "GotOcr2ForConditionalGeneration": Multimodal(("got_ocr2", "pp_chart2table"), "qwen2"),
    "GraniteSpeechForConditionalGeneration": Multimodal(("granite_speech",), "granite"),
    "GraniteSpeechPlusForConditionalGeneration": Multimodal(("granite_speech_plus",), "granite"),
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
    "PaliGemmaForConditionalGeneration": Multimodal(("paligemma",), "gemma", loses=_PREFIX),
    "PerceptionLMForConditionalGeneration": Multimodal(("perception_lm",), "llama"),
    "QianfanOCRForConditionalGeneration": Multimodal(("qianfan_ocr",), "qwen3", names=_QIANFAN),
    "Qwen2AudioForConditionalGeneration": Multimodal(("qwen2_audio",), "qwen2"),
    "Qwen2VLForConditionalGeneration": Multimodal(("qwen2_vl",), "qwen2_vl_text"),
    "Qwen2_5_VLForConditionalGeneration": Multimodal(("qwen2_5_vl",), "qwen2_5_vl_text"),
    "Qwen3ASRForConditionalGeneration": Multimodal(("qwen3_asr",), "qwen3"),
    "Qwen3VLForConditionalGeneration": Multimodal(("qwen3_vl",), "qwen3_vl_text"),
    "Qwen3VLMoeForConditionalGeneration": Multimodal(("qwen3_vl_moe",), "qwen3_vl_moe_text"),
    "Qwen3_5ForConditionalGeneration": Multimodal(("qwen3_5",), "qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": Multimodal(("qwen3_5_moe",), "qwen3_5_moe_text"),
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

_TOWERS = (
    *("vision_tower", "vision_model", "vision_encoder", "vision_projection", "visual", "image_tower", "video_tower"),
    *("audio_tower", "audio_encoder", "perception", "ctc_timestamp", "word_timestamp_encoder", "word_timestamp_head"),
    *("multi_modal_projector", "mm_projector", "modality_projection", "connector", "projector", "aligner", "merger"),
    *("patch_merge_mlp", "audio_adapter"),
    *("mlp1", "high_res_vision_model", "high_res_vision_neck", "high_res_vision_proj", "vqmodel"),
    *("generation_embeddings", "generation_aligner", "generation_head", "visual_embeddings_table"),
    *("acoustic_tokenizer_encoder", "semantic_tokenizer_encoder", "semantic_connector", "diffusion_head"),
    *("talker", "token2wav", "code2wav", "language_embeddings", "encoder", "embed_vision", "embed_audio"),
    *("blocks", "patch_embed", "pos_embed", "deepstack_merger_list"),
)
"""Modules beside the language model."""

_PARTS = ("image_newline", "view_separator", "view_seperator", "high_res_vision_alpha", "latent_*_factor")
"""Tensors beside it."""

_AROUND = ("", "model.", "thinker.", "thinker.model.")
_REASON = "what sees and hears beside the language model belongs into a projector file of its own"
_IGNORES = (
    *(Ignore(f"{outer}{name}.*", _REASON, loss=True) for name in _TOWERS for outer in _AROUND),
    *(Ignore(f"{outer}{name}", _REASON, loss=True) for name in _PARTS for outer in _AROUND),
)
_WITH_HEAD = ("language_model.", "thinker.", "llm.")
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
_SIZED = ("n_layer", "n_embd", "n_ff", "n_head", "n_ctx", "vocab_size")


def around(arch: Architecture, name: str, kind: str) -> Architecture:
    """The table of a language model of a model type as it is inside the multimodal class of this name."""
    row, sizes = MULTIMODAL[name], dict(zip(_SIZED, _SIZES.get(kind, ()), strict=False))
    bodies = {first.partition(".")[0] + "." for row in arch.rows for first in row.sources if "{i}" in first}
    prefixes = [(ours, outer + theirs) for outer in _WITH_HEAD for ours, theirs in (("", ""), *arch.prefixes)]
    prefixes += [(body, theirs) for theirs in _BODIES for body in bodies]
    prefixes += [("lm_head.", theirs) for theirs in _HEADS] + [pair for pair in row.names if pair[0][0] != "."]
    return arch.derive(
        within=name,
        prefixes=(*prefixes, *arch.prefixes),
        suffixes=(*arch.suffixes, *(pair for pair in row.names if pair[0][0] == ".")),
        params=tuple(replace(param, default=sizes[param.name]) for param in arch.params if param.name in sizes),
        variants=tuple((condition, around(other, name, kind)) for condition, other in arch.variants),
        ignores=_IGNORES,
        loses=(Loses("", "approximated", "attention", row.loses),) if row.loses else (),
        pooled=False,
    )


def of_tower(name: str) -> bool:
    """Whether a tensor is of what is beside the language model."""
    return any(fnmatchcase(name, rule.pattern) for rule in _IGNORES)
