"""The command line: exit codes, what goes where, progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import modelfmt
from modelfmt import errors

COMMAND = [sys.executable, "-m", "modelfmt"]


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=os.environ | (env or {})
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    modelfmt.convert({"a.weight": np.ones((64, 256), "f4"), "b": np.zeros(3, "f4")}, path, quant="auto")
    return path


def test_help_lists_every_command_and_every_command_has_help() -> None:
    from modelfmt.cli import COMMANDS

    text = run("--help").stdout
    for name in COMMANDS:
        assert name in text
        shown = run(name, "-h")
        assert shown.returncode == 0, shown.stderr
        assert "Usage:" in shown.stdout


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from modelfmt.cli import group; print([n for n in ('numpy', 'msgspec') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_convert_infers_format_and_type_from_the_name(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "model-Q6_K.gguf"
    done = run("convert", golden / "checkpoints" / "llama3-big", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "bits per weight" in done.stderr
    assert "loss: quantized" in done.stderr
    assert modelfmt.inspect(out).metadata["general.file_type"] == 18


def test_several_types_in_one_call(golden: Path, tmp_path: Path) -> None:
    done = run(
        "convert", golden / "checkpoints" / "llama3-big", tmp_path, "--to", "gguf", "-t", "Q8_0", "-t", "F16", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sorted(Path(row["path"]).name for row in report["outputs"]) == [
        "llama3-big-F16.gguf",
        "llama3-big-Q8_0.gguf",
    ]
    assert report["schema"] == "modelfmt.report/1"


def test_overrides_and_metadata_reach_the_file(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    done = run(
        "convert", golden / "checkpoints" / "llama3-big", out, "-t", "Q4_K_M", "--tensor-type", r"blk\.1\.ffn_.*=Q8_0",
        "--token-embedding-type", "F16", "--metadata", "general.name=Mine", "--metadata", "general.size_label=",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    info = modelfmt.inspect(out)
    kinds = {tensor.name: tensor.encoding for tensor in info.tensors}
    assert kinds["blk.1.ffn_up.weight"] == "Q8_0"
    assert kinds["token_embd.weight"] == "F16"
    assert info.metadata["general.name"] == "Mine"
    assert "general.size_label" not in info.metadata


def test_splits(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.gguf"
    done = run("convert", golden / "checkpoints" / "llama3-big", out, "--split-size", "4M")
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in tmp_path.glob("*.gguf"))
    assert files[0] == f"s-00001-of-{len(files):05d}.gguf"
    assert len(files) > 1
    assert len(modelfmt.inspect(tmp_path / files[0]).tensors) == 75


def test_plan_reads_no_weight_and_can_be_run_in_parts(source: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "out-F16.safetensors", tmp_path / "saved.plan"
    done = run("plan", source, out, "-o", saved)
    assert done.returncode == 0, done.stderr
    assert "a.weight" in done.stdout
    assert "F16" in done.stdout
    assert not out.exists()
    document = json.loads(run("plan", source, out, "--json").stdout)
    assert document["losses"][0]["kind"] == "narrowed"
    assert document["bytes_read"] == 64 * 256 * 4 + 12
    for part in ("1/2", "0/2"):
        assert run("run", saved, "--part", part).returncode == 0
    assert not out.exists()
    assert run("finalize", saved).returncode == 0
    assert modelfmt.inspect(out).encodings == {"F16": 2}
    assert json.loads(run("convert", source, out, "--dry-run", "--json").stdout)["hash"] == document["hash"]


def test_quantize_keeps_the_container(golden: Path, tmp_path: Path) -> None:
    middle, out = tmp_path / "m.gguf", tmp_path / "o.gguf"
    assert run("convert", golden / "checkpoints" / "llama3-big", middle).returncode == 0
    assert run("quantize", middle, out, "-t", "Q8_0").returncode == 0
    assert modelfmt.inspect(out).encodings["Q8_0"] > 0
    again = run("quantize", out, tmp_path / "again.gguf", "-t", "Q6_K")
    assert again.returncode == errors.LossyError.exit_code
    assert "--allow-requantize" in again.stderr
    assert run("quantize", out, tmp_path / "again.gguf", "-t", "Q6_K", "--allow-requantize").returncode == 0


@pytest.mark.parametrize("command", ["formats", "types"])
def test_lists(command: str) -> None:
    assert run(command).stdout
    assert json.loads(run(command, "--json").stdout)["schema"] == f"modelfmt.{command}/1"


def test_inspect(source: Path) -> None:
    text = run("inspect", source).stdout
    assert "a.weight" in text
    assert "64x256" in text
    assert json.loads(run("inspect", source, "--json").stdout)["n_params"] == 64 * 256 + 3


def cases(tmp_path: Path, source: Path, golden: Path) -> dict[str, tuple[int, list[object]]]:
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(source.read_bytes()[:-1])
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text('{"architectures": ["NobodyForCausalLM"], "model_type": "nobody"}')
    (unknown / "model.safetensors").write_bytes(source.read_bytes())
    llama = golden / "checkpoints" / "llama3-big"
    return {
        "source-missing": (3, ["convert", tmp_path / "none", tmp_path / "o.gguf"]),
        "corrupt": (4, ["inspect", corrupt]),
        "unsupported-architecture": (5, ["convert", unknown, tmp_path / "o.gguf"]),
        "destination-exists": (6, ["convert", source, source]),
        "unknown-file-type": (2, ["convert", llama, tmp_path / "o.gguf", "-t", "Q4KM"]),
        "unknown-destination": (2, ["convert", llama, tmp_path / "o.xyz"]),
        "lossy": (7, ["convert", source, tmp_path / "o-F16.safetensors", "--strict"]),
        "usage": (2, ["convert", source]),
    }


CASES = "source-missing corrupt unsupported-architecture destination-exists unknown-file-type unknown-destination"


@pytest.mark.parametrize("case", [*CASES.split(), "lossy", "usage"])
def test_exit_codes_and_messages(case: str, tmp_path: Path, source: Path, golden: Path) -> None:
    code, arguments = cases(tmp_path, source, golden)[case]
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if case not in ("usage", "corrupt"):
        assert f"error[{case}]" in done.stderr
    if case != "usage":
        document = json.loads(run(*arguments, "--json").stdout)
        assert document["error"]["code"] in done.stderr


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    first = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    documented = {int(cell) for cell in first if cell.isdigit()}
    raised = {getattr(errors, name).exit_code for name in errors.__all__}
    assert raised <= documented
    assert documented - raised == {0, 1, 130}


def test_names_from_files_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    header = json.dumps(
        {"a\x1b[31mred": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, ensure_ascii=False
    ).encode()
    path = tmp_path / "n.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    done = run("inspect", path)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_gets_a_bar_with_rates(source: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "convert", str(source), str(tmp_path / "o-F16.safetensors")]
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"})
    process.wait()
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "100%" in text
    assert "/s" in text
    assert "left" in text


def test_json_progress(source: Path, tmp_path: Path) -> None:
    done = run("convert", source, tmp_path / "o-F16.safetensors", "--progress", "json", "-q")
    assert done.stderr == ""
    done = run("convert", source, tmp_path / "o-F16.safetensors", "--progress", "json", "-y")
    first = json.loads(done.stderr.splitlines()[0])
    assert first["schema"] == "modelfmt.progress/1"
    assert first["share"] == 1.0


def test_interrupt_is_130(source: Path, tmp_path: Path) -> None:
    code = (
        "import modelfmt, sys\nfrom modelfmt import cli\n"
        "def interrupted(*a, **k): raise KeyboardInterrupt\n"
        "modelfmt.convert = interrupted\n"
        f"sys.argv = ['modelfmt', 'convert', {str(source)!r}, {str(tmp_path / 'o.gguf')!r}]\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "same command" in done.stderr
