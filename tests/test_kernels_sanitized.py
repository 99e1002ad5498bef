"""Every kernel at the edges of its buffers, under the address and undefined-behaviour sanitizers.

The extension is built with MODELFMT_SANITIZE=ON and called in a process of its own: between any two types, with no
rows, few and many blocks, aligned and not, where each buffer ends at a page that may not be touched (a write or read
beyond it, which the sanitizers cannot see in memory that is not theirs, is then a signal), with and without importance,
at each instruction-set level. `make san` runs the kernels' other tests over the same build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelfmt import _kernels

ROOT = Path(__file__).parent.parent

CALLS = r'''
import ctypes, importlib.util, mmap, sys
import numpy as np

spec = importlib.util.spec_from_file_location("modelfmt._kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
PAGE, ROOM = mmap.PAGESIZE, 1 << 21

class Guarded:
    """Memory whose last byte lies before a page that may not be read or written."""
    def __init__(self):
        self.map = mmap.mmap(-1, ROOM + PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert protect(self.bytes.ctypes.data + ROOM, PAGE, 0) == 0

    def last(self, n, gap=0):
        """n bytes that end gap bytes before the guarded page."""
        return self.bytes[ROOM - gap - n : ROOM - gap]

source, target, back, weights = Guarded(), Guarded(), Guarded(), Guarded()
if sys.argv[2:] == ["overrun"]:
    ctypes.memset(target.bytes.ctypes.data + ROOM - 1, 0, 2)
types = {row[0]: row for row in kernels.types()}
random = np.random.default_rng(1)
noise = random.integers(0, 256, ROOM, dtype=np.uint8)
floats = (random.standard_normal(1 << 16) * 10.0 ** random.uniform(-30, 30, 1 << 16)).astype("f4")
extremes = np.array([0, -0.0, 3.4e38, -3.4e38, 1e-45, 1, -1], "f4")
n_calls = 0

def fill(view, values):
    view[:] = values.view(np.uint8)[: view.size]
    return view

def convert(a, src, b, dst, rows, cols, importance=None, rounding=0):
    global n_calls
    n_calls += 1
    kernels.convert(types[a][1], src, types[b][1], dst, rows, cols, importance, rounding)

def size(name, n):
    return n // types[name][2] * types[name][3]

def quantize(name, rows, cols, gap, kind):
    n = rows * cols
    x = fill(source.last(4 * n, gap), np.resize(extremes, n) if kind == "extremes" else floats[:n])
    importance = None
    if kind == "weighted" or types[name][6]:
        importance = fill(weights.last(4 * cols), np.abs(floats[:cols]))
        if cols > 2: importance.view("f4")[: cols // 2] = 0
    out = target.last(size(name, n), gap and gap + 1)
    for rounding in range(1 + types[name][8]):
        convert("F32", x, name, out, rows, cols, importance, rounding)
    if types[name][5]:
        again = back.last(4 * n, gap)
        convert(name, out, "F32", again, rows, cols)
        kernels.error_sums(0, x, types[name][1], out, n)

def dequantize(name, rows, cols, gap):
    n = rows * cols
    blocks = fill(source.last(size(name, n), gap), noise)
    for other in ("F32", "F16", "BF16", "F64"):
        convert(name, blocks, other, target.last(size(other, n), gap and gap + 1), rows, cols)
    kernels.mark_words(blocks[: blocks.size // 2 * 2], back.last(1 << 16))
    kernels.swap_bytes(types[name][1], blocks)
    kernels.swap_bytes(types[name][1], blocks)

DENSE = ("F32", "F16", "BF16", "F64")
assert kernels.isa_levels()
for level in kernels.isa_levels():
    kernels.set_isa(level)
    for name, row in types.items():
        block = max(row[2], 1)
        counts = (0, 1, 2, 17, 31, 8193) if name in DENSE else (0, 1, 2, 17)
        for blocks in counts:
            for rows in (0, 1, 2, 3):
                for gap in (0, 1, 3):
                    if row[4]:
                        for kind in ("plain", "weighted", "extremes"):
                            quantize(name, rows, blocks * block, gap, kind)
                    if row[5]:
                        dequantize(name, rows, blocks * block, gap)
                    if row[4] or row[5]:
                        n = rows * blocks * block
                        convert(name, fill(source.last(size(name, n), gap), noise), name, target.last(size(name, n)),
                                rows, blocks * block)

    # a value that is refused: its place is looked for inside the buffer
    for name, row in types.items():
        if row[4] and row[2] > 1:
            n = row[2] * 5
            for place in (0, n - 1):
                x = source.last(4 * n)
                x[:] = 0
                x.view("f4")[place] = np.nan
                weight = fill(weights.last(4 * n), np.ones(n, "f4")) if row[6] else None
                try:
                    convert("F32", x, name, target.last(size(name, n)), 1, n, weight)
                except kernels.KernelError as error:
                    assert (error.status, error.column) == (kernels.BAD_VALUE, place), (name, error.column)
                else:
                    raise AssertionError(name)

# grids: every layout into every other, at the end of their buffers, in pieces that are cut off
PACKINGS = [(0, 0, 4), (0, 1, 4), (0, 2, 4), (0, 0, 3), (0, 0, 8), (1, 0, 4), (1, 0, 3), (1, 0, 8), (2, 0, 4)]
PACKINGS += [(2, 2, 4)]
SIZES = ((8, 256, 32), (40, 544, 32), (136, 768, 256), (8, 512, 16), (16, 512, 64), (8, 256, 256), (0, 256, 32))
BLOCKED = [(3, 0, row[1]) for row in types.values() if row[4] or row[5]]
n_moves = 0

def line(side, n, k):
    """Bytes of a line of a layout, and of all of its lines."""
    lay, _, bits = side
    if lay == 3:
        row = next(row for row in types.values() if row[1] == bits)
        return k // row[2] * row[3], n * (k // row[2] * row[3])
    size = [(k * bits + 7) // 8, 4 * n, n // 2][lay]
    return size, size * [n, k * bits // 32, k][lay]

def move(one, two, n, k, group, gap):
    global n_moves
    (size, whole), (to, made) = line(one, n, k), line(two, n, k)
    codes = fill(source.last(whole, gap), noise)
    planes = fill(weights.last(16 * n * (k // group)), np.resize(floats, 4 * n * (k // group))).view("f8")
    scale, zero = planes[: n * (k // group)], planes[n * (k // group) :]
    scale[:], zero[:] = 0.5, np.arange(zero.size) % 16
    left, right = (*one, 0, size), (*two, 0, to)
    table = None if two[0] != 3 else np.zeros(256)
    try:
        kernels.grid_move(left, right, (n, k, group), codes, (scale, 0.0, zero), 255, -1, table, target.last(made, gap))
        n_moves += 1
    except ValueError:
        pass  # no grid
    if one[0] in (1, 2) and n and k:  # some rows of a strip, whose last line ends with them
        lines = whole // size
        codes = fill(source.last((lines - 1) * 2 * size + size, gap), noise)
        try:
            kernels.grid_move((*one, 0, 2 * size), right, (n, k, group), codes, (scale, 0.0, zero), 255, -1, table,
                              target.last(made, gap))
            n_moves += 1
        except ValueError:
            pass

for level in kernels.isa_levels():
    kernels.set_isa(level)
    for n, k, group in SIZES:
        for gap in (0, 1):
            for one in PACKINGS + BLOCKED:
                for two in PACKINGS if one[0] == 3 else PACKINGS + BLOCKED:
                    move(one, two, n, k, group, gap)
        for name, row in types.items():
            if k % max(row[2], 1) == 0 and row[5]:
                blocks = fill(source.last(size(name, n * k)), noise)
                rows = target.last(n * (k // group * 24 + k))
                planes = weights.last(24 * n * (k // group)).view("f8")
                try:
                    kernels.grid_from_blocks(row[1], (n, k, group), blocks, rows)
                    kernels.grid_numbers(row[1], (n, k, group), blocks, planes)
                    kernels.grid_values((n, k, group), rows, None, back.last(8 * n * k).view("f8"))
                    third = planes.size // 3
                    kernels.grid_rounding(tuple(planes.reshape(3, -1)), third, (1, 30, 15.0, True, 8.0))
                except ValueError:
                    pass
        values = fill(source.last(4 * n * k), np.resize(floats[:64], n * k))
        book = np.linspace(-1, 1, 15, dtype="f4").tobytes() + bytes(range(16))
        for wide, shared in ((group, 1), (group, 3), (3 * group, 1)):
            for kind in range(6):
                how = (kind % 4, kind % 4, kind % 3, kind, 255, 128, kind % 2)
                for records in (0, 1):
                    rows = target.last(n * (k // group * 24 + (0 if records else k)))
                    for number, dtype in ((0, "f4"), (1, "f2")):
                        given = np.resize(np.clip(floats[:64], -6e4, 6e4).astype(dtype), n * k)
                        values = fill(source.last(given.nbytes, number), given)
                        kernels.grid_round((*how, records), (7.5, 1.0, 1.0, 0.125, 0.0, 6.0), book, (wide, shared),
                                           (n, k, group), number, values, rows)
for n, m, per, turned in ((1, 1, 1, 0), (7, 5, 1, 1), (9, 4, 3, 0), (9, 4, 0, 1)):
    lines = -(-n // per) if per else 1
    for kind, width in ((False, 4), (True, 1)):
        numbers = fill(source.last(lines * m * width), noise)
        which = fill(weights.last(8 * m), np.arange(m, dtype=np.uintp)[::-1].copy())
        for how in (0, 1, 2):
            plane = target.last(8 * n * m)
            kernels.grid_spread(numbers, kind, (m, 1), (0, per), which, 1.0, how, (n, m), turned, plane)
assert n_moves > 4000 * len(kernels.isa_levels()), n_moves

# bytes: the same at every level
for rows in (1, 2, 17):
    for row_bytes in (1, 3, 16, 33):
        src = fill(source.last(rows * row_bytes), noise)
        wanted = np.arange(rows, dtype=np.int64)[::-1].copy()
        kernels.gather_rows(src, target.last(rows * row_bytes), row_bytes, fill(weights.last(8 * rows, 1), wanted))
        for bad in (rows, -1, 2**63 - 1, -(2**63)):
            wanted[-1] = bad
            try:
                kernels.gather_rows(src, target.last(rows * row_bytes), row_bytes, fill(weights.last(8 * rows), wanted))
            except ValueError:
                continue
            raise AssertionError(bad)
for width in (4, 8):
    for lengths in ([0], [5], [0, 0, 3], [1, 2, 3]):
        text = b"".join(n.to_bytes(width, "little") + b"x" * n for n in lengths)
        for cut in range(len(text) + 1):
            view = fill(source.last(cut), np.frombuffer(text, np.uint8))
            done, end = kernels.skip_strings(view, 0, len(lengths), width, False)
            assert end <= cut and done <= len(lengths)
        for claim in (2**31, 2**32 - 1) + ((2**63 - 1, 2**63, 2**64 - 1) if width == 8 else ()):
            view = fill(source.last(width + 3), np.frombuffer(claim.to_bytes(width, "little") + b"abc", np.uint8))
            assert kernels.skip_strings(view, 0, 1, width, False) == (0, 0)
print(n_calls, "calls,", len(kernels.isa_levels()), "levels")
'''


def build(folder: Path) -> tuple[Path, dict[str, str]]:
    """The sanitized extension, built into folder, and the environment that it runs in."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    beside = Path(sys.executable).parent / "cmake"
    cmake = str(beside) if beside.exists() else shutil.which("cmake")
    assert compiler and cmake, "a C compiler and cmake are needed, as for building the package"
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # `make san` sets it
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout
        if not Path(path.strip()).is_absolute():
            pytest.skip(f"{compiler} has no {name}")
        libraries.append(path.strip())
    own = [f"-DPython_EXECUTABLE={sys.executable}", "-DPython_FIND_STRATEGY=LOCATION"]
    own += [f"-DMODELFMT_LEVELS={';'.join(_kernels.isa_levels())}"]  # no other is called
    for step in (
        [cmake, "-S", ROOT / "csrc", "-B", folder, f"-DCMAKE_C_COMPILER={compiler}", "-DMODELFMT_SANITIZE=ON", *own],
        [cmake, "--build", folder, "-j", "2"],
    ):
        done = subprocess.run(step, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("_kernels*.so")
    # what Python itself leaves behind at its end is no finding
    return built, {**os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


def test_no_kernel_leaves_its_buffers(tmp_path: Path) -> None:
    built, environment = build(tmp_path)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CALLS, str(built), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)

    done = call()
    assert done.returncode == 0 and not done.stderr, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 1000
    overrun = call("overrun")  # the same can fail: one byte beyond a buffer is found
    assert overrun.returncode != 0 and "AddressSanitizer" in overrun.stderr
