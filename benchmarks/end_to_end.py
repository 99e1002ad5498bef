"""Whole conversions of a made-up 0.85 B-parameter bfloat16 Llama, each as a process of its own, beside `cp` of the
folder.

    python benchmarks/end_to_end.py [--folder build/bench] [--runs 5] [--threads 2] [--types BF16,Q8_0,Q4_K_M] [--layers
    16]

Each round runs cp and every type once, in turn; printed are medians over the rounds: seconds, the ratio to the same
round's cp, and peak resident memory (the page cache is not part of it). All times include starting Python and the final
fsync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONVERT = """
import sys, modelfmt
modelfmt.convert(sys.argv[1], sys.argv[2], quant=sys.argv[3], threads=int(sys.argv[4]), memory=sys.argv[5],
overwrite=True)
"""


def timed(command: list[str]) -> tuple[float, int]:
    """(seconds, peak resident bytes) of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", default="1Gi")
    parser.add_argument("--types", default="BF16,Q8_0,Q4_K_M")
    parser.add_argument("--layers", type=int, default=16)
    given = parser.parse_args()
    source = given.folder / f"llama-{given.layers}-layers"
    if not source.is_dir():
        # in a process of its own: the peak memory of a child counts from its parent's
        script = Path(__file__).with_name("made_up_llama.py")
        subprocess.run([sys.executable, script, source, "--layers", str(given.layers)], check=True)
    types = given.types.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in ("cp", *types)}
    memory: dict[str, int] = dict.fromkeys(types, 0)
    for _ in range(given.runs):
        copy = given.folder / "copy"
        seconds["cp"].append(timed(["cp", "-r", str(source), str(copy)])[0])
        shutil.rmtree(copy)
        for name in types:
            out = given.folder / f"out-{name}.gguf"
            command = [sys.executable, "-c", CONVERT, str(source), str(out), name, str(given.threads), given.memory]
            took, peak = timed(command)
            seconds[name].append(took)
            memory[name] = max(memory[name], peak)
            out.unlink()
    size = sum(path.stat().st_size for path in source.iterdir())
    rounds = f"median of {given.runs} rounds (min to max)"
    print(f"{size / 1e9:.2f} GB source, {given.threads} threads, memory {given.memory}, {rounds}")
    print(f"{'':8} {'seconds':>22} {'/ cp':>8} {'peak RSS':>10}")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, seconds["cp"], strict=True))
        spread = f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        peak = f"{memory[name] / 1e6:.0f} MB" if name in memory else ""
        print(f"{name:8} {spread:>22} {ratio:8.2f} {peak:>10}")


if __name__ == "__main__":
    main()
