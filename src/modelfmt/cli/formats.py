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
        found = [{"name": r.name, "suffixes": r.suffixes, "writes": r.writes, "summary": r.summary} for r in rows]
        emit(as_json({"schema": "modelfmt.formats/1", "formats": found}))
        return
    cells = ((r.name, " ".join(r.suffixes), "read, write" if r.writes else "read", r.summary) for r in rows)
    emit(table(cells, ("format", "files", "", "")))
