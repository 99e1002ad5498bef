"""Graphs built from checkpoints, in OpenVINO, beside transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import modelfmt
import onnx_models
import openvino_models
from modelfmt.graphs import build, shapes
from modelfmt.graphs import openvino as lowering
from modelfmt.graphs.builder import Form
from modelfmt.graphs.weights import bound

NAMES = ("llama", "gemma2", "gemma3", "phi3-longrope", "qwen3-moe", "glm", "gpt2", "bert", "roberta")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Models and their folders, by name."""
    place, found = tmp_path_factory.mktemp("checkpoints"), {}
    for name in NAMES:
        model = onnx_models.decoder(name) if name in onnx_models.DECODERS else onnx_models.encoder(name)
        model.save_pretrained(place / name)
        found[name] = (model, place / name)
    return found


KERNELS = {
    "llama": {"RMS": 7, "RoPE": 6, "ScaledDotProductAttention": 3},
    "gemma2": {"RMS": 13, "RoPE": 6},
    "gemma3": {"RMS": 43, "RoPE": 14, "ScaledDotProductAttention": 7},
    "phi3-longrope": {"RMS": 7, "RoPE": 6, "ScaledDotProductAttention": 3},
    "qwen3-moe": {"RMS": 13, "RoPE": 6, "ScaledDotProductAttention": 3, "GatherMatmul": 9},
    "glm": {"RMS": 7, "RoPE": 6, "ScaledDotProductAttention": 3},
    "gpt2": {"ScaledDotProductAttention": 3, "MVN": 7},
    "bert": {"MVN": 7, "Subgraph": 3},
    "roberta": {"MVN": 7, "Subgraph": 3},
}
"""What OpenVINO 2026.4 makes of the patterns of each graph; keys and values are joined inside of the attention."""


@pytest.mark.parametrize("name", NAMES)
def test_as_transformers_computes(name: str, checkpoints: Any, tmp_path: Path) -> None:
    """Prefill of a padded batch and ten steps of the state within 1e-5 (1e-4 was asked for), by the fused kernels, and
    the shapes in the file are those that OpenVINO infers."""
    model, folder = checkpoints[name]
    modelfmt.convert(folder, tmp_path / "m.xml")
    run = openvino_models.compiled(tmp_path / "m.xml")
    measure = openvino_models.difference if name in onnx_models.DECODERS else openvino_models.encoder_difference
    assert measure(model, run) < 1e-5
    made = openvino_models.kernels(run)
    assert {kind: made[kind] for kind in KERNELS[name]} == KERNELS[name]
    assert not openvino_models.misjudged(tmp_path / "m.xml")


@pytest.mark.parametrize("name", NAMES)
def test_structural_shapes_are_those_of_the_lowered_graph(name: str, checkpoints: Any) -> None:
    """Each structural value that is there after the lowering has the shape that its structural node says."""
    with modelfmt.open(checkpoints[name][1]) as model:
        tensors = {key: tensor.expr for key, tensor in model.tensors.items()}
        given = {"architecture": model.architecture, "config": model.config, "assets": model.assets}
        graph = build.structural(bound(tensors=tensors, **given), Form(), model.architecture or "", model.assets)
    lowered = {value.name: value for value in lowering.lower(graph, Form())[0].graph.values}
    seen: list[tuple[str, Any, Any]] = []
    for key, ours in shapes.infer(graph).items():
        theirs = lowered.get(key)
        if theirs and len(theirs.shape or ()) == len(ours.shape or ()):  # values of heads lie otherwise
            known = tuple(b if a is None else a for a, b in zip(theirs.shape or (), ours.shape or (), strict=True))
            seen.append((key, (ours.type, ours.shape), (theirs.type, known)))
    assert len(seen) > 20
    assert [row for row in seen if row[1] != row[2]] == []
