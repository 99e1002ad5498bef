"""`modelfmt plan`."""

from __future__ import annotations

from typing import Any

import click

from modelfmt.cli.options import plan_keywords, plan_options
from modelfmt.cli.output import json_option, note
from modelfmt.cli.render import show_plan

__all__ = ["plan"]


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
    show_plan(planned, json=given["json"], all_tensors=not given["summary"])
