"""`modelfmt convert` and `modelfmt quantize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from modelfmt.cli.options import plan_keywords, plan_options, run_options
from modelfmt.cli.output import json_option
from modelfmt.cli.progress import Meter
from modelfmt.cli.render import show_plan, show_report

__all__ = ["convert", "quantize", "run_conversion"]

_EXAMPLES = """\b
Examples:
  modelfmt convert ./Qwen3-0.6B qwen3-Q4_K_M.gguf
  modelfmt convert ./Qwen3-0.6B out/ --to gguf -t Q8_0 -t Q4_K_M --imatrix imatrix.gguf
  modelfmt convert ./Qwen3-0.6B mine.gguf --recipe mine.toml
  modelfmt convert ./Qwen3-0.6B qwen3-4.5bpw.gguf --target-bpw 4.5 --imatrix imatrix.gguf
  modelfmt convert model.safetensors model-F16.safetensors
  modelfmt convert pytorch_model.bin model.safetensors
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
    run_conversion(source, dest, given)


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
    _keep_container(dest, kind, given)
    _name_a_type(source, dest, given)
    run_conversion(source, dest, given)


def _keep_container(dest: str, kind: str, given: dict[str, Any]) -> None:
    from pathlib import Path

    from modelfmt.errors import UsageError
    from modelfmt.formats import FORMATS

    named = next((row.name for row in FORMATS.values() if Path(dest).suffix.lower() in row.suffixes), kind)
    if (given["to"] or kind) != kind or named != kind:
        raise UsageError(
            "quantize keeps the container",
            code="quantize-container",
            found=given["to"] or named,
            allowed=kind,
            hint="use `modelfmt convert`",
        )
    given["to"] = kind


def _name_a_type(source: str, dest: str, given: dict[str, Any]) -> None:
    import modelfmt
    from modelfmt.errors import UsageError

    overrides = ("quant", "recipe", "target_bpw", "tensor_type", "output_tensor_type", "token_embedding_type")
    if not any(given[name] for name in overrides) and modelfmt.plan(source, dest, to=given["to"]).recipe["quant"] == [
        "auto"
    ]:
        raise UsageError(
            "no type is named", code="type-missing", hint="say --quant TYPE; modelfmt types --files lists them"
        )


def run_conversion(source: str, dest: str, given: dict[str, Any]) -> None:
    """Convert, or with dry_run print the plan: what `convert`, `quantize` and `transcode` do."""
    import modelfmt

    if given.pop("dry_run"):
        planned = modelfmt.plan(source, dest, **plan_keywords(given))
        show_plan(planned, json=given["json"], all_tensors=not given["quiet"])
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
    show_report(report, json=given["json"], quiet=quiet, what_next=f"modelfmt inspect {report.outputs[0].path}")
