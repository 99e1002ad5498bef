"""`modelfmt architectures`."""

from __future__ import annotations

import click

from modelfmt.cli.output import as_json, emit, json_option, table

__all__ = ["architectures"]


@click.command(epilog="\b\nExample:\n  modelfmt architectures")
@json_option
def architectures(json: bool) -> None:
    """List the architectures, and how each was checked.

    golden: equal to what llama.cpp's converter makes. graph: llama.cpp computes what transformers computes. back: the
    way back gives the original.
    """
    import modelfmt

    rows = modelfmt.architectures()
    if json:
        emit(as_json({"schema": "modelfmt.architectures/1", "architectures": rows}))
        return
    cells = ((row.gguf, " ".join(row.classes), " ".join(row.checked) or "-", row.back) for row in rows)
    emit(table(cells, ("GGUF", "classes", "checked", "back without carried keys")))
