"""The corpus of hostile pickles beside other scanners; and what loaders and scanners say to thirty files.

    python benchmarks/scanners.py --peers VENV/bin/python [--shared ../shared/data] [--thirty]

VENV has picklescan, fickling and modelscan (`pip install picklescan fickling modelscan`), no torch; this Python has
modelfmt and, for --thirty, torch. Each tool looks at each file in a process with 3 GB of memory, 10 s of CPU a file;
one that dies or takes longer is an error. Printed is Markdown: docs/scan.md has the first table, docs/pickles.md the
second.

What a tool says is put so: picklescan: a dangerous global, a suspicious one, an error. fickling (scan_file,
scan_zip_archive): likely unsafe and worse, possibly unsafe and suspicious, an error. modelscan: an issue of medium
severity or more, of low severity, an error or a file that it skips. Nothing is ever unpickled but by torch's
weights_only, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import hostile_pickles

WORKER = """
import contextlib, io, json, logging, os, resource, signal, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
tool, names = sys.argv[1], sys.argv[2:]
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

def picklescan():
    from picklescan.scanner import SafetyLevel, scan_file_path
    def look(path):
        found = scan_file_path(path)
        levels = {row.safety for row in found.globals}
        if SafetyLevel.Dangerous in levels or found.infected_files:
            return "dangerous"
        if found.scan_err or not found.scanned_files:
            return "error"
        return "unknown" if SafetyLevel.Suspicious in levels else "safe"
    return look

def fickling():
    import zipfile
    from fickling.analysis import Severity
    from fickling.loader import scan_file, scan_zip_archive
    order = list(Severity)
    def look(path):
        if zipfile.is_zipfile(path):
            rows = list(scan_zip_archive(path, graceful=True).values())
        else:
            rows = [scan_file(path, graceful=True)]
        worst = max((row.severity for row in rows), key=order.index, default=None)
        if worst is not None and order.index(worst) >= order.index(Severity.LIKELY_UNSAFE):
            return "dangerous"
        if not rows or any(row.errors for row in rows):
            return "error"
        return "safe" if worst is Severity.LIKELY_SAFE else "unknown"
    return look

def modelscan():
    from modelscan.modelscan import ModelScan
    def look(path):
        found = ModelScan().scan(path)
        levels = found["summary"]["total_issues_by_severity"]
        if levels["CRITICAL"] + levels["HIGH"] + levels["MEDIUM"]:
            return "dangerous"
        if found["errors"] or not found["summary"]["scanned"]["total_scanned"]:
            return "error"
        return "unknown" if levels["LOW"] else "safe"
    return look

def modelfmt():
    import modelfmt
    return lambda path: modelfmt.scan(path).verdict

def opening():
    import modelfmt
    def look(path):
        try:
            with modelfmt.open(path) as model:
                for tensor in model.values():
                    tensor.rows(0, min(1, tensor.nbytes))
                return f"opens ({len(model)})"
        except modelfmt.ModelfmtError as error:
            return "refused: " + error.code
    return look

def torch():
    import torch
    def look(path):
        try:
            torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            return "refused"
        return "opens"
    return look

def late(*_):
    raise TimeoutError

signal.signal(signal.SIGPROF, late)
sink = io.StringIO()
with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
    look = globals()[tool]()
for name in names:
    signal.setitimer(signal.ITIMER_PROF, 10)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            verdict = look(name)
    except BaseException as error:
        verdict = "error"
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps([name, verdict]), flush=True)
"""
TOOLS = ("picklescan", "fickling", "modelscan", "modelfmt")
VERDICTS = ("dangerous", "unknown", "safe", "error")


def ask(python: str, tool: str, names: list[str]) -> dict[str, str]:
    """What a tool says to each file; a process that dies over one goes on behind it."""
    found: dict[str, str] = {}
    waiting = list(names)
    with tempfile.TemporaryDirectory() as folder:
        while waiting:
            command = [python, "-c", WORKER, tool, *waiting[:400]]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            if not rows and done.returncode and not found:
                raise SystemExit(f"{tool}: {done.stderr[-500:]}")
            found |= dict(rows)
            if len(rows) < len(waiting[:400]):
                found[waiting[len(rows)]] = "error"
                rows.append([waiting[len(rows)], "error"])
            waiting = waiting[len(rows) :]
    return found


# fmt: off
NOTHING_RUNS = {
    "extension-0.pkl", "extension-1.pkl", "extension-2.pkl", "extension-4.pkl", "extension-negative.pkl",
    "list-as-function.pkl", "long-as-name.pkl", "name-confusable.pkl", "name-empty.pkl", "name-not-text.pkl",
    "name-with-escape.pkl", "name-with-newline.pkl", "name-with-null.pkl", "name-with-space.pkl",
    "stack-global-of-bytes.pkl", "stack-global-of-global.pkl", "stack-global-of-int.pkl", "stack-global-of-none.pkl",
    "string-as-function.pkl",
}
# fmt: on
"""Tricks at which Python's own unpickler ends with an error before anything is called."""


def groups(shared: Path) -> dict[str, dict[str, bytes]]:
    """Files by what is to be expected of them."""
    zips = dict(hostile_pickles.zips()) | dict(hostile_pickles.tars())
    tricks = dict(hostile_pickles.tricks())
    public = {p.name: p.read_bytes() for p in sorted((shared / "malicious").rglob("*")) if p.is_file()}
    return {
        "functions that are called, each in two ways": dict(hostile_pickles.gadgets()),
        "tricks against scanners": {name: data for name, data in tricks.items() if name not in NOTHING_RUNS},
        "payloads in archives": {name: data for name, data in zips.items() if b"os\nsystem" in data},
        "public files that run something": {n: d for n, d in public.items() if "malicious" in n or "sploit" in n},
        "lies, bombs, broken files (nothing runs)": {
            **{name: tricks[name] for name in NOTHING_RUNS},
            **{name: data for name, data in zips.items() if b"os\nsystem" not in data},
            **dict(hostile_pickles.structures()),
        },
        "honest public files": {n: d for n, d in public.items() if n.startswith("benign0") or "pytorch_model" in n},
    }


def scanners(peers: str, shared: Path, folder: Path) -> None:
    """The table of counts, and the names of what was called safe though it runs something."""
    print(f"| | files | {' | '.join(TOOLS)} |\n| --- | --- | {' | '.join('---' for _ in TOOLS)} |")
    missed: dict[str, list[str]] = {tool: [] for tool in TOOLS}
    for number, (title, files) in enumerate(groups(shared).items()):
        place = folder / str(number)
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
        cells = []
        for tool in TOOLS:
            python = sys.executable if tool == "modelfmt" else peers
            found = ask(python, tool, [str(place / name) for name in files])
            counts = Counter(found.values())
            cells.append(" / ".join(str(counts[verdict]) for verdict in VERDICTS))
            if number < 4:
                names = (Path(name).name for name, verdict in found.items() if verdict == "safe")
                missed[tool] += [
                    name.removesuffix("-ex.pkl").rpartition("-")[0] if number == 0 else name for name in names
                ]
        print(f"| {title} | {len(files)} | {' | '.join(cells)} |", flush=True)
    for tool, names in missed.items():
        kinds = ", ".join(dict.fromkeys(names)) or "none"
        print(f"\n{tool} calls {len(names)} files safe that hold a payload: {kinds}")


# --- thirty files


def honest() -> dict[str, Callable[[Path], object]]:
    """What people have: forms, leftovers of training, real old files."""
    import pickle
    from argparse import Namespace
    from collections import OrderedDict, deque

    import numpy as np
    import torch

    state = OrderedDict(weight=torch.randn(3, 4), bias=torch.randn(3).bfloat16())
    weight = state["weight"]
    old = {"_use_new_zipfile_serialization": False}
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    optimizer = torch.optim.Adam(net.parameters())

    def lightning(path: Path) -> None:
        leftovers = {"epoch": 3, "state_dict": state, "hyper_parameters": Namespace(width=3, path=Path("x"))}
        torch.save(leftovers | {"callbacks": {"Early": Counter(a=1)}}, path)

    return {
        "state dict": lambda path: torch.save(state, path),
        "state dict, protocol 4": lambda path: torch.save(state, path, pickle_protocol=4),
        "state dict, protocol 5": lambda path: torch.save(state, path, pickle_protocol=5),
        "state dict, form of torch 1.5": lambda path: torch.save(state, path, **old),
        "the same, protocol 4": lambda path: torch.save(state, path, pickle_protocol=4, **old),
        "state dict, form of torch 0.1 (tar)": lambda path: path.write_bytes(__import__("test_pytorch").tar_form(
            {"a": torch.randn(3, 4)})),
        "plain pickle of tensors": lambda path: path.write_bytes(pickle.dumps({"w": torch.ones(2)})),
        "views, transposed and shared": lambda path: torch.save({"a": weight.T, "b": weight}, path),
        "complex, conjugated": lambda path: torch.save({"a": torch.randn(3, dtype=torch.complex64).conj()}, path),
        "quantized": lambda path: torch.save({"a": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}, path),
        "sparse": lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
        "state dict with NumPy scalars": lambda path: torch.save({"w": torch.ones(2), "loss": np.float64(1)}, path),
        "state dict with NumPy arrays": lambda path: torch.save({"w": np.ones((2, 3))}, path),
        "Lightning checkpoint": lightning,
        "optimizer state": lambda path: torch.save({"model": state, "optimizer": optimizer.state_dict()}, path),
        "training arguments (Namespace, deque)": lambda path: torch.save({"a": Namespace(x=1), "b": deque([1])}, path),
        "whole module": lambda path: torch.save(net, path),
        "TorchScript": lambda path: torch.jit.script(net).save(str(path)),
    }  # fmt: skip


REAL = (
    "akamaster+pytorch_resnet_cifar10", "Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB",
    "richzhang+PerceptualSimilarity",
)  # fmt: skip
HOSTILE = (
    "os.system-reduce.pkl", "numpy.f2py.crackfortran.getlincoef-reduce.pkl", "runpy._run_code-reduce.pkl",
    "zip-payload.pt", "zip-crc.pt", "payload-then-garbage.pkl", "magic-through-call.pt", "nested-torch-storage.pkl",
    "tensor-offset-past-end.pt",
)  # fmt: skip


def thirty(peers: str, shared: Path, folder: Path) -> None:
    """Thirty files, and what weights_only, picklescan and modelfmt (opening, scanning) say."""
    import warnings

    warnings.simplefilter("ignore")
    rows: list[tuple[str, str]] = []
    for number, (title, write) in enumerate(honest().items()):
        path = folder / f"{number:02}.pt"
        write(path)
        rows.append((title, str(path)))
    for name in REAL:
        path = min((p for p in (shared / "torch" / name).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        rows.append((f"{name.partition('+')[2]}, {path.name}", str(path)))
    corpus = hostile_pickles.corpus()
    for name in HOSTILE:
        (folder / name).write_bytes(corpus[name])
        rows.append((f"hostile: {name}", str(folder / name)))
    names = [path for _, path in rows]
    tools = (
        ("torch", sys.executable),
        ("picklescan", peers),
        ("opening", sys.executable),
        ("modelfmt", sys.executable),
    )
    found = [ask(python, tool, names) for tool, python in tools]
    print("| file | `torch.load(weights_only=True)` | picklescan | modelfmt opens it (tensors) | `modelfmt scan` |")
    print("| --- | --- | --- | --- | --- |")
    for title, path in rows:
        print(f"| {title} | {' | '.join(answers[path] for answers in found)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="a Python that has picklescan, fickling and modelscan")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--thirty", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (thirty if given.thirty else scanners)(given.peers, given.shared.resolve(), Path(folder))


if __name__ == "__main__":
    main()
