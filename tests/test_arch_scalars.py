"""Tensors that are metadata in the file, of one value or of a few whole numbers: read when the plan is made, checked,
and back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelfmt
from folders import contents
from made_up import headers
from modelfmt import archs
from modelfmt.archs.bind import Bound, to_gguf
from modelfmt.archs.terms import evaluate
from modelfmt.archs.unbind import to_huggingface
from modelfmt.errors import CorruptFile, ModelfmtError, UnsupportedError
from modelfmt.ir.ops import Constant, Expression
from test_arch_models import MODELS, make, of_the_text

ARCH = archs.find("ApertusForCausalLM")
CONFIG = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG |= {"max_position_embeddings": 64}
ALPHA = "model.layers.1.mlp.act_fn.alpha_n"


def value(expr: Expression) -> list[float]:
    assert isinstance(expr, Constant)
    return [*map(float, np.frombuffer(expr.data, np.float32))]


def tensors(**changes: Expression | None) -> dict[str, Expression]:
    found = headers(ARCH, CONFIG)
    for layer in range(2):
        for name, number in (("alpha_n", 0.25), ("alpha_p", 0.5 + layer)):
            found[f"model.layers.{layer}.mlp.act_fn.{name}"] = one(number)
    return {name: expr for name, expr in (found | changes).items() if expr is not None}


def one(number: float, shape: tuple[int, ...] = (1,)) -> Constant:
    return Constant(struct.pack("<f", number), shape, "F32")


def bound(**changes: Expression | None) -> Bound:
    return to_gguf(ARCH, tensors=tensors(**changes), config=CONFIG, assets={}, value=value)


def test_a_list_with_a_number_for_each_layer() -> None:
    found = {key: (kind, numbers) for key, kind, numbers in bound().metadata if key.startswith("xielu")}
    assert found["xielu.alpha_p"] == ("ARRAY:FLOAT32", [0.5, 1.5])
    assert found["xielu.beta"] == ("ARRAY:FLOAT32", [0.5, 0.5])
    assert found["xielu.eps"] == ("ARRAY:FLOAT32", [-1e-6, -1e-6])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (None, "unmatched-tensors"),
        (one(0.0, (2,)), "tensor-shape"),
        (one(float("nan")), "tensor-value"),
        (one(float("-inf")), "tensor-value"),
    ],
)
def test_what_is_no_number_is_refused(change: Expression | None, code: str) -> None:
    with pytest.raises((CorruptFile, UnsupportedError)) as caught:
        bound(**{ALPHA: change})
    assert caught.value.code == code


@pytest.mark.parametrize("numbers", [None, 3, "ab", [], [1.0], [1.0, True], [1.0, "x"], [1.0, 2.0, 3.0], [1, 2]])
def test_a_file_with_another_list_is_refused(numbers: Any) -> None:
    file = bound()
    made = {tensor.name: tensor.expr for tensor in file.tensors}
    keys = {key: entry for key, _, entry in file.metadata} | {"xielu.alpha_n": numbers}
    with pytest.raises(ModelfmtError) as caught:
        to_huggingface(ARCH, tensors=made, metadata=keys)
    assert caught.value.code == "config-value"
    assert caught.value.place == "xielu.alpha_n"


def test_values_of_bfloat16_come_back_in_their_type_and_are_not_carried_twice(golden: Path, tmp_path: Path) -> None:
    model = make(next(case for case in MODELS if case.name == "apertus"), golden, tmp_path / "hf")
    model.bfloat16().save_pretrained(tmp_path / "hf")
    report = modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant="BF16")
    with modelfmt.open(tmp_path / "model.gguf") as file:
        assert not [key for key in file.metadata if key.startswith("modelfmt.tensor")]
        numbers = np.array(file.metadata["xielu.alpha_n"], np.float32)
    assert (numbers == numbers.astype(ml_dtypes.bfloat16).astype(np.float32)).all()
    assert report.losses == ()
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "hf")


NGRAMS = next(case for case in MODELS if case.name == "qwen4-exp-ngrams")
HASHES = "model.layers.1.ple.ple_embedding."
SIZES = [307, 311, 313, 317]
LISTS = {
    "layer_multipliers": [1, 2**53 + 1, 2**63 - 1],
    "ngram_heads_offsets": [0, 307, 618, 931],
    "ngram_heads_vocab_sizes": SIZES,
}
KEYS = ("layer_multipliers", "head_offsets", "head_vocab_sizes")


def whole(expr: Expression) -> list[float]:
    assert isinstance(expr, Constant)
    return [*map(int, np.frombuffer(expr.data, expr.stored.numpy))]


def with_lists(**changes: Any) -> Bound:
    arch, config = archs.find(NGRAMS.table), of_the_text(NGRAMS)
    found = headers(arch, config)
    for name, numbers in (LISTS | changes).items():
        found[HASHES + name] = Constant(np.array(numbers, np.int64).tobytes(), (len(numbers),), "I64")
    return to_gguf(arch, tensors=found, config=config, assets={}, value=whole)


def test_whole_numbers_are_exact_in_the_file_and_back() -> None:
    file = with_lists()
    found = {key: (kind, numbers) for key, kind, numbers in file.metadata}
    for key, numbers in zip(KEYS, LISTS.values(), strict=True):
        assert found[f"qwen4exp.ple.{key}"] == ("ARRAY:UINT64", numbers)
    assert found["qwen4exp.ple.layers"] == ("ARRAY:INT32", [1])
    made = {tensor.name: tensor.expr for tensor in file.tensors}
    keys = {key: entry for key, _, entry in file.metadata}
    arch = archs.of_gguf(keys | {"general.architecture": "qwen4exp"}, made)
    back = {tensor.name: tensor.expr for tensor in to_huggingface(arch, tensors=made, metadata=keys).tensors}
    assert {name: whole(back[HASHES + name]) for name in LISTS} == LISTS


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"layer_multipliers": [1, 2]}, "tensor-shape"),
        ({"layer_multipliers": [1, 2, 0]}, "tensor-value"),
        ({"ngram_heads_offsets": [0, 307, 618, -1]}, "tensor-value"),
        ({"ngram_heads_offsets": [0, 307, 618, 1280]}, "tensor-value"),
        ({"ngram_heads_vocab_sizes": [307, 311, 313, 0]}, "tensor-value"),
    ],
)
def test_whole_numbers_out_of_range_are_refused(change: Any, code: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        with_lists(**change)
    assert caught.value.code == code


@pytest.mark.parametrize("key", [*KEYS, "layers"])
@pytest.mark.parametrize("numbers", [3, "ab", [1], [1, 2, 3, True], [1, 2, 3, 4.0], [1, 2, 3, 2**63], [-1, 2, 3, 4]])
def test_a_file_with_other_whole_numbers_is_refused(key: str, numbers: Any) -> None:
    file = with_lists()
    made = {tensor.name: tensor.expr for tensor in file.tensors}
    keys = {key: entry for key, _, entry in file.metadata}
    if (key, numbers) == ("layers", [1]):
        numbers = [4]
    keys[f"qwen4exp.ple.{key}"] = numbers
    with pytest.raises(ModelfmtError) as caught:
        to_huggingface(archs.load("qwen4.QWEN4_EXP_NGRAMS"), tensors=made, metadata=keys)
    assert caught.value.code == "config-value"


def test_primes_are_those_of_transformers() -> None:
    from transformers.models.qwen4_exp.modeling_qwen4_exp import _find_nth_prime_after

    for start, count in ((1, 4), (2, 1), (300, 4), (20_000_000, 3)):
        expected = sum(_find_nth_prime_after(start - 1, at + 1) for at in range(count))
        assert evaluate("primes(start, count)", {"start": start, "count": count, "n_layer": 1}) == expected
