"""`modelfmt plan`."""

from __future__ import annotations

from typing import Any

import click

from modelfmt.cli.options import plan_keywords, plan_options
from modelfmt.cli.output import json_option, note
from modelfmt.cli.render import show_plan

__all__ = ["plan"]

_EXAMPLES = """\b
Examples:
  modelfmt plan ./Qwen3-0.6B qwen3-Q4_K_M.gguf
  modelfmt plan ./Qwen3-0.6B qwen3-Q4_K_M.gguf --summary
  modelfmt plan ./Qwen3-0.6B qwen3.gguf --target-bpw 4.5 --summary
  modelfmt plan ./big big-Q4_K_M.gguf --split-size 40G -o big.plan
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.argument("dest")
@plan_options
@click.option("--out", "-o", metavar="FILE", help="Save the plan, for `modelfmt run`.")
@click.option("--overwrite", "-y", is_flag=True, help="Replace FILE where it exists.")
@click.option("--summary", is_flag=True, help="Only totals, not every tensor.")
@json_option
def plan(source: str, dest: str, **given: Any) -> None:
    """Lay out the conversion of SOURCE to DEST without reading a weight: every tensor, type, size, loss, the mixture of
    types with its reasons, and the memory. Only a target of bits per weight reads samples of the weights."""
    import modelfmt

    planned = modelfmt.plan(source, dest, **plan_keywords(given))
    if given["out"]:
        _save(planned.to_bytes(), given["out"], overwrite=given["overwrite"])
    show_plan(planned, json=given["json"], all_tensors=not given["summary"])
    if given["out"]:
        note(f"next: modelfmt run {given['out']}")


def _save(data: bytes, path: str, *, overwrite: bool) -> None:
    from pathlib import Path

    from modelfmt.errors import OutputError
    from modelfmt.storage.outputs import check_destination

    check_destination(path, overwrite=overwrite)
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise OutputError("cannot write the plan", code="write-failed", path=path, found=error.strerror) from error
