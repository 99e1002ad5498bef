"""A whole model quantized, beside `cp` and beside the time that ggml's own kernels need for the same tensors.

    python benchmarks/whole_model.py [--best] [--types Q4_K_M,Q6_K,IQ4_XS] [--rounds 3] [--every 8] [--threads 2]

The model is the made-up 0.85 B-parameter bfloat16 Llama of benchmarks/made_up_llama.py. Each of our times is a whole
process, from starting Python to the final fsync. ggml's is that of ggml_quantize_chunk alone, on as many threads, for
the rows that llama-quantize would give it: float32, widened before from the BF16 file of the same model, with each
tensor's type as in our file; reading, widening and writing are not in it. It is measured on every 8th row of every
tensor (--every) and scaled by the number of weights. Those rows must be the same bytes in our file. Each round runs
everything once, in turn; printed are medians over the rounds, ratios within a round.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gguf
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from end_to_end import timed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import ggml

CONVERT = """
import sys, modelfmt
source, out, quant, threads, memory, rounding = sys.argv[1:]
modelfmt.convert(source, out, quant=quant, threads=int(threads), memory=memory, rounding=rounding, overwrite=True)
"""
TASK_ELEMENTS = 1 << 18


class Sample(NamedTuple):
    """Some rows of a tensor: float32 [rows, columns], the type's number, and uint8 [rows, row bytes] for ggml."""

    name: str
    type: int
    rows: NDArray[np.float32]
    blocks: NDArray[np.uint8]


def quantized(path: Path) -> list[Any]:
    """The tensors of a GGUF file that are of a block type, as the gguf package reads them."""
    dense = ("F32", "F16", "BF16")
    return [tensor for tensor in gguf.GGUFReader(path).tensors if tensor.tensor_type.name not in dense]


def samples(full: Path, made: Path, every: int) -> tuple[list[Sample], float]:
    """Every so many rows of the tensors that `made` quantizes, with the values of `full`; all weights over those."""
    sources = {tensor.name: tensor for tensor in gguf.GGUFReader(full).tensors}
    found, count = [], 0
    for tensor in quantized(made):
        source = sources[tensor.name].data[::every]
        rows = np.ascontiguousarray(source).view(ml_dtypes.bfloat16).astype(np.float32)
        blocks = np.ones((len(rows), tensor.data.shape[-1]), np.uint8)
        found.append(Sample(tensor.name, int(tensor.tensor_type), rows, blocks))
        count += int(tensor.n_elements)
    return found, count / sum(sample.rows.size for sample in found)


def by_ggml(data: list[Sample], threads: int) -> float:
    """Seconds in which ggml's kernels fill the blocks. Threads share out row ranges, with no wait between tensors."""
    library = ggml.library()

    def task(sample: Sample, start: int, stop: int) -> None:
        n_cols = sample.rows.shape[1]
        source, target = (ctypes.c_void_p(array.ctypes.data) for array in (sample.rows, sample.blocks))
        library.ggml_quantize_chunk(sample.type, source, target, start * n_cols, stop - start, n_cols, None)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for done in [pool.submit(task, *part) for part in parts(data)]:
            done.result()
        return time.perf_counter() - began


def parts(data: list[Sample]) -> Iterator[tuple[Sample, int, int]]:
    """Row ranges of about a quarter of a million weights."""
    for sample in data:
        step = max(1, TASK_ELEMENTS // sample.rows.shape[1])
        for start in range(0, len(sample.rows), step):
            yield sample, start, min(start + step, len(sample.rows))


def check(data: list[Sample], made: Path, every: int) -> None:
    """Exit where the file's rows are other bytes than ggml's."""
    ours = {tensor.name: tensor.data for tensor in quantized(made)}
    wrong = [sample.name for sample in data if not np.array_equal(ours[sample.name][::every], sample.blocks)]
    if wrong:
        raise SystemExit(f"{made.name}: other bytes than ggml's in {', '.join(wrong)}")


class Bench:
    """Files in a folder, and the times of every round by (type, way)."""

    def __init__(self, folder: Path, layers: int, threads: int, memory: str) -> None:
        self.source, self.folder = folder / f"llama-{layers}-layers", folder
        self.threads, self.memory = threads, memory
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.scale: dict[str, float] = {}
        if not self.source.is_dir():
            # in a process of its own: the peak memory of a child counts from its parent's
            script = Path(__file__).with_name("made_up_llama.py")
            subprocess.run([sys.executable, script, self.source, "--layers", str(layers)], check=True)
        self.full = self.convert("BF16", "ggml")[1]

    def convert(self, name: str, rounding: str) -> tuple[float, Path]:
        """Seconds of a whole conversion, and the file."""
        out = self.folder / f"whole-{name}-{rounding}.gguf"
        options = [name, str(self.threads), self.memory, rounding]
        return timed([sys.executable, "-c", CONVERT, str(self.source), str(out), *options])[0], out

    def copy(self) -> float:
        """Seconds of cp."""
        copy = self.folder / "copy"
        took = timed(["cp", "-r", str(self.source), str(copy)])[0]
        shutil.rmtree(copy)
        return took

    def round(self, types: list[str], every: int, best: bool) -> None:
        """Everything once."""
        self._keep("cp", "", self.copy())
        for name in types:
            took, made = self.convert(name, "ggml")
            self._keep(name, "ggml", took)
            data, self.scale[name] = samples(self.full, made, every)
            self._keep(name, "kernels", by_ggml(data, self.threads) * self.scale[name])
            check(data, made, every)
            made.unlink()
            if best:
                took, made = self.convert(name, "best")
                self._keep(name, "best", took)
                made.unlink()

    def _keep(self, name: str, way: str, took: float) -> None:
        self.seconds.setdefault((name, way), []).append(took)

    def table(self) -> Iterator[str]:
        """Lines of Markdown."""
        copies = self.seconds["cp", ""]
        yield "| | seconds (min to max) | / `cp -r` | ggml's kernels, seconds (scaled) | kernels / whole process |"
        yield "| --- | --- | --- | --- | --- |"
        for (name, way), took in self.seconds.items():
            if way == "kernels":
                continue
            cells = [f'{name}, rounding="best"' if way == "best" else name]
            cells += [f"{median(took):.2f} ({min(took):.2f} to {max(took):.2f})"]
            cells += [f"{median(a / b for a, b in zip(took, copies, strict=True)):.2f}"]
            if way:
                kernels = self.seconds[name, "kernels"]
                cells += [f"{median(kernels):.1f}", f"{median(a / b for a, b in zip(kernels, took, strict=True)):.1f}x"]
            else:
                cells += ["", ""]
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", default="1Gi")
    parser.add_argument("--types", default="Q4_K_M,Q6_K,IQ4_XS")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--every", type=int, default=8, help="ggml gets one row of so many")
    parser.add_argument("--best", action="store_true", help='time rounding="best" too')
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.folder, given.layers, given.threads, given.memory)
    for _ in range(given.rounds):
        bench.round(given.types.split(","), given.every, given.best)
    bench.full.unlink()
    size = sum(path.stat().st_size for path in bench.source.iterdir())
    print(
        f"{size / 1e9:.2f} GB source, {given.threads} threads, medians of {given.rounds} rounds; ggml on every "
        f"{given.every}th row, whose bytes were equal in all our files with its rounding\n"
    )
    print("\n".join(bench.table()))


if __name__ == "__main__":
    main()
