"""`modelfmt scan`."""

from __future__ import annotations

import click

from modelfmt.cli.output import as_json, emit, json_option, note, one_line

__all__ = ["scan"]

_CODES = {"safe": 0, "dangerous": 8, "unknown": 9}


@click.command(
    epilog="\b\nExamples:\n  modelfmt scan pytorch_model.bin\n  modelfmt scan ./downloads --sarif > scan.sarif"
)
@click.argument("path")
@json_option
@click.option("--sarif", is_flag=True, help="Print the findings as SARIF 2.1.0.")
def scan(path: str, json: bool, sarif: bool) -> None:
    """Say what loading PATH (a file or a folder) would import and call, and where. Nothing is loaded."""
    import modelfmt
    from modelfmt.scanning.findings import sarif as as_sarif

    report = modelfmt.scan(path)
    if sarif:
        rows = ((file.path, finding) for file in report.files for finding in file.findings)
        emit(as_json(as_sarif(rows, modelfmt.__version__)))
    elif json:
        emit(as_json(report))
    else:
        for file in report.files:
            emit(f"{file.verdict:10}{one_line(file.path)}")
            for row in file.findings:
                where = f"{one_line(row.member)} " if row.member else ""
                what = one_line(f"{row.name}{row.arguments}: " if row.name else "")
                emit(f"  {row.verdict:10}{where}byte {row.offset}: {what}{one_line(row.reason)} [{row.rule}]")
    bad = [file for file in report.files if file.verdict != "safe"]
    note(f"{len(report.files)} files, {len(bad)} not safe: {report.verdict}")
    raise click.exceptions.Exit(_CODES[report.verdict])
