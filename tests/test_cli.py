"""The command line: exit codes, what goes where, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import modelfmt
from modelfmt import errors
from modelfmt.cli.output import size_text

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
        assert f"modelfmt {name}" in shown.stdout.partition("Example")[2], f"{name} has no example"


def test_every_option_says_what_it_does() -> None:
    import click

    from modelfmt.cli import COMMANDS, group

    ctx = click.Context(group)
    for name, summary in COMMANDS.items():
        command = group.get_command(ctx, name)
        assert command is not None and command.help and summary.endswith(".")
        assert all(p.help for p in command.params if isinstance(p, click.Option)), name


def test_without_a_command_there_is_help_and_with_a_wrong_one_a_guess() -> None:
    assert run().stdout == run("--help").stdout
    done = run("conver", "a", "b")
    assert done.returncode == 2
    assert "did you mean convert?" in done.stderr


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
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["schema"] == "modelfmt.error/1"
    assert document["error"]["exit_code"] == code
    assert f"error[{document['error']['code']}]: {document['error']['message']}\n" in done.stderr
    for word in ("found", "allowed", "hint"):
        assert (f"\n  {word:8}" in done.stderr) == (word in document["error"])


def test_an_unknown_type_is_answered_with_the_closest(golden: Path, tmp_path: Path) -> None:
    done = run("convert", golden / "checkpoints" / "llama3-big", tmp_path / "o.gguf", "-t", "Q4_KM")
    assert "hint    did you mean Q4_K_M" in done.stderr


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    from modelfmt.cli.output import EXIT_CODES

    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    table = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    assert f"| code | meaning |\n| --- | --- |\n{table}\n" in text
    raised = {getattr(errors, name).exit_code for name in errors.__all__}
    assert set(EXIT_CODES) - raised == {0, 1, 8, 9, 130, 141}  # 1, 8 and 9 are no errors: a check did its work
    assert raised <= set(EXIT_CODES)
    shown = run("--help").stdout
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in shown


def test_names_from_files_cannot_write_to_the_terminal(source: Path, tmp_path: Path) -> None:
    header = json.dumps(
        {"a\x1b[31mred\n\x9b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, ensure_ascii=False
    ).encode()
    path = tmp_path / "n.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    for arguments in (["inspect", path], ["plan", path, tmp_path / "o.safetensors"]):
        done = run(*arguments)
        assert r"a\x1b[31mred\n\x9b" in done.stdout + done.stderr
        assert not {"\x1b", "\x9b"} & set(done.stdout + done.stderr + run(*arguments, "--json").stdout)
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["\x1b]0;title"], "model_type": "\x1b[2J"}))
    (folder / "model.safetensors").write_bytes(source.read_bytes())
    for arguments in (["inspect", folder], ["convert", folder, tmp_path / "o.gguf"]):
        done = run(*arguments)
        assert r"\x1b]0;title" in done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_a_path_that_is_not_utf8_is_printed_as_it_is(source: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.safetensors"
    Path(os.fsdecode(path)).write_bytes(source.read_bytes())
    done = subprocess.run([*COMMAND, "inspect", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\udcff.safetensors" in done.stdout
    assert json.loads(run("inspect", os.fsdecode(path), "--json").stdout)["path"] == os.fsdecode(path)


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    from modelfmt.cli.output import as_json

    text = as_json({"a": [float("nan"), (float("-inf"),)], "b": 1.5, "c": "\u202e"})
    assert text == '{"a":[null,[null]],"b":1.5,"c":"\\u202e"}'


def test_stdout_that_is_closed_or_full(source: Path) -> None:
    for command in (["types"], ["inspect", str(source)], ["--help"]):
        process = subprocess.Popen([*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() == 141
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*COMMAND, "types"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 6
        assert done.stderr.startswith("error[stdout]")


def test_a_bug_is_called_one(source: Path) -> None:
    code = (
        "import sys, modelfmt\nfrom modelfmt import cli\n"
        "def broken(*a, **k): raise ZeroDivisionError('of the test')\n"
        f"modelfmt.inspect = broken\nsys.argv = ['modelfmt', 'inspect', {str(source)!r}, '--json']\ncli.main()"
    )
    for debug in ("", "1"):
        env = os.environ | {"MODELFMT_DEBUG": debug}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 70
        assert "this is a bug in modelfmt: ZeroDivisionError: of the test" in done.stderr
        assert ("Traceback" in done.stderr) == bool(debug)
        assert json.loads(done.stdout)["error"]["code"] == "bug"


def test_a_saved_plan_and_parts_respect_what_is_there(source: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "out.safetensors", tmp_path / "saved.plan"
    assert run("plan", source, out, "-o", saved).returncode == 0
    assert run("plan", source, out, "-o", saved).returncode == 6
    assert run("plan", source, out, "-o", saved, "--overwrite").returncode == 0
    first = run("run", saved, "--part", "0/2")
    assert first.stdout == ""  # nothing is in place yet
    assert "modelfmt finalize" in first.stderr
    assert "parts-missing" in run("finalize", saved).stderr
    assert run("run", saved, "--part", "1/2").returncode == 0
    out.write_bytes(b"precious")
    for command in (["run", saved], ["finalize", saved]):
        assert run(*command).returncode == 6
    assert out.read_bytes() == b"precious"
    assert "exists: converting needs --overwrite" in run("plan", source, out).stderr
    assert run("finalize", saved, "--overwrite").stdout == f"{out}\n"
    assert modelfmt.inspect(out).n_params == 64 * 256 + 3
    assert run("run", saved, "--part", "2/2").returncode == 2
    saved.write_bytes(b"no plan")
    assert run("run", saved).returncode == 4


def test_quantize_wants_a_type_and_the_same_container(source: Path, tmp_path: Path) -> None:
    assert "error[type-missing]" in run("quantize", source, tmp_path / "o.safetensors").stderr
    assert "error[quantize-container]" in run("quantize", source, tmp_path / "o-Q8_0.gguf").stderr
    assert run("quantize", source, tmp_path / "o-BF16.safetensors").returncode == 0
    assert modelfmt.inspect(tmp_path / "o-BF16.safetensors").encodings == {"BF16": 2}


def test_the_summary_groups_losses_and_names_the_next_command(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o-F16.safetensors"
    lines = run("convert", source, out).stderr.splitlines()
    assert lines[0] == f"{size_text(out.stat().st_size)}, 16.00 bits per weight, 2 tensors  {out}"
    assert re.fullmatch(r"done in \S+ s, read 65.55 kB at \S+ .B/s, wrote 32.77 kB at \S+ .B/s", lines[1])
    assert lines[2:] == ["loss: narrowed 2 tensors (F32 to F16 2)", f"next: modelfmt inspect {out}"]


def test_reading_headers_loads_no_numpy_and_listing_loads_no_reader(source: Path, golden: Path) -> None:
    for arguments in (["inspect", str(source)], ["inspect", str(golden / "checkpoints" / "qwen2")], ["types"]):
        code = (
            "import sys, atexit\nfrom modelfmt.cli import main\n"
            "atexit.register(lambda: print('numpy' in sys.modules, file=sys.stderr))\n"
            f"sys.argv = ['modelfmt', *{arguments!r}]\nmain()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == "False\n", arguments


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


# recipes, targets, importance matrices

RECIPE = 'base = "Q4_K_M"\n[[rule]]\nroles = ["attn_v"]\nlayers = "0-1"\ntype = "Q8_0"\n'


def test_recipes_of_ones_own_beside_file_types(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "other.json").write_text('{"name": "small", "base": "Q3_K_S", "mixture": false}')
    out = tmp_path / "{type}.gguf"
    arguments = ["--recipe", tmp_path / "mine.toml", "--recipe", tmp_path / "other.json", "-t", "Q8_0"]
    done = run("convert", golden / "checkpoints" / "llama3-big", out, *arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(Path(line).name for line in done.stdout.splitlines()) == ["Q8_0.gguf", "mine.gguf", "small.gguf"]
    kinds = {tensor.name: tensor.encoding for tensor in modelfmt.inspect(tmp_path / "mine.gguf").tensors}
    assert [kinds[f"blk.{i}.attn_v.weight"] for i in (0, 1)] == ["Q8_0", "Q8_0"]
    assert modelfmt.inspect(tmp_path / "mine.gguf").metadata["general.file_type"] == 15
    done = run("convert", golden / "checkpoints" / "llama3-big", tmp_path / "o.gguf", "--recipe", tmp_path / "no.toml")
    assert (done.returncode, "no.toml" in done.stderr) == (3, True)
    (tmp_path / "bad.toml").write_text('base = "Q4_K_M"\n[[rule]]\nrole = "attn_v"\n')
    done = run("plan", golden / "checkpoints" / "llama3-big", tmp_path / "o.gguf", "--recipe", tmp_path / "bad.toml")
    assert done.returncode == 2
    for part in ("recipe-key", "bad.toml", "rule 1", "found   role", "tensors, roles, layers"):
        assert part in done.stderr


def test_a_plan_prints_the_mixture(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    arguments = [golden / "checkpoints" / "llama3-big", tmp_path / "o.gguf", "--recipe", tmp_path / "mine.toml"]
    (output,) = json.loads(run("plan", *arguments, "--json").stdout)["outputs"]
    tensors = json.loads(run("plan", *arguments, "--json").stdout)["tensors"]
    for row in output["types"]:
        found = [t for t in tensors if (t["to"], t["reason"]) == (row["type"], row["reason"])]
        assert (row["tensors"], row["size"]) == (len(found), sum(t["size"] for t in found))
        assert row["weights"] == sum(int(np.prod(t["shape"])) for t in found)
    assert sum(row["tensors"] for row in output["types"]) == len(tensors)
    whole = sum(t["size"] for t in tensors) * 8 / sum(int(np.prod(t["shape"])) for t in tensors)
    assert output["bits_per_weight"] == pytest.approx(whole)
    dense = ("F32", "F16", "BF16")
    quantized = [t for t in tensors if t["to"] not in dense]
    part = sum(t["size"] for t in quantized) * 8 / sum(int(np.prod(t["shape"])) for t in quantized)
    assert output["quantized_bits_per_weight"] == pytest.approx(part)
    text = run("plan", *arguments, "--summary").stdout
    assert f"{whole:.2f} bits per weight, {part:.2f} where quantized" in text
    assert re.search(r"^  Q8_0 +2 +[\d,]+ +[\d.]+ kB  recipe: rule 1$", text, re.MULTILINE)
    assert re.search(r"^  F32 +17 .* kept: norm$", text, re.MULTILINE)


def test_a_target_on_the_command_line(golden: Path, tmp_path: Path) -> None:
    matrix = golden / "quantized" / "llama3-big" / "imatrix.gguf"
    source = golden / "checkpoints" / "llama3-big"
    done = run("convert", source, tmp_path / "o.gguf", "--target-bpw", "5.5", "--imatrix", matrix)
    assert done.returncode == 0, done.stderr
    info = modelfmt.inspect(tmp_path / "o.gguf")
    assert 5.4 < info.size * 8 / info.n_params <= 5.5
    assert "bits per weight, of at most 5.5" in done.stderr
    (tmp_path / "mine.toml").write_text('types = ["Q4_0", "Q8_0"]\ntarget_bits_per_weight = 8\n')
    arguments = ["--recipe", tmp_path / "mine.toml", "--target-bpw", "6"]
    (output,) = json.loads(run("plan", source, tmp_path / "p.gguf", *arguments, "--json").stdout)["outputs"]
    assert {row["type"] for row in output["types"]} <= {"Q4_0", "Q8_0", "F32"}
    assert 5.9 < output["bits_per_weight"] <= 6
    done = run("quantize", tmp_path / "o.gguf", tmp_path / "q.gguf", "--target-bpw", "1", "--allow-requantize")
    assert done.returncode == 2
    assert "target-unreachable" in done.stderr and "allowed from 2." in done.stderr.replace("  ", " ")


def test_imatrix_commands(golden: Path, tmp_path: Path) -> None:
    matrix = golden / "quantized" / "llama3-big" / "imatrix.gguf"
    shown = json.loads(run("imatrix", "inspect", matrix, "--json").stdout)
    assert (shown["schema"], shown["form"], len(shown["entries"])) == ("modelfmt.imatrix/1", "gguf", 57)
    assert "57 entries, 4 chunks of 512 tokens" in run("imatrix", "inspect", matrix).stdout
    assert len(run("imatrix", "inspect", matrix, "--all").stdout.splitlines()) == 57 + 3

    done = run("imatrix", "merge", matrix, "-o", tmp_path / "one.dat")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'one.dat'}\n")
    done = run("imatrix", "merge", tmp_path / "one.dat", matrix, "-o", tmp_path / "two.gguf", "--json")
    assert json.loads(done.stdout)["chunk_count"] == 8
    assert run("imatrix", "merge", matrix, "-o", tmp_path / "two.gguf").returncode == 6
    assert run("imatrix", "merge", matrix, "-o", tmp_path / "two.gguf", "-y").returncode == 0
    done = run("imatrix", "merge", matrix, "-o", tmp_path / "two.bin")
    assert (done.returncode, "ends in .gguf or .dat" in done.stderr) == (2, True)

    for found in (tmp_path / "one.dat", tmp_path / "two.gguf"):
        done = run("imatrix", "check", found, golden / "checkpoints" / "llama3-big")
        assert (done.returncode, done.stdout) == (0, "")
    minilm = golden / "quantized" / "minilm" / "imatrix.gguf"
    done = run("imatrix", "check", minilm, golden / "checkpoints" / "llama3-big")
    assert done.returncode == 1
    assert re.search(r"^width +blk\.0\.attn_k\.weight +1 x 384 weights for a tensor of 128x256$", done.stdout, re.M)
    done = run("imatrix", "check", minilm, golden / "checkpoints" / "llama3-big", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["schema"], document["covered"]) == (1, "modelfmt.imatrix_check/1", 0)
    assert {row["kind"] for row in document["findings"]} == {"missing", "width", "unmatched"}
    assert run("imatrix", "check", golden / "README.md", golden / "checkpoints" / "llama3-big").returncode in (3, 4)


def test_every_imatrix_command_has_help() -> None:
    import click

    from modelfmt.cli.imatrix import imatrix

    for name, command in imatrix.commands.items():
        shown = run("imatrix", name, "-h").stdout
        assert f"modelfmt imatrix {name}" in shown.partition("Example")[2]
        assert command.help and all(p.help for p in command.params if isinstance(p, click.Option))
