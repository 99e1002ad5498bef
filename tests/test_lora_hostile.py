"""Broken and hostile adapters: an error with a stable code before anything is written, never an unchanged or a broken
model. The files are made here, without PEFT."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfmt
from modelfmt.checkpoints import peft_options
from modelfmt.errors import CorruptFile, ModelfmtError, UnsafePath, UnsupportedError

Q = "base_model.model.model.layers.0.self_attn.q_proj."
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
SHAPES = {f"{Q}lora_A.weight": (2, 8), f"{Q}lora_B.weight": (8, 2)}
MODEL = {"model.embed_tokens.weight": (16, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8)}


def arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    modelfmt.convert(tensors, folder / "adapter_model.safetensors", overwrite=True)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    modelfmt.convert(arrays(MODEL), path)
    return path


def refused(base: Path, adapter: Path, *, running: bool = False) -> ModelfmtError:
    """The error of merging; nothing is left behind, and what it raises has a path."""
    dest = base.parent / "out.safetensors"
    call: Callable[..., object] = modelfmt.convert if running else modelfmt.plan
    with pytest.raises(ModelfmtError) as caught:
        call(base, dest, adapter=adapter)
    assert not dest.exists() and caught.value.path
    return caught.value


def test_a_good_adapter_is_merged(base: Path, tmp_path: Path) -> None:
    tensors = arrays(SHAPES)
    adapter = write(tmp_path / "lora", CONFIG, tensors)
    modelfmt.convert(base, tmp_path / "out.safetensors", adapter=adapter)
    with modelfmt.open(tmp_path / "out.safetensors") as merged, modelfmt.open(base) as before:
        name = "model.layers.0.self_attn.q_proj.weight"
        change = 2 * tensors[f"{Q}lora_B.weight"] @ tensors[f"{Q}lora_A.weight"]
        np.testing.assert_allclose(merged[name].numpy(), before[name].numpy() + change, atol=1e-6)


FILES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "no second factor": ("adapter-pair", {f"{Q}lora_A.weight": (2, 8)}),
    "no first factor": ("adapter-pair", {f"{Q}lora_B.weight": (8, 2)}),
    "other rank": ("adapter-rank", {f"{Q}lora_A.weight": (3, 8), f"{Q}lora_B.weight": (8, 3)}),
    "ranks differ": ("adapter-rank", {f"{Q}lora_A.weight": (2, 8), f"{Q}lora_B.weight": (8, 3)}),
    "too wide": ("adapter-shape", {f"{Q}lora_A.weight": (2, 9), f"{Q}lora_B.weight": (8, 2)}),
    "too tall": ("adapter-shape", {f"{Q}lora_A.weight": (2, 8), f"{Q}lora_B.weight": (9, 2)}),
    "convolution": ("adapter-convolution", {f"{Q}lora_A.weight": (2, 8, 1, 1), f"{Q}lora_B.weight": (8, 2, 1, 1)}),
    "empty": ("adapter-key", {f"{Q}lora_A.weight": (0,), f"{Q}lora_B.weight": (0,)}),
    "magnitudes": ("adapter-pair", SHAPES | {f"{Q}lora_magnitude_vector": (8,)}),
    "no such module": (
        "adapter-unmatched",
        {"base_model.model.x.lora_A.weight": (2, 8), "base_model.model.x.lora_B.weight": (8, 2)},
    ),
    "a path for a module": ("adapter-unmatched", {"../../x.lora_A.weight": (2, 8), "../../x.lora_B.weight": (8, 2)}),
    "other tuner": ("adapter-unmatched", {"base_model.model.model.layers.0.self_attn.q_proj.hada_w1_a": (8, 2)}),
    "other part": ("adapter-key", SHAPES | {f"{Q}lora_E": (2, 1)}),
    "other adapter": ("adapter-key", SHAPES | {f"{Q}lora_A.second.weight": (2, 8)}),
    "twice": ("duplicate-key", SHAPES | {"model.layers.0.self_attn.q_proj.lora_A.weight": (2, 8)}),
    "saved in another shape": ("adapter-shape", SHAPES | {"base_model.model.model.embed_tokens.weight": (17, 8)}),
    "bias without a bias": ("lora-bias", SHAPES | {f"{Q}lora_B.bias": (8,)}),
}


@pytest.mark.parametrize("case", FILES)
def test_tensors_that_do_not_fit(case: str, base: Path, tmp_path: Path) -> None:
    code, shapes = FILES[case]
    assert refused(base, write(tmp_path / "lora", CONFIG, arrays(shapes))).code == code


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ia3": ("adapter-type", {"peft_type": "IA3"}),
    "loha": ("adapter-type", {"peft_type": "LOHA"}),
    "adalora": ("adapter-type", {"peft_type": "ADALORA"}),
    "vera": ("adapter-type", {"peft_type": "VERA"}),
    "no type": ("adapter-type", {"peft_type": None}),
    "pissa": ("adapter-start", {"init_lora_weights": "pissa_niter_16"}),
    "olora": ("adapter-start", {"init_lora_weights": "olora"}),
    "corda": ("adapter-start", {"init_lora_weights": "corda"}),
    "loftq": ("adapter-start", {"init_lora_weights": "loftq"}),
    "a new start": ("adapter-option", {"init_lora_weights": "magic"}),
    "qalora": ("adapter-option", {"use_qalora": True}),
    "layer replication": ("adapter-option", {"layer_replication": [[0, 4], [2, 5]]}),
    "arrow": ("adapter-option", {"arrow_config": {"top_k": 3}}),
    "tied adapters": ("adapter-option", {"ensure_weight_tying": True}),
    "an option of tomorrow": ("adapter-option", {"use_magic": True}),
    "alora": ("lora-merge", {"alora_invocation_tokens": [1, 2]}),
    "rank of text": ("adapter-config", {"r": "2"}),
    "true as a rank": ("adapter-config", {"r": True}),
    "rank zero": ("adapter-config", {"r": 0}),
    "huge rank": ("adapter-config", {"r": 10**30}),
    "large rank": ("adapter-rank", {"r": 10**6}),
    "infinite alpha": ("adapter-config", {"lora_alpha": float("inf")}),
    "alpha without number": ("adapter-config", {"lora_alpha": float("nan")}),
    "dora without magnitudes": ("adapter-pair", {"use_dora": True}),
    "dora as text": ("adapter-config", {"use_dora": "yes"}),
    "half a rank": ("adapter-rank", {"rank_pattern": {"q_proj": 1.5}}),
    "pattern of another rank": ("adapter-rank", {"rank_pattern": {"q_proj": 4}}),
    "patterns as a list": ("adapter-config", {"alpha_pattern": ["q_proj"]}),
    "bad pattern": ("adapter-pattern", {"alpha_pattern": {"q_proj(": 4}}),
    "tokens of text": ("adapter-config", {"trainable_token_indices": ["a"]}),
    "negative tokens": ("adapter-config", {"trainable_token_indices": [-1]}),
    "targets as a number": ("adapter-config", {"target_parameters": 7}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_expressed(case: str, base: Path, tmp_path: Path) -> None:
    code, options = OPTIONS[case]
    error = refused(base, write(tmp_path / "lora", CONFIG | options, arrays(SHAPES)))
    assert error.code == code, error


SLOW = (
    "(a+)+b",
    "(a|a)*b",
    "a?" * 30 + "a" * 30,
    "(a|aa)" * 30 + "b",
    ".*.*.*.*b",
    "(?=a)b",
    r"(a)\1",
    "x" * 600,
    "a{1,9}{1,9}",
)


@pytest.mark.parametrize("pattern", SLOW, ids=range(len(SLOW)))
def test_patterns_that_could_take_long_are_refused(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnsupportedError, match="adapter-pattern"):
        peft_options.read(CONFIG | {"rank_pattern": {pattern: 2}}, "x")
    assert time.monotonic() - began < 1


def test_patterns_that_people_write_are_understood() -> None:
    patterns = {
        r"^model\.layers\.(0|1)\.self_attn\.q_proj": 1,
        r".*mlp\.(up|down)_proj": 2,
        r"layers\.\d+\.k_proj": 3,
        "v_proj": 4,
    }
    options = peft_options.read(CONFIG | {"rank_pattern": patterns}, "x")
    found = {
        name: options.scale(name, "x")[0]
        for name in (
            "model.layers.1.self_attn.q_proj",
            "model.layers.2.self_attn.q_proj",
            "a.mlp.up_proj",
            "a.layers.17.k_proj",
            "v_proj",
            "a.v_proj",
            "a.xv_proj",
        )
    }
    assert list(found.values()) == [1, 2, 2, 3, 4, 4, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["A", "B"])
def test_values_that_are_not_finite(value: float, part: str, base: Path, tmp_path: Path) -> None:
    tensors = arrays(SHAPES)
    tensors[f"{Q}lora_{part}.weight"][1, 1] = value
    error = refused(base, write(tmp_path / "lora", CONFIG, tensors), running=True)
    assert error.code == "lora-not-finite" and f"lora_{part}" in str(error)


def test_weights_of_whole_numbers(base: Path, tmp_path: Path) -> None:
    tensors = {name: np.ones(shape, np.int32) for name, shape in SHAPES.items()}
    assert refused(base, write(tmp_path / "lora", CONFIG, tensors)).code == "adapter-dtype"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_that_lead_outside(name: str, base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", CONFIG, arrays(SHAPES))
    (adapter / name).rename(tmp_path / name)
    (adapter / name).symlink_to(f"../{name}")
    assert isinstance(refused(base, adapter), UnsafePath)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"r":1,"r":2}', "[" * 100_000, '"' + "x" * (9 << 20) + '"', '{"r": 1e999}']
)
def test_configurations_that_are_none(text: str, base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", CONFIG, arrays(SHAPES))
    (adapter / "adapter_config.json").write_text(text)
    refused(base, adapter)


def test_files_that_are_not_there(base: Path, tmp_path: Path) -> None:
    assert refused(base, tmp_path / "nowhere").code == "source-missing"
    adapter = write(tmp_path / "lora", CONFIG, arrays(SHAPES))
    (adapter / "adapter_model.safetensors").unlink()
    assert refused(base, adapter).code == "source-missing"
    with pytest.raises(ModelfmtError):
        modelfmt.open(adapter)


def test_an_adapter_cannot_be_changed_behind_a_plan(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora", CONFIG, arrays(SHAPES))
    plan = modelfmt.plan(base, tmp_path / "out.safetensors", adapter=adapter)
    write(adapter, CONFIG, arrays(SHAPES))
    with pytest.raises(CorruptFile, match="source-changed"):
        modelfmt.run(plan)
