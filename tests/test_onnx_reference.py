"""The NumPy reference: beside ONNX's own node tests, and beside ONNX Runtime on the graphs that we build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import modelfmt
import onnx_models
import onnx_reference
from modelfmt.graphs import reference
from modelfmt.tiles import Evaluator


def test_every_operator_gives_what_onnx_expects() -> None:
    """All node tests that consist of our operators; casts to small floats are refused."""
    found = [(case.name, onnx_reference.check(case)) for case in onnx_reference.cases()]
    wrong = [(name, result) for name, result in found if not result.startswith((*onnx_reference.NAMED, "refused"))]
    assert wrong == []
    assert sum(result == "equal" for _, result in found) > 500
    assert all("test_cast" in name for name, result in found if result.startswith("refused"))


def feeds(run: object, vocab: int) -> dict[str, np.ndarray]:
    ids = torch.randint(3, vocab, (2, 6), generator=torch.Generator().manual_seed(4)).numpy()
    mask = np.ones((2, 6), np.int64)
    mask[1, :2] = 0
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    known = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "token_type_ids": ids % 2}
    names = [value.name for value in run.get_inputs()]  # type: ignore[attr-defined]
    return {name: value for name, value in known.items() if name in names}


@pytest.mark.parametrize(
    ("name", "quant", "profile"),
    [
        ("gemma3", None, "auto"),
        ("qwen3-moe", None, "auto"),
        ("phi3-longrope", None, "auto"),
        ("llama", "Q4_0", "auto"),
        ("llama", "Q4_1", "auto"),
        ("llama", "Q8_0", "onnx-standard"),
        ("llama", "Q4_0", "onnx-standard"),
        ("roberta", None, "auto"),
    ],
)
def test_our_graphs_in_numpy_and_in_onnx_runtime(name: str, quant: str | None, profile: str, tmp_path: Path) -> None:
    """Both levels of attention, experts in a loop, blocks: two implementations, one result."""
    model = onnx_models.decoder(name) if name in onnx_models.DECODERS else onnx_models.encoder(name)
    model.save_pretrained(tmp_path / "model")
    source = tmp_path / "model"
    if quant == "Q4_1":  # a quantized embedding, too
        modelfmt.convert(source, tmp_path / "m.gguf", quant=quant, pure=True)
        source = tmp_path / "m.gguf"
    modelfmt.convert(source, tmp_path / "m.onnx", quant=None if source.suffix else quant, profile=profile)
    run = onnx_models.session(tmp_path / "m.onnx")
    given = feeds(run, 96) | onnx_models.empty_cache(run, 2)
    wanted = dict(zip([value.name for value in run.get_outputs()], run.run(None, given), strict=True))
    with modelfmt.open(tmp_path / "m.onnx") as opened:
        found = reference.run(opened.program, given, Evaluator(opened.files))
    seen = given["attention_mask"].astype(bool)  # what padding sees is nothing, which each makes of it what it likes
    for key, value in wanted.items():
        assert found[key].shape == value.shape
        places = (0, 2, 1, 3) if key.startswith("present") else range(value.ndim)
        assert np.abs(np.transpose(found[key] - value, places)[seen]).max() < 2e-5, key
