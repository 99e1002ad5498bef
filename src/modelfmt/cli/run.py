"""`modelfmt run` and `modelfmt finalize`: saved plans, in parts, on one machine or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfmt.cli.options import run_options
from modelfmt.cli.output import json_option
from modelfmt.cli.progress import Meter
from modelfmt.cli.render import show_report
from modelfmt.errors import SourceMissing, UsageError

if TYPE_CHECKING:
    from modelfmt.plans import Plan

__all__ = ["finalize", "run"]


_EXAMPLE = """\b
Example:
  modelfmt plan SRC DST -o big.plan
  modelfmt run big.plan --part 0/4        (1/4, 2/4, 3/4 elsewhere)
  modelfmt finalize big.plan
"""


@click.command(epilog=_EXAMPLE)
@click.argument("plan_file", metavar="PLAN")
@click.option("--part", metavar="I/N", help="Only part I of N, counted from 0; `modelfmt finalize` commits them all.")
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@run_options
@json_option
def run(plan_file: str, part: str | None, overwrite: bool, **given: Any) -> None:
    """Carry out PLAN, as `modelfmt plan -o` saved it."""
    import modelfmt
    from modelfmt.conversion import parse_size

    planned, wanted = _load(plan_file), _part(part)
    meter = Meter("none" if given["quiet"] else given["progress"])
    try:
        memory = parse_size(given["memory"])
        report = modelfmt.run(
            planned, overwrite=overwrite, part=wanted, threads=given["threads"], memory=memory, on_event=meter
        )
    finally:
        meter.close()
    what_next = f"run the other parts, then: modelfmt finalize {plan_file}" if part else ""
    show_report(report, json=given["json"], quiet=given["quiet"], part=part, what_next=what_next)


@click.command(epilog="\b\nExample:\n  modelfmt finalize big.plan")
@click.argument("plan_file", metavar="PLAN")
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@click.option("--quiet", "-q", is_flag=True, help="No summary.")
@json_option
def finalize(plan_file: str, overwrite: bool, quiet: bool, json: bool) -> None:
    """Commit PLAN once all its parts have been run."""
    import modelfmt

    planned = _load(plan_file)
    show_report(modelfmt.finalize(planned, overwrite=overwrite), json=json, quiet=quiet)


def _load(path: str) -> Plan:
    from modelfmt.plans import Plan

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceMissing("cannot read the plan", path=path, found=error.strerror) from error
    return Plan.from_bytes(data, path=path)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError("no such part", code="part", found=text, allowed="I/N with I from 0 to N - 1")
    return int(index), int(count)
