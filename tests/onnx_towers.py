"""Tiny encoder-decoders and models of pictures and sounds, and what they compute, beside the ONNX graphs made of them.

Run by onnx_models.py. Every comparison is between transformers and ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from onnx_models import session, shaken

T5 = {
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
    "initializer_factor": 0.3,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
WHISPER = {
    "vocab_size": 96,
    "num_mel_bins": 10,
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "max_source_positions": 20,
    "max_target_positions": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "begin_suppress_tokens": None,
}
UNEVEN = {"decoder_attention_heads": 8, "scale_embedding": True, "tie_word_embeddings": False}

# name -> (class, configuration class, changes)
SEQ2SEQ: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "relu"}),
    "t5-gated": ("T5ForConditionalGeneration", "T5Config", T5 | GATED),
    "t5-narrow": ("T5ForConditionalGeneration", "T5Config", T5 | GATED | {"d_kv": 8, "num_heads": 6}),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", T5 | GATED),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config", T5 | GATED),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
    "whisper-uneven": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER | UNEVEN),
}


def seq2seq(name: str) -> Any:
    """A tiny encoder-decoder with seeded weights; gated T5s, as the published ones, with a head of its own."""
    kind, config, settings = SEQ2SEQ[name]
    torch.manual_seed(0)
    made = getattr(transformers, config)(**settings)
    made._attn_implementation = "eager"
    model = getattr(transformers, kind)(made).float().eval()
    if settings.get("feed_forward_proj") == "gated-gelu":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    return shaken(model)


def seq2seq_inputs(model: Any, steps: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What an encoder is given, a padded batch of two texts or two sounds, and what a decoder is."""
    generator, config = torch.Generator().manual_seed(2), model.config
    if config.model_type == "whisper":
        shape = 2, config.num_mel_bins, 2 * config.max_source_positions
        given: dict[str, torch.Tensor] = {"input_features": torch.randn(shape, generator=generator)}
    else:
        ids = torch.randint(3, config.vocab_size, (2, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        given = {"input_ids": ids, "attention_mask": mask}
    return given, torch.randint(3, config.vocab_size, (2, 2 + steps), generator=generator)


def seq2seq_difference(model: Any, folder: Path, *, steps: int = 10) -> float:
    """The largest difference of the encoder's states and of logits: two tokens, then `steps` cached ones, of a padded
    batch of two texts (or of two sounds)."""
    encoder, decoder = session(folder / "encoder_model.onnx"), session(folder / "decoder_model_merged.onnx")
    kind = np.float16 if decoder.get_inputs()[1].type == "tensor(float16)" else np.float32
    given, tokens = seq2seq_inputs(model, steps)
    sound = "input_features" in given
    feeds = {name: value.numpy().astype(kind if value.is_floating_point() else "i8") for name, value in given.items()}
    (states,) = encoder.run(["last_hidden_state"], feeds)
    with torch.no_grad():
        theirs_encoded = model.get_encoder()(**given)
    seen = np.ones((2, states.shape[1]), bool) if sound else given["attention_mask"].numpy().astype(bool)
    worst = float(np.abs(states.astype("f4") - theirs_encoded.last_hidden_state.numpy())[seen].max())
    caches = {
        value.name: np.zeros([2, *(size if isinstance(size, int) else 0 for size in value.shape[1:])], kind)
        for value in decoder.get_inputs()
        if value.name.startswith("past")
    }
    fixed = {"encoder_hidden_states": states}
    if not sound:
        fixed["encoder_attention_mask"] = feeds["attention_mask"]
    outputs, theirs_cache = [value.name for value in decoder.get_outputs()], None
    for start, stop in [(0, 2), *((at, at + 1) for at in range(2, 2 + steps))]:
        given_now = {"input_ids": tokens[:, start:stop].numpy(), "use_cache_branch": np.array([start > 0])}
        found = dict(zip(outputs, decoder.run(None, fixed | caches | given_now), strict=True))
        for name in outputs[1:]:
            if start == 0 or ".decoder." in name:  # the encoder's are made once
                caches[name.replace("present", "past_key_values")] = found[name]
        with torch.no_grad():
            theirs = model(
                encoder_outputs=theirs_encoded,
                attention_mask=given.get("attention_mask"),
                decoder_input_ids=tokens[:, start:stop],
                cache=theirs_cache,
                use_cache=True,
            )
        theirs_cache = theirs.cache
        worst = max(worst, float(np.abs(found["logits"].astype("f4") - theirs.logits.numpy()).max()))
    return worst


TINY = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
PICTURE = TINY | {"image_size": 24, "patch_size": 8, "num_channels": 3}
TEXT = TINY | {"vocab_size": 96, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
OTHER = {"hidden_size": 32, "num_hidden_layers": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "eos_token_id": 95}
ALONE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5-encoder": ("T5EncoderModel", "T5Config", T5),
    "umt5-encoder": ("UMT5EncoderModel", "UMT5Config", T5 | GATED),
    "vit": ("ViTForImageClassification", "ViTConfig", PICTURE | {"num_labels": 7}),
    "vit-states": ("ViTModel", "ViTConfig", PICTURE | {"qkv_bias": False}),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": TEXT | OTHER, "vision_config": PICTURE, "projection_dim": 48},
    ),
    "clip-old": ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": PICTURE, "projection_dim": 48}),
    "clip-text": ("CLIPTextModelWithProjection", "CLIPTextConfig", TEXT | {"projection_dim": 48}),
    "clip-text-states": ("CLIPTextModel", "CLIPTextConfig", TEXT | OTHER),
    "clip-picture": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", PICTURE | {"projection_dim": 48}),
    "clip-picture-states": ("CLIPVisionModel", "CLIPVisionConfig", PICTURE),
}
"""Models of one graph."""


def alone(name: str) -> Any:
    """A tiny model of one graph with seeded weights."""
    kind, config, settings = ALONE[name]
    torch.manual_seed(0)
    made = getattr(transformers, config)(**settings)
    return shaken(getattr(transformers, kind)._from_config(made, attn_implementation="eager").float().eval())


def alone_inputs() -> dict[str, torch.Tensor]:
    """Two pictures, and three texts."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 95, (3, 9), generator=generator)
    ids[0, -1] = ids[1, 6:] = ids[2, 4:] = 95
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn((2, 3, 24, 24), generator=generator)}


def alone_difference(model: Any, folder: Path) -> float:
    """The largest difference of any output for two pictures, or three texts, or both."""
    run, given = session(folder / "model.onnx"), alone_inputs()
    feeds = {value.name: given[value.name] for value in run.get_inputs()}
    kinds = {value.name: np.float16 if value.type == "tensor(float16)" else np.float32 for value in run.get_inputs()}
    arrays = {name: x.numpy().astype(kinds[name] if x.is_floating_point() else "i8") for name, x in feeds.items()}
    names = [value.name for value in run.get_outputs()]
    with torch.no_grad():
        theirs = model(**feeds)
    worst = 0.0
    for name, found in zip(names, run.run(None, arrays), strict=True):
        wanted = getattr(theirs, name).numpy()
        apart = np.abs(found.astype("f4") - wanted)
        if name == "last_hidden_state" and "attention_mask" in feeds:
            apart = apart[given["attention_mask"].numpy().astype(bool)]
        assert found.shape == wanted.shape
        worst = max(worst, float(apart.max()))
    return worst


WITHOUT_GGUF = frozenset(name for name in (*SEQ2SEQ, *ALONE) if "t5" not in name)
"""Those that have no GGUF form."""


def models() -> dict[str, tuple[Any, Any]]:
    """Name -> what makes a model, and what compares it with a folder."""
    return dict.fromkeys(SEQ2SEQ, (seq2seq, seq2seq_difference)) | dict.fromkeys(ALONE, (alone, alone_difference))
