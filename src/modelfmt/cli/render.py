"""Plans and reports for people: what several commands print."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from modelfmt.cli.output import as_json, emit, emit_path, note, one_line, size_text, table

if TYPE_CHECKING:
    from modelfmt.plans import Plan
    from modelfmt.report import Loss, Note, Report, TensorReport

__all__ = ["show_plan", "show_report"]

_SHOWN = 10


def show_plan(planned: Plan, *, json: bool, all_tensors: bool) -> None:
    """A plan as JSON, or as a table with totals."""
    rows = planned.table()
    outputs = [
        {"path": output.path, "size": output.size, "exists": os.path.lexists(output.path)} | mixture
        for output, mixture in zip(planned.outputs, planned.mixture(), strict=True)
    ]
    if json:
        totals = {
            "bytes_read": planned.bytes_read,
            "bytes_written": planned.bytes_written,
            "peak_memory": planned.peak_memory,
        }
        document = {"schema": "modelfmt.plan_summary/1", "hash": planned.hash, **totals, "outputs": outputs}
        emit(as_json(document | {"tensors": rows, "losses": planned.losses, "notes": planned.notes}))
        return
    if all_tensors:
        cells = [
            (r["name"], "x".join(map(str, r["shape"])), r["from"], r["to"], size_text(r["size"]), r["reason"])
            for r in rows
        ]
        emit(table(cells, ("tensor", "shape", "from", "to", "size", "why"), right=[4]))
    for found in outputs:
        _show_mixture(found)
    emit(
        f"reads {size_text(planned.bytes_read)}, writes {size_text(planned.bytes_written)}, "
        f"{size_text(planned.peak_memory)} for each job in flight"
    )
    _show_losses(planned.losses, planned.notes)
    for found in outputs:
        if found["exists"]:
            note(f"note: {one_line(found['path'])} exists: converting needs --overwrite")


def _show_mixture(output: Mapping[str, Any]) -> None:
    """One output: its size, bits per weight, and which type how many tensors have for which reason."""
    bits, quantized = output["bits_per_weight"], output["quantized_bits_per_weight"]
    facts = [size_text(output["size"])]
    facts += [] if bits is None else [f"{bits:.2f} bits per weight"]
    facts += [] if quantized in (None, bits) else [f"{quantized:.2f} where quantized"]
    emit(f"{one_line(output['path'])}  {', '.join(facts)}")
    if output["types"]:
        cells = (
            (f"  {r['type']}", r["tensors"], f"{r['weights']:,}", size_text(r["size"]), r["reason"])
            for r in output["types"]
        )
        emit(table(cells, ("  type", "tensors", "weights", "size", "why"), right=[1, 2, 3]))


def show_report(report: Report, *, json: bool, quiet: bool, part: str | None = None, what_next: str = "") -> None:
    """What a run did: JSON on stdout, or the paths on stdout and a few lines on stderr. part: it was only this one."""
    if json:
        emit(as_json(report))
        return
    if part is None:
        for output in report.outputs:
            emit_path(output.path)
    if quiet:
        return
    for output in report.outputs if part is None else ():
        tensors = [row for row in report.tensors if row.output == output.path]
        counted = f", {len(tensors)} tensors" if tensors else ""
        note(f"{size_text(output.size)}{_bits(tensors)}{counted}  {one_line(output.path)}")
    seconds = max(report.seconds, 1e-9)
    facts = [f"{'done' if part is None else f'part {part} done'} in {report.seconds:.1f} s"]
    if report.bytes_read:
        facts.append(f"read {size_text(report.bytes_read)} at {size_text(report.bytes_read / seconds)}/s")
        facts.append(f"wrote {size_text(report.bytes_written)} at {size_text(report.bytes_written / seconds)}/s")
    if report.resumed_jobs:
        facts.append(f"{report.resumed_jobs} of {report.jobs} jobs were done already")
    note(", ".join(facts))
    _show_losses(report.losses, report.notes)
    measured = [row for row in report.tensors if row.relative_rmse is not None]
    for row in sorted(measured, key=lambda row: -(row.relative_rmse or 0.0))[:5]:
        note(f"relative rmse {row.relative_rmse:.2e}  {row.encoding:8} {one_line(row.name)}")
    if what_next:
        note(f"next: {what_next}")


def _bits(tensors: Sequence[TensorReport]) -> str:
    n_weights = sum(prod(tensor.shape) for tensor in tensors)
    return f", {sum(tensor.size for tensor in tensors) * 8 / n_weights:.2f} bits per weight" if n_weights else ""


def _show_losses(losses: Sequence[Loss], remarks: Sequence[Note]) -> None:
    """Losses by kind, and notes by what they say, on stderr."""
    kinds: dict[str, list[Loss]] = {}
    for loss in losses:
        kinds.setdefault(loss.kind, []).append(loss)
    for kind, found in kinds.items():
        details = Counter(one_line(loss.detail) for loss in found).most_common(_SHOWN)
        listed = ", ".join(f"{detail} {n}" for detail, n in details) if len(found) > 1 else details[0][0]
        what = f"{len(found)} tensors" if len(found) > 1 else one_line(found[0].subject)
        note(f"loss: {kind} {what} ({listed})")
    said: dict[str, list[str]] = {}
    for remark in remarks:
        said.setdefault(remark.detail, []).append(remark.subject)
    for detail, subjects in list(said.items())[:_SHOWN]:
        others = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
        note(f"note: {one_line(subjects[0])}{others}: {one_line(detail)}")
    if len(said) > _SHOWN:
        note(f"note: and {len(said) - _SHOWN} more, see --json")
