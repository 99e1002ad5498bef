"""What modelfmt costs: modules loaded, and memory, which follows threads and tiles and not the size of the model.

Times are printed (`pytest -s`), not judged: a shared machine would fail them for no fault of ours.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfmt
from modelfmt import executor

MB = 1 << 20
PEAK = 200 * MB
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")

CONVERT = """
import json, sys, time
from pathlib import Path
import modelfmt
began = time.perf_counter()
report = modelfmt.convert(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
status = Path("/proc/self/status").read_text()  # ru_maxrss would start at what the parent process holds
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"peak": peak, "seconds": time.perf_counter() - began, "read": report.bytes_read}))
"""


def run(script: str, *arguments: str | Path) -> Any:
    """What a script prints, as JSON."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def made_up(folder: Path, layers: int, tokenizer: Path) -> Path:
    """A checkpoint of benchmarks/made_up_llama.py, 90 MB for each layer, with the tokens of a small tokenizer."""
    place = Path(__file__).parent.parent / "benchmarks" / "made_up_llama.py"
    spec = importlib.util.spec_from_file_location("made_up_llama", place)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VOCAB = 512
    module.write(folder / f"layers-{layers}", layers, tokenizer)
    return folder / f"layers-{layers}"


@pytest.fixture(scope="module")
def checkpoints(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The same model with 2 layers (185 MB) and with 4 (365 MB)."""
    folder = tmp_path_factory.mktemp("made-up")
    tokenizer = golden / "checkpoints" / "llama-spm"
    yield made_up(folder, 2, tokenizer), made_up(folder, 4, tokenizer)
    shutil.rmtree(folder)


def peak(source: Path, out: Path, **options: Any) -> int:
    """Bytes that a process holds at most while it converts."""
    found = run(CONVERT, source, out, json.dumps(options))
    out.unlink()
    print(f"{source.name} {options}: {found['peak'] / MB:.0f} MiB, {found['read'] / MB / found['seconds']:.0f} MiB/s")
    return int(found["peak"])


def test_inspecting_gguf_headers_needs_no_numpy(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    modelfmt.convert(golden / "checkpoints" / "qwen3", path, quant="auto")
    script = """
import json, sys, time
began = time.perf_counter()
import modelfmt
imported = time.perf_counter()
info = modelfmt.inspect(sys.argv[1], tensors=False)
print(json.dumps({"import": imported - began, "inspect": time.perf_counter() - imported,
                  "modules": sorted(sys.modules), "architecture": info.architecture}))
"""
    found = run(script, path)
    print(f"import modelfmt {1e3 * found['import']:.1f} ms, inspect {1e3 * found['inspect']:.1f} ms")
    assert found["architecture"] == "qwen3"
    assert not {"numpy", "ml_dtypes", "click"} & set(found["modules"])


@linux
@pytest.mark.parametrize("quant", ["Q8_0", "BF16", "Q4_K_M"])
def test_peak_memory_does_not_follow_the_model(quant: str, checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    small, large = (peak(source, tmp_path / f"{source.name}.gguf", quant=quant, threads=2) for source in checkpoints)
    assert small < PEAK and large < PEAK
    assert large < 1.15 * small


@linux
def test_peak_memory_does_not_follow_the_largest_tensor(tmp_path: Path) -> None:
    """The same 128 MB as one tensor and as 32, each of which is one tile."""
    peaks = []
    for count in (1, 32):
        values = np.full((16384 // count, 2048), 0.5, np.float32)
        source = tmp_path / f"{count}.safetensors"
        modelfmt.convert({f"w{i}": values for i in range(count)}, source)
        peaks.append(peak(source, tmp_path / "out.safetensors", quant="F16", threads=2))
        source.unlink()
    assert peaks[0] < 1.15 * peaks[1]


@linux
def test_a_budget_bounds_what_many_threads_hold(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"quant": "Q8_0"}
    alone = peak(checkpoints[0], tmp_path / "out.gguf", threads=1, **options)
    for memory in (16 * MB, 32 * MB):
        assert peak(checkpoints[0], tmp_path / "out.gguf", threads=16, memory=memory, **options) < alone + memory


@pytest.mark.parametrize("memory", ["1", "12M", "40M"])
def test_tiles_in_flight_stay_within_the_budget(
    memory: str, checkpoints: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even one tile fits, they go one at a time."""
    held: list[int] = []

    class Watched(executor._Pool):
        def _take(self) -> Any:
            taken = super()._take()
            held.append(self.in_flight)
            return taken

    monkeypatch.setattr(executor, "_Pool", Watched)
    plan = modelfmt.plan(checkpoints[0], tmp_path / "out.gguf", quant="Q8_0")
    budget = modelfmt.parse_size(memory)
    assert budget is not None
    modelfmt.run(plan, threads=8, memory=budget)
    assert len(held) >= sum(1 for _ in plan.jobs())
    assert 0 < max(held) <= max(budget, plan.peak_memory)
    assert plan.peak_memory < 16 * MB
