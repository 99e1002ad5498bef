"""`modelfmt transcode`: quantized weights to another scheme as they are, and the table of what can go where."""

from __future__ import annotations

from typing import Any

import click

from modelfmt.cli.options import plan_options, run_options
from modelfmt.cli.output import as_json, emit, json_option, table
from modelfmt.errors import UsageError

__all__ = ["transcode"]

_EXAMPLES = """\b
Examples:
  modelfmt transcode --matrix
  modelfmt transcode ./Qwen3-8B-AWQ qwen3.gguf --dry-run
  modelfmt transcode ./Qwen3-8B-AWQ qwen3.gguf --transcode near:1e-3
  modelfmt transcode qwen3-Q4_0.gguf ./qwen3-mlx --to mlx
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source", required=False)
@click.argument("dest", required=False)
@click.option("--matrix", is_flag=True, help="Print which scheme can go where, and how exactly.")
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop: the verdict of every tensor.")
@plan_options
@run_options
@json_option
def transcode(source: str | None, dest: str | None, matrix: bool, **given: Any) -> None:
    """Move the quantized weights of SOURCE to DEST without quantizing them again: exactly, or within a stated bound.

    The same as `modelfmt convert` without a type. DEST is a GGUF file, or a folder of the scheme that --to names.
    """
    if matrix:
        _show(json=given["json"])
        return
    if source is None or dest is None:
        raise UsageError("nothing to move", code="transcode-arguments", allowed="SOURCE and DEST, or --matrix")
    from modelfmt.cli.convert import run_conversion

    run_conversion(source, dest, given)


def _show(*, json: bool) -> None:
    from modelfmt.routes import matrix

    rows = matrix.matrix()
    if json:
        emit(as_json({"schema": "modelfmt.transcode_matrix/1", "rows": rows}))
        return
    names = list(rows[0])
    emit(table([tuple(row.values()) for row in rows], tuple(names)))
