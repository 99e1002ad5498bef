"""What is said to be covered is what the registry holds and the tests check."""

from __future__ import annotations

import json
import subprocess
import sys

import architecture_page
import modelfmt
from modelfmt import archs

AGAIN = "run `python tests/architecture_page.py`"


def test_the_generated_files_are_of_today() -> None:
    assert architecture_page.DATA.read_text() == architecture_page.data(), AGAIN
    text = architecture_page.PAGE.read_text()
    assert architecture_page.page(text) == text, AGAIN


def test_every_class_and_every_model_type_is_listed() -> None:
    rows = modelfmt.architectures()
    assert {name for row in rows for name in row.classes} == archs.HUGGING_FACE.keys()
    assert {name for row in rows for name in row.model_types} == archs.MODEL_TYPES.keys()
    assert {row.gguf for row in rows} == archs.GGUF.keys()


def test_what_comes_back_without_carried_keys() -> None:
    back = {row.classes[0]: row.back for row in modelfmt.architectures()}
    assert back["MistralForCausalLM"] == "LlamaForCausalLM"
    assert back["RobertaModel"] == "BertModel"
    for name in ("MixtralForCausalLM", "Olmo3ForCausalLM", "DistilBertModel", "Qwen3ForCausalLM"):
        assert back[name] == name


def test_the_command_lists_them() -> None:
    document = json.loads(run("--json"))
    assert document["schema"] == "modelfmt.architectures/1"
    assert len(document["architectures"]) == len(modelfmt.architectures())
    assert "qwen3moe" in run()


def run(*options: str) -> str:
    command = [sys.executable, "-m", "modelfmt", "architectures", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
