"""`modelfmt formats`."""

from __future__ import annotations

import click

from modelfmt.cli.output import as_json, emit, json_option, table

__all__ = ["formats"]


@click.command(epilog="\b\nExample:\n  modelfmt formats")
@json_option
def formats(json: bool) -> None:
    """List the formats, and whether each is read and written."""
    import modelfmt

    rows = modelfmt.formats()
    if json:
        keys = ("name", "suffixes", "reads", "writes", "summary")
        found = [{key: getattr(row, key) for key in keys} for row in rows]
        emit(as_json({"schema": "modelfmt.formats/1", "formats": found}))
        return
    cells = ((r.name, " ".join(r.suffixes), ", ".join(_ways(r.reads, r.writes)), r.summary) for r in rows)
    emit(table(cells, ("format", "files", "", "")))


def _ways(reads: bool, writes: bool) -> list[str]:
    return ["read"] * reads + ["write"] * writes
