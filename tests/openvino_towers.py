"""Tiny encoder-decoders and models of pictures and sounds, and what they compute, beside the OpenVINO graphs made of
them.

Run by openvino_models.py. Every comparison is between transformers and OpenVINO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import onnx_towers
import openvino_models


def seq2seq_difference(model: Any, folder: Path, *, steps: int = 10) -> float:
    """The largest difference of the encoder's states and of logits: two tokens, then `steps` that go on from the state,
    of a padded batch of two texts (or of two sounds); then the other way round, with the state reset."""
    given, tokens = onnx_towers.seq2seq_inputs(model, steps)
    encoder, decoder = (
        openvino_models.compiled(folder / f"openvino_{one}_model.xml") for one in ("encoder", "decoder")
    )
    request, worst = decoder.create_infer_request(), 0.0
    for turned in (False, True):
        inputs = {name: value.flip(0) if turned else value for name, value in given.items()}
        states = encoder({name: value.numpy() for name, value in inputs.items()})["last_hidden_state"]
        with torch.no_grad():
            encoded = model.get_encoder()(**inputs)
        mask = inputs.get("attention_mask", torch.ones(states.shape[:2])).numpy().astype(bool)
        worst = max(worst, float(np.abs(states - encoded.last_hidden_state.numpy())[mask].max()))
        fixed = {"encoder_hidden_states": states, "beam_idx": np.arange(2, dtype=np.int32)}
        if "attention_mask" in inputs:
            fixed["encoder_attention_mask"] = inputs["attention_mask"].numpy()
        request.reset_state()
        cache = None
        for start, stop in [(0, 2), *((at, at + 1) for at in range(2, 2 + steps))]:
            found = request.infer({"input_ids": tokens[:, start:stop].numpy()} | fixed)["logits"]
            with torch.no_grad():
                theirs = model(
                    encoder_outputs=encoded,
                    attention_mask=inputs.get("attention_mask"),
                    decoder_input_ids=tokens[:, start:stop],
                    cache=cache,
                    use_cache=True,
                )
            cache = theirs.cache
            worst = max(worst, float(np.abs(found - theirs.logits.numpy()).max()))
    return worst


def alone_difference(model: Any, folder: Path) -> float:
    """The largest difference of any output for two pictures, or three texts, or both."""
    run, given = openvino_models.compiled(folder / "openvino_model.xml"), onnx_towers.alone_inputs()
    feeds = {value.get_any_name(): given[value.get_any_name()] for value in run.inputs}
    with torch.no_grad():
        theirs = model(**feeds)
    worst = 0.0
    for output, found in run({name: value.numpy() for name, value in feeds.items()}).items():
        name = output.get_any_name()
        wanted = getattr(theirs, name).numpy()
        assert found.shape == wanted.shape
        apart = np.abs(found - wanted)
        if name == "last_hidden_state" and "attention_mask" in feeds:
            apart = apart[given["attention_mask"].numpy().astype(bool)]
        worst = max(worst, float(apart.max()))
    return worst


def models() -> dict[str, tuple[Any, Any]]:
    """Name -> what makes a model, and what compares it with a folder."""
    several = dict.fromkeys(onnx_towers.SEQ2SEQ, (onnx_towers.seq2seq, seq2seq_difference))
    return several | dict.fromkeys(onnx_towers.ALONE, (onnx_towers.alone, alone_difference))
