"""`modelfmt convert` and `modelfmt quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelfmt.cli.options import plan_keywords, plan_options, run_options
from modelfmt.cli.output import as_json, emit, json_option, note, size_text
from modelfmt.cli.progress import Meter

if TYPE_CHECKING:
    from modelfmt.report import Report

__all__ = ["convert", "quantize", "summary"]

_EXAMPLES = """\b
Examples:
  modelfmt convert ./Qwen3-0.6B qwen3-Q4_K_M.gguf
  modelfmt convert ./Qwen3-0.6B out/ --to gguf -t Q8_0 -t Q4_K_M --imatrix imatrix.gguf
  modelfmt convert model.safetensors model-F16.safetensors
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.argument("dest")
@plan_options
@run_options
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop, like `modelfmt plan`.")
@json_option
def convert(source: str, dest: str, **given: Any) -> None:
    """Convert SOURCE (a folder or a file) to DEST, in one pass.

    DEST's name says the format and, where it holds one, the type. For several types, DEST is a folder or has {type} in
    it. A run that was killed goes on when the same command is given again.
    """
    _convert(source, dest, given)


@click.command(epilog="\b\nExample:\n  modelfmt quantize model-BF16.gguf model-Q4_K_M.gguf")
@click.argument("source")
@click.argument("dest")
@plan_options
@run_options
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop, like `modelfmt plan`.")
@json_option
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
        from modelfmt.cli.plan import show

        show(modelfmt.plan(source, dest, **plan_keywords(given)), json=given["json"], all_tensors=True)
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
    summary(report, json=given["json"], quiet=quiet)


def summary(report: Report, *, json: bool, quiet: bool) -> None:
    """What a run did: JSON on stdout, or a few lines on stderr with the paths on stdout."""
    if json:
        emit(as_json(report))
        return
    for output in report.outputs:
        emit(output.path)
    if quiet:
        return
    seconds = max(report.seconds, 1e-9)
    for output in report.outputs:
        n_weights = sum(_product(row.shape) for row in report.tensors if row.output == output.path)
        bits = f", {output.size * 8 / n_weights:.2f} bits per weight" if n_weights else ""
        note(f"{size_text(output.size)}{bits}  {output.path}")
    rates = f"read {size_text(report.bytes_read)} at {size_text(report.bytes_read / seconds)}/s, "
    rates += f"wrote {size_text(report.bytes_written)} at {size_text(report.bytes_written / seconds)}/s"
    resumed = f", {report.resumed_jobs} of {report.jobs} jobs were done already" if report.resumed_jobs else ""
    note(f"done in {report.seconds:.1f} s: {rates}{resumed}")
    notes(report.losses, report.notes)
    measured = [row for row in report.tensors if row.relative_rmse is not None]
    for row in sorted(measured, key=lambda row: -(row.relative_rmse or 0.0))[:5]:
        note(f"relative rmse {row.relative_rmse:.2e}  {row.encoding:8} {row.name}")


def notes(losses: Any, remarks: Any) -> None:
    """Losses by kind, and the first notes, on stderr."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for loss in losses:
        kinds.setdefault((loss.kind, loss.detail), []).append(loss.subject)
    for (kind, detail), subjects in kinds.items():
        note(
            f"loss: {kind} {len(subjects)} x {detail}" if len(subjects) > 1 else f"loss: {kind} {subjects[0]}: {detail}"
        )
    for remark in remarks[:10]:
        note(f"note: {remark.subject}: {remark.detail}")
    if len(remarks) > 10:
        note(f"note: and {len(remarks) - 10} more, see --json")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
