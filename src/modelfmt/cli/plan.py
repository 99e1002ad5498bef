"""`modelfmt plan`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from modelfmt.cli.options import plan_keywords, plan_options
from modelfmt.cli.output import as_json, emit, json_option, note, size_text, table

if TYPE_CHECKING:
    from modelfmt.plans import Plan

__all__ = ["plan", "show"]


@click.command(epilog="\b\nExample:\n  modelfmt plan ./Qwen3-0.6B qwen3-Q4_K_M.gguf")
@click.argument("source")
@click.argument("dest")
@plan_options
@click.option("--out", "-o", metavar="FILE", help="Save the plan, for `modelfmt run`.")
@click.option("--summary", is_flag=True, help="Only totals, not every tensor.")
@json_option
def plan(source: str, dest: str, **given: Any) -> None:
    """Lay out the conversion of SOURCE to DEST without reading a weight: every tensor, type, size, loss, and the
    memory."""
    import modelfmt

    planned = modelfmt.plan(source, dest, **plan_keywords(given))
    if given["out"]:
        from pathlib import Path

        Path(given["out"]).write_bytes(planned.to_bytes())
        note(f"saved {given['out']}; run it with: modelfmt run {given['out']}")
    show(planned, json=given["json"], all_tensors=not given["summary"])


def show(planned: Plan, *, json: bool, all_tensors: bool) -> None:
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
    from modelfmt.cli.convert import notes

    notes(planned.losses, planned.notes)
