"""Interruption, a full disk, memory, threads, parts: whatever happens, a destination is the old file or the complete
new one."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelfmt
from modelfmt import tiling
from modelfmt.report import Event, Progress

SCRIPT = """
import sys, modelfmt
modelfmt.convert(sys.argv[1], sys.argv[2], quant=sys.argv[3], threads=int(sys.argv[4]), overwrite=True)
"""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Part files and journals."""
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".modelfmt"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 64 MB: enough jobs to be interrupted in the middle."""
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    rng = np.random.default_rng(1)
    arrays = {f"layer.{i}.weight": rng.standard_normal((1024, 1024), np.float32) for i in range(16)}
    modelfmt.convert(arrays, path, quant="auto")
    return path


def start(source: Path, out: Path, quant: str = "F16", threads: int = 2) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(source), str(out), quant, str(threads)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_killed_at_twenty_moments(source: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    began = time.monotonic()
    first = start(source, whole)
    first.communicate()
    assert first.returncode == 0
    length = time.monotonic() - began
    wanted = digest(whole)
    moments = random.Random(5)
    interrupted = 0
    for number in range(20):
        out = tmp_path / f"{number}" / "out.safetensors"
        process = start(source, out)
        time.sleep(length * moments.uniform(0.2, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if out.exists():
            assert digest(out) == wanted
        interrupted += not out.exists()
        report = modelfmt.convert(source, out, quant="F16", overwrite=True)
        assert digest(out) == wanted
        assert leftovers(out.parent) == []
        assert report.jobs >= report.resumed_jobs
        shutil.rmtree(out.parent)
    assert interrupted > 0, "every run was over before it was killed"


def test_a_killed_run_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    code = f"""
import os, sys, modelfmt
from modelfmt.report import Progress
def stop(event):
    if isinstance(event, Progress) and event.jobs_done == 7:
        os.kill(os.getpid(), 9)
modelfmt.convert({str(source)!r}, {str(out)!r}, quant="F16", threads=1, on_event=stop)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    assert leftovers(tmp_path)
    report = modelfmt.convert(source, out, quant="F16")
    assert report.resumed_jobs == 7
    assert leftovers(tmp_path) == []
    other = tmp_path / "other.safetensors"
    modelfmt.convert(source, other, quant="F16")
    assert digest(out) == digest(other)


@pytest.mark.parametrize(
    ("where", "name", "value", "jobs"), [(tiling, "ALONG", (2, 4), 2), (modelfmt, "__version__", "1000.0", 4)]
)
def test_jobs_of_another_version_are_not_taken(
    where: Any, name: str, value: object, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade: tiles are larger there, so that the first three jobs of four are both of two, or it rounds
    otherwise."""
    source, out, other = (tmp_path / f"{name}.safetensors" for name in ("source", "out", "other"))
    matrix = np.random.default_rng(2).standard_normal((4096, 1024), np.float32)
    modelfmt.convert({"weight": matrix}, source, quant="auto")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.jobs_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        modelfmt.convert(source, out, quant="F16", threads=1, on_event=stop)
    assert leftovers(tmp_path)
    monkeypatch.setattr(where, name, value)
    report = modelfmt.convert(source, out, quant="F16")
    assert (report.resumed_jobs, report.jobs) == (0, jobs)
    assert leftovers(tmp_path) == []
    modelfmt.convert(source, other, quant="F16")
    assert digest(out) == digest(other)


def test_another_plan_does_not_resume_and_cleans_up(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    process = start(source, out, "F16", 1)
    deadline = time.monotonic() + 30
    while not leftovers(tmp_path) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    report = modelfmt.convert(source, out, quant="BF16", overwrite=True)
    assert report.resumed_jobs == 0
    assert leftovers(tmp_path) == []


def test_keyboard_interrupt_keeps_the_work(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.jobs_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        modelfmt.convert(source, out, quant="F16", threads=1, on_event=interrupt)
    assert not out.exists()
    assert modelfmt.convert(source, out, quant="F16").resumed_jobs >= 4


@pytest.mark.parametrize("failing", ["value", "event"])
def test_an_error_leaves_nothing_and_keeps_the_old_file(failing: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out.gguf"
    arrays = {"w": np.ones((64, 256), np.float32)}

    def stop(event: Event) -> None:
        if failing == "event" and isinstance(event, Progress):
            raise modelfmt.OutputError("no more")

    from modelfmt.formats import gguf
    from modelfmt.ir.layout import Entry
    from modelfmt.plans import Output, Plan, Sink, SourceFile, Stream

    arrays["w"][40, 7] = np.nan
    path = tmp_path / "w.safetensors"
    modelfmt.convert(arrays, path, quant="auto")
    with modelfmt.open(path) as model:
        (layout,) = gguf.layout([Entry("w", "Q8_0", (64, 256))], metadata=[("general.architecture", "STRING", "llama")])
        found = model.files.fingerprint(str(path))
        plan = Plan(
            {},
            (SourceFile(str(path), found.size, found.mtime_ns, found.inode),),
            (Output(str(out), layout.size, layout.header, layout.tensors),),
            (
                Stream(
                    model["w"].expr, (Sink(0, "w", "Q8_0" if failing == "value" else "F32", layout.tensors[0].offset),)
                ),
            ),
        )
    with pytest.raises(modelfmt.ModelfmtError) as raised:
        modelfmt.run(plan, on_event=stop)
    if failing == "value":
        assert isinstance(raised.value, modelfmt.BadValue)
        assert (raised.value.context["row"], raised.value.context["column"]) == (40, 7)
    assert not (tmp_path / "deep").exists()

    out.parent.mkdir(parents=True)
    out.write_bytes(b"old")
    with pytest.raises(modelfmt.ModelfmtError):
        modelfmt.run(plan, on_event=stop)
    assert out.read_bytes() == b"old"
    assert leftovers(out.parent) == []


def test_existing_destination_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(modelfmt.DestinationExists):
        modelfmt.convert(source, out)
    assert out.read_bytes() == b"mine"


def test_a_source_that_is_its_own_destination(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    shutil.copyfile(source, path)
    other = tmp_path / "other.safetensors"
    modelfmt.convert(path, other, quant="F16")
    modelfmt.convert(path, path, quant="F16", overwrite=True)
    assert digest(path) == digest(other)


def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """A tmpfs of 8 MiB in a mount namespace of its own; the destination needs 32 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    script = tmp_path / "full.sh"
    out = small / "out.safetensors"
    script.write_text(
        f"mount -t tmpfs -o size=8m tmpfs {small} || exit 77\n"
        f"{sys.executable} -c 'import sys, modelfmt\n"
        f'try:\n    modelfmt.convert(sys.argv[1], sys.argv[2], quant="F16")\n'
        f"except modelfmt.NoSpace as error:\n    print(error.code, error.path)' {source} {out} || exit 1\n"
        f"ls -A {small}\n"
    )
    spaces = [["unshare", "-Urm"], ["unshare", "-m"]]
    for space in spaces:
        done = subprocess.run([*space, "sh", str(script)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.stdout == f"no-space {out}\n"


def test_a_disk_that_fills_up_in_the_middle(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk without preallocation."""
    out = tmp_path / "out.safetensors"
    code = f"""
import resource, signal, modelfmt
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
try:
    modelfmt.convert({str(source)!r}, {str(out)!r}, quant="F16")
except modelfmt.NoSpace as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "no-space\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_one_destination(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    plan = modelfmt.plan(source, out, quant="F16")
    nested: list[str] = []

    def again(event: Event) -> None:
        if isinstance(event, Progress) and not nested:
            nested.append("")
            with pytest.raises(modelfmt.OutputError) as raised:
                modelfmt.run(plan)
            nested[0] = raised.value.code

    modelfmt.run(plan, threads=1, on_event=again)
    assert nested == ["destination-busy"]
    assert out.exists()


def test_parts_run_apart_and_are_finalized(source: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    modelfmt.convert(source, whole, quant="F16")
    saved = modelfmt.plan(source, out, quant="F16").to_bytes()
    plan = modelfmt.Plan.from_bytes(saved)
    assert sorted(job.number for i in range(3) for job in plan.part(i, 3)) == [job.number for job in plan.jobs()]
    modelfmt.run(plan, part=(2, 3))
    modelfmt.run(plan, part=(0, 3))
    with pytest.raises(modelfmt.OutputError) as raised:
        modelfmt.finalize(plan)
    assert raised.value.code == "parts-missing"
    assert not out.exists()
    modelfmt.run(plan, part=(1, 3))
    modelfmt.finalize(plan)
    assert digest(out) == digest(whole)
    assert leftovers(tmp_path) == []


def test_a_changed_source_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    shutil.copyfile(source, path)
    plan = modelfmt.plan(path, tmp_path / "out.safetensors", quant="F16")
    os.utime(path, ns=(1, 1))
    with pytest.raises(modelfmt.CorruptFile) as raised:
        modelfmt.run(plan)
    assert raised.value.code == "source-changed"


def test_a_source_that_shrinks_is_an_error(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    shutil.copyfile(source, path)
    with modelfmt.open(path) as model:
        os.truncate(path, 1 << 20)
        with pytest.raises(modelfmt.CorruptFile) as raised:
            model["layer.15.weight"].numpy()
    assert raised.value.code == "file-short"


def test_same_bytes_for_any_threads_and_memory(source: Path, tmp_path: Path) -> None:
    found = set()
    for threads, memory in ((1, None), (2, "1M"), (8, "16M")):
        out = tmp_path / f"{threads}.safetensors"
        modelfmt.convert(source, out, quant="BF16", threads=threads, memory=memory)
        found.add(digest(out))
    assert len(found) == 1


def test_modes_of_new_and_replaced_files(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    old = os.umask(0o027)
    try:
        modelfmt.convert(source, out, quant="F16")
    finally:
        os.umask(old)
    assert out.stat().st_mode & 0o777 == 0o640
    out.chmod(0o604)
    modelfmt.convert(source, out, quant="F16", overwrite=True)
    assert out.stat().st_mode & 0o777 == 0o604


def test_errors_of_each_tensor_are_measured(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((300, 4096), np.float32)
    report = modelfmt.convert({"w": values}, tmp_path / "o.safetensors", quant="F16", stats=True)
    wanted = np.sqrt(((values.astype(np.float16).astype("f8") - values) ** 2).sum() / (values.astype("f8") ** 2).sum())
    assert report.tensors[0].relative_rmse == pytest.approx(wanted, rel=1e-6)
    assert report.losses[0].kind == "narrowed"


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "complex64", ml_dtypes.float8_e4m3fn])
def test_what_stays_and_has_no_values_is_not_measured(kind: str | type, tmp_path: Path) -> None:
    values = (np.arange(128).reshape(4, 32) % 5).astype(np.dtype(kind))
    out = tmp_path / "o.safetensors"
    report = modelfmt.convert({"w": values}, out, stats=True)
    assert report.tensors[0].relative_rmse is None
    assert out.read_bytes().endswith(values.tobytes())


def test_strict_turns_losses_into_errors(tmp_path: Path) -> None:
    with pytest.raises(modelfmt.LossyError):
        modelfmt.convert({"w": np.ones((2, 2), "f4")}, tmp_path / "o.safetensors", quant="F16", strict=True)
    assert list(tmp_path.iterdir()) == []
