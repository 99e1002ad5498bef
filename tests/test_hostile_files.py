"""Broken and hostile files, for every reader: a ModelfmtError with its file, or a model whose tensors lie inside the
file.

A reader joins with one row in READERS. Truncation at every byte, every bit of the header flipped, numbers replaced by
the usual extremes, and splices of the file with itself, in a process whose memory is limited.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import modelfmt
import other_files
from modelfmt.errors import ModelfmtError
from modelfmt.formats import gguf, imatrix_dat, safetensors
from modelfmt.ir.layout import Entry
from modelfmt.ir.ops import Expression, Leaf
from modelfmt.ir.tensor import Tensor
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

EXTREMES = (0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1)
SECONDS = 2.0


def gguf_bytes() -> bytes:
    """A small GGUF with every kind of value."""
    metadata = [
        ("general.architecture", "STRING", "llama"),
        ("a.u8", "UINT8", 3),
        ("a.i16", "INT16", -3),
        ("a.f64", "FLOAT64", 0.5),
        ("a.bool", "BOOL", True),
        ("a.u64", "UINT64", 1 << 40),
        ("tokenizer.ggml.tokens", "ARRAY:STRING", ["a", "bc", "é"]),
        ("tokenizer.ggml.scores", "ARRAY:FLOAT32", [0.5, -1.0]),
    ]
    entries = [Entry("a.weight", "F32", (2, 4)), Entry("b.weight", "Q8_0", (3, 32))]
    (layout,) = gguf.layout(entries, metadata=metadata)
    data = bytearray(layout.size)
    data[: len(layout.header)] = layout.header
    return bytes(data)


def safetensors_bytes() -> bytes:
    """A small safetensors file."""
    entries = [Entry("a", "F32", (2, 3)), Entry("b", "BF16", (4,)), Entry("c", "F4", (6,))]
    ((layout,), _) = safetensors.layout(entries, metadata={"format": "pt"})
    return bytes(layout.header).ljust(layout.size, b"\0")


def imatrix_bytes() -> bytes:
    """A small legacy importance matrix."""
    return imatrix_dat.write_dat({"blk.0.attn_q.weight": (np.ones(4, np.float32), 2)}, chunk_count=3, dataset="data")


def pytorch_bytes() -> bytes:
    """A zip of torch.save with a plain, a strided and a tied tensor and a leftover object."""
    held = io.BytesIO()
    torch.save(pytorch_value(), held)
    return held.getvalue()


def pytorch_old_bytes() -> bytes:
    """The same in the form of before 1.6."""
    held = io.BytesIO()
    torch.save(pytorch_value(), held, _use_new_zipfile_serialization=False)
    return held.getvalue()


def pytorch_value() -> dict[str, object]:
    plain = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    return {"a": plain, "b": plain.T, "c": plain, "d": slice(1, 2)}


def onnx_bytes() -> bytes:
    """A small ONNX model: nodes, a subgraph, a function, constants of every form that the file can hold."""
    from onnx import TensorProto, helper

    float_value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "then", [], [helper.make_empty_tensor_value_info("r")]
    )
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=inner, else_branch=inner),
        helper.make_node("F", ["i"], ["y"], domain="own", alpha=0.5, axes=[1, -1], name="f"),
    ]
    tensors = [
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
        helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], b"abcd", raw=True),
        helper.make_tensor("i", TensorProto.INT64, [3], [1, -1, 2**40]),
        helper.make_tensor("q", TensorProto.INT4, [3], [1, -1, 2]),
        helper.make_tensor("s", TensorProto.STRING, [1], [b"text"]),
    ]
    graph = helper.make_graph(nodes, "g", [float_value], [output], tensors)
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], opsets)
    model = helper.make_model(graph, functions=[function], opset_imports=[*opsets, helper.make_opsetid("own", 1)])
    model.producer_name, model.ir_version = "test", 10
    data = model.SerializeToString(deterministic=True)
    return bytes(data)


def pickle_bytes() -> bytes:
    """A plain pickle of arrays and tensors in protocol 4."""
    return pickle.dumps({"a": np.arange(6, dtype="f4").reshape(2, 3), "b": [torch.ones(2), ("c", 1.5, {2})]}, 4)


def leaves(expr: Expression) -> list[Leaf]:
    return [expr] if isinstance(expr, Leaf) else [leaf for part in expr.inputs for leaf in leaves(part)]


def read_model(path: Path) -> None:
    """Open a file, look at everything, read every tensor; what was accepted must lie inside the file."""
    with modelfmt.open(path) as model:
        for tensor in model.values():
            for leaf in leaves(tensor.expr):
                assert leaf.offset >= 0
                assert leaf.offset + Tensor("", leaf, Evaluator(model.files)).nbytes <= model.files.size(leaf.file)
            tensor.rows(0, min(1, tensor.nbytes))
        for value in model.metadata.values():
            if hasattr(value, "tolist"):
                value.tolist()


def read_imatrix(path: Path) -> None:
    from modelfmt.checkpoints.importance import read

    list(read(str(path), Files()).entries.values())


ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "alpha_pattern": {"b": 3}, "use_rslora": True}


def adapter_bytes() -> bytes:
    """The weights of a LoRA adapter."""
    entries = [Entry("base_model.model.a.lora_A.weight", "F32", (2, 3)), Entry("a.lora_B.weight", "F32", (3, 2))]
    ((layout,), _) = safetensors.layout(entries, metadata={})
    return bytes(layout.header).ljust(layout.size, b"\0")


def adapter_config_bytes() -> bytes:
    """The configuration of a LoRA adapter."""
    return json.dumps(ADAPTER).encode()


def read_adapter(path: Path) -> None:
    """Open the adapter of which this is one file, the other as it should be."""
    others = {"adapter_model.safetensors": adapter_bytes(), "adapter_config.json": adapter_config_bytes()}
    for name, data in others.items():
        if path.name != name and not (path.parent / name).exists():
            (path.parent / name).write_bytes(data)
    read_model(path.parent)


SMALL_SCHEMA = other_files.dict_node({"a": other_files.array_node(1), "1": other_files.json_node([1, "x"])})


READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None]]] = {
    "gguf": ("f.gguf", gguf_bytes, read_model),
    "safetensors": ("f.safetensors", safetensors_bytes, read_model),
    "imatrix": ("f.dat", imatrix_bytes, read_imatrix),
    "pytorch": ("f.pt", pytorch_bytes, read_model),
    "pytorch-old": ("f.bin", pytorch_old_bytes, read_model),
    "onnx": ("f.onnx", onnx_bytes, read_model),
    "pickle": ("f.pkl", pickle_bytes, read_model),
    "peft": ("adapter_model.safetensors", adapter_bytes, read_adapter),
    "peft-config": ("adapter_config.json", adapter_config_bytes, read_adapter),
    "npy": ("f.npy", other_files.npy, read_model),
    "npz": ("f.npz", other_files.small_npz, read_model),
    "joblib": ("f.joblib", lambda: other_files.joblib(np.array([1, "a"], dtype=object)), read_model),
    "skops": ("f.skops", lambda: other_files.skops(SMALL_SCHEMA, ("1.npy",)), read_model),
}


def opened_or_refused(path: Path) -> None:
    """Nothing but a ModelfmtError that names a file."""
    refusal: ModelfmtError | None = None
    try:
        modelfmt.open(path).close()
    except ModelfmtError as error:
        refusal = error
    assert refusal is None or refusal.path


MUTANTS = {"peft": 1000, "peft-config": 1000}
"""How many, where a reader is mostly another one of the table, or slow."""

OPTIONAL_TAIL = {"gguf": 26, "imatrix": 12, "onnx": 45}
"""Bytes at the end that may be absent: padding behind the last tensor; chunk count and data set; functions, and the
operator set that they form."""


def attempt(path: Path, data: bytes, read: Callable[[Path], None]) -> bool:
    """True where the file was accepted; anything but a ModelfmtError with a path fails the test."""
    path.write_bytes(data)
    began = time.monotonic()
    refusal: ModelfmtError | None = None
    try:
        read(path)
    except ModelfmtError as error:
        refusal = error
    assert time.monotonic() - began < SECONDS
    assert refusal is None or refusal.path, repr(refusal)
    return refusal is None


@pytest.mark.parametrize("name", READERS)
def test_the_untouched_file_is_read(name: str, tmp_path: Path) -> None:
    file, make, read = READERS[name]
    assert attempt(tmp_path / file, make(), read)


@pytest.mark.parametrize("name", READERS)
def test_cut_off_at_every_byte(name: str, tmp_path: Path) -> None:
    file, make, read = READERS[name]
    data = make()
    accepted = [end for end in range(len(data)) if attempt(tmp_path / file, data[:end], read)]
    assert all(end >= len(data) - OPTIONAL_TAIL.get(name, 0) for end in accepted)


@pytest.mark.parametrize("name", READERS)
def test_every_bit_flipped(name: str, tmp_path: Path) -> None:
    file, make, read = READERS[name]
    data = make()
    refused = 0
    for place in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            refused += not attempt(tmp_path / file, bytes(broken), read)
    assert refused > len(data)


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Numbers replaced by extremes, pieces repeated, removed, exchanged."""
    source = random.Random(seed)
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 4))):
            place = source.randrange(len(broken) - 8)
            kind = source.randrange(6)
            if kind == 0:
                struct.pack_into("<Q", broken, place, source.choice(EXTREMES))
            elif kind == 1:
                struct.pack_into("<I", broken, place, source.choice(EXTREMES) & 0xFFFFFFFF)
            elif kind == 2:
                length = source.randrange(1, 40)
                broken[place:place] = broken[place : place + length]
            elif kind == 3:
                del broken[place : place + source.randrange(1, 9)]
                broken += b"\0" * max(0, 16 - len(broken))
            elif kind == 4:
                broken[place] = source.randrange(256)
            else:
                other = source.randrange(len(broken) - 8)
                broken[place : place + 8], broken[other : other + 8] = (
                    broken[other : other + 8],
                    broken[place : place + 8],
                )
        yield bytes(broken)


@pytest.mark.parametrize("name", READERS)
def test_mutants(name: str, tmp_path: Path) -> None:
    file, make, read = READERS[name]
    for data in mutants(make(), MUTANTS.get(name, 4000), seed=11):
        attempt(tmp_path / file, data, read)


SAFETENSORS_CASES = {
    "overlap": {"a": ["F32", [2], [0, 8]], "b": ["F32", [2], [4, 12]]},
    "hole": {"a": ["F32", [2], [0, 8]], "b": ["F32", [2], [12, 20]]},
    "negative offset": {"a": ["F32", [2], [-8, 0]]},
    "backwards": {"a": ["F32", [2], [8, 0]]},
    "wrong size": {"a": ["F32", [3], [0, 8]]},
    "product wraps": {"a": ["F32", [2**33, 2**33], [0, 8]]},
    "negative dimension": {"a": ["F32", [-2], [0, 8]]},
    "past the end": {"a": ["F32", [2**40], [0, 2**42]]},
    "unknown type": {"a": ["F13", [2], [0, 8]]},
    "float dimension": {"a": ["F32", [2.0], [0, 8]]},
    "true dimension": {"a": ["F32", [True, 2], [0, 8]]},
    "control character": {"a\0b": ["F32", [2], [0, 8]]},
    "half a byte": {"a": ["F4", [3], [0, 2]]},
}


def safetensors_file(rows: dict[str, list[object]], size: int = 32) -> bytes:
    header = {name: dict(zip(("dtype", "shape", "data_offsets"), row, strict=True)) for name, row in rows.items()}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize("case", SAFETENSORS_CASES)
def test_safetensors_rules(case: str, tmp_path: Path) -> None:
    ends = [row[2][1] for row in SAFETENSORS_CASES[case].values()]  # type: ignore[index]
    size = max(0, min(max(ends), 64))
    assert not attempt(tmp_path / "f.safetensors", safetensors_file(SAFETENSORS_CASES[case], size), read_model)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"{}{}",
        b"\xff\xfe",
        b'{"__metadata__":{"a":1}}',
    ],
    ids=["duplicate", "deep list", "deep object", "two documents", "not text", "metadata of numbers"],
)
def test_safetensors_headers(header: bytes, tmp_path: Path) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0"
    assert not attempt(tmp_path / "f.safetensors", data, read_model)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 2**31])
def test_safetensors_header_length(length: int, tmp_path: Path) -> None:
    assert not attempt(tmp_path / "f.safetensors", length.to_bytes(8, "little") + b"{}" + bytes(64), read_model)


@pytest.mark.parametrize("field", ["n_tensors", "n_kv"])
@pytest.mark.parametrize("value", EXTREMES[3:])
def test_gguf_counts(field: str, value: int, tmp_path: Path) -> None:
    data = bytearray(gguf_bytes())
    struct.pack_into("<Q", data, 8 if field == "n_tensors" else 16, value)
    assert not attempt(tmp_path / "f.gguf", bytes(data), read_model)


@pytest.mark.parametrize("value", EXTREMES)
def test_gguf_dimensions_and_offsets(value: int, tmp_path: Path) -> None:
    data = gguf_bytes()
    at = data.index(b"b.weight") + len(b"b.weight")
    accepted = []
    for place in (at + 4, at + 12, at + 24):  # two dimensions, then the offset behind the type
        broken = bytearray(data)
        struct.pack_into("<Q", broken, place, value)
        if attempt(tmp_path / "f.gguf", bytes(broken), read_model):
            accepted.append(place)
    assert len(accepted) <= 1, "at most the dimension that stays inside the file"


def test_claims_do_not_become_memory(tmp_path: Path) -> None:
    """Every extreme in every place of a GGUF and a safetensors header, in a process of 400 MB."""
    code = f"""
import resource, struct, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy
resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
from pathlib import Path
from test_hostile_files import EXTREMES, READERS, attempt
for name in ("gguf", "safetensors"):
    file, make, read = READERS[name]
    data = make()
    for place in range(0, min(len(data) - 8, 260)):
        for value in EXTREMES[3:]:
            broken = bytearray(data)
            struct.pack_into("<Q", broken, place, value)
            attempt(Path({str(tmp_path)!r}) / file, bytes(broken), read)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "done\n", done.stderr[-2000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


NAMES = ("../x.safetensors", "/etc/passwd", "a/../../x.safetensors", "..\\x", "C:x", "x\0y", "~/x", "", ".", "./../x")


@pytest.mark.parametrize("name", NAMES)
def test_an_index_that_points_outside(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes())
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(modelfmt.CorruptFile):
        modelfmt.open(folder)


def test_a_link_that_leads_outside(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes())
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to("../x.safetensors")
    with pytest.raises(modelfmt.UnsafePath):
        modelfmt.open(folder)


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ModelfmtError):
        modelfmt.open(tmp_path)


def test_the_links_of_a_hub_cache_work(tmp_path: Path) -> None:
    model = tmp_path / "models--a--b"
    (model / "blobs").mkdir(parents=True)
    snapshot = model / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (model / "blobs" / "w").write_bytes(safetensors_bytes())
    (model / "blobs" / "c").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/w")
    (snapshot / "config.json").symlink_to("../../blobs/c")
    with modelfmt.open(snapshot) as opened:
        assert sorted(opened) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_bombs_in_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes())
    (tmp_path / "config.json").write_text("{}")
    for text in ("[" * 200_000, '{"a":' * 100_000, '{"a":1,"a":2}', "\udcff", '{"a":1e999999}', "nul", ""):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        opened_or_refused(tmp_path)


@pytest.mark.parametrize("place", ["/dev/zero", "/proc/self/mem"])
def test_devices_are_not_opened(place: str) -> None:
    with pytest.raises(ModelfmtError):
        modelfmt.open(place)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "f.gguf")
    with pytest.raises(ModelfmtError):
        modelfmt.open(tmp_path / "f.gguf")


def test_real_parser_breakers(shared_data: Path) -> None:
    found = sorted((shared_data / "gguf").rglob("*.bin")) + sorted((shared_data / "gguf").rglob("hdr-*.gguf"))
    assert found
    for path in found:
        opened_or_refused(path)


def test_evaluator_checks_rows(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(safetensors_bytes())
    leaf = Leaf(str(path), path.stat().st_size - 4, (4,), "F32")
    with pytest.raises(modelfmt.CorruptFile):
        Evaluator(Files()).rows(leaf, 0, 1)
