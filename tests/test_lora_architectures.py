"""Adapters on architectures whose modules are not Llama's: base with adapter, merged file and PEFT's model in llama.cpp
and torch; and what llama.cpp would ignore, which is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import llama
import modelfmt
from adapters import adapted
from folders import computed, tokens
from modelfmt.errors import UnsupportedError
from test_arch_models import ENCODERS, MODELS, Case, make

CASES = {case.name: case for case in (*MODELS, *ENCODERS)}
RUN = {
    "bert": r".*encoder.*(query|key|value|dense)",
    "mamba": ["in_proj", "x_proj"],
    "falcon-h1-scaled": ["q_proj", "k_proj", "o_proj", "in_proj", "gate_proj", "down_proj"],
    "nemotron-h": ["q_proj", "v_proj", "o_proj", "in_proj", "up_proj", "down_proj"],
    "llama4": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    "hy3": ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "deepseek2": ["o_proj", "down_proj"],
    "minimax-01": ["q_proj", "qkv_proj", "out_proj", "output_gate"],
}
IGNORED = (
    ("deepseek2", "q_a_proj", "attn_q_a"),
    ("deepseek2", "q_b_proj", "attn_q_b"),
    ("deepseek2", "kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("deepseek2", "kv_b_proj", "attn_k_b"),
    ("deepseek2", "lm_head", "output.weight"),
    ("deepseek2-lite", "q_proj", "attn_q"),
    ("minicpm3", "kv_b_proj", "attn_kv_b"),
    ("glm-dsa", "weights_proj", "indexer.proj"),
    ("glm-dsa", "wk", "indexer.attn_k"),
    ("glm-dsa", "wq_b", "indexer.attn_q_b"),
)
"""A model, a module, the tensor of the file that llama.cpp multiplies without looking for an adapter (measured with
files that said it all the same: the base's own logits came out)."""


def made(case: Case, modules: Any, golden: Path, work: Path) -> Any:
    """A base and an adapter in the folders `hf` and `lora`; returns PEFT's model."""
    return adapted(make(case, golden, work / "hf"), work / "lora", target_modules=modules)


def run(case: Case, path: Path, adapter: Path | None = None) -> NDArray[np.float64]:
    with (
        llama.Network(path) as network,
        llama.Session(network, embeddings=case in ENCODERS, adapter=adapter) as session,
    ):
        return normalized(case, session.run(tokens()))


def normalized(case: Case, values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    if case in ENCODERS:
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return wide - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) - wide.max(1, keepdims=True)


@pytest.mark.parametrize("name", RUN)
def test_a_base_with_an_adapter_and_the_merged_file_compute_what_peft_does(
    name: str, golden: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    expected = normalized(case, computed(made(case, RUN[name], golden, tmp_path)))
    modelfmt.convert(tmp_path / "hf", tmp_path / "base.gguf", quant="F32")
    modelfmt.convert(tmp_path / "hf", tmp_path / "merged.gguf", quant="F32", adapter=tmp_path / "lora")
    modelfmt.convert(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / "hf")
    merged = run(case, tmp_path / "merged.gguf")
    np.testing.assert_allclose(merged, expected, atol=5e-4)
    np.testing.assert_allclose(run(case, tmp_path / "base.gguf", tmp_path / "lora.gguf"), merged, atol=2e-4)
    assert np.abs(run(case, tmp_path / "base.gguf") - merged).max() > 0.1


@pytest.mark.parametrize(("name", "module", "tensor"), IGNORED)
def test_adapters_that_llama_cpp_would_ignore_are_refused(
    name: str, module: str, tensor: str, golden: Path, tmp_path: Path
) -> None:
    made(CASES[name], [module], golden, tmp_path)
    with pytest.raises(UnsupportedError, match="looks for no adapter") as caught:
        modelfmt.plan(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / "hf")
    assert caught.value.code == "lora-adapter"
    assert tensor in str(caught.value.place)
    modelfmt.plan(tmp_path / "hf", tmp_path / "merged.gguf", quant="F32", adapter=tmp_path / "lora")


def test_modules_that_the_checkpoint_has_in_one_are_refused(golden: Path, tmp_path: Path) -> None:
    """transformers has queries, keys and values of Nomic BERT apart, its checkpoints have them in one."""
    made(CASES["nomic-bert"], r".*(q_proj|v_proj)", golden, tmp_path)
    for options in ({"adapter": tmp_path / "lora"}, {}):
        source = tmp_path / ("hf" if options else "lora")
        with pytest.raises(UnsupportedError) as caught:
            modelfmt.plan(source, tmp_path / "x.gguf", **options or {"base": tmp_path / "hf"})
        assert caught.value.code == "adapter-unmatched"
