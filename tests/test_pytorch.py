"""PyTorch files in every form that torch 2.13 writes, and some of before: equal to torch.load, bit for bit."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hostile_pickles
import modelfmt
from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.formats import pytorch
from modelfmt.ir.ops import Leaf, Strided

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64, "C128": torch.complex128, "C32": torch.complex32, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
}  # fmt: skip
OLD = {"_use_new_zipfile_serialization": False}
FORMS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    **{f"zip-{n}": lambda value, path, n=n: torch.save(value, path, pickle_protocol=n) for n in (2, 3, 4, 5)},
    **{f"legacy-{n}": lambda value, path, n=n: torch.save(value, path, pickle_protocol=n, **OLD) for n in (1, 2, 4, 5)},
    **{f"plain-{n}": lambda value, path, n=n: path.write_bytes(pickle.dumps(value, n)) for n in range(6)},
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support", "ignore:TypedStorage is deprecated")


def raw(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor in row-major order, lazy bits applied, quantized ones as their values."""
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of what torch.load returned, named as documented."""
    if isinstance(value, torch.Tensor):
        yield prefix or "tensor", value
    elif isinstance(value, torch.storage.TypedStorage):
        yield prefix, torch.tensor([], dtype=value.dtype).set_(value._untyped_storage)
    elif isinstance(value, np.ndarray):
        yield prefix or "tensor", torch.from_numpy(value.copy())
    elif isinstance(value, torch.nn.Module):
        yield from leaves(dict(value.state_dict()), prefix)
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{prefix}.{key}" if prefix else str(key))


def check_equal(path: Path, expected: Any) -> modelfmt.ir.model.Model:
    """What is read from a file is what torch has, names, shapes and bytes."""
    wanted = dict(leaves(expected))
    with modelfmt.open(path) as model:
        prefix = model.extras["pytorch"]["prefix"]
        if prefix:
            wanted = {name.removeprefix(f"{prefix}."): t for name, t in wanted.items() if name.startswith(f"{prefix}.")}
        assert list(model) == list(wanted)
        for name, tensor in wanted.items():
            packed = tensor.dtype == torch.float4_e2m1fn_x2
            shape = (*tensor.shape[:-1], tensor.shape[-1] * 2) if packed else tuple(tensor.shape)
            assert model[name].shape == shape, name
            assert model[name].numpy(dequantize=False).tobytes() == raw(tensor), name
    return model


def filled(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bits in a dtype."""
    source = torch.Generator().manual_seed(len(shape))
    bits = torch.randint(0, 256, (int(np.prod(shape)) * 16,), dtype=torch.uint8, generator=source)
    if dtype == torch.bool:
        return (bits[: int(np.prod(shape))] > 127).reshape(shape)
    size = torch.empty(0, dtype=dtype).element_size()
    return bits[: int(np.prod(shape)) * size].view(dtype).reshape(shape)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_every_form(dtype: str, form: str, tmp_path: Path) -> None:
    value = OrderedDict(
        a=filled(DTYPES[dtype], 3, 8), b=filled(DTYPES[dtype], 5, 2, 4)[1:3], e=filled(DTYPES[dtype], 0, 4)
    )
    FORMS[form](value, tmp_path / "f.pt")
    model = check_equal(tmp_path / "f.pt", value)
    assert {tensor.encoding.name for tensor in model.values()} == {dtype}


def views() -> dict[str, torch.Tensor]:
    whole = torch.arange(6000, dtype=torch.float32).reshape(20, 30, 10)
    return {
        "whole": whole,
        "row": whole[3],
        "column": whole[:, :, 4],
        "transposed": whole.permute(2, 0, 1),
        "stepped": whole[::3, ::2, ::5],
        "expanded": whole[0, :1].expand(40, 10),
        "overlapping": whole.reshape(-1).unfold(0, 16, 3),
        "scalar": whole[1, 2, 3],
        "ones": whole[:1, :, :1],
        "channels_last": torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last),
        "empty": whole[:, :0],
        "half": torch.randn(64, 33).half().T,
        "bytes": torch.arange(200, dtype=torch.uint8).reshape(20, 10).T,
        "complex": torch.randn(6, 5, dtype=torch.complex64).T.conj(),
        "negated": torch.randn(6, 5, dtype=torch.complex128).conj().imag,
    }


@pytest.mark.parametrize("form", ["zip", "zip-4", "legacy-2", "plain-4"])
def test_views_are_made_from_their_storage(form: str, tmp_path: Path) -> None:
    value = views()
    FORMS[form](value, tmp_path / "f.pt")
    model = check_equal(tmp_path / "f.pt", value)
    assert isinstance(model["row"].expr, Leaf)
    assert isinstance(model["transposed"].expr, Strided)


def test_a_small_view_of_a_fat_storage_does_not_bring_it_along(tmp_path: Path) -> None:
    fat = torch.randn(1000, 1000)
    torch.save({"a": fat[7], "b": fat[:, 3]}, tmp_path / "f.pt")
    check_equal(tmp_path / "f.pt", {"a": fat[7], "b": fat[:, 3]})
    modelfmt.convert(tmp_path / "f.pt", tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").stat().st_size < 10_000


def test_a_large_transposed_tensor_is_read_in_pieces(tmp_path: Path) -> None:
    value = torch.randn(700, 1500).T
    torch.save({"w": value}, tmp_path / "f.pt")
    with modelfmt.open(tmp_path / "f.pt") as model:
        for start in range(0, 1500, 333):
            stop = min(start + 333, 1500)
            assert model["w"].rows(start, stop).tobytes() == raw(value[start:stop])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_their_values(tmp_path: Path) -> None:
    plain = torch.randn(6, 5) * 3
    scales, zeros = torch.rand(6, dtype=torch.float64) / 10 + 0.01, torch.randint(-5, 6, (6,))
    value = {
        "q8": torch.quantize_per_tensor(plain, 0.037, 3, torch.qint8),
        "qu8": torch.quantize_per_tensor(plain, 0.05, 100, torch.quint8),
        "q32": torch.quantize_per_tensor(plain, 1e-4, 0, torch.qint32),
        "rows": torch.quantize_per_channel(plain, scales, zeros, 0, torch.qint8),
        "columns": torch.quantize_per_channel(plain, scales[:5], zeros[:5], 1, torch.qint8),
    }
    torch.save(value, tmp_path / "f.pt")
    model = check_equal(tmp_path / "f.pt", value)
    assert {tensor.encoding.name for tensor in model.values()} == {"F32"}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.shared = self.body[0]
        self.head = torch.nn.Linear(4, 2, bias=False)
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.register_buffer("kept", torch.ones(2))
        self.note = {"not": torch.zeros(9)}


@pytest.mark.parametrize("form", ["zip", "zip-5", "legacy-2", "plain-4"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_pickled_module_is_its_state_dict(form: str, tmp_path: Path) -> None:
    net = Net()
    FORMS[form](net, tmp_path / "f.pt")
    wanted = dict(net.state_dict())
    with modelfmt.open(tmp_path / "f.pt") as model:
        assert sorted(model) == sorted(wanted)
        assert all(model[name].numpy(dequantize=False).tobytes() == raw(wanted[name]) for name in wanted)
        assert "torch.nn.modules.conv.Conv2d" in " ".join(model.extras["notes"])


class Callback:
    """A class of a training script, unknown to whoever reads the file."""

    def __init__(self) -> None:
        self.best = 0.5
        self.history = deque([1, 2], maxlen=3)


LEFTOVERS = {
    "lightning": lambda state: {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.5.0", "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": Namespace(width=3, path=Path("x")), "callbacks": {"Early": Callback()},
    },
    "deepspeed": lambda state: {
        "module": state, "buffer_names": ["b"], "optimizer": None, "param_shapes": [OrderedDict(a=torch.Size([3]))],
        "dp_world_size": 8, "ds_config": {"a": {1, 2}, "b": frozenset((3,))}, "client": defaultdict(list, a=[1]),
    },
    "whisper": lambda state: {"dims": {"n_mels": 80}, "model_state_dict": state},
    "ema": lambda state: {"epoch": -1, "model": None, "ema": Net(), "date": np.float64(3.0), "state_dict": state},
    "nested": lambda state: {"model": {"state_dict": state, "config": slice(1, 2)}, "rng": torch.ByteTensor(5)},
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "zip-4", "legacy-2"])
@pytest.mark.parametrize("kind", LEFTOVERS)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_leftovers_of_training_are_inert(kind: str, form: str, tmp_path: Path) -> None:
    state = OrderedDict({"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3)})
    FORMS[form](LEFTOVERS[kind](state), tmp_path / "f.ckpt")
    with modelfmt.open(tmp_path / "f.ckpt") as model:
        assert {name: tensor.numpy().tobytes() for name, tensor in model.items()} == {
            k: raw(v) for k, v in state.items()
        }
        notes, beside = " ".join(model.extras["notes"]), model.extras["pytorch"]["left_out"]
    if kind == "lightning":
        assert model.metadata["epoch"] == 3
        assert beside == {"optimizer_states": 1}
        assert "argparse.Namespace" in notes and "optimizer_states" in notes


def test_tied_tensors_stay_one(tmp_path: Path) -> None:
    tied = torch.randn(5, 4)
    torch.save({"embed": tied, "head": tied, "other": torch.randn(2)}, tmp_path / "f.bin")
    report = modelfmt.convert(tmp_path / "f.bin", tmp_path / "f.safetensors")
    with modelfmt.open(tmp_path / "f.safetensors") as model:
        assert sorted(model) == ["embed", "head", "other"]
        assert model["head"].expr == model["embed"].expr
        assert model.metadata == {"format": "pt", "head": "embed"}
        assert model.extras["safetensors"]["ties"] == {"head": "embed"}
    with modelfmt.open(tmp_path / "f.safetensors", format="huggingface") as model:
        assert sorted(model) == ["embed", "other"]  # there, config.json says what is tied
    assert [note.subject for note in report.notes] == ["head"]
    net = torch.nn.ParameterDict({"embed": tied * 0, "other": torch.zeros(2)})
    net["head"] = net["embed"]
    from safetensors.torch import load_model

    load_model(net, str(tmp_path / "f.safetensors"))
    assert torch.equal(net["head"], tied)
    modelfmt.convert(tmp_path / "f.bin", tmp_path / "g.bin")
    modelfmt.convert(tmp_path / "f.safetensors", tmp_path / "h.bin")
    for name in ("g.bin", "h.bin"):
        again = torch.load(tmp_path / name, weights_only=True)
        assert sorted(again) == ["embed", "head", "other"]
        assert again["head"].data_ptr() == again["embed"].data_ptr()
    modelfmt.convert(tmp_path / "h.bin", tmp_path / "i.safetensors")
    assert (tmp_path / "i.safetensors").read_bytes() == (tmp_path / "f.safetensors").read_bytes()


def test_what_save_model_ties_comes_back(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    net = torch.nn.ParameterDict({"embed": torch.randn(5, 4), "other": torch.zeros(2)})
    net["head"] = net["embed"]
    save_model(net, str(tmp_path / "f.safetensors"))
    with modelfmt.open(tmp_path / "f.safetensors") as model:
        assert {name: tensor.numpy().tobytes() for name, tensor in model.items()} == {
            name: raw(tensor) for name, tensor in net.state_dict().items()
        }


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:invalid escape sequence")
def test_torchscript_weights(tmp_path: Path, shared_data: Path) -> None:
    net = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))
    net.save(str(tmp_path / "f.pt"))
    with modelfmt.open(tmp_path / "f.pt") as model:
        assert model.extras["pytorch"]["form"] == "torchscript"
        assert {name: tensor.numpy(dequantize=False).tobytes() for name, tensor in model.items()} == {
            name: raw(value) for name, value in net.state_dict().items()
        }
    place = shared_data / "torch" / "snakers4+silero-vad" / "src" / "silero_vad" / "data" / "silero_vad.jit"
    wanted = torch.jit.load(str(place)).state_dict()
    with modelfmt.open(place) as model:
        assert set(model) - set(wanted) == {"_state", "_context"}
        assert all(model[name].numpy(dequantize=False).tobytes() == raw(wanted[name]) for name in wanted)


def test_a_big_endian_file(tmp_path: Path) -> None:
    value = {"a": torch.randn(3, 4), "b": torch.arange(9).reshape(3, 3).T, "c": torch.randn(4, dtype=torch.complex64)}
    torch.save(value, tmp_path / "f.pt")
    swapped = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "f.pt") as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                data = np.frombuffer(data, "<u8" if name.endswith("/1") else "<u4").byteswap().tobytes()
            target.writestr(name, data)
    (tmp_path / "g.pt").write_bytes(swapped.getvalue())
    check_equal(tmp_path / "g.pt", value)


def test_a_deflated_archive(tmp_path: Path) -> None:
    value = {"a": torch.randn(3, 4), "b": torch.zeros(100)}
    torch.save(value, tmp_path / "f.pt")
    with zipfile.ZipFile(tmp_path / "f.pt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    (tmp_path / "g.pt").write_bytes(hostile_pickles.zipped(members, zipfile.ZIP_DEFLATED))
    check_equal(tmp_path / "g.pt", value)
    modelfmt.convert(tmp_path / "g.pt", tmp_path / "g.safetensors")


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.randn(3, 4)}, tmp_path / "f.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    check_equal(tmp_path / "f.pt", torch.load(tmp_path / "f.pt", weights_only=True))


def tar_form(tensors: dict[str, torch.Tensor]) -> bytes:
    """The form of torch 0.1.0 to 0.1.9, by hand after torch.serialization's reader: each tensor over a storage of its
    own, the first of them over a view of a storage."""
    first = b"\x80\x02"
    storages, table = first + b"K" + bytes([len(tensors)]) + b".", first + b"K" + bytes([len(tensors)]) + b"."
    body = first + b"}"
    for number, (name, tensor) in enumerate(tensors.items()):
        flat = torch.cat([torch.zeros(2), tensor.reshape(-1)]) if number == 0 else tensor.reshape(-1)
        storages += first + b"K%cX\3\0\0\0cpuctorch\nFloatStorage\n\x87." % (number + 1)
        storages += struct.pack("<q", flat.numel()) + raw(flat)
        key, storage = 50 + number, 99 if number == 0 else number + 1
        table += first + b"K%cK%cctorch\nFloatTensor\n\x87." % (key, storage)
        table += struct.pack("<ii", tensor.dim(), 0) + struct.pack(f"<{tensor.dim()}q", *tensor.shape)
        table += struct.pack(f"<{tensor.dim()}q", *tensor.stride()) + struct.pack("<q", 0)
        body += b"X" + struct.pack("<I", len(name)) + name.encode() + b"X\2\0\0\0%dQs" % key
    count = next(iter(tensors.values())).numel()
    storages += first + b"](K\x63K\1K\2K%ct\x61." % count
    members = {"sys_info": first + b"}.", "pickle": body + b".", "storages": storages, "tensors": table}
    return hostile_pickles.tarred(members)


def test_the_tar_form(tmp_path: Path) -> None:
    value = {"a": torch.randn(3, 4), "b": torch.randn(7)}
    (tmp_path / "f.pth").write_bytes(tar_form(value))
    loaded = torch.load(tmp_path / "f.pth", weights_only=False)
    assert all(torch.equal(loaded[name], value[name]) for name in value)
    model = check_equal(tmp_path / "f.pth", loaded)
    assert model.extras["pytorch"]["form"] == "tar"


def test_old_states_of_tensors(tmp_path: Path) -> None:
    """torch.FloatTensor with the state (storage, offset, size, stride), as files of before 0.4 hold it."""
    state = hostile_pickles.STORAGE + b"I1\n(I3\nt(I1\nttb"
    tensor = b"ctorch\nFloatTensor\n)\x81" + state
    values = np.arange(4, dtype="<f4")
    data = hostile_pickles.checkpoint(b"\x80\x02}U\x01w" + tensor + b"s.", **{"archive/data/0": values.tobytes()})
    (tmp_path / "f.pt").write_bytes(data)
    with modelfmt.open(tmp_path / "f.pt") as model:
        assert model["w"].numpy().tolist() == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_real_files_equal_torch(shared_data: Path) -> None:
    places = sorted(path for path in (shared_data / "torch").rglob("*") if path.suffix in (".pt", ".pth", ".th"))
    places += sorted((shared_data / "lm").rglob("*.pth"))
    assert len(places) > 100
    for path in places:
        try:
            wanted = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            wanted = torch.load(path, map_location="cpu", weights_only=False)
        check_equal(path, wanted)


def test_numpy_arrays_count_as_tensors(tmp_path: Path) -> None:
    value = {
        "c": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        "big": np.arange(5, dtype=">f8"),
        "text": np.array(["a", "b"]),
        "objects": np.array([1, None], dtype=object),
        "long": np.arange(5000, dtype=np.float64),
    }
    for protocol in range(6):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps(value, protocol))
        with modelfmt.open(tmp_path / "f.pkl") as model:
            assert list(model) == ["c", "fortran", "big", "long"]
            for name in model:
                assert np.array_equal(model[name].numpy(), value[name]), (name, protocol)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.eye(3).to_sparse()),
        ("meta", lambda: torch.empty(3, device="meta")),
        ("packed", lambda: torch.quantize_per_channel(torch.ones(2, 4), *torch.ones(2, 2), 0, torch.quint4x2)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_expressed_is_refused(kind: str, make: Callable[[], torch.Tensor], tmp_path: Path) -> None:
    torch.save({"w": make()}, tmp_path / "f.pt")
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.open(tmp_path / "f.pt")
    assert caught.value.path


def test_flipped_weights_do_not_go_unnoticed_in_the_pickle(tmp_path: Path) -> None:
    torch.save({"weight": torch.randn(3)}, tmp_path / "f.pt")
    data = (tmp_path / "f.pt").read_bytes()
    (tmp_path / "f.pt").write_bytes(data.replace(b"weight", b"weighs"))
    with pytest.raises(CorruptFile) as caught:
        modelfmt.open(tmp_path / "f.pt")
    assert caught.value.code == "zip-crc"


@pytest.mark.parametrize("head", [b"PK\3\4" + bytes(22) + b"\5\0\0\0a.npy", b"\x89HDF", b"GGUF", b"\x93NUMPY", b"{}"])
def test_other_files_are_not_taken_for_pickles(head: bytes) -> None:
    assert not pytorch.sniff(head.ljust(64, b"\0"))
