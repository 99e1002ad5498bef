"""The Python interface: arrays of every kind in, tensors out to whatever takes them, errors that say what is wrong."""

from __future__ import annotations

import threading
import time
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


def test_other_numbers_become_float32() -> None:
    for array in (VALUES.astype(">f4"), VALUES.astype(">f2"), VALUES.astype("f8"), (VALUES * 9).astype("i4")):
        wanted = ggml.quantize(8, array.astype(np.float32))
        assert modelfmt.quantize(array, "Q8_0").tobytes() == wanted, array.dtype.str
    with pytest.raises(modelfmt.ArrayError):
        modelfmt.quantize(VALUES > 0, "Q8_0")


FLOATS_8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.mark.parametrize("kind", FLOATS_8)
def test_8_bit_floats_of_ml_dtypes_and_torch(kind: str) -> None:
    tensor = torch.from_numpy(np.abs(VALUES)).to(getattr(torch, kind))
    wanted = ggml.quantize(8, tensor.to(torch.float32).numpy())
    assert modelfmt.quantize(tensor, "Q8_0").tobytes() == wanted
    array = tensor.view(torch.uint8).numpy().view(getattr(ml_dtypes, kind))
    assert modelfmt.quantize(array, "Q8_0").tobytes() == wanted


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x[:, ::2],
        lambda x: x[1:, 32:64],
        lambda x: x[:1].expand(5, -1),
        lambda x: x.detach().clone().requires_grad_(x.dtype.itemsize > 1),
        lambda x: torch.nn.Parameter(x, requires_grad=x.dtype.itemsize > 1),
        lambda x: torch._neg_view(x) if x.dtype.itemsize > 1 else x,
    ],
    ids=["transposed", "step", "slice", "expanded", "gradient", "parameter", "negated view"],
)
def test_torch_tensors_of_every_kind(kind: str, make: Callable[[Any], Any]) -> None:
    tensor = make(torch.from_numpy(VALUES.copy()).to(getattr(torch, kind)))
    wanted = ggml.quantize(8, tensor.detach().to(torch.float32).resolve_neg().contiguous().numpy())
    assert modelfmt.quantize(tensor, "Q8_0").tobytes() == wanted


class Exporter:
    """An array of some library that has DLPack and nothing else."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float8_e5m2"])
def test_dlpack_alone_is_enough(kind: str) -> None:
    tensor = torch.from_numpy(VALUES.copy()).to(getattr(torch, kind))
    wanted = ggml.quantize(8, tensor.to(torch.float32).numpy())
    assert modelfmt.quantize(Exporter(tensor.t().contiguous().t()), "Q8_0").tobytes() == wanted


def test_importance_and_blocks_may_be_tensors_too() -> None:
    weights = np.random.default_rng(6).random(512, np.float32).astype(ml_dtypes.bfloat16)
    wanted = ggml.quantize(12, VALUES, weights.astype(np.float32))
    tensor = torch.from_numpy(weights.astype(np.float32)).to(torch.bfloat16)
    for given in (weights, weights.tolist(), tensor, tensor.clone().requires_grad_()):
        assert modelfmt.quantize(VALUES, "Q4_K", weights=given).tobytes() == wanted
    blocks = torch.frombuffer(bytearray(wanted), dtype=torch.uint8).reshape(6, -1)
    assert modelfmt.dequantize(blocks, "Q4_K").tobytes() == ggml.dequantize(12, wanted).tobytes()


def test_out_is_any_memory_of_the_right_size() -> None:
    wanted = ggml.quantize(8, VALUES)
    values = ggml.dequantize(8, wanted).tobytes()
    tensor, floats = torch.zeros((6, 544), dtype=torch.uint8), torch.zeros(6, 512)
    buffer, floats_buffer = bytearray(len(wanted)), bytearray(len(values))
    for out in (tensor, buffer, memoryview(bytearray(len(wanted)))):
        assert modelfmt.quantize(VALUES, "Q8_0", out=out).tobytes() == wanted
    assert tensor.numpy().tobytes() == wanted and bytes(buffer) == wanted
    for out in (floats, floats_buffer):
        modelfmt.dequantize(wanted, "Q8_0", (6, 512), out=out)
    assert floats.numpy().tobytes() == values and bytes(floats_buffer) == values


def test_other_threads_run_while_a_kernel_does() -> None:
    x = np.random.default_rng(7).standard_normal((64, 4096)).astype(np.float32)
    times: list[float] = []

    def work() -> None:
        times.append(time.perf_counter())
        modelfmt.quantize(x, "IQ3_S")
        times.append(time.perf_counter())

    worker = threading.Thread(target=work)
    worker.start()
    seen = []
    while worker.is_alive():
        seen.append(time.perf_counter())
    began, ended = times
    middle = [at for at in seen if began + 0.3 * (ended - began) < at < ended - 0.3 * (ended - began)]
    assert middle  # a kernel that held the interpreter would leave none


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
    assert modelfmt.quantize(np.zeros((3, 0), "f4"), "Q4_K").shape == (3, 0)
    assert modelfmt.quantize([], "Q4_K").shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_that_are_not_finite_are_named(bad: float, threads: int) -> None:
    x = np.zeros((2000, 512), np.float32)
    x[1777, 300] = bad
    with pytest.raises(modelfmt.BadValue) as raised:
        modelfmt.quantize(x, "Q4_K", threads=threads)
    assert (raised.value.context["row"], raised.value.context["column"]) == (1777, 300)


@pytest.mark.parametrize("type", [row.name for row in modelfmt.types() if row.block_elements > 1 and row.can_quantize])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "bfloat16"])
def test_every_type_names_what_is_not_finite(type: str, kind: str) -> None:
    x = np.zeros((2, 3, 512), ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    x[1, 2, 411] = np.inf
    with pytest.raises(modelfmt.BadValue, match="row 5, column 411"):
        modelfmt.quantize(x, type, weights=np.ones(512))
    with pytest.raises(modelfmt.ShapeError):
        modelfmt.quantize(x[:, :, :500], type, weights=np.ones(500))


def test_what_does_not_fit_float32_is_not_finite() -> None:
    with pytest.raises(modelfmt.BadValue, match="row 0, column 3"):
        modelfmt.quantize(np.where(np.arange(32) == 3, 1e300, 0), "Q8_0")


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
        (lambda: modelfmt.quantize(VALUES, "Q4_K", weights="abc"), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", weights=[[1], [2, 3]]), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", threads=0), modelfmt.UsageError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", threads=1.5), modelfmt.UsageError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", out=[]), modelfmt.ShapeError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", out=bytes(6 * 288)), modelfmt.ShapeError),
        (lambda: modelfmt.quantize(VALUES, "Q4_K", out=bytearray(6 * 288 + 1)), modelfmt.ShapeError),
        (
            lambda: modelfmt.quantize(VALUES, "Q4_K", out=torch.empty(288, 6, dtype=torch.uint8).t()),
            modelfmt.ShapeError,
        ),
        (lambda: modelfmt.quantize(VALUES, 12), modelfmt.UsageError),
        (lambda: modelfmt.quantize({}, "Q4_K"), modelfmt.ArrayError),
        (lambda: modelfmt.quantize([[1], [2, 3]], "Q4_K"), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(torch.zeros(2, 512, device="meta"), "Q4_K"), modelfmt.ArrayError),
        (lambda: modelfmt.quantize(torch.zeros(2, 512, dtype=torch.complex64), "Q4_K"), modelfmt.ArrayError),
        (lambda: modelfmt.dequantize("abc", "Q4_K"), modelfmt.ArrayError),
        (lambda: modelfmt.dequantize(bytes(144), "Q4_K", (-1, -256)), modelfmt.ShapeError),
        (lambda: modelfmt.dequantize(bytes(144), "Q4_K", 256), modelfmt.ShapeError),
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
