"""Plans and reports for people: what several commands print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from modelfmt.cli.output import as_json, emit, note, size_text, table

if TYPE_CHECKING:
    from modelfmt.plans import Plan
    from modelfmt.report import Loss, Note, Report

__all__ = ["show_plan", "show_report"]


def show_plan(planned: Plan, *, json: bool, all_tensors: bool) -> None:
    """A plan as JSON, or as a table with totals."""
    rows = planned.table()
    totals = {
        "bytes_read": planned.bytes_read,
        "bytes_written": planned.bytes_written,
        "peak_memory": planned.peak_memory,
    }
    outputs: list[dict[str, Any]] = [{"path": output.path, "size": output.size} for output in planned.outputs]
    if json:
        document = {"schema": planned.schema, "hash": planned.hash, **totals, "outputs": outputs, "tensors": rows}
        emit(as_json(document | {"losses": planned.losses, "notes": planned.notes}))
        return
    if all_tensors:
        cells = [
            (r["name"], "x".join(map(str, r["shape"])), r["from"], r["to"], size_text(r["size"]), r["reason"])
            for r in rows
        ]
        emit(table(cells, ("tensor", "shape", "from", "to", "size", "why"), right=[4]))
    for output in outputs:
        kinds = Counter(row["to"] for row in rows if row["output"] == output["path"])
        emit(
            f"{output['path']}  {size_text(output['size'])}  "
            + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        )
    emit(
        f"reads {size_text(planned.bytes_read)}, writes {size_text(planned.bytes_written)}, "
        f"{size_text(planned.peak_memory)} for each job in flight"
    )
    _show_losses(planned.losses, planned.notes)


def show_report(report: Report, *, json: bool, quiet: bool) -> None:
    """What a run did: JSON on stdout, or a few lines on stderr with the paths on stdout."""
    if json:
        emit(as_json(report))
        return
    for output in report.outputs:
        emit(output.path)
    if quiet:
        return
    seconds = max(report.seconds, 1e-9)
    for output in report.outputs:
        n_weights = sum(prod(row.shape) for row in report.tensors if row.output == output.path)
        bits = f", {output.size * 8 / n_weights:.2f} bits per weight" if n_weights else ""
        note(f"{size_text(output.size)}{bits}  {output.path}")
    rates = f"read {size_text(report.bytes_read)} at {size_text(report.bytes_read / seconds)}/s, "
    rates += f"wrote {size_text(report.bytes_written)} at {size_text(report.bytes_written / seconds)}/s"
    resumed = f", {report.resumed_jobs} of {report.jobs} jobs were done already" if report.resumed_jobs else ""
    note(f"done in {report.seconds:.1f} s: {rates}{resumed}")
    _show_losses(report.losses, report.notes)
    measured = [row for row in report.tensors if row.relative_rmse is not None]
    for row in sorted(measured, key=lambda row: -(row.relative_rmse or 0.0))[:5]:
        note(f"relative rmse {row.relative_rmse:.2e}  {row.encoding:8} {row.name}")


def _show_losses(losses: Sequence[Loss], remarks: Sequence[Note]) -> None:
    """Losses by kind, and the first notes, on stderr."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for loss in losses:
        kinds.setdefault((loss.kind, loss.detail), []).append(loss.subject)
    for (kind, detail), subjects in kinds.items():
        note(
            f"loss: {kind} {len(subjects)} x {detail}" if len(subjects) > 1 else f"loss: {kind} {subjects[0]}: {detail}"
        )
    for remark in remarks[:10]:
        note(f"note: {remark.subject}: {remark.detail}")
    if len(remarks) > 10:
        note(f"note: and {len(remarks) - 10} more, see --json")
