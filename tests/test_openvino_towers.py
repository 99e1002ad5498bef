"""Encoder-decoders, pictures and sounds as graphs, in OpenVINO, beside transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino
import pytest

import modelfmt
import openvino_models
import openvino_towers
from modelfmt.errors import ModelfmtError

SAMPLE = ("t5-narrow", "umt5", "whisper-uneven", "vit", "clip", "clip-old", "clip-text-states")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Models and the folders of their checkpoints."""
    place, found = tmp_path_factory.mktemp("towers"), {}
    for name in SAMPLE:
        model = openvino_towers.models()[name][0](name)
        model.save_pretrained(place / name)
        found[name] = (model, place / name)
    return found


@pytest.mark.parametrize("name", SAMPLE)
def test_as_transformers_computes(name: str, made: Any, tmp_path: Path) -> None:
    """Encoders, two tokens and ten steps of a decoder's state, twice; every output of the others; and shapes."""
    model, folder = made[name]
    modelfmt.convert(folder, tmp_path / "m", to="openvino")
    assert openvino_towers.models()[name][1](model, tmp_path / "m") < 1e-5
    assert [line for path in (tmp_path / "m").glob("*.xml") for line in openvino_models.misjudged(path)] == []
    seen = openvino_models.both_shapes(folder)
    assert len(seen) > 20
    assert [row for row in seen if row[1] != row[2]] == []


def test_quantized(made: Any, tmp_path: Path) -> None:
    model, folder = made["umt5"]
    modelfmt.convert(folder, tmp_path / "m", to="openvino", quant="Q8_0")
    assert openvino_towers.models()["umt5"][1](model, tmp_path / "m", steps=2) < 0.1


def test_the_folder_is_that_of_optimum(made: Any, tmp_path: Path) -> None:
    """Names of files, inputs, outputs and variables."""
    modelfmt.convert(made["umt5"][1], tmp_path / "m", to="openvino")
    names = {path.name for path in (tmp_path / "m").iterdir() if path.suffix != ".json"}
    assert names == {f"openvino_{part}_model.{kind}" for part in ("encoder", "decoder") for kind in ("xml", "bin")}
    model = openvino.Core().read_model(tmp_path / "m" / "openvino_decoder_model.xml")
    inputs = [value.get_any_name() for value in model.inputs]
    assert inputs == ["input_ids", "encoder_hidden_states", "encoder_attention_mask", "beam_idx"]
    assert [value.get_any_name() for value in model.outputs] == ["logits"]
    variables = sorted(variable.get_info().variable_id for variable in model.get_variables())
    assert variables[:2] == [f"past_key_values.0.decoder.{part}present.0.decoder.{part}" for part in ("key", "value")]
    assert len(variables) == 8


def test_two_graphs_need_a_folder(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(made["umt5"][1], tmp_path / "m.xml")
    assert caught.value.code == "several-graphs"
