"""What the README says to type works, in a folder where the checkpoint it speaks of lies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETUP = {"pip install .", "make demo", "make test"}  # run by the Makefile itself


@pytest.fixture
def folder(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    joblib, linear_model = pytest.importorskip("joblib"), pytest.importorskip("sklearn.linear_model")
    joblib.dump(linear_model.LogisticRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "pipeline.joblib")
    shutil.copytree(golden / "checkpoints" / "qwen3", tmp_path / "Qwen3-0.6B")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(folder: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line[2:].split("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert set(lines) > SETUP
    commands = [line for line in lines if line not in SETUP]
    assert commands
    for command in commands:
        program, _, rest = command.partition(" ")
        assert program == "modelfmt"
        done = subprocess.run(
            [sys.executable, "-m", "modelfmt", *rest.split()],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (folder / "qwen3-Q4_K_M.gguf").exists()


def test_the_python_runs(folder: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (folder / "out").mkdir()
    subprocess.run(
        [sys.executable, "-m", "modelfmt", "convert", "Qwen3-0.6B", "model.gguf", "-q"], check=True, capture_output=True
    )
    weights = np.random.default_rng(0).standard_normal((4, 512), np.float32)
    exec(compile(block, "README.md", "exec"), {"weights": weights})
    assert {path.name for path in (folder / "out").iterdir()} == {"Q8_0.gguf", "Q4_K_M.gguf"}


def test_the_links_lead_somewhere() -> None:
    for text in [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (ROOT / target).exists() or (ROOT / "docs" / target).exists(), target
