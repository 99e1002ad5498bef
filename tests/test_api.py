"""The Python interface: arrays of every kind in, tensors out to whatever takes them, errors that say what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import ggml
import modelfmt

VALUES = np.random.default_rng(4).standard_normal((6, 512)).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: np.asfortranarray(x),
        lambda x: torch.from_numpy(x.copy()),
        lambda x: torch.from_numpy(x.T.copy()).T,
        lambda x: x.tolist(),
    ],
    ids=["numpy", "column order", "torch", "torch strided", "list"],
)
def test_quantize_takes_arrays_of_every_kind(make: Callable[[Any], Any]) -> None:
    assert modelfmt.quantize(make(VALUES), "Q4_K").tobytes() == ggml.quantize(12, VALUES)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_converted_first(kind: str) -> None:
    array = VALUES.astype(np.float16 if kind == "float16" else ml_dtypes.bfloat16)
    wanted = ggml.quantize(8, array.astype(np.float32))
    assert modelfmt.quantize(array, "Q8_0").tobytes() == wanted
    tensor = torch.from_numpy(array.astype(np.float32)).to(getattr(torch, kind))
    assert modelfmt.quantize(tensor, "q8_0").tobytes() == wanted


def test_threads_and_out_do_not_change_the_bytes() -> None:
    x = np.random.default_rng(5).standard_normal((3000, 512)).astype(np.float32)
    wanted = modelfmt.quantize(x, "Q5_K")
    out = np.empty_like(wanted)
    assert modelfmt.quantize(x, "Q5_K", threads=3, out=out) is out
    assert np.array_equal(out, wanted)
    values = np.empty_like(x)
    assert modelfmt.dequantize(wanted, "Q5_K", threads=3, out=values) is values
    assert values.tobytes() == ggml.dequantize(13, wanted.tobytes()).tobytes()


def test_more_axes_than_two() -> None:
    x = VALUES.reshape(2, 3, 512)
    blocks = modelfmt.quantize(x, "Q6_K")
    assert blocks.shape == (2, 3, 420)
    assert modelfmt.dequantize(blocks, "Q6_K").shape == (2, 3, 512)
    assert (
        modelfmt.dequantize(blocks.tobytes(), "Q6_K", (2, 3, 512)).tobytes()
        == ggml.dequantize(14, blocks.tobytes()).tobytes()
    )


def test_no_rows() -> None:
    assert modelfmt.quantize(np.zeros((0, 256), "f4"), "Q4_K").shape == (0, 144)
    assert modelfmt.dequantize(np.zeros((0, 144), "u1"), "Q4_K").shape == (0, 256)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_that_are_not_finite_are_named(bad: float, threads: int) -> None:
    x = np.zeros((2000, 512), np.float32)
    x[1777, 300] = bad
    with pytest.raises(modelfmt.BadValue) as raised:
        modelfmt.quantize(x, "Q4_K", threads=threads)
    assert (raised.value.context["row"], raised.value.context["column"]) == (1777, 300)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: modelfmt.quantize(np.zeros((2, 100), "f4"), "Q4_K"), modelfmt.ShapeError),
        (lambda: modelfmt.quantize(np.float32(1), "Q4_K"), modelfmt.ShapeError),
        (lambda: modelfmt.quantize(VALUES, "Q4_Z"), modelfmt.UsageError),
        (lambda: modelfmt.quantize(VALUES, "I8"), modelfmt.UnsupportedError),
        (lambda: modelfmt.quantize(np.array(["a"]), "Q8_0"), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", weights=np.ones(3, "f4")), modelfmt.ShapeError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", weights=-np.ones(512, "f4")), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", out=np.empty(3, "u1")), modelfmt.ShapeError),
        (lambda: modelfmt.dequantize(np.zeros((1, 143), "u1"), "Q4_K"), modelfmt.ShapeError),
        (lambda: modelfmt.dequantize(b"12", "Q4_K", (1, 256)), modelfmt.ShapeError),
        (lambda: modelfmt.parse_size("many"), modelfmt.UsageError),
        (lambda: modelfmt.plan(VALUES.__class__, "o.gguf"), TypeError),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_tensors_go_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    arrays = {"f": VALUES, "b": VALUES.astype(ml_dtypes.bfloat16), "i": np.arange(6).reshape(2, 3)}
    modelfmt.convert(arrays, path, quant="auto")
    with modelfmt.open(path) as model:
        assert np.array_equal(np.asarray(model["f"]), VALUES)
        assert np.asarray(model["f"], dtype=np.float64).dtype == np.float64
        assert torch.equal(torch.from_dlpack(model["f"]), torch.from_numpy(VALUES))
        assert torch.equal(torch.from_dlpack(model["i"]), torch.arange(6).reshape(2, 3))
        assert np.array_equal(model["b"].numpy(), arrays["b"])
        assert np.array_equal(model["f"].rows(2, 4).view(np.float32), VALUES[2:4])
        assert (model.n_params, len(model)) == (2 * VALUES.size + 6, 3)
        with pytest.raises(modelfmt.UsageError):
            model["f"].rows(3, 99)


def test_a_quantized_tensor_reads_as_its_values(tmp_path: Path, golden: Path) -> None:
    path = tmp_path / "m.gguf"
    modelfmt.convert(golden / "checkpoints" / "llama3-big", path, quant="Q4_K_M")
    with modelfmt.open(path) as model:
        tensor = model["blk.1.ffn_up.weight"]
        blocks = tensor.numpy(dequantize=False)
        assert tensor.numpy().tobytes() == ggml.dequantize(12, blocks.tobytes()).tobytes()
    back = tmp_path / "back.safetensors"
    report = modelfmt.convert(path, back, quant="auto")
    with modelfmt.open(back) as model:
        assert model["blk.1.ffn_up.weight"].numpy().tobytes() == ggml.dequantize(12, blocks.tobytes()).tobytes()
    assert report.outputs[0].size == back.stat().st_size


def test_events_tell_the_story(tmp_path: Path) -> None:
    events: list[modelfmt.Event] = []
    report = modelfmt.convert(
        {"a": VALUES, "b": VALUES}, tmp_path / "o.safetensors", quant="F16", on_event=events.append
    )
    assert isinstance(events[0], modelfmt.PlanReady)
    assert isinstance(events[-1], modelfmt.Done)
    assert sorted(event.name for event in events if isinstance(event, modelfmt.TensorDone)) == ["a", "b"]
    last = [event for event in events if isinstance(event, modelfmt.Progress)][-1]
    assert (last.jobs_done, last.bytes_read) == (last.jobs, events[0].bytes_read)
    assert report.bytes_written == 2 * VALUES.size * 2
