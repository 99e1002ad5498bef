"""`modelfmt convert` and `modelfmt quantize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from modelfmt.cli.options import plan_keywords, plan_options, run_options
from modelfmt.cli.output import json_option
from modelfmt.cli.progress import Meter
from modelfmt.cli.render import show_plan, show_report

__all__ = ["convert", "quantize"]

_EXAMPLES = """\b
Examples:
  modelfmt convert ./Qwen3-0.6B qwen3-Q4_K_M.gguf
  modelfmt convert ./Qwen3-0.6B out/ --to gguf -t Q8_0 -t Q4_K_M --imatrix imatrix.gguf
  modelfmt convert model.safetensors model-F16.safetensors
"""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    overwrite = click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
    dry_run = click.option("--dry-run", is_flag=True, help="Print the plan and stop, like `modelfmt plan`.")
    return plan_options(run_options(overwrite(dry_run(json_option(function)))))


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.argument("dest")
@_options
def convert(source: str, dest: str, **given: Any) -> None:
    """Convert SOURCE (a folder or a file) to DEST, in one pass.

    DEST's name says the format and, where it holds one, the type. For several types, DEST is a folder or has {type} in
    it. A run that was killed goes on when the same command is given again.
    """
    _convert(source, dest, given)


@click.command(epilog="\b\nExample:\n  modelfmt quantize model-BF16.gguf model-Q4_K_M.gguf")
@click.argument("source")
@click.argument("dest")
@_options
def quantize(source: str, dest: str, **given: Any) -> None:
    """Convert SOURCE, a GGUF or safetensors file, to other types in the same container."""
    from modelfmt.errors import UsageError
    from modelfmt.sources import detect

    kind = detect(source)
    if kind not in ("gguf", "safetensors"):
        raise UsageError(
            "this source has no container of its own",
            code="quantize-source",
            found=kind,
            allowed="gguf, safetensors",
            hint="use `modelfmt convert`",
        )
    given["to"] = given["to"] or kind
    _convert(source, dest, given)


def _convert(source: str, dest: str, given: dict[str, Any]) -> None:
    import modelfmt

    if given.pop("dry_run"):
        show_plan(modelfmt.plan(source, dest, **plan_keywords(given)), json=given["json"], all_tensors=True)
        return
    keywords = plan_keywords(given)
    quiet = given["quiet"]
    meter = Meter("none" if quiet else given["progress"])
    try:
        report = modelfmt.convert(
            source,
            dest,
            overwrite=given["overwrite"],
            threads=given["threads"],
            memory=given["memory"],
            on_event=meter,
            **keywords,
        )
    finally:
        meter.close()
    show_report(report, json=given["json"], quiet=quiet)
