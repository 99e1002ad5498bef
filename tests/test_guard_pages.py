"""No kernel reads or writes a byte beyond its buffers: every buffer ends at a page that may not be touched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelfmt import _kernels

SCRIPT = """
import ctypes, mmap, sys
import numpy as np
from modelfmt import _kernels

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE = mmap.PAGESIZE

def guarded(size, shift=0):
    # size bytes that end `shift` bytes before a page that may not be touched
    pages = -(-(size + shift) // PAGE)
    block = mmap.mmap(-1, (pages + 1) * PAGE)
    array = np.frombuffer(block, np.uint8)
    address = array.ctypes.data
    assert libc.mprotect(address + pages * PAGE, PAGE, 0) == 0
    end = pages * PAGE - shift
    return array[end - size : end]

_kernels.set_isa(sys.argv[1])
rows = {row[0]: row for row in _kernels.types()}
F32 = rows["F32"][1]
rng = np.random.default_rng(1)
calls = 0
for name, number, elements, size, can_quantize, can_dequantize, needs_importance, _, can_refine in rows.values():
    for n_rows in (0, 1, 3):
        for n_blocks in (1, 2, 17):
            n_cols = n_blocks * elements
            n_bytes = n_rows * n_blocks * size
            for shift in (0, 1, 2):  # aligned ends, and block pointers of any alignment
                values = guarded(4 * n_rows * n_cols)
                blocks = guarded(n_bytes, shift)
                if can_quantize:
                    values.view(np.float32)[:] = rng.standard_normal(n_rows * n_cols)
                    weights = guarded(4 * n_cols)
                    weights.view(np.float32)[:] = rng.random(n_cols)
                    choices = [weights] if needs_importance else [None, weights]
                    for importance in choices:
                        for rounding in range(1 + can_refine):
                            _kernels.convert(F32, values, number, blocks, n_rows, n_cols, importance, rounding)
                            calls += 1
                if can_dequantize:
                    if not can_quantize and n_bytes:
                        blocks[:] = rng.integers(0, 256, n_bytes)
                    _kernels.convert(number, blocks, F32, values, n_rows, n_cols)
                    calls += 1
print(calls)
"""


@pytest.mark.parametrize("level", _kernels.isa_levels())
def test_nothing_is_touched_beyond_a_buffer(level: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, level], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:] or f"signal {-done.returncode}"
    assert int(done.stdout) > 1000


def test_the_guard_bites() -> None:
    code = SCRIPT.split("_kernels.set_isa")[0] + "\nimport ctypes\nctypes.string_at(guarded(16).ctypes.data, 17)\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode < 0
