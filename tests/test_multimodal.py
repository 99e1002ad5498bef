"""Language models inside multimodal classes: each becomes what it is alone, and what is beside it is named.

multimodal_models.py makes the models; run by itself it has llama.cpp compute a text by every class.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import llama
import modelfmt
import multimodal_models as models
from folders import computed, logits, tokens
from modelfmt import archs
from modelfmt.archs import hparams
from modelfmt.archs.bind import to_gguf
from modelfmt.archs.multimodal import MULTIMODAL, TEXTS, TYPES, WITHOUT
from modelfmt.archs.values import flat
from modelfmt.errors import ModelfmtError, UnsupportedError
from modelfmt.ir.ops import Leaf
from test_archs import HOSTILE, Checkpoint, metadata

RUN = (
    "LlavaForConditionalGeneration",  # language_model.model.
    "Idefics3ForConditionalGeneration",  # model.text_model.
    "Qwen3OmniMoeThinkerForConditionalGeneration",  # names of the language model alone
    "Cosmos3EdgeForConditionalGeneration",  # without the name of the body
    "Glm4vForConditionalGeneration",
    "HunYuanVLForConditionalGeneration",
    "PaddleOCRVLForConditionalGeneration",
    "DeepseekOcr2ForConditionalGeneration",
    "Ernie4_5_VLMoeForConditionalGeneration",
)
"""What llama.cpp runs here: language models that are inside others only, and each kind of names."""

BACK = tuple(name for name in RUN if not name.startswith(("Deepseek", "Llava", "Idefics")))
"""What comes back as another class."""

COMPARED = (
    "AriaForConditionalGeneration",
    "Cosmos3OmniForConditionalGeneration",
    "Exaone4_5_ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "Kimi_K25ForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "Nemotron3_5TranscribeForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "Phi4MultimodalForCausalLM",
    "QianfanOCRForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration",
)
"""What is compared here with the language model alone, byte for byte."""


@pytest.mark.parametrize("name", RUN)
def test_llama_cpp_computes_a_text_as_the_whole_model_does(name: str, tmp_path: Path) -> None:
    _, worst = models.compared(name, tmp_path)
    print(f"{name}: {worst:.1e}")
    assert worst < (1e-2 if name.startswith("HunYuan") else 1e-4)


@pytest.mark.parametrize("name", COMPARED)
def test_the_file_is_that_of_the_language_model_alone(name: str, tmp_path: Path) -> None:
    model = models.made(name)
    whole, alone = models.saved(name, model, tmp_path)
    assert alone is not None
    gguf, dropped = models.checked(whole, alone)
    assert gguf == archs.find(name).gguf
    with modelfmt.open(whole) as source:
        assert len(dropped) == len(set(dropped)) < len(source.tensors)


def test_the_language_model_comes_back_alone(tmp_path: Path) -> None:
    """Its tensors bit for bit, under a configuration of its own; what was beside it is named."""
    model = models.made("LlavaForConditionalGeneration")
    whole, alone = models.saved("LlavaForConditionalGeneration", model, tmp_path)
    assert alone is not None
    modelfmt.convert(whole, tmp_path / "model.gguf", quant="F32")
    report = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back/")
    with modelfmt.open(tmp_path / "back") as back, modelfmt.open(alone) as original:
        assert (back.config["architectures"], back.config["model_type"]) == (["LlamaForCausalLM"], "llama")
        assert set(back) == set(original)
        assert all(np.array_equal(tensor.numpy(), original[name].numpy()) for name, tensor in back.tensors.items())
    with modelfmt.open(whole) as source:
        towers = {name for name in source if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert {loss.subject for loss in report.losses} == towers
    assert any("made anew" in note.detail for note in report.notes)
    modelfmt.convert(tmp_path / "back", tmp_path / "again.gguf", quant="F32")
    with modelfmt.open(tmp_path / "model.gguf") as first, modelfmt.open(tmp_path / "again.gguf") as second:
        assert set(first) == set(second)
        assert not any(key.startswith("modelfmt.tensor.") for key in first.metadata)


@pytest.mark.parametrize("name", BACK)
def test_another_class_computes_the_same_from_what_comes_back(name: str, tmp_path: Path) -> None:
    """Of language models that transformers has inside others only."""
    model = models.made(name)
    whole, _ = models.saved(name, model, tmp_path)
    expected = models.expected(name, model)
    modelfmt.convert(whole, tmp_path / "model.gguf", quant="F32")
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back/")
    found = torch.tensor(logits(tmp_path / "back")).log_softmax(-1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


PREFIXES = (
    ("LlavaForConditionalGeneration", "language_model.model.", "language_model.lm_head."),
    ("LlavaForConditionalGeneration", "model.language_model.", "lm_head."),
    ("InternVLChatModel", "language_model.model.", "language_model.lm_head."),
    ("SmolVLMForConditionalGeneration", "model.text_model.", "lm_head."),
    ("Qwen2_5OmniForConditionalGeneration", "thinker.model.", "thinker.lm_head."),
    ("Qwen2_5OmniForConditionalGeneration", "thinker.model.language_model.", "thinker.lm_head."),
)


@pytest.mark.parametrize(("name", "body", "head"), PREFIXES)
def test_names_of_the_language_model(golden: Path, name: str, body: str, head: str) -> None:
    """Whatever section of config.json and prefix of tensors it has; sizes of a tower are not its own."""
    text = Checkpoint(golden, "qwen2" if "Qwen2" in name else "llama-spm")
    tensors = {
        body + part.removeprefix("model.") if part.startswith("model.") else head + part.removeprefix("lm_head."): expr
        for part, expr in text.tensors.items()
    }
    left = body.partition("model.")[0].replace("language_", "") + "vision_model.encoder.layers.0.mlp.fc1.weight"
    tensors[left] = Leaf("weights", 0, (4, 2), "BF16")
    inner = {key: value for key, value in text.config.items() if key != "architectures"}
    section = "llm_config" if name == "InternVLChatModel" else "text_config"
    config: dict[str, Any] = {"architectures": [name], section: inner, "hidden_size": 7, "head_dim": 3, "n_layer": 9}
    if "Omni" in name:
        config = {"architectures": [name], "thinker_config": {"text_config": inner, "hidden_size": 7}}
    arch = archs.find(name, config=config)
    bound = to_gguf(arch, tensors=tensors, config=config, assets={})
    assert [tensor.name for tensor in bound.tensors] == list(text.expected_tensors)
    assert metadata(bound) == text.expected_metadata
    assert [note.subject for note in bound.notes] == [left]


def test_every_class_of_transformers_is_decided() -> None:
    from transformers.models.auto import modeling_auto

    names = {
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values(),
    }
    assert {name for name in names if name not in {*MULTIMODAL, *WITHOUT, *archs.HUGGING_FACE}} == {*UNDECIDED}


UNDECIDED = ("HYV4VLForConditionalGeneration",)
"""Classes that nothing names yet, whose language models llama.cpp has graphs for."""


@pytest.mark.parametrize("kind", ["cohere2", "gemma", "granite", "llama", "mistral", "qwen2", "qwen3"])
def test_absent_sizes_are_those_of_the_class_of_the_language_model(kind: str) -> None:
    """transformers 4 wrote into config.json what is not the default of a class."""
    from transformers import CONFIG_MAPPING

    outer = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": kind}}
    arch = archs.find("LlavaForConditionalGeneration", config=outer)
    full = outer | {"text_config": CONFIG_MAPPING[kind]().to_dict()}
    found, expected = hparams.read(arch, flat(outer)), hparams.read(arch, flat(full))
    assert {key: found[key] for key in found if key not in ("dtype", "tied")} == {
        key: expected[key] for key in expected if key not in ("dtype", "tied")
    }


def test_registry() -> None:
    assert set(TYPES.values()) == {name for name, row in MULTIMODAL.items() if row.types}
    for name, row in MULTIMODAL.items():
        for kind, place in (*row.tables, *TEXTS.items()):
            assert archs.load(place).gguf, kind
        assert archs.find(name).within == archs.find(model_type=row.types[0] if row.types else name).within == name
    assert not {*MULTIMODAL} & {*WITHOUT}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["MllamaForConditionalGeneration"]}, "lie between those of the text"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "opt"}}, "with opt"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "phimoe"}}, "SparseMixer"),
        ({"architectures": ["HyperCLOVAXVisionV2ForConditionalGeneration"]}, "norms behind attention"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": 7}}, "a string"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": []}, "an object"),
    ],
)
def test_what_does_not_convert_says_why(config: dict[str, Any], message: str) -> None:
    text = (
        {"text_config": models.SIZES | {"model_type": "hyperclovax", "attention_multiplier": 0.1}}
        if "text_config" not in config
        else {}
    )
    with pytest.raises(ModelfmtError, match=message):
        to_gguf(
            archs.find(config["architectures"][0], config=text | config), tensors={}, config=text | config, assets={}
        )


@pytest.mark.parametrize("section", ["text_config", "llm_config", "thinker_config"])
def test_no_value_of_a_section_leads_to_a_foreign_error(section: str) -> None:
    for value in HOSTILE:
        config = {"architectures": ["LlavaForConditionalGeneration"], section: value}
        with pytest.raises(ModelfmtError):
            to_gguf(archs.find("LlavaForConditionalGeneration", config=config), tensors={}, config=config, assets={})


def test_chameleon(golden: Path, tmp_path: Path) -> None:
    """Norms of each head of its own; the tokens of pictures have no probability in either."""
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    pictures = {f"IMGIMG{chr(65 + at % 26) * 3}{at}Z": at + 4 for at in range(8192)}
    tower = {"base_channels": 32, "embed_dim": 16, "num_embeddings": 64, "latent_channels": 16, "double_latent": False}
    sizes = models.SIZES | {"vocab_size": 8300, "num_hidden_layers": 2}
    config = ChameleonConfig(**sizes, vocabulary_map={"<image>": 8200, **pictures}, vq_config=tower)
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    model = ChameleonForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            torch.nn.init.normal_(weight, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    model.save_pretrained(tmp_path / "hf")
    for path in (golden / "checkpoints" / "gpt2").glob("*to*"):
        shutil.copy(path, tmp_path / "hf")
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    assert {loss.subject.partition("vqmodel.")[0] for loss in report.losses} == {"model."}
    with llama.Network(tmp_path / "model.gguf") as network:
        found = network.logits(tokens())
    kept = np.r_[0:4, 8196:8300]
    np.testing.assert_allclose(found[:, kept], computed(model)[:, kept], atol=1e-4)
    with pytest.raises(UnsupportedError, match="without the residual"):
        to_gguf(archs.find("ChameleonForCausalLM"), tensors={}, config=sizes | {"swin_norm": True}, assets={})


def test_a_refused_class_is_unsupported() -> None:
    for name in WITHOUT:
        with pytest.raises(UnsupportedError) as caught:
            archs.find(name)
        assert caught.value.code == "unsupported-architecture"
