"""Nothing leaks: no byte of a process's memory gets into an output.

Files that claim more than they hold are refused before a kernel runs; and every kind of conversion writes the same
bytes whatever the allocator fills memory with, whatever the number of threads and the instruction-set level.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import modelfmt
from modelfmt import _kernels as kernels
from modelfmt.ir.ops import Leaf
from test_convert_golden import CHECKPOINTS

FILE_TYPES = ("Q8_0", "Q4_0", "Q6_K", "Q4_K_M")

CONVERSIONS = """
import hashlib, json, sys
from pathlib import Path
import modelfmt

golden, out, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
big = golden / "checkpoints" / "llama3-big"
for name in sys.argv[4].split(","):
    modelfmt.convert(golden / "checkpoints" / name, out / f"{name}.gguf", quant="auto", threads=threads)
types = sys.argv[5].split(",")
modelfmt.convert(big, out / "big-{type}.gguf", quant=types, threads=threads)
weights = golden / "quantized" / "llama3-big" / "imatrix.gguf"
modelfmt.convert(big, out / "weighted-{type}.gguf", quant=types, imatrix=weights, threads=threads, stats=True)
modelfmt.convert(big, out / "split.gguf", quant="Q8_0", split_size="2M", threads=threads)
modelfmt.convert(big, out / "split.safetensors", quant="F16", split_size="4M", threads=threads)
modelfmt.convert(out / "llama3-big.gguf", out / "again.gguf", quant="Q4_K_M", threads=threads)
modelfmt.convert(out / "big-Q6_K.gguf", out / "requantized.gguf", quant="Q4_0", allow_requantize=True, threads=threads)
modelfmt.convert(out / "big-Q8_0.gguf", out / "dense.safetensors", threads=threads)
modelfmt.convert(out / "mixtral.gguf", out / "half.safetensors", quant="F16", threads=threads)
modelfmt.convert(golden / "checkpoints" / "gpt2", out / "single.safetensors", quant="BF16", threads=threads)
digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}
print(json.dumps([modelfmt._kernels.isa(), digests]))
"""


def digests(golden: Path, out: Path, *, threads: int, environment: dict[str, str]) -> dict[str, str]:
    """File name -> SHA-256 of what a process of its own converts."""
    out.mkdir()
    arguments = [str(golden), str(out), str(threads), ",".join(CHECKPOINTS), ",".join(FILE_TYPES)]
    done = subprocess.run(
        [sys.executable, "-c", CONVERSIONS, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    level, found = json.loads(done.stdout)
    assert level == environment.get("MODELFMT_ISA", kernels.isa_levels()[0])
    return dict(found)


def test_outputs_do_not_depend_on_memory_threads_or_cpu(golden: Path, tmp_path: Path) -> None:
    """MALLOC_PERTURB_ has the C library fill what it hands out, and what it takes back, with a byte."""
    levels = kernels.isa_levels()
    runs: list[tuple[int, dict[str, str]]] = [
        (1, {"MALLOC_PERTURB_": "85"}),
        (2, {"MALLOC_PERTURB_": "170"}),
        (8, {"MALLOC_PERTURB_": "170", "PYTHONMALLOC": "malloc"}),
        *((2, {"MALLOC_PERTURB_": "85", "MODELFMT_ISA": level}) for level in levels[1:]),
    ]
    first = digests(golden, tmp_path / "first", threads=2, environment={"MODELFMT_ISA": levels[0]})
    assert len(first) > len(CHECKPOINTS) + 2 * len(FILE_TYPES) + 5
    for number, (threads, environment) in enumerate(runs):
        found = digests(golden, tmp_path / str(number), threads=threads, environment=environment)
        differing = [name for name in first if found[name] != first[name]]
        assert found.keys() == first.keys() and not differing, (threads, environment, differing)


def test_memory_that_is_not_written_shows() -> None:
    """The test above can fail: what is handed out holds the fill, not zeros."""
    code = "import numpy as np; print(np.empty(4096, np.uint8)[64:].tobytes().hex())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in ("85", "170")
    }
    assert len(found) == 2 and not any(set(text.strip()) == {"0"} for text in found)


def gguf_file(shape: tuple[int, ...], type_id: int, held: int, *, offset: int = 0) -> bytes:
    """A GGUF of one tensor, written by hand: a shape, and as many bytes as `held`."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header += text("blk.0.ffn_up.weight") + struct.pack("<I", len(shape))
    header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", type_id, offset)
    return header + b"\0" * (-len(header) % 32) + b"\x5a" * held


def safetensors_file(shape: tuple[int, ...], dtype: str, held: int, *, end: int | None = None) -> bytes:
    """A safetensors file of one tensor, written by hand."""
    row = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, held if end is None else end]}
    header = json.dumps({"w": row}).encode()
    return struct.pack("<Q", len(header)) + header + b"\x5a" * held


CLAIMS = {
    "gguf-f32.gguf": gguf_file((64, 256), 0, 64 * 256 * 4 - 1),
    "gguf-q8.gguf": gguf_file((64, 256), 8, 64 * 256 // 32 * 34 - 34),
    "gguf-empty.gguf": gguf_file((1, 32), 0, 0),
    "gguf-huge.gguf": gguf_file((2**31, 2**20), 0, 4096),
    "gguf-overflow.gguf": gguf_file((2**32, 2**30, 32), 8, 4096),
    "gguf-wrapped.gguf": gguf_file((2**62, 32), 0, 4096),
    "gguf-offset.gguf": gguf_file((1, 32), 0, 128, offset=32),
    "gguf-far.gguf": gguf_file((1, 32), 0, 128, offset=2**64 - 32),
    "short.safetensors": safetensors_file((64, 256), "F32", 64 * 256 * 4 - 1, end=64 * 256 * 4),
    "few.safetensors": safetensors_file((64, 256), "F32", 128),
    "huge.safetensors": safetensors_file((2**31, 2**20), "BF16", 4096, end=2**52),
    "wrapped.safetensors": safetensors_file((2**62, 4), "F32", 4096),
}


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any kernel that moves a byte of a tensor is a failure."""

    def refuse(*arguments: Any, **options: Any) -> None:
        pytest.fail("a kernel was called")

    for name in ("convert", "swap_bytes", "gather_rows", "error_sums"):
        monkeypatch.setattr(kernels, name, refuse)


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("quant", ["F16", "F32"])
def test_claims_beyond_the_file_are_refused(name: str, quant: str, tmp_path: Path, no_kernel: None) -> None:
    source = tmp_path / name
    source.write_bytes(CLAIMS[name])
    for dest in ("out.gguf", "out.safetensors"):
        with pytest.raises(modelfmt.ModelfmtError) as raised:
            modelfmt.convert(source, tmp_path / dest, quant=quant, allow_requantize=True)
        assert isinstance(raised.value, (modelfmt.CorruptFile, modelfmt.LimitExceeded)), repr(raised.value)
        assert Path(str(raised.value.path)) == source
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("format", ["gguf", "safetensors"])
def test_the_same_files_are_read_where_they_hold_what_they_claim(format: str, tmp_path: Path) -> None:
    """The refusals above are for the claim alone."""
    source = tmp_path / f"in.{format}"
    source.write_bytes(gguf_file((2, 32), 0, 256) if format == "gguf" else safetensors_file((2, 32), "F32", 256))
    with modelfmt.open(source) as model:
        (tensor,) = model.values()
        assert isinstance(tensor.expr, Leaf)
        assert tensor.numpy().tobytes() == b"\x5a" * 256
    modelfmt.convert(source, tmp_path / "out.safetensors", quant="F16")


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_a_file_that_shrinks_while_it_is_read_is_refused(quant: str, tmp_path: Path) -> None:
    """The claim was true when the plan was made; bytes that are gone are not made up."""
    source = tmp_path / "in.gguf"
    source.write_bytes(gguf_file((1024, 256), 0, 1024 * 256 * 4))
    with modelfmt.open(source) as model:
        plan = modelfmt.plan(model, tmp_path / "out.gguf", quant=quant)
        before = source.stat()
        os.truncate(source, 1 << 16)
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(modelfmt.CorruptFile):
            modelfmt.run(plan, source=model)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]
