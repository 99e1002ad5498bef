"""What the tables of quality rest on: llama.cpp's predictions, what is computed from them, and importance matrices that
it computes, against transformers and torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

import modelfmt
from llama_products import Observer, Product
from modelfmt.checkpoints.importance import read
from modelfmt.storage.files import Files

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import importance
import quality
import reorder
from llama import Network, Session

WINDOWS = 2


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "lm" / "tinyshakespeare-5M"


@pytest.fixture(scope="module")
def full(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as an F32 file."""
    path = tmp_path_factory.mktemp("quality") / "F32.gguf"
    modelfmt.convert(folder, path, quant="F32")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def text(full: Path, folder: Path) -> quality.Text:
    return quality.windows(full, (folder / "heldout.txt").read_text(), WINDOWS)


def test_windows_are_the_text(full: Path, folder: Path, text: quality.Text) -> None:
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode((folder / "heldout.txt").read_text()).ids
    half = (len(ids) - 1) // quality.WINDOW // WINDOWS * quality.WINDOW
    for at, tokens, following in zip((0, half), text.tokens, text.following, strict=True):
        assert tokens.tolist() == ids[at : at + quality.WINDOW]
        assert following.tolist() == ids[at + 1 : at + quality.WINDOW + 1]


def test_another_order_is_the_same_model_in_other_blocks(
    full: Path, folder: Path, text: quality.Text, tmp_path: Path
) -> None:
    other = reorder.reorder(folder, tmp_path / "model", seed=1)
    modelfmt.convert(other, tmp_path / "{type}.gguf", quant=["F32", "Q2_K"])
    modelfmt.convert(folder, tmp_path / "own.gguf", quant="Q2_K")
    reference = list(quality.predictions(full, text.tokens))
    found = {
        path.stem: quality.compare(quality.predictions(path, text.tokens), reference, text.following).divergence
        for path in tmp_path.glob("*.gguf")
    }
    assert (np.abs(found["F32"]) < 1e-9).all()
    assert (found["Q2_K"] > 1e-3).all() and (found["own"] > 1e-3).all() and (found["Q2_K"] != found["own"]).all()
    with modelfmt.open(tmp_path / "F32.gguf") as shuffled, modelfmt.open(full) as own:
        assert shuffled.keys() == own.keys()
        for name in own:
            one, two = shuffled[name].numpy(), own[name].numpy()
            assert not np.array_equal(one, two) and np.array_equal(np.sort(one, axis=None), np.sort(two, axis=None))


def test_predictions_are_those_of_transformers(full: Path, model: Any, text: quality.Text) -> None:
    with torch.no_grad():
        logits = model(torch.from_numpy(text.tokens)).logits[:, quality.WARM_UP :]
    wanted = torch.log_softmax(logits.double(), -1)
    found = list(quality.predictions(full, text.tokens))
    np.testing.assert_allclose(np.stack(found), wanted.numpy(), atol=1e-4)

    right = torch.from_numpy(text.following[:, quality.WARM_UP :])
    loss = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), right.flatten())
    value, error = quality.perplexity(quality.compare(found, found, text.following))
    assert value == pytest.approx(loss.exp().item(), rel=1e-5)
    assert 20 < value < 40 and 0 < error < value  # 3.4 nats held out, as the data's README says


def test_divergence_is_torchs_and_that_of_a_model_from_itself_is_zero(full: Path, text: quality.Text) -> None:
    reference = list(quality.predictions(full, text.tokens))
    same = quality.compare(reference, reference, text.following)
    assert same.divergence.tolist() == [0] * WINDOWS and same.same.tolist() == [1] * WINDOWS

    rng = np.random.default_rng(0)
    other = [quality.log_probabilities(rng.standard_normal(x.shape).astype("f4") + x.astype("f4")) for x in reference]
    found = quality.compare(other, reference, text.following)
    for at, (ours, theirs) in enumerate(
        zip(map(torch.from_numpy, other), map(torch.from_numpy, reference), strict=True)
    ):
        wanted = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean").item()
        assert wanted > 0.1 and found.divergence[at] == pytest.approx(wanted, rel=1e-12)
        assert found.same[at] == (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()


def test_the_share_removed_is_that_of_the_means() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random(500) + 1, rng.random(500)
    share, error = quality.removed(*(quality.Quality(x, x, x) for x in (one, other)))
    assert share == pytest.approx(1 - other.mean() / one.mean())
    pairs = rng.integers(0, 500, (4000, 500))  # bootstrap
    assert error == pytest.approx(np.std(1 - other[pairs].mean(1) / one[pairs].mean(1)), rel=0.1)


def test_the_error_of_a_mean_covers_windows_and_orders() -> None:
    """As often as a standard error should: about two thirds of the time."""
    rng = np.random.default_rng(2)
    shape = (200, 6, 20)  # trials, orders, windows
    values = 5 + rng.standard_normal((200, 1, 20)) + rng.standard_normal((200, 6, 1)) + rng.standard_normal(shape) / 4
    within = [abs(value - 5) < error for value, error in map(quality.mean, values)]
    assert 0.55 < np.mean(within) < 0.8


def test_importance_is_the_energy_of_what_each_weight_meets(
    full: Path, folder: Path, model: Any, tmp_path: Path
) -> None:
    out = tmp_path / "importance.gguf"
    importance.compute(full, folder / "training-sample.txt", out, most=WINDOWS)
    found = read(str(out), Files())
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("training-sample.txt",), WINDOWS, 256)
    assert len(found) == 7 * 6

    energy: dict[str, NDArray[np.float64]] = {}
    layers = {"blk.0.attn_q.weight": "0.self_attn.q_proj", "blk.3.attn_output.weight": "3.self_attn.o_proj"}
    layers |= {"blk.5.ffn_down.weight": "5.mlp.down_proj", "blk.5.ffn_gate.weight": "5.mlp.gate_proj"}
    for name, module in layers.items():

        def keep(_module: Any, inputs: tuple[torch.Tensor], name: str = name) -> None:
            energy[name] = inputs[0].double().pow(2).sum((0, 1)).numpy()

        model.get_submodule(f"model.layers.{module}").register_forward_pre_hook(keep)
    texts = importance.windows(full, (folder / "training-sample.txt").read_text(), 256, WINDOWS)
    with torch.no_grad():
        model(torch.tensor(texts))
    for name in layers:
        np.testing.assert_allclose(found.weights(name)[0], energy[name] / (WINDOWS * 256), rtol=1e-4)


def test_experts_are_told_apart(golden: Path, tmp_path: Path) -> None:
    """The router meets what the experts meet: all experts together have its energy once for each use."""
    folder, path = golden / "checkpoints" / "qwen3-moe", tmp_path / "moe.gguf"
    modelfmt.convert(folder, path, quant="F32")
    config = json.loads((folder / "config.json").read_text())
    experts, uses = config["num_local_experts"], config["num_experts_per_tok"]
    texts = [np.random.default_rng(3).integers(5, 500, 64).tolist()]
    entries = importance.collect(path, texts, "made up").entries
    router, gate = entries["blk.0.ffn_gate_inp.weight"], entries["blk.0.ffn_gate_exps.weight"]
    assert gate.in_sum2.shape == (experts, config["hidden_size"])
    assert gate.counts.sum() == uses * 64 and len(set(gate.counts.tolist())) > 1
    np.testing.assert_allclose(gate.in_sum2.sum(axis=0), uses * router.in_sum2[0], rtol=1e-5)
    down = entries["blk.0.ffn_down_exps.weight"]
    assert down.counts.tolist() == gate.counts.tolist() and (down.in_sum2[down.counts > 0] > 0).all()


def test_what_an_observer_raises_comes_out(full: Path) -> None:
    def refuse(product: Product) -> None:
        raise ValueError(product.weight)

    with (
        Network(full) as network,
        Session(network, products=Observer(refuse)) as session,
        pytest.raises(ValueError, match=r"blk\.0\.attn_"),
    ):
        session.run(list(range(32)))
