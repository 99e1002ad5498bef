"""Graphs built from checkpoints, in OpenVINO, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
import transformers

import modelfmt
import onnx_models
import openvino_models
from modelfmt.errors import ModelfmtError

NAMES = ("llama", "gemma2", "gemma3", "phi3-longrope", "qwen3-moe", "glm", "gpt2", "bert", "roberta", "modernbert")


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
    "modernbert": {},
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
    seen = openvino_models.both_shapes(checkpoints[name][1])
    assert len(seen) > 20
    assert [row for row in seen if row[1] != row[2]] == []


def test_by_way_of_gguf(checkpoints: Any, tmp_path: Path) -> None:
    """From a GGUF file that does not carry the checkpoint's own files."""
    model, folder = checkpoints["gemma3"]
    modelfmt.convert(folder, tmp_path / "m.gguf", quant="F32", carry=False)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m.xml")
    assert openvino_models.difference(model, openvino_models.compiled(tmp_path / "m.xml"), steps=2) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_type(dtype: torch.dtype, checkpoints: Any, tmp_path: Path) -> None:
    """As many bytes as in the checkpoint, computed with in float32."""
    transformers.AutoModelForCausalLM.from_pretrained(checkpoints["llama"][1], dtype=dtype).save_pretrained(tmp_path)
    modelfmt.convert(tmp_path, tmp_path / "m.xml")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert openvino_models.difference(model, openvino_models.compiled(tmp_path / "m.xml"), steps=2) < 1e-5
    nodes = openvino.Core().read_model(tmp_path / "m.xml").get_ops()
    kinds = [node.get_output_element_type(0) for node in nodes if node.get_friendly_name().endswith("weight")]
    assert set(kinds) == {openvino.Type.bf16 if dtype == torch.bfloat16 else openvino.Type.f16}
    assert not modelfmt.plan(tmp_path, tmp_path / "n.xml").losses


def test_the_folder_is_that_of_optimum(checkpoints: Any, tmp_path: Path) -> None:
    """The names of files, inputs, outputs and variables, and where constants lie."""
    modelfmt.convert(checkpoints["llama"][1], tmp_path / "out", to="openvino")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "generation_config.json", "openvino_model.xml", "openvino_model.bin"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    model = openvino.Core().read_model(tmp_path / "out" / "openvino_model.xml")
    given = [(value.get_any_name(), str(value.get_partial_shape())) for value in model.inputs]
    assert given == [
        ("input_ids", "[?,?]"),
        ("attention_mask", "[?,?]"),
        ("position_ids", "[?,?]"),
        ("beam_idx", "[?]"),
    ]
    assert [value.get_any_name() for value in model.outputs] == ["logits"]
    variables = [variable.get_info().variable_id for variable in model.get_variables()]
    parts = [f"{layer}.{part}" for layer in range(3) for part in ("key", "value")]
    assert sorted(variables) == [f"past_key_values.{part}present.{part}" for part in parts]
    text = (tmp_path / "out" / "openvino_model.xml").read_text()
    assert all(int(piece.split('"')[0]) % 64 == 0 for piece in text.split('offset="')[1:])


def test_equal_inputs_give_equal_bytes(checkpoints: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        modelfmt.convert(checkpoints["qwen3-moe"][1], tmp_path / f"{name}.xml", threads=1 if name == "a" else 2)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert (tmp_path / "a.xml").read_bytes() == (tmp_path / "b.xml").read_bytes()


@pytest.mark.parametrize("pooled", [False, True])
def test_decoders_without_a_head_give_states(pooled: bool, tmp_path: Path) -> None:
    """An embedding model on a decoder's body: hidden states, or the last token's, normalised."""
    model, batch = onnx_models.headless(tmp_path / "m", pooled=pooled)
    modelfmt.convert(tmp_path / "m", tmp_path / "m.xml")
    run = openvino_models.compiled(tmp_path / "m.xml")
    assert [value.get_any_name() for value in run.inputs] == ["input_ids", "attention_mask"]
    found = run({name: value.numpy() for name, value in batch.items()})
    with torch.no_grad():
        theirs = model(**batch).last_hidden_state.numpy()
    assert np.abs(found[0] - theirs)[batch["attention_mask"].numpy().astype(bool)].max() < 1e-5
    if pooled:
        last = theirs[[0, 1], [8, 5]]
        assert np.abs(found[1] - last / np.linalg.norm(last, axis=-1, keepdims=True)).max() < 1e-5
    assert not openvino_models.misjudged(tmp_path / "m.xml")


def test_sentence_embeddings_of_the_real_minilm(tmp_path: Path) -> None:
    folder, batch, theirs, pooled = onnx_models.minilm()
    modelfmt.convert(folder, tmp_path / "minilm", to="openvino")
    found = openvino_models.compiled(tmp_path / "minilm" / "openvino_model.xml")(batch)
    assert (np.abs(found["token_embeddings"] - theirs) * batch["attention_mask"][..., None]).max() < 1e-4
    assert (found["sentence_embedding"] * pooled).sum(-1).min() > 0.99999
    assert not openvino_models.misjudged(tmp_path / "minilm" / "openvino_model.xml")


@pytest.mark.parametrize(
    ("wishes", "code"),
    [
        ({"quant": "Q2_K"}, "quant-container"),
        ({"external": "always"}, "option-unused"),
        ({"profile": "ort"}, "option-unused"),
        ({"split_size": "1G"}, "option-unused"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(wishes: Any, code: str, checkpoints: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(checkpoints["llama"][1], tmp_path / "m.xml", **wishes)
    assert caught.value.code == code


def test_graphs_are_not_read(checkpoints: Any, tmp_path: Path) -> None:
    modelfmt.convert(checkpoints["gpt2"][1], tmp_path / "m.xml")
    with pytest.raises(ModelfmtError, match="written, not read"):
        modelfmt.open(tmp_path / "m.xml")
