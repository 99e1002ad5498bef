"""The same bytes whatever the machine does: memory poisoned in two ways, 1, 2 and 8 threads, every level of the
kernels.

One process for each environment converts everything and prints digests; all must agree. Bytes of uninitialised memory
in an output would differ between the two poisons (glibc's MALLOC_PERTURB_).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelfmt import _kernels
from test_convert_golden import CHECKPOINTS

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import modelfmt
golden, out, threads, checkpoints = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
wished = [(name, "auto", {}) for name in checkpoints]
imatrix = golden / "quantized" / "llama3-big" / "imatrix.gguf"
for quant in "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K IQ4_XS TQ1_0 MXFP4_MOE".split():
    wished += [("llama3-big", quant, {}), ("llama3-big", quant, {"imatrix": imatrix})]
wished += [("mixtral", "Q8_0", {}), ("llama3-big", "Q8_0", {"split_size": "2M"}), ("gpt2", "F16", {})]
for number, (name, quant, options) in enumerate(wished):
    folder = out / f"{number:02d}-{name}-{quant}"
    modelfmt.convert(golden / "checkpoints" / name, folder / "m.gguf", quant=quant, threads=threads, **options)
first = next(out.glob("*-llama3-big-auto/m.gguf"))
modelfmt.convert(first, out / "again" / "m.gguf", quant="Q4_K_M", threads=threads)
modelfmt.convert(first, out / "back" / "m.safetensors", quant="F32", threads=threads)
modelfmt.convert(golden / "checkpoints" / "llama3-big" / "model-00001-of-00003.safetensors", out / "cast" /
"m.safetensors",
                 quant="F16", threads=threads, split_size="1M", stats=True)
print(json.dumps({str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*")) if
p.is_file()}))
"""

ENVIRONMENTS = [
    (poison, threads, level)
    for poison, threads, level in (
        ("85", 1, ""),
        ("170", 2, ""),
        ("85", 8, ""),
        *((poison, 2, level) for level in _kernels.isa_levels() for poison in ("0", "170")),
    )
]


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], dict[str, str]]:
    golden = Path(__file__).parent / "data" / "golden"
    found = {}
    for poison, threads, level in ENVIRONMENTS:
        out = tmp_path_factory.mktemp("out")
        environment = os.environ | {"MALLOC_PERTURB_": poison} | ({"MODELFMT_ISA": level} if level else {})
        command = [sys.executable, "-c", SCRIPT, str(golden), str(out), str(threads), ",".join(CHECKPOINTS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found[poison, threads, level] = json.loads(done.stdout)
    return found


def test_every_environment_gives_the_same_files(digests: dict[tuple[str, int, str], dict[str, str]]) -> None:
    first = next(iter(digests.values()))
    assert len(first) > 45
    for environment, found in digests.items():
        differing = sorted(name for name in first.keys() | found.keys() if first.get(name) != found.get(name))
        assert not differing, (environment, differing)
