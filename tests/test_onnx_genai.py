"""Folders for onnxruntime-genai, loaded by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import modelfmt
import onnx_models
from modelfmt.errors import ModelfmtError

genai = pytest.importorskip("onnxruntime_genai")
onnx_genai = pytest.importorskip("onnx_genai")

TEXTS = [torch.randint(3, 90, (length,), generator=torch.Generator().manual_seed(3)).tolist() for length in (12, 9)]


@pytest.mark.parametrize("name", ["llama-llama3", "gemma3", "phi3-longrope", "gpt2"])
def test_greedy_text_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    """One text, and a batch of texts of two lengths, to the last of 24 tokens."""
    model = onnx_models.decoder(name)
    folder = onnx_genai.convert(model, tmp_path)
    wanted = onnx_genai.theirs(model, TEXTS)
    assert onnx_genai.ours(folder, TEXTS[:1]) == wanted[:1]
    assert onnx_genai.ours(folder, TEXTS) == wanted


@pytest.mark.parametrize("name", ["llama-spm", "qwen3"])
def test_the_tokenizer_and_the_chat_template_are_the_same(name: str, golden: Path, tmp_path: Path) -> None:
    """Also where the checkpoint has a tokenizer.model alone."""
    source = golden / "checkpoints" / name
    modelfmt.convert(source, tmp_path / "out", to="onnx", profile="ort-genai")
    ours = genai.Tokenizer(genai.Model(str(tmp_path / "out")))
    ours.update_options(add_special_tokens="true")
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    text = "Hello world, 123 caf\u00e9s.\n\n  Again"
    assert ours.encode(text).tolist() == theirs.encode(text)
    messages = [{"role": "user", "content": "hi"}]
    made = ours.apply_chat_template(messages=json.dumps(messages), add_generation_prompt=True)
    assert made == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_end_tokens_are_all_of_them(golden: Path, tmp_path: Path) -> None:
    """Those of the generation config, and the tokenizer's, which ends a turn."""
    folder = tmp_path / "m"
    onnx_models.decoder("qwen3").save_pretrained(folder)
    generation = {"eos_token_id": [7, 8], "temperature": 0.6, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    tokens = [{"id": 9, "content": "<|im_end|>"}, {"id": 3, "content": "<pad>"}]
    tokenizer = {"model": {"type": "BPE"}, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<pad>"}))
    modelfmt.convert(folder, tmp_path / "out", to="onnx", profile="ort-genai")
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == [7, 8, 9]
    assert config["model"]["pad_token_id"] == 3
    assert (config["search"]["temperature"], config["search"]["top_k"]) == (0.6, 20)
    assert "position_ids" not in config["model"]["decoder"]["inputs"]


@pytest.mark.parametrize(("name", "dest", "code"), [("bert", "out", "genai"), ("qwen3", "m.onnx", "profile-folder")])
def test_what_genai_does_not_load_is_refused(name: str, dest: str, code: str, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(golden / "checkpoints" / name, tmp_path / dest, to="onnx", profile="ort-genai")
    assert caught.value.code == code
