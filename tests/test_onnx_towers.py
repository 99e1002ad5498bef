"""Encoder-decoders, pictures and sounds as graphs, in ONNX Runtime and in NumPy, beside transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import modelfmt
import onnx_models
import onnx_towers
from modelfmt import archs
from modelfmt.errors import ModelfmtError
from modelfmt.graphs import build, reference, shapes
from modelfmt.graphs.builder import Form
from modelfmt.graphs.seq2seq import buckets
from modelfmt.graphs.weights import bound
from modelfmt.tiles import Evaluator

SAMPLE = ("t5", "t5-narrow", "umt5", "whisper-uneven", "t5-encoder", "vit", "vit-states", "clip", "clip-text")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Models and the folders of their checkpoints."""
    place, found = tmp_path_factory.mktemp("towers"), {}
    for name in SAMPLE:
        model = onnx_towers.models()[name][0](name)
        model.save_pretrained(place / name)
        found[name] = (model, place / name)
    return found


def compare(name: str, model: Any, folder: Path) -> float:
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
    difference: float = onnx_towers.models()[name][1](model, folder)
    return difference


@pytest.mark.parametrize("name", SAMPLE)
def test_as_transformers_computes(name: str, made: Any, tmp_path: Path) -> None:
    """Encoders, two tokens and ten cached steps of decoders, every output of the others; 1e-4 was asked for."""
    model, folder = made[name]
    modelfmt.convert(folder, tmp_path / "m", to="onnx")
    assert compare(name, model, tmp_path / "m") < 1e-5


@pytest.mark.parametrize("name", ["t5-narrow", "umt5", "t5-encoder"])
def test_by_way_of_gguf(name: str, made: Any, tmp_path: Path) -> None:
    """From a GGUF file that does not carry the checkpoint's own files."""
    model, folder = made[name]
    modelfmt.convert(folder, tmp_path / "m.gguf", quant="F32", carry=False)
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "m", to="onnx")
    assert compare(name, model, tmp_path / "m") < 1e-5


@pytest.mark.parametrize(("name", "quant", "bound"), [("clip", "F16", 2e-2), ("whisper-uneven", "Q8_0", 0.1)])
def test_in_other_types(name: str, quant: str, bound: float, made: Any, tmp_path: Path) -> None:
    """Half precision, and blocks: those inside of branches, too."""
    model, folder = made[name]
    modelfmt.convert(folder, tmp_path / "m", to="onnx", quant=quant)
    assert compare(name, model, tmp_path / "m") < bound


def test_pytorch_checkpoints_too(made: Any, tmp_path: Path) -> None:
    model, folder = made["t5"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    modelfmt.convert(tmp_path / "old", tmp_path / "m", to="onnx")
    assert compare("t5", model, tmp_path / "m") < 1e-5


def test_the_folder_of_an_encoder_decoder_is_that_of_optimum(made: Any, tmp_path: Path) -> None:
    """Names of files, inputs and outputs; beside the graphs a weight of both stands once."""
    model, folder = made["t5"]
    modelfmt.convert(folder, tmp_path / "m", to="onnx", external="always")
    names = {path.name for path in (tmp_path / "m").iterdir() if path.suffix != ".json"}
    data = {"encoder_model.onnx_data", "decoder_model_merged.onnx_data"}
    assert names == {"encoder_model.onnx", "decoder_model_merged.onnx"} | data
    graph = onnx.load(tmp_path / "m" / "decoder_model_merged.onnx", load_external_data=False).graph
    inputs = [value.name for value in graph.input]
    assert inputs[:4] == [
        *("input_ids", "encoder_hidden_states", "encoder_attention_mask", "past_key_values.0.decoder.key"),
    ]
    assert inputs[-1] == "use_cache_branch"
    assert [value.name for value in graph.output][:5] == [
        *("logits", "present.0.decoder.key", "present.0.decoder.value"),
        *("present.0.encoder.key", "present.0.encoder.value"),
    ]
    shared = {e.key: e.value for t in graph.initializer if t.name == "shared.weight" for e in t.external_data}
    assert shared["location"] == "encoder_model.onnx_data"
    assert compare("t5", model, tmp_path / "m") < 1e-5


def test_two_graphs_need_a_folder(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(made["t5"][1], tmp_path / "m.onnx")
    assert caught.value.code == "several-graphs"


def test_what_gguf_has_no_architecture_for_says_what_it_becomes(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelfmtError, match="--to onnx") as caught:
        modelfmt.plan(made["clip"][1], tmp_path / "m.gguf")
    assert caught.value.code == "unsupported-architecture"


@pytest.mark.parametrize(("name", "file"), [("t5-narrow", "decoder_model_merged"), ("clip", "model")])
def test_our_graphs_in_numpy_and_in_onnx_runtime(name: str, file: str, made: Any, tmp_path: Path) -> None:
    """Both branches of a decoder, with caches of made-up values; pictures and texts."""
    modelfmt.convert(made[name][1], tmp_path / "m", to="onnx")
    run = onnx_models.session(tmp_path / "m" / f"{file}.onnx")
    sizes = {"batch_size": 2, "cache_heads": 6, "cache_head_size": 8, "image_batch_size": 3, "text_batch_size": 2}
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    generator = np.random.default_rng(0)
    for cached in (False, True):
        given = {"use_cache_branch": np.array([cached])} if file != "model" else {}
        for value in run.get_inputs():
            shape = [size if isinstance(size, int) else sizes.get(size, 5) for size in value.shape]
            if value.name not in given:
                given[value.name] = generator.standard_normal(shape).astype(kinds[value.type])
            if value.name.endswith("ids"):
                given[value.name] = generator.integers(3, 96, shape)
            if value.name.endswith("mask"):
                given[value.name] = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        wanted = dict(zip([value.name for value in run.get_outputs()], run.run(None, given), strict=True))
        with modelfmt.open(tmp_path / "m" / f"{file}.onnx") as opened:
            found = reference.run(opened.program, given, Evaluator(opened.files))
        for key, value in wanted.items():
            assert found[key].shape == value.shape, key
            assert np.abs(found[key] - value).max(initial=0) < 2e-5, key


@pytest.mark.parametrize("name", SAMPLE)
def test_shapes_of_the_structure_are_those_that_onnx_runtime_makes(name: str, made: Any, tmp_path: Path) -> None:
    """Every output, and every value that bears its name in the lowered graph, as onnx infers them. There hidden states
    have one axis for texts and tokens."""
    with modelfmt.open(made[name][1]) as model:
        tensors = {key: tensor.expr for key, tensor in model.tensors.items()}
        given = {"architecture": model.architecture, "config": model.config, "assets": model.assets}
        graphs = build.structural(bound(tensors=tensors, **given), Form(), model.architecture or "", model.assets)
    modelfmt.convert(made[name][1], tmp_path / "m", to="onnx")
    for stem, graph in graphs.items():
        inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m" / f"{stem}.onnx"), data_prop=True).graph
        theirs = {
            value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
            for value in [*inferred.value_info, *inferred.output]
        }
        ours, seen = shapes.infer(graph), 0
        for key in ours.keys() & theirs.keys():
            shape = [dim if isinstance(dim, int) else None for dim in ours[key].shape or ()]
            pairs = list(zip(shape, theirs[key], strict=False))
            if len(shape) != len(theirs[key]):
                pairs = [(shape[-1], theirs[key][-1])]
            assert all(None in pair or pair[0] == pair[1] for pair in pairs), key
            seen += sum(None not in pair for pair in pairs)
        assert seen > 20


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (8, 16), (6, 20)])
def test_distances_as_t5_counts_them(both_ways: bool, count: int, furthest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    ours = buckets(count, furthest, both_ways=both_ways)
    distances = torch.arange(-3 * furthest, 3 * furthest + 1)
    settings = {"bidirectional": both_ways, "num_buckets": count, "max_distance": furthest}
    theirs = T5Attention._relative_position_bucket(distances, **settings)
    assert (ours[np.clip(distances.numpy(), -furthest, furthest) + furthest] == theirs.numpy()).all()


def test_the_registry_of_graphs_says_what_the_tables_say() -> None:
    for place in {*archs.GRAPHS.values()}:
        arch = archs.load(place)
        assert {word for word, table in archs.GRAPHS.items() if table == place} == set(arch.hf), place
        assert {word for word, table in archs.GRAPH_TYPES.items() if table == place} == set(arch.model_type), place
        assert not arch.gguf and not any(param.key for param in arch.params), place


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("vit", {"image_size": [24, 32]}, "config-value"),
        ("vit", {"image_size": 32}, "tensor-shape"),
        ("vit", {"num_attention_heads": 5}, "config-value"),
        ("vit", {"hidden_act": "mish"}, "no-graph"),
        ("clip", {"vision_config": None}, "tensor-shape"),
        ("whisper-uneven", {"decoder_layers": 3}, "unmatched-tensors"),
        ("whisper-uneven", {"encoder_layers": 1}, "unmatched-tensors"),
    ],
)
def test_configurations_that_do_not_fit_are_named(name: str, change: Any, code: str, made: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(made[name][1], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelfmtError) as caught:
        modelfmt.plan(folder, tmp_path / "out", to="onnx")
    assert caught.value.code == code
