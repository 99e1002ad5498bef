"""Layers that predict further tokens: layers of the file, with which llama.cpp drafts what its network then checks.

Tiny checkpoints with such a layer, by the names of the published ones; what llama.cpp's drafting graph makes of it is
what transformers' own modules do. The network computes the same as without the layer, and the folder comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llama
import modelfmt
from folders import contents, tokens
from modelfmt import archs
from modelfmt.archs import nextn
from modelfmt.errors import CorruptFile
from next_tokens import Drafting, with_next
from test_arch_models import MODELS, Case, make

_HYBRID = {"layer_types": ["linear_attention"] * 3 + ["full_attention"] * 2}
CASES: dict[str, dict[str, Any]] = {
    "glm4-moe": {},
    "deepseek3": {},
    "glm4-moe-lite": {"mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse"]},
    "deepseek32": {"index_topk": 64},  # llama.cpp drafts with all tokens, whatever the indexer would pick
    "hy3": {},
    "qwen3-next": _HYBRID,
    "qwen3.5": _HYBRID,
    "qwen3.5-moe": _HYBRID,
}


@dataclass(frozen=True)
class Made:
    case: Case
    folder: Path
    file: Path
    expected: Drafting


def checkpoint(name: str, golden: Path, folder: Path) -> tuple[Case, Drafting]:
    case = next(case for case in MODELS if case.name == name)
    n_layer = case.config.get("num_hidden_layers", 4) + 1
    case = replace(case, config=case.config | {"num_hidden_layers": n_layer} | CASES[name])
    return case, with_next(make(case, golden, folder), folder, extra="deepseek" in name)


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = tmp_path_factory.mktemp("next")
    case, expected = checkpoint(request.param, golden, work / "hf")
    report = modelfmt.convert(work / "hf", work / "model.gguf", quant="F32")
    assert report.losses == ()
    return Made(case, work / "hf", work / "model.gguf", expected)


def test_llama_cpp_computes_as_before_and_drafts_what_the_layer_says(made: Made) -> None:
    with llama.Network(made.file) as network:
        np.testing.assert_allclose(network.logits(tokens()), made.expected.logits, atol=2e-3)
    with llama.Network(made.file, drafts=True) as network:
        np.testing.assert_allclose(network.logits(tokens()), made.expected.logits, atol=2e-3)
        found = network.draft(tokens()[1:], made.expected.hidden[:-1])
    assert made.expected.draft.std() > 1
    np.testing.assert_allclose(found, made.expected.draft, atol=2e-3)


def test_the_folder_comes_back(made: Made, tmp_path: Path) -> None:
    report = modelfmt.convert(made.file, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made.folder)
    assert report.losses == ()
    modelfmt.convert(made.folder, tmp_path / "bare.gguf", quant="F32", carry=False)
    modelfmt.convert(tmp_path / "bare.gguf", f"{tmp_path}/again/")
    with modelfmt.open(made.folder) as first, modelfmt.open(tmp_path / "again") as second:
        assert set(first) == set(second)
        for name in first:
            np.testing.assert_allclose(second[name].numpy(), first[name].numpy(), atol=1e-6, err_msg=name)
        names = ("num_hidden_layers", "num_nextn_predict_layers", "mtp_num_hidden_layers")
        own = first.config.get("text_config", first.config)
        assert {name: second.config.get(name) for name in names if own.get(name)} == {
            name: own[name] for name in names if own.get(name)
        }


def test_without_them_they_are_losses_by_name(golden: Path, tmp_path: Path) -> None:
    _, expected = checkpoint("glm4-moe", golden, tmp_path / "hf")
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32", nextn=False)
    assert {loss.subject for loss in report.losses} >= {"model.layers.4.eh_proj.weight", "model.layers.4.enorm.weight"}
    with modelfmt.open(tmp_path / "model.gguf") as file:
        assert file.metadata["glm4moe.block_count"] == 4
        assert not [name for name in file if name.startswith("blk.4.")]
    with llama.Network(tmp_path / "model.gguf") as network:
        np.testing.assert_allclose(network.logits(tokens()), expected.logits, atol=2e-3)


def test_a_configuration_that_speaks_of_layers_which_are_not_there(golden: Path, tmp_path: Path) -> None:
    """As transformers saves them."""
    case = next(case for case in MODELS if case.name == "glm4-moe")
    make(replace(case, config=case.config | {"num_nextn_predict_layers": 1}), golden, tmp_path / "hf")
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="F32")
    with modelfmt.open(tmp_path / "model.gguf") as file:
        assert file.metadata["glm4moe.block_count"] == 4
        assert "glm4moe.nextn_predict_layers" not in file.metadata


def test_lists_of_layers_cover_them() -> None:
    arch = archs.find("Qwen3_5ForConditionalGeneration")
    scope = {"n_layer": 2, "n_nextn": 1, "recurrent": [1, 1], "n_ff": [8, 9], "other": [1, 2, 3]}
    wide = nextn.widened(arch, scope)
    assert (wide["recurrent"], wide["n_ff"], wide["other"]) == ([1, 1, 0], [8, 9, 9], [1, 2, 3])
    metadata = {"qwen35.block_count": 3, "qwen35.nextn_predict_layers": 1, "qwen35.x": [1, 2, 3], "y": [1, 2, 3]}
    kept, count = nextn.of_file(arch, metadata)
    assert count == 1 and kept["qwen35.block_count"] == 2 and (kept["qwen35.x"], kept["y"]) == ([1, 2], [1, 2, 3])


@pytest.mark.parametrize(("layers", "count"), [(3, 3), (3, 2**40), (3, -1), (3, "x"), (3, True), ("x", 1), (None, 1)])
def test_counts_that_cannot_be_are_refused(layers: Any, count: Any) -> None:
    metadata = {"qwen35.block_count": layers, "qwen35.nextn_predict_layers": count}
    with pytest.raises(CorruptFile):
        nextn.of_file(archs.find("Qwen3_5ForConditionalGeneration"), metadata)
