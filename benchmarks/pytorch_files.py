"""A made-up 1.7 GB pytorch_model.bin: listing its tensors, and making it a .safetensors, beside torch and safetensors.

    python benchmarks/pytorch_files.py [--folder build/bench] [--runs 5] [--tensors 340] [--megabytes 5]

`cp` of the same bytes says what the machine can do. Each line is a process of its own, all in turn, repeated; printed
are medians (min to max). "inside" leaves out starting Python and importing. Peaks are of anonymous memory (what a
process holds beside the page cache), sampled every 5 ms. modelfmt's times include fsync; torch's do where it is said.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

MAKE = """
import sys, torch
torch.manual_seed(1)
path, tensors, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
state = {f"model.layers.{i}.weight": torch.randn(1000, size * 500).bfloat16() for i in range(tensors)}
torch.save(state, path)
"""

TASKS = {
    "list, modelfmt": """
import modelfmt
begin()
with modelfmt.open(source) as model:
    rows = [(name, tensor.shape, tensor.encoding.name) for name, tensor in model.items()]
""",
    "list, torch": """
import torch
begin()
rows = [(name, t.shape, t.dtype) for name, t in torch.load(source, mmap=True, weights_only=True).items()]
""",
    "convert, modelfmt": """
import modelfmt
begin()
modelfmt.convert(source, target, overwrite=True)
""",
    "convert, torch": """
import torch
from safetensors.torch import save_file
begin()
save_file(torch.load(source, mmap=True, weights_only=True), target)
""",
    "the same with fsync": """
import os, torch
from safetensors.torch import save_file
begin()
save_file(torch.load(source, mmap=True, weights_only=True), target)
with open(target) as file:
    os.fsync(file.fileno())
""",
    "cp, with fsync": """
import os, subprocess
begin()
subprocess.run(["cp", source, target], check=True)
with open(target) as file:
    os.fsync(file.fileno())
""",
    "write .bin, modelfmt": """
import modelfmt
begin()
modelfmt.convert(source, target.replace(".safetensors", ".again.bin"), overwrite=True)
""",
    "write .bin, torch": """
import torch
begin()
torch.save(torch.load(source, mmap=True, weights_only=True), target.replace(".safetensors", ".again.bin"))
""",
}

FRAME = """
import sys, time
source, target = sys.argv[1:]
def begin():
    global began
    began = time.monotonic()
{body}
print(time.monotonic() - began)
"""


def measured(body: str, source: Path, target: Path) -> tuple[float, float, int]:
    """(seconds of the process, seconds inside, peak of anonymous memory in bytes)."""
    began = time.monotonic()
    command = [sys.executable, "-c", FRAME.format(body=body), str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            peak = max(peak, int(status.partition("RssAnon:")[2].split()[0] if "RssAnon:" in status else 0))
            time.sleep(0.005)
        assert process.stdout is not None
        inside = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - began, float(inside), peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tensors", type=int, default=340)
    parser.add_argument("--megabytes", type=int, default=5, help="of each tensor")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    source, target = given.folder / "pytorch_model.bin", given.folder / "model.safetensors"
    if not source.exists():
        subprocess.run([sys.executable, "-c", MAKE, source, str(given.tensors), str(given.megabytes)], check=True)
    rows: dict[str, list[tuple[float, float, int]]] = {name: [] for name in TASKS}
    for _ in range(given.runs):
        for name, body in TASKS.items():
            rows[name].append(measured(body, source, target))
            for left in (target, target.with_name("model.again.bin")):
                left.unlink(missing_ok=True)
    print(f"{source.stat().st_size / 1e9:.2f} GB, {given.runs} rounds, median (min to max)")
    print(f"{'':22} {'seconds':>24} {'inside':>24} {'peak':>10}")
    for name, found in rows.items():
        columns = [[row[i] for row in found] for i in range(2)]
        shown = [f"{statistics.median(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns]
        print(f"{name:22} {shown[0]:>24} {shown[1]:>24} {max(row[2] for row in found) / 1e6:7.0f} MB")


if __name__ == "__main__":
    main()
