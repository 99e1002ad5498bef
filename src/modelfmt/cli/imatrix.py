"""`modelfmt imatrix`: importance matrices as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelfmt.cli.output import as_json, emit, emit_path, json_option, note, one_line, table

if TYPE_CHECKING:
    from modelfmt.imatrix import EntryInfo

__all__ = ["imatrix"]

_EXAMPLES = """\b
Examples:
  modelfmt imatrix inspect imatrix.gguf
  modelfmt imatrix check imatrix.gguf ./Qwen3-0.6B
  modelfmt imatrix merge english.gguf german.dat -o both.gguf
"""
_SHOWN = 5


@click.group(epilog=_EXAMPLES)
def imatrix() -> None:
    """Show, merge, convert and check importance matrices, in llama.cpp's GGUF form and its legacy .dat form."""


@imatrix.command(
    epilog="\b\nExamples:\n  modelfmt imatrix inspect imatrix.dat\n"
    "  modelfmt imatrix inspect imatrix.gguf --json | jq '.entries[] | select(.unseen > 0)'"
)
@click.argument("file")
@click.option("--all", "every", is_flag=True, help="List every entry, not only the least and the most covered.")
@json_option
def inspect(file: str, every: bool, json: bool) -> None:
    """Show what is in FILE: entries, widths, experts, counts, datasets, and which were covered least and most."""
    from modelfmt.imatrix import inspect as look

    info = look(file)
    if json:
        emit(as_json(info))
        return
    chunks = f"{info.chunk_count} chunks" + (f" of {info.chunk_size} tokens" if info.chunk_size else "")
    emit(f"{one_line(info.path)}: {info.form}, {len(info.entries)} entries, {chunks}")
    emit(f"datasets: {', '.join(map(one_line, info.datasets)) or 'not said'}")
    rows = sorted(info.entries, key=lambda row: (row.least_tokens is not None, row.least_tokens or 0))
    if not every and len(rows) > 2 * _SHOWN:
        emit(_entries(rows[:_SHOWN]))
        emit(f"... {len(rows) - 2 * _SHOWN} more, see --all ...")
        rows = rows[-_SHOWN:]
    emit(_entries(rows))


def _entries(rows: list[EntryInfo]) -> str:
    cells = (
        (
            row.name,
            row.width,
            row.experts,
            "" if row.least_tokens is None else row.least_tokens,
            "" if row.most_tokens is None else row.most_tokens,
            row.problem or (f"{row.unseen} never seen" if row.unseen else ""),
        )
        for row in rows
    )
    return table(cells, ("entry", "width", "experts", "least", "most", ""), right=[1, 2, 3, 4])


@imatrix.command(
    epilog="\b\nExamples:\n  modelfmt imatrix merge a.gguf b.gguf -o both.gguf\n"
    "  modelfmt imatrix merge old.dat -o new.gguf"
)
@click.argument("files", nargs=-1, required=True)
@click.option("--out", "-o", required=True, metavar="FILE", help="Where to write; .gguf or .dat says the form.")
@click.option(
    "--chunk-size",
    type=click.IntRange(min=1),
    default=512,
    metavar="N",
    show_default=True,
    help="Tokens of a chunk, where .dat files, which do not say, meet the GGUF form.",
)
@click.option("--overwrite", "-y", is_flag=True, help="Replace the destination where it exists.")
@json_option
def merge(files: tuple[str, ...], out: str, chunk_size: int, overwrite: bool, json: bool) -> None:
    """Add the importance matrices FILES of one model; one file alone is converted to the form of its new name."""
    from modelfmt.imatrix import merge as add

    info = add(files, out, chunk_size=chunk_size, overwrite=overwrite)
    if json:
        emit(as_json(info))
        return
    emit_path(out)
    note(
        f"{len(info.entries)} entries, {info.chunk_count} chunks, from {', '.join(map(one_line, info.datasets)) or '?'}"
    )


@imatrix.command(epilog="\b\nExample:\n  modelfmt imatrix check imatrix.gguf ./Qwen3-0.6B && echo fits")
@click.argument("file")
@click.argument("model")
@json_option
@click.pass_context
def check(ctx: click.Context, file: str, model: str, json: bool) -> None:
    """Check FILE against MODEL, a checkpoint folder or a GGUF file; exit code 1 where something was found.

    Found are tensors without an entry, entries of no tensor, sizes that do not fit, values that are not finite or
    negative, and experts that no token reached. Names are those that the model's conversion to GGUF gives.
    """
    from modelfmt.imatrix import check as compare

    found = compare(file, model)
    if json:
        emit(as_json(found))
    else:
        if found.findings:
            emit(table((row.kind, row.name, row.detail) for row in found.findings))
        note(f"{found.covered} of {found.tensors} tensors that can be quantized have weights")
    ctx.exit(1 if found.findings else 0)
