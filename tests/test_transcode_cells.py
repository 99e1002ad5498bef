"""Every cell of the matrix of docs/transcoding.md, on random checkpoints: what it says of a scheme and a target holds.

The cells are those that the code gives (`matrix.matrix()`); a new row without a checkpoint in tests/cells.py fails.
Exact means a difference of zero, in float64. As a script this file writes the largest errors of the near cells into the
page.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

import modelfmt
import schemes
from cells import (
    SOURCES,
    Products,
    Source,
    base,
    experts,
    folded,
    products,
    random_blocks,
    read_experts,
    read_file,
    read_folder,
    turned,
)
from modelfmt.errors import LossyError, UnsupportedError
from modelfmt.plans import Plan
from modelfmt.routes import matrix
from schemes import Values

PAGE = Path(__file__).parent.parent / "docs" / "transcoding.md"
BEGIN, END = "<!-- near -->\n", "<!-- /near -->\n"


@dataclass(frozen=True)
class Seen:
    """One cell: the target, what the plan said, the printed bound and the largest error, relative as the bound is."""

    target: str
    verdict: str
    bound: float
    error: float


def parts_of(row: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """target, the type where it is GGUF, and the verdict: of a row, "-" for none."""
    for target, text in row.items():
        if target == "from" or text == "as it is":
            continue
        for part in text.split("; "):
            kind = part.split(" ")[0] if target == "gguf" else ""
            yield target, kind, "-" if part == "-" else ("exact" if "exact" in part else "near")


def check_row(row: dict[str, str], bases: dict[str, Path], folder: Path) -> list[Seen]:
    """Makes the checkpoints of a row, converts each to every target of the row, and checks what came out."""
    found = []
    for number, source in enumerate(SOURCES[row["from"]]):
        home = folder / str(number)
        home.mkdir(parents=True)
        if isinstance(source.scheme, str):
            given = home / "in.gguf"
            kinds = {"ffn": source.scheme, "attn_[qkvo]": source.scheme}
            modelfmt.convert(bases["gguf"], given, quant="F16", tensor_types=kinds)
            random_blocks(given, np.random.default_rng(number))
            values, _ = read_file(given)
        elif isinstance(source.scheme, Products):
            given = home / "in" / "model.onnx"
            values = products(source.scheme, bases["folder"], given.parent, np.random.default_rng(number))
        else:
            given = home / "in"
            values = schemes.write(source.scheme, bases["folder"], given, layers=1, seed=number)
        for target, kind, verdict in parts_of(row):
            if target == "mxfp4" and verdict != "-":
                continue  # for experts: test_experts_of_gpt_oss
            if target == "onnx":
                continue  # no convert: test_transcode.py puts its codes, scales and zeros together
            out = home / (f"{verdict}.gguf" if target == "gguf" else target)
            found.append(check_cell(given, values, source, target, kind, verdict, out))
    return found


def planned_or_none(given: Path, out: Path, asked: dict[str, str]) -> Plan | None:
    try:
        return modelfmt.plan(given, out, **asked)
    except (LossyError, UnsupportedError) as refused:
        if refused.code not in ("transcode", "nothing-quantized"):
            raise
        return None


def check_cell(
    given: Path, values: dict[str, Values], source: Source, target: str, kind: str, verdict: str, out: Path
) -> Seen:
    to = {} if target == "gguf" else {"to": target}
    asked = {"transcode": "exact" if verdict == "exact" else "near:1e-3", **to}
    planned = planned_or_none(given, out, asked) if verdict == "-" else modelfmt.plan(given, out, **asked)
    if planned is None:
        return Seen(target, verdict, 0.0, 0.0)
    moved = [line for line in planned.table() if "verdict" in line]
    if verdict == "-":  # kinder numbers than the matrix asks about: held to what the plan says of these
        verdict = max(line["verdict"] for line in moved)
    assert {line["verdict"] for line in moved} <= {"exact", verdict}
    modelfmt.run(planned)
    if target == "gguf":
        read, kinds = read_file(out)
        assert kind in {kinds[name] for name in kinds if "mlp" in name}
        expected = turned(folded(values, given))
    else:
        expected = values
        read = read_folder(out, target, {name: (value.shape[0], value.shape[1]) for name, value in values.items()})
        read = turned(read) if given.suffix == ".gguf" else read
    error = max(relative(read[name], value, source.group) for name, value in expected.items())
    bound = max(line["bound"] for line in moved)
    assert error <= bound, (target, kind)
    assert (bound == 0.0) == (verdict == "exact"), (target, kind)
    return Seen(f"{target} {kind}".strip(), verdict, bound, error)


def relative(read: Values, expected: Values, group: int) -> float:
    """The largest error, each over the largest magnitude of its group of columns."""
    assert read.shape == expected.shape
    off, reach = np.abs(read - expected), np.abs(expected)
    grouped = (-1, expected.shape[1] // group, group)
    off, reach = off.reshape(grouped).max(-1), reach.reshape(grouped).max(-1)
    assert np.all(np.isfinite(off)) and not off[reach == 0].any()
    return float((off / np.where(reach == 0, 1, reach)).max())


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    return {row["from"]: row for row in matrix.matrix()}


@pytest.fixture(scope="module")
def bases(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made_bases(golden, tmp_path_factory.mktemp("bases"))


def made_bases(golden: Path, folder: Path) -> dict[str, Path]:
    """Columns of 3 and 1 groups of 128; for GGUF, of 3 and 1 blocks of 256."""
    sizes = {"folder": (384, 128), "gguf": (768, 256)}
    return {name: base(golden, folder / name, hidden=hidden, inner=inner) for name, (hidden, inner) in sizes.items()}


@pytest.mark.parametrize("row", matrix.ROWS)
def test_cells_hold(row: str, rows: dict[str, dict[str, str]], bases: dict[str, Path], tmp_path: Path) -> None:
    check_row(rows[row], bases, tmp_path)


def test_experts_of_gpt_oss(rows: dict[str, dict[str, str]], golden: Path, tmp_path: Path) -> None:
    """The column of mxfp4, which is for stacked experts: from itself, and by way of a GGUF file."""
    exact = {name for name, row in rows.items() if row["mxfp4"] != "-"}
    assert exact == {"MXFP4", "GGUF MXFP4"}
    values = experts(golden, tmp_path / "in")
    modelfmt.convert(tmp_path / "in", tmp_path / "between.gguf", transcode="exact")
    for number, source in enumerate(("in", "between.gguf")):
        modelfmt.convert(tmp_path / source, tmp_path / str(number), to="mxfp4", transcode="exact")
        read = read_experts(tmp_path / str(number))
        assert read.keys() == values.keys()
        assert all(np.array_equal(read[name], value) for name, value in values.items()), source
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "between.gguf").tensors}
    assert {kind for name, kind in kinds.items() if "exps.weight" in name} == {"MXFP4"}


def table(found: dict[str, list[Seen]]) -> str:
    """The near cells: the bound that the plan printed and the largest error that was there."""
    lines = ["| from | to | bound | largest seen |", "| --- | --- | --- | --- |"]
    for row, several in found.items():
        largest: dict[str, Seen] = {}
        for seen in several:
            if seen.verdict == "near" and seen.error >= getattr(largest.get(seen.target), "error", 0.0):
                largest[seen.target] = seen
        lines += [f"| {row} | {to} | {seen.bound:.2e} | {seen.error:.2e} |" for to, seen in largest.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = made_bases(Path(__file__).parent / "data" / "golden", folder)
        found = {row["from"]: check_row(row, bases, folder / row["from"].replace("/", "")) for row in matrix.matrix()}
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table(found) + END + after)


if __name__ == "__main__":
    main()
