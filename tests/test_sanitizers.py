"""The kernels under the address and undefined-behaviour sanitizers: every type, level, size and alignment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import numpy as np
import _kernels
assert "sanitized" in _kernels.__file__
rng = np.random.default_rng(1)
rows = {row[0]: row for row in _kernels.types()}
F32, calls = rows["F32"][1], 0
for level in _kernels.isa_levels():
    _kernels.set_isa(level)
    for name, number, elements, size, can_quantize, can_dequantize, needs_importance, _ in rows.values():
        for n_rows, n_blocks in ((0, 1), (1, 1), (1, 2), (2, 17), (3, 5)):
            n_cols = n_blocks * elements
            for scale in (1.0, 1e-40, 1e30, 0.0):
                x = (rng.standard_normal(n_rows * n_cols) * scale).astype(np.float32)
                held = np.empty(n_rows * n_blocks * size + 1, np.uint8)
                blocks = held[1:]  # block pointers have any alignment
                if can_quantize:
                    for importance in (rng.random(n_cols).astype(np.float32), None):
                        if importance is not None or not needs_importance:
                            _kernels.convert(F32, x, number, blocks, n_rows, n_cols, importance)
                            calls += 1
                else:
                    blocks[:] = rng.integers(0, 256, blocks.size)
                if can_dequantize:
                    _kernels.convert(number, blocks, F32, np.empty(n_rows * n_cols, np.float32), n_rows, n_cols)
                    calls += 1
                _kernels.swap_bytes(number, blocks)
for bad in (np.nan, np.inf):
    x = np.full(512, bad, np.float32)
    for name, row in rows.items():
        if row[4] and row[2] > 1:
            target = np.empty(512 // row[2] * row[3], np.uint8)
            try:
                _kernels.convert(F32, x, row[1], target, 1, 512, np.ones(512, np.float32))
            except _kernels.KernelError:
                calls += 1
print(calls)
"""


def test_every_kernel_is_clean(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent / "cmake"
    cmake = str(beside) if beside.exists() else shutil.which("cmake")
    assert cmake, "cmake is needed: the Makefile installs it"
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("this compiler has no sanitizers")
    build = tmp_path / "sanitized"
    options = ["-DMODELFMT_SANITIZE=ON", f"-DPython_EXECUTABLE={sys.executable}", "-DPython_FIND_STRATEGY=LOCATION"]
    subprocess.run([cmake, "-S", str(ROOT / "csrc"), "-B", str(build), *options], check=True, capture_output=True)
    made = subprocess.run([cmake, "--build", str(build), "-j", "2"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(build),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment, cwd=build
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    assert int(done.stdout) > 1000
